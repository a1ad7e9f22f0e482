"""How columns of ids, numbers, labels, times and bags are read, and which values are refused."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrec.data.reading.bags import BETWEEN, parse_list, read_bags
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.files import load, open_table
from jaxrec.data.reading.ids import id_field, marker_notes, whole_column
from jaxrec.data.reading.logs import event_field, keep_events, order_field, order_numbers, session_field
from jaxrec.data.reading.numbers import label_field, number_field
from jaxrec.data.reading.rows import leave_out_repeated, note_repeated
from jaxrec.data.reading.table import Table
from jaxrec.data.reading.times import CALENDARS, plausible_range, read_times
from jaxrec.errors import UserError

MOMENT = 1_700_000_550_000  # 2023-11-14 22:22:30 UTC, in ms
DAY = MOMENT // 86_400_000 * 86_400_000
PROPERTY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(duck: Any, folder: Path, values: Any) -> Table:
    """A file with the column ``x``: CSV where the values are a list, otherwise Parquet."""
    if isinstance(values, list):
        (folder / "f").write_text("k,x\n" + "".join(f'0,"{value}"\n' for value in values), encoding="utf-8")
    else:
        pq.write_table(pa.table({"x": values}), folder / "f")
    duck.execute("DROP TABLE IF EXISTS raw")
    return open_table(duck, folder / "f")


def read(duck: Any, folder: Path, values: Any, make: Callable[..., Field], *more: Any) -> list[Any]:
    """What the column becomes in the table ``raw``, by the field that ``make`` makes of it; NaN as None."""
    table = opened(duck, folder, values)
    load(duck, table, [make(table, "y", "x", *more)])
    return column(duck)


def column(duck: Any) -> list[Any]:
    return [None if one != one else one for (one,) in duck.execute("SELECT y FROM raw ORDER BY rowid").fetchall()]


def parquet(values: Any) -> Any:
    return pa.array(values) if isinstance(values, list) else values


# --- ids --------------------------------------------------------------------------------------------------------------

BIG = 2**63
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.mark.parametrize(("values", "ids", "note"), [
    (["7.0", "8.0", "12"], [7, 8, 12], "written with .0 in 2 rows"),
    (pa.array([7.0, 1e15]), [7, 10**15], "written with .0 in 2 rows"),
    (pa.array([7.0], pa.float32()), [7], "written with .0"),
    (pa.array([decimal.Decimal("7.00")]), [7], "written with .0"),
    (pa.array([decimal.Decimal(7)]), [7], None),
    (["007", "8"], ["007", "8"], None), (["007.0", "8.0"], ["007.0", "8.0"], None),
    (["7.0", "a"], ["7.0", "a"], None), (["7.5", "8.0"], ["7.5", "8.0"], None),
    ([" a", "b\t", "\u00a0a"], ["a", "b", "a"], "spaces around 3 values"), ([" 7 ", "8"], [7, 8], "around 1 values"),
    (["+7", "8"], ["+7", "8"], None), (["-7", "8"], [-7, 8], None),
    (pa.array([BIG, 1], pa.uint64()), [str(BIG), "1"], None), (pa.array([5, 1], pa.uint64()), [5, 1], None),
    ([str(BIG), "1"], [str(BIG), "1"], None), (pa.array([True, False]), ["true", "false"], None),
    (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], None), (pa.array([1, 2], pa.int8()), [1, 2], None),
    (pa.array([datetime.date(2024, 1, 2)]), ["2024-01-02"], None),
    (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(UUID).bytes], pa.binary(16))), [UUID], None),
])  # fmt: skip
def test_ids_of_every_type(duck: Any, tmp_path: Path, values: Any, ids: list[Any], note: str | None) -> None:
    read(duck, tmp_path, parquet(values), id_field, None)
    notes = whole_column(duck, "y", "column 'x'")
    assert column(duck) == ids and [type(one) for one in column(duck)] == [type(one) for one in ids]
    assert len(notes) == (note is not None) and (note is None or note in notes[0])


@pytest.mark.parametrize(("values", "message"), [
    *((["a", one], f"row 2, column 'x': found '{one}', expected an id")
      for one in ("nan", "NULL", "None", "NA", "<NA>", "N/A", r"\\N", " ")),
    (["a", None], "row 2, column 'x': found nothing"),
    (pa.array([1.0, 2.5]), "row 2, column 'x': found '2.5', expected an id, a whole number"),
    (pa.array([1.0, float("nan")]), "found 'nan'"), (pa.array([1.0, float("inf")]), "found 'inf'"),
    (pa.array([decimal.Decimal("1.50")]), "row 1, column 'x': found '1.50'"),
    (pa.array([[1]]), "column 'x' is of type"), (pa.array([{"a": 1}]), "column 'x' is of type STRUCT"),
    (pa.array([b"a"]), "of type BLOB"), (pa.array([datetime.time(1)]), "of type TIME"),
])  # fmt: skip
def test_ids_that_are_refused(duck: Any, tmp_path: Path, values: Any, message: str) -> None:
    values = [one.replace("\\\\", "\\") if isinstance(one, str) else one for one in values] if isinstance(
        values, list) else values  # fmt: skip
    with pytest.raises(UserError, match=message):
        read(duck, tmp_path, parquet(values), id_field, None)


def test_na_says_what_stands_for_nothing(duck: Any, tmp_path: Path) -> None:
    assert read(duck, tmp_path, ["NA", "DE"], id_field, []) == ["NA", "DE"]
    assert "'NA' stands in 1 rows" in marker_notes(duck, "y", "column 'x'")[0]
    read(duck, tmp_path, ["NA", " - ", "5"], id_field, ["NA", "-"], True)
    whole_column(duck, "y", "column 'x'")
    assert column(duck) == [None, None, 5]
    with pytest.raises(UserError, match="found 'NA', expected an id"):
        read(duck, tmp_path, ["DE", "NA"], id_field, ["NA"])


@PROPERTY
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), st.booleans())
def test_integers_come_back(duck: Any, tmp_path: Path, values: list[int], dotted: bool) -> None:
    read(duck, tmp_path, pa.array([f"{value}.0" if dotted else f" {value}" for value in values]), id_field, None)
    whole_column(duck, "y", "column 'x'")
    assert column(duck) == values


# --- numbers and labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "na", "numbers"), [
    (["NA", "nan", " NULL ", "None", r"\N", "N/A", "#N/A", "<NA>", "NaT", "", " "], None, [None] * 11),
    (["1", " 2.5", "\t-3e2 ", "+4", "\u00a05"], None, [1, 2.5, -300, 4, 5]),
    (["1", "?", "NA", " - "], ["?", "-"], [1, None, None, None]), (["1", "NA"], [], [1, None]),
    (pa.array(["7", "na", None]), None, [7, None, None]),
    (pa.array([0.1, float("nan"), None], pa.float32()), None, [float(np.float32(0.1)), None, None]),
    (pa.array([decimal.Decimal("1.50"), None]), None, [1.5, None]), (pa.array([True, False, None]), None, [1, 0, None]),
    (pa.array([2**60, None], pa.uint64()), None, [2**60, None]),
], ids=str)  # fmt: skip
def test_numbers(duck: Any, tmp_path: Path, values: Any, na: Any, numbers: list[Any]) -> None:
    assert read(duck, tmp_path, values, number_field, na) == numbers


@pytest.mark.parametrize(("values", "labels"), [
    (["True", "False", "TRUE ", " false"], [1, 0, 1, 0]), (["t", "F", "yes", "No", "Y", "n"], [1, 0, 1, 0, 1, 0]),
    (["0", "1", "true", "1.0", " 0 "], [0, 1, 1, 1, 0]), (["5", "-2.5"], [5, -2.5]), (pa.array([True, False]), [1, 0]),
    (pa.array([1, 0], pa.int8()), [1, 0]), (pa.array(["no", "YES"]), [0, 1]),
], ids=str)  # fmt: skip
def test_labels(duck: Any, tmp_path: Path, values: Any, labels: list[float]) -> None:
    assert read(duck, tmp_path, values, label_field, None) == labels


@pytest.mark.parametrize(("field", "value", "na"), [
    *((number_field, value, None) for value in ("NAN1", "1,5", "inf", "2e30", "true", "N A", "?", r"\\N")),
    *((label_field, value, ["10"]) for value in ("NA", r"\N", "", "maybe", "nan", "inf", "10", "truee")),
])  # fmt: skip
def test_numbers_and_labels_that_are_none(duck: Any, tmp_path: Path, field: Any, value: str, na: Any) -> None:
    with pytest.raises(UserError, match=r"row 2, column 'x': found .*, expected a number of at most 1e\+30"):
        read(duck, tmp_path, pa.array(["1", value]), field, na)


# --- times ------------------------------------------------------------------------------------------------------------


def times_of(duck: Any, folder: Path, values: Any, unit: str = "auto", form: str | None = None) -> tuple[str, Any]:
    """The unit found, and the column in ms."""
    table = opened(duck, folder, values)
    times = read_times(duck, table, "x", unit, form)
    load(duck, table, [Field("y", "x", times.parse, times.expected)])
    return times.unit, column(duck)


def stamp(kind: str, zone: str | None = None) -> pa.Array:
    return pa.array([datetime.datetime(2023, 11, 14, 22, 22, 30)], pa.timestamp(kind, zone))


@pytest.mark.parametrize(("unit", "more", "values", "expected"), [
    ("yyyymmddhhmmss", (), ["20231114222230", "20231114222231"], [MOMENT, MOMENT + 1000]),
    ("yyyymmddhhmm", (), ["202311142222", "202311142223"], [MOMENT - 30_000, MOMENT + 30_000]),
    ("yyyymmddhh", (), ["2023111422"], [DAY + 22 * 3_600_000]),
    ("yyyymmdd", (), ["20231114", "20231115", "20231114.0"], [DAY, DAY + 86_400_000, DAY]),
    ("s", (), ["1700000550", "1700000550.25"], [MOMENT, MOMENT + 250]),
    ("ms", (), ["1700000550000", "1.70000055E12"], [MOMENT, MOMENT]),
    ("us", (), ["1700000550000000"], [MOMENT]), ("ns", (), ["1700000550000000000"], [MOMENT]),
    ("iso", (), ["2023-11-14 22:22:30.000", "2023-11-14T23:22:30.5+01:00", "2023/11/14", " 2023-11-14T22:22:30Z "],
     [MOMENT, MOMENT + 500, DAY, MOMENT]),
    ("format", ("auto", "%d/%m/%Y %H:%M:%S"), ["14/11/2023 22:22:30", "01/12/2023 00:00:00"],
     [MOMENT, DAY + 17 * 86_400_000]),
    ("format", ("auto", "%d.%m.%y"), ["14.11.23"], [DAY]),
    ("order", ("order",), ["3", "1", "20231114"], [3, 1, 20231114]),
    *(("iso", (), values, [MOMENT]) for values in (stamp("s"), stamp("ns"), stamp("ms", "Europe/Berlin"))),
    ("iso", (), pa.array([datetime.date(2023, 11, 14)]), [DAY]), ("yyyymmdd", (), pa.array([20231114], "i4"), [DAY]),
    ("yyyymmddhhmmss", (), pa.array([20231114222230], pa.uint64()), [MOMENT]),
    ("yyyymmddhhmmss", (), pa.array([20231114222230.0]), [MOMENT]),
    ("s", (), pa.array([1700000550.25]), [MOMENT + 250]),
    ("iso", (), pa.array(["2023-11-14 22:22:30"]).dictionary_encode(), [MOMENT]),
])  # fmt: skip
def test_times(duck: Any, tmp_path: Path, unit: str, more: Any, values: Any, expected: list[int]) -> None:
    assert times_of(duck, tmp_path, values, *more) == (unit, expected)


@pytest.mark.parametrize(("values", "more", "message"), [
    (["1700000550", "1700000550000"], (), "row 2, column 'x': found '1700000550000', expected a number of s since"),
    (["1700000550000", "1700000550"], (), "row 2, column 'x': found '1700000550', expected a number of ms since"),
    (["1700000550", "20231114"], (), "row 2"), (["20231114", "20231114222230"], (), "row 2"),
    (["20231114", "20231314"], (), "row 2, column 'x': found '20231314', expected digits yyyymmdd"),
    (["2023-11-14", "14/11/2023"], (), "row 2, column 'x': found '14/11/2023', expected a time like 2014"),
    (["2023-11-14", "1700000550"], (), "row 2"), (["2023-11-14", "2123-11-14"], (), "row 2"),
    (["14/11/2023"], (), "found '14/11/2023', no time between 1980 and .* --time-format"),
    *(([one], (), f"found '{one}', no time between") for one in ("23-11-14", "231114", "17", "1979-12-31")),
    *((["1700000550", one], (), f"row 2, column 'x': found '{one}'") for one in ("0", "-1700000550", "inf")),
    (["20231114222230"], ("ms",), "row 1, column 'x': found '20231114222230', expected a number of ms"),
    (["1.5"], ("order",), "row 1, column 'x': found '1.5', expected a whole number"),
    (["14/13/2023"], ("auto", "%d/%m/%Y"), "row 1, column 'x': found '14/13/2023', expected a time written %d"),
    (["14/11/2023"], ("auto", "%Q"), "--time-format '%Q': .*%Q; give one such as"),
    (["14/11/2023"], ("iso", "%d/%m/%Y"), "--time-format: says what --time-unit would"),
    (stamp("s"), ("ms",), "leave out --time-unit"), (pa.array([datetime.time(1)]), (), "column 'x' is of type"),
    (pa.array([True]), (), "column 'x' is of type"), (pa.array([[1]]), (), "column 'x' is of type"),
])  # fmt: skip
def test_times_that_are_refused(duck: Any, tmp_path: Path, values: Any, more: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        times_of(duck, tmp_path, values, *more)


@PROPERTY
@given(st.lists(st.integers(*(edge // 3_600_000 + step for edge, step in zip(plausible_range(), (1, -1), strict=True))),
                min_size=1, max_size=4),
       st.sampled_from(["s", "ms", "us", "ns", "iso", *CALENDARS]))  # fmt: skip
def test_every_time_comes_back(duck: Any, tmp_path: Path, hours: list[int], unit: str) -> None:
    step = 24 if unit == "yyyymmdd" else 1
    times = [hour // step * step * 3_600_000 for hour in hours]
    scale = {"s": 1e-3, "ms": 1, "us": 1000, "ns": 1_000_000}

    def text(time: int) -> str:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=time)
        if unit in CALENDARS:
            return moment.strftime("%Y%m%d%H%M%S")[: CALENDARS[unit]]
        return str(int(time * scale[unit])) if unit in scale else moment.isoformat()

    assert times_of(duck, tmp_path, [text(time) for time in times]) == (unit, times)


# --- bags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "values"), [
    ("['red', 'big']", ["red", "big"]), ('["red", "big"]', ["red", "big"]), ("('red', 'big')", ["red", "big"]),
    ("""['it\\'s', "a, b", 'c|d']""", ["it's", "a, b", "c|d"]), ("{'red'}", ["red"]), ("[1, 2]", ["1", "2"]),
    ('["1.50", null, true, ""]', ["1.50", "true"]), ("[]", []), (r"['a\d', 'b']", [r"a\d", "b"]),
    *((text, None) for text in ("['a', None, nan]", "['a' 'b']", "[1 2]", "[['a'], 'b']", "{'a': 1}", "['a'",
                                "[" * 5000 + "]" * 5000, "[__import__('os')]")),
])  # fmt: skip
def test_lists_in_text(text: str, values: list[str] | None) -> None:
    assert parse_list(text) == values


