"""Baselines that rank all items for a user, from who has what: ``RETRIEVAL_BASELINES`` holds them by name.

Each is fitted on pairs of a user and an item that the user has, bought or liked, and scores every item for some users:

    scores = als(Positives(user, item), n_users, n_items)
    scores(users)                                            # float32[Q, n_items] for int32[Q]

Index 0 of users and of items is the unknown one, and counts in ``n_users`` and ``n_items``; training pairs that carry
it are left out. The unknown item scores -inf, below all others. The unknown user, and any without a training pair, gets
the scores of ``popularity``. Items that the user has are scored like others: who does not want to rank them leaves them
out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse

from jaxrec.baselines.itemknn import ItemKnn, similarities
from jaxrec.baselines.popularity import over_popularity
from jaxrec.baselines.popularity import popularity as sessions_popularity
from jaxrec.baselines.prefixes import expand
from jaxrec.data.dataset import Sessions

BLOCK = 2**20  # numbers in each array that a half step of ``als`` holds at once

Scores = Callable[[np.ndarray], np.ndarray]
"""users int32[Q], in [0, n_users) -> float32[Q, n_items]; all Q rows are held at once"""


class Positives(NamedTuple):
    """Users and the items that they have, in any order; a pair that is repeated counts once."""

    user: np.ndarray
    """int32[N], 0 is unknown"""
    item: np.ndarray
    """int32[N], 0 is unknown"""


Fit = Callable[[Positives, int, int], Scores]
"""(training pairs, n_users, n_items) -> scores; options go in by ``functools.partial``"""


class Lists(NamedTuple):
    """Each row's distinct entries, ascending: row r has ``entries[offsets[r]:offsets[r + 1]]``; row 0 has none."""

    entries: np.ndarray
    """int32[n]"""
    offsets: np.ndarray
    """int64[rows + 1]"""

    @property
    def counts(self) -> np.ndarray:
        """int64[rows]"""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Lists:
        """The lists of these rows."""
        counts = self.counts[rows]
        return Lists(self.entries[expand(self.offsets[rows], counts)], np.concatenate([[0], np.cumsum(counts)]))


def popularity(train: Positives, n_users: int, n_items: int) -> Scores:
    """The number of users who have the item."""
    count = _lists(train.item, train.user, n_items, n_users).counts.astype(np.float32)
    count[0] = -np.inf
    return lambda users: np.tile(count, (len(users), 1))


def item_knn(train: Positives, n_users: int, n_items: int, *, k: int = 100, shrink: float = 0.0) -> Scores:
    """Items like the user's own: the score of j is the sum, over the items i that the user has, of

        similarity(i, j) = n_ij / sqrt((n_i + shrink) (n_j + shrink)),    i not j,

    with n_i the users who have i and n_ij those who have both, where i is among the ``k`` most similar of j (equal
    ones: the lower index first). Without ``shrink`` it is the cosine over users: Sarwar et al. 2001, "Item-based
    collaborative filtering recommendation algorithms", section 3, but the sum is not divided by the similarities, as
    there are no ratings to average. Items that are near none of the user's stand below 0, by popularity.

    The neighbours are those of the scored item and not of the user's, unlike in sessions (jaxrec/baselines/itemknn.py,
    whose similarities these are): an item that many have is otherwise a neighbour of everything. Validation NDCG@10 on
    MovieLens-1M: .108 against .081. The similarities are made in blocks, and only the neighbours' are kept.
    """
    # k of 20 to 400 and shrink of 0 to 100 were tried as for als: NDCG@10 .095 to .108, flat around these.
    by_user = _lists(train.user, train.item, n_users, n_items)
    sessions = Sessions(by_user.entries, np.zeros(len(by_user.entries), np.int64), by_user.offsets)
    similar = similarities(ItemKnn(k=k, shrinkage=shrink, alpha=0.5), sessions, n_items).T.tocsr()
    order = sessions_popularity(sessions, n_items)

    def score(users: np.ndarray) -> np.ndarray:
        own = by_user.take(users)
        has = sparse.csr_array((np.ones(len(own.entries)), own.entries, own.offsets), shape=(len(users), n_items))
        return over_popularity(has @ similar, order)

    return _with_popularity(score, train, n_users, n_items)


