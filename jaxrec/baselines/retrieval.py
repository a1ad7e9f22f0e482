"""Baselines that rank all items for a user, from the ``matrix`` of who has what: ``RETRIEVAL_BASELINES`` by name. Index
0 is the unknown user or item; users without a training pair get the order of ``popularity``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sparse

from jaxrec.baselines import base
from jaxrec.baselines.sessions import Scale, similarities
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Sessions

Scores = Callable[[np.ndarray], np.ndarray]
"""users int32[Q], in [0, n_users) -> float32[Q, n_items]; all Q rows are held at once"""


def matrix(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sparse.csr_array:
    """CSR float64[n_users, n_items], 1 where a known user has a known item, of int32[N] pairs in any order."""
    known = (users > 0) & (items > 0)
    has = sparse.csr_array((np.ones(known.sum()), (users[known], items[known])), shape=(n_users, n_items))
    has.data[:] = 1.0
    return has


def popularity(has: sparse.csr_array) -> Scores:
    """The number of users who have the item."""
    count = has.sum(axis=0).astype(np.float32)
    return lambda users: np.tile(count, (len(users), 1))


def item_knn(has: sparse.csr_array, *, k: Count = 100, shrink: Scale = 0.0) -> Scores:
    """Items like the user's own: the score of j is the sum, over the items i that the user has, of

        similarity(i, j) = n_ij / sqrt((n_i + shrink) (n_j + shrink)),    i not j,

    where i is among the ``k`` most similar of j: neighbours of the user's items, as in sessions, would be those that
    many have (validation NDCG@10 on MovieLens-1M: .108 against .081). Without ``shrink`` the cosine over users: Sarwar
    et al. 2001, "Item-based collaborative filtering recommendation algorithms", section 3."""
    # k of 20 to 400 and shrink of 0 to 100 were tried as for als: NDCG@10 .095 to .108, flat around these.
    sessions = Sessions(has.indices, np.zeros(has.nnz, np.int64), has.indptr)
    similar = similarities(sessions, has.shape[1], k, shrink, 0.5).T.tocsr()
    order = base.popularity(sessions, has.shape[1])
    return lambda users: base.over_popularity(has[users] @ similar, order)


def als(
    has: sparse.csr_array, *, factors: Count = 128, alpha: Scale = 6.0, regularisation: Scale = 0.01,
    iterations: Count = 8, seed: int = 0,
) -> Scores:  # fmt: skip
    """Matrix factorisation of what users have and have not: products of ``factorise``."""
    # Chosen by validation NDCG@10 on MovieLens-1M (ratings of 4 and 5, a random one of each of 6,035 users):
    # 32 to 256 factors, alpha 1 to 40, regularisation 3e-4 to 0.03, nu 0, 0.5 and 1. These reach Recall@10 .239,
    # Recall@100 .649, NDCG@10 .132; 32 factors .118, 64 .128, 256 .130 at alpha 3; item-knn .108, popularity .047.
    user, item = factorise(has, factors, alpha, regularisation, iterations, seed)
    popular, some = popularity(has), np.diff(has.indptr)[:, None] > 0
    return lambda users: np.where(some[users], user[users] @ item.T, popular(users))


def factorise(
    has: sparse.csr_array, factors: int, alpha: float, regularisation: float, iterations: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """float32[n, factors] of users and of items, zeros where there is no pair: alternating least squares, each half
    step exact, on

        sum over all users and items of c_ui (p_ui - x_u . y_i)^2
            + regularisation (sum over users of w_u |x_u|^2 + sum over items of w_i |y_i|^2)

    with p_ui 1 where user u has item i and 0 elsewhere, c_ui = 1 + alpha p_ui, and w the sums of c over a user's or an
    item's row. Hu, Koren and Volinsky 2008, "Collaborative filtering for implicit feedback datasets", equation 3, with
    the penalty in proportion to the row of Rendle et al. 2022, "Revisiting the performance of iALS", nu 1 (validation
    NDCG@10 on MovieLens-1M with 64 factors: .1277, with Hu's nu 0 .1240)."""
    by_user, by_item = has.astype(np.float32), has.T.tocsr().astype(np.float32)

    def half_step(own: sparse.csr_array, other: np.ndarray) -> np.ndarray:
        weights = regularisation * (len(other) - 1 + alpha * own.sum(axis=1))  # the unknown one is not among all
        return base.least_squares(alpha * own, other, (1 + alpha) * (own @ other), weights, other.T @ other)

    user = np.random.default_rng(seed).standard_normal((has.shape[0], factors), np.float32)
    user *= np.float32(0.1 / np.sqrt(factors))  # scores of about 0.01: the first half step decides their size
    user[np.diff(has.indptr) == 0] = 0.0
    for _ in range(iterations):
        item = half_step(by_item, user)
        user = half_step(by_user, item)
    return user, item


RETRIEVAL_BASELINES: dict[str, Callable[..., Scores]] = {"popularity": popularity, "item-knn": item_knn, "als": als}
