"""A made-up second-hand market whose next event depends only on what a model can see.

Every listing has a name, which is a brand, a category and a style; names are more or less popular. A listing is live
from the day on which it is listed to the end of the day on which it is first bought, or for its lifetime. Sequences of
events do not cross midnight. What follows an event of type e on listing i:

- with probability ``NEXT[e, t]`` an event of type t on i again;
- otherwise an ``item_view`` of a live listing j: of all that share with i what ``CLASSES[k]`` says, with probability
  ``MIX[k]``, drawn in proportion to the popularity of their names. i is among them.

So the next event depends on the attributes and the type of the last event and on which listings are live that day, and
on nothing else: lengths of sequences are drawn independently. The first listing of a sequence, which no model has to
predict, is one that nobody has seen yet while there are any, so that whatever is live can be known; a user is chosen
for it by taste.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxrec.sources.merrec import BOUGHT, EVENT_TYPES

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


class Keys(NamedTuple):
    """Numbers that are equal for names with equal attributes, int64[U], below ``total``."""

    of: np.ndarray
    total: int


@dataclass(frozen=True)
class Names:
    """What can be listed: ``U`` distinct combinations of brand, category and style.

    Attributes:
        brand, category, style: int64[U], 0 to ``sizes``; brand 0 is no brand.
        sizes: how many brands, categories and styles there are.
        weight: float64[U], the popularity; sums to 1.
    """

    brand: np.ndarray
    category: np.ndarray
    style: np.ndarray
    sizes: tuple[int, int, int]
    weight: np.ndarray

    def keys(self, shared: tuple[str, ...]) -> Keys:
        key, total = np.zeros(len(self.weight), np.int64), 1
        for attribute, size in zip(ATTRIBUTES, self.sizes, strict=True):
            if attribute in shared:
                key, total = key * size + getattr(self, attribute), total * size
        return Keys(key, total)


@dataclass(frozen=True)
class Market:
    """The names and the ``L`` listings, numbered by the day on which they are listed.

    Attributes:
        name: int64[L], which of the names.
        listed: int64[L], the first day on which it is live.
        ends: int64[L], the first day after that on which it is not; lowered where it is bought.
        order: int64[L], all listings by descending weight, equal ones in an order that is random and fixed.
        keys: by class.
    """

    names: Names
    name: np.ndarray
    listed: np.ndarray
    ends: np.ndarray
    order: np.ndarray
    keys: tuple[Keys, ...]

    def live(self, day: int) -> np.ndarray:
        """The listings that are live on a day that is over or has begun, int64[n], in the order of ``order``."""
        return self.order[(self.listed[self.order] <= day) & (self.ends[self.order] > day)]

    def weight(self, listings: np.ndarray) -> np.ndarray:
        """float64 of the same shape: the popularity of each."""
        return self.names.weight[self.name[listings]]


class Shelves:
    """Listings in groups of equal keys.

    Attributes:
        order: int64[n], the listings, those of a group beside each other, as they were given.
        starts: int64[keys + 1], where the groups begin.
        cumulated: float64[n + 1], the weight of all before.
    """

    def __init__(self, market: Market, live: np.ndarray, keys: Keys) -> None:
        """Group the listings ``live``, int64[n], by the keys of their names."""
        key = keys.of[market.name[live]]
        self.order = live[np.argsort(key, kind="stable")]
        self.starts = _starts(key, keys.total)
        self.cumulated = np.concatenate([[0.0], np.cumsum(market.weight(self.order))])

    def draw(self, keys: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A listing of each of the groups ``keys``, none of which is empty, by weight: int64[n]."""
        low, high = self.starts[keys], self.starts[keys + 1]
        before, after = self.cumulated[low], self.cumulated[high]
        found = np.searchsorted(self.cumulated, before + random.random(len(keys)) * (after - before), side="right") - 1
        return self.order[np.clip(found, low, high - 1)]


class Day(NamedTuple):
    """The sequences of a day, one after the other.

    Attributes:
        day: which, from 0.
        lengths: int64[sequences], their events.
        users: int64[sequences], from 0.
        items: int64[events], listings.
        events: uint8[events], indices into ``EVENT_TYPES``.
        seconds: int64[events], since midnight; ascending in each sequence.
    """

    day: int
    lengths: np.ndarray
    users: np.ndarray
    items: np.ndarray
    events: np.ndarray
    seconds: np.ndarray


