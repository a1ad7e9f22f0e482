"""How columns of ids, categories and bags become integers or text, and what is said of it."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call, fails
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.config import parse
from jaxrec.data.dataset import open_dataset
from jaxrec.data.reading.bags import BETWEEN, parse_list, read_bags
from jaxrec.data.reading.duck import connect
from jaxrec.data.reading.files import load, open_table
from jaxrec.data.reading.ids import id_field, whole_column
from jaxrec.errors import UserError
from jaxrec.tasks.base import make_task


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with connect(tmp_path_factory.mktemp("spill"), threads=1) as connection:
        yield connection


def ids_of(
    duck: Any, file: Path, values: Any, na: Sequence[str] | None = None, optional: bool = False
) -> tuple[list[Any], list[str]]:
    """The ids that a Parquet column becomes, and the notes."""
    pq.write_table(pa.table({"id": values}), file)
    table = open_table(duck, file)
    duck.execute("DROP TABLE IF EXISTS raw")
    load(duck, table, [id_field(table, "item", "id", na, optional)])
    notes = whole_column(duck, "item", "column 'id'")
    return [row[0] for row in duck.execute("SELECT item FROM raw").fetchall()], notes


BIG = 2**63
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.mark.parametrize(
    ("values", "ids", "note"),
    [
        (["7.0", "8.0", "12"], [7, 8, 12], "written with .0 in 2 rows"),
        (pa.array([7.0, 1e15]), [7, 10**15], "written with .0 in 2 rows"),
        (pa.array([7.0], pa.float32()), [7], "written with .0"),
        (pa.array([decimal.Decimal("7.00")]), [7], "written with .0"),
        (pa.array([decimal.Decimal(7)]), [7], None),
        (["007", "8"], ["007", "8"], None),
        (["007.0", "8.0"], ["007.0", "8.0"], None),
        (["7.0", "a"], ["7.0", "a"], None),
        (["7.5", "8.0"], ["7.5", "8.0"], None),
        ([" a", "b\t", "\u00a0a"], ["a", "b", "a"], "spaces around 3 values"),
        ([" 7 ", "8"], [7, 8], "spaces around 1 values"),
        (["+7", "8"], ["+7", "8"], None),
        (["-7", "8"], [-7, 8], None),
        (pa.array([BIG, 1], pa.uint64()), [str(BIG), "1"], None),
        (pa.array([5, 1], pa.uint64()), [5, 1], None),
        ([str(BIG), "1"], [str(BIG), "1"], None),
        (pa.array([True, False]), ["true", "false"], None),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], None),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"], None),
        (pa.array([1, 2], pa.int8()), [1, 2], None),
        (pa.array([datetime.date(2024, 1, 2)]), ["2024-01-02"], None),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(UUID).bytes], pa.binary(16))), [UUID], None),
    ],
)
def test_ids_of_every_type(duck: Any, tmp_path: Path, values: Any, ids: list[Any], note: str | None) -> None:
    found, notes = ids_of(duck, tmp_path / "ids.parquet", values)
    assert found == ids
    assert [type(one) for one in found] == [type(one) for one in ids]
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *((["a", one], f"row 2, column 'id': found '{one}', expected an id")
          for one in ("nan", "NaN", "null", "NULL", "None", "NA", "<NA>", "N/A")),
        (["a", "\\N"], "row 2, column 'id': found '.N'"),
        (["a", " "], "row 2, column 'id': found ' '"),
        (["a", None], "row 2, column 'id': found nothing"),
        (pa.array([1.0, 2.5]), "row 2, column 'id': found '2.5', expected an id, a whole number"),
        (pa.array([1.0, float("nan")]), "row 2, column 'id': found 'nan'"),
        (pa.array([1.0, float("inf")]), "row 2, column 'id': found 'inf'"),
        (pa.array([decimal.Decimal("1.50")]), "row 1, column 'id': found '1.50'"),
        (pa.array([[1]]), "column 'id' is of type"),
        (pa.array([{"a": 1}]), "column 'id' is of type STRUCT"),
        (pa.array([b"a"]), "column 'id' is of type BLOB"),
        (pa.array([datetime.time(1)]), "column 'id' is of type TIME"),
    ],
)  # fmt: skip
def test_ids_that_are_refused(duck: Any, tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ids_of(duck, tmp_path / "ids.parquet", values)


def test_na_says_what_stands_for_nothing(duck: Any, tmp_path: Path) -> None:
    file = tmp_path / "ids.parquet"
    assert ids_of(duck, file, ["NA", "DE"], na=[]) == (["NA", "DE"], [])
    assert ids_of(duck, file, ["NA", " - ", "5"], na=["NA", "-"], optional=True)[0] == [None, None, 5]
    with pytest.raises(UserError, match="found 'NA', expected an id"):
        ids_of(duck, file, ["DE", "NA"], na=["NA"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), st.booleans())
def test_integers_come_back(
    duck: Any, tmp_path_factory: pytest.TempPathFactory, values: list[int], dotted: bool
) -> None:
    texts = [f"{value}.0" if dotted else f" {value}" for value in values]
    assert ids_of(duck, tmp_path_factory.mktemp("ids") / "i.parquet", texts)[0] == values


# --- bags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("['red', 'big']", ["red", "big"]),
        ('["red", "big"]', ["red", "big"]),
        ("""['it\\'s', "a, b", 'c|d']""", ["it's", "a, b", "c|d"]),
        ("('red', 'big')", ["red", "big"]),
        ("{'red'}", ["red"]),
        ("[1, 2]", ["1", "2"]),
        ('["1.50", null, true, ""]', ["1.50", "true"]),
        ("['a', None, nan]", None),
        ("[]", []),
        ("['a' 'b']", None),
        ("[1 2]", None),
        ("[['a'], 'b']", None),
        ("{'a': 1}", None),
        ("['a'", None),
        (r"['a\d', 'b']", [r"a\d", "b"]),
        ("[" * 5000 + "]" * 5000, None),
        ("[__import__('os')]", None),
    ],
)
def test_lists_in_text(text: str, values: list[str] | None) -> None:
    assert parse_list(text) == values


