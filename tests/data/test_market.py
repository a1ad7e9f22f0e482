"""The made-up market does what it says, and its optimum is what a plain computation and many draws confirm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call, fails

from jaxrec.data.dataset import open_sessions
from jaxrec.sources import merrec_synthetic
from jaxrec.sources.market import optimum as market_optimum
from jaxrec.sources.market.optimum import RELATIONS, Queries, optimum
from jaxrec.sources.market.world import (
    BUY,
    CLASSES,
    LEAST_LENGTH,
    MIX,
    NEXT,
    SECONDS,
    STAY,
    Day,
    Market,
    Shelves,
    first_day,
    make_market,
    simulate,
)
from jaxrec.sources.merrec import ATTRIBUTES, EVENT_TYPES

DAYS, LISTINGS, LIFETIME, USERS = 8, 400, 3.0, 300


def make(random: np.random.Generator) -> Market:
    return make_market(60, (5, 4, 6), 0.8, LISTINGS, DAYS, LIFETIME, random)


@dataclass
class World:
    """A small market and what happened on it, one event after the other."""

    market: Market
    days: list[Day]

    def __post_init__(self) -> None:
        self.lengths, self.users, self.items, self.events, self.seconds = (
            np.concatenate([getattr(day, name) for day in self.days])
            for name in ("lengths", "users", "items", "events", "seconds")
        )
        self.day = np.concatenate([np.full(len(day.items), day.day) for day in self.days])
        self.first = np.cumsum(self.lengths) - self.lengths
        self.queries = np.setdiff1d(np.arange(len(self.items)), np.cumsum(self.lengths) - 1)
        self.rank = np.argsort(self.market.order)

    def best(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """``Queries.top`` of queries of one day."""
        live = self.market.live(self.day[queries[0]])
        shelves = [Shelves(self.market, live, self.market.keys(shared)) for shared in RELATIONS]
        return Queries(self.market, shelves, self.items[queries], self.events[queries]).top(self.rank, k)

    def plain(self, query: int) -> list[tuple[int, float]]:
        """P(next = j | the event) for every live j, as the description of the process has it, best first."""
        market, name, item = self.market, self.market.name, self.items[query]
        day, event = self.day[query], self.events[query]
        live = [j for j in range(len(name)) if market.listed[j] <= day < market.ends[j]]
        found = dict.fromkeys(live, 0.0)
        for shared, mix in zip(CLASSES, MIX, strict=True):
            alike = [j for j in live
                     if all(getattr(market, a)[name[j]] == getattr(market, a)[name[item]] for a in shared)]  # fmt: skip
            whole = sum(market.popularity[name[j]] for j in alike)
            for j in alike:
                found[j] += (1 - NEXT[event].sum()) * mix * market.popularity[name[j]] / whole
        found[item] += NEXT[event].sum()
        return sorted(found.items(), key=lambda pair: (-round(pair[1], 14), self.rank[pair[0]]))


@pytest.fixture(scope="module")
def world() -> World:
    random = np.random.default_rng(0)
    market = make(random)
    return World(market, list(simulate(market, DAYS, 8000, 5.0, USERS, random)))


# ---- the process -----------------------------------------------------------------------------------------------------


def test_a_listing_is_live_until_it_is_bought_or_its_time_is_over(world: World) -> None:
    listed = world.market.listed[world.items]
    assert (listed <= world.day).all() and (world.day < world.market.ends[world.items]).all()
    again = make(np.random.default_rng(0))
    expected = again.ends.copy()
    buys = world.events == BUY
    np.minimum.at(expected, world.items[buys], world.day[buys] + 1)
    assert (world.market.ends == expected).all() and (expected < again.ends).sum() > 20
    assert np.isin(world.market.live(DAYS - 1), world.items).all()  # nothing stays unknown
    names = list(zip(again.brand.tolist(), again.category.tolist(), again.style.tolist(), strict=True))
    assert len(set(names)) == 60 and again.popularity.sum() == pytest.approx(1)


def test_the_market_stays_about_as_full_as_it_is_at_first() -> None:
    market = make_market(60, (5, 4, 6), 0.8, 40_000, 30, 5.0, np.random.default_rng(3))
    live = np.array([len(market.live(day)) for day in range(30)])
    assert live[0] == first_day(40_000, 30, 5.0) and np.abs(live / live[0] - 1).max() < 0.05
    assert (market.ends - market.listed).mean() == pytest.approx(5, rel=0.03)


def test_what_follows_on_the_same_listing_is_as_stated(world: World) -> None:
    assert (STAY <= 1).all() and STAY[BUY] == 0 and MIX.sum() == pytest.approx(1)
    before, after = world.events[world.queries], world.events[world.queries + 1]
    same = world.items[world.queries] == world.items[world.queries + 1]
    assert same[after > 0].all()  # all but views happen on the listing of the event before
    for event in range(len(EVENT_TYPES)):
        n = (before == event).sum()
        stated = NEXT[event] + (1 - STAY[event]) * (np.arange(len(EVENT_TYPES)) == 0)
        found = np.bincount(after[before == event], minlength=len(EVENT_TYPES)) / n
        assert n > 100 and (np.abs(found - stated) < 4.5 * np.sqrt(stated * (1 - stated) / n) + 1e-12).all()


def test_lengths_times_and_tastes(world: World) -> None:
    assert world.lengths.min() == LEAST_LENGTH and world.lengths.mean() == pytest.approx(5, rel=0.03)
    assert world.seconds.min() >= 0 and world.seconds.max() < SECONDS
    assert (world.seconds[world.queries + 1] > world.seconds[world.queries]).all()
    category = world.market.category[world.market.name[world.items[world.first]]]

    def spread(users: np.ndarray) -> float:
        table = np.zeros((USERS, 4))
        np.add.at(table, (users, category), 1)
        return float((table.max(axis=1) / np.maximum(table.sum(axis=1), 1)).mean())

    assert spread(world.users) > spread(np.random.default_rng(0).permutation(world.users)) + 0.05


# ---- the optimum -----------------------------------------------------------------------------------------------------


def test_the_most_likely_listings_are_those_of_brute_force(world: World) -> None:
    for day in (0, 5):
        chosen = np.random.default_rng(0).choice(world.queries[world.day[world.queries] == day], 40, replace=False)
        plain = [world.plain(query) for query in chosen]
        for k in (1, 5, 300):
            for row, best in zip(zip(*world.best(chosen, k), strict=True), plain, strict=True):
                listings, probability = row
                n = len(best[:k])
                assert listings[:n].tolist() == [j for j, _ in best[:k]]
                assert probability.tolist() == pytest.approx([p for _, p in best[:k]] + [0.0] * (k - n), abs=1e-12)


def test_the_optimum_is_that_of_brute_force(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_optimum, "KS", (1, 3, 8))
    monkeypatch.setattr(market_optimum, "BLOCK", 11)
    seen = np.random.default_rng(1).random(LISTINGS) < 0.4
    chosen = np.random.default_rng(2).choice(world.queries, 60, replace=False)
    asked = world.day[chosen], world.items[chosen], world.events[chosen]
    found, plain = optimum(world.market, seen, *asked), [(world.items[query], world.plain(query)) for query in chosen]
    for kind in ("recall", "moves"):
        for group, which in (("all", seen | True), ("seen", seen), ("unseen", ~seen)):
            counts = [[p * which[j] * (kind == "recall" or j != item) for j, p in best] for item, best in plain]
            caught, mass = np.sum([np.cumsum(one[:8]) for one in counts], axis=0), sum(map(sum, counts))
            stated = [found[kind][group][str(k)] for k in (1, 3, 8)]
            assert stated == pytest.approx([caught[k - 1] / mass for k in (1, 3, 8)], abs=2e-9), (kind, group)
            if (kind, group) == ("recall", "unseen"):
                assert found["share_unseen"] == pytest.approx(mass / 60, abs=2e-9)
    whole = optimum(world.market, seen | True, *asked)
    assert list(whole["recall"]) == ["all", "seen"] and whole["recall"]["seen"] == whole["recall"]["all"]


def test_many_draws_agree_with_the_optimum(world: World) -> None:
    seen = np.isin(np.arange(LISTINGS), world.items[world.day < 6])
    queries = world.queries[world.day[world.queries] >= 6]
    items, targets = world.items[queries], world.items[queries + 1]
    stated = optimum(world.market, seen, world.day[queries], items, world.events[queries])
    hit = np.concatenate([world.best(queries[world.day[queries] == day], 20)[0] for day in (6, 7)]) == targets[:, None]
    place = np.where(hit.any(axis=1), hit.argmax(axis=1), 10**6)
    for kind, counted in (("recall", np.full(len(queries), True)), ("moves", targets != items)):
        for group, of in (("all", counted), ("seen", counted & seen[targets]), ("unseen", counted & ~seen[targets])):
            for k in ("1", "5", "20"):
                p = stated[kind][group][k]
                error = 4.5 * np.sqrt(p * (1 - p) / of.sum()) + 1e-3
                assert of.sum() > 300 and np.mean(place[of] < int(k)) == pytest.approx(p, abs=error), (kind, group, k)


# ---- as files, through prepare ---------------------------------------------------------------------------------------


def manifest(out: Path, *options: object) -> dict[str, Any]:
    small = ["--events=6000", "--items=600", "--names=500", "--users=200", "--days=10"]
    assert call("prepare", "merrec-synthetic", "--out", out, *small, *options) == 0
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_the_files_and_the_data_set(tmp_path: Path) -> None:
    raw, data = tmp_path / "some" / "raw", tmp_path / "data"
    entries = manifest(data, "--raw-out", raw)
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(raw.glob("[!_]*.parquet"))])
    assert set(rows.column_names) >= {"item_id", *ATTRIBUTES} and len(rows.column_names) == 25
    described = rows.select(rows.column_names[rows.column_names.index("item_id") :])
    distinct = described.group_by(described.column_names).aggregate([]).to_pylist()
    assert len(distinct) == len(set(rows["item_id"].to_pylist()))  # an item is one thing
    for row in distinct:
        assert row["c2_name"].lower() in row["name"].lower() and row["price"] >= 3
        assert row["brand_name"] is None or row["brand_name"].lower() in row["name"].lower()
        assert row["product_id"] == f"{row['brand_id']}_{int(row['c2_id'])}"
    counts, best = entries["counts"], entries["optimum"]
    assert sum(counts["events"].values()) == pytest.approx(6000, rel=0.06) and 0 < counts["trained"] < counts["items"]
    attributes = pq.read_table(data / "attributes.parquet")
    listed, sold = (attributes[name].to_numpy() for name in ("listed", "sold"))
    sessions = open_sessions(data).split("test")
    assert (listed[sessions.items] <= sessions.times).all() and (sessions.times < sold[sessions.items]).all()
    assert best["queries"] == counts["test"]["targets"] and best["moves"]["all"]["20"] < best["recall"]["all"]["20"]
    trained = pq.read_table(data / "items.parquet")["count"].to_numpy() > 0
    targets = np.delete(np.asarray(sessions.items), sessions.offsets[:-1])
    assert np.mean(~trained[targets]) == pytest.approx(best["share_unseen"], abs=0.06)
    assert call("prepare", "merrec", "--raw", raw, "--out", tmp_path / "again") == 0
    other = json.loads((tmp_path / "again" / "manifest.json").read_text(encoding="utf-8"))
    assert "optimum" not in other and entries["counts"] == other["counts"]
    different = {name for name, one in entries["files"].items() if other["files"][name] != one}
    assert different == {"attributes.parquet"}  # which has no times
    assert manifest(tmp_path / "four", "--threads=4") == entries


def test_where_there_is_an_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merrec_synthetic, "QUERIES", 200)
    best = manifest(tmp_path / "random", "--split=random")["optimum"]
    assert best["queries"] == 200 and best["share_unseen"] < 0.1 and 0.2 < best["recall"]["all"]["20"] < 1
    for number, options in enumerate(["--min-item-support=5", "--target=product", "--test-days=0"]):
        assert "optimum" not in manifest(tmp_path / str(number), options), options


@pytest.mark.parametrize(("option", "names"), [
    ("--items=10", "--items 10: too few"),
    ("--raw-out=/proc/nowhere/raw", "/proc/nowhere/raw: .*No such file"),
    ("--raw-out={place}/full", "full: exists already and is not empty"),
    ("--raw-out={place}/data/raw", "data/raw: lies in --out"),
])  # fmt: skip
def test_options_that_no_market_has(
    option: str, names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    words = ["--out", tmp_path / "data", "--days=10", option.format(place=tmp_path)]
    fails(capsys, "prepare", "merrec-synthetic", *words, names=names)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "mine.txt"]
