"""Bootstrap over groups of queries: a session's targets, or a user's rows, are alike, so whole groups are drawn with
replacement (the cluster bootstrap: Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.8).

All samples of one seed draw the same groups, whatever is measured. The difference of two rankers' samples is therefore
that of the paired bootstrap (Efron and Tibshirani 1993, "An introduction to the bootstrap", ch. 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CELLS = 2**22  # drawn counts that are held at once
REPETITIONS = 2000
COVERED = 0.95  # by an interval


class Interval(NamedTuple):
    """A value, and the ends of its percentile interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is more than noise."""
        return self.low > 0 or self.high < 0


def interval(value: float, samples: np.ndarray) -> Interval:
    """The 95 % percentile interval of float64[R] samples of a value; an undefined sample (no positive drawn) is left
    out."""
    if not np.any(defined := ~np.isnan(samples)):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(samples[defined], [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Interval(value, float(low), float(high))


def drawn(groups: int, repetitions: int, seed: int) -> Iterator[np.ndarray]:
    """int64[r, G], part after part: how often each repetition has each group. A repetition does not depend on how many
    a part has."""
    random, step = np.random.default_rng(seed), max(1, CELLS // max(1, groups))
    for low in range(0, repetitions, step):
        rows = range(low, min(low + step, repetitions))
        yield np.stack([np.bincount(random.integers(groups, size=groups), minlength=groups) for _ in rows])


def mean_samples(
    values: np.ndarray, groups: np.ndarray, repetitions: int = REPETITIONS, seed: int = 0
) -> np.ndarray:  # fmt: skip
    """float64[R, M]: means of float[n, M] values, whose groups, int[n] from 0 on, are drawn with replacement. A mean
    weighs queries alike, so that groups weigh by their sizes.

    >>> mean_samples(np.array([[1.0], [1.0], [0.0]]), np.array([0, 0, 1]), 4).round(2).ravel()
    array([0.  , 0.67, 1.  , 1.  ])
    """
    sizes = np.bincount(groups)
    sums = np.stack([np.bincount(groups, column, len(sizes)) for column in values.T], axis=1)
    parts = [(counts @ sums) / (counts @ sizes)[:, None] for counts in drawn(len(sizes), repetitions, seed)]
    return np.concatenate(parts)


def auc_samples(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, repetitions: int = REPETITIONS, seed: int = 0
) -> np.ndarray:  # fmt: skip
    """float64[R]: the area under the ROC curve, ties counted half, of float[n] scores of rows whose groups are drawn
    with replacement; nan where only one class is drawn. Scores are sorted once: a repetition weighs the rows anew.

    >>> auc_samples(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]), np.array([0, 0, 0]), 2)
    array([0.5, 0.5])
    """
    order = np.argsort(scores, kind="stable")
    group, positive = groups[order], labels[order] > 0
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0) if len(order) else order  # of equal scores
    areas = []
    for counts in drawn(int(groups.max(initial=-1)) + 1, repetitions, seed):
        for weights in counts:
            weight = weights[group].astype(np.float64)
            ours, theirs = (np.add.reduceat(np.where(mine, weight, 0.0), first) for mine in (positive, ~positive))
            won = ours @ (np.cumsum(theirs) - theirs / 2)
            pairs = ours.sum() * theirs.sum()
            areas.append(won / pairs if pairs else np.nan)
    return np.array(areas)
