"""The made-up market as files with the columns of MerRec, through ``prepare`` and beside ``prepare merrec``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call

from jaxrec.data.clean.splits import DAY
from jaxrec.data.dataset import Sessions, open_sessions
from jaxrec.sources import merrec_synthetic as source
from jaxrec.sources.merrec_files import EVENT_TYPES, KINDS

SMALL = ["--events=6000", "--items=600", "--names=500", "--users=200", "--days=10"]


def prepared(out: Path, *options: object) -> Path:
    assert call("prepare", "merrec-synthetic", "--out", out, *SMALL, *options) == 0
    return out


def manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text(encoding="utf-8"))


def split(path: Path, name: str) -> Sessions:
    return open_sessions(path).split(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset directory and the raw files that it was made of."""
    folder = tmp_path_factory.mktemp("market")
    raw = folder / "some" / "raw"
    return prepared(folder / "data", "--raw-out", raw), raw


@pytest.fixture(scope="module")
def rows(made: tuple[Path, Path]) -> pa.Table:
    files = sorted(made[1].glob("[!_]*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def test_it_is_a_dataset_of_the_size_that_was_asked(made: tuple[Path, Path]) -> None:
    entries = manifest(made[0])
    assert (entries["source"], entries["target"], entries["live"]) == ("merrec-synthetic", "item", True)
    assert entries["event_types"] == list(EVENT_TYPES)
    counts = entries["counts"]
    assert sum(counts["events"].values()) == pytest.approx(6000, rel=0.06)
    assert not any(any(taken.values()) for taken in entries["dropped"].values())
    assert 500 < counts["items"] <= 600 and 50 < counts["names"] <= 500 and counts["unnamed"] == 0
    assert 0 < counts["trained"] < counts["items"] and counts["test"]["sessions"] > 100
    stated = {"events": 6000, "items": 600, "lifetime": 5.0, "skew": 0.8, "seed": 0, "target": "item", "test_days": 3}
    assert stated.items() <= entries["options"].items()


def test_the_files_are_by_day_and_have_the_columns_of_merrec(made: tuple[Path, Path], rows: pa.Table) -> None:
    assert [file.name for file in sorted(made[1].iterdir())] == [f"202305{day:02}.parquet" for day in range(1, 11)] + [
        "_listings.parquet"
    ]
    assert set(rows.column_names) == {*KINDS, "sequence_length"} and len(rows.column_names) == 25
    assert all(re.fullmatch(r"2023-05-\d\d \d\d:\d\d:\d\d", text) for text in rows["stime"].to_pylist())
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in rows["session_id"].to_pylist()[:100])
    sessions = rows["session_id"].to_pylist()
    assert rows["sequence_length"].to_pylist() == [sessions.count(one) for one in sessions]
    gaps = {name for name in rows.column_names if rows[name].null_count}
    assert gaps == {"brand_name", "size_name", "size_id", "color"}
    for name in gaps:
        assert 0 < rows[name].null_count < rows.num_rows
    assert rows["brand_name"].is_null().equals(pa.compute.equal(rows["brand_id"], 0))
    assert rows["size_name"].is_null().equals(rows["size_id"].is_null())


def test_an_item_is_one_thing_and_its_name_says_what(rows: pa.Table) -> None:
    described = rows.select(rows.column_names[rows.column_names.index("item_id") :])
    distinct = described.group_by(described.column_names).aggregate([])
    assert distinct.num_rows == len(set(rows["item_id"].to_pylist()))
    for row in distinct.to_pylist():
        assert row["c2_name"].lower() in row["name"].lower()
        assert row["brand_name"] is None or row["brand_name"].lower() in row["name"].lower()
        assert row["product_id"] == f"{row['brand_id']}_{int(row['c2_id'])}"
        assert row["price"] >= 3
    for level in ("c0", "c1", "c2", "brand", "item_condition", "size", "shipper"):
        pairs = {(row[f"{level}_id"], row[f"{level}_name"]) for row in distinct.to_pylist()}
        assert len(pairs) == len({number for number, _ in pairs}) > 1, level


def test_every_event_is_on_a_live_item(made: tuple[Path, Path]) -> None:
    attributes = pq.read_table(made[0] / "attributes.parquet")
    listed, sold = (attributes[name].to_numpy() for name in ("listed", "sold"))
    for name in ("train", "test"):
        sessions = split(made[0], name)
        assert (listed[sessions.items] <= sessions.times).all() and (sessions.times < sold[sessions.items]).all()
    assert attributes["listed"].null_count == attributes["sold"].null_count == 0
    assert (listed % DAY == 0).all() and (sold % DAY == 0).all()


def test_the_optimum_is_plausible_and_says_over_how_many_targets(made: tuple[Path, Path]) -> None:
    best = manifest(made[0])["optimum"]
    assert best["queries"] == manifest(made[0])["counts"]["test"]["targets"]
    for kind in ("recall", "moves"):
        for group in ("all", "seen", "unseen"):
            values = best[kind][group]
            assert list(values) == ["1", "5", "10", "20", "50", "100"]
            assert list(values.values()) == sorted(values.values()) and 0 < values["20"] < values["100"] <= 1
    assert best["moves"]["all"]["20"] < best["recall"]["all"]["20"]
    counts = pq.read_table(made[0] / "items.parquet")["count"].to_numpy()
    sessions = split(made[0], "test")
    targets = np.delete(np.asarray(sessions.items), sessions.offsets[:-1])
    assert np.mean(counts[targets] == 0) == pytest.approx(best["share_unseen"], abs=0.06)


def test_the_optimum_is_over_the_events_that_test_targets_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def remember(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {}

    monkeypatch.setattr(source, "optimum", remember)
    out = prepared(tmp_path / "data")
    ((market, seen, days, items, events),) = asked
    listed = (market.listed[items], market.ends[items])
    assert (listed[0] <= days).all() and (days < listed[1]).all()
    found = sorted(zip(days.tolist(), listed[0].tolist(), events.tolist(), strict=True))

    attributes = pq.read_table(out / "attributes.parquet")
    first = (attributes["listed"].to_numpy() - source.START) // DAY
    sessions = split(out, "test")
    assert sessions.events is not None
    followed = np.setdiff1d(np.arange(len(sessions.items)), sessions.offsets[1:] - 1)
    day = sessions.times.astype("datetime64[ms]").astype("datetime64[D]") - np.datetime64("2023-05-01")
    columns = (day.astype(int)[followed], first[sessions.items[followed]], sessions.events[followed])
    assert found == sorted(zip(*(column.tolist() for column in columns), strict=True))
    trained = pq.read_table(out / "items.parquet")["count"].to_numpy() > 0
    assert seen.sum() == trained.sum() and seen[items].sum() == trained[sessions.items[followed]].sum()


def test_a_sample_of_the_targets_says_about_the_same(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "QUERIES", 200)
    sampled, best = manifest(prepared(tmp_path / "data"))["optimum"], manifest(made[0])["optimum"]
    assert sampled["queries"] == 200
    assert sampled["recall"]["all"]["20"] == pytest.approx(best["recall"]["all"]["20"], abs=0.1)
    assert sampled != best


def test_the_files_go_through_prepare_merrec_as_well(made: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert call("prepare", "merrec", "--raw", made[1], "--out", out) == 0
    one, other = manifest(made[0]), manifest(out)
    assert "optimum" not in other and not other["live"]
    assert one["counts"] == other["counts"]
    for name in one["files"]:
        assert (one["files"][name] == other["files"][name]) == (name != "attributes.parquet")  # it has no times


def test_the_result_depends_on_the_seed_and_not_on_the_threads(made: tuple[Path, Path], tmp_path: Path) -> None:
    one = prepared(tmp_path / "one", "--threads=1")
    other = prepared(tmp_path / "four", "--threads=4", "--raw-out", tmp_path / "raw")
    assert manifest(one) == manifest(other) == manifest(made[0])
    for file in made[1].iterdir():
        assert file.read_bytes() == (tmp_path / "raw" / file.name).read_bytes()
    assert manifest(prepared(tmp_path / "seed", "--seed=1"))["content_hash"] != manifest(made[0])["content_hash"]


@pytest.mark.parametrize("options", [["--min-item-support=5"], ["--target=product"], ["--test-days=0"]])
def test_where_the_process_is_not_what_is_asked_there_is_no_optimum(tmp_path: Path, options: list[str]) -> None:
    assert "optimum" not in manifest(prepared(tmp_path / "data", *options))


def test_a_random_split_has_an_optimum_and_hardly_anything_unseen(tmp_path: Path) -> None:
    best = manifest(prepared(tmp_path / "data", "--split=random"))["optimum"]
    assert best["share_unseen"] < 0.1 and 0.2 < best["recall"]["all"]["20"] < 1


def test_only_the_data_set_is_left_behind(tmp_path: Path) -> None:
    prepared(tmp_path / "data")
    prepared(tmp_path / "more", "--raw-out", tmp_path / "raw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "more", "raw"]


def test_files_of_others_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.txt").write_text("x")
    assert call("prepare", "merrec-synthetic", "--out", tmp_path / "data", *SMALL, "--raw-out", tmp_path / "raw") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "raw: exists already and is not empty; choose another --raw-out" in line
    assert [path.name for path in tmp_path.rglob("*")] == ["raw", "mine.txt"]


@pytest.mark.parametrize("place", ["data", "data/raw"])
def test_the_files_are_not_put_where_the_data_set_replaces_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    prepared(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    options = ["--out", tmp_path / "data", "--overwrite", "--raw-out", tmp_path / place]
    assert call("prepare", "merrec-synthetic", *options, *SMALL) == 2
    assert f"{tmp_path / place}: lies in --out; choose another --raw-out" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    prepared(tmp_path / "data", "--raw-out", tmp_path / "raw")
    assert (tmp_path / "raw" / "_listings.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--items=20"], "--items 20: too few for new ones on each of --days 30; give more, or fewer days"),
        (["--names=100001"], "--names: '100001': expected a whole number from 1 to 100000"),
        (["--mean-length=2.5"], "--mean-length: '2.5': expected a number from 3 to 20"),
        (["--raw-out=/proc/nowhere/raw"], "/proc/nowhere/raw: cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_made_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert call("prepare", "merrec-synthetic", "--out", tmp_path / "data", *options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
