"""Baselines for retrieval against dense NumPy."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from jaxrec.baselines import items, retrieval
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES, Positives, factorise, item_knn, popularity

N_USERS, N_ITEMS = 40, 25  # the last user and the last two items have no training pair
USERS = np.arange(N_USERS, dtype=np.int32)


@pytest.fixture(scope="module")
def train() -> Positives:
    """300 pairs, many of them twice, some of an unknown user or item; small numbers have more."""
    rng = np.random.default_rng(0)
    user, item = (N_USERS - 1) * rng.random(300) ** 1.5, (N_ITEMS - 2) * rng.random(300) ** 1.5
    return Positives(user.astype(np.int32), item.astype(np.int32))


def matrix(train: Positives) -> np.ndarray:
    """float64[N_USERS, N_ITEMS], 1 where the user has the item; the unknown ones have nothing."""
    has = np.zeros((N_USERS, N_ITEMS))
    has[train.user, train.item] = 1.0
    has[0], has[:, 0] = 0.0, 0.0
    return has


@pytest.mark.parametrize("block", [1, 2**21])
@pytest.mark.parametrize(("k", "shrink"), [(1, 0.0), (4, 7.5), (1000, 2.0)])
def test_item_knn_is_the_dense_cosine(
    train: Positives, k: int, shrink: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "BLOCK", block)
    has = matrix(train)
    count = has.sum(axis=0)
    norm = np.sqrt(np.outer(count + shrink, count + shrink))
    similar = np.divide(has.T @ has, norm, out=np.zeros_like(norm), where=norm > 0)
    np.fill_diagonal(similar, 0.0)
    for row in similar:  # of the scored item
        row[np.argsort(-row, kind="stable")[k:]] = 0.0
    expected = has @ similar.T
    scores = item_knn(train, N_USERS, N_ITEMS, k=k, shrink=shrink)(USERS)
    some = (expected > 0) & (has.sum(axis=1) > 0)[:, None]
    np.testing.assert_allclose(scores[some], expected[some], rtol=1e-6)
    for user in np.flatnonzero(has.sum(axis=1)):  # the others below, in the order of popularity, equal where it is
        rest = np.flatnonzero(~some[user, 1:]) + 1
        assert (scores[user, rest] < 0).all()
        order = [np.sign(np.subtract.outer(of[rest], of[rest])) for of in (scores[user], count)]
        np.testing.assert_array_equal(*order)


def ridge(has: np.ndarray, other: np.ndarray, alpha: float, regularisation: float) -> np.ndarray:
    """The rows' normal equations (Hu et al. 2008, equation 4) with all weights written out."""
    solved = np.zeros((len(has), other.shape[1]))
    for row in range(1, len(has)):
        confidence = 1 + alpha * has[row, 1:]
        known = other[1:].astype(np.float64)
        left = known.T @ np.diag(confidence) @ known + regularisation * confidence.sum() * np.eye(other.shape[1])
        solved[row] = np.linalg.solve(left, known.T @ (confidence * has[row, 1:]))
    return solved


@pytest.mark.parametrize(("alpha", "regularisation"), [(3.0, 0.01), (40.0, 0.3)])
def test_als_half_steps_solve_their_normal_equations(train: Positives, alpha: float, regularisation: float) -> None:
    has = matrix(train)
    fit = partial(factorise, train, N_USERS, N_ITEMS, factors=5, alpha=alpha, regularisation=regularisation)
    first, second = fit(iterations=1), fit(iterations=2)
    for model in (first, second):
        np.testing.assert_allclose(model.user, ridge(has, model.item, alpha, regularisation), rtol=1e-3, atol=1e-5)
    expected = ridge(has.T, first.user, alpha, regularisation)
    np.testing.assert_allclose(second.item, expected, rtol=1e-3, atol=1e-5)


def test_als_objective_falls_to_a_minimum(train: Positives) -> None:
    has, losses = matrix(train)[1:, 1:], []

    def objective(model: retrieval.Factors) -> float:
        user, item, confidence = model.user[1:].astype(float), model.item[1:].astype(float), 1 + 5 * has
        penalty = confidence.sum(axis=1) @ (user**2).sum(axis=1) + confidence.sum(axis=0) @ (item**2).sum(axis=1)
        return float((confidence * (has - user @ item.T) ** 2).sum() + 0.02 * penalty)

    for n in (1, 2, 4, 8, 50):
        model = factorise(train, N_USERS, N_ITEMS, factors=4, alpha=5.0, regularisation=0.02, iterations=n, seed=1)
        losses.append(objective(model))
    assert all(after < before for before, after in pairwise(losses))
    rng = np.random.default_rng(2)
    for _ in range(20):  # and no step from the last, of either side, gains anything
        moved = retrieval.Factors(*(side + 1e-2 * rng.normal(size=side.shape) for side in model))
        assert objective(moved) > losses[-1]


@pytest.mark.parametrize(("name", "options"), [("item-knn", {}), ("als", {"factors": 2})])
def test_two_communities_are_told_apart(name: str, options: dict[str, float]) -> None:
    """Users of even number like items of even number: those that are hidden stand above all of the other kind."""
    user, item = np.divmod(np.arange(60 * 60), 60)
    same = (user % 2 == item % 2) & (user > 0) & (item > 0)
    seen = same & (np.random.default_rng(5).random(len(user)) < 0.5)
    scores = RETRIEVAL_BASELINES[name](Positives(user[seen], item[seen]), 60, 60, **options)(np.arange(60))
    for one in range(1, 60):
        hidden = (same & ~seen)[user == one]
        other = (~same)[user == one] & (np.arange(60) > 0)
        assert scores[one, hidden].min() > scores[one, other].max()


@pytest.mark.parametrize("name", RETRIEVAL_BASELINES)
def test_contract(train: Positives, name: str) -> None:
    """Duplicates count once, order does not matter, nor do other users; users without a pair get popularity."""
    fit = partial(RETRIEVAL_BASELINES[name], **({"factors": 8} if name == "als" else {}))
    scores, has = fit(train, N_USERS, N_ITEMS)(USERS), matrix(train)
    assert scores.dtype == np.float32 and scores.shape == (N_USERS, N_ITEMS)
    assert (scores[:, 0] == -np.inf).all() and np.isfinite(scores[:, 1:]).all()
    order = np.random.default_rng(6).permutation(len(train.user))
    again = Positives(*(np.concatenate([column[order], column[:50]]) for column in train))
    np.testing.assert_array_equal(fit(again, N_USERS, N_ITEMS)(USERS), scores)
    some = fit(train, N_USERS, N_ITEMS)(np.array([7, 0, 7, 2], np.int32))
    np.testing.assert_allclose(some, scores[[7, 0, 7, 2]], rtol=1e-5, atol=1e-6)
    assert fit(train, N_USERS, N_ITEMS)(np.zeros(0, np.int32)).shape == (0, N_ITEMS)
    popular, none = popularity(train, N_USERS, N_ITEMS)(USERS), has.sum(axis=1) == 0
    np.testing.assert_array_equal(popular[:, 1:], np.tile(has.sum(axis=0)[1:], (N_USERS, 1)))
    np.testing.assert_array_equal(scores[none], popular[none])
