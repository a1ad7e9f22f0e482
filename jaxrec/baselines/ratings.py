"""Baselines for rows of (user, item, rating): ``RATING_BASELINES`` holds them by name.

Each is fitted on training rows and gives a scorer; a greater score means a better liked item. Index 0 of users and of
items is the unknown one, and counts in ``n_users`` and ``n_items``; it, and whoever has no training row, gets no part
of its own: an unknown user's score is the item's alone, an unknown item's the user's alone.

    score = als(train, n_users, n_items)
    score(user, item)                                        # float32[Q] for int32[Q], int32[Q]
    fitted = held_out_calibration(als, train, n_users, n_items)
    fitted.logits(user, item)                                # float32[Q], for log loss
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from jaxrec.errors import UserError

BLOCK = 2**17  # ratings whose normal equations are held at once
CALIBRATION_ROWS = 200_000  # two parameters need no more
RIDGE = 1e-6  # of the calibration: negligible, but finite parameters where a score parts the labels

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(user int32[Q], item int32[Q]) -> float32[Q]"""


class RatingRows(NamedTuple):
    """Rows in any order; a pair may occur more than once.

    Attributes:
        user, item: int32[N], 0 is unknown.
        rating: float32[N].
        label: float32[N], 0 or 1; only calibration reads it.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    label: np.ndarray

    def take(self, rows: np.ndarray) -> RatingRows:
        return RatingRows(*(column[rows] for column in self))


Fit = Callable[[RatingRows, int, int], Scorer]
"""(training rows, n_users, n_items) -> scorer; options go in by ``functools.partial``"""


def popularity(train: RatingRows, n_users: int, n_items: int) -> Scorer:
    """The number of training rows of the item, whatever their rating; 0 for the unknown item."""
    count = np.bincount(train.item, minlength=n_items)
    count[0] = 0
    return lambda user, item: count[item].astype(np.float32)


def item_mean(train: RatingRows, n_users: int, n_items: int, *, shrink: float = 2.0) -> Scorer:
    """The item's mean rating, as if it had ``shrink`` more ratings at the global mean.

    The rating and not the label: its mean tells more about the label of another row than the mean label does.
    """
    mean, residual = _centred(train)
    score = mean + _shrunk_means(train.item, residual, n_items, shrink)
    return lambda user, item: score[item].astype(np.float32)


def bias(
    train: RatingRows, n_users: int, n_items: int, *, reg_user: float = 10.0, reg_item: float = 2.0,
    iterations: int = 10,
) -> Scorer:  # fmt: skip
    """Global mean + user's bias + item's bias: alternating least squares, each half step exact, on

        sum over rows of (rating - mean - b_user - b_item)^2 + reg_user sum of b_user^2 + reg_item sum of b_item^2

    Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems", "Adding biases".
    """
    mean, residual = _centred(train)
    user_bias = np.zeros(n_users)
    for _ in range(iterations):
        item_bias = _shrunk_means(train.item, residual - user_bias[train.user], n_items, reg_item)
        user_bias = _shrunk_means(train.user, residual - item_bias[train.item], n_users, reg_user)
    return lambda user, item: (mean + user_bias[user] + item_bias[item]).astype(np.float32)


@dataclass(frozen=True)
class Factors:
    """mean + user bias + item bias + user factors . item factors, as a scorer; ``user`` and ``item`` are
    float64[n, factors + 1], the bias last, zeros at index 0.
    """

    mean: float
    user: np.ndarray
    item: np.ndarray

    def __call__(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float32[Q]"""
        p, q = self.user[user], self.item[item]
        product = np.einsum("qk,qk->q", p[:, :-1], q[:, :-1])
        return np.asarray((self.mean + p[:, -1] + q[:, -1] + product).astype(np.float32))


def als(
    train: RatingRows, n_users: int, n_items: int, *, factors: int = 16, reg: float = 1.2, iterations: int = 20,
    seed: int = 0,
) -> Factors:  # fmt: skip
    """Matrix factorisation with biases: alternating least squares, each half step exact, with n_u and n_i the training
    rows of a user and an item, on

        sum over rows of (rating - mean - b_u - b_i - p_u . q_i)^2
            + reg sum over users of sqrt(n_u) (|p_u|^2 + b_u^2) + reg sum over items of sqrt(n_i) (|q_i|^2 + b_i^2)

    Koren, Bell and Volinsky 2009, equation 5, but for the root: validation AUC on MovieLens-1M with 16 factors is .821
    with their constant penalty, .818 with one in proportion to the rows (Zhou et al. 2008), .823 with the root. Time
    and memory grow with the rows and with factors^2.
    """
    mean, residual = _centred(train)
    pairs, shape = (train.user, train.item), (n_users, n_items)
    total = sparse.coo_array((residual, pairs), shape=shape)  # repeated pairs add up here, and in the counts
    count = sparse.coo_array((np.ones(len(residual)), pairs), shape=shape)
    by_user, by_item = (total.tocsr(), count.tocsr()), (total.T.tocsr(), count.T.tocsr())
    of_item = np.zeros((n_items, factors + 1))
    of_item[1:, :-1] = np.random.default_rng(seed).normal(0.0, 0.1, (n_items - 1, factors))
    for _ in range(iterations):
        of_user = _solve(*by_user, of_item, reg)
        of_item = _solve(*by_item, of_user, reg)
    return Factors(mean, of_user, of_item)


