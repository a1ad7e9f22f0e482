"""``--engine ray`` of rows: the bytes that the engine duckdb writes, of every kind of column, also after a kill."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import test_bars
from helpers import call, run_process
from reviews import fake_encoding, made_products, made_texts, write_json
from test_ray import RAY, both, contents, killed_at, ray_here  # noqa: F401  the fixture

from jaxrec.data.clean import parts, row_shards
from jaxrec.data.clean.sums import partial_sums, whole_sum

BEGIN = 1_700_000_000
ROWS = ("rows", "--label=clicked", "--user=user", "--item=item", "--time=at", "--categorical", "site", "code",
        "--bag", "tags", "nums", "--numerical", "age", "--log-numerical", "price")  # fmt: skip
SIDES = ("--user-fields", "age", "site", "--item-fields", "tags", "price", "code")
Capsys = pytest.CaptureFixture[str]


def table(seed: int, rows: int = 400) -> pa.Table:
    """Clicks with every kind of column; some values of all but user, item and label are missing."""
    random = np.random.default_rng(seed)

    def some(values: list[Any]) -> pa.Array:
        return pa.array(values).take(pa.array(random.integers(0, len(values), rows)))

    times = pa.array(BEGIN + random.integers(0, 10**6, rows))
    return pa.table({
        "user": random.zipf(1.3, rows) % 90, "item": [f"sku{number}" for number in random.zipf(1.2, rows) % 50],
        "clicked": random.integers(0, 2, rows), "at": times, "site": some(["a", "", " b", "c "]),
        "code": some(["7", "7.0", "-3", "", "12"]), "tags": some(["red|new", "", "sale", "red|red|blue", "new"]),
        "nums": some(["1|2", "30", "", "2|2"]), "price": random.lognormal(3, 1, rows).round(2),
        "age": pa.array(random.normal(40, 9, rows).round(2), mask=times.to_numpy() % 9 == 0),
    })  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.csv"
    csv.write_csv(table(0), file)
    return file


def in_three(folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: tuple[int, str, Any]) -> Path:
    """Three files that are read apart, with other values in some of their columns."""
    folder.mkdir()
    tables = [table(seed) for seed in range(3)]
    for number, name, column in changes:
        one = tables[number]
        tables[number] = one.set_column(one.column_names.index(name), name, column(one[name]))
    for number, one in enumerate(tables):
        csv.write_csv(one, folder / f"{number}.csv")
    monkeypatch.setattr(parts, "LEAST", 1000)
    return folder


def notes_of_both(err: str) -> dict[str, int]:
    """How often each note was printed, but for those about rows that are twice in a part."""
    return Counter(line for line in err.splitlines() if "note: " in line and "say the same" not in line)


# ---- the same bytes --------------------------------------------------------------------------------------------------


def test_sums_have_the_bits_of_numpy() -> None:
    random = np.random.default_rng(0)
    for total in (0, 1, 7, 128, 129, 1000, 12_345):
        values = random.normal(size=total) * 10.0 ** random.integers(-9, 9, total)
        for shards in (1, 2, 5, 40):
            cuts = np.sort(random.integers(0, total + 1, shards - 1))
            firsts = [0, *cuts.tolist()]
            found = [partial_sums(one, first, total)
                     for one, first in zip(np.split(values, cuts), firsts, strict=True)]  # fmt: skip
            assert whole_sum(json.loads(json.dumps(found)), total) == values.sum()
            assert sum(len(spans) + sum(len(one) for _, one in loose) for spans, loose in found) < 400 * shards


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(("argv", "shard_count"), [
    ([*ROWS, *SIDES], 3),
    ([*ROWS, "--min-count=30", "--drop-duplicates", "--drop-invalid", "--na", "sku3", "a"], 2),
    (["rows", "--user=user", "--item=item", "--bag", "tags", "--bag-separator=e"], 4),
    (["rows", "--label=clicked", "--numerical", "price"], 3),
])  # fmt: skip
def test_a_table(argv: list[str], shard_count: int, raw: Path, tmp_path: Path) -> None:
    both(tmp_path, *argv, "--raw", raw, shard_count=shard_count)


@pytest.mark.usefixtures("ray_here")
def test_files_are_read_apart_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    """What one file says of whole numbers and whole seconds, another one may take back."""
    whole = in_three(tmp_path / "whole", monkeypatch)
    text = in_three(
        tmp_path / "text", monkeypatch, (1, "code", lambda column: pa.array(["x", "07", "7.5", ""] * 100)),
        (2, "nums", lambda column: pa.array(["1|02", "[3]"] * 200)),
        (2, "at", lambda column: pa.array([f"{BEGIN + row}.5" for row in range(400)])),
        (1, "clicked", lambda column: pa.array([1] * 400)),
    )  # fmt: skip
    for name, folder in (("a", whole), ("b", text)):
        (tmp_path / name).mkdir()
        found = both(tmp_path / name, *ROWS, *SIDES, "--raw", folder, shard_count=4)
        codes = pq.read_table(pa.BufferReader(found["vocabulary/code.parquet"]))["value"]
        assert pa.types.is_integer(codes.type) == (name == "a")
        assert (b'"unit": "s"' in found["manifest.json"]) == (name == "a")
        notes = notes_of_both(capsys.readouterr().err)
        assert set(notes.values()) == {2} and len(notes) == (3 if name == "a" else 2), "as of one process"


@pytest.mark.usefixtures("ray_here")
def test_more_shards_than_rows_and_files_of_other_kinds(tmp_path: Path) -> None:
    """The parts of Parquet files have lists and moments; nothing is known of some columns."""
    few = table(1, 5).set_column(7, "nums", pa.array([[1, None], [], None, [2], [1, 1]]))
    few = few.set_column(3, "at", pa.array(np.arange(5), pa.timestamp("ms")).cast(pa.int64()))
    few = few.set_column(4, "site", pa.array([""] * 5))
    few = few.set_column(9, "age", pa.nulls(5, pa.float64())).set_column(8, "price", pa.array([4.5] * 5))
    pq.write_table(few, tmp_path / "few.csv")
    both(tmp_path, *ROWS, *SIDES, "--time-unit=order", "--raw", tmp_path / "few.csv", shard_count=7)


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("argv", [
    ["rows-synthetic", "--rows=500", "--users=50", "--items=20"],
    ["personas-synthetic", "--customers=80", "--products=20", "--purchases=2"],
    pytest.param(["bars", "--set=criteo_x1"], marks=pytest.mark.slow),
    ["bars", "--set=criteo_x4"],
    ["amore"],
])  # fmt: skip
def test_other_sources(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrec.sources.bars.BLOCK", 32)
    files, folder = [], tmp_path / "raw.csv"
    folder.mkdir()
    if argv[0] == "bars":
        name = argv[1].removeprefix("--set=")
        files = ["--raw", test_bars.written(folder, name, test_bars.generated(name))]
    if argv[0] == "amore":  # which one process reads, with files of its own
        fake_encoding(monkeypatch)
        files = ["--raw", write_json(folder / "reviews.json", made_products(made_texts(6)[0]))]
    both(tmp_path, *argv, *files)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ray_here")
def test_a_shard_that_fails_twice_and_then_goes_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    """Of what it was given last a part cannot be read; what was finished before is not done again."""
    argv = ("prepare", *ROWS, *SIDES, "--raw", raw, "--out", tmp_path / "out", *RAY, "--shards=3")
    place, share = tmp_path / ".out.work", row_shards.RowShards._share

    def damaged(shards: row_shards.RowShards, name: str, write: Any) -> None:
        share(shards, name, write)
        os.truncate(place / name, 20)

    with monkeypatch.context() as patch:
        patch.setattr(row_shards.RowShards, "_share", damaged)
        assert call(*argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("jaxrec: error: shard ") and "of 3 failed twice: Arrow" in lines[-1]
    assert [line for line in lines if not line.startswith("jaxrec: note: ")] == lines[-1:]
    kept = {file: file.stat().st_mtime_ns for file in place.rglob("*.json")}
    assert len(kept) == 2 + 3 * 3 and not (tmp_path / "out").exists()
    encode, seen = row_shards.RowShards.encode, dict[Path, int]()

    def look(shards: row_shards.RowShards, plan: Any) -> Any:
        seen.update((file, file.stat().st_mtime_ns) for file in kept)
        return encode(shards, plan)

    monkeypatch.setattr(row_shards.RowShards, "encode", look)
    assert call(*argv) == 0 and seen == kept and "goes on where it stopped" in capsys.readouterr().err
    assert call("prepare", *ROWS, *SIDES, "--raw", raw, "--out", tmp_path / "other") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other") and not place.exists()


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(("name", "values", "message"), [
    ("clicked", [1], "0.csv and 2 more: column 'clicked': all 1,200 labels are positive"),
    ("clicked", [3], "[0-2].csv: row 1, column 'clicked': found 3, so labels are not all 0 or 1"),
    ("tags", ["['a']", ""], "0.csv and 2 more, column 'tags': all bags are lists as text"),
    ("tags", ["a|" * 300], "[0-2].csv: row 1, column 'tags': a bag of 300 values, at most 256 are allowed"),
    ("at", ["?"], "0.csv: column 'at': found '[?]', no time after 1980"),
])  # fmt: skip
def test_what_all_files_together_are_refused_for(
    name: str, values: list[Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    every = pa.array((values * 400)[:400])
    raw = in_three(tmp_path / "raw", monkeypatch, *((number, name, lambda column: every) for number in range(3)))
    argv = [word for word in ROWS if name != "clicked" or "--item" not in word]
    assert call("prepare", *argv, "--raw", raw, "--out", tmp_path / "out", *RAY) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert re.search(message, line) and all(note.startswith("jaxrec: note: ") for note in notes)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(tmp_path: Path) -> None:
    csv.write_csv(table(3, 40_000), raw := tmp_path / "rows.csv")
    argv = (*ROWS, *SIDES, "--raw", raw, "--out", tmp_path / "out", *RAY, "--shards=6", "--workers=1")
    killed_at(tmp_path, ("shard-1/count.json", "shard-3/sum_squares.json", "shard-2/shown item.json"), argv)
    status, _, err = run_process("prepare", *argv)
    assert status == 0 and "goes on where it stopped" in err
    assert call("prepare", *ROWS, *SIDES, "--raw", raw, "--out", tmp_path / "other") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other", "out", "rows.csv"]
