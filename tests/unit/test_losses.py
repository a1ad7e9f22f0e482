"""The losses against NumPy written from the papers (Hidasi et al. 2016, section 3.2.1; Hidasi & Karatzoglou 2018,
section 3): every lane's list of candidates is written out in float64; ours sees one weighted column per item."""

from __future__ import annotations

import doctest
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from jaxrec import config as configuration
from jaxrec.metrics import ranking as metrics
from jaxrec.ops.alias import alias_table, draw

pytestmark = pytest.mark.numbers

NAMES = ("cross_entropy", "bpr", "top1", "bpr_max", "top1_max")
ACTIVATIONS = ("linear", "relu", "tanh", "elu", "selu", "leaky_relu")
BPREG = 0.7


class Case(NamedTuple):
    candidates: np.ndarray  # int[B + N], item of each candidate; lane i's target is candidate i
    column: np.ndarray  # int[B + N], the column of each candidate
    scores: np.ndarray  # float64[B, C], by column
    own: np.ndarray  # int[B]
    weight: np.ndarray  # float64[C]


def make_case(candidates: list[int], lanes: int, seed: int, spare: int = 2, scale: float = 2.0) -> Case:
    """Columns in order of first occurrence, then ``spare`` unused ones."""
    rng = np.random.default_rng(seed)
    items = list(dict.fromkeys(candidates))
    column = np.array([items.index(item) for item in candidates])
    scores = rng.normal(0.0, scale, (lanes, len(items) + spare)).astype(np.float32).astype(np.float64)
    own = column[:lanes]
    weight = np.bincount(column, minlength=scores.shape[1]).astype(float)
    return Case(np.array(candidates), column, scores, own, weight)


CASES = [
    make_case([3, 5, 3, 8, 5, 5, 9, 3], 4, 0),  # equal targets, negatives that equal targets, repeated negatives
    make_case([1, 2, 3, 4], 4, 1),  # in-batch negatives alone, none twice
    make_case([7, 7, 7], 3, 2),  # all alike: a lane's negatives are its own item
    make_case([4, 1, 1, 2, 2, 2], 1, 3, spare=0),
]


def explicit_loss(name: str, scores: np.ndarray, target: int, log_q: np.ndarray) -> float:
    """The loss of one lane: ``scores`` of each listed candidate, one of which is the lane's own ``target``."""
    if name == "cross_entropy":
        logits = scores - log_q
        return float(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[target])
    own, negatives = scores[target], [s for j, s in enumerate(scores) if j != target]
    if not negatives:
        return 0.0
    total = sum(np.exp(s) for s in negatives)
    n = len(negatives)
    if name == "bpr":
        return -sum(np.log(expit(own - s)) for s in negatives) / n
    if name == "top1":
        return sum(expit(s - own) + expit(s * s) for s in negatives) / n
    share = [np.exp(s) / total for s in negatives]
    if name == "bpr_max":
        likelihood = sum(p * expit(own - s) for p, s in zip(share, negatives, strict=True))
        penalty = sum(p * s * s for p, s in zip(share, negatives, strict=True))
        return -np.log(likelihood) + BPREG * penalty
    return sum(p * (expit(s - own) + expit(s * s)) for p, s in zip(share, negatives, strict=True))


def explicit(name: str, case: Case, scores: np.ndarray, log_q: np.ndarray | None = None) -> np.ndarray:
    log_q = np.zeros(len(case.candidates)) if log_q is None else log_q
    return np.array([explicit_loss(name, scores[i, case.column], i, log_q) for i in range(len(case.own))])


def slopes(name: str, case: Case, log_q: np.ndarray | None = None, step: float = 1e-6) -> np.ndarray:
    """Central differences of the explicit losses; a lane's loss depends on its own scores alone."""
    found = np.zeros_like(case.scores)
    for column in range(case.scores.shape[1]):
        up, down = case.scores.copy(), case.scores.copy()
        up[:, column] += step
        down[:, column] -= step
        found[:, column] = (explicit(name, case, up, log_q) - explicit(name, case, down, log_q)) / (2 * step)
    return found


