"""The best reachable recall on the made-up market (jaxrec/sources/market/world.py), computed without drawing anything.

The ideal ranker takes the K live listings with the largest P(next = j | last event). Its recall on a group of targets
is the probability that the next event is on one of the group among those K over that it is on one of the group at all,
each summed over the queries. It is one list for all groups: one that leaves groups out can do better on the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxrec.sources.market.world import CLASSES, MIX, STAY, Market, Shelves

KS = (1, 5, 10, 20, 50, 100)
BLOCK = 2000  # queries at a time: a table of (1 + 100 x 6) float64 for each
# Two listings that share more than one of these are counted with the first.
RELATIONS = (("brand", "category", "style"), *CLASSES)
GROUPS = ("all", "seen", "unseen")


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
