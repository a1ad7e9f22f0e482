"""``--engine ray``: the bytes that the engine duckdb writes, also after a kill; vectors from any number of workers."""

from __future__ import annotations

import gzip
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from helpers import call, fails, run_process, spawn
from test_text import NAMES, STAND_IN, write_data

from jaxrec import text
from jaxrec.data import cluster as clusters
from jaxrec.data import work
from jaxrec.data.clean import parts, shards
from jaxrec.data.cluster import Cluster
from jaxrec.errors import UserError

os.environ.update(clusters.QUIET)  # which Ray reads when it is imported
pytest.importorskip("ray", reason="needs the extra cluster")

BEGIN = 1_700_000_000
EVENTS = ("events", "--session=u", "--item=i", "--time=t", "--min-item-support=3", "--test-days=2")
RAY = ("--engine=ray", "--threads=1")


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Ray with two processes, in which sentence-transformers is the stand-in of ``test_text``."""
    fake = tmp_path_factory.mktemp("fake")
    (fake / "sentence_transformers.py").write_text(STAND_IN.format(load="pass", encode="pass"))
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setenv("PYTHONPATH", os.pathsep.join([str(fake), *sys.path]))
            found = stack.enter_context(clusters.cluster(2))
        yield found


def table(seed: int, rows: int = 3000) -> pa.Table:
    """Clicks of sessions that overlap in time, several of the same second, over 12 days."""
    random = np.random.default_rng(seed)
    session = random.integers(0, rows // 4, rows)
    day = random.integers(0, 12, rows // 4)[session]
    times = BEGIN + day * 86_400 + random.integers(0, 4000, rows) * 10
    items = (random.zipf(1.3, rows) % 200) + 1
    return pa.table({"u": session, "i": items, "t": times, "k": pa.array(["view", "cart"]).take(pa.array(items % 2))})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(table(0), file)
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a directory by its name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def both(place: Path, *argv: object, shard_count: int = 3) -> dict[str, bytes]:
    """What both engines write, which has to be the same."""
    assert call("prepare", *argv, "--out", place / "duckdb", "--threads=1") == 0
    assert call("prepare", *argv, "--out", place / "ray", *RAY, f"--shards={shard_count}") == 0
    expected, found = contents(place / "duckdb"), contents(place / "ray")
    assert found.keys() == expected.keys() and [name for name in found if found[name] != expected[name]] == []
    assert sorted(entry.name for entry in place.iterdir() if entry.suffix != ".csv") == ["duckdb", "ray"]
    return found


# ---- the same bytes --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(("argv", "shard_count"), [
    (["--fraction=1/3", "--validation-days=1"], 4),
    (["--session-gap=5m", "--drop-repeats", "--drop-duplicates"], 3),
    (["--split=leave_one_out", "--event-column=k", "--events", "view", "cart"], 2),
])  # fmt: skip
def test_logs(argv: list[str], shard_count: int, log: Path, tmp_path: Path) -> None:
    words = [word for word in EVENTS if "leave_one_out" not in argv[0] or "days" not in word]
    both(tmp_path, *words, "--raw", log, *argv, shard_count=shard_count)


@pytest.mark.usefixtures("ray_here")
def test_events_on_items_with_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated, and the same from the files, whose items change from one to the next."""
    words = ("--events=3000", "--items=400", "--names=50", "--users=100", "--days=9")
    for name in ("generated", "files"):
        (tmp_path / name).mkdir()
    found = both(tmp_path / "generated", "merrec-synthetic", *words)
    assert {"attributes.parquet", "names.parquet", "train/events.npy"} <= found.keys()
    assert call("prepare", "merrec-synthetic", *words, "--out", tmp_path / "data", "--raw-out", tmp_path / "raw") == 0
    for day, file in enumerate(sorted((tmp_path / "raw").glob("2*.parquet"))):
        rows = pq.read_table(file)
        pq.write_table(rows.set_column(rows.column_names.index("price"), "price", pc.add(rows["price"], day)), file)
    monkeypatch.setattr(parts, "LEAST", 1000)
    both(tmp_path / "files", "merrec", "--raw", tmp_path / "raw", shard_count=4)


@pytest.mark.usefixtures("ray_here")
def test_a_generated_log_in_more_shards_than_sessions_and_former_indices(tmp_path: Path) -> None:
    small = ("synthetic", "--items=5", "--sessions=6", "--days=3", "--test-days=1")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    both(tmp_path / "a", *small, "--seed=1", shard_count=7)
    both(tmp_path / "b", *small, "--seed=2", "--vocabulary-of", tmp_path / "a" / "ray", shard_count=1)