def bags(texts: Sequence[str | None], separator: str = "|", na: Sequence[str] | None = None) -> tuple[Any, list[str]]:
    notes: list[str] = []
    place = "f.csv: row {}, column 'tags'"
    by = np.arange(len(texts))
    return read_bags(texts, by, separator, na, lambda row: place.format(row + 1), "column 'tags'", notes), notes


def test_bags() -> None:
    assert bags(["a| b ||a", None, "", "[x"]) == ([["a", "b", "a"], [None], [None], ["[x"]], [])
    found, notes = bags(["['a', 'b|c']", None, "[]", '["NA"]'], na=["NA"])
    assert found == [["a", "b|c"], [None], [None], [None]] and "are read as lists" in notes[0]
    assert bags([f"a|b{BETWEEN}['c']", "['d']"], BETWEEN)[0] == [["a|b", "['c']"], ["['d']"]]
    for texts in (["b", "['a']"], ["['b']", "['a' 'b']"]):
        with pytest.raises(UserError, match=r"f.csv: row 2, column 'tags': found \"\['a'.*\]\", (a|no) list"):
            bags(texts)


# --- logs -------------------------------------------------------------------------------------------------------------


def test_keys_of_several_columns(duck: Any, tmp_path: Path) -> None:
    pairs = {"x": ["1", "12", " 1 ", "1"], "z": [23.0, 3.0, 23.0, None]}
    pq.write_table(pa.table(pairs), tmp_path / "keys")
    table = open_table(duck, tmp_path / "keys")
    duck.execute("DROP TABLE IF EXISTS raw")
    with pytest.raises(UserError, match=r"row 4, column 'x': .* in each of x, z"):
        load(duck, table, [session_field(table, ["x", "z"], None)])
    duck.execute("DROP TABLE raw")
    load(duck, table, [session_field(table, ["x", "z"], None)], drop_invalid=True)
    keys = [key for (key,) in duck.execute("SELECT session FROM raw ORDER BY input_row").fetchall()]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(("texts", "numbers"), [
    (["1.5", "-2", "1e1"], [1.5, -2, 10]), (["+3", " 2", "10"], [3, 2, 10]),
    ([str(2**53 + 1), str(2**53)], [2**53 + 1, 2**53]),
])  # fmt: skip
def test_numbers_that_order(duck: Any, tmp_path: Path, texts: list[str], numbers: list[float]) -> None:
    read(duck, tmp_path, texts, order_field)
    order_numbers(duck, ["y"])
    assert column(duck) == numbers
    with pytest.raises(UserError, match=r"row 2, column 'x': found '' \(2 such rows\), expected a number that orders"):
        read(duck, tmp_path, pa.array(["1", "", "nan"]), order_field)


