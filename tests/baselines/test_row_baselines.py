"""Baselines for rows, ratings, labels and who has what, against independent NumPy."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import expit

from jaxrec.baselines import ratings, sessions
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, als, bias, calibrate, fit_logistic, item_mean
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES, factorise, item_knn, matrix, popularity
from jaxrec.config import parse
from jaxrec.data.dataset import Field, Rows, Schema
from jaxrec.models.autoint import AutoInt

N_USERS, N_ITEMS = 30, 20  # the last user and the last two items have no training row
USERS = np.arange(N_USERS, dtype=np.int32)
EVERY_USER, EVERY_ITEM = np.divmod(np.arange(N_USERS * N_ITEMS, dtype=np.int32), N_ITEMS)


def rows(user: np.ndarray, item: np.ndarray, rating: np.ndarray) -> RatingRows:
    label = (rating >= 4).astype(np.float32)
    return RatingRows(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), label)


@pytest.fixture(scope="module")
def train() -> RatingRows:
    """400 rows with repeated pairs, some of an unknown user or item; ratings of users, items and noise."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, N_USERS - 1, 400), rng.integers(0, N_ITEMS - 2, 400)
    taste = rng.normal(size=N_USERS)[user] + rng.normal(size=N_ITEMS)[item]
    return rows(user, item, np.clip(np.round(3.4 + 0.7 * taste + 0.5 * rng.normal(size=400)), 1, 5))


def grid(scorer: ratings.Scorer) -> np.ndarray:
    """Scores of all pairs, [N_USERS, N_ITEMS]."""
    return scorer(EVERY_USER, EVERY_ITEM).reshape(N_USERS, N_ITEMS)


# ---- ratings ---------------------------------------------------------------------------------------------------------


def test_biases_are_those_of_ridge_regression(train: RatingRows) -> None:
    """The alternation ends at the one optimum, which a dense ridge regression gives at once; likewise item means."""
    mean = train.rating.astype(np.float64).mean()
    design = np.hstack([np.eye(N_USERS)[train.user], np.eye(N_ITEMS)[train.item]])
    design[:, [0, N_USERS]] = 0.0  # the unknown ones have no part

    def ridge(x: np.ndarray, *penalty: float) -> np.ndarray:
        solved: np.ndarray = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ (train.rating - mean))
        return solved

    expected = ridge(design, *np.repeat([4.0, 1.5], [N_USERS, N_ITEMS]))
    scores = grid(bias(train, N_USERS, N_ITEMS, reg_user=4.0, reg_item=1.5, iterations=200))
    np.testing.assert_allclose(scores, mean + expected[:N_USERS, None] + expected[None, N_USERS:], rtol=1e-5)
    means = mean + ridge(design[:, N_USERS:], *[3.0] * N_ITEMS)
    np.testing.assert_allclose(grid(item_mean(train, N_USERS, N_ITEMS, shrink=3.0))[5], means, rtol=1e-6)


def objective(train: RatingRows, mean: float, users: np.ndarray, items: np.ndarray, reg: float = 0.7) -> float:
    """What ``als`` says it minimises, row by row."""
    loss = 0.0
    for user, item, rating in zip(train.user, train.item, train.rating, strict=True):
        p, q = users[user], items[item]
        loss += (rating - mean - p[-1] - q[-1] - p[:-1] @ q[:-1]) ** 2
    for side, index, n in ((users, train.user, N_USERS), (items, train.item, N_ITEMS)):
        loss += reg * np.sqrt(np.bincount(index, minlength=n)) @ (side**2).sum(1)
    return float(loss)


def test_als_falls_to_a_minimum(train: RatingRows) -> None:
    fitted = [ratings.factorise(train, N_USERS, N_ITEMS, 3, 0.7, n, seed=1) for n in (1, 2, 5, 200)]
    losses = [objective(train, *model) for model in fitted]
    mean, users, items = fitted[-1]
    rating = mean + users[4, -1] + items[6, -1] + users[4, :-1] @ items[6, :-1]
    scores = grid(als(train, N_USERS, N_ITEMS, factors=3, reg=0.7, iterations=200, seed=1))
    assert scores[4, 6] == pytest.approx(rating, rel=1e-6)
    assert all(after < before for before, after in pairwise(losses))
    rng = np.random.default_rng(2)
    for _ in range(20):  # no step from the last, of either side, gains anything
        step = [1e-2 * rng.normal(size=(n, 4)) * (np.arange(n) > 0)[:, None] for n in (N_USERS, N_ITEMS)]
        assert objective(train, mean, users + step[0], items + step[1]) > losses[-1]


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


