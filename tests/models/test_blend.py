"""Blends: probabilities, log loss and weights against dense NumPy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.special import softmax

from jaxrec.models.blend import Blend, Weights, distribution
from jaxrec.tasks.blend import fit
from jaxrec.tasks.blend.fit import Sample
from jaxrec.tasks.blend.task import best, ranked, scored

ITEMS, QUERIES, WIDTHS = 300, 40, (5, 7)


def drawn(seed: int = 0) -> tuple[Sample, list[np.ndarray]]:
    """Two networks and two neighbours' methods, of which one is silent on every third query."""
    random = np.random.default_rng(seed)
    vectors = [random.normal(size=(QUERIES, width)).astype(np.float32) for width in WIDTHS]
    items = [random.normal(size=(ITEMS, width)).astype(np.float32) for width in WIDTHS]
    votes = [sparse.random_array((QUERIES, ITEMS), density=0.03, rng=random, format="csr") for _ in range(2)]
    votes[1] = sparse.csr_array(sparse.diags_array((np.arange(QUERIES) % 3 > 0).astype(float)) @ votes[1])
    votes[1].eliminate_zeros()
    return Sample(vectors, votes, random.integers(0, ITEMS, QUERIES), random.integers(1, 9, QUERIES)), items


def dense(sample: Sample, items: list[np.ndarray], weights: tuple[Weights, ...]) -> np.ndarray:
    """float64[n, V] probabilities, as the docstring of ``jaxrec.models.blend`` has them."""
    rows = []
    for n, clicks in enumerate(sample.clicks):
        own = [one for one in weights if one.clicks <= clicks][-1]
        scores = [query[n] @ table.T.astype(np.float64) for query, table in zip(sample.vectors, items, strict=True)]
        parts = [softmax(sum(scale * one for scale, one in zip(own.temperatures, scores, strict=True)))]
        for votes, exponent in zip(sample.votes, own.exponents, strict=True):
            row = np.asarray(votes.toarray()[n])
            raised = np.where(row > 0, row, 0.0) ** exponent * (row > 0)
            parts.append(raised / max(raised.sum(), 1e-300))
        share = np.array(own.shares) * [part.sum() > 0 for part in parts]
        rows.append(share @ np.array(parts) / share.sum())
    return np.array(rows)


WEIGHTS = (
    Weights(clicks=1, temperatures=(0.5, 1.2), exponents=(0.7, 1.0), shares=(0.5, 0.3, 0.2)),
    Weights(clicks=4, temperatures=(1.0, 0.1), exponents=(1.5, 0.4), shares=(0.1, 0.2, 0.7)),
)


def test_ranks_and_best_items_are_those_of_the_mixture() -> None:
    sample, items = drawn()
    expected = dense(sample, items, WEIGHTS)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0)
    model = Blend([], WEIGHTS)
    table = jnp.pad(jnp.concatenate(items, axis=1), ((0, 5), (0, 0)))  # as when serving, with padding
    what = scored(model, sample.vectors, sample.votes, sample.clicks, ITEMS)
    ranks, top = ranked(what, table, jnp.asarray(sample.targets), ITEMS, 5, 16)
    own = expected[np.arange(QUERIES), sample.targets]
    np.testing.assert_array_equal(ranks, (expected >= own[:, None]).sum(axis=1))
    banned = np.tile([3, ITEMS], (QUERIES, 1))
    order = np.argsort(-expected, axis=1)
    np.testing.assert_array_equal(top, order[:, :5])
    places, values = best(what, table, jnp.asarray(banned), ITEMS, 5, 16)
    expected[:, 3] = 0.0
    np.testing.assert_array_equal(places, np.argsort(-expected, axis=1)[:, :5])
    np.testing.assert_allclose(np.exp(values), -np.sort(-expected, axis=1)[:, :5], rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_log_loss_and_its_derivative(seed: int) -> None:
    sample, items = drawn(seed)
    theta = np.random.default_rng(seed).normal(size=6) * 0.3
    shares = softmax([0.0, *theta[4:]])
    weights = Weights(clicks=1, temperatures=tuple(np.exp(theta[:2])), exponents=tuple(np.exp(theta[2:4])),
                      shares=tuple(shares))  # fmt: skip
    own = dense(sample, items, (weights,))[np.arange(QUERIES), sample.targets]
    tables = [jnp.asarray(one) for one in items]

    def value(at: np.ndarray) -> float:
        return fit.log_loss(at, sample, tables, 16)[0]

    loss, slope = fit.log_loss(theta, sample, tables, 16)
    assert loss == pytest.approx(-np.mean(np.log(own)), rel=1e-5)
    steps = 1e-2 * np.eye(6)
    numeric = np.array([(value(theta + step) - value(theta - step)) / 2e-2 for step in steps])
    np.testing.assert_allclose(slope, numeric, atol=2e-3)


def test_fitted_weights_trust_who_knows() -> None:
    """A network that knows the target of odd queries, and neighbours who know that of long sessions alone."""
    random, n = np.random.default_rng(5), 600
    targets, clicks = random.integers(0, ITEMS, n), np.repeat([1, 5], n // 2)
    table = np.eye(ITEMS, dtype=np.float32)
    known = table[np.where(random.random(n) < 0.5, targets, random.integers(0, ITEMS, n))] * 8.0
    noise = random.integers(0, ITEMS, (n, 3))
    noise[:, 0] = np.where((clicks > 1) & (random.random(n) < 0.8), targets, noise[:, 0])
    votes = sparse.csr_array((np.ones(3 * n), (np.repeat(np.arange(n), 3), noise.ravel())), shape=(n, ITEMS))
    sample = Sample([known], [votes], targets, clicks)
    weights, loss = fit.fit_weights(sample, [jnp.asarray(table)], 64)
    assert len(weights) == 1, "too few targets for parts"
    whole = Sample([np.tile(known, (4, 1))], [sparse.csr_array(sparse.vstack([votes] * 4))], np.tile(targets, 4),
                   np.tile(clicks, 4))  # fmt: skip
    weights, better = fit.fit_weights(whole, [jnp.asarray(table)], 64)
    assert [one.clicks for one in weights] == [1, 2] and better < loss - 0.05
    assert weights[0].shares[1] < 0.1 < 0.4 < weights[1].shares[1]
    alone = -np.log(dense(sample, [table], weights)[np.arange(n), targets]).mean()
    assert alone == pytest.approx(better, abs=0.01)


def test_votes_to_a_power_are_a_distribution() -> None:
    votes = sparse.csr_array(np.array([[1e-200, 2e-200, 0.0], [0.0, 0.0, 0.0], [1e200, 0.0, 3e200]]))
    found = distribution(votes, np.array([1.0, 1.0, 2.0])).toarray()
    np.testing.assert_allclose(found, np.array([[1 / 3, 2 / 3, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.9]]))


def test_weights_have_to_fit() -> None:
    from jaxrec import UserError
    from jaxrec.config import parse

    def config(**change: Any) -> Any:
        one = WEIGHTS[0].model_dump() | change
        return parse({"data": {"path": "x"}, "model": {"name": "blend", "networks": ["a", "b"],
                                                       "neighbours": ["stan", "spop"], "weights": [one]}})  # fmt: skip

    assert config().model.weights[0].clicks == 1
    for change, message in (
        ({"clicks": 2}, "ascend"),
        ({"shares": (0.5, 0.5)}, "temperatures"),
        ({"shares": (0.5, 0.1, 0.1)}, "sum to 1"),
        ({"exponents": (0.0, 1.0)}, "greater"),
    ):
        with pytest.raises(UserError, match=message):
            config(**change)
