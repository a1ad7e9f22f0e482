"""The prepare command: logs of people's own, what is refused, and that it writes all or nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import duckdb
import pytest
from helpers import ALL, open_sessions, prepared, sessions

from jaxrec.cli.command import command
from jaxrec.data import store
from jaxrec.data.clean import pipeline
from jaxrec.errors import UserError
from jaxrec.prepare import main

COLUMNS = ("--session=u", "--item=i", "--time=t", *ALL)
BEGIN = 1_700_000_000
LOG = "u,i,t\n" + "".join(f"{s},{i},2024-01-{s:02d}T10:00:{i:02d}Z\n" for s in range(1, 13) for i in (1, 2, 3))


def test_options_that_are_not_given_leave_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"u,i,t\n1,5,{BEGIN}\n1,6,{BEGIN + 1}\n"
    manifest = prepared(tmp_path / "d", "events", text, *COLUMNS)
    assert manifest["options"] == {
        "session": "u", "item": "i", "time": "t", "delimiter": ",", "time_unit": "s", "time_format": None, "na": None,
        "min_session_length": 2, "min_item_support": 1, "test_days": 0, "validation_days": 0, "fraction": "1",
        "drop_repeats": False,
    }  # fmt: skip
    more = f"{text}1,5,{BEGIN}\n1,,oops\n"
    manifests = [prepared(tmp_path / "e", "events", more, *COLUMNS, "--drop-invalid", *words)
                 for words in ([], ["--drop-duplicates"])]  # fmt: skip
    assert "1 rows say the same as an earlier one; --drop-duplicates" in capsys.readouterr().err
    assert manifests[0]["dropped"]["invalid rows"] == manifests[1]["dropped"]["duplicate events"] == {"events": 1}
    assert [one["counts"]["train"]["events"] for one in manifests] == [3, 2]
    assert manifests[1]["content_hash"] == manifest["content_hash"]


def test_keys_of_two_columns(tmp_path: Path) -> None:
    # (1, 23), (12, 3) and (1, 2) are three sessions.
    rows = [(1, 23, "b"), (12, 3, "a"), (1, 23, "c"), (12, 3, "b"), (1, 2, "b"), (1, 23, "a"), (1, 2, "a")]
    text = "u,v,i,t\n" + "".join(f"{u},{v},{i},2024-01-01\n" for u, v, i in rows)
    prepared(tmp_path / "d", "events", text, "--session", "u", "v", "--item=i", "--time=t", *ALL)
    assert sessions(tmp_path / "d") == [["b", "c", "a"], ["a", "b"], ["b", "a"]]


def test_sessions_are_cut_at_pauses(tmp_path: Path) -> None:
    minutes = [("x", 0, 1), ("y", 0, 1), ("x", 30, 2), ("x", 60 + 1, 3), ("y", 31, 2), ("x", 61, 3), ("y", 45, 1)]
    text = "u,i,t\n" + "".join(f"{u},{i},{BEGIN + 60 * m}\n" for u, m, i in minutes)
    manifest = prepared(tmp_path / "d", "events", text, *COLUMNS, "--session-gap=30m")
    assert sessions(tmp_path / "d") == [[1, 2], [2, 1], [3, 3]]  # 30 minutes are no more than 30 minutes
    assert manifest["cut"] == {"sessions": 2, "pieces": 4} and manifest["options"]["session_gap"] == "30m"


KINDS = "u,i,t,k\n" + "".join(
    f"1,{i},{BEGIN + t},{k}\n"
    for i, t, k in ((5, 0, "view"), ("", 1, "search"), (5, 0, "cart"), (6, 2, " view "), (7, 3, "buy"), (6, 2, "view"))
)


def test_kinds_of_event_are_kept_and_others_counted(tmp_path: Path) -> None:
    argv = (*COLUMNS, "--event-column=k", "--events", "view", "cart")
    manifest = prepared(tmp_path / "d", "events", KINDS, *argv)
    assert sessions(tmp_path / "d") == [[5, 5, 6, 6]]  # a search has no item, and needs none
    assert manifest["dropped"]["other events"] == {"events": 2}
    assert manifest["options"]["event_column"] == "k" and manifest["options"]["events"] == ["view", "cart"]
    prepared(tmp_path / "e", "events", KINDS, *argv, "--drop-duplicates")
    assert sessions(tmp_path / "e") == [[5, 5, 6]]  # the view and the cart of 5 do not say the same


@pytest.mark.parametrize(("text", "argv", "names"), [
    (KINDS, ["--time-unit=order", "--test-days=1"], "--time-unit order: counters have no days.*--test-days 0"),
    ("u,i,t\n1,2,1.7e9\n1,3,1.7e9\n", ["--min-item-support=5"], "no events left: rare items took 2 items and 2"),
    (LOG + "1,,oops\n", [], "row 37, column 'i': found nothing, .*column 't': found 'oops', .*1 of 37 rows, or"),
])  # fmt: skip
def test_what_is_refused(text: str, argv: list[str], names: str, tmp_path: Path) -> None:
    given = {word.split("=")[0] for word in argv}
    with pytest.raises(UserError, match=names):
        prepared(tmp_path / "d", "events", text, *(word for word in COLUMNS if word.split("=")[0] not in given), *argv)
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.csv"]


# ---- all or nothing --------------------------------------------------------------------------------------------------

SMALL = ["synthetic", "--items=20", "--sessions=200"]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, hidden files too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_overwrite_replaces_a_data_set_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "new" / "parents" / "out"
    main([*SMALL, f"--out={out}"])
    main([*SMALL, f"--out={out}", "--seed=1", "--overwrite"])
    open_sessions(out).verify()
    assert open_sessions(out).manifest["options"]["seed"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask  # as any new directory, for others to read
    (tmp_path / "file").write_text("x")
    before = snapshot(tmp_path)
    for place, more, message in ((out, [], "exists already; choose another --out or give --overwrite"),
                                 (out.parent, ["--overwrite"], "is no data set, so --overwrite leaves it alone"),
                                 (tmp_path / "file" / "out", [], "a parent of it is a file")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            main([*SMALL, f"--out={place}", *more])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("error", "status", "message"), [
    (duckdb.IOException("IO Error: Could not write: No space left on device"), 2, "No space left on device"),
    (duckdb.OutOfMemoryException("Out of Memory Error: no block"), 2, "no block; see --memory-limit"),
    (RuntimeError("Query interrupted"), 130, "interrupted"),
])  # fmt: skip
def test_a_failure_half_way_leaves_the_old_data_set_and_nothing_else(
    error: BaseException, status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    main([*SMALL, f"--out={tmp_path / 'out'}"])
    before = snapshot(tmp_path)

    def fail(file: Path) -> Any:
        if file.parent.name == "test":
            assert any(path.suffix == ".tmp" for path in tmp_path.rglob("*"))  # there is something to clean up
            raise error
        return store.file_entry(file)

    monkeypatch.setattr(pipeline, "file_entry", fail)
    for argv in ([*SMALL, f"--out={tmp_path / 'out'}", "--overwrite"], [*SMALL, f"--out={tmp_path / 'new' / 'o'}"]):
        assert command(main, argv) == status
        assert message in capsys.readouterr().err
        assert snapshot(tmp_path) == before


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    def write(folder: Path, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(text)

    left, others = tmp_path / ".d[1].tmp", tmp_path / ".d[1].x.tmp"
    write(left / "old", "old")  # killed between two renames
    write(left / "dataset", "half")
    write(others, "of d[1].x")
    with pytest.raises(UserError, match="exists already"), store.staging(tmp_path / "d[1]"):
        pass
    assert (tmp_path / "d[1]" / "manifest.json").read_text() == "old" and not left.exists()
    write(left / "dataset", "half")
    for text in ("one", "two"):
        with store.staging(tmp_path / "d[1]", overwrite=True) as stage:
            write(stage, text)
    assert (tmp_path / "d[1]" / "manifest.json").read_text() == "two"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".d[1].x.tmp", "d[1]"]
