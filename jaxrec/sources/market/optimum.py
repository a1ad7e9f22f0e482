"""The best reachable recall on the made-up market (jaxrec/sources/market/world.py), computed without drawing anything.

The ideal ranker knows P(next = j | last event) of every listing j that is live that day, and takes the K most likely.
Its recall on a group of targets is the probability that the next event is on a listing of the group among those K,
summed over the queries, over the probability that it is on one of the group at all. It is one list for all groups: a
ranker that cares for one of them only, and leaves out the rest, can do better on that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxrec.sources.market.world import CLASSES, MIX, STAY, Keys, Market, Shelves

KS = (1, 5, 10, 20, 50, 100)
BLOCK = 2000  # queries at a time: a table of (1 + 100 x 6) float64 for each
# Two listings that share more than one of these are counted with the first.
RELATIONS = (("brand", "category", "style"), *CLASSES)
GROUPS = ("all", "seen", "unseen")


def optimum(
    market: Market, seen: np.ndarray, days: np.ndarray, items: np.ndarray, events: np.ndarray
) -> dict[str, Any]:
    """The ideal ranker's recall over some queries.

    Args:
        market: after the simulation.
        seen: bool[L], whether training holds the listing.
        days, items, events: int[q] each, the day, the listing and the type of the event that is followed.

    Returns:
        ``recall`` by group (``GROUPS``) and K (as a text), ``moves`` the same for targets that are another listing
        than that of the event before, ``queries`` and ``share_unseen``, the expected share of targets that training
        does not hold. A group in which no target can be is left out.
    """
    found, mass = np.zeros((2, len(GROUPS), len(KS))), np.zeros((2, len(GROUPS)))
    keys = [market.names.keys(shared) for shared in RELATIONS]
    rank = np.empty(len(market.order), np.int64)
    rank[market.order] = np.arange(len(rank))
    for day in np.unique(days):
        live = market.live(day)
        stands = [Shelves(market, live, key) for key in keys]
        these = np.flatnonzero(days == day)
        for start in range(0, len(these), BLOCK):
            block = these[start : start + BLOCK]
            queries = Queries(market, keys, stands, items[block], events[block])
            found += _found(queries, seen, rank)
            mass += _mass(queries, seen)
    return {
        "recall": _by_group(found[0], mass[0]),
        "moves": _by_group(found[1], mass[1]),
        "queries": len(days),
        "share_unseen": round(float(mass[0, GROUPS.index("unseen")] / mass[0, 0]), 9),
    }


def _by_group(found: np.ndarray, mass: np.ndarray) -> dict[str, dict[str, float]]:
    """float64[groups, KS] over float64[groups]; rounded, so that the manifest does not depend on the machine's sums."""
    return {
        group: {str(k): round(float(one / whole), 9) for k, one in zip(KS, row, strict=True)}
        for group, row, whole in zip(GROUPS, found, mass, strict=True)
        if whole > 0
    }


