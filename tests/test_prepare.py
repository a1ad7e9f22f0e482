"""The prepare command: its sources, what it says to bad input, and that it writes all or nothing."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest

from jaxrec.cli.command import command
from jaxrec.data.dataset import open_sessions
from jaxrec.data.reading.duck import connect
from jaxrec.data.store import ArrayFile
from jaxrec.errors import UserError
from jaxrec.prepare import main

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", ROOT.parent / "shared" / "data"))

DIGINETICA = "sessionId;userId;itemId;timeframe;eventdate\n"
LOG = "session,item,time\n" + "".join(
    f"{s},{i},2024-01-{s:02d}T10:00:{i:02d}Z\n" for s in range(1, 13) for i in (1, 2, 3)
)
COLUMNS = ["--session=session", "--item=item", "--time=time"]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, hidden files too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def rejected(capsys: pytest.CaptureFixture[str], folder: Path, *argv: str) -> str:
    """Run a command that must fail with one line and leave the folder as it was; returns the line."""
    before = snapshot(folder)
    capsys.readouterr()
    assert command(main, argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("jaxrec: error: ")
    assert snapshot(folder) == before
    return lines[0]


def items(path: Path, split: str = "train") -> list[list[Any]]:
    """The sessions of a split in raw ids."""
    sessions = open_sessions(path).split(split)
    vocabulary = pq.read_table(path / "items.parquet")["item"].to_pylist()
    bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return [[vocabulary[i] for i in sessions.items[a:b]] for a, b in bounds]


# --- what the sources read --------------------------------------------------------------------------------------------


def test_diginetica_orders_by_timeframe_and_splits_by_day(tmp_path: Path) -> None:
    rows = [
        (1, 11, 900, "2016-05-01"), (1, 10, 5, "2016-05-01"), (1, 12, 900, "2016-05-01"),
        (2, 10, 0, "2016-05-03"), (2, 11, 1, "2016-05-03"),  # the split day, whatever the hour
        (3, 11, 0, "2016-05-04"), (3, 99, 1, "2016-05-04"), (3, 10, 2, "2016-05-04"),
        (4, 12, 86_000_000, "2016-05-05"), (4, 10, 7, "2016-05-05"),
    ]  # fmt: skip
    raw = tmp_path / "views.csv"
    raw.write_text(DIGINETICA + "".join(f"{s};NA;{i};{frame};{day}\n" for s, i, frame, day in rows))
    out = tmp_path / "out"
    main(["diginetica", f"--raw={raw}", f"--out={out}", "--test-days=2", "--min-item-support=1"])
    assert items(out) == [[10, 11, 12]]
    assert items(out, "test") == [[11, 10], [10, 12]]
    assert open_sessions(out).split("train").times.tolist() == [1462060800005, 1462060800900, 1462060800900]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["dropped"]["split date"] == {"sessions": 1, "events": 2}
    assert manifest["dropped"]["test items unseen in training"] == {"events": 1}
    assert manifest["counts"]["validation"] == {"sessions": 0, "events": 0, "targets": 0}
    assert manifest["source"] == "diginetica"
    assert str(tmp_path) not in json.dumps(manifest)
    typed = pc_csv.read_csv(raw, parse_options=pc_csv.ParseOptions(delimiter=";"))
    assert str(typed.schema.field("eventdate").type) == "date32[day]"
    pq.write_table(typed, tmp_path / "views.parquet")
    words = [
        f"--raw={tmp_path / 'views.parquet'}",
        f"--out={tmp_path / 'typed'}",
        "--test-days=2",
        "--min-item-support=1",
    ]
    main(["diginetica", *words])
    assert open_sessions(tmp_path / "typed").manifest["content_hash"] == manifest["content_hash"]


def test_yoochoose_reads_times_and_compares_whole_seconds(tmp_path: Path) -> None:
    rows = [
        "1,2014-04-07T10:00:00.500Z,7,0", "1,2014-04-07T10:00:00.100Z,8,S",
        "2,2014-04-08T10:00:03.000Z,7,0", "2,2014-04-08T10:00:03.800Z,8,0",  # a day and 100 ms before the end
        "3,2014-04-09T10:00:03.000Z,7,0", "3,2014-04-09T10:00:03.900Z,8,0",
    ]  # fmt: skip
    raw = tmp_path / "clicks.dat.gz"
    raw.write_bytes(gzip.compress("\n".join(rows).encode()))
    out = tmp_path / "out"
    main(["yoochoose", f"--raw={raw}", f"--out={out}", "--min-item-support=1"])
    assert items(out) == [[8, 7]]
    assert items(out, "test") == [[7, 8]]  # of session 3: session 2 ends in the very second of the split
    assert open_sessions(out).split("train").times.tolist() == [1396864800100, 1396864800500]


def test_a_parquet_file_and_every_way_of_packing_csv_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "wild*[card]?.csv").write_text(LOG)
    (tmp_path / "wild-other-card].csv").write_text("not a log\n")
    (tmp_path / "windows.csv").write_bytes(b"\xef\xbb\xbf" + LOG.replace("\n", "\r\n").encode())
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(LOG[:50].encode()) + gzip.compress(LOG[50:].encode()))
    (tmp_path / "packed without the ending").write_bytes(gzip.compress(LOG.encode()))
    (tmp_path / "other columns.csv").write_text(LOG.replace(",", ",more,"))
    table = [line.split(",") for line in LOG.splitlines()[1:]]
    columns = {
        "item": pa.array([int(row[1]) for row in table], pa.int16()),
        'odd "name"': pa.array(["x"] * len(table)),
        "time": pa.array(np.array([row[2].rstrip("Z") for row in table], "datetime64[us]")),
        "session": pa.array([row[0] for row in table]),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    hashes = set()
    files = [file for file in sorted(tmp_path.iterdir()) if file.name != "wild-other-card].csv"]
    for number, file in enumerate(files):
        main(["events", f"--raw={file}", f"--out={tmp_path / str(number)}", *COLUMNS])
        hashes.add((tmp_path / str(number) / "manifest.json").read_bytes())
    assert len(files) == 7
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("write", "unit"),
    [
        (lambda ms: f"{ms / 1000:.3f}", "s"),
        (lambda ms: str(ms), "ms"),
        (lambda ms: str(ms * 1000 + 400), "us"),
        (lambda ms: str(ms * 1000_000), "ns"),
        (lambda ms: str(np.datetime64(ms, "ms")), "iso"),
        (lambda ms: str(np.datetime64(ms + 7_200_000, "ms")).replace("T", " ") + "+02:00", "iso"),
    ],
)
def test_times_in_every_unit(tmp_path: Path, write: Callable[[int], str], unit: str) -> None:
    start = 1_700_000_000_123
    times = [start + 1000 * i for i in range(4)]
    raw = tmp_path / "log.csv"
    raw.write_text("session,item,time\n" + "".join(f"{n // 2},{n % 2},{write(ms)}\n" for n, ms in enumerate(times)))
    for name, more in (("guessed", []), ("given", [f"--time-unit={unit}"])):
        out = tmp_path / name
        main(["events", f"--raw={raw}", f"--out={out}", *COLUMNS, "--min-item-support=1", "--test-days=0", *more])
        assert open_sessions(out).manifest["options"]["time_unit"] == unit
        assert open_sessions(out).split("train").times.tolist() == times


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED} (set JAXREC_SHARED_DATA)")
def test_diginetica_has_the_published_counts(tmp_path: Path) -> None:
    raw = SHARED / "diginetica" / "train-item-views.csv.gz"
    main(["diginetica", f"--raw={raw}", f"--out={tmp_path / 'out'}"])
    counts = open_sessions(tmp_path / "out").manifest["counts"]
    assert (counts["train"]["targets"], counts["test"]["targets"], counts["items"]) == (719_470, 60_858, 43_097)
    assert counts["train"]["events"] + counts["test"]["events"] == 982_961


# --- bad input --------------------------------------------------------------------------------------------------------

GZIP = gzip.compress(LOG.encode() * 50, compresslevel=0)
FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty; expected"),
    "blank": (b"\n \n\n", "empty; expected"),
    "header only": (b"session,item,time\n", "no events"),
    "binary": (bytes(range(256)) * 300, "binary file"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" * 20, "binary file"),
    "not utf-8": ("session,item,time\n1,é,1.7e9\n".encode("latin-1"), "line 2: not UTF-8"),
    "not utf-8 header": ("séssion,item,time\n1,2,5\n".encode("latin-1"), "line 1 is not UTF-8"),
    "truncated gzip": (GZIP[: len(GZIP) // 2], "truncated or damaged gzip"),
    "gzip without its end": (GZIP[:-6], "truncated or damaged gzip"),
    "gzip header alone": (GZIP[:12], "truncated or damaged gzip"),
    "gzip damaged inside": (GZIP.replace(b"4,1,2024", b"4,1,20;4", 1), "truncated or damaged gzip"),
    "truncated parquet": (b"PAR1" + b"\1" * 500, "cannot be read"),
    "repeated column": (b"session,item,time,item\n1,2,3,4\n", "more than one column 'item'"),
    "missing column": (b"session,items,t\n1,2,3\n", "no column 'item' (did you mean 'items'?); it has session,"),
    "other delimiter": (LOG.replace(",", ";").encode(), "is ',' the right --delimiter?"),
    "short row": (LOG.encode() + b"5,6\n", "line 38: 2 field(s), expected 3"),
    "long row": (LOG.encode() + b"5,6,7,8\n", "line 38: 4 field(s), expected 3"),
    "open quote": (LOG.encode() + b'5,"6,7\n8,9,10\n', "line 38: a quote not closed where its field ends; mend it, or"),
    "bad time": (LOG.encode() + b"5,6,yesterday\n", "row 37, column 'time': found 'yesterday', expected a time like"),
    "day that is none": (LOG.encode() + b"5,6,2024-02-30\n", "row 37, column 'time': found '2024-02-30'"),
    "no time": (LOG.encode() + b"5,6,\n7,8,\n", "row 37, column 'time': found nothing (2 such rows)"),
    "time of another unit": (b"session,item,time\n1,2,1700000000\n1,2,1e18\n", "row 2, column 'time': found '1e18'"),
    "no item": (LOG.encode() + b'5,"",2024-01-01\n', "row 37, column 'item': found nothing, expected an id"),
    "no session": (LOG.encode() + b",6,2024-01-01\n", "row 37, column 'session': found nothing, expected an id"),
    "a click each": (b"session,item,time\n1,2,1.7e9\n2,2,1.7e9\n", "no events left: short sessions took 2 sessions"),
    "rare items": (b"session,item,time\n1,2,1.7e9\n1,3,1.7e9\n", "no events left: rare items took 2 items and 2"),
    "few days": (LOG.replace("2024-01-0", "2024-01-1").encode(), "fewer --test-days"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_bad_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = FILES[name]
    raw = tmp_path / "raw.csv"
    if content is not None:
        raw.write_bytes(content)
    days = ["--test-days=30"] if name == "few days" else []
    line = rejected(
        capsys, tmp_path, "events", f"--raw={raw}", f"--out={tmp_path / 'a' / 'b' / 'out'}", *COLUMNS, *days
    )
    assert str(raw) in line
    assert message in line


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("diginetica", DIGINETICA + "1;NA;2;0;2016-05-01\nx7;NA;2;0;x\n", "row 2, column 'sessionId': found 'x7'"),
        ("diginetica", DIGINETICA + "1;NA;2.5;0;2016-05-01\n", "row 1, column 'itemId': found '2.5', expected an"),
        ("diginetica", DIGINETICA + "1;NA;2;-1;2016-05-01\n", "column 'timeframe': found '-1', expected milliseconds"),
        ("diginetica", DIGINETICA + "1;NA;2;0;01/05/2016\n", "column 'eventdate': found '01/05/2016', expected a day"),
        ("diginetica", DIGINETICA + "1;NA;2;99999999999999999;2016-05-01\n", "column 'timeframe': found '9999"),
        ("diginetica", "1,2014-04-07T10:51:09.277Z,2,0\n", "no column 'sessionId'"),
        ("diginetica", DIGINETICA.replace("itemId", "itemID"), "no column 'itemId', but 'itemID'; the case of a name"),
        ("yoochoose", "1,2014-04-07T10:51:09.277Z,2,0\n1,2014-04-07T10:61:09.277Z,2,0\n", "row 2, column 'time'"),
        ("yoochoose", "1,2014-04-07T10:51:09.277Z,99999999999999999999,0\n", "row 1, column 'item': found '9999"),
        ("yoochoose", "1,2014-04-07T10:51:09.277Z,2\n", "line 1: 3 field(s), expected 4"),
    ],
)  # fmt: skip
def test_bad_values_of_the_named_sources(
    source: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.write_text(text)
    line = rejected(capsys, tmp_path, source, f"--raw={raw}", f"--out={tmp_path / 'out'}")
    assert str(raw) in line
    assert message in line


def test_bad_columns_of_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "log.parquet"
    good: dict[str, list[Any]] = {"session": [1, 1], "item": ["a", "b"], "time": [1.7e9, 1.7e9]}
    bad: list[tuple[dict[str, list[Any]], str]] = [
        ({"item": [1.0, 2.5]}, "row 2, column 'item': found '2.5', expected an id, a whole number"),
        ({"session": [[1], [2]]}, "column 'session' is of type BIGINT[]"),
        ({"time": [True, False]}, "column 'time' is of type BOOLEAN"),
        ({"item": ["a", None]}, "row 2, column 'item': found nothing"),
        ({"time": [1.7e9, float("nan")]}, "row 2, column 'time': found 'nan'"),
    ]
    for change, message in bad:
        pq.write_table(pa.table(good | change), raw)
        assert message in rejected(capsys, tmp_path, "events", f"--raw={raw}", f"--out={tmp_path / 'out'}", *COLUMNS)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--fraction=0", "more than 0 and at most 1"),
        ("--fraction=5/4", "more than 0 and at most 1"),
        ("--fraction=1/0", "more than 0 and at most 1"),
        ("--fraction=nan", "more than 0 and at most 1"),
        ("--fraction=1e-9", "fraction took 4"),
        ("--test-days=-1", "a whole number, 0 or more"),
        ("--test-days=1.5", "a whole number, 0 or more"),
        ("--min-session-length=1", "a whole number, 2 or more"),
        ("--min-session-length=51", "no events left: short sessions took 50 sessions"),
        ("--min-item-support=0", "a whole number, 1 or more"),
        ("--memory-limit=lots", "a size such as 2GB"),
        ("--memory-limit=1MB", "expected 100MB to"),
        ("--memory-limit=900TB", "expected 100MB to"),
        ("--threads=0", "a whole number, 1 or more"),
        ("--validation-days=40", "no session is left for training"),
        ("--items=1", "a whole number from 2"),
        ("--epsilon=1.1", "a number from 0 to 1"),
        ("--mean-length=nan", "a number from 2"),
        ("--sesions=5", "--sesions: no such option (did you mean --sessions?)"),
    ],
)
def test_bad_options(option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = rejected(capsys, tmp_path, "synthetic", f"--out={tmp_path / 'out'}", "--sessions=50", option)
    assert message in line
    assert option.split("=")[0] in line or "the synthetic sessions" in line


def test_raw_or_out_is_the_wrong_kind_of_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("x")
    assert "file: line 1: 1 field(s), expected 4" in rejected(
        capsys, tmp_path, "yoochoose", f"--raw={tmp_path}", f"--out={tmp_path / 'out'}"
    )
    for out, more, message in (
        ("folder", [], "exists already; choose another --out or give --overwrite"),
        ("folder", ["--overwrite"], "is no data set, so --overwrite leaves it alone"),
        ("file", ["--overwrite"], "is no data set, so --overwrite leaves it alone"),
        ("file/out", [], "a parent of it is a file"),
    ):
        assert message in rejected(capsys, tmp_path, "synthetic", f"--out={tmp_path / out}", *more)


# --- all or nothing ---------------------------------------------------------------------------------------------------

SMALL = ["synthetic", "--items=20", "--sessions=200"]


def test_overwrite_replaces_a_data_set_and_parents_are_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "parents" / "out"
    main([*SMALL, f"--out={out}"])
    main([*SMALL, f"--out={out}", "--seed=1", "--overwrite"])
    open_sessions(out).verify()
    assert open_sessions(out).manifest["options"]["seed"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask  # as any new directory, for others to read


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (
            duckdb.IOException("IO Error: Could not write all bytes to file: No space left on device"),
            2,
            "no disk space",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("Query interrupted"), 130, "interrupted"),
    ],
)
def test_a_failure_half_way_leaves_the_old_data_set_and_nothing_else(
    error: BaseException,
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    main([*SMALL, f"--out={out}"])
    before = snapshot(tmp_path)
    append = ArrayFile.append

    def fail(self: ArrayFile, values: np.ndarray) -> None:
        append(self, values)
        if self.path.parent.name == "test":
            assert any(path.suffix == ".tmp" for path in tmp_path.rglob("*"))  # there is something to clean up
            raise error

    monkeypatch.setattr(ArrayFile, "append", fail)
    capsys.readouterr()
    for argv in ([*SMALL, f"--out={out}", "--overwrite"], [*SMALL, f"--out={tmp_path / 'new' / 'other'}"]):
        assert command(main, argv) == status
        assert message in capsys.readouterr().err
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("memory_limit = '1MB'", "--memory-limit 0.2GB: too little"),
        ("max_temp_directory_size = '1MB'", "no disk space"),
    ],
)
def test_duckdb_out_of_memory_or_disk(setting: str, message: str, tmp_path: Path) -> None:
    def exhaust() -> None:
        with connect(tmp_path / "spill", memory_limit=200_000_000, threads=1) as connection:
            connection.execute("SET memory_limit = '20MB'")
            connection.execute(f"SET {setting}")
            connection.execute("CREATE TABLE big AS SELECT i, hash(i) AS h FROM range(5_000_000) AS t(i)")

    with pytest.raises(UserError, match=re.escape(message)):
        exhaust()
    assert snapshot(tmp_path) == {}


def test_as_a_process(tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-m", "jaxrec.prepare", *SMALL, "--out", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first, second = (
        subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
        for _ in range(2)
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert "best reachable on test: recall@20" in first.stdout
    assert (second.returncode, second.stdout) == (2, "")
    assert "exists already" in second.stderr
    open_sessions(tmp_path / "out").verify()
