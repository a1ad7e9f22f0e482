"""The made-up market does what it says, and its optimum is what a plain computation and many draws confirm."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call, fails

from jaxrec.data.clean.choices import DAY
from jaxrec.data.dataset import open_sessions
from jaxrec.sources import merrec_synthetic
from jaxrec.sources.market import optimum as market_optimum
from jaxrec.sources.market.optimum import RELATIONS, Queries, optimum, top
from jaxrec.sources.market.words import CATEGORIES, STYLES, brand_words, category_levels, listing_texts
from jaxrec.sources.market.world import (
    BUY,
    CLASSES,
    LEAST_LENGTH,
    MIX,
    MOST_LENGTH,
    NEXT,
    SECONDS,
    STAY,
    Day,
    Market,
    Shelves,
    first_day,
    make_market,
    make_names,
    simulate,
)
from jaxrec.sources.merrec import ATTRIBUTES, EVENT_TYPES

DAYS, LISTINGS, LIFETIME, USERS = 8, 400, 3.0, 300


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
        self.events = self.events.astype(int)
        self.day = np.concatenate([np.full(len(day.items), day.day) for day in self.days])
        self.first = np.cumsum(self.lengths) - self.lengths
        self.queries = np.setdiff1d(np.arange(len(self.items)), np.cumsum(self.lengths) - 1)


def make_world(seed: int = 0, sequences: int = 8000) -> World:
    random = np.random.default_rng(seed)
    market = make_market(make_names(60, (5, 4, 6), 0.8, random), LISTINGS, DAYS, LIFETIME, random)
    return World(market, list(simulate(market, DAYS, sequences, 5.0, USERS, random)))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


def rank_of(market: Market) -> np.ndarray:
    rank = np.empty(LISTINGS, int)
    rank[market.order] = np.arange(LISTINGS)
    return rank


def plain_probabilities(market: Market, day: int, item: int, event: int) -> dict[int, float]:
    """P(next = j | the event) for every live j, as the description of the process has it."""
    names, name = market.names, market.name
    live = [j for j in range(len(name)) if market.listed[j] <= day < market.ends[j]]
    result = dict.fromkeys(live, 0.0)
    for shared, mix in zip(CLASSES, MIX, strict=True):
        alike = [j for j in live if all(getattr(names, a)[name[j]] == getattr(names, a)[name[item]] for a in shared)]
        whole = sum(names.weight[name[j]] for j in alike)
        for j in alike:
            result[j] += (1 - NEXT[event].sum()) * mix * names.weight[name[j]] / whole
    result[item] += NEXT[event].sum()
    return result


# ---- the process -----------------------------------------------------------------------------------------------------


def test_names_are_distinct_and_the_popular_ones_are_more_likely_among_them() -> None:
    names = make_names(300, (50, 10, 4), 1.0, np.random.default_rng(1))
    assert len(set(zip(names.brand.tolist(), names.category.tolist(), names.style.tolist(), strict=True))) == 300
    assert names.weight.sum() == pytest.approx(1) and names.weight.min() > 0
    found = np.bincount(names.brand, minlength=50)
    assert found[:5].sum() > 3 * found[-5:].sum()
    # The popularity of a name is a product: of two brands it has one ratio, whatever the category and style are.
    of = {(b, c * 4 + t): w for b, c, t, w in zip(names.brand, names.category, names.style, names.weight, strict=True)}
    ratios = [of[0, other] / of[1, other] for other in range(40) if (0, other) in of and (1, other) in of]
    assert len(ratios) > 5 and np.ptp(ratios) < 1e-12 * ratios[0]


def test_a_listing_is_live_until_it_is_bought_or_its_time_is_over(world: World) -> None:
    listed = world.market.listed[world.items]
    assert (listed <= world.day).all() and (world.day < world.market.ends[world.items]).all()
    assert len(set(listed.tolist())) == DAYS
    random = np.random.default_rng(0)
    again = make_market(make_names(60, (5, 4, 6), 0.8, random), LISTINGS, DAYS, LIFETIME, random)
    expected = again.ends.copy()
    buys = world.events == BUY
    np.minimum.at(expected, world.items[buys], world.day[buys] + 1)
    assert (world.market.ends == expected).all() and (expected < again.ends).sum() > 20


def test_the_market_stays_about_as_full_as_it_is_at_first() -> None:
    names = make_names(60, (5, 4, 6), 0.8, np.random.default_rng(2))
    market = make_market(names, 40_000, 30, 5.0, np.random.default_rng(3))
    full = first_day(40_000, 30, 5.0)
    live = np.array([len(market.live(day)) for day in range(30)])
    assert live[0] == full and np.abs(live / full - 1).max() < 0.05
    assert np.ptp(np.bincount(market.listed)[1:]) <= 1
    lives = market.ends - market.listed
    assert lives.min() == 1 and lives.mean() == pytest.approx(5, rel=0.03)


def test_nothing_that_is_live_stays_unknown() -> None:
    world = make_world(sequences=100 * DAYS)  # too few events to come by everything otherwise
    for day in (3, DAYS - 1):
        assert np.isin(world.market.live(day), world.items[world.day <= day]).all()


def test_what_follows_on_the_same_listing_is_as_stated(world: World) -> None:
    assert (NEXT >= 0).all() and (STAY <= 1).all() and STAY[BUY] == 0 and MIX.sum() == pytest.approx(1)
    before, after = world.events[world.queries], world.events[world.queries + 1]
    same = world.items[world.queries] == world.items[world.queries + 1]
    assert same[after > 0].all()  # all but views happen on the listing of the event before
    for event in range(len(EVENT_TYPES)):
        n = (before == event).sum()
        assert n > 100
        stated = NEXT[event] + (1 - STAY[event]) * (np.arange(len(EVENT_TYPES)) == 0)
        found = np.bincount(after[before == event], minlength=len(EVENT_TYPES)) / n
        assert (np.abs(found - stated) < 4.5 * np.sqrt(stated * (1 - stated) / n) + 1e-12).all(), EVENT_TYPES[event]


def test_where_a_user_goes_is_as_stated(world: World) -> None:
    # Of all queries of a day, how often each listing is expected next, and how often it is.
    day = 4
    queries = world.queries[world.day[world.queries] == day]
    expected, variance = np.zeros((2, LISTINGS))
    pairs, counts = np.unique(np.stack([world.items[queries], world.events[queries]]), axis=1, return_counts=True)
    for (item, event), count in zip(pairs.T, counts, strict=True):
        for j, p in plain_probabilities(world.market, day, item, event).items():
            expected[j] += count * p
            variance[j] += count * p * (1 - p)
    found = np.bincount(world.items[queries + 1], minlength=LISTINGS)
    assert (found[expected == 0] == 0).all()
    usual = expected > 5
    assert usual.sum() > 20
    z = (found - expected)[usual] / np.sqrt(variance[usual])
    assert np.abs(z).max() < 4.5 and np.mean(z**2) == pytest.approx(1, abs=0.6)


def test_lengths_times_and_tastes(world: World) -> None:
    assert world.lengths.min() == LEAST_LENGTH and world.lengths.max() <= MOST_LENGTH
    assert world.lengths.mean() == pytest.approx(5, rel=0.03) and len(world.lengths) == 8000
    assert world.seconds.min() >= 0 and world.seconds.max() < SECONDS
    assert (world.seconds[world.queries + 1] > world.seconds[world.queries]).all()
    category = world.market.names.category[world.market.name[world.items[world.first]]]

    def spread(users: np.ndarray) -> float:
        table = np.zeros((USERS, 4))
        np.add.at(table, (users, category), 1)
        return float((table.max(axis=1) / np.maximum(table.sum(axis=1), 1)).mean())

    assert spread(world.users) > spread(np.random.default_rng(0).permutation(world.users)) + 0.05


def test_names_say_brand_style_and_category() -> None:
    c0, c1, c2, first, second = category_levels()
    assert (len(c0), len(c1)) == (len(CATEGORIES), len(set(c1)))
    assert len(set(c2)) == len(c2) == len(first) == len(second) >= 150 and not set(c2) & set(STYLES)
    assert c0[first[c2.index("sneakers")]] == "Men" and c1[second[c2.index("sneakers")]] == "Men's shoes"
    random = np.random.default_rng(0)
    brands = brand_words(300, random)
    assert len({brand.split()[0].lower() for brand in brands}) == 300
    names = make_names(4000, (301, len(c2), len(STYLES)), 0.5, random)
    texts = listing_texts(names.brand, names.category, names.style, brands, random)
    assert len({text.lower() for text in texts}) == 4000 and len({text == text.lower() for text in texts}) == 2
    for text, brand, category, style in zip(texts, names.brand, names.category, names.style, strict=True):
        words = text.lower().split()
        assert c2[category] in words and STYLES[style] in words
        assert not brand or brands[brand - 1].lower() in text.lower()


# ---- the optimum -----------------------------------------------------------------------------------------------------


def plain_top(world: World, query: int) -> list[tuple[int, float]]:
    rank = rank_of(world.market)
    chances = plain_probabilities(world.market, world.day[query], world.items[query], world.events[query])
    return sorted(chances.items(), key=lambda pair: (-round(pair[1], 14), rank[pair[0]]))


def test_the_most_likely_listings_are_those_of_brute_force(world: World) -> None:
    keys = [world.market.names.keys(shared) for shared in RELATIONS]
    random = np.random.default_rng(0)
    for day in (0, 5):
        stands = [Shelves(world.market, world.market.live(day), key) for key in keys]
        chosen = random.choice(world.queries[world.day[world.queries] == day], 60, replace=False)
        queries = Queries(world.market, keys, stands, world.items[chosen], world.events[chosen])
        plain = [plain_top(world, query) for query in chosen]
        for k in (1, 2, 5, 20, 300):
            listings, probability = top(queries, rank_of(world.market), k)
            assert listings.shape == (60, k)
            for row, best in enumerate(plain):
                best = best[:k]
                assert probability[row, : len(best)].tolist() == pytest.approx([p for _, p in best], abs=1e-12)
                assert listings[row, : len(best)].tolist() == [j for j, _ in best]
                assert (probability[row, len(best) :] == 0).all()


def test_the_optimum_is_that_of_brute_force(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_optimum, "KS", (1, 3, 8))
    monkeypatch.setattr(market_optimum, "BLOCK", 11)
    seen = np.random.default_rng(1).random(LISTINGS) < 0.4
    chosen = np.random.default_rng(2).choice(world.queries, 100, replace=False)
    found = optimum(world.market, seen, world.day[chosen], world.items[chosen], world.events[chosen])
    assert found["queries"] == 100
    plain = [(world.items[query], plain_top(world, query)) for query in chosen]
    for kind in ("recall", "moves"):
        for group, which in (("all", seen | True), ("seen", seen), ("unseen", ~seen)):
            caught, mass = np.zeros(8), 0.0
            for item, best in plain:
                counts = [p * which[j] * (kind == "recall" or j != item) for j, p in best]
                caught += np.cumsum(counts[:8])
                mass += sum(counts)
            for k in (1, 3, 8):
                assert found[kind][group][str(k)] == pytest.approx(caught[k - 1] / mass, abs=2e-9), (kind, group, k)
            if (kind, group) == ("recall", "unseen"):
                assert found["share_unseen"] == pytest.approx(mass / 100, abs=2e-9)


def test_many_draws_agree_with_the_optimum(world: World) -> None:
    seen = np.isin(np.arange(LISTINGS), world.items[world.day < 6])
    queries = world.queries[world.day[world.queries] >= 6]
    items, targets = world.items[queries], world.items[queries + 1]
    stated = optimum(world.market, seen, world.day[queries], items, world.events[queries])
    keys = [world.market.names.keys(shared) for shared in RELATIONS]
    place = np.full(len(queries), 10**6)
    for day in (6, 7):
        these = np.flatnonzero(world.day[queries] == day)
        stands = [Shelves(world.market, world.market.live(day), key) for key in keys]
        asked = Queries(world.market, keys, stands, items[these], world.events[queries[these]])
        hit = top(asked, rank_of(world.market), 100)[0] == targets[these, None]
        place[these] = np.where(hit.any(axis=1), hit.argmax(axis=1), 10**6)
    for kind, counted in (("recall", np.full(len(queries), True)), ("moves", targets != items)):
        for group, of in (("all", counted), ("seen", counted & seen[targets]), ("unseen", counted & ~seen[targets])):
            assert of.sum() > 300
            for k in ("1", "5", "20"):
                p = stated[kind][group][k]
                error = 4.5 * np.sqrt(p * (1 - p) / of.sum()) + 1e-3
                assert np.mean(place[of] < int(k)) == pytest.approx(p, abs=error), (kind, group, k)
    assert stated["share_unseen"] == pytest.approx(np.mean(~seen[targets]), abs=0.02)


def test_a_group_without_targets_is_left_out(world: World) -> None:
    chosen = world.queries[:5]
    found = optimum(world.market, np.ones(LISTINGS, bool), world.day[chosen], world.items[chosen], world.events[chosen])
    assert list(found["recall"]) == list(found["moves"]) == ["all", "seen"] and found["share_unseen"] == 0
    assert found["recall"]["seen"] == found["recall"]["all"]


# ---- as files, through prepare ---------------------------------------------------------------------------------------

SMALL = ["--events=6000", "--items=600", "--names=500", "--users=200", "--days=10"]


def prepared(out: Path, *options: object) -> Path:
    assert call("prepare", "merrec-synthetic", "--out", out, *SMALL, *options) == 0
    return out


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset directory and the raw files that it was made of, and nothing besides."""
    folder = tmp_path_factory.mktemp("market")
    prepared(folder / "data", "--raw-out", folder / "some" / "raw")
    assert sorted(path.name for path in folder.iterdir()) == ["data", "some"]
    return folder / "data", folder / "some" / "raw"


