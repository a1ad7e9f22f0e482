"""The made-up market does what it says, and its optimum is what a plain computation and many draws confirm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

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
    first_day,
    make_market,
    make_names,
    shelves,
    simulate,
)
from jaxrec.sources.merrec_columns import EVENT_TYPES

DAYS, LISTINGS, LIFETIME, USERS = 8, 400, 3.0, 300


@dataclass
class World:
    """A small market and what happened on it, one event after the other."""

    market: Market
    days: list[Day]

    def __post_init__(self) -> None:
        self.lengths = np.concatenate([day.lengths for day in self.days])
        self.items = np.concatenate([day.items for day in self.days])
        self.events = np.concatenate([day.events for day in self.days]).astype(int)
        self.seconds = np.concatenate([day.seconds for day in self.days])
        self.users = np.concatenate([day.users for day in self.days])
        self.day = np.concatenate([np.full(len(day.items), day.day) for day in self.days])
        last = np.cumsum(self.lengths) - 1
        self.first = last - self.lengths + 1
        self.queries = np.setdiff1d(np.arange(len(self.items)), last)


def make_world(seed: int = 0, sequences: int = 8000, names: int = 60) -> World:
    random = np.random.default_rng(seed)
    market = make_market(make_names(names, 5, 4, 6, 0.8, random), LISTINGS, DAYS, LIFETIME, random)
    return World(market, list(simulate(market, DAYS, sequences, 5.0, USERS, random)))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


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


def test_names_are_distinct_and_the_popular_ones_are_more_likely_among_them() -> None:
    names = make_names(300, 50, 10, 4, 1.0, np.random.default_rng(1))
    combined = set(zip(names.brand.tolist(), names.category.tolist(), names.style.tolist(), strict=True))
    assert len(combined) == 300 == len(names.weight)
    assert names.weight.sum() == pytest.approx(1) and names.weight.min() > 0
    found = np.bincount(names.brand, minlength=50)
    assert found[:5].sum() > 3 * found[-5:].sum()
    # The popularity of a name is a product: of two brands it has one ratio, whatever the category and style are.
    of = {(b, c * 4 + t): w for b, c, t, w in zip(names.brand, names.category, names.style, names.weight, strict=True)}
    ratios = [of[0, other] / of[1, other] for other in range(40) if (0, other) in of and (1, other) in of]
    assert len(ratios) > 5 and np.ptp(ratios) < 1e-12 * ratios[0]


def test_every_event_is_on_a_listing_that_is_live(world: World) -> None:
    listed = world.market.listed[world.items]
    assert (listed <= world.day).all() and (world.day < world.market.ends[world.items]).all()
    assert len(set(listed.tolist())) == DAYS


def test_what_is_bought_is_gone_the_next_day_and_the_rest_is_not_gone_before_its_time(world: World) -> None:
    bought = np.unique(world.items[world.events == BUY])
    assert len(bought) > 20
    for item in bought:
        first = world.day[(world.items == item) & (world.events == BUY)].min()
        assert world.market.ends[item] == first + 1
    untouched = np.setdiff1d(np.arange(LISTINGS), bought)
    random = np.random.default_rng(0)
    again = make_market(make_names(60, 5, 4, 6, 0.8, random), LISTINGS, DAYS, LIFETIME, random)
    assert (world.market.ends[untouched] == again.ends[untouched]).all()
    assert (world.market.ends[bought] <= again.ends[bought]).all()


def test_the_market_stays_about_as_full_as_it_is_at_first() -> None:
    market = make_market(
        make_names(60, 5, 4, 6, 0.8, np.random.default_rng(2)), 40_000, 30, 5.0, np.random.default_rng(3)
    )
    full = first_day(40_000, 30, 5.0)
    live = np.array([len(market.live(day)) for day in range(30)])
    assert live[0] == full and np.abs(live / full - 1).max() < 0.05
    assert np.ptp(np.bincount(market.listed)[1:]) <= 1
    assert (market.ends - market.listed).min() == 1 and (market.ends - market.listed).mean() == pytest.approx(
        5, rel=0.03
    )


def test_nothing_that_is_live_stays_unknown() -> None:
    world = make_world(sequences=100 * DAYS)  # too few events to come by everything otherwise
    for day in (3, DAYS - 1):
        assert np.isin(world.market.live(day), world.items[world.day <= day]).all()


def test_what_follows_on_the_same_listing_is_as_stated(world: World) -> None:
    before, after = world.events[world.queries], world.events[world.queries + 1]
    same = world.items[world.queries] == world.items[world.queries + 1]
    assert same[after > 0].all()  # all but views happen on the listing of the event before
    for event in range(len(EVENT_TYPES)):
        n = (before == event).sum()
        assert n > 100
        stated = NEXT[event] + (1 - STAY[event]) * (np.arange(len(EVENT_TYPES)) == 0)
        found = np.bincount(after[before == event], minlength=len(EVENT_TYPES)) / n
        assert (np.abs(found - stated) < 4.5 * np.sqrt(stated * (1 - stated) / n) + 1e-12).all(), EVENT_TYPES[event]


def test_most_events_are_views_and_the_table_is_one_of_probabilities(world: World) -> None:
    shares = np.bincount(world.events, minlength=len(EVENT_TYPES)) / len(world.events)
    assert shares[0] > 0.7 and (shares > 0.003).all()
    assert (NEXT >= 0).all() and (STAY <= 1).all() and STAY[BUY] == 0 and MIX.sum() == pytest.approx(1)


def test_where_a_user_goes_is_as_stated(world: World) -> None:
    # Of all queries of a day, how often each listing is expected next, and how often it is.
    day = 4
    queries = world.queries[world.day[world.queries] == day]
    expected = np.zeros(LISTINGS)
    variance = np.zeros(LISTINGS)
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


def test_lengths_and_times(world: World) -> None:
    assert world.lengths.min() == LEAST_LENGTH and world.lengths.max() <= MOST_LENGTH
    assert world.lengths.mean() == pytest.approx(5, rel=0.03) and len(world.lengths) == 8000
    assert world.seconds.min() >= 0 and world.seconds.max() < SECONDS
    assert (world.seconds[world.queries + 1] > world.seconds[world.queries]).all()
    # The length says nothing about the events: buying is as frequent in long sequences as in short ones.
    long = np.repeat(world.lengths > 6, world.lengths)
    third = world.first + 2
    buys = [np.mean(world.events[third[long[third] == which]] >= 2) for which in (False, True)]
    assert abs(buys[0] - buys[1]) < 0.02


def test_users_have_tastes(world: World) -> None:
    category = world.market.names.category[world.market.name[world.items[world.first]]]

    def spread(users: np.ndarray) -> float:
        table = np.zeros((USERS, 4))
        np.add.at(table, (users, category), 1)
        return float((table.max(axis=1) / np.maximum(table.sum(axis=1), 1)).mean())

    assert spread(world.users) > spread(np.random.default_rng(0).permutation(world.users)) + 0.05
    assert world.users.min() >= 0 and world.users.max() < USERS


def test_a_seed_makes_the_same_market_and_another_seed_another() -> None:
    one, two, other = make_world(5, 500), make_world(5, 500), make_world(6, 500)
    for name in ("lengths", "items", "events", "seconds", "users"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert np.array_equal(one.market.ends, two.market.ends)
    assert not np.array_equal(one.items[:100], other.items[:100])


def plain_top(world: World, query: int, rank: np.ndarray) -> list[tuple[int, float]]:
    chances = plain_probabilities(world.market, world.day[query], world.items[query], world.events[query])
    return sorted(chances.items(), key=lambda pair: (-round(pair[1], 14), rank[pair[0]]))


def test_the_most_likely_listings_are_those_of_brute_force(world: World) -> None:
    rank = np.empty(LISTINGS, int)
    rank[world.market.order] = np.arange(LISTINGS)
    keys = [world.market.names.keys(shared) for shared in RELATIONS]
    random = np.random.default_rng(0)
    for day in (0, 5):
        stands = [shelves(world.market, world.market.live(day), key) for key in keys]
        chosen = random.choice(world.queries[world.day[world.queries] == day], 60, replace=False)
        queries = Queries(world.market, keys, stands, world.items[chosen], world.events[chosen])
        for k in (1, 2, 5, 20, 300):
            listings, probability = top(queries, rank, k)
            assert listings.shape == (60, k)
            for row, query in enumerate(chosen):
                best = plain_top(world, query, rank)[:k]
                assert probability[row, : len(best)].tolist() == pytest.approx([p for _, p in best], abs=1e-12)
                assert listings[row, : len(best)].tolist() == [j for j, _ in best]
                assert (probability[row, len(best) :] == 0).all()


def test_the_optimum_is_that_of_brute_force(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_optimum, "KS", (1, 3, 8))
    monkeypatch.setattr(market_optimum, "BLOCK", 11)
    seen = np.random.default_rng(1).random(LISTINGS) < 0.4
    rank = np.empty(LISTINGS, int)
    rank[world.market.order] = np.arange(LISTINGS)
    chosen = np.random.default_rng(2).choice(world.queries, 100, replace=False)
    found = optimum(world.market, seen, world.day[chosen], world.items[chosen], world.events[chosen])
    assert found["queries"] == 100
    for kind in ("recall", "moves"):
        for group, which in (("all", seen | True), ("seen", seen), ("unseen", ~seen)):
            caught, mass = np.zeros(8), 0.0
            for query in chosen:
                counts = [
                    p * which[j] * (kind == "recall" or j != world.items[query])
                    for j, p in plain_top(world, query, rank)
                ]
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
    rank = np.empty(LISTINGS, int)
    rank[world.market.order] = np.arange(LISTINGS)
    keys = [world.market.names.keys(shared) for shared in RELATIONS]
    place = np.full(len(queries), 10**6)
    for day in (6, 7):
        these = np.flatnonzero(world.day[queries] == day)
        stands = [shelves(world.market, world.market.live(day), key) for key in keys]
        asked = Queries(world.market, keys, stands, items[these], world.events[queries[these]])
        hit = top(asked, rank, 100)[0] == targets[these, None]
        place[these] = np.where(hit.any(axis=1), hit.argmax(axis=1), 10**6)
    for kind, counted in (("recall", np.full(len(queries), True)), ("moves", targets != items)):
        for group, of in (("all", counted), ("seen", counted & seen[targets]), ("unseen", counted & ~seen[targets])):
            assert of.sum() > 300
            for k in ("1", "5", "20"):
                p = stated[kind][group][k]
                assert abs(np.mean(place[of] < int(k)) - p) < 4.5 * np.sqrt(p * (1 - p) / of.sum()) + 1e-3, (
                    kind,
                    group,
                    k,
                )
    assert stated["share_unseen"] == pytest.approx(np.mean(~seen[targets]), abs=0.02)


def test_a_group_without_targets_is_left_out(world: World) -> None:
    chosen = world.queries[:5]
    found = optimum(world.market, np.ones(LISTINGS, bool), world.day[chosen], world.items[chosen], world.events[chosen])
    assert list(found["recall"]) == list(found["moves"]) == ["all", "seen"] and found["share_unseen"] == 0
    assert found["recall"]["seen"] == found["recall"]["all"]


def test_names_say_brand_style_and_category() -> None:
    c0, c1, c2, first, second = category_levels()
    assert (len(c0), len(c1)) == (len(CATEGORIES), len(set(c1))) and len(c0) >= 8 and len(c1) >= 40 and len(c2) >= 150
    assert len(set(c2)) == len(c2) == len(first) == len(second) and not set(c2) & set(STYLES)
    assert c0[first[c2.index("sneakers")]] == "Men" and c1[second[c2.index("sneakers")]] == "Men's shoes"
    random = np.random.default_rng(0)
    brands = brand_words(300, random)
    assert len({brand.split()[0].lower() for brand in brands}) == 300
    names = make_names(4000, 301, len(c2), len(STYLES), 0.5, random)
    texts = listing_texts(names.brand, names.category, names.style, brands, random)
    assert len({text.lower() for text in texts}) == 4000
    assert len({text == text.lower() for text in texts}) == 2
    for text, brand, category, style in zip(texts, names.brand, names.category, names.style, strict=True):
        words = text.lower().split()
        assert c2[category] in words and STYLES[style] in words
        if brand:
            assert brands[brand - 1].lower() in text.lower()