class Queries:
    """``q`` events of one day, and the probabilities of what follows them."""

    def __init__(
        self,
        market: Market,
        keys: list[Keys],
        stands: list[Shelves],
        items: np.ndarray,
        events: np.ndarray,
    ) -> None:
        """``keys`` and ``stands`` are the names' keys and the day's live listings by each of ``RELATIONS``."""
        self.market, self.keys, self.stands, self.items = market, keys, stands, items
        self.stay = STAY[events]  # [q]
        # By how much a listing's weight counts for each of CLASSES that it shares with the query's.
        whole = [self._sums(number, np.ones(len(market.name), bool)) for number in range(1, len(RELATIONS))]
        self.factors = np.stack(
            [(1 - self.stay) * mix / total for mix, total in zip(MIX, whole, strict=True)]
        )  # [CLASSES, q]

    def _sums(self, number: int, which: np.ndarray) -> np.ndarray:
        """float64[q], the weight of those live ones of ``which``, bool[L], that share the relation with the query."""
        key, total = self.keys[number]
        live = self.stands[number].order
        live = live[which[live]]
        sums = np.bincount(key[self.market.name[live]], weights=self.market.weight(live), minlength=total)
        return sums[key[self.market.name[self.items]]]

    def shares(self, candidates: np.ndarray) -> np.ndarray:
        """Which relations ``candidates``, int64[q, n], have with the queries: bool[RELATIONS, q, n]."""
        names, own = self.market.name[candidates], self.market.name[self.items]
        return np.stack([key[names] == key[own][:, None] for key, _ in self.keys])

    def probabilities(self, candidates: np.ndarray) -> np.ndarray:
        """P(next = candidate), float64[q, n], for live listings int64[q, n]."""
        moved = np.zeros(candidates.shape)
        for factor, shared in zip(self.factors, self.shares(candidates)[1:], strict=True):
            moved += factor[:, None] * shared
        return moved * self.market.weight(candidates) + self.stay[:, None] * (candidates == self.items[:, None])

    def total(self, which: np.ndarray) -> np.ndarray:
        """P(next is one of ``which``), float64[q], for bool[L]."""
        moved = [self.factors[number] * self._sums(number + 1, which) for number in range(len(CLASSES))]
        return np.sum(moved, axis=0) + self.stay * which[self.items]

    def candidates(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Listings among which the ``k`` most likely are, int64[q, n], and which of them count, bool[q, n].

        Of two listings with the same relations to the query the heavier is the more likely, and one with more
        relations is more likely than one that has part of them and the same weight. So the first ``k`` of each
        relation, by weight, are enough; each counts once, where its closest relation is looked at.
        """
        columns, counts = [self.items[:, None]], [np.ones((len(self.items), 1), bool)]
        for number, ((key, _), stand) in enumerate(zip(self.keys, self.stands, strict=True)):
            own = key[self.market.name[self.items]]
            place = stand.starts[own][:, None] + np.arange(k)
            listings = stand.order[np.minimum(place, len(stand.order) - 1)]
            closest = self.shares(listings).argmax(axis=0) == number
            columns.append(listings)
            counts.append((place < stand.starts[own + 1][:, None]) & closest & (listings != self.items[:, None]))
        return np.concatenate(columns, axis=1), np.concatenate(counts, axis=1)


def top(queries: Queries, rank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most likely listings, int64[q, k], and their probabilities, float64[q, k], descending.

    Where fewer are live, the rest has probability 0. Equal ones stand in the order of ``rank``, int64[L].
    """
    listings, valid = queries.candidates(k)
    probability = np.where(valid, queries.probabilities(listings), 0.0)
    by_rank = np.argsort(rank[listings], axis=1)
    by_chance = np.argsort(-np.take_along_axis(probability, by_rank, 1), axis=1, kind="stable")[:, :k]
    order = np.take_along_axis(by_rank, by_chance, 1)
    return np.take_along_axis(listings, order, 1), np.take_along_axis(probability, order, 1)


def _found(queries: Queries, seen: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """float64[2, groups, KS]: what the lists catch, of all targets and of those that are another listing."""
    listings, probability = top(queries, rank, max(KS))
    result = []
    for counts in (probability, np.where(listings == queries.items[:, None], 0.0, probability)):
        groups = (counts, counts * seen[listings], counts * ~seen[listings])
        result.append([np.cumsum(group.sum(axis=0))[np.array(KS) - 1] for group in groups])
    return np.array(result)


def _mass(queries: Queries, seen: np.ndarray) -> np.ndarray:
    """float64[2, groups]: what there is to catch."""
    own = queries.probabilities(queries.items[:, None])[:, 0]
    before = seen[queries.items]
    result = []
    for lost in (np.zeros(len(own)), own):
        known = (queries.total(seen) - lost * before).sum()
        rest = (queries.total(~seen) - lost * ~before).sum()
        result.append([known + rest, known, rest])
    return np.array(result)


def optimum_lines(optimum: dict[str, Any] | None, ks: Iterable[int]) -> list[str]:
    """An ``optimum`` of a manifest for the reader of a terminal; none where there is none.

    Args:
        ks: cut-offs; those that it does not hold are left out.
    """
    lines, ks = [], list(ks)
    for title, part in (("", "recall"), ("another item than the last, ", "moves")):
        for group, values in (optimum or {}).get(part, {}).items():
            known = [f"recall@{k} {values[str(k)]:.4f}" for k in ks if str(k) in values]
            lines += [f"best by one list for all groups, {title}{group}: " + ", ".join(known)] if known else []
    return lines
