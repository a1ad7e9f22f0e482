"""The made-up market does what it says, and its optimum is what a plain computation and many draws confirm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call, open_sessions

from jaxrec.sources.market import world as process
from jaxrec.sources.market.world import MIX, NEXT, STAY, Market, Queries, Shelves, make_market, optimum, simulate
from jaxrec.sources.merrec import ATTRIBUTES

DAYS, LISTINGS, USERS = 8, 400, 300


def make() -> Market:
    return make_market(60, (5, 4, 6), 0.8, LISTINGS, DAYS, 3.0, np.random.default_rng(0))


class World:
    """A small market and what happened on it, one event after the other."""

    def __init__(self) -> None:
        self.market = make()
        days = list(simulate(self.market, DAYS, 8000, 5.0, USERS, np.random.default_rng(1)))
        self.lengths, self.users, self.items, self.events, self.seconds = (
            np.concatenate([getattr(day, name) for day in days])
            for name in ("lengths", "users", "items", "events", "seconds")
        )
        self.day = np.concatenate([np.full(len(day.items), day.day) for day in days])
        self.queries = np.setdiff1d(np.arange(len(self.items)), np.cumsum(self.lengths) - 1)
        self.rank = np.argsort(self.market.order)

    def best(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """``Queries.top`` of queries of one day."""
        live = self.market.live(self.day[queries[0]])
        shelves = [Shelves(self.market, live, self.market.keys(shared)) for shared in process.RELATIONS]
        return Queries(self.market, shelves, self.items[queries], self.events[queries]).top(k)

    def plain(self, query: int) -> list[tuple[int, float]]:
        """P(next = j | the event) for every live j, as the description of the process has it, best first."""
        market, name, item = self.market, self.market.name, self.items[query]
        day, stay = self.day[query], NEXT[self.events[query]].sum()
        live = [j for j in range(len(name)) if market.listed[j] <= day < market.ends[j]]
        found = dict.fromkeys(live, 0.0)
        for shared, mix in zip(process.CLASSES, MIX, strict=True):
            alike = [j for j in live
                     if all(getattr(market, a)[name[j]] == getattr(market, a)[name[item]] for a in shared)]  # fmt: skip
            whole = sum(market.popularity[name[j]] for j in alike)
            for j in alike:
                found[j] += (1 - stay) * mix * market.popularity[name[j]] / whole
        found[item] += stay
        return sorted(found.items(), key=lambda pair: (-round(pair[1], 14), self.rank[pair[0]]))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_listing_is_live_until_it_is_bought_or_its_time_is_over(world: World) -> None:
    listed, again, buys = world.market.listed[world.items], make(), world.events == process.BUY
    assert (listed <= world.day).all() and (world.day < world.market.ends[world.items]).all()
    expected = again.ends.copy()
    np.minimum.at(expected, world.items[buys], world.day[buys] + 1)
    assert (world.market.ends == expected).all() and (expected < again.ends).sum() > 20


def test_what_follows_is_as_stated(world: World) -> None:
    assert (STAY <= 1).all() and STAY[process.BUY] == 0 and MIX.sum() == pytest.approx(1)
    before, after = world.events[world.queries], world.events[world.queries + 1]
    same = world.items[world.queries] == world.items[world.queries + 1]
    assert same[after > 0].all()  # all but views happen on the listing of the event before
    for event, row in enumerate(NEXT):
        n = (before == event).sum()
        stated = row + (1 - STAY[event]) * (np.arange(len(row)) == 0)
        found = np.bincount(after[before == event], minlength=len(row)) / n
        assert n > 100 and (np.abs(found - stated) < 4.5 * np.sqrt(stated * (1 - stated) / n) + 1e-12).all()
    assert world.lengths.min() == 3 and world.lengths.mean() == pytest.approx(5, rel=0.03)
    assert world.seconds.min() >= 0 and world.seconds.max() < process.SECONDS
    assert (world.seconds[world.queries + 1] > world.seconds[world.queries]).all()


def test_the_optimum_is_that_of_brute_force(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = np.random.default_rng(0).choice(world.queries[world.day[world.queries] == 5], 40, replace=False)
    for query, listings, probability in zip(chosen, *world.best(chosen, 300), strict=True):
        plain = world.plain(query)
        assert listings[: len(plain)].tolist() == [j for j, _ in plain]
        assert probability.tolist() == pytest.approx([p for _, p in plain] + [0.0] * (300 - len(plain)), abs=1e-12)
    monkeypatch.setattr(process, "KS", (1, 3, 8))
    monkeypatch.setattr(process, "BLOCK", 11)
    seen = np.random.default_rng(1).random(LISTINGS) < 0.4
    chosen = np.random.default_rng(2).choice(world.queries, 60, replace=False)
    found = optimum(world.market, seen, world.day[chosen], world.items[chosen], world.events[chosen])
    plains = [(world.items[query], world.plain(query)) for query in chosen]
    for kind in ("recall", "moves"):
        for group, which in (("all", seen | True), ("seen", seen), ("unseen", ~seen)):
            counts = [[p * which[j] * (kind == "recall" or j != item) for j, p in best] for item, best in plains]
            caught, mass = np.sum([np.cumsum(one[:8]) for one in counts], axis=0), sum(map(sum, counts))
            stated = [found[kind][group][str(k)] for k in (1, 3, 8)]
            assert stated == pytest.approx([caught[k - 1] / mass for k in (1, 3, 8)], abs=2e-9), (kind, group)
    assert found["share_unseen"] == pytest.approx(sum(p for _, best in plains for j, p in best if not seen[j]) / 60)


def manifest(out: Path, *options: object) -> dict[str, Any]:
    small = ["--events=6000", "--items=600", "--names=500", "--users=200", "--days=10"]
    assert call("prepare", "merrec-synthetic", "--out", out, *small, *options) == 0
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_the_files_and_the_data_set(tmp_path: Path) -> None:
    raw, data = tmp_path / "some" / "raw", tmp_path / "data"
    entries = manifest(data, "--raw-out", raw)
    columns = ["item_id", *ATTRIBUTES]
    described = pa.concat_tables([pq.read_table(file, columns=columns) for file in raw.glob("2*.parquet")])
    distinct = described.group_by(described.column_names).aggregate([]).to_pylist()
    assert len(distinct) == len(set(described["item_id"].to_pylist()))  # an item is one thing
    assert all(row["c2_name"].lower() in row["name"].lower() for row in distinct)
    counts, best, sessions = entries["counts"], entries["optimum"], open_sessions(data).split("test")
    assert sum(counts["events"].values()) == pytest.approx(6000, rel=0.06)
    listed, sold = (pq.read_table(data / "attributes.parquet")[name].to_numpy() for name in ("listed", "sold"))
    assert (listed[sessions.items] <= sessions.times).all() and (sessions.times < sold[sessions.items]).all()
    assert best["queries"] == counts["test"]["targets"] and best["moves"]["all"]["20"] < best["recall"]["all"]["20"]
    trained = pq.read_table(data / "items.parquet")["count"].to_numpy() > 0
    targets = np.delete(np.asarray(sessions.items), sessions.offsets[:-1])
    assert np.mean(~trained[targets]) == pytest.approx(best["share_unseen"], abs=0.06)
    assert call("prepare", "merrec", "--raw", raw, "--out", tmp_path / "again") == 0
    other = json.loads((tmp_path / "again" / "manifest.json").read_text(encoding="utf-8"))
    different = {name for name, one in entries["files"].items() if other["files"][name] != one}
    assert different == {"attributes.parquet"} and "optimum" not in other  # which has no times
    assert "optimum" not in manifest(tmp_path / "rare", "--min-item-support=5")