# ---- calibration and logistic regression -----------------------------------------------------------------------------


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
    sizes = list[int]()

    def fit(part: RatingRows, n_users: int, n_items: int) -> ratings.Scorer:
        sizes.append(len(part.user))
        return bias(part, n_users, n_items)

    logits = grid(ratings.held_out_calibration(fit, train, N_USERS, N_ITEMS))
    assert sizes == [360, 400]
    scores = grid(bias(train, N_USERS, N_ITEMS))
    assert np.corrcoef(logits.reshape(-1), scores.reshape(-1))[0, 1] == pytest.approx(1, abs=1e-6)


SCHEMA = Schema(
    (Field("site", "categorical", "context", 5), Field("tags", "bag", "item", 4, width=2),
     Field("price", "numerical", "item", 1, width=0)), None, None, 1.0, 0.0, 1.0,
)  # fmt: skip


def made(n: int = 300, labels: np.ndarray | None = None) -> Rows:
    random = np.random.default_rng(1)
    site = random.integers(0, 5, n)
    tags = np.stack([random.integers(0, 4, n), random.integers(-1, 4, n)], axis=1)
    price = random.normal(size=n)
    drawn = random.random(n) < expit(0.8 * (site == 2) - 0.5 * (tags[:, 0] == 1) + 0.7 * price - 0.4)
    columns = np.concatenate([site[:, None], tags], axis=1).astype(np.int32)
    target = np.asarray(drawn if labels is None else labels, np.float32)
    zeros = np.zeros(n, np.int32)
    return Rows(columns, price[:, None].astype(np.float32), target, target, zeros.astype(np.int64), zeros)


def test_the_logistic_optimum_is_that_of_newton() -> None:
    """On a dense matrix of values, of which unknown ones have no part, the number, and 1."""
    given, l2 = made(), 0.5
    x = np.concatenate([np.zeros((300, 9)), given.numbers, np.ones((300, 1))], axis=1)
    for row, (site, *tags) in enumerate(given.columns):
        held = [tag for tag in tags if tag >= 0]
        for place in (site, *(5 + tag for tag in held)):
            x[row, place] += 1.0 if place < 5 else 1 / len(held)
    x[:, [0, 5]] = 0.0
    weights, pull = np.zeros(11), l2 * np.diag([1.0] * 10 + [0.0])
    for _ in range(30):
        p = expit(x @ weights)
        weights -= np.linalg.solve((x.T * (p * (1 - p))) @ x + pull, x.T @ (p - given.labels) + pull @ weights)
    found = fit_logistic(SCHEMA, given, strengths=(l2,))
    np.testing.assert_allclose([*found.weights, found.intercept], weights, atol=2e-3)
    np.testing.assert_allclose(found.logits(SCHEMA, given), x @ weights, atol=5e-3)


def test_noise_is_answered_with_a_strong_penalty() -> None:
    noise, strengths = np.random.default_rng(2).integers(0, 2, 300), (1e4, 1e-2)
    assert fit_logistic(SCHEMA, made(labels=noise), strengths).l2 == 1e4
    assert fit_logistic(SCHEMA, made(3000), strengths).l2 == 1e-2


def test_a_model_begins_where_the_regression_ends() -> None:
    given = made()
    fitted = fit_logistic(SCHEMA, given, strengths=(3.0,))
    config = parse({
        "data": {"path": "none"}, "loss": {"name": "binary", "embedding_l2": 7.0}, "training": {"metric": "auc"},
        "model": {"name": "autoint", "first_order": "logistic", "init_std": 1e-6, "embedding_dim": 4, "blocks": 1},
    })  # fmt: skip
    model = AutoInt(config, SCHEMA, fitted)
    spec = model.tables["field"]

    def begin() -> jax.Array:
        tables = {"field": spec.init(jax.random.key(0), (spec.rows, spec.width))}
        rows = jnp.asarray(given.columns), jnp.asarray(given.numbers)
        return model.logits(model.init(jax.random.key(1)), tables, *rows)

    logits = jax.jit(begin)()
    np.testing.assert_allclose(logits, fitted.logits(SCHEMA, given), atol=1e-4)
    pulls = model.constants(np.array([0, 50, 60, 70, 80, 0, 100, 120, 140]))
    np.testing.assert_allclose(np.asarray(pulls.weights)[[1, 6]], [3.0 / 2 / 50, 3.0 / 2 / 100], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(pulls.vectors)[[1, 6]], [7.0, 7.0], rtol=1e-6)