def date_of(day: int) -> str:
    """``20230501`` of day 0."""
    return str(np.datetime64(START, "ms").astype("datetime64[D]") + day).replace("-", "")


def make_names(n: int, sizes: tuple[int, int, int], skew: float, random: np.random.Generator) -> Names:
    """The popularity of a name is that of its brand times its category times its style; each falls with its rank.

    Popular combinations are more likely to be among the names.

    Args:
        n: how many names, at most as many as there are combinations.
        sizes: how many brands, categories and styles. "No brand" is one, and the most popular; ranks of brands are
            their numbers, those of the others random.
        skew: the popularity of brands falls as rank (from 2) to the power of -skew, that of categories and styles (from
            1) to the power of -skew / 2.
        random: decides.
    """
    by_brand = np.arange(2.0, sizes[0] + 2) ** -skew
    by_category, by_style = ((1.0 + random.permutation(size)) ** (-skew / 2) for size in sizes[1:])
    weight = (by_brand[:, None, None] * by_category[:, None] * by_style).ravel()
    # The n first of exponential waiting times with these rates: drawing by weight without putting back.
    chosen = np.sort(np.argsort(random.exponential(size=len(weight)) / weight, kind="stable")[:n])
    brand, category, style = np.unravel_index(chosen, sizes)
    return Names(brand, category, style, sizes, weight[chosen] / weight[chosen].sum())


