"""Synthetic click sessions from a Markov process whose best possible ranking is known.

Every item has a few successors of its own, with fixed and decreasing probabilities; popular items are successors more
often. After a click on ``i`` the next click is one of the successors of ``i`` with probability ``1 - epsilon``,
otherwise any other item by popularity. The clicks before the last say nothing more, and the length of a session says
nothing about its items, so the best ranking after ``i`` is by ``P(next | i)``, which is known exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

RANKS = 100  # the optimum is known for metrics at up to this K
MAX_LENGTH = 50


@dataclass(frozen=True)
class Markov:
    """A Markov process over ``n`` items; items are numbered by popularity, 0 the most popular.

    Attributes:
        popularity: float64[n], descending, sums to 1.
        successors: int64[n, m], the items that follow each item; distinct, and never the item itself.
        weights: float64[m], descending, sums to 1: the share of each of them.
        epsilon: the probability of a next item by popularity instead.
    """

    popularity: np.ndarray
    successors: np.ndarray
    weights: np.ndarray
    epsilon: float

    @property
    def n_items(self) -> int:
        return len(self.popularity)

    def rank_probability(self, items: np.ndarray, ranks: int = RANKS) -> np.ndarray:
        """How likely the best ranker has the next item at rank 1, 2, ..., averaged over the clicks ``items``.

        Args:
            items: int[n], the clicks after which the next one is predicted.
            ranks: how many ranks.

        Returns:
            float64[ranks], descending; its sum is the best reachable Recall@ranks.
        """
        inputs, counts = np.unique(items, return_counts=True)
        total = np.zeros(ranks)
        for start in range(0, len(inputs), 4096):
            block = slice(start, start + 4096)
            total += counts[block] @ self._ranked(inputs[block], ranks)
        return total / counts.sum()

    def _ranked(self, items: np.ndarray, ranks: int) -> np.ndarray:
        """The largest probabilities of ``P(next | item)``, float64[len(items), ranks], descending."""
        followers = self.successors[items]  # [B, m]
        # Beside its successors only the most popular items can be among the first: so many that enough remain when
        # the successors and the item itself are taken out. Popularity is descending, so they are the first ones.
        others = np.arange(min(self.n_items, ranks + followers.shape[1] + 1))
        scale = self.epsilon / (1.0 - self.popularity[items])[:, None]  # the item itself is never drawn
        by_chain = scale * self.popularity[followers] + (1.0 - self.epsilon) * self.weights  # [B, m]
        by_popularity = scale * self.popularity[others]  # [B, others]
        by_popularity[items[:, None] == others] = 0.0
        row, column = np.nonzero(followers < len(others))
        by_popularity[row, followers[row, column]] = 0.0
        ranked = -np.sort(-np.concatenate([by_chain, by_popularity], axis=1), axis=1)[:, :ranks]
        return np.pad(ranked, ((0, 0), (0, ranks - ranked.shape[1])))

    def walk(self, starts: np.ndarray, lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Walk from ``starts`` for ``lengths`` clicks each; returns all items, int64[sum(lengths)], walk by walk."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = np.empty(offsets[-1], np.int64)
        items[offsets[:-1]] = starts
        for step in range(1, int(lengths.max())):
            here = offsets[:-1][lengths > step] + step
            items[here] = self._next(items[here - 1], random)
        return items

    def _next(self, items: np.ndarray, random: np.random.Generator) -> np.ndarray:
        choice = draw(self.weights, random.random(len(items)))
        following = self.successors[items, choice]
        elsewhere = np.flatnonzero(random.random(len(items)) < self.epsilon)
        while len(elsewhere):
            following[elsewhere] = draw(self.popularity, random.random(len(elsewhere)))
            elsewhere = elsewhere[following[elsewhere] == items[elsewhere]]
        return following


def make_markov(n_items: int, successors: int, epsilon: float, skew: float, random: np.random.Generator) -> Markov:
    """Draw a Markov process.

    Args:
        n_items: at least 2.
        successors: of each item; fewer where there are not that many other items.
        epsilon: from 0 to 1.
        skew: the exponent of the popularity, which falls as ``rank ** -skew``; 0 makes all items alike.
        random: the source of randomness.
    """
    popularity = np.arange(1, n_items + 1) ** -float(skew)
    popularity /= popularity.sum()
    m = min(successors, n_items - 1)
    weights = 1.0 / np.arange(1, m + 1)
    following = draw(popularity, random.random((n_items, m)))
    itself = np.arange(n_items)[:, None]
    while True:
        # Draw again what equals the item itself or stands twice in its row (all but the first).
        order = np.argsort(following, axis=1, kind="stable")
        in_order = np.take_along_axis(following, order, axis=1)
        again = np.zeros(following.shape, bool)
        np.put_along_axis(again, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
        again |= following == itself
        if not again.any():
            return Markov(popularity, following, weights / weights.sum(), float(epsilon))
        following[again] = draw(popularity, random.random(int(again.sum())))


def draw(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Indices distributed as ``probabilities``, from numbers uniform in [0, 1) of any shape."""
    edges = np.cumsum(probabilities)
    return np.searchsorted(edges[:-1] / edges[-1], uniform, side="right")


def optimum_metrics(manifest: dict[str, Any], ks: Iterable[int]) -> dict[str, float]:
    """The best that any model can expect on the test split: ``recall@K`` and ``mrr@K``.

    Args:
        manifest: of a dataset directory; only that of a synthetic one holds an optimum.
        ks: those above 100 are left out, as the optimum is not known there.
    """
    if "rank_probability" not in manifest.get("optimum", {}):
        return {}
    probability = np.asarray(manifest["optimum"]["rank_probability"])
    best: dict[str, float] = {}
    for k in ks:
        if 1 <= k <= len(probability):
            best[f"recall@{k}"] = float(probability[:k].sum())
            best[f"mrr@{k}"] = float((probability[:k] / np.arange(1, k + 1)).sum())
    return best
