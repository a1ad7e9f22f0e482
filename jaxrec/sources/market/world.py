"""A made-up second-hand market whose next event depends only on what a model can see.

Every listing has a name: a brand, a category and a style, more or less popular. A listing is live from the day on which
it is listed to the end of the day on which it is first bought, or for its lifetime. Sequences do not cross midnight.
What follows an event of type e on listing i is with probability ``NEXT[e, t]`` an event of type t on i again, otherwise
an ``item_view`` of a live listing: of all that share with i what ``CLASSES[k]`` says, i among them, with probability
``MIX[k]``, drawn in proportion to the popularity of their names. The first listing of a sequence is one that nobody has
seen yet while there are any; a user is chosen for it by taste.

The best reachable recall is computed without drawing anything. The ideal ranker takes the K live listings with the
largest P(next = j | last event). Its recall on a group of targets is the probability that the next event is on one of
the group among those K over that it is on one of the group at all, each summed over the queries. It is one list for all
groups: one that leaves groups out can do better on the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxrec.sources.merrec import BOUGHT, EVENT_TYPES
from jaxrec.sources.shared import draw

Generator = np.random.Generator
BUY = EVENT_TYPES.index(BOUGHT)
NEXT = np.array(  # from the type of the row to that of the column, on the same listing; the rest moves on
    [
        [0.05, 0.10, 0.02, 0.02, 0.02, 0.00],
        [0.06, 0.00, 0.06, 0.06, 0.05, 0.00],
        [0.06, 0.04, 0.00, 0.05, 0.40, 0.00],
        [0.08, 0.04, 0.02, 0.05, 0.35, 0.00],
        [0.06, 0.02, 0.02, 0.02, 0.00, 0.60],
        [0.00, 0.00, 0.00, 0.00, 0.00, 0.00],
    ]
)
STAY = NEXT.sum(axis=1)
ATTRIBUTES = ("brand", "category", "style")
CLASSES = (("brand", "category"), ("category", "style"), ("category",), ("brand",), ())
MIX = np.array([0.25, 0.15, 0.25, 0.10, 0.25])
LEAST_LENGTH, MOST_LENGTH = 3, 50  # events of a sequence
MEAN_GAP, MOST_GAP = 30, 600  # s between two events; the longest sequence lasts less than a day
SECONDS = 24 * 60 * 60  # of a day
START = 1_682_899_200_000  # 2023-05-01 UTC, in ms
KS = (1, 5, 10, 20, 50, 100)
BLOCK = 2000  # queries at a time: a table of (1 + 100 x 6) float64 for each
# Two listings that share more than one of these are counted with the first.
RELATIONS = (("brand", "category", "style"), *CLASSES)
GROUPS = ("all", "seen", "unseen")


@dataclass(frozen=True)
class Market:
    """``U`` names, distinct combinations of brand (0: none), category and style, and ``L`` listings of them by day."""

    brand: np.ndarray  # int64[U], below ``sizes``, as are the next two
    category: np.ndarray
    style: np.ndarray
    sizes: tuple[int, int, int]
    popularity: np.ndarray  # float64[U], sums to 1
    name: np.ndarray  # int64[L], which of the names
    listed: np.ndarray  # int64[L], the first day on which it is live
    ends: np.ndarray  # int64[L], the first day after that on which it is not
    order: np.ndarray  # int64[L], all listings by descending weight, equal ones in a random order

    def live(self, day: int) -> np.ndarray:
        """The listings that are live on a day that is over or has begun, int64[n], in the order of ``order``."""
        return self.order[(self.listed[self.order] <= day) & (self.ends[self.order] > day)]

    def weight(self, listings: np.ndarray) -> np.ndarray:
        """float64 of the same shape: the popularity of each."""
        return self.popularity[self.name[listings]]

    def keys(self, shared: tuple[str, ...]) -> tuple[np.ndarray, int]:
        """int64[L], equal for listings that share these attributes, and the number below which all are."""
        key, total = np.zeros(len(self.popularity), np.int64), 1
        for attribute, size in zip(ATTRIBUTES, self.sizes, strict=True):
            if attribute in shared:
                key, total = key * size + getattr(self, attribute), total * size
        return key[self.name], total


class Shelves:
    """Live listings in groups of equal keys: ``key``, int64[L], of all listings; ``order``, int64[n], the live ones by
    group; ``starts``, int64[keys + 1], where the groups begin.
    """

    def __init__(self, market: Market, live: np.ndarray, keys: tuple[np.ndarray, int]) -> None:
        self.key, total = keys
        self.order = live[np.argsort(self.key[live], kind="stable")]
        self.starts = _starts(self.key[live], total)
        self._weights = np.concatenate([[0.0], np.cumsum(market.weight(self.order))])

    def draw(self, keys: np.ndarray, random: Generator) -> np.ndarray:
        """A listing of each of the groups ``keys``, none of which is empty, by weight: int64[n]."""
        low, high = self.starts[keys], self.starts[keys + 1]
        before, after = self._weights[low], self._weights[high]
        place = np.searchsorted(self._weights, before + random.random(len(keys)) * (after - before), side="right") - 1
        return self.order[np.clip(place, low, high - 1)]


class Day(NamedTuple):
    """The sequences of a day, one after the other."""

    day: int
    lengths: np.ndarray  # int64[sequences]
    users: np.ndarray  # int64[sequences]
    items: np.ndarray  # int64[events], listings
    events: np.ndarray  # uint8[events], indices into EVENT_TYPES
    seconds: np.ndarray  # int64[events], since midnight; ascending in each sequence


def first_day(listings: int, days: int, lifetime: float) -> int:
    """How many of the listings are there on day 0; on each later day ``1 / lifetime`` of that number come."""
    return max(1, round(listings / (1 + (days - 1) / lifetime)))


def make_market(
    names: int, sizes: tuple[int, int, int], skew: float, listings: int, days: int, lifetime: float, random: Generator
) -> Market:
    """A market that is full on day 0 and into which as many listings come every day as lifetimes take out.

    Args:
        sizes: how many brands ("no brand" is one, and the most popular), categories and styles.
        skew: the popularity of brands falls as rank (from 2) to the power of -skew, that of categories and styles (from
            1) to the power of -skew / 2; that of a name is their product.
        lifetime: days for which a listing is live, in the mean; geometric, so that on day 0 its age does not matter.
    """
    by_brand = np.arange(2.0, sizes[0] + 2) ** -skew
    by_category, by_style = ((1.0 + random.permutation(size)) ** (-skew / 2) for size in sizes[1:])
    weight = (by_brand[:, None, None] * by_category[:, None] * by_style).ravel()
    # The first of exponential waiting times with these rates: drawing by weight without putting back.
    chosen = np.sort(np.argsort(random.exponential(size=len(weight)) / weight, kind="stable")[:names])
    popularity = weight[chosen] / weight[chosen].sum()
    full = first_day(listings, days, lifetime)
    later = np.arange(listings - full, dtype=np.int64)
    listed = np.concatenate([np.zeros(full, np.int64), 1 + later * (days - 1) // max(len(later), 1)])
    name = draw(popularity, random.random(listings))
    shuffled = random.permutation(listings)
    order = shuffled[np.argsort(-popularity[name[shuffled]], kind="stable")]
    ends = listed + random.geometric(1 / lifetime, size=listings)
    brand, category, style = np.unravel_index(chosen, sizes)
    return Market(brand, category, style, sizes, popularity, name, listed, ends, order)


def simulate(
    market: Market, days: int, sequences: int, mean_length: float, users: int, random: Generator
) -> Iterator[Day]:
    """Day after day of events; what is bought leaves the market, so ``market.ends`` is final when all are taken."""
    fans = []  # by brand and by category the users by their favourite one, and where those of each begin among them
    for names, size in zip((market.brand, market.category), market.sizes, strict=False):
        favourite = names[draw(market.popularity, random.random(users))]
        fans.append((names, np.argsort(favourite, kind="stable"), _starts(favourite, size)))
    keys = [market.keys(shared) for shared in CLASSES]
    seen = np.zeros(len(market.name), bool)
    for day in range(days):
        live = market.live(day)
        shelves = [Shelves(market, live, key) for key in keys]
        count = sequences * (day + 1) // days - sequences * day // days
        new = random.permutation(live[~seen[live]])[:count]  # that nobody has seen, then any by weight
        first = random.permutation(np.concatenate([new, shelves[-1].draw(np.zeros(count - len(new), int), random)]))
        further = random.geometric(1 / (mean_length - LEAST_LENGTH + 1), size=count)
        lengths = np.minimum(LEAST_LENGTH - 1 + further, MOST_LENGTH)
        items, events = _walk(shelves, first, lengths, random)
        seen[items] = True
        market.ends[items[events == BUY]] = day + 1
        visitors = _visitors(fans, users, market.name[first], random)
        yield Day(day, lengths, visitors, items, events, _seconds(lengths, random))


def _walk(
    shelves: list[Shelves], first: np.ndarray, lengths: np.ndarray, random: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Listings int64[events] and types uint8[events] of all sequences of a day, a step of all of them at a time."""
    longest = np.argsort(-lengths, kind="stable")  # those that go on are then the first ones
    where = (np.cumsum(lengths) - lengths)[longest]
    going = np.searchsorted(-lengths[longest], -np.arange(lengths.max(initial=0)), side="left")
    items, events = np.empty(lengths.sum(), np.int64), np.empty(lengths.sum(), np.uint8)
    item, event = first[longest], np.zeros(len(first), np.int64)
    for step, n in enumerate(going):
        item, event = item[:n].copy(), event[:n]
        if step:
            event = (random.random(n)[:, None] >= np.cumsum(NEXT, axis=1)[event]).sum(axis=1)
            moves = np.flatnonzero(event == len(EVENT_TYPES))
            kind = draw(MIX, random.random(len(moves)))
            for number, shelf in enumerate(shelves):
                these = moves[kind == number]
                item[these] = shelf.draw(shelf.key[item[these]], random)
            event[moves] = 0
        items[where[:n] + step], events[where[:n] + step] = item, event
    return items, events


