"""Baselines for rows: those of (user, item, rating) score pairs (``RATING_BASELINES`` by name), logistic regression
reads all fields. Index 0 is the unknown user or item; it, and whoever has no training row, gets no part of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from jaxrec.baselines.base import least_squares
from jaxrec.baselines.sessions import Scale
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Rows, Schema
from jaxrec.errors import UserError

STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0)  # from strong to weak: each starts at the weights before
CHOOSING_ROWS = 300_000  # at most so many choose the strength, which is one for each value and not for each row
RIDGE = 1e-6  # of the calibration: negligible, but finite parameters where a score parts the labels

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(user int32[Q], item int32[Q]) -> float32[Q], greater for a better liked item."""


class RatingRows(NamedTuple):
    """Rows in any order; a pair may occur more than once."""

    user: np.ndarray  # int32[N], 0 is unknown
    item: np.ndarray  # int32[N]
    rating: np.ndarray  # float32[N]
    label: np.ndarray  # float32[N], 0 or 1; only calibration reads it

    def take(self, rows: np.ndarray) -> RatingRows:
        return RatingRows(*(column[rows] for column in self))

    def residual(self) -> tuple[float, np.ndarray]:
        """The mean rating, and float64[N], what the ratings are above it."""
        rating = self.rating.astype(np.float64)
        return float(rating.mean()), rating - rating.mean()


def popularity(train: RatingRows, n_users: int, n_items: int) -> Scorer:
    """The number of training rows of the item, whatever their rating; 0 for the unknown item."""
    count = np.bincount(train.item, minlength=n_items)
    count[0] = 0
    return lambda user, item: count[item].astype(np.float32)


def item_mean(train: RatingRows, n_users: int, n_items: int, *, shrink: Scale = 2.0) -> Scorer:
    """The item's mean rating (it tells more than the mean label), as if it had ``shrink`` more at the global mean."""
    return bias(train, n_users, n_items, reg_user=np.inf, reg_item=shrink, iterations=1)


def bias(
    train: RatingRows, n_users: int, n_items: int, *, reg_user: Scale = 10.0, reg_item: Scale = 2.0,
    iterations: Count = 10,
) -> Scorer:  # fmt: skip
    """Global mean + user's bias + item's bias: alternating least squares, each half step exact, on

        sum over rows of (rating - mean - b_user - b_item)^2 + reg_user sum of b_user^2 + reg_item sum of b_item^2

    Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems", "Adding biases"."""
    mean, residual = train.residual()
    user_bias = np.zeros(n_users)
    for _ in range(iterations):
        item_bias = _shrunk_means(train.item, residual - user_bias[train.user], n_items, reg_item)
        user_bias = _shrunk_means(train.user, residual - item_bias[train.item], n_users, reg_user)
    return lambda user, item: (mean + user_bias[user] + item_bias[item]).astype(np.float32)


def _shrunk_means(group: np.ndarray, value: np.ndarray, n_groups: int, shrink: float) -> np.ndarray:
    """float64[n_groups]: each group's sum over its count + ``shrink``; 0 where it has no row, and in group 0."""
    count = np.bincount(group, minlength=n_groups) + shrink
    mean = np.bincount(group, value, n_groups) / np.where(count > 0, count, 1.0)
    mean[0] = 0.0
    return mean


def als(
    train: RatingRows, n_users: int, n_items: int, *, factors: Count = 16, reg: Scale = 1.2, iterations: Count = 20,
    seed: int = 0,
) -> Scorer:  # fmt: skip
    """Matrix factorisation with biases; see ``factorise``."""
    mean, of_user, of_item = factorise(train, n_users, n_items, factors, reg, iterations, seed)

    def score(user: np.ndarray, item: np.ndarray) -> np.ndarray:
        p, q = of_user[user], of_item[item]
        product = np.einsum("qk,qk->q", p[:, :-1], q[:, :-1])
        return np.asarray((mean + p[:, -1] + q[:, -1] + product).astype(np.float32))

    return score


