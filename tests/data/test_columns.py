"""How columns of ids, numbers, labels, times, bags and kinds of event are read, and which values are refused."""

from __future__ import annotations

import datetime
import decimal
import uuid
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrec.data.reading import columns
from jaxrec.data.reading.columns import BETWEEN, bracketed, plausible_range, read_bags, read_times
from jaxrec.data.reading.table import Field, Table, load, open_table
from jaxrec.errors import UserError

MOMENT = 1_700_000_550_000  # 2023-11-14 22:22:30 UTC, in ms
DAY = MOMENT // 86_400_000 * 86_400_000


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


label_field = partial(columns.number_field, label=True)


def column(duck: Any) -> list[Any]:
    return [None if one != one else one for (one,) in duck.execute("SELECT y FROM raw ORDER BY rowid").fetchall()]


UUID = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@pytest.mark.parametrize(("values", "ids", "notes"), [
    (["7.0", "8.0", "12"], [7, 8, 12], 1), (pa.array([7.0, 1e15]), [7, 10**15], 1),
    (pa.array([decimal.Decimal("7.00")]), [7], 1), (["007", "8"], ["007", "8"], 0), (["7.0", "a"], ["7.0", "a"], 0),
    ([" a", "b\t", "\u00a0a"], ["a", "b", "a"], 1), (["+7", "8"], ["+7", "8"], 0), ([" -7", "8"], [-7, 8], 1),
    ([f"{-(2**63)}.0", f"{2**63 - 1}"], [-(2**63), 2**63 - 1], 1), ([str(2**63), "1"], [str(2**63), "1"], 0),
    (pa.array([2**63, 1], pa.uint64()), [str(2**63), "1"], 0), (pa.array([True, False]), ["true", "false"], 0),
    (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], 0),
    (pa.array([datetime.date(2024, 1, 2)]), ["2024-01-02"], 0),
    (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID.bytes], pa.binary(16))), [str(UUID)], 0),
])  # fmt: skip
def test_ids_of_every_type(duck: Any, tmp_path: Path, values: Any, ids: list[Any], notes: int) -> None:
    read(duck, tmp_path, values, columns.id_field, None)
    assert len(columns.whole_column(duck, "y", "column 'x'")) == notes
    assert column(duck) == ids and [type(one) for one in column(duck)] == [type(one) for one in ids]


def test_na_says_what_stands_for_nothing(duck: Any, tmp_path: Path) -> None:
    assert read(duck, tmp_path, ["NA", "DE"], columns.id_field, []) == ["NA", "DE"]
    read(duck, tmp_path, ["NA", " - ", "5"], columns.id_field, ["NA", "-"], True)
    columns.whole_column(duck, "y", "column 'x'")
    assert column(duck) == [None, None, 5]


@pytest.mark.parametrize(("field", "values", "more", "expected"), [
    ("number_field", ["NA", "nan", " NULL ", "None", r"\N", "<NA>", "", " "], [None], [None] * 8),
    ("number_field", ["1", " 2.5", "\t-3e2 ", "+4", "\u00a05"], [None], [1, 2.5, -300, 4, 5]),
    ("number_field", ["1", "?", "NA", " - "], [["?", "-"]], [1, None, None, None]),
    ("number_field", pa.array([0.1, float("nan"), None], pa.float32()), [None], [float(np.float32(0.1)), None, None]),
    ("label", ["True", "FALSE ", "t", "yes", "No", "1.0", " 0 ", "-2.5"], [None], [1, 0, 1, 1, 0, 1, 0, -2.5]),
], ids=str)  # fmt: skip
def test_numbers(duck: Any, tmp_path: Path, field: str, values: Any, more: list[Any], expected: list[Any]) -> None:
    read(duck, tmp_path, values, label_field if field == "label" else getattr(columns, field), *more)
    assert column(duck) == expected


def test_types_of_event(duck: Any, tmp_path: Path) -> None:
    def chosen(wanted: list[str] | None) -> tuple[list[str], int]:
        table = opened(duck, tmp_path, ["view", "cart", " view ", "buy", ""])
        load(duck, table, [columns.type_field(table, "x", None)], drop_invalid=True)
        return columns.choose_types(duck, table, "x", wanted)

    assert chosen(None) == (["view", "buy", "cart"], 0)
    assert chosen(["cart", "view"]) == (["cart", "view"], 1)
    assert duck.execute("SELECT event FROM raw ORDER BY rowid").fetchall() == [(1,), (0,), (1,)]
    with pytest.raises(UserError, match=r"--events 'vew': .*column 'x' .did you mean 'view'.*view, buy, cart"):
        chosen(["vew"])


