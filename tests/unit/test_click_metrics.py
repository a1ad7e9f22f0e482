"""Metrics of click models against short NumPy and Python ones that share nothing with them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.errors import UserError
from jaxrec.metrics.clicks import (
    auc,
    by_group,
    calibration,
    click_metrics,
    log_loss,
    user_ranking,
)

N, USERS, KS = 400, 40, (1, 3, 10)


def make(seed: int, n: int = N, values: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of few values, so with many ties; labels; users, in no order."""
    rng = np.random.default_rng(seed)
    scores = ((rng.integers(0, values, n) - values // 2) / 2).astype(np.float32)
    labels = (rng.random(n) < 0.3).astype(np.float32)
    return scores, labels, rng.integers(0, USERS, n).astype(np.int32)


def all_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    """AUC from every pair of a positive and a negative."""
    ours, theirs = scores[labels == 1, None], scores[None, labels == 0]
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())


def user_by_user(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, k: int) -> dict[str, float]:
    """Both definitions of NDCG and hit rate in a loop over users."""
    found: list[tuple[float, ...]] = []
    for user in sorted(set(users.tolist())):
        rows = [(-scores[i], labels[i]) for i in np.flatnonzero(users == user)]
        relevant = [int(label) for _, label in sorted(rows)]  # among equals label 0 first
        total, top = sum(relevant), sum(relevant[:k])
        if not total:
            continue
        dcg = sum(label / math.log2(rank + 1) for rank, label in enumerate(relevant[:k], start=1))
        cut, uncut = (sum(1 / math.log2(rank + 1) for rank in range(1, m + 1)) for m in (min(k, total), total))
        found.append((dcg / cut, float(top > 0), dcg / uncut, top / total))
    names = [f"{name}@{k}" for name in ("ndcg", "hit_rate", "ndcg_published", "hit_rate_published")]
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def exact_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """In float64."""
    logits = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


# ---- AUC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [1, 2, 9, 10**6])
def test_auc(values: int) -> None:
    for seed in range(3):
        scores, labels, _ = make(seed, values=values)
        assert auc(scores, labels) == pytest.approx(all_pairs(scores, labels), abs=1e-12)
        assert auc(jnp.asarray(scores), jnp.asarray(labels)) == auc(scores, labels)


rows = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=16, max_size=16)  # one compiled size


@settings(deadline=None, max_examples=60)
@given(rows)
def test_properties_of_auc(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], np.float32)
    labels = np.array([label for _, label in pairs], np.float32)
    found = auc(scores, labels)
    if labels.min() == labels.max():
        assert math.isnan(found)
        return
    assert found == pytest.approx(all_pairs(scores, labels), abs=1e-12)
    assert auc(np.exp(scores), labels) == found
    assert auc(scores**3 / 8 + 100, labels) == found
    assert auc(scores, 1 - labels) == pytest.approx(1 - found, abs=1e-12)
    assert auc(-scores, labels) == pytest.approx(1 - found, abs=1e-12)
    assert auc(np.zeros(16, np.float32), labels) == 0.5


def test_order_of_unusual_scores() -> None:
    """Zeros of both signs are equal, infinities are the ends, and what is not a number counts against its row."""
    ends = np.array([-np.inf, -3e38, -1.0, -0.0, 0.0, 1e-30, 1.0, 3e38, np.inf], np.float32)
    for i, low in enumerate(ends):
        for j, high in enumerate(ends):
            wanted = 0.5 if low == high else float(i < j)
            assert auc(np.array([low, high]), np.array([0.0, 1.0], np.float32)) == wanted
    labels = np.array([1, 0], np.float32)
    for other in (-np.inf, 0.0, np.inf):
        assert auc(np.array([np.nan, other], np.float32), labels) == 0.0
        assert auc(np.array([other, np.nan], np.float32), labels) == 0.0


def test_three_million_rows() -> None:
    """Sums in float32 that run from row to row would be off here."""
    n = 3_000_000
    rng = np.random.default_rng(3)
    scores = (rng.integers(-200_000, 200_000, n) / 1e5).astype(np.float32)
    labels = (rng.random(n) < 0.25).astype(np.float32)
    ours, theirs = scores[labels == 1], np.sort(scores[labels == 0])
    won = np.searchsorted(theirs, np.sort(ours)) + np.searchsorted(theirs, np.sort(ours), side="right")
    assert auc(scores, labels) == pytest.approx(won.sum(dtype=np.float64) / 2 / len(ours) / len(theirs), abs=1e-12)
    assert float(log_loss(scores, labels)) == pytest.approx(exact_log_loss(scores, labels), abs=1e-6)
    # the same probability in millions of rows: every rounding of a running sum would go in the same direction
    found = calibration(jnp.full(n, 0.3), labels, bins=2)
    assert float(found.error) == pytest.approx(abs(0.3 - labels.mean(dtype=np.float64)), abs=1e-6)


# ---- log loss and calibration ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-200, 200, width=32), st.booleans()), min_size=16, max_size=16))
def test_log_loss(pairs: list[tuple[float, bool]]) -> None:
    logits = np.array([logit for logit, _ in pairs], np.float32)
    labels = np.array([label for _, label in pairs], np.float32)
    assert float(log_loss(logits, labels)) == pytest.approx(exact_log_loss(logits, labels), rel=2e-6, abs=1e-30)