# ---- who has what ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def has(train: RatingRows) -> np.ndarray:
    """float64[N_USERS, N_ITEMS], 1 where the user has the item; the unknown ones have nothing."""
    dense = np.zeros((N_USERS, N_ITEMS))
    dense[train.user[:150], train.item[:150]] = 1.0
    dense[0], dense[:, 0] = 0.0, 0.0
    return dense


def pairs(train: RatingRows, order: np.ndarray = np.arange(150)) -> csr_array:  # noqa: B008
    return matrix(train.user[order], train.item[order], N_USERS, N_ITEMS)


@pytest.mark.parametrize("block", [1, 256])
@pytest.mark.parametrize(("k", "shrink"), [(1, 0.0), (4, 7.5), (1000, 2.0)])
def test_item_knn_is_the_dense_cosine(
    train: RatingRows, has: np.ndarray, k: int, shrink: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ROWS", block)
    count = has.sum(axis=0)
    norm = np.sqrt(np.outer(count + shrink, count + shrink))
    similar = np.divide(has.T @ has, norm, out=np.zeros_like(norm), where=norm > 0)
    np.fill_diagonal(similar, 0.0)
    for row in similar:  # of the scored item
        row[np.argsort(-row, kind="stable")[k:]] = 0.0
    expected = has @ similar.T
    scores = item_knn(pairs(train), k=k, shrink=shrink)(USERS)
    some = (expected > 0) & (has.sum(axis=1) > 0)[:, None]
    np.testing.assert_allclose(scores[some], expected[some], rtol=1e-6)
    for user in np.flatnonzero(has.sum(axis=1)):  # the others below, in the order of popularity, equal where it is
        rest = np.flatnonzero(~some[user, 1:]) + 1
        assert (scores[user, rest] < 0).all()
        order = [np.sign(np.subtract.outer(of[rest], of[rest])) for of in (scores[user], count)]
        np.testing.assert_array_equal(*order)


def ridge(has: np.ndarray, other: np.ndarray, alpha: float, regularisation: float) -> np.ndarray:
    """The rows' normal equations (Hu et al. 2008, equation 4) with all weights written out."""
    solved, known = np.zeros((len(has), other.shape[1])), other[1:].astype(np.float64)
    for row in range(1, len(has)):
        confidence = 1 + alpha * has[row, 1:]
        left = known.T @ np.diag(confidence) @ known + regularisation * confidence.sum() * np.eye(other.shape[1])
        solved[row] = np.linalg.solve(left, known.T @ (confidence * has[row, 1:]))
    return solved


@pytest.mark.parametrize(("alpha", "regularisation"), [(3.0, 0.01), (40.0, 0.3)])
def test_half_steps_solve_their_normal_equations(
    train: RatingRows, has: np.ndarray, alpha: float, regularisation: float
) -> None:
    first, second = (factorise(pairs(train), 5, alpha, regularisation, iterations=n) for n in (1, 2))
    for user, item in (first, second):
        np.testing.assert_allclose(user, ridge(has, item, alpha, regularisation), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(second[1], ridge(has.T, first[0], alpha, regularisation), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", RETRIEVAL_BASELINES)
def test_what_all_that_rank_for_users_promise(train: RatingRows, has: np.ndarray, name: str) -> None:
    """Duplicates count once, order does not matter, nor do other users; users without a pair get popularity."""
    fit, own = partial(RETRIEVAL_BASELINES[name], **({"factors": 8} if name == "als" else {})), pairs(train)
    scores = fit(own)(USERS)
    assert scores.dtype == np.float32 and scores.shape == (N_USERS, N_ITEMS) and np.isfinite(scores).all()
    again = pairs(train, np.append(np.random.default_rng(6).permutation(150), np.arange(50)))
    np.testing.assert_array_equal(fit(again)(USERS), scores)
    some = fit(own)(np.array([7, 0, 7, 2], np.int32))
    np.testing.assert_allclose(some, scores[[7, 0, 7, 2]], rtol=1e-5, atol=1e-6)
    popular, none = popularity(own)(USERS), has.sum(axis=1) == 0
    np.testing.assert_array_equal(popular, np.tile(has.sum(axis=0), (N_USERS, 1)))
    np.testing.assert_array_equal(*(one[none].argsort(axis=1, kind="stable") for one in (scores, popular)))