def _solve(total: Any, count: Any, other: np.ndarray, reg: float) -> np.ndarray:
    """A half step: float64[M, factors + 1] of one side, given float64[L, factors + 1] of the other.

    With f = (other's factors, 1), each row of this side solves its own normal equations

        (sum of f f' + reg sqrt(n) I) x = sum of (residual - other's bias) f

    whose left sums are, for many rows together, one sparse product with the upper triangles of all f f'. ``total`` and
    ``count`` are CSR float64[M, L], the sum of the residuals of each pair and its training rows.
    """
    features = np.append(other[:, :-1], np.ones((len(other), 1)), axis=1)
    right = total @ features - count @ (features * other[:, -1:])
    penalty = reg * np.sqrt(np.maximum(count.sum(axis=1), 1.0))  # 1: no singular equations where there is no row
    (n_rows, width), (above, beside) = right.shape, np.triu_indices(features.shape[1])
    ends = count.indptr[1:] + np.arange(1, n_rows + 1)  # rows weigh too: empty ones also have equations
    solved, low = np.empty_like(right), 0
    while low < n_rows:
        high = max(low + 1, int(np.searchsorted(ends, (ends[low - 1] if low else 0) + BLOCK, side="right")))
        block = count[low:high]
        used = np.unique(block.indices)
        left = np.empty((high - low, width, width))
        half = block[:, used] @ (features[used][:, above] * features[used][:, beside])
        left[:, above, beside] = left[:, beside, above] = half
        left[:, np.arange(width), np.arange(width)] += penalty[low:high, None]
        solved[low:high] = np.linalg.solve(left, right[low:high, :, None])[:, :, 0]
        low = high
    solved[0] = 0.0
    return solved


RATING_BASELINES: dict[str, Callable[..., Scorer]] = {
    "popularity": popularity, "item_mean": item_mean, "bias": bias, "als": als,
}  # fmt: skip


class Calibrated(NamedTuple):
    """A scorer with P(label = 1) = 1 / (1 + exp(-(slope score + intercept)))."""

    score: Scorer
    slope: float
    intercept: float

    def logits(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float32[Q], the log odds of a positive label."""
        return (self.slope * self.score(user, item) + self.intercept).astype(np.float32)


def held_out_calibration(fit: Fit, train: RatingRows, n_users: int, n_items: int) -> Calibrated:
    """Fit on all but a random tenth of the rows, calibrate on that tenth, and fit again on everything: in sample a
    scorer with many parameters would be over-confident.
    """
    order = np.random.default_rng(0).permutation(len(train.user))
    held = min(max(1, round(0.1 * len(order))), len(order) - 1)
    if held < 1:
        raise UserError(f"calibration: {len(order)} training rows; at least two are needed, one of them to hold out")
    out, kept = train.take(np.sort(order[:held])), train.take(np.sort(order[held:]))
    fitted = calibrate(fit(kept, n_users, n_items)(out.user, out.item), out.label)
    return Calibrated(fit(train, n_users, n_items), *fitted)


def calibrate(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of float32[N] labels, 0 or 1, on float32[N] scores, by Newton's
    method in a trust region, on at most ``CALIBRATION_ROWS`` rows.
    """
    rows = np.linspace(0, len(scores) - 1, min(len(scores), CALIBRATION_ROWS)).astype(np.int64)
    score, label = scores[rows].astype(np.float64), labels[rows].astype(np.float64)
    centre, scale = score.mean(), score.std() or 1.0  # steps, and the ridge, do not depend on the score's unit
    inputs = np.stack([(score - centre) / scale, np.ones(len(score))], axis=1)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logit = inputs @ w
        slope = inputs.T @ (expit(logit) - label) / len(label)
        return RIDGE / 2 * w @ w + cross_entropy(logit, label), slope + RIDGE * w

    def curvature(w: np.ndarray) -> np.ndarray:
        p = expit(inputs @ w)
        return np.asarray((inputs.T * (p * (1 - p))) @ inputs / len(label) + RIDGE * np.eye(2))

    best = minimize(loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10}).x
    return float(best[0] / scale), float(best[1] - best[0] / scale * centre)


def cross_entropy(logit: np.ndarray, label: np.ndarray) -> float:
    """The mean loss in nats of log odds float64[N], given float64[N] labels of 0 and 1."""
    return -float(np.mean(label * log_expit(logit) + (1 - label) * log_expit(-logit)))


def _centred(train: RatingRows) -> tuple[float, np.ndarray]:
    """The mean rating, and float64[N], what the ratings are above it."""
    rating = train.rating.astype(np.float64)
    mean = float(rating.mean())
    return mean, rating - mean


def _shrunk_means(group: np.ndarray, value: np.ndarray, n_groups: int, shrink: float) -> np.ndarray:
    """float64[n_groups]: each group's sum over its count + ``shrink``; 0 where it has no row, and in group 0."""
    count = np.bincount(group, minlength=n_groups) + shrink
    mean = np.bincount(group, value, n_groups) / np.where(count > 0, count, 1.0)
    mean[0] = 0.0
    return mean
