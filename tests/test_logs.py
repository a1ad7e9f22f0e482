"""People's own logs: rows that cannot be used or are repeated, through the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails

from jaxrec.data.dataset import open_sessions
from jaxrec.data.duck import connect
from jaxrec.data.id_columns import id_field
from jaxrec.data.reading import open_table

COLUMNS = ("--session=u", "--item=i", "--time=t", "--test-days=0", "--min-item-support=1")
BAD = """\
u,i,t,y
1,5,oops,1
1,5,2024-01-01T10:00:00,1
1, ,,0
1,6,2024-01-01T10:02:00,1
2,5,2024-01-02T10:00:00,0
2,5,2024-01-02T10:00:00,0
nan,7,2024-01-02T10:01:00,x
2,6,2024-01-02T10:02:00,1
"""


def prepared(out: Path, *argv: object, source: str = "events") -> dict[str, Any]:
    """The manifest of a data set prepared anew."""
    assert call("prepare", source, *map(str, argv), "--out", str(out), "--overwrite") == 0
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return manifest


def sessions(path: Path, split: str = "train") -> list[list[Any]]:
    """The sessions of a split in raw ids."""
    part = open_sessions(path).split(split)
    vocabulary = pq.read_table(path / "items.parquet")["item"].to_pylist()
    bounds = zip(part.offsets[:-1], part.offsets[1:], strict=True)
    return [[vocabulary[i] for i in part.items[a:b]] for a, b in bounds]


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


# --- rows that cannot be used -----------------------------------------------------------------------------------------


def test_unusable_values_of_all_columns_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", BAD)
    line = fails(capsys, "prepare", "events", "--raw", raw, *COLUMNS, "--out", tmp_path / "d", names="a.csv: row 7, c")
    for part in ("row 7, column 'u': found 'nan', expected", "; row 3, column 'i': found ' ', expected an id",
                 "; row 1, column 't': found 'oops' (2 such rows), expected a time", "; 3 of 8 rows in all; ",
                 "or leave them out with --drop-invalid"):  # fmt: skip
        assert part in line
    assert line.count("a.csv") == 1
    argv = ("--raw", raw, "--label=y", "--item=i", "--time=t", "--out", tmp_path / "d")
    line = fails(capsys, "prepare", "rows", *argv, names="row 7, column 'y': found 'x', expected a number")
    assert "row 1, column 't': found 'oops' (2 such rows)" in line and line.endswith("with --drop-invalid")


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", BAD)
    manifest = prepared(tmp_path / "d", "--raw", raw, *COLUMNS, "--drop-invalid", "--drop-repeats")
    assert sessions(tmp_path / "d") == [[5, 6], [5, 6]]
    assert manifest["dropped"]["invalid rows"] == {"events": 3}
    assert manifest["options"]["drop_invalid"] is True and "drop_duplicates" not in manifest["options"]
    notes = capsys.readouterr().err.splitlines()
    assert "left out 3 of 8 rows with a value that cannot be used: column 'u' in 1 (" in notes[0]
    assert "column 'i' in 1 (row 3: ' '), column 't' in 2 (row 1: 'oops')" in notes[0]
    assert notes[1] == "jaxrec: note: 1 row says the same as an earlier one; --drop-duplicates leaves such rows out"
    manifest = prepared(
        tmp_path / "e", "--raw", raw, "--label=y", "--user=u", "--time=t", "--drop-invalid", source="rows"
    )
    assert manifest["read"]["invalid_rows"] == 3 and manifest["counts"]["rows"] == 5
    assert np.load(tmp_path / "e" / "rows" / "ratings.npy").tolist() == [1, 1, 0, 0, 1]
    assert "; left out 3 with a value that cannot be used" in capsys.readouterr().out


def test_options_that_are_not_given_leave_no_trace(tmp_path: Path) -> None:
    raw = written(tmp_path / "a.csv", "u,i,t\n1,5,1700000000\n1,6,1700000001\n")
    manifest = prepared(tmp_path / "d", "--raw", raw, *COLUMNS)
    assert manifest["options"] == {
        "session": "u", "item": "i", "time": "t", "delimiter": ",", "time_unit": "s", "time_format": None, "na": None,
        "min_session_length": 2, "min_item_support": 1, "test_days": 0, "validation_days": 0, "fraction": "1",
        "drop_repeats": False,
    }  # fmt: skip
    assert next(iter(manifest["dropped"])) == "short sessions"
    given = prepared(tmp_path / "e", "--raw", raw, *COLUMNS, "--drop-invalid", "--drop-duplicates")
    assert given["content_hash"] == manifest["content_hash"]
    assert given["dropped"]["invalid rows"] == given["dropped"]["duplicate events"] == {"events": 0}


def test_later_errors_name_the_row_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "a.csv", "u,i,t,y\nx,1,nan,0\nx,1,1700000000,0\nx,1,1700000000,0\n")
    written(tmp_path / "b.csv", "u,i,t,y\nx,,1700000000,0\nx,1,1700000000,4\n")
    argv = ("--raw", tmp_path / "a.csv", tmp_path / "b.csv", "--label=y", "--user=u", "--item=i", "--time=t")
    for more in (("--drop-invalid",), ("--drop-invalid", "--drop-duplicates")):
        fails(capsys, "prepare", "rows", *argv, *more, "--out", tmp_path / "d",
              names=r"b\.csv: row 2, column 'y': found 4, so")  # fmt: skip


def test_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", "u,i,t\n1,,1700000000\n,2,1700000000\n")
    fails(capsys, "prepare", "events", "--raw", raw, *COLUMNS, "--drop-invalid", "--out", tmp_path / "d",
          names="a.csv: --drop-invalid leaves nothing of 2 rows: .*row 2, column 'u': found nothing")  # fmt: skip


# --- rows that say the same -------------------------------------------------------------------------------------------


def test_of_rows_that_say_the_same_the_first_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["1,5,20", "1,6,20", "1, 5,20", "1,5,20", "1,5,30", "2,5,20", "2,6,21", "2,6,21"]
    raw = written(tmp_path / "a.csv", "u,i,t\n" + "".join(f"{row[:-2]}17000000{row[-2:]}\n" for row in rows))
    prepared(tmp_path / "d", "--raw", raw, *COLUMNS)
    assert sessions(tmp_path / "d") == [[5, 6, 6], [5, 6, 5, 5, 5]]
    assert "3 rows say the same as an earlier one; --drop-duplicates" in capsys.readouterr().err
    manifest = prepared(tmp_path / "e", "--raw", raw, *COLUMNS, "--drop-duplicates")
    assert sessions(tmp_path / "e") == [[5, 6], [5, 6, 5]]
    assert manifest["dropped"]["duplicate events"] == {"events": 3} and manifest["options"]["drop_duplicates"] is True
    assert "say the same" not in capsys.readouterr().err


def test_of_repeated_rows_the_first_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", "u,p,x,y\na,.5,1,1\nb,,2,0\na,.5,3,1\nb,,4,0\nb,,5,1\n")
    argv = ("--raw", raw, "--label=y", "--user=u", "--numerical", "p")
    assert prepared(tmp_path / "d", *argv, source="rows")["counts"]["rows"] == 5
    assert "2 rows say the same" in capsys.readouterr().err
    manifest = prepared(tmp_path / "e", *argv, "--drop-duplicates", source="rows")
    assert manifest["read"]["repeated_rows"] == 2
    assert np.load(tmp_path / "e" / "rows" / "ratings.npy").tolist() == [1, 0, 1]


def test_no_join_upsets_the_order_of_the_rows(tmp_path: Path) -> None:
    with connect(tmp_path) as duck:
        table = open_table(duck, written(tmp_path / "a.csv", "u\n1\n"))
        ((_, plan),) = duck.execute(
            f"EXPLAIN SELECT {id_field(table, 'u', 'u', None).parse('c0')} FROM {table.relation}"
        ).fetchall()
    assert "CSV" in plan.upper() and "JOIN" not in plan.upper()
