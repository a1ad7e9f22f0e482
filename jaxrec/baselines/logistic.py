"""Logistic regression on the fields of rows: a weight for each value and each number, none for pairs of them.

What a click model has to beat: a convex problem cannot be trained badly. The loss is the sum of the cross-entropies of
the labels and l2 / 2 times that of the squared weights, not of the intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from jaxrec.data.rows import Rows, Schema
from jaxrec.errors import UserError

STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0)  # from strong to weak: each starts at the weights before
CHOOSING_ROWS = 300_000  # at most so many choose the strength, which is one for each value and not for each row


class Logistic(NamedTuple):
    """P(label = 1) = 1 / (1 + exp(-(features . weights + intercept))); ``weights`` is float64[values + M], of the
    fields' values, field after field, then of the numbers.
    """

    weights: np.ndarray
    intercept: float
    l2: float

    def logits(self, schema: Schema, rows: Rows) -> np.ndarray:
        """float32[n]"""
        return np.asarray(_features(schema, rows) @ self.weights + self.intercept, np.float32)


def fit_logistic(schema: Schema, train: Rows, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> Logistic:
    """Choose the strength of the penalty that predicts a random tenth of the rows best when fitted on the others, and
    fit again on all of them; a single one of ``strengths`` is taken as it is.
    """
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
    """CSR float64[n, values + M]: 1 for a row's value, 1 / k for each of the k of a bag, and the numbers; an unknown
    value has no part, but counts in a bag's k.
    """
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