def loss_and_slopes(
    name: str, scores: np.ndarray, own: np.ndarray, weight: np.ndarray, own_weight: Any = 1.0, **loss: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each lane and its derivative by its scores."""
    function: Any = configuration.losses()[name](**({"bpreg": BPREG} if name == "bpr_max" else {}) | loss)
    arrays = (jnp.asarray(own), jnp.float32(weight), jnp.float32(own_weight))
    value, back = jax.vjp(jax.jit(lambda scores: function(scores, *arrays)), jnp.float32(scores))
    return np.asarray(value), np.asarray(back(jnp.ones_like(value))[0])


@pytest.mark.parametrize("case", CASES, ids=["duplicates", "distinct", "alike", "one lane"])
@pytest.mark.parametrize("name", NAMES)
def test_weighted_columns_are_the_papers_list_of_candidates(name: str, case: Case) -> None:
    value, slope = loss_and_slopes(name, case.scores, case.own, case.weight)
    np.testing.assert_allclose(value, explicit(name, case, case.scores), rtol=2e-5)
    np.testing.assert_allclose(slope, slopes(name, case), rtol=1e-3, atol=2e-6)
    assert np.all(slope[:, case.weight == 0] == 0.0)


@pytest.mark.parametrize("logq", [0.5, 1.0])
def test_the_logq_correction_divides_each_occurrence_by_its_probability(logq: float) -> None:
    case = CASES[0]
    counts = np.array([5.0, 2.0, 9.0, 1.0, 4.0, 7.0, 3.0, 8.0, 6.0, 2.0])[case.candidates]
    in_batch = np.arange(len(counts)) < len(case.own)
    log_q = logq * np.log(np.where(in_batch, counts, counts**0.5))  # targets by p, drawn ones by p ** alpha
    weight = np.bincount(case.column, np.exp(-log_q), case.scores.shape[1])
    own_weight = np.exp(-log_q[: len(case.own)])
    value, slope = loss_and_slopes("cross_entropy", case.scores, case.own, weight, own_weight)
    np.testing.assert_allclose(value, explicit("cross_entropy", case, case.scores, log_q), rtol=2e-5)
    np.testing.assert_allclose(slope, slopes("cross_entropy", case, log_q), rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "activation"),
    [(name, "linear") for name in NAMES] + [("bpr_max", activation) for activation in ACTIVATIONS[1:]],
)
def test_extreme_scores_stay_finite(name: str, activation: str) -> None:
    rng = np.random.default_rng(4)
    case = CASES[0]
    scores = rng.choice([-120.0, -80.0, 0.0, 80.0, 120.0], (64, case.scores.shape[1]))
    own = case.own[np.arange(64) % len(case.own)]
    value, slope = loss_and_slopes(name, scores, own, case.weight, final_activation=activation)
    assert np.all(np.isfinite(value))
    assert np.all(value >= -1e-6)  # shares that sum to a hair over 1
    assert np.all(np.isfinite(slope))


def wanted(counts: np.ndarray, alpha: float) -> np.ndarray:
    mass = np.array([float(count) ** alpha if count else 0.0 for count in counts])
    return mass / mass.sum()


@given(
    st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**9)), min_size=1, max_size=40).filter(any),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0]),
)
@settings(max_examples=50, deadline=None)
@example([49], 0.5)  # 49 * (1 / 49) is below 1 in float64: no column reaches the mean
@example([7] * 49, 0.0)
@example([1] * 1000 + [10**12], 1.0)
def test_alias_tables_hold_the_wanted_probabilities(given_counts: list[int], alpha: float) -> None:
    """``keep`` is a float32: 2 ** -24 of a column of 1 / V, for each column that tops an item up."""
    counts = np.array(given_counts)
    table = alias_table(counts, alpha)
    keep = np.asarray(table.keep, np.float64)
    assert np.all((keep >= 0.0) & (keep <= 1.0))
    found = (keep + np.bincount(np.asarray(table.other), 1.0 - keep, len(keep))) / len(keep)
    np.testing.assert_allclose(found, wanted(counts, alpha), rtol=1e-6, atol=1e-7)
    assert np.all(found[counts == 0] == 0.0), "an item that never occurs is never drawn"


def test_draws_follow_the_probabilities() -> None:
    counts, n = np.array([900, 0, 50, 3, 47, 0, 1, 400, 12]), 200_000
    items = jax.jit(draw, static_argnames="n")(alias_table(counts, 0.5), jax.random.key(3)[None], n=n)[0]
    drawn, expected = np.bincount(np.asarray(items), minlength=9), n * wanted(counts, 0.5)
    assert drawn[1] == drawn[5] == 0
    chi_square = ((drawn - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert chi_square < 24.3  # 6 degrees of freedom leave this once in 2,000 keys; the key is fixed


def test_docstring_examples() -> None:
    found = doctest.testmod(metrics, extraglobs={"jnp": jnp, "np": np})
    assert found.attempted >= 1
    assert found.failed == 0
