"""Baselines for rating rows, against independent NumPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit

from jaxrec.baselines import ratings
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, als, bias, calibrate, item_mean, popularity
from jaxrec.errors import UserError

N_USERS, N_ITEMS = 30, 20  # the last user and the last two items have no training row


@pytest.fixture(scope="module")
def train() -> RatingRows:
    """400 rows with repeated pairs, some of an unknown user or item; ratings of users, items and noise."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, N_USERS - 1, 400), rng.integers(0, N_ITEMS - 2, 400)
    taste = rng.normal(size=N_USERS)[user] + rng.normal(size=N_ITEMS)[item]
    rating = np.clip(np.round(3.4 + 0.7 * taste + 0.5 * rng.normal(size=400)), 1, 5)
    return rows(user, item, rating)


def rows(user: np.ndarray, item: np.ndarray, rating: np.ndarray) -> RatingRows:
    label = (rating >= 4).astype(np.float32)
    return RatingRows(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), label)


def every_pair(n_users: int = N_USERS, n_items: int = N_ITEMS) -> tuple[np.ndarray, np.ndarray]:
    user, item = np.divmod(np.arange(n_users * n_items, dtype=np.int32), n_items)
    return user, item


def grid(scorer: ratings.Scorer) -> np.ndarray:
    """Scores of all pairs, [N_USERS, N_ITEMS]."""
    return scorer(*every_pair()).reshape(N_USERS, N_ITEMS)


def test_popularity_counts_rows(train: RatingRows) -> None:
    expected = [0] + [int((train.item == item).sum()) for item in range(1, N_ITEMS)]
    np.testing.assert_array_equal(grid(popularity(train, N_USERS, N_ITEMS)), np.tile(expected, (N_USERS, 1)))


@pytest.mark.parametrize("shrink", [0.0, 3.0])
def test_item_mean(train: RatingRows, shrink: float) -> None:
    mean, expected = train.rating.mean(), []
    for item in range(N_ITEMS):
        own = train.rating[train.item == item]
        none = item == 0 or not len(own)
        expected.append(mean if none else (own.sum() + shrink * mean) / (len(own) + shrink))
    scores = grid(item_mean(train, N_USERS, N_ITEMS, shrink=shrink))
    np.testing.assert_allclose(scores, np.tile(expected, (N_USERS, 1)), rtol=1e-6)


def test_biases_are_those_of_ridge_regression(train: RatingRows) -> None:
    """The alternation ends at the one optimum, which a dense ridge regression gives at once."""
    mean = train.rating.astype(np.float64).mean()
    residual = train.rating.astype(np.float64) - mean
    design = np.hstack([np.eye(N_USERS)[train.user], np.eye(N_ITEMS)[train.item]])
    design[:, [0, N_USERS]] = 0.0  # the unknown ones have no part
    penalty = np.diag(np.repeat([4.0, 1.5], [N_USERS, N_ITEMS]))
    expected = np.linalg.solve(design.T @ design + penalty, design.T @ residual)
    scores = grid(bias(train, N_USERS, N_ITEMS, reg_user=4.0, reg_item=1.5, iterations=200))
    np.testing.assert_allclose(scores, mean + expected[:N_USERS, None] + expected[None, N_USERS:], rtol=1e-5)


def penalties(train: RatingRows, reg: float) -> tuple[np.ndarray, np.ndarray]:
    per_user = reg * np.sqrt(np.bincount(train.user, minlength=N_USERS))
    return per_user, reg * np.sqrt(np.bincount(train.item, minlength=N_ITEMS))


def objective(train: RatingRows, model: ratings.Factors, reg: float) -> float:
    """What ``als`` says it minimises, row by row."""
    loss = 0.0
    for user, item, rating in zip(train.user, train.item, train.rating, strict=True):
        p, q = model.user[user], model.item[item]
        loss += (rating - model.mean - p[-1] - q[-1] - p[:-1] @ q[:-1]) ** 2
    per_user, per_item = penalties(train, reg)
    return float(loss + per_user @ (model.user**2).sum(1) + per_item @ (model.item**2).sum(1))


