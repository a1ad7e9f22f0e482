"""Baselines that rank all items for a user, from who has what: ``RETRIEVAL_BASELINES`` holds them by name.

    scores = als(Positives(user, item), n_users, n_items)
    scores(users)                                            # float32[Q, n_items] for int32[Q]

Index 0 of users and of items is the unknown one, and counts in ``n_users`` and ``n_items``; training pairs that carry
it are left out. The unknown item scores -inf, below all others. The unknown user, and any without a training pair, gets
the scores of ``popularity``. Items that the user has are scored like others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse

from jaxrec.baselines.base import over_popularity
from jaxrec.baselines.base import popularity as sessions_popularity
from jaxrec.baselines.items import ItemKnn, similarities
from jaxrec.data.dataset import Sessions

BLOCK = 2**20  # numbers in each array that a half step of ``als`` holds at once
Scores = Callable[[np.ndarray], np.ndarray]
"""users int32[Q], in [0, n_users) -> float32[Q, n_items]; all Q rows are held at once"""


class Positives(NamedTuple):
    """int32[N] users and the items that they have, 0 is unknown, in any order; a pair that is repeated counts once."""

    user: np.ndarray
    item: np.ndarray


def popularity(train: Positives, n_users: int, n_items: int) -> Scores:
    """The number of users who have the item."""
    count = np.diff(_has(train, n_users, n_items).tocsc().indptr).astype(np.float32)
    count[0] = -np.inf
    return lambda users: np.tile(count, (len(users), 1))


def item_knn(train: Positives, n_users: int, n_items: int, *, k: int = 100, shrink: float = 0.0) -> Scores:
    """Items like the user's own: the score of j is the sum, over the items i that the user has, of

        similarity(i, j) = n_ij / sqrt((n_i + shrink) (n_j + shrink)),    i not j,

    with n_i the users who have i and n_ij those who have both, where i is among the ``k`` most similar of j (equal
    ones: the lower index first). Without ``shrink`` it is the cosine over users: Sarwar et al. 2001, "Item-based
    collaborative filtering recommendation algorithms", section 3, but the sum is not divided by the similarities, as
    there are no ratings to average. Items that are near none of the user's stand below 0, by popularity.

    The neighbours are those of the scored item and not of the user's, unlike in sessions (``jaxrec.baselines.items``):
    an item that many have is else a neighbour of everything. Validation NDCG@10 on MovieLens-1M: .108 against .081.
    """
    # k of 20 to 400 and shrink of 0 to 100 were tried as for als: NDCG@10 .095 to .108, flat around these.
    has = _has(train, n_users, n_items)
    sessions = Sessions(has.indices, np.zeros(has.nnz, np.int64), has.indptr)
    similar = similarities(ItemKnn(k=k, shrinkage=shrink, alpha=0.5), sessions, n_items).T.tocsr()
    order = sessions_popularity(sessions, n_items)
    return _with_popularity(lambda users: over_popularity(has[users] @ similar, order), train, n_users, n_items)


class Factors(NamedTuple):
    """float32[n, factors] of users and of items, whose product is the score; zeros where there is no training pair."""

    user: np.ndarray
    item: np.ndarray


def als(train: Positives, n_users: int, n_items: int, **options: Any) -> Scores:
    """Matrix factorisation of what users have and have not; see ``factorise``, whose options these are."""
    # Chosen by validation NDCG@10 on MovieLens-1M (ratings of 4 and 5, a random one of each of 6,035 users):
    # 32 to 256 factors, alpha 1 to 40, regularisation 3e-4 to 0.03, nu 0, 0.5 and 1. These reach Recall@10 .239,
    # Recall@100 .649, NDCG@10 .132; 32 factors .118, 64 .128, 256 .130 at alpha 3; item-knn .108, popularity .047.
    fitted = factorise(train, n_users, n_items, **options)
    return _with_popularity(lambda users: fitted.user[users] @ fitted.item.T, train, n_users, n_items)


def factorise(
    train: Positives, n_users: int, n_items: int, *, factors: int = 128, alpha: float = 6.0,
    regularisation: float = 0.01, iterations: int = 8, seed: int = 0,
) -> Factors:  # fmt: skip
    """Alternating least squares, each half step exact, on

        sum over all users and items of c_ui (p_ui - x_u . y_i)^2
            + regularisation (sum over users of w_u |x_u|^2 + sum over items of w_i |y_i|^2)

    with p_ui 1 where user u has item i and 0 elsewhere, c_ui = 1 + alpha p_ui, and w_u and w_i the sums of c_ui over
    the user's and over the item's row. Hu, Koren and Volinsky 2008, "Collaborative filtering for implicit feedback
    datasets", section 4, equation 3, where w is 1. The penalty in proportion to the row is that of Rendle et al. 2022,
    "Revisiting the performance of iALS on item recommendation benchmarks", with their nu 1 and an unobserved weight of
    1 / alpha; Hu's own is their nu 0. Best validation NDCG@10 on MovieLens-1M with 64 factors: .1277 with nu 1, .1252
    with 0.5, .1240 with 0.

    A half step costs factors^2 for each pair and factors^3 for each row; what is not known costs nothing, since the
    part of c_ui that is 1 everywhere is one product for all rows.
    """
    by_user = _has(train, n_users, n_items)
    by_item = by_user.T.tocsr()
    user = np.random.default_rng(seed).standard_normal((n_users, factors), np.float32)
    user *= np.float32(0.1 / np.sqrt(factors))  # scores of about 0.01: the first half step decides their size
    user[np.diff(by_user.indptr) == 0] = 0.0
    for _ in range(iterations):
        item = _solve(by_item, user, alpha, regularisation)
        user = _solve(by_user, item, alpha, regularisation)
    return Factors(user, item)


def _solve(has: Any, other: np.ndarray, alpha: float, regularisation: float) -> np.ndarray:
    """A half step: float32[M, factors] of one side, x, given float32[L, factors] of the other, y. Each row solves

    (sum over all y y' + alpha sum over its own y y' + regularisation w I) x = (1 + alpha) sum over its own y
    """
    (n_other, factors), counts, diagonal = other.shape, np.diff(has.indptr), np.arange(other.shape[1])
    weights = regularisation * (n_other - 1 + alpha * counts)  # the unknown one is not among all
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]  # long lists first, so that little is padded
    solved, every = np.zeros((len(counts), factors), np.float32), other.T @ other
    height = max(1, BLOCK // factors**2)
    for low in range(0, len(order), height):
        rows = order[low : low + height]
        left, right = _own_sums(has, rows, other)
        left = every + np.float32(alpha) * left
        left[:, diagonal, diagonal] += weights[rows, None].astype(np.float32)
        solved[rows] = np.linalg.solve(left, np.float32(1 + alpha) * right[:, :, None])[:, :, 0]
    return solved


def _own_sums(has: Any, rows: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32[R, factors, factors] and float32[R, factors], the sums of y y' and of y over each row's own, in parts of
    one length, zeros behind the end of a list; ``rows`` go from the longest to the shortest.
    """
    factors, counts, start = other.shape[1], np.diff(has.indptr)[rows], 0
    left, right = (np.zeros((len(rows), *shape), np.float32) for shape in ((factors, factors), (factors,)))
    while start < counts[0]:
        live = int(np.count_nonzero(counts > start))
        width = min(max(1, BLOCK // (live * factors)), int(counts[0]) - start)
        place = start + np.arange(width)
        within = place < counts[:live, None]
        own = other[has.indices[np.where(within, has.indptr[rows[:live], None] + place, 0)]]
        own[~within] = 0.0
        left[:live] += own.transpose(0, 2, 1) @ own
        right[:live] += own.sum(axis=1)
        start += width
    return left, right


RETRIEVAL_BASELINES: dict[str, Callable[..., Scores]] = {"popularity": popularity, "item-knn": item_knn, "als": als}


def _with_popularity(score: Scores, train: Positives, n_users: int, n_items: int) -> Scores:
    """``score``, but popularity for users without a training pair, and -inf for the unknown item."""
    popular, without = popularity(train, n_users, n_items), np.diff(_has(train, n_users, n_items).indptr) == 0

    def scores(users: np.ndarray) -> np.ndarray:
        found = score(users)
        found[:, 0] = -np.inf
        found[without[users]] = popular(users[without[users]])
        return found

    return scores


def _has(train: Positives, n_users: int, n_items: int) -> Any:
    """CSR float64[n_users, n_items], 1 where a known user has a known item."""
    known = (train.user > 0) & (train.item > 0)
    pairs = train.user[known], train.item[known]
    has = sparse.csr_array((np.ones(len(pairs[0])), pairs), shape=(n_users, n_items))
    has.sum_duplicates()
    has.data[:] = 1.0
    return has