@pytest.mark.parametrize(("field", "values", "message"), [
    *((columns.id_field, ["a", one], "expected an id") for one in ("NULL", r"\N", " ")),
    (columns.id_field, pa.array([1.0, 2.5]), "'2.5', expected an id"),
    *((columns.number_field, ["1", one], "expected a number") for one in ("1,5", "2e30", "7_9")),
    *((label_field, ["1", one], "expected a number") for one in ("NA", "maybe")),
])  # fmt: skip
def test_values_that_are_refused(duck: Any, tmp_path: Path, field: Any, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"row 2, column 'x': found.*{message}"):
        read(duck, tmp_path, values, field, None)


def times_of(duck: Any, folder: Path, values: Any, unit: str = "auto", form: str | None = None) -> tuple[str, Any]:
    """The unit found, and the column in ms."""
    table = opened(duck, folder, values)
    unit, field = read_times(duck, table, "x", Namespace(time_unit=unit, time_format=form))
    load(duck, table, [replace(field, name="y")])
    return unit, column(duck)


def stamp(kind: str, zone: str | None = None) -> pa.Array:
    return pa.array([datetime.datetime(2023, 11, 14, 22, 22, 30)], pa.timestamp(kind, zone))


@pytest.mark.parametrize(("unit", "more", "values", "expected"), [
    ("s", (), ["1700000550.25"], [MOMENT + 250]),
    ("ms", (), ["1700000550000", "1.70000055E12"], [MOMENT, MOMENT]),
    ("iso", (), ["2023-11-14 22:22:30.000", "2023-11-14T23:22:30.5+01:00", "2023/11/14", " 2023-11-14T22:22:30Z "],
     [MOMENT, MOMENT + 500, DAY, MOMENT]),
    ("format", ("auto", "%d/%m/%Y %H:%M:%S"), ["14/11/2023 22:22:30", "01/12/2023 00:00:00"],
     [MOMENT, DAY + 17 * 86_400_000]),
    ("order", ("order",), ["3", "1", "20231114"], [3, 1, 20231114]),
    *(("iso", (), values, [MOMENT]) for values in (stamp("s"), stamp("ns"), stamp("ms", "Europe/Berlin"))),
    ("iso", (), pa.array([datetime.date(2023, 11, 14)]), [DAY]),
    ("format", ("auto", "%Y%m%d"), pa.array([20231114], "i4"), [DAY]),
    ("format", ("auto", "%Y%m%d%H%M%S"), pa.array([20231114222230.0]), [MOMENT]),
])  # fmt: skip
def test_times(duck: Any, tmp_path: Path, unit: str, more: Any, values: Any, expected: list[int]) -> None:
    assert times_of(duck, tmp_path, values, *more) == (unit, expected)


@pytest.mark.parametrize(("values", "more", "message"), [
    (["1700000550", "1700000550000"], (), "row 2, column 'x': found '1700000550000', expected a time in s"),
    (["14/13/2023"], ("auto", "%d/%m/%Y"), "row 1, column 'x': found '14/13/2023', expected a time written %d"),
    (stamp("s"), ("ms",), "leave out --time-unit"),
])  # fmt: skip
def test_times_that_are_refused(duck: Any, tmp_path: Path, values: Any, more: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        times_of(duck, tmp_path, values, *more)


HOURS = st.integers(*(edge // 3_600_000 + step for edge, step in zip(plausible_range(), (1, -1), strict=True)))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(HOURS, min_size=1, max_size=4), st.sampled_from(["s", "ms", "us", "ns", "iso"]))
def test_every_time_comes_back(duck: Any, tmp_path: Path, hours: list[int], unit: str) -> None:
    times = [hour * 3_600_000 for hour in hours]
    scale = {"s": 1e-3, "ms": 1, "us": 1000, "ns": 1_000_000}

    def text(time: int) -> str:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=time)
        return str(int(time * scale[unit])) if unit in scale else moment.isoformat()

    assert times_of(duck, tmp_path, [text(time) for time in times]) == (unit, times)


def test_bags() -> None:
    def bags(texts: Sequence[str | None], separator: str = "|", na: Sequence[str] | None = None) -> Any:
        return read_bags(texts, separator, na)

    assert bags(["a| b ||a", None, "", "[x", "NA"], na=["NA"]) == [["a", "b", "a"], [None], [None], ["[x"], [None]]
    assert bags([f"a|b{BETWEEN}['c']", "['d']"], BETWEEN) == [["a|b", "['c']"], ["['d']"]]
    assert bracketed(["['b']", None, "NA", "[x", " ['a', 'b'] "], ["NA"]) == (3, 2)
