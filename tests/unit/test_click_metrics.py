"""Metrics of click models against scikit-learn's and short loops that share nothing with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
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


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=16))
def test_auc(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = np.array(pairs, np.float32).T
    both = labels.min() < labels.max()
    wanted = sklearn.metrics.roc_auc_score(labels, scores) if both else math.nan
    assert auc(scores, labels) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_order_of_unusual_scores() -> None:
    """Zeros of both signs are equal, infinities are the ends, and what is not a number counts against its row."""
    ends = np.array([-np.inf, -3e38, -0.0, 0.0, 1e-30, 3e38, np.inf], np.float32)
    labels, nothing = np.array([0, 1], np.float32), np.float32(np.nan)
    for i, low in enumerate(ends):
        for j, high in enumerate(ends):
            assert auc(np.array([low, high]), labels) == (0.5 if low == high else float(i < j))
        assert auc(np.array([low, nothing]), labels) == auc(np.array([nothing, low]), labels) == 0.0
    for scores in ([np.nan, 0.0, -np.inf], [np.inf, np.nan, np.inf], [0.0, np.nan, np.nan]):
        ranked = user_ranking(np.array(scores, np.float32), np.array([1, 0, 0]), np.zeros(3, np.int32), (1, 2))
        assert ranked["hit_rate@1"] == ranked["hit_rate@2"] == 0.0


def test_calibration() -> None:
    """Edges belong to the bin below, and empty bins do not matter."""
    rng, bins = np.random.default_rng(4), 8
    p = np.append(0.5 * rng.random(N), [0.0, 0.125, 0.25, 1.0]).astype(np.float32)
    labels = (rng.random(len(p)) < p**2).astype(np.float32)
    found, error = calibration(p, labels, bins=bins), 0.0
    for b in range(bins):
        inside = (p > b / bins) & (p <= (b + 1) / bins) | (p == 0) & (b == 0)
        assert found.rows[b] == inside.sum()
        if not inside.any():
            assert np.isnan(found.predicted[b]) and np.isnan(found.observed[b])
            continue
        assert found.predicted[b] == pytest.approx(p[inside].mean(), rel=1e-6)
        assert found.observed[b] == pytest.approx(labels[inside].mean(), rel=1e-6)
        error += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    assert found.error == pytest.approx(error, abs=1e-6) and (found.rows == 0).sum() == 3


@pytest.mark.parametrize("values", [1, 4, 10**6])
def test_user_ranking(values: int) -> None:
    scores, labels, users = make(0, values=values)
    labels[users % 7 == 2] = 0  # users without a positive
    assert max(np.bincount(users, labels)) > KS[1]
    found = user_ranking(scores, labels, users * 2, KS)  # and users without rows
    expected = {name: value for k in KS for name, value in user_by_user(scores, labels, users, k).items()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_click_metrics_of_all_rows_and_of_parts() -> None:
    """What a part leaves undefined is None; of all rows it is an error."""
    scores, labels, users = make(6)
    click, part = click_metrics(scores, labels, users, list(KS)), np.arange(N) % 3 == 0
    for found, rows, ks in ((click, part | True, KS), (part_metrics(scores, labels, users, part, [3]), part, (3,))):
        p = expit(scores[rows].astype(np.float64))
        expected = {"auc": auc(scores[rows], labels[rows]), "ece": calibration(p, labels[rows]).error,
                    "log_loss": sklearn.metrics.log_loss(labels[rows], p)}  # fmt: skip
        for k in ks:
            expected |= user_by_user(scores[rows], labels[rows], users[rows], k)
        assert found.pop("rows", N) == rows.sum()
        assert found == pytest.approx(expected, abs=1e-6)
    for label in (0, 1):
        one = part_metrics(scores, labels, users, labels == label, [3])
        assert one["auc"] is None and one["ndcg@3"] == (1 if label else None) and one["log_loss"] is not None
    assert set(part_metrics(scores, labels, users, labels == 9, [3]).values()) == {0, None}
    assert list(part_metrics(scores, labels, None, part, KS)) == ["rows", "auc", "log_loss", "ece"]
    for same, names in ((np.zeros(1234), "1,234 labels are all 0; cho"), ([], "none")):
        with pytest.raises(UserError, match=f"AUC is undefined on a split whose .*{names}"):
            click_metrics(np.zeros(len(same), np.float32), np.asarray(same, np.float32), None, [10])