def _seconds(lengths: np.ndarray, random: Generator) -> np.ndarray:
    """Since midnight, int64[events], at random gaps of at least one second, all before the next."""
    elapsed = np.cumsum(np.minimum(random.geometric(1 / MEAN_GAP, size=lengths.sum()), MOST_GAP))
    stops = np.cumsum(lengths)
    first = elapsed[stops - lengths]
    begin = (random.random(len(lengths)) * (SECONDS - (elapsed[stops - 1] - first))).astype(np.int64)
    return np.repeat(begin - first, lengths) + elapsed


def _starts(keys: np.ndarray, total: int) -> np.ndarray:
    """int64[total + 1]: where each key begins once they are sorted."""
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=total))])


def _visitors(
    fans: list[tuple[np.ndarray, np.ndarray, np.ndarray]], users: int, names: np.ndarray, random: Generator
) -> np.ndarray:
    """For each listing's name someone who likes its brand or its category, anyone where nobody does: int64[n]."""
    chosen = random.integers(users, size=len(names))
    by_brand = random.random(len(names)) < 0.5
    for (keys, everyone, starts), these in zip(fans, (by_brand, ~by_brand), strict=True):
        key = keys[names]
        count = starts[key + 1] - starts[key]
        pick = starts[key] + (random.random(len(names)) * count).astype(np.int64)
        liked = these & (count > 0)
        chosen[liked] = everyone[pick[liked]]
    return chosen