def test_the_files_have_the_columns_of_merrec(made: tuple[Path, Path]) -> None:
    names = [f"202305{day:02}.parquet" for day in range(1, 11)] + ["_listings.parquet"]
    assert [file.name for file in sorted(made[1].iterdir())] == names
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(made[1].glob("[!_]*.parquet"))])
    assert set(rows.column_names) >= {"item_id", *ATTRIBUTES} and len(rows.column_names) == 25
    assert all(re.fullmatch(r"2023-05-\d\d \d\d:\d\d:\d\d", text) for text in rows["stime"].to_pylist())
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in rows["session_id"].to_pylist()[:100])
    assert {n for n in rows.column_names if rows[n].null_count} == {"brand_name", "size_name", "size_id", "color"}
    described = rows.select(rows.column_names[rows.column_names.index("item_id") :])
    distinct = described.group_by(described.column_names).aggregate([])  # an item is one thing
    assert distinct.num_rows == len(set(rows["item_id"].to_pylist()))
    for row in distinct.to_pylist():
        assert row["c2_name"].lower() in row["name"].lower() and row["price"] >= 3
        assert row["brand_name"] is None or row["brand_name"].lower() in row["name"].lower()
        assert row["product_id"] == f"{row['brand_id']}_{int(row['c2_id'])}"
    for level in ("c0", "c1", "c2", "brand", "item_condition", "size", "shipper"):
        pairs = {(row[f"{level}_id"], row[f"{level}_name"]) for row in distinct.to_pylist()}
        assert len(pairs) == len({number for number, _ in pairs}) > 1, level


