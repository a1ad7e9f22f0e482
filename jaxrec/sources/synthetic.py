"""Synthetic sessions from a Markov process: needs no data, and the best possible ranking is known.

Every item has a few successors of its own, with fixed and decreasing probabilities; popular items are successors more
often. After a click on ``i`` the next click is one of the successors of ``i`` with probability ``1 - epsilon``,
otherwise any other item by popularity. The clicks before the last say nothing more, so the best ranking after ``i`` is
by ``P(next | i)``, which is known exactly.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from jaxrec.data.clean.protocol import DAY, Raw
from jaxrec.sources.shared import Numbers, add_numbers, draw

HELP = "made-up sessions with a known best result; needs no raw data"
KIND = "sessions"
DEFAULTS = {"min_item_support": 1, "test_days": 3}

RANKS = 100  # the optimum is known for metrics at up to this K
MAX_LENGTH = 50
START = 1_704_067_200_000  # 2024-01-01 UTC, in ms
MEAN_GAP = 30_000  # ms between clicks
OPTIONS: Numbers = {
    "items": (int, 2, 10**7, 1000, "items in the catalogue"),
    "sessions": (int, 1, 10**7, 30_000, "sessions to make"),
    "mean_length": (float, 2, 20, 7.0, f"mean clicks of a session, of which each has 2 to {MAX_LENGTH}"),
    "days": (int, 1, 10_000, 30, "days over which they are spread"),
    "successors": (int, 1, 1000, 12, "items that tend to follow each item"),
    "epsilon": (float, 0, 1, 0.2, "probability of a next item by popularity instead"),
    "skew": (float, 0, 3, 0.8, "popularity falls as rank to the power of -skew"),
    "seed": (int, 0, 2**32, 0, "another seed makes another data set"),
}


@dataclass(frozen=True)
class Markov:
    """A Markov process over ``n`` items, numbered by popularity, 0 the most popular."""

    popularity: np.ndarray  # float64[n], descending, sums to 1
    successors: np.ndarray  # int64[n, m], the items that follow each item; distinct, and never the item itself
    weights: np.ndarray  # float64[m], descending, sums to 1: the share of each of them
    epsilon: float  # the probability of a next item by popularity instead

    def rank_probability(self, items: np.ndarray, ranks: int = RANKS) -> np.ndarray:
        """float64[ranks], descending: how likely the best ranker has the next item at rank 1, 2, ..., averaged over the
        clicks ``items``; its sum is the best reachable Recall@ranks.
        """
        inputs, counts = np.unique(items, return_counts=True)
        total = np.zeros(ranks)
        # Beside its successors only the most popular items can be among the first: so many that enough remain.
        others = np.arange(min(len(self.popularity), ranks + len(self.weights) + 1))
        for start in range(0, len(inputs), 4096):
            item = inputs[start : start + 4096]
            followers = self.successors[item]  # [B, m]
            scale = self.epsilon / (1.0 - self.popularity[item])[:, None]  # the item itself is never drawn
            by_chain = scale * self.popularity[followers] + (1.0 - self.epsilon) * self.weights  # [B, m]
            by_popularity = scale * self.popularity[others]  # [B, others]
            by_popularity[item[:, None] == others] = 0.0
            row, column = np.nonzero(followers < len(others))
            by_popularity[row, followers[row, column]] = 0.0
            ranked = -np.sort(-np.concatenate([by_chain, by_popularity], axis=1), axis=1)[:, :ranks]
            total[: ranked.shape[1]] += counts[start : start + 4096] @ ranked
        return total / counts.sum()

    def walk(self, starts: np.ndarray, lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Walk from ``starts`` for ``lengths`` clicks each; returns all items, int64[sum(lengths)], walk by walk."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = np.empty(offsets[-1], np.int64)
        items[offsets[:-1]] = starts
        for step in range(1, int(lengths.max())):
            here = offsets[:-1][lengths > step] + step
            before = items[here - 1]
            following = self.successors[before, draw(self.weights, random.random(len(here)))]
            elsewhere = np.flatnonzero(random.random(len(here)) < self.epsilon)
            while len(elsewhere):
                following[elsewhere] = draw(self.popularity, random.random(len(elsewhere)))
                elsewhere = elsewhere[following[elsewhere] == before[elsewhere]]
            items[here] = following
        return items


def make_markov(n_items: int, successors: int, epsilon: float, skew: float, random: np.random.Generator) -> Markov:
    """Draw a Markov process, of fewer successors where there are not that many other items."""
    popularity = np.arange(1, n_items + 1) ** -float(skew)
    popularity /= popularity.sum()
    m = min(successors, n_items - 1)
    weights = 1.0 / np.arange(1, m + 1)
    following = draw(popularity, random.random((n_items, m)))
    while True:
        # Draw again what equals the item itself or stands twice in its row (all but the first).
        order = np.argsort(following, axis=1, kind="stable")
        in_order = np.take_along_axis(following, order, axis=1)
        again = np.zeros(following.shape, bool)
        np.put_along_axis(again, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
        again |= following == np.arange(n_items)[:, None]
        if not again.any():
            return Markov(popularity, following, weights / weights.sum(), float(epsilon))
        following[again] = draw(popularity, random.random(int(again.sum())))


def optimum_metrics(manifest: dict[str, Any], ks: Iterable[int]) -> dict[str, float]:
    """The best that any model can expect on a synthetic test split, ``recall@K`` and ``mrr@K`` for ``ks`` up to 100."""
    probability = np.asarray(manifest.get("optimum", {}).get("rank_probability", ()))
    best: dict[str, float] = {}
    for k in ks:
        if 1 <= k <= len(probability):
            best[f"recall@{k}"] = float(probability[:k].sum())
            best[f"mrr@{k}"] = float((probability[:k] / np.arange(1, k + 1)).sum())
    return best


def add_arguments(parser: ArgumentParser) -> None:
    add_numbers(parser, OPTIONS)


def read(connection: Any, arguments: Namespace) -> Raw:
    random = np.random.default_rng(arguments.seed)
    n, sessions, mean = arguments.items, arguments.sessions, arguments.mean_length
    markov = make_markov(n, arguments.successors, arguments.epsilon, arguments.skew, random)
    ids = np.argsort(random.random(n)) + 1  # shuffled: they say nothing about the popularity
    lengths = np.full(sessions, 2)
    if mean > 2:  # geometric above 2
        further = np.log1p(-random.random(sessions)) / np.log1p(-1 / (mean - 1))
        lengths = np.minimum(2 + further.astype(np.int64), MAX_LENGTH)
    starts = draw(markov.popularity, random.random(sessions))
    # The first sessions visit every item once: the optimum holds for a catalogue without unseen items.
    starts[: min(n, sessions)] = np.arange(min(n, sessions))
    items = markov.walk(starts, lengths, random)
    # Sessions begin at random in ascending order, clicks follow at random gaps.
    begin = START + (np.sort(random.random(sessions)) * arguments.days * DAY).astype(np.int64)
    elapsed = np.cumsum(1 + (-np.log1p(-random.random(len(items))) * MEAN_GAP).astype(np.int64))
    times = np.repeat(begin - elapsed[np.cumsum(lengths) - lengths], lengths) + elapsed
    columns = {"session": np.repeat(np.arange(1, sessions + 1), lengths), "item": ids[items], "time": times}
    connection.register("generated", pyarrow.table(columns))
    connection.execute("CREATE TABLE raw AS SELECT * FROM generated")
    connection.unregister("generated")
    options = {name: getattr(arguments, name) for name in OPTIONS}
    return Raw("the synthetic sessions", options, extras=lambda path: ({}, {}, _optimum(markov, ids, path)))


def _optimum(markov: Markov, ids: np.ndarray, path: Path) -> dict[str, Any]:
    """The manifest's ``optimum`` for the test split; none where cleaning has taken items, which leaves gaps."""
    offsets = np.load(path / "test" / "offsets.npy")
    vocabulary = pyarrow.parquet.read_table(path / "items.parquet")["item"].to_numpy()
    if len(vocabulary) < len(ids) or len(offsets) == 1:
        return {}
    clicks = np.delete(np.load(path / "test" / "items.npy"), offsets[1:] - 1)
    states = np.argsort(ids)  # of ids 1, 2, ...
    probability = markov.rank_probability(states[vocabulary[clicks] - 1])
    # Rounded, so that the manifest does not depend on the order in which a machine sums.
    return {"optimum": {"rank_probability": [round(float(p), 9) for p in probability]}}