def optimum(
    market: Market, seen: np.ndarray, days: np.ndarray, items: np.ndarray, events: np.ndarray
) -> dict[str, Any]:
    """The ideal ranker's recall on what follows ``events``, types int[q], on ``items``, listings int[q], on ``days``.

    ``seen``, bool[L], are the listings of training. ``recall`` is by group (``GROUPS`` in which a target can be) and K,
    ``moves`` the same for targets that are another listing than the last, ``share_unseen`` of the targets.
    """
    caught, mass = np.zeros((2, len(GROUPS), len(KS))), np.zeros((2, len(GROUPS)))
    keys = [market.keys(shared) for shared in RELATIONS]
    for day in np.unique(days):
        shelves = [Shelves(market, market.live(day), key) for key in keys]
        these = np.flatnonzero(days == day)
        for block in np.split(these, range(BLOCK, len(these), BLOCK)):
            queries = Queries(market, shelves, items[block], events[block])
            listings, probability = queries.top(max(KS))
            own = queries.probabilities(queries.items[:, None])[:, 0]
            for number, lost in enumerate((np.zeros(len(own)), own)):
                counts = np.where((listings == queries.items[:, None]) & (number == 1), 0.0, probability)
                groups = (counts, counts * seen[listings], counts * ~seen[listings])
                caught[number] += [np.cumsum(group.sum(axis=0))[np.array(KS) - 1] for group in groups]
                parts = [(queries.total(which) - lost * which[queries.items]).sum() for which in (seen, ~seen)]
                mass[number] += [sum(parts), *parts]
    recall, moves = (
        # Rounded, so that the manifest does not depend on the order in which a machine sums.
        {group: {str(k): round(float(one / whole), 9) for k, one in zip(KS, row, strict=True)}
         for group, row, whole in zip(GROUPS, rows, wholes, strict=True) if whole > 0}
        for rows, wholes in zip(caught, mass, strict=True)
    )  # fmt: skip
    share = round(float(mass[0, GROUPS.index("unseen")] / mass[0, 0]), 9)
    return {"recall": recall, "moves": moves, "queries": len(days), "share_unseen": share}


