"""Baselines for rating rows, against independent NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit

from jaxrec.baselines import ratings
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, als, bias, calibrate, item_mean

N_USERS, N_ITEMS = 30, 20  # the last user and the last two items have no training row
EVERY_USER, EVERY_ITEM = np.divmod(np.arange(N_USERS * N_ITEMS, dtype=np.int32), N_ITEMS)


@pytest.fixture(scope="module")
def train() -> RatingRows:
    """400 rows with repeated pairs, some of an unknown user or item; ratings of users, items and noise."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, N_USERS - 1, 400), rng.integers(0, N_ITEMS - 2, 400)
    taste = rng.normal(size=N_USERS)[user] + rng.normal(size=N_ITEMS)[item]
    return rows(user, item, np.clip(np.round(3.4 + 0.7 * taste + 0.5 * rng.normal(size=400)), 1, 5))


def rows(user: np.ndarray, item: np.ndarray, rating: np.ndarray) -> RatingRows:
    label = (rating >= 4).astype(np.float32)
    return RatingRows(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), label)


def grid(scorer: ratings.Scorer) -> np.ndarray:
    """Scores of all pairs, [N_USERS, N_ITEMS]."""
    return scorer(EVERY_USER, EVERY_ITEM).reshape(N_USERS, N_ITEMS)


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
    design = np.hstack([np.eye(N_USERS)[train.user], np.eye(N_ITEMS)[train.item]])
    design[:, [0, N_USERS]] = 0.0  # the unknown ones have no part
    penalty = np.diag(np.repeat([4.0, 1.5], [N_USERS, N_ITEMS]))
    expected = np.linalg.solve(design.T @ design + penalty, design.T @ (train.rating - mean))
    scores = grid(bias(train, N_USERS, N_ITEMS, reg_user=4.0, reg_item=1.5, iterations=200))
    np.testing.assert_allclose(scores, mean + expected[:N_USERS, None] + expected[None, N_USERS:], rtol=1e-5)


def objective(train: RatingRows, model: ratings.Factors, reg: float) -> float:
    """What ``als`` says it minimises, row by row."""
    loss = 0.0
    for user, item, rating in zip(train.user, train.item, train.rating, strict=True):
        p, q = model.user[user], model.item[item]
        loss += (rating - model.mean - p[-1] - q[-1] - p[:-1] @ q[:-1]) ** 2
    for side, index, n in ((model.user, train.user, N_USERS), (model.item, train.item, N_ITEMS)):
        loss += reg * np.sqrt(np.bincount(index, minlength=n)) @ (side**2).sum(1)
    return float(loss)