def bags(texts: Sequence[str | None], separator: str = "|", na: Sequence[str] | None = None) -> tuple[Any, list[str]]:
    notes: list[str] = []
    called = "column 'tags'"
    by = np.arange(len(texts))
    return read_bags(texts, by, separator, na, lambda row: f"f.csv: row {row + 1}, {called}", called, notes), notes


def test_bags() -> None:
    assert bags(["a| b ||a", None, "", "[x"]) == ([["a", "b", "a"], [None], [None], ["[x"]], [])
    found, notes = bags(["['a', 'b|c']", None, "[]", '["NA"]'], na=["NA"])
    assert found == [["a", "b|c"], [None], [None], [None]]
    assert notes == ["column 'tags': texts such as \"['a', 'b|c']\" are read as lists"]
    assert bags([f"a|b{BETWEEN}['c']", "['d']"], BETWEEN)[0] == [["a|b", "['c']"], ["['d']"]]
    with pytest.raises(UserError, match=r"f.csv: row 2, column 'tags': found \"\['a'\]\", a list as text"):
        bags(["b", "['a']"])
    with pytest.raises(UserError, match=r"f.csv: row 2, column 'tags': found \"\['a' 'b'\]\", which is no list"):
        bags(["['b']", "['a' 'b']"])


# --- through prepare --------------------------------------------------------------------------------------------------


def test_rows_say_what_they_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "r.csv"
    raw.write_text("y,u,i,c,t\n1,7.0, a,NA,\"['x', 'z']\"\n0,8.0,a ,b,['x']\n1,,b,b,\n")
    argv = ["rows", "--raw", raw, "--label", "y", "--user", "u", "--item", "i", "--categorical", "c", "--bag", "t"]
    assert call("prepare", *map(str, argv), "--out", str(tmp_path / "d")) == 0
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        "jaxrec: note: column 'u': whole numbers written with .0 in 2 rows are read as integers",
        "jaxrec: note: column 'i': spaces around 2 values are cut off",
        "jaxrec: note: column 'c': 'NA' stands in 1 rows and is taken as a value; if it means nothing, say --na NA",
        "jaxrec: note: column 't': texts such as \"['x', 'z']\" are read as lists",
    ]
    dataset = open_dataset(tmp_path / "d")
    read = {
        name: pq.read_table(tmp_path / "d" / "vocabulary" / f"{name}.parquet")["value"].to_pylist() for name in "uict"
    }
    assert read == {"u": [7, 8], "i": ["a", "b"], "c": ["NA", "b"], "t": ["x", "z"]}
    assert np.load(tmp_path / "d" / "rows" / "columns.npy").tolist() == [
        [1, 1, 1, 1, 2], [2, 1, 2, 1, -1], [0, 2, 2, 0, -1],
    ]  # fmt: skip
    assert dataset.manifest["options"]["bag_separator"] == "|"
    assert call("prepare", *map(str, argv), "--na", "NA", "--out", str(tmp_path / "e")) == 0
    assert np.load(tmp_path / "e" / "rows" / "columns.npy")[:, 2].tolist() == [0, 1, 1]


def test_order_needs_no_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "e.csv"
    raw.write_text("s,i,n\n" + "".join(f"{k // 3},{k % 3},{9 - k % 3}\n" for k in range(9)))
    argv = ["events", "--raw", raw, "--session", "s", "--item", "i", "--time", "n", "--min-item-support", "1"]
    argv += ["--out", tmp_path / "d", "--time-unit", "order"]
    fails(capsys, "prepare", *argv, names="--time-unit order: counters have no days.*--test-days 0")
    assert call("prepare", *map(str, argv), "--test-days", "0") == 0
    manifest = open_dataset(tmp_path / "d").manifest
    assert "times" not in manifest
    assert manifest["options"]["time_unit"] == "order"
    assert np.load(tmp_path / "d" / "train" / "times.npy")[:3].tolist() == [7, 8, 9]
    config = parse({"data": {"path": str(tmp_path / "d"), "half_life": 3}, "model": {"name": "narm"}})
    with pytest.raises(UserError, match=r"data\.half_life: counts days, and the times of .* are counters"):
        make_task(config, open_dataset(tmp_path / "d"))