def test_the_data_set_is_of_the_size_that_was_asked_and_on_live_items(made: tuple[Path, Path]) -> None:
    entries = manifest(made[0])
    assert (entries["target"], entries["live"]) == ("item", True)
    counts = entries["counts"]
    assert sum(counts["events"].values()) == pytest.approx(6000, rel=0.06)
    assert 500 < counts["items"] <= 600 and 50 < counts["names"] <= 500 and 0 < counts["trained"] < counts["items"]
    attributes = pq.read_table(made[0] / "attributes.parquet")
    listed, sold = (attributes[name].to_numpy() for name in ("listed", "sold"))
    for name in ("train", "test"):
        sessions = open_sessions(made[0]).split(name)
        assert (listed[sessions.items] <= sessions.times).all() and (sessions.times < sold[sessions.items]).all()
    best = entries["optimum"]
    assert best["queries"] == counts["test"]["targets"] and best["moves"]["all"]["20"] < best["recall"]["all"]["20"]
    trained = pq.read_table(made[0] / "items.parquet")["count"].to_numpy() > 0
    sessions = open_sessions(made[0]).split("test")
    targets = np.delete(np.asarray(sessions.items), sessions.offsets[:-1])
    assert np.mean(~trained[targets]) == pytest.approx(best["share_unseen"], abs=0.06)


