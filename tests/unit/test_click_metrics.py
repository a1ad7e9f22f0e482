"""Metrics of click models against short NumPy and Python ones that share nothing with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from jaxrec.errors import UserError
from jaxrec.metrics.clicks import auc, calibration, click_metrics, part_metrics, user_ranking

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
        if total:
            dcg = sum(label / math.log2(rank + 1) for rank, label in enumerate(relevant[:k], start=1))
            cut, uncut = (sum(1 / math.log2(rank + 1) for rank in range(1, m + 1)) for m in (min(k, total), total))
            found.append((dcg / cut, float(top > 0), dcg / uncut, top / total))
    names = [f"{name}@{k}" for name in ("ndcg", "hit_rate", "ndcg_published", "hit_rate_published")]
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def exact_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return float(-np.mean(np.log(np.where(labels > 0, p, 1 - p))))


pairs = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=16, max_size=16)  # one compiled size


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_properties_of_auc(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = np.array(pairs, np.float32).T
    found = auc(scores, labels)
    if labels.min() == labels.max():
        assert math.isnan(found)
        return
    assert found == pytest.approx(all_pairs(scores, labels), abs=1e-12)
    assert auc(scores**3 / 8 + 100, labels) == found
    assert auc(scores, 1 - labels) == pytest.approx(1 - found, abs=1e-12)


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
    labels = np.array([1, 0, 0], np.float32)
    for scores in ([np.nan, 0.0, -np.inf], [np.inf, np.nan, np.inf], [0.0, np.nan, np.nan]):
        found = user_ranking(np.array(scores, np.float32), labels, np.zeros(3, np.int32), (1, 2))
        assert float(found["hit_rate@1"]) == float(found["hit_rate@2"]) == 0.0


def test_calibration() -> None:
    """Edges belong to the bin below, and empty bins do not matter."""
    rng = np.random.default_rng(4)
    p = rng.random(N).astype(np.float32)
    labels = (rng.random(N) < p**2).astype(np.float32)
    found, error = calibration(p, labels, bins=7), 0.0
    for b in range(7):
        inside = (p > b / 7) & (p <= (b + 1) / 7)
        assert int(found.rows[b]) == inside.sum() > 0
        assert float(found.predicted[b]) == pytest.approx(p[inside].mean(), rel=1e-6)
        assert float(found.observed[b]) == pytest.approx(labels[inside].mean(), rel=1e-6)
        error += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    assert float(found.error) == pytest.approx(error, abs=1e-6)
    shares = (0.0, 0.1, 0.25, 0.5, 1.0)
    p = np.repeat(np.array(shares, np.float32), 100)
    labels = np.concatenate([np.arange(100) < 100 * share for share in shares]).astype(np.float32)
    found = calibration(p, labels, bins=10)
    assert float(found.error) == pytest.approx(0, abs=1e-6)
    assert found.rows.tolist() == [200, 0, 100, 0, 100, 0, 0, 0, 0, 100]
    assert np.isnan(found.predicted).tolist() == np.isnan(found.observed).tolist() == [r == 0 for r in found.rows]


@pytest.mark.parametrize("values", [1, 4, 10**6])
def test_user_ranking(values: int) -> None:
    scores, labels, users = make(0, values=values)
    labels[users % 7 == 2] = 0  # users without a positive
    assert max(np.bincount(users, labels)) > KS[1]
    found = user_ranking(scores, labels, users * 2, KS)  # and users without rows
    for k in KS:
        for name, value in user_by_user(scores, labels, users, k).items():
            assert float(found.pop(name)) == pytest.approx(value, abs=1e-6), name
    assert not found


def wanted_metrics(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, ks: tuple[int, ...]) -> dict[str, float]:
    error = calibration(expit(scores), labels).error
    result = {"auc": all_pairs(scores, labels), "log_loss": exact_log_loss(scores, labels), "ece": float(error)}
    for k in ks:
        result |= user_by_user(scores, labels, users, k)
    return result


def test_click_metrics_of_all_rows_and_of_parts() -> None:
    """What a part leaves undefined is None; of all rows it is an error."""
    scores, labels, users = make(6)
    groups = np.random.default_rng(7).integers(0, 4, N)
    labels[groups == 1], labels[groups == 2], users[groups == 3] = 0, 1, 3
    found, wanted = click_metrics(scores, labels, users, list(KS)), wanted_metrics(scores, labels, users, KS)
    assert found == pytest.approx(wanted, abs=1e-6) and list(found) == list(wanted)
    for number in range(4):
        inside = groups == number
        part = part_metrics(scores, labels, users, inside, [3])
        assert part.pop("rows") == inside.sum()
        if number in (0, 3):
            assert part == pytest.approx(wanted_metrics(scores[inside], labels[inside], users[inside], (3,)), abs=1e-6)
        else:
            assert part["auc"] is None
            assert part["log_loss"] == pytest.approx(exact_log_loss(scores[inside], labels[inside]), abs=1e-6)
            assert part["ndcg@3"] == (None if number == 1 else pytest.approx(1))
    assert set(part_metrics(scores, labels, users, groups == 9, [3]).values()) == {0, None}
    assert list(part_metrics(scores, labels, None, groups == 0, KS)) == ["rows", "auc", "log_loss", "ece"]
    for same, names in (
        (np.zeros(1234), "1,234 labels are all 0; cho"),
        (np.ones(3), "3 labels are all 1"),
        ([], "none"),
    ):
        with pytest.raises(UserError, match=f"AUC is undefined on a split whose .*{names}"):
            click_metrics(np.zeros(len(same), np.float32), np.asarray(same, np.float32), None, [10])