def factorise(
    train: RatingRows, n_users: int, n_items: int, factors: int, reg: float, iterations: int, seed: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean rating, and float64[n, factors + 1] of users and of items, the bias last, zeros at index 0: alternating
    least squares, each half step exact, with n_u and n_i the training rows of a user and an item, on

        sum over rows of (rating - mean - b_u - b_i - p_u . q_i)^2
            + reg sum over users of sqrt(n_u) (|p_u|^2 + b_u^2) + reg sum over items of sqrt(n_i) (|q_i|^2 + b_i^2)

    Koren, Bell and Volinsky 2009, equation 5, but for the root: validation AUC on MovieLens-1M with 16 factors is .821
    with their constant penalty, .818 with one in proportion to the rows (Zhou et al. 2008), .823 with the root."""
    mean, residual = train.residual()
    pairs, shape = (train.user, train.item), (n_users, n_items)
    total = sparse.csr_array((residual, pairs), shape=shape)  # repeated pairs add up here, and in the counts
    count = sparse.csr_array((np.ones(len(residual)), pairs), shape=shape)

    def half_step(total: sparse.csr_array, count: sparse.csr_array, other: np.ndarray) -> np.ndarray:
        # With f = (other's factors, 1): (sum of f f' + reg sqrt(n) I) x = sum of (residual - other's bias) f
        features = np.append(other[:, :-1], np.ones((len(other), 1)), axis=1)
        right = total @ features - count @ (features * other[:, -1:])
        solved = least_squares(count, features, right, reg * np.sqrt(count.sum(axis=1)))
        solved[0] = 0.0
        return solved

    turned, counted = total.T.tocsr(), count.T.tocsr()
    of_item = np.zeros((n_items, factors + 1))
    of_item[1:, :-1] = np.random.default_rng(seed).normal(0.0, 0.1, (n_items - 1, factors))
    for _ in range(iterations):
        of_user = half_step(total, count, of_item)
        of_item = half_step(turned, counted, of_user)
    return mean, of_user, of_item


RATING_BASELINES: dict[str, Callable[..., Scorer]] = {
    "popularity": popularity, "item_mean": item_mean, "bias": bias, "als": als,
}  # fmt: skip


def held_out_calibration(fit: Callable[..., Scorer], train: RatingRows, n_users: int, n_items: int) -> Scorer:
    """The log odds of a positive label, calibrated on a random tenth of the rows, held out of a first fit."""
    order = np.random.default_rng(0).permutation(len(train.user))
    held = max(1, round(0.1 * len(order)))
    if held >= len(order):
        raise UserError(f"calibration: {len(order)} training rows; at least two are needed, one of them to hold out")
    out, kept = train.take(np.sort(order[:held])), train.take(np.sort(order[held:]))
    slope, intercept = calibrate(fit(kept, n_users, n_items)(out.user, out.item), out.label)
    score = fit(train, n_users, n_items)
    return lambda user, item: (slope * score(user, item) + intercept).astype(np.float32)


def calibrate(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of float32[N] labels, 0 or 1, on float32[N] scores."""
    score, label = scores.astype(np.float64), labels.astype(np.float64)
    centre, scale = score.mean(), score.std() or 1.0  # the ridge does not depend on the score's unit
    standard = sparse.csr_array(((score - centre) / scale)[:, None])
    slope, intercept = optimum(standard, label, RIDGE * len(label), np.zeros(2), ftol=1e-16)
    return float(slope / scale), float(intercept - slope / scale * centre)


# ---- logistic regression ---------------------------------------------------------------------------------------------


class Logistic(NamedTuple):
    """Logistic regression, log odds = features . weights + intercept: ``weights`` are float64[values + M], of the
    fields' values, field after field, then of the numbers. The loss is the sum of the cross-entropies and l2 / 2 times
    that of the squared weights."""

    weights: np.ndarray
    intercept: float
    l2: float

    def logits(self, schema: Schema, rows: Rows) -> np.ndarray:
        """float32[n]"""
        return np.asarray(_features(schema, rows) @ self.weights + self.intercept, np.float32)


def fit_logistic(schema: Schema, train: Rows, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> Logistic:
    """Choose the strength of the penalty that predicts a random tenth of the rows best when fitted on the others (a
    single one is taken as it is), and fit again on all of them."""
    if len(train) < 2 or train.labels.min() == train.labels.max():
        raise UserError("logistic: the training labels are all alike, so there is nothing to fit; leave it out")
    features, label = _features(schema, train), train.labels.astype(np.float64)
    none, losses = np.zeros(features.shape[1] + 1), [0.0]
    if len(strengths) > 1:
        order = np.random.default_rng(seed).permutation(len(train))[:CHOOSING_ROWS]
        out, kept = np.split(order, [max(1, round(0.1 * len(order)))])
        kept_features, start, losses = features[kept], none, []
        for strength in strengths:
            start = optimum(kept_features, label[kept], strength, start)
            losses.append(cross_entropy(features[out] @ start[:-1] + start[-1], label[out]))
    l2 = strengths[int(np.argmin(losses))]
    found = optimum(features, label, l2, none)
    return Logistic(found[:-1], float(found[-1]), l2)


def _features(schema: Schema, rows: Rows) -> Any:
    """CSR float64[n, values + M]: 1 for a row's value, 1 / k for each known one of a bag's k, and the numbers."""
    blocks, n = [], len(rows)
    for field in schema.coded:
        columns = rows.columns[:, schema.slices()[field.name]]
        row, place = np.nonzero(columns > 0)
        share = 1.0 / np.maximum((columns >= 0).sum(axis=1), 1)
        blocks.append(sparse.csr_array((share[row], (row, columns[row, place])), shape=(n, field.size)))
    return sparse.hstack([*blocks, sparse.csr_array(rows.numbers.astype(np.float64))], format="csr")


def optimum(features: Any, label: np.ndarray, l2: float, start: np.ndarray, ftol: float = 1e-8) -> np.ndarray:
    """float64[F + 1]: the weights of CSR float64[n, F] features, and the intercept last, from where ``start`` is."""
    turned, n = features.T.tocsr(), len(label)
    # In units in which the curvature is about 1 in each direction, L-BFGS needs a third of the steps.
    spread = max(1e-6, float(label.mean() * (1 - label.mean())))
    unit = 1 / np.sqrt(np.append(turned.power(2).sum(axis=1) * spread + l2, n * spread))

    def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        found = scaled * unit
        weights, logit = found[:-1], features @ found[:-1] + found[-1]
        error = expit(logit) - label
        slope = np.append(turned @ error + l2 * weights, error.sum())
        return cross_entropy(logit, label) + l2 / 2 / n * weights @ weights, slope * unit / n

    options = {"maxiter": 200, "ftol": ftol, "gtol": 0.0}
    return np.asarray(minimize(loss, start / unit, jac=True, method="L-BFGS-B", options=options).x) * unit


def cross_entropy(logit: np.ndarray, label: np.ndarray) -> float:
    """The mean loss in nats of log odds float64[N], given float64[N] labels of 0 and 1."""
    return -float(np.mean(label * log_expit(logit) + (1 - label) * log_expit(-logit)))
