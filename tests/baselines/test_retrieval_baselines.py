"""Baselines for retrieval against dense NumPy."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from jaxrec.baselines import itemknn, retrieval
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


def test_popularity_counts_users(train: Positives) -> None:
    expected = np.tile(matrix(train).sum(axis=0), (N_USERS, 1))
    expected[:, 0] = -np.inf
    np.testing.assert_array_equal(popularity(train, N_USERS, N_ITEMS)(USERS), expected)


@pytest.mark.parametrize("block", [1, 2**21])
@pytest.mark.parametrize(("k", "shrink"), [(1, 0.0), (4, 0.0), (4, 7.5), (1000, 2.0)])
def test_item_knn_is_the_dense_cosine(
    train: Positives, k: int, shrink: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(itemknn, "BLOCK", block)
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
    assert some.sum() > 100
    np.testing.assert_allclose(scores[some], expected[some], rtol=1e-6)
    below = ~some & (has.sum(axis=1) > 0)[:, None] & (USERS[:N_ITEMS] > 0)
    assert (scores[below] < 0).all()
    for user in np.flatnonzero(has.sum(axis=1)):  # and these stand in the order of popularity, equal where it is
        rest = np.flatnonzero(below[user])
        np.testing.assert_array_equal(
            np.sign(np.subtract.outer(scores[user, rest], scores[user, rest])),
            np.sign(np.subtract.outer(count[rest], count[rest])),
        )


def ridge(has: np.ndarray, other: np.ndarray, alpha: float, regularisation: float) -> np.ndarray:
    """The rows' normal equations (Hu et al. 2008, equation 4) with all weights written out."""
    solved = np.zeros((len(has), other.shape[1]))
    for row in range(1, len(has)):
        confidence = 1 + alpha * has[row, 1:]
        known = other[1:].astype(np.float64)
        left = known.T @ np.diag(confidence) @ known + regularisation * confidence.sum() * np.eye(other.shape[1])
        solved[row] = np.linalg.solve(left, known.T @ (confidence * has[row, 1:]))
    return solved


@pytest.mark.parametrize("block", [1, 60, 2**22])
@pytest.mark.parametrize(("alpha", "regularisation"), [(3.0, 0.01), (40.0, 0.3)])
def test_als_half_steps_solve_their_normal_equations(
    train: Positives, alpha: float, regularisation: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rows and lists are blocked, and also where a row has fewer pairs than there are factors."""
    monkeypatch.setattr(retrieval, "BLOCK", block)
    has = matrix(train)
    fit = partial(factorise, factors=5, alpha=alpha, regularisation=regularisation, seed=0)
    first, second = (fit(train, N_USERS, N_ITEMS, iterations=n) for n in (1, 2))
    assert first.user.dtype == first.item.dtype == np.float32
    for model in (first, second):
        np.testing.assert_allclose(model.user, ridge(has, model.item, alpha, regularisation), rtol=1e-3, atol=1e-5)
    expected = ridge(has.T, first.user, alpha, regularisation)
    np.testing.assert_allclose(second.item, expected, rtol=1e-3, atol=1e-5)


def objective(has: np.ndarray, model: retrieval.Factors, alpha: float, regularisation: float) -> float:
    """What ``factorise`` says it minimises."""
    user, item, has = model.user[1:].astype(np.float64), model.item[1:].astype(np.float64), has[1:, 1:]
    confidence = 1 + alpha * has
    penalty = confidence.sum(axis=1) @ (user**2).sum(axis=1) + confidence.sum(axis=0) @ (item**2).sum(axis=1)
    return float((confidence * (has - user @ item.T) ** 2).sum() + regularisation * penalty)


def test_als_objective_falls(train: Positives) -> None:
    has, losses = matrix(train), []
    for n in (1, 2, 4, 8, 50):
        model = factorise(train, N_USERS, N_ITEMS, factors=4, alpha=5.0, regularisation=0.02, iterations=n, seed=1)
        losses.append(objective(has, model, 5.0, 0.02))
    assert all(after < before for before, after in pairwise(losses))
    rng = np.random.default_rng(2)
    for _ in range(20):  # and no step from the last, of either side, gains anything
        user = model.user + 1e-2 * rng.normal(size=model.user.shape)
        item = model.item + 1e-2 * rng.normal(size=model.item.shape)
        assert objective(has, retrieval.Factors(user, item), 5.0, 0.02) > losses[-1]


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
    """Duplicates count once, order does not matter, and rows do not depend on the other users asked for."""
    fit = partial(RETRIEVAL_BASELINES[name], **({"factors": 8} if name == "als" else {}))
    scores = fit(train, N_USERS, N_ITEMS)(USERS)
    assert scores.dtype == np.float32 and scores.shape == (N_USERS, N_ITEMS)
    assert (scores[:, 0] == -np.inf).all() and np.isfinite(scores[:, 1:]).all()
    np.testing.assert_array_equal(fit(train, N_USERS, N_ITEMS)(USERS), scores)
    order = np.random.default_rng(6).permutation(len(train.user))
    again = Positives(*(np.concatenate([column[order], column[:50]]) for column in train))
    np.testing.assert_array_equal(fit(again, N_USERS, N_ITEMS)(USERS), scores)
    known = (train.user > 0) & (train.item > 0)
    without = Positives(*(column[known].astype(np.int64) for column in train))
    np.testing.assert_array_equal(fit(without, N_USERS, N_ITEMS)(USERS), scores)
    some = fit(train, N_USERS, N_ITEMS)(np.array([7, 0, 7, 2], np.int32))
    np.testing.assert_allclose(some, scores[[7, 0, 7, 2]], rtol=1e-5, atol=1e-6)
    assert fit(train, N_USERS, N_ITEMS)(np.zeros(0, np.int32)).shape == (0, N_ITEMS)


@pytest.mark.parametrize("name", ["item-knn", "als"])
def test_users_without_a_pair_get_popularity(train: Positives, name: str) -> None:
    scores = RETRIEVAL_BASELINES[name](train, N_USERS, N_ITEMS)(USERS)
    popular, none = popularity(train, N_USERS, N_ITEMS)(USERS), matrix(train).sum(axis=1) == 0
    assert none[[0, -1]].all()
    np.testing.assert_array_equal(scores[none], popular[none])
    assert (scores[~none, 1:] != popular[~none, 1:]).any(axis=1).all()
