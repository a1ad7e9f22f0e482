"""How columns of numbers and of labels are read, and how missing ones are given when recommending."""

from __future__ import annotations

import decimal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call, fails

from jaxrec.data.codes import read_number
from jaxrec.data.dataset import open_dataset
from jaxrec.data.reading.duck import connect
from jaxrec.data.reading.files import load, open_table
from jaxrec.data.reading.numbers import label_field, number_field
from jaxrec.data.rows import Field, RowsDataset
from jaxrec.errors import UserError


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with connect(tmp_path_factory.mktemp("spill"), threads=1) as connection:
        yield connection


def read(duck: Any, file: Path, values: Any, field: Any = number_field, na: Sequence[str] | None = None) -> list[Any]:
    """What a column becomes: of a CSV file where the values are text, otherwise of a Parquet file."""
    if isinstance(values, list):
        file.write_text("k,x\n" + "".join(f"0,{value}\n" for value in values), encoding="utf-8")
    else:
        pq.write_table(pa.table({"x": values}), file)
    table = open_table(duck, file)
    duck.execute("DROP TABLE IF EXISTS raw")
    load(duck, table, [field(table, "y", "x", na)])
    return [None if np.isnan(row[0]) else row[0] for row in duck.execute("SELECT y FROM raw").fetchall()]


@pytest.mark.parametrize(
    ("values", "na", "numbers"),
    [
        (["NA", "nan", " NULL ", "None", r"\N", "N/A", "#N/A", "<NA>", "NaT", "", " "], None, [None] * 11),
        (["1", " 2.5", "\t-3e2 ", "+4", "\u00a05"], None, [1, 2.5, -300, 4, 5]),
        (["1", "?", "NA", " - "], ["?", "-"], [1, None, None, None]),
        (["1", "NA"], [], [1, None]),
        (pa.array(["7", "na", None]), None, [7, None, None]),
        (pa.array([0.1, float("nan"), None], pa.float32()), None, [float(np.float32(0.1)), None, None]),
        (pa.array([decimal.Decimal("1.50"), None]), None, [1.5, None]),
        (pa.array([True, False, None]), None, [1, 0, None]),
        (pa.array([2**60, None], pa.uint64()), None, [2**60, None]),
    ],
    ids=str,
)
def test_numbers(duck: Any, tmp_path: Path, values: Any, na: Any, numbers: list[Any]) -> None:
    assert read(duck, tmp_path / "f", values, na=na) == numbers


@pytest.mark.parametrize("value", ["NAN1", "1,5", "inf", "2e30", "true", "N A", "?", r"\\N"])
def test_numbers_that_are_none(duck: Any, tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"row 2, column 'x': found '.*', expected a number of at most 1e\+30 or "
                                        r"nothing \(so are NA, NaN, NULL, None and \\N; --na names"):  # fmt: skip
        read(duck, tmp_path / "f", pa.array(["1", value]))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["True", "False", "TRUE ", " false"], [1, 0, 1, 0]),
        (["t", "F", "yes", "No", "Y", "n"], [1, 0, 1, 0, 1, 0]),
        (["0", "1", "true", "1.0", " 0 "], [0, 1, 1, 1, 0]),
        (["5", "-2.5"], [5, -2.5]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([1, 0], pa.int8()), [1, 0]),
        (pa.array(["no", "YES"]), [0, 1]),
    ],
    ids=str,
)
def test_labels(duck: Any, tmp_path: Path, values: Any, labels: list[float]) -> None:
    assert read(duck, tmp_path / "f", values, label_field) == labels


@pytest.mark.parametrize("value", ["NA", r"\N", "", "maybe", "nan", "inf", "10", "truee"])
def test_labels_that_are_none(duck: Any, tmp_path: Path, value: str) -> None:
    na = ["10"]
    with pytest.raises(UserError, match=r"row 2, column 'x': found '?.*, expected a number of at most 1e\+30, or one "
                                        r"of true/false, t/f, yes/no, y/n;"):  # fmt: skip
        read(duck, tmp_path / "f", ["1", value], label_field, na)


def test_rows_with_missing_numbers_and_words_for_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "r.csv"
    raw.write_text("y,c,a,p\nyes,NA,1,0\nNo,b,NA,NULL\nTRUE,b,3,\nf,b,-,7\n")
    argv = ["rows", "--raw", raw, "--label", "y", "--categorical", "c", "--numerical", "a", "p", "--log-numerical", "p",
            "--na", "-"]  # fmt: skip
    assert call("prepare", *map(str, argv), "--out", str(tmp_path / "d")) == 0
    assert capsys.readouterr().err.splitlines() == [
        "jaxrec: note: column 'a': 2 of 4 numbers are missing and become the mean",
        "jaxrec: note: column 'p': 2 of 4 numbers are missing and become the mean",
    ]
    dataset = open_dataset(tmp_path / "d")
    assert isinstance(dataset, RowsDataset)
    rows = dataset.rows()
    assert rows.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(rows.numbers, [[-1, -1], [0, 0], [1, 0], [0, 1]], atol=1e-6)
    raw.write_text("y,c\nyes,a\nNA,b\n")
    out = ["--out", tmp_path / "e"]
    fails(capsys, "prepare", "rows", "--raw", raw, "--label", "y", "--categorical", "c", *out,
          names=r"r.csv: row 2, column 'y': found 'NA', expected a number .* yes/no")  # fmt: skip


def test_a_missing_number_when_recommending() -> None:
    field = Field("age", "numerical", "user", 1, 0, 30.0, 10.0)
    for missing in ("NA", " nan", "\\N", "", None, float("nan"), np.float32("nan"), "?"):
        assert read_number(field, missing, ["?"]) == 0
    assert read_number(field, "40") == 1
    with pytest.raises(UserError, match=r"field 'age': found '\?', expected a number$"):
        read_number(field, "?")