class Queries:
    """``q`` events of one day on ``items`` of types ``events``, int64[q] each, and the probabilities of what follows;
    ``shelves`` are the day's live listings by each of ``RELATIONS``.
    """

    def __init__(self, market: Market, shelves: list[Shelves], items: np.ndarray, events: np.ndarray) -> None:
        self.market, self.shelves, self.items, self.stay = market, shelves, items, STAY[events]
        # By how much a listing's weight counts for each of CLASSES that it shares with the query's: [CLASSES, q].
        every = np.ones(len(market.name), bool)
        self.factors = [(1 - self.stay) * mix / self._sums(shelf, every)
                        for mix, shelf in zip(MIX, shelves[1:], strict=True)]  # fmt: skip

    def _sums(self, shelf: Shelves, which: np.ndarray) -> np.ndarray:
        """float64[q], the weight of those live ones of ``which``, bool[L], that share the relation with the query."""
        live = shelf.order[which[shelf.order]]
        sums = np.bincount(shelf.key[live], weights=self.market.weight(live), minlength=len(shelf.starts) - 1)
        return sums[shelf.key[self.items]]

    def _share(self, shelf: Shelves, candidates: np.ndarray) -> np.ndarray:
        """bool[q, n]: which of the listings int64[q, n] have the relation with the query."""
        return shelf.key[candidates] == shelf.key[self.items][:, None]

    def probabilities(self, candidates: np.ndarray) -> np.ndarray:
        """P(next = candidate), float64[q, n], for live listings int64[q, n]."""
        moved = np.zeros(candidates.shape)
        for factor, shelf in zip(self.factors, self.shelves[1:], strict=True):
            moved += factor[:, None] * self._share(shelf, candidates)
        return moved * self.market.weight(candidates) + self.stay[:, None] * (candidates == self.items[:, None])

    def total(self, which: np.ndarray) -> np.ndarray:
        """P(next is one of ``which``), float64[q], for bool[L]."""
        moved = [factor * self._sums(shelf, which)
                 for factor, shelf in zip(self.factors, self.shelves[1:], strict=True)]  # fmt: skip
        return np.sum(moved, axis=0) + self.stay * which[self.items]

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most likely listings, int64[q, k], and their probabilities, float64[q, k], descending, equal ones
        in the market's order; where fewer are live, the rest has probability 0. Of two listings with the same relations
        to the query the heavier is the more likely, so the first ``k`` of each relation, by weight, are enough.
        """
        columns, counts = [self.items[:, None]], [np.ones((len(self.items), 1), bool)]
        for number, shelf in enumerate(self.shelves):
            own = shelf.key[self.items]
            place = shelf.starts[own][:, None] + np.arange(k)
            listings = shelf.order[np.minimum(place, len(shelf.order) - 1)]
            valid = (place < shelf.starts[own + 1][:, None]) & (listings != self.items[:, None])
            for closer in self.shelves[:number]:
                valid &= ~self._share(closer, listings)
            columns.append(listings)
            counts.append(valid)
        listings = np.concatenate(columns, axis=1)
        probability = np.where(np.concatenate(counts, axis=1), self.probabilities(listings), 0.0)
        order = np.lexsort((np.argsort(self.market.order)[listings], -probability), axis=1)[:, :k]
        return np.take_along_axis(listings, order, 1), np.take_along_axis(probability, order, 1)


def optimum_lines(optimum: dict[str, Any] | None, ks: Iterable[int]) -> list[str]:
    """An ``optimum`` of a manifest for the reader of a terminal; ``ks`` that it does not hold are left out."""
    lines, ks = [], list(ks)
    for title, part in (("", "recall"), ("another item than the last, ", "moves")):
        for group, values in (optimum or {}).get(part, {}).items():
            known = [f"recall@{k} {values[str(k)]:.4f}" for k in ks if str(k) in values]
            lines += [f"best by one list for all groups, {title}{group}: " + ", ".join(known)] if known else []
    return lines