def test_the_optimum_is_over_the_events_that_test_targets_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def remember(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {}

    monkeypatch.setattr(merrec_synthetic, "optimum", remember)
    out = prepared(tmp_path / "data")
    ((market, seen, days, items, events),) = asked
    assert (market.listed[items] <= days).all() and (days < market.ends[items]).all()
    first = (pq.read_table(out / "attributes.parquet")["listed"].to_numpy() - merrec_synthetic.START) // DAY
    sessions = open_sessions(out).split("test")
    assert sessions.events is not None
    followed = np.setdiff1d(np.arange(len(sessions.items)), sessions.offsets[1:] - 1)
    columns = ((sessions.times[followed] - merrec_synthetic.START) // DAY, first[sessions.items[followed]],
               sessions.events[followed])  # fmt: skip
    found = zip(days.tolist(), market.listed[items].tolist(), events.tolist(), strict=True)
    assert sorted(found) == sorted(zip(*(column.tolist() for column in columns), strict=True))
    trained = pq.read_table(out / "items.parquet")["count"].to_numpy() > 0
    assert seen.sum() == trained.sum() and seen[items].sum() == trained[sessions.items[followed]].sum()


def test_the_files_go_through_prepare_merrec_as_well(made: tuple[Path, Path], tmp_path: Path) -> None:
    assert call("prepare", "merrec", "--raw", made[1], "--out", tmp_path / "data") == 0
    one, other = manifest(made[0]), manifest(tmp_path / "data")
    assert "optimum" not in other and not other["live"] and one["counts"] == other["counts"]
    for name in one["files"]:
        assert (one["files"][name] == other["files"][name]) == (name != "attributes.parquet")  # it has no times


def test_the_result_depends_on_the_seed_and_not_on_the_threads(made: tuple[Path, Path], tmp_path: Path) -> None:
    assert manifest(prepared(tmp_path / "four", "--threads=4")) == manifest(made[0])
    assert manifest(prepared(tmp_path / "seed", "--seed=1"))["content_hash"] != manifest(made[0])["content_hash"]


@pytest.mark.parametrize("options", [["--min-item-support=5"], ["--target=product"], ["--test-days=0"]])
def test_where_the_process_is_not_what_is_asked_there_is_no_optimum(tmp_path: Path, options: list[str]) -> None:
    assert "optimum" not in manifest(prepared(tmp_path / "data", *options))


def test_a_random_split_has_an_optimum_of_a_sample_of_its_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merrec_synthetic, "QUERIES", 200)
    best = manifest(prepared(tmp_path / "data", "--split=random"))["optimum"]
    assert best["queries"] == 200 and best["share_unseen"] < 0.1 and 0.2 < best["recall"]["all"]["20"] < 1


@pytest.mark.parametrize(("options", "names"), [
    (["--items=10"], "--items 10: too few"),
    (["--names=100001"], "--names: '100001'"),
    (["--mean-length=2.5"], "--mean-length: '2.5'"),
    (["--raw-out=/proc/nowhere/raw"], "/proc/nowhere/raw: .*No such file"),
    (["--raw-out={place}/full"], "full: exists already and is not empty"),
    (["--raw-out={place}/data/raw"], "data/raw: lies in --out"),
])  # fmt: skip
def test_bad_options(options: list[str], names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    words = [word.format(place=tmp_path) for word in options]
    fails(capsys, "prepare", "merrec-synthetic", "--out", tmp_path / "data", "--days=10", *words, names=names)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "mine.txt"]