@pytest.mark.parametrize("block", [1, 50])
def test_als_falls_to_a_minimum_however_rows_are_blocked(
    train: RatingRows, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = als(train, N_USERS, N_ITEMS, factors=3, reg=0.7, iterations=2, seed=1)
    monkeypatch.setattr(ratings, "BLOCK", block)
    fitted = [als(train, N_USERS, N_ITEMS, factors=3, reg=0.7, iterations=n, seed=1) for n in (1, 2, 5, 200)]
    np.testing.assert_allclose(fitted[1].item, whole.item, atol=1e-9)
    losses = [objective(train, model, 0.7) for model in fitted]
    assert all(after < before for before, after in pairwise(losses))
    rng = np.random.default_rng(2)
    for _ in range(20):  # no step from the last, of either side, gains anything
        step = [1e-2 * rng.normal(size=(n, 4)) * (np.arange(n) > 0)[:, None] for n in (N_USERS, N_ITEMS)]
        moved = ratings.Factors(fitted[-1].mean, fitted[-1].user + step[0], fitted[-1].item + step[1])
        assert objective(train, moved, 0.7) > losses[-1]


def test_als_recovers_a_low_rank_matrix() -> None:
    """Of rank 2 under biases: from 70 % of the cells, almost without a penalty, also the others."""
    rng = np.random.default_rng(3)
    user, item = EVERY_USER, EVERY_ITEM
    p, q = rng.normal(size=(N_USERS, 2)), rng.normal(size=(N_ITEMS, 2))
    rating = 3 + rng.normal(size=N_USERS)[user] + rng.normal(size=N_ITEMS)[item] + (p[user] * q[item]).sum(1)
    known = (user > 0) & (item > 0)
    seen = known & (rng.random(len(user)) < 0.7)
    score = als(rows(user[seen], item[seen], rating[seen]), N_USERS, N_ITEMS, factors=2, reg=1e-6, iterations=300)
    hidden = known & ~seen
    np.testing.assert_allclose(score(user[hidden], item[hidden]), rating[hidden].astype(np.float32), atol=1e-2)


@pytest.mark.parametrize("name", RATING_BASELINES)
def test_unknown_users_and_items_fall_back(train: RatingRows, name: str) -> None:
    """Index 0, which some training rows carry, scores like an index without any row: by the other side alone."""
    scores = grid(RATING_BASELINES[name](train, N_USERS, N_ITEMS))
    assert scores.dtype == np.float32 and np.isfinite(scores).all()
    np.testing.assert_array_equal(scores[0], scores[-1])
    np.testing.assert_array_equal(scores[:, 0], scores[:, -1])
    if name == "popularity":
        assert scores[3, 1:].tolist() == [(train.item == item).sum() for item in range(1, N_ITEMS)]
    else:
        assert scores[0, 0] == pytest.approx(train.rating.mean(), rel=1e-6)
        means = item_mean(train, N_USERS, N_ITEMS)
        assert np.corrcoef(scores[0], grid(means)[0])[0, 1] > 0.9  # unknown users still see the items' order


@pytest.mark.parametrize("heavy", [False, True])
def test_calibration_is_the_optimum(heavy: bool) -> None:
    """Nothing near it has a lower log loss; also for scores with a long tail, as counts have."""
    rng = np.random.default_rng(4)
    score = (np.exp(2 * rng.normal(size=3000)) * 50 if heavy else rng.normal(3.5, 0.5, 3000)).astype(np.float32)
    logit = (np.log(score) - 4) if heavy else 3 * score - 10
    label = (rng.random(3000) < expit(logit)).astype(np.float32)

    def loss(slope: np.ndarray, middle: np.ndarray) -> np.ndarray:  # middle: the score of probability a half
        sign = (2 * label - 1)[:, None, None]
        return np.logaddexp(0, -sign * slope * (score[:, None, None].astype(np.float64) - middle)).mean(0)

    slope, intercept = calibrate(score, label)
    middle = -intercept / slope
    best = float(loss(np.array([[slope]]), np.array([[middle]])).item())
    for width in (1.0, 0.1, 0.01):
        factor = np.exp(width * np.linspace(-1, 1, 21))
        assert loss(slope * factor[:, None], middle * factor[None]).min() >= best - 1e-7


@pytest.mark.parametrize(("score", "label", "expected"), [
    ([3.6] * 5, [0, 1, 0, 1, 1], [0.6] * 5),  # nothing but the intercept
    ([1, 3, 1, 3, 3], [0, 1, 0, 1, 1], [0, 1, 0, 1, 1]),  # parted
    ([0] * 90 + [-42] * 3 + [0.6] * 3, [0] * 93 + [1] * 3, [0] * 93 + [1] * 3),  # full Newton steps go in circles
    (range(5), [1] * 5, [1] * 5),
])  # fmt: skip
def test_calibration_of_extremes(score: list[float], label: list[int], expected: list[float]) -> None:
    slope, intercept = calibrate(np.array(score, np.float32), np.array(label, np.float32))
    np.testing.assert_allclose(expit(slope * np.array(score) + intercept), expected, atol=0.1)


def test_held_out_calibration(train: RatingRows) -> None:
    """The fit that is calibrated has not seen the rows that it is calibrated on; the one that is returned has all."""
    sizes, asked = list[int](), list[int]()

    def fit(part: RatingRows, n_users: int, n_items: int) -> ratings.Scorer:
        inner = bias(part, n_users, n_items)
        sizes.append(len(part.user))

        def score(user: np.ndarray, item: np.ndarray) -> np.ndarray:
            asked.append(len(user))
            return inner(user, item)

        return score

    fitted = ratings.held_out_calibration(fit, train, N_USERS, N_ITEMS)
    assert (sizes, asked) == ([360, 400], [40]) and fitted.slope > 0
    np.testing.assert_array_equal(grid(fitted.score), grid(bias(train, N_USERS, N_ITEMS)))