class Factors(NamedTuple):
    """The score of a user and an item is the inner product of their factors."""

    user: np.ndarray
    """float32[n_users, factors], zeros where a user has no training pair"""
    item: np.ndarray
    """float32[n_items, factors], likewise"""


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

    A half step costs factors^2 for each pair and factors^3 for each row, and what is not known costs nothing, since
    the part of c_ui that is 1 everywhere is one product for all rows. Its memory does not grow with the pairs.
    """
    by_user = _lists(train.user, train.item, n_users, n_items)
    by_item = _lists(train.item, train.user, n_items, n_users)
    user = np.random.default_rng(seed).standard_normal((n_users, factors), np.float32)
    user *= np.float32(0.1 / np.sqrt(factors))  # scores of about 0.01: the first half step decides their size
    user[by_user.counts == 0] = 0.0
    for _ in range(iterations):
        item = _solve(by_item, user, alpha, regularisation)
        user = _solve(by_user, item, alpha, regularisation)
    return Factors(user, item)


def _solve(lists: Lists, other: np.ndarray, alpha: float, regularisation: float) -> np.ndarray:
    """A half step: one side's factors x, given the other's, y. Each row of this side solves

        (sum over all y y' + alpha sum over its own y y' + regularisation w I) x = (1 + alpha) sum over its own y

    Args:
        lists: the entries of each of M rows among the other side's L.
        other: float32[L, factors], zeros where there is no pair.

    Returns:
        float32[M, factors], zeros where there is no pair.
    """
    (n_other, factors), counts, diagonal = other.shape, lists.counts, np.arange(other.shape[1])
    weights = regularisation * (n_other - 1 + alpha * counts)  # the unknown one is not among all
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]  # long lists first, so that little is padded
    solved, every = np.zeros((len(counts), factors), np.float32), other.T @ other
    height = max(1, BLOCK // factors**2)
    for low in range(0, len(order), height):
        rows = order[low : low + height]
        left, right = _own_sums(lists, rows, other)
        left = every + np.float32(alpha) * left
        left[:, diagonal, diagonal] += weights[rows, None].astype(np.float32)
        solved[rows] = np.linalg.solve(left, np.float32(1 + alpha) * right[:, :, None])[:, :, 0]
    return solved


def _own_sums(lists: Lists, rows: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of y y' and of y over the entries of each row; ``rows`` go from the longest list to the shortest.

    Parts of the lists are taken at a time, of one length, behind the end of a list zeros.

    Returns:
        float32[R, factors, factors], float32[R, factors].
    """
    factors, counts = other.shape[1], lists.counts[rows]
    left = np.zeros((len(rows), factors, factors), np.float32)
    right = np.zeros((len(rows), factors), np.float32)
    start = 0
    while start < counts[0]:
        live = int(np.count_nonzero(counts > start))
        width = min(max(1, BLOCK // (live * factors)), int(counts[0]) - start)
        place = start + np.arange(width)
        within = place < counts[:live, None]
        at = np.where(within, lists.offsets[rows[:live], None] + place, 0)
        own = other[lists.entries[at]]
        own[~within] = 0.0
        left[:live] += own.transpose(0, 2, 1) @ own
        right[:live] += own.sum(axis=1)
        start += width
    return left, right


RETRIEVAL_BASELINES: dict[str, Callable[..., Scores]] = {
    "popularity": popularity,
    "item-knn": item_knn,
    "als": als,
}


def _with_popularity(score: Scores, train: Positives, n_users: int, n_items: int) -> Scores:
    """``score``, but popularity for users without a training pair, and -inf for the unknown item."""
    popular = popularity(train, n_users, n_items)
    without = _lists(train.user, train.item, n_users, n_items).counts == 0

    def scores(users: np.ndarray) -> np.ndarray:
        found = score(users)
        found[:, 0] = -np.inf
        found[without[users]] = popular(users[without[users]])
        return found

    return scores


def _lists(row: np.ndarray, entry: np.ndarray, n_rows: int, n_entries: int) -> Lists:
    """Every row's distinct entries, without the unknown ones."""
    known = (row > 0) & (entry > 0)
    pairs = np.unique(row[known].astype(np.int64) * n_entries + entry[known])
    return Lists(
        (pairs % n_entries).astype(np.int32), np.searchsorted(pairs, np.arange(n_rows + 1, dtype=np.int64) * n_entries)
    )