@pytest.mark.usefixtures("ray_here")
def test_files_are_read_apart_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that are whole numbers in the first file are text, since the second one has others; 7.0 is then no 7."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(3):
        rows = zip(*(table(number)[name].to_pylist() for name in "uit"), strict=True)
        lines = [f"{u},{f'x{i}' if number == 1 else f'{i}.0'},{t}" for u, i, t in rows]
        with gzip.open(raw / f"{number}.csv.gz", "wt") as stream:
            stream.write("\n".join(["u,i,t", *lines, "", ""]))
    monkeypatch.setattr(parts, "LEAST", 1000)
    data = tmp_path / "data"
    data.mkdir()
    found = both(data, *EVENTS, "--raw", raw)
    ids = pq.read_table(pa.BufferReader(found["items.parquet"]))["item"].to_pylist()
    assert "7.0" in ids and "x7" in ids and b'"blank_lines": 3' in found["manifest.json"]


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("source", [EVENTS, ("rows", "--user=u", "--item=i", "--time=t")], ids=["events", "rows"])
def test_files_that_are_read_apart_have_the_same_columns(
    source: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, names in enumerate(("uit", "uit", "tiu")):
        csv.write_csv(table(number).select(list(names)), raw / f"{number}.csv")
    monkeypatch.setattr(parts, "LEAST", 1000)
    for engine in ((), RAY):
        assert call("prepare", *source, "--raw", raw, "--out", tmp_path / "out", *engine) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert re.search(r"2.csv: column '[tu]' is not in .*0.csv, or of another type or in another place th", line)
        assert not (tmp_path / "out").exists()


def test_sessions_of_runs_are_merged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    owners, sizes = random.integers(0, 5, 300), random.integers(1, 9, 300)
    rows = np.arange(sizes.sum())  # of the whole
    owner = np.repeat(owners, sizes)
    runs = [[rows[owner == shard], (rows * 7)[owner == shard]] for shard in range(6)]  # the last one is empty
    for chunk in (1, 10, 10**6):
        monkeypatch.setattr(shards, "CHUNK", chunk)
        pieces = list(shards.merged(runs, owners, sizes))
        assert max(len(piece[0]) for piece in pieces) <= max(chunk, 8)
        for column, expected in enumerate((rows, rows * 7)):
            np.testing.assert_array_equal(np.concatenate([piece[column] for piece in pieces]), expected)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def counted(folder: Path, name: str, ends: str) -> int:
    """A task that ends badly: ``once``, ``always``, or its process does."""
    with open(folder / name, "a") as stream:
        stream.write(".")
    attempts = (folder / name).stat().st_size
    if ends == "always" or (ends == "once" and attempts == 1):
        raise ValueError("odd\nshard")
    if ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if ends == "refused":
        raise UserError("row 3 is odd; mend it")
    return attempts


@pytest.mark.slow
def test_what_fails_is_done_once_more(ray_here: Cluster, tmp_path: Path, capfd: Any) -> None:
    calls: dict[str, Any] = {"shard 0": (tmp_path, "a", ""), "shard 1": (tmp_path, "b", "once")}
    assert dict(ray_here.each(counted, calls)) == {"shard 0": 1, "shard 1": 2}
    assert dict(ray_here.each(counted, {"of many processors": (tmp_path, "c", "")}, cpus=5))  # which does not wait
    for ends, message in (("always", r"shard 2 failed twice: ValueError: odd\\nshard; mend that"),
                          ("killed", r"shard 2 failed twice: its process ended \(The worker died"),
                          ("refused", "row 3 is odd; mend it$")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            dict(ray_here.each(counted, calls | {"shard 2": (tmp_path, ends, ends)}, UserError))
        assert (tmp_path / ends).stat().st_size == (1 if ends == "refused" else 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("ray_here")
def test_a_shard_that_fails_twice_and_then_goes_on(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("prepare", *EVENTS, "--raw", log, "--out", tmp_path / "out", *RAY, "--shards=3")
    place = tmp_path / ".out.work"
    begin = shards.Shards.__init__

    def damaged(*arguments: Any) -> None:
        os.truncate(next(place.glob("part-0/shard=2/*.parquet")), 100)
        begin(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "__init__", damaged)
        assert call(*argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("jaxrec: error: shard 2 of 3 failed twice: ")
    assert [line for line in lines if not line.startswith("jaxrec: note: ")] == lines[-1:]
    kept = {file: file.stat().st_mtime_ns for file in place.glob("shard-*/count_items.json")}
    assert kept and not (tmp_path / "out").exists()
    lengths, seen = shards.Shards.lengths, dict[Path, int]()

    def look(engine: shards.Shards) -> Any:
        seen.update((file, file.stat().st_mtime_ns) for file in kept)
        return lengths(engine)

    monkeypatch.setattr(shards.Shards, "lengths", look)
    assert call(*argv) == 0 and seen == kept and "goes on where it stopped" in capsys.readouterr().err
    assert call("prepare", *EVENTS, "--raw", log, "--out", tmp_path / "other") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    assert not place.exists()


def test_other_work_is_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, place = tmp_path / "out", tmp_path / ".out.work" / "shard=1"

    def stopped(about: dict[str, int], found: list[Any]) -> None:
        """Finish a piece, and be stopped after it."""
        with work.work_beside(out, about), work.scratch(place) as made:
            found.append(work.finished(place, "step"))
            (made / "kept").mkdir()
            (made / "kept" / "file").write_text("x")
            work.finish(place, "step", made / "kept", {"n": 1})
            raise KeyboardInterrupt

    results = list[Any]()
    for about in ({"a": 1}, {"a": 1}, {"a": 2}):
        with pytest.raises(KeyboardInterrupt):
            stopped(about, results)
    assert results == [None, {"n": 1}, None]
    assert "is of other files or choices, and begins anew" in capsys.readouterr().err
    (place / "file").write_text("y")
    assert work.finished(place, "step") is None
    with work.work_beside(out, {"a": 2}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("argv", "names"), [
    (["--shards=2"], "--shards: belongs to --engine ray; add that or leave this out"),
    (["--engine=ray", "--shards=0"], "--shards: '0': expected a whole number from 1 to 4096"),
    (["--engine=ray", "--raw=-"], "--raw -: --engine ray reads files, .*or leave --engine out"),
    (["--engine=ray", "--raw=nowhere.csv"], r"nowhere.csv: cannot be read or unpacked \(No such file"),
])  # fmt: skip
def test_options_that_are_refused(
    argv: list[str], names: str, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = [] if "--raw" in argv[-1] else ["--raw", log]
    fails(capsys, "prepare", *EVENTS, *raw, "--out", tmp_path / "out", *argv, names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("missing", "names"), [
    ("package", r"needs Ray, which is not installed; pip install 'jaxrec\[cluster\]'"),
    ("address", r"RAY_ADDRESS 127.0.0.1:1: no Ray answers there \(.*refused\); start one with 'ray start"),
])  # fmt: skip
def test_where_there_is_no_ray(
    missing: str, names: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if missing == "package":
        monkeypatch.setitem(sys.modules, "ray", None)
    else:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    fails(capsys, "prepare", *EVENTS, "--raw", log, "--out", tmp_path / "out", *RAY, names=names)
    assert list(tmp_path.iterdir()) == []


def killed_at(folder: Path, pieces: Sequence[str], argv: Sequence[object]) -> None:
    """Begin to make ``out`` as often as there are pieces, and kill the process as soon as the next one is there."""
    for piece in pieces:
        process = spawn("prepare", *argv)
        while not (folder / ".out.work" / piece).is_file():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.communicate()
        assert not (folder / "out").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(tmp_path: Path) -> None:
    raw = tmp_path / "log.parquet"
    pq.write_table(table(3, 40_000), raw)
    argv = (*EVENTS, "--raw", raw, "--out", tmp_path / "out", *RAY, "--shards=6", "--workers=1")
    place = tmp_path / ".out.work"
    killed_at(tmp_path, ("shard-1/count_items.json", "shard-3/rank_sessions.json", "shard-2/write_runs.json"), argv)
    kept = {file: file.stat().st_mtime_ns for file in place.rglob("*.json")}
    assert len(kept) > 20
    status, _, err = run_process("prepare", *argv)
    assert status == 0 and "goes on where it stopped" in err and not place.exists()
    assert call("prepare", *EVENTS, "--raw", raw, "--out", tmp_path / "other") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.parquet", "other", "out"]


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_names_are_embedded_by_workers(
    ray_here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what one process has begun, and no part twice."""
    model, names = tmp_path / "model", [f"{name} {number}" for number in range(4) for name in NAMES]
    model.mkdir()
    (model / "modules.json").write_text("{}")
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("jaxrec.data.text.encoding.PART", 6)
    data = write_data(tmp_path / "data", names)
    words = ["--data", str(data), "--model", str(model), "--engine=ray"]
    text.main(words)
    found = contents(data / "text")
    kept = sorted((tmp_path / "cache").rglob("*.npy"))
    assert [file.name for file in kept] == ["0.npy", "12.npy", "18.npy", "6.npy"]
    kept[1].unlink()
    before = [file.stat().st_mtime_ns for file in (kept[0], *kept[2:])]
    text.main(words)
    assert contents(data / "text") == found and [file.stat().st_mtime_ns for file in (kept[0], *kept[2:])] == before
    (fake := tmp_path / "fake").mkdir()
    (fake / "sentence_transformers.py").write_text(STAND_IN.format(load="pass", encode="pass"))
    monkeypatch.syspath_prepend(fake)
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "other"))
    text.main([*words[:4]])
    assert contents(data / "text") == found
    with pytest.raises(UserError, match="--workers: belongs to --engine ray"):
        text.main([*words[:4], "--workers=2"])