def make_market(names: Names, listings: int, days: int, lifetime: float, random: np.random.Generator) -> Market:
    """A market that is full on day 0 and into which as many listings come every day as lifetimes take out.

    Args:
        names: what is asked for more is also listed more, in proportion to the weight.
        listings: in all ``days`` together.
        days: how many.
        lifetime: days for which a listing is live, in the mean; geometric, so that on day 0 its age does not matter.
        random: decides.
    """
    full = first_day(listings, days, lifetime)
    later = np.arange(listings - full, dtype=np.int64)
    listed = np.concatenate([np.zeros(full, np.int64), 1 + later * (days - 1) // max(len(later), 1)])
    name = _drawn(names.weight, listings, random)
    # Stable, behind a random order: equal weights stay in it.
    shuffled = random.permutation(listings)
    order = shuffled[np.argsort(-names.weight[name[shuffled]], kind="stable")]
    ends = listed + random.geometric(1 / lifetime, size=listings)
    return Market(names, name, listed, ends, order, tuple(names.keys(shared) for shared in CLASSES))


def first_day(listings: int, days: int, lifetime: float) -> int:
    """How many of the listings are there on day 0; on each later day ``1 / lifetime`` of that number come."""
    return max(1, round(listings / (1 + (days - 1) / lifetime)))


def simulate(
    market: Market, days: int, sequences: int, mean_length: float, users: int, random: np.random.Generator
) -> Iterator[Day]:
    """Day after day of events; what is bought leaves the market, so ``market.ends`` is final when all are taken.

    Args:
        market: with its listings; every day has live ones.
        days: how many.
        sequences: in all days together.
        mean_length: events of a sequence in the mean.
        users: how many.
        random: decides.
    """
    fans = _fans(market.names, users, random)
    seen = np.zeros(len(market.name), bool)
    for day in range(days):
        live = market.live(day)
        stands = [Shelves(market, live, keys) for keys in market.keys]
        count = sequences * (day + 1) // days - sequences * day // days
        # Sequences start at listings that nobody has seen, then at any by weight.
        new = random.permutation(live[~seen[live]])[:count]
        known = stands[-1].draw(np.zeros(count - len(new), np.int64), random)
        first = random.permutation(np.concatenate([new, known]))
        lengths = draw_lengths(count, mean_length, random)
        items, events = walk(market, stands, first, lengths, random)
        seen[items] = True
        market.ends[items[events == BUY]] = day + 1
        visitors = _visitors(fans, users, market.name[first], random)
        yield Day(day, lengths, visitors, items, events, _seconds(lengths, random))


def walk(
    market: Market, stands: list[Shelves], first: np.ndarray, lengths: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """All sequences of a day, a step of all of them at a time.

    Args:
        market: with its listings.
        stands: the live listings by each of ``CLASSES``.
        first: int64[sequences], the listings of the first events, which are views.
        lengths: int64[sequences].
        random: decides.

    Returns:
        int64[events] listings and uint8[events] types, one sequence after the other.
    """
    longest = np.argsort(-lengths, kind="stable")  # those that go on are then the first ones
    where = (np.cumsum(lengths) - lengths)[longest]
    going = np.searchsorted(-lengths[longest], -np.arange(lengths.max(initial=0)), side="left")
    items, events = np.empty(lengths.sum(), np.int64), np.empty(lengths.sum(), np.uint8)
    item, event = first[longest], np.zeros(len(first), np.int64)
    for step, n in enumerate(going):
        item, event = item[:n], event[:n]
        if step:
            item, event = _step(market, stands, item, event, random)
        items[where[:n] + step], events[where[:n] + step] = item, event
    return items, events


def _step(
    market: Market, stands: list[Shelves], item: np.ndarray, event: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What follows each of these events."""
    choice = (random.random(len(item))[:, None] >= np.cumsum(NEXT, axis=1)[event]).sum(axis=1)
    moves = np.flatnonzero(choice == len(EVENT_TYPES))
    kind = np.minimum(np.searchsorted(np.cumsum(MIX), random.random(len(moves)), side="right"), len(MIX) - 1)
    item = item.copy()
    for number, (stand, keys) in enumerate(zip(stands, market.keys, strict=True)):
        these = moves[kind == number]
        item[these] = stand.draw(keys.of[market.name[item[these]]], random)
    choice[moves] = 0
    return item, choice


def draw_lengths(n: int, mean: float, random: np.random.Generator) -> np.ndarray:
    """``LEAST_LENGTH`` and more, geometric above that, int64[n]."""
    return np.minimum(LEAST_LENGTH - 1 + random.geometric(1 / (mean - LEAST_LENGTH + 1), size=n), MOST_LENGTH)


def _seconds(lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Since midnight, int64[events]: at random gaps of at least one second, the last of a sequence before midnight."""
    elapsed = np.cumsum(np.minimum(random.geometric(1 / MEAN_GAP, size=lengths.sum()), MOST_GAP))
    stops = np.cumsum(lengths)
    first = elapsed[stops - lengths]
    begin = (random.random(len(lengths)) * (SECONDS - (elapsed[stops - 1] - first))).astype(np.int64)
    return np.repeat(begin - first, lengths) + elapsed


def _drawn(weight: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """int64[n] indices of ``weight``, in proportion to it."""
    below = np.cumsum(weight)
    return np.minimum(np.searchsorted(below, random.random(n) * below[-1], side="right"), len(weight) - 1)


def _starts(keys: np.ndarray, total: int) -> np.ndarray:
    """int64[total + 1]: where each key begins once they are sorted."""
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=total))])


class _Fans(NamedTuple):
    """Users by their favourite key, int64[users], and where those of each key begin among them."""

    keys: Keys
    users: np.ndarray
    starts: np.ndarray


def _fans(names: Names, users: int, random: np.random.Generator) -> list[_Fans]:
    """Each user's favourite brand, and the favourite category."""
    fans = []
    for attribute in ("brand", "category"):
        keys = names.keys((attribute,))
        favourite = keys.of[_drawn(names.weight, users, random)]
        fans.append(_Fans(keys, np.argsort(favourite, kind="stable"), _starts(favourite, keys.total)))
    return fans


def _visitors(fans: list[_Fans], users: int, names: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each listing's name someone who likes its brand or its category, anyone where nobody does: int64[n]."""
    chosen = random.integers(users, size=len(names))
    by_brand = random.random(len(names)) < 0.5
    for (keys, everyone, starts), these in zip(fans, (by_brand, ~by_brand), strict=True):
        key = keys.of[names]
        count = starts[key + 1] - starts[key]
        pick = starts[key] + (random.random(len(names)) * count).astype(np.int64)
        found = these & (count > 0)
        chosen[found] = everyone[pick[found]]
    return chosen