def test_calibration() -> None:
    rng = np.random.default_rng(4)
    p = rng.random(N).astype(np.float32)
    labels = (rng.random(N) < p**2).astype(np.float32)
    found = calibration(p, labels, bins=7)
    edges, error = np.asarray(found.edges), 0.0
    np.testing.assert_allclose(edges, np.arange(8) / 7, rtol=1e-6)
    for b in range(7):
        inside = (p > b / 7) & (p <= (b + 1) / 7)
        assert int(found.rows[b]) == inside.sum() > 0
        assert float(found.predicted[b]) == pytest.approx(p[inside].mean(), rel=1e-6)
        assert float(found.observed[b]) == pytest.approx(labels[inside].mean(), rel=1e-6)
        error += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    assert float(found.error) == pytest.approx(error, abs=1e-6)
    assert calibration(p, labels).rows.shape == (15,)


def test_perfect_and_worst_calibration() -> None:
    """Bins whose share of clicks is the probability; edges belong to the bin below, and empty bins do not matter."""
    p = np.repeat(np.array([0.0, 0.1, 0.25, 0.5, 1.0], np.float32), 100)
    labels = np.concatenate([np.arange(100) < 100 * q for q in (0.0, 0.1, 0.25, 0.5, 1.0)]).astype(np.float32)
    found = calibration(p, labels, bins=10)
    assert float(found.error) == pytest.approx(0, abs=1e-6)
    assert found.rows.tolist() == [200, 0, 100, 0, 100, 0, 0, 0, 0, 100]
    assert np.isnan(found.predicted).tolist() == np.isnan(found.observed).tolist() == [r == 0 for r in found.rows]
    assert float(calibration(labels, 1 - labels).error) == 1.0


# ---- ranking by user -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [1, 4, 10**6])
def test_user_ranking(values: int) -> None:
    for seed in range(3):
        scores, labels, users = make(seed, values=values)
        labels[users % 7 == 2] = 0  # users without a positive
        assert max(np.bincount(users, labels)) > KS[1]
        found = user_ranking(scores, labels, users * 2, KS, 2 * USERS + 5)  # and users without rows
        for k in KS:
            for name, value in user_by_user(scores, labels, users, k).items():
                assert float(found.pop(name)) == pytest.approx(value, abs=1e-6), name
        assert not found


def test_ranking_of_what_is_not_a_number() -> None:
    labels = np.array([1, 0, 0], np.float32)
    for scores in ([np.nan, 0.0, -np.inf], [np.inf, np.nan, np.inf], [0.0, np.nan, np.nan]):
        found = user_ranking(np.array(scores, np.float32), labels, np.zeros(3, np.int32), (1, 2), 1)
        assert float(found["hit_rate@1"]) == 0.0
        assert float(found["hit_rate@2"]) == 0.0


# ---- all of them -----------------------------------------------------------------------------------------------------


def wanted_metrics(
    scores: np.ndarray, labels: np.ndarray, users: np.ndarray, ks: tuple[int, ...] = KS
) -> dict[str, float]:
    error = calibration(jax.nn.sigmoid(scores), labels).error
    result = {"auc": all_pairs(scores, labels), "log_loss": exact_log_loss(scores, labels), "ece": float(error)}
    for k in ks:
        result |= user_by_user(scores, labels, users, k)
    return result


def test_click_metrics() -> None:
    scores, labels, users = make(5)
    wanted = wanted_metrics(scores, labels, users)
    found = click_metrics(scores, labels, users, list(KS))
    assert found == pytest.approx(wanted, abs=1e-6)
    assert list(found) == list(wanted)
    assert all(type(value) is float for value in found.values())
    assert click_metrics(jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(users), KS) == found
    assert list(click_metrics(scores, labels, None, KS)) == ["auc", "log_loss", "ece"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(1234), "AUC is undefined on a split whose 1,234 labels are all 0; choose another split"),
        (np.ones(3), "AUC is undefined on a split whose 3 labels are all 1; choose another split"),
        (np.ones(0), "AUC is undefined on a split whose rows are none; choose another split"),
    ],
    ids=["zeros", "ones", "none"],
)
def test_a_single_class(labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError) as caught:
        click_metrics(np.zeros(len(labels), np.float32), labels.astype(np.float32), None, [10])
    assert str(caught.value) == message


def test_by_group() -> None:
    scores, labels, users = make(6)
    groups = np.random.default_rng(7).integers(-1, 5, N)  # -1 and 4 are in no group
    labels[groups == 1], labels[groups == 2] = 0, 1
    names = ["mixed", "no clicks", "clicks", "also mixed", "unused", "empty"]
    groups[groups == 4] = 99
    found = by_group(scores, labels, users, groups, names, [3])
    assert list(found) == names
    for number, name in enumerate(names[:4]):
        inside = groups == number
        assert found[name].pop("rows") == inside.sum()
        if "mixed" in name:
            wanted = wanted_metrics(scores[inside], labels[inside], users[inside], (3,))
            assert found[name] == pytest.approx(wanted, abs=1e-6)
    for name in ("no clicks", "clicks"):
        assert found[name]["auc"] is None
        assert found[name]["log_loss"] == pytest.approx(
            exact_log_loss(*(part[groups == names.index(name)] for part in (scores, labels))), abs=1e-6
        )
    assert found["no clicks"]["ndcg@3"] is None
    assert found["clicks"]["ndcg@3"] == pytest.approx(1)
    assert found["empty"].pop("rows") == 0
    assert set(found["empty"].values()) == {None}
    none: Any = np.zeros(0, np.float32)
    assert set(by_group(none, none, none.astype(int), none.astype(int), ["a"], [3])["a"].values()) == {0, None}
    assert list(by_group(scores, labels, None, groups, names, KS)["mixed"]) == ["rows", "auc", "log_loss", "ece"]
