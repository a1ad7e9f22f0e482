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


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", BAD)
    manifest = prepared(tmp_path / "d", "--raw", raw, *COLUMNS, "--drop-invalid", "--drop-repeats")
    assert sessions(tmp_path / "d") == [[5, 6], [5, 6]]
    assert manifest["dropped"]["invalid rows"] == {"events": 3}
    assert manifest["options"]["drop_invalid"] is True and "drop_duplicates" not in manifest["options"]
    notes = capsys.readouterr().err.splitlines()
    assert "left out 3 of 8 rows with a value that cannot be used" in notes[0]
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


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_keys_of_two_columns_and_an_order_of_two(tmp_path: Path) -> None:
    # (1, 23), (12, 3) and (1, 2) are three sessions; 10 stands behind 9, and positions beyond 2^53 are told apart.
    rows = [
        (1, 23, "a", 10), (12, 3, "b", 2), (1, 23, "b", 9), (12, 3, "a", 1), (1, 2, "a", 2**53 + 1),
        (1, 2, "b", 2**53), (1, 23, "c", 9),
    ]  # fmt: skip
    raw = written(tmp_path / "a.csv", "u,v,i,p,t\n" + "".join(f"{u},{v},{i},{p},2024-01-01\n" for u, v, i, p in rows))
    argv = ("--raw", raw, "--session", "u", "v", "--item=i", "--test-days=0", "--min-item-support=1")
    manifest = prepared(tmp_path / "d", *argv, "--time", "t", "p")
    assert sessions(tmp_path / "d") == [["b", "c", "a"], ["a", "b"], ["b", "a"]]
    assert manifest["options"]["session"] == ["u", "v"]
    assert manifest["options"]["time"] == "t" and manifest["options"]["order"] == ["p"]
    assert prepared(tmp_path / "e", *argv, "--time=t", "--order=p")["content_hash"] == manifest["content_hash"]
    prepared(tmp_path / "f", *argv, "--time=t")
    assert sessions(tmp_path / "f") == [["a", "b", "c"], ["b", "a"], ["a", "b"]]
    prepared(tmp_path / "g", *argv[:-2], "--min-item-support=1", "--time=t", "--order=p", "--split=leave_one_out")
    assert sessions(tmp_path / "g", "test") == [["b", "c", "a"]]


def test_sessions_are_cut_at_pauses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minutes = [("x", 0, 1), ("y", 0, 1), ("x", 30, 2), ("x", 60 + 1, 3), ("y", 31, 2), ("x", 61, 3), ("y", 45, 1)]
    lines = [f"{u},{i},{1_700_000_000 + 60 * m}\n" for u, m, i in minutes]
    written(tmp_path / "1.csv", "u,i,t\n" + "".join(lines[:4]))
    written(tmp_path / "2.csv", "u,i,t\n" + "".join(lines[4:]))
    argv = ("--raw", tmp_path / "1.csv", tmp_path / "2.csv", *COLUMNS)
    manifest = prepared(tmp_path / "d", *argv, "--session-gap=30m")
    assert sessions(tmp_path / "d") == [[1, 2], [2, 1], [3, 3]]  # 30 minutes are no more than 30 minutes
    assert manifest["cut"] == {"sessions": 2, "pieces": 4} and manifest["options"]["session_gap"] == "30m"
    assert manifest["dropped"]["short sessions"] == {"sessions": 1, "events": 1}
    assert "2 sessions are 4, cut where over 30m lie" in capsys.readouterr().out
    prepared(tmp_path / "e", *argv, "--session-gap=0.5h", "--drop-duplicates", "--min-session-length=2")
    assert sessions(tmp_path / "e") == [[1, 2], [2, 1]]
    manifest = prepared(tmp_path / "f", *argv, "--max-session-length=3")
    assert sessions(tmp_path / "f") == [[1, 2, 1]]
    assert manifest["dropped"]["long sessions"] == {"sessions": 1, "events": 4}
    assert manifest["options"]["max_session_length"] == 3 and "cut" not in manifest
    prepared(tmp_path / "g", *argv, "--session-gap=30m", "--max-session-length=2")
    assert sessions(tmp_path / "g") == [[1, 2], [2, 1], [3, 3]]


def test_pieces_of_a_session_have_dates_of_their_own(tmp_path: Path) -> None:
    days = [0, 0, 1, 1, 9, 9]
    text = "".join(f"x,{i % 2},{1_700_000_000 + 86_400 * day + i}\n" for i, day in enumerate(days))
    raw = written(tmp_path / "a.csv", "u,i,t\n" + text)
    argv = ("--raw", raw, *COLUMNS[:3], "--min-item-support=1", "--test-days=2", "--session-gap=1h")
    prepared(tmp_path / "d", *argv)
    assert len(sessions(tmp_path / "d")) == 2 and len(sessions(tmp_path / "d", "test")) == 1


# --- kinds of event ---------------------------------------------------------------------------------------------------

KINDS = "u,i,t,k\n1,5,10,view\n1,,11,search\n1,5,10,cart\n1,6,12, view \n1,7,13,buy\n1,8,14,\n1,6,12,view\n"


def test_kinds_of_event_are_kept_and_others_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", KINDS.replace(",1", ",170000000"))
    argv = ("--raw", raw, *COLUMNS, "--event-column=k")
    manifest = prepared(tmp_path / "d", *argv, "--events", "view", "cart")  # a search has no item, and needs none
    assert sessions(tmp_path / "d") == [[5, 5, 6, 6]]
    assert manifest["dropped"]["other events"] == {"events": 3}
    assert manifest["options"]["event_column"] == "k" and manifest["options"]["events"] == ["view", "cart"]
    notes = capsys.readouterr().err
    assert "column 'k': kept view 3, cart 1; left out nothing 1, buy 1, search 1" in notes
    assert "1 row says the same" in notes  # the view and the cart of 5 do not
    prepared(tmp_path / "e", *argv, "--events", "view", "cart", "--drop-duplicates")
    assert sessions(tmp_path / "e") == [[5, 5, 6]]
    prepared(tmp_path / "f", *argv, "--events", "view")
    assert sessions(tmp_path / "f") == [[5, 6, 6]]


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (("--event-column=k",), "column 'k' holds view 3, nothing 1, buy 1, cart 1, search 1; say with --events"),
        (("--event-column=k", "--events", "vew"), r"'vew': no such event .*\(did you mean 'view'\?\); it holds"),
        (("--events", "view"), "--events: needs --event-column"),
        (("--event-column=k", "--events", "view", "search"), "row 2, column 'i': found nothing"),
        (("--order", "t"), "--time and --order: column 't' is named twice"),
        (("--session-gap=30",), "'30': expected a time such as 30m"),
        (("--session-gap=0m",), "'0m': expected a time such as 30m"),
        (("--session-gap=30m", "--time-unit=order"), "--session-gap: counters"),
        (("--max-session-length=1",), "expected a whole number, 2 or more"),
    ],
)
def test_what_is_refused(argv: tuple[str, ...], names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = written(tmp_path / "a.csv", KINDS.replace(",1", ",170000000"))
    fails(capsys, "prepare", "events", "--raw", raw, *COLUMNS, *argv, "--out", tmp_path / "d", names=names)


# --- names of columns -------------------------------------------------------------------------------------------------