def test_kinds_of_event(duck: Any, tmp_path: Path) -> None:
    notes: list[str] = []

    def keep(kinds: Sequence[str] | None) -> int:
        table = opened(duck, tmp_path, ["view", "cart", " view ", "buy", ""])
        load(duck, table, [event_field(table, "event", "x")])
        return keep_events(duck, table, "x", kinds, notes)

    assert keep(["view", "cart"]) == 2
    assert notes == ["column 'x': kept view 2, cart 1; left out nothing 1, buy 1"]
    with pytest.raises(UserError, match="column 'x' holds view 2, nothing 1, buy 1, cart 1; say with --events"):
        keep(None)
    with pytest.raises(UserError, match=r"'vew': no such event .*\(did you mean 'view'\?\); it holds"):
        keep(["vew"])


BAD = "u,t\n,oops\na,2024-01-01\na,2024-01-01\nb,2024-01-02\na,nan\n"


def test_rows_that_cannot_be_used_or_say_the_same(duck: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(BAD)

    def loaded(drop: bool | None) -> Any:
        duck.execute("DROP TABLE IF EXISTS raw")
        table = open_table(duck, tmp_path / "a.csv")
        times = read_times(duck, table, "t", "iso", None)
        fields = [id_field(table, "y", "u", None), Field("time", "t", times.parse, times.expected)]
        return load(duck, table, fields, drop)

    for drop, ways in ((None, "5 rows$"), (False, "--drop-invalid$")):
        with pytest.raises(UserError, match="row 1, column 'u': found nothing, expected an id.*row 1, column 't': "
                                            rf"found 'oops' \(2 such rows\).*remove 2 of .*{ways}"):  # fmt: skip
            loaded(drop)
    found = loaded(True)
    assert found.invalid == 2 and "left out 2 of 5 rows" in found.notes[0] and column(duck) == ["a", "a", "b"]
    assert found.read_without(1) == {"rows": 5, "files": 1, "invalid_rows": 2, "repeated_rows": 1}
    assert "1 row says the same" in note_repeated(duck, ["y", "time"])[0]
    assert leave_out_repeated(duck, ["y", "time"]) == 1 and column(duck) == ["a", "b"]
    (tmp_path / "a.csv").write_text("u,t\na,x\n")
    with pytest.raises(UserError, match=r"a.csv: --drop-invalid leaves nothing of 1 rows"):
        loaded(True)


def test_no_join_upsets_the_order_of_the_rows(duck: Any, tmp_path: Path) -> None:
    table = opened(duck, tmp_path, ["1"])
    ((_, plan),) = duck.execute(
        f"EXPLAIN SELECT {id_field(table, 'y', 'x', None).parse(table.columns['x'][0])} FROM {table.relation}"
    ).fetchall()
    assert "CSV" in plan.upper() and "JOIN" not in plan.upper()