@pytest.mark.parametrize("block", [1, 50, 2**17])
def test_als_items_solve_their_normal_equations(train: RatingRows, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last half step is the items': each is the ridge regression of its own rows, however the rows are blocked."""
    monkeypatch.setattr(ratings, "BLOCK", block)
    model = als(train, N_USERS, N_ITEMS, factors=3, reg=0.7, iterations=2, seed=0)
    _, penalty = penalties(train, 0.7)
    for item in range(1, N_ITEMS - 2):
        own = train.item == item
        user = train.user[own]
        features = np.hstack([model.user[user, :-1], np.ones((len(user), 1))])
        residual = train.rating[own] - model.mean - model.user[user, -1]
        expected = np.linalg.solve(features.T @ features + penalty[item] * np.eye(4), features.T @ residual)
        np.testing.assert_allclose(model.item[item], expected, atol=1e-6)


def test_als_objective_falls_to_a_minimum(train: RatingRows) -> None:
    fitted = [als(train, N_USERS, N_ITEMS, factors=3, reg=0.7, iterations=n, seed=1) for n in (1, 2, 3, 5, 300)]
    losses = [objective(train, model, 0.7) for model in fitted]
    assert all(after < before for before, after in pairwise(losses))
    rng = np.random.default_rng(2)
    for _ in range(20):  # and no step from the last, of either side, gains anything
        moved = replace(
            fitted[-1],
            user=fitted[-1].user + 1e-2 * rng.normal(size=(N_USERS, 4)) * (np.arange(N_USERS) > 0)[:, None],
            item=fitted[-1].item + 1e-2 * rng.normal(size=(N_ITEMS, 4)) * (np.arange(N_ITEMS) > 0)[:, None],
        )
        assert objective(train, moved, 0.7) > losses[-1]


def test_als_recovers_a_low_rank_matrix() -> None:
    """Of rank 2 under biases: from 70 % of the cells, almost without a penalty, also the others."""
    rng = np.random.default_rng(3)
    user, item = every_pair()
    p, q = rng.normal(size=(N_USERS, 2)), rng.normal(size=(N_ITEMS, 2))
    rating = 3 + rng.normal(size=N_USERS)[user] + rng.normal(size=N_ITEMS)[item] + (p[user] * q[item]).sum(1)
    known = (user > 0) & (item > 0)
    seen = known & (rng.random(len(user)) < 0.7)
    data = rows(user[seen], item[seen], rating[seen])
    score = als(data, N_USERS, N_ITEMS, factors=2, reg=1e-6, iterations=300)
    hidden = known & ~seen
    assert hidden.sum() > 100
    np.testing.assert_allclose(score(user[hidden], item[hidden]), rating[hidden].astype(np.float32), atol=1e-2)


@pytest.mark.parametrize("name", RATING_BASELINES)
def test_unknown_users_and_items_fall_back(train: RatingRows, name: str) -> None:
    """Index 0, which some training rows carry, scores like an index without any row: by the other side alone."""
    assert (train.user == 0).any() and (train.item == 0).any()
    scores = grid(RATING_BASELINES[name](train, N_USERS, N_ITEMS))
    assert scores.dtype == np.float32 and np.isfinite(scores).all()
    np.testing.assert_array_equal(scores[0], scores[-1])
    np.testing.assert_array_equal(scores[:, 0], scores[:, -1])
    if name != "popularity":
        assert scores[0, 0] == pytest.approx(train.rating.mean(), rel=1e-6)
        means = item_mean(train, N_USERS, N_ITEMS)
        assert np.corrcoef(scores[0], grid(means)[0])[0, 1] > 0.9  # unknown users still see the items' order
    if name in ("bias", "als"):
        assert len(np.unique(scores[:, 0])) == len(np.unique(train.user[train.user > 0])) + 1


def at(fitted: ratings.Calibration, score: np.ndarray) -> np.ndarray:
    return np.asarray(expit(fitted.slope * score + fitted.intercept))


@pytest.mark.parametrize("heavy", [False, True])
def test_calibration_is_the_optimum(heavy: bool) -> None:
    """Nothing near it, at any scale, has a lower log loss; also for scores with a long tail, as counts have."""
    rng = np.random.default_rng(4)
    score = (np.exp(2 * rng.normal(size=3000)) * 50 if heavy else rng.normal(3.5, 0.5, 3000)).astype(np.float32)
    logit = (np.log(score) - 4) if heavy else 3 * score - 10
    label = (rng.random(3000) < 1 / (1 + np.exp(-logit))).astype(np.float32)

    def loss(slope: np.ndarray, middle: np.ndarray) -> np.ndarray:  # middle: the score of probability a half
        sign = (2 * label - 1)[:, None, None]
        return np.logaddexp(0, -sign * slope * (score[:, None, None].astype(np.float64) - middle)).mean(0)

    slope, intercept = calibrate(score, label)
    middle = -intercept / slope
    best = float(loss(np.array([[slope]]), np.array([[middle]])).item())
    for width in (1.0, 0.1, 0.01):
        slopes = slope * np.exp(width * np.linspace(-1, 1, 21))[:, None]
        middles = middle * np.exp(width * np.linspace(-1, 1, 21))[None]
        assert loss(slopes, middles).min() >= best - 1e-7
    p = expit(slope * score.astype(np.float64) + intercept)
    assert -np.log(np.where(label > 0, p, 1 - p)).mean() == pytest.approx(best, rel=1e-6)
    assert p.mean() == pytest.approx(label.mean(), abs=1e-4)  # as the intercept's optimum has it


def test_calibration_of_extremes() -> None:
    label = np.array([0, 1, 0, 1, 1], np.float32)
    slope, intercept = calibrate(np.full(5, 3.6, np.float32), label)
    assert slope == pytest.approx(0, abs=1e-6)
    assert slope * 3.6 + intercept == pytest.approx(np.log(3 / 2), abs=1e-4)
    parted = at(calibrate(label * 2 + 1, label), label * 2 + 1)
    np.testing.assert_allclose(parted, label, atol=1e-2)
    assert np.isfinite(calibrate(np.arange(5, dtype=np.float32), np.ones(5, np.float32))).all()


def test_calibration_where_full_newton_steps_go_round_in_circles() -> None:
    """One score far from all others: a full step passes the optimum, and so does the next."""
    score, label = np.array([0, -42, 0.6], np.float32), np.array([0, 0, 1], np.float32)
    fitted = calibrate(np.repeat(score, [90, 3, 3]), np.repeat(label, [90, 3, 3]))
    np.testing.assert_allclose(at(fitted, score), label, atol=0.1)


def test_held_out_calibration(train: RatingRows) -> None:
    """The fit that is calibrated has not seen the rows that it is calibrated on; the one that is returned has all."""
    sizes: list[int] = []
    seen: list[tuple[int, np.ndarray]] = []

    def fit(part: RatingRows, n_users: int, n_items: int) -> ratings.Scorer:
        sizes.append(len(part.user))
        inner = bias(part, n_users, n_items)

        def score(user: np.ndarray, item: np.ndarray) -> np.ndarray:
            seen.append((len(sizes), np.stack([user, item])))
            return inner(user, item)

        return score

    fitted = ratings.held_out_calibration(fit, train, N_USERS, N_ITEMS)
    assert sizes == [360, 400]
    assert [(turn, part.shape) for turn, part in seen] == [(1, (2, 40))]
    expected = bias(train, N_USERS, N_ITEMS)
    np.testing.assert_array_equal(fitted.score(*every_pair()), expected(*every_pair()))
    assert fitted.calibration.slope > 0


def test_one_row_cannot_be_held_out() -> None:
    with pytest.raises(UserError, match="at least two"):
        ratings.held_out_calibration(item_mean, rows(*(np.ones(1) for _ in range(3))), 3, 3)
