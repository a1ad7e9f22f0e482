"""Logistic regression on the fields of rows: a weight for each value and each number, none for pairs of them.

What a click model has to beat: fields alone explain much of a table of clicks, and a convex problem cannot be trained
badly. Each row's loss is the cross-entropy of its label, with l2 / 2 times the sum of the squared weights, not of the
intercept; the strength is the one of ``STRENGTHS`` that predicts a held-out tenth of the training rows best. SciPy's
L-BFGS finds the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import minimize
from scipy.special import expit

from jaxrec.baselines.ratings import cross_entropy
from jaxrec.data.rows import Rows, Schema
from jaxrec.errors import UserError

STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0)  # from strong to weak: each starts at the weights before
HELD_OUT = 0.1
CHOOSING_ROWS = 300_000  # at most so many choose the strength, which is one for each value and not for each row
OPTIONS = {"maxiter": 200, "ftol": 1e-8, "gtol": 0.0}


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
    """Choose the strength of the penalty on a held-out tenth of the rows, and fit again on all of them.

    Args:
        schema: the fields that the rows' columns and numbers hold.
        strengths: to choose from, from strong to weak; a single one is taken as it is.
        seed: of the rows that are held out.
    """
    if len(train) < 2 or train.labels.min() == train.labels.max():
        raise UserError("logistic: the training labels are all alike, so there is nothing to fit; leave it out")
    features, label = _features(schema, train), train.labels.astype(np.float64)
    l2, none = strengths[0], np.zeros(features.shape[1] + 1)
    if len(strengths) > 1:
        order = np.random.default_rng(seed).permutation(len(train))[:CHOOSING_ROWS]
        held = max(1, round(HELD_OUT * len(order)))
        out, kept = order[:held], order[held:]
        kept_features, losses, start = features[kept], [], none
        for strength in strengths:
            start = _optimum(kept_features, label[kept], strength, start)
            losses.append(cross_entropy(features[out] @ start[:-1] + start[-1], label[out]))
        l2 = strengths[int(np.argmin(losses))]
    found = _optimum(features, label, l2, none)
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
    blocks.append(sparse.csr_array(rows.numbers.astype(np.float64)))
    return sparse.hstack(blocks, format="csr")


def _optimum(features: Any, label: np.ndarray, l2: float, start: np.ndarray) -> np.ndarray:
    """float64[features + 1]: the weights, and the intercept last."""
    turned, n = features.T.tocsr(), len(label)
    # In units in which the curvature is about 1 in each direction, L-BFGS needs a third of the steps.
    spread = float(label.mean() * (1 - label.mean()))
    unit = 1 / np.sqrt(np.append(turned.power(2).sum(axis=1) * spread + l2, n * spread))

    def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        found = scaled * unit
        weights, logit = found[:-1], features @ found[:-1] + found[-1]
        error = expit(logit) - label
        slope = np.append(turned @ error + l2 * weights, error.sum())
        return cross_entropy(logit, label) + l2 / 2 / n * weights @ weights, slope * unit / n

    return np.asarray(minimize(loss, start / unit, jac=True, method="L-BFGS-B", options=OPTIONS).x) * unit
