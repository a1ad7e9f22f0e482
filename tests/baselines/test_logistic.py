"""The logistic regression beside click models, against plain Newton steps on a dense matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from jaxrec.baselines.logistic import fit_logistic
from jaxrec.config import parse
from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.models.autoint import AutoInt

SCHEMA = Schema(
    (Field("site", "categorical", "context", 5), Field("tags", "bag", "item", 4, width=2),
     Field("price", "numerical", "item", 1, width=0)), None, None, 1.0, 0.0, 1.0,
)  # fmt: skip


def made(n: int = 300, labels: np.ndarray | None = None) -> Rows:
    random = np.random.default_rng(1)
    site = random.integers(0, 5, n)
    tags = np.stack([random.integers(0, 4, n), random.integers(-1, 4, n)], axis=1)
    price = random.normal(size=n)
    drawn = (random.random(n) < expit(0.8 * (site == 2) - 0.5 * (tags[:, 0] == 1) + 0.7 * price - 0.4)).astype(int)
    columns = np.concatenate([site[:, None], tags], axis=1).astype(np.int32)
    target = np.asarray(drawn if labels is None else labels, np.float32)
    zeros = np.zeros(n, np.int32)
    return Rows(columns, price[:, None].astype(np.float32), target, target, zeros.astype(np.int64), zeros)


def dense(rows: Rows) -> np.ndarray:
    """float64[n, 5 + 4 + 1 + 1]: values, the number and 1."""
    features = np.zeros((len(rows), 11))
    for row, (site, *tags) in enumerate(rows.columns):
        features[row, site] = site > 0
        held = [tag for tag in tags if tag >= 0]
        for tag in held:
            features[row, 5 + tag] += (tag > 0) / len(held)
    features[:, 9] = rows.numbers[:, 0]
    features[:, 10] = 1
    return features


@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_the_optimum_is_that_of_newton(l2: float) -> None:
    rows = made()
    x, weights, pull = dense(rows), np.zeros(11), l2 * np.diag([1.0] * 10 + [0.0])
    for _ in range(30):
        p = expit(x @ weights)
        weights -= np.linalg.solve((x.T * (p * (1 - p))) @ x + pull, x.T @ (p - rows.labels) + pull @ weights)
    found = fit_logistic(SCHEMA, rows, strengths=(l2,))
    np.testing.assert_allclose([*found.weights, found.intercept], weights, atol=2e-3)
    np.testing.assert_allclose(found.logits(SCHEMA, rows), x @ weights, atol=5e-3)


def test_noise_is_answered_with_a_strong_penalty() -> None:
    noise, strengths = np.random.default_rng(2).integers(0, 2, 300), (1e4, 1e-2)
    assert fit_logistic(SCHEMA, made(labels=noise), strengths).l2 == 1e4
    assert fit_logistic(SCHEMA, made(3000), strengths).l2 == 1e-2


def test_a_model_begins_where_the_regression_ends() -> None:
    rows = made()
    fitted = fit_logistic(SCHEMA, rows, strengths=(3.0,))
    config = parse({
        "data": {"path": "none"}, "loss": {"name": "binary", "embedding_l2": 7.0}, "training": {"metric": "auc"},
        "model": {"name": "autoint", "first_order": "logistic", "init_std": 1e-6, "embedding_dim": 4},
    })  # fmt: skip
    model = AutoInt(config, SCHEMA, fitted)
    spec = model.tables["field"]
    tables = {"field": spec.init(jax.random.key(0), (spec.rows, spec.width))}
    logits = model.logits(model.init(jax.random.key(1)), tables, jnp.asarray(rows.columns), jnp.asarray(rows.numbers))
    np.testing.assert_allclose(logits, fitted.logits(SCHEMA, rows), atol=1e-4)
    counts = np.array([0, 50, 60, 70, 80, 0, 100, 120, 140])
    pulls = model.constants(counts)
    np.testing.assert_allclose(np.asarray(pulls.weights)[[1, 6]], [3.0 / 2 / 50, 3.0 / 2 / 100], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(pulls.vectors)[[1, 6]], [7.0, 7.0], rtol=1e-6)
