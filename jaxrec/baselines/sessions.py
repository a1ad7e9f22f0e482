"""Baselines of sessions: popularity and nearest neighbours, fitted on training sessions; ``BASELINES`` holds them.

Defaults were tuned on the last 5 % of Diginetica's training targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import scipy.sparse as sparse
from pydantic import Field

from jaxrec.baselines.base import Prefixes, Scores, expand, last_clicks, over_popularity, popularity
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Sessions

BLOCK = 2**21  # pairs of clicks whose products are held at once
DAY = 86_400_000  # ms
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Scale = Annotated[float, Field(ge=0.0)]
Decay = Literal["none", "linear", "ratio", "harmonic", "quadratic", "log"]
# Weights of a click by the clicks after it, d, and by all clicks of its session, l.
DECAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": lambda d, length: np.ones(len(d)),
    "linear": lambda d, length: np.maximum(0.0, 1.0 - 0.1 * d),
    "ratio": lambda d, length: (length - d) / length,
    "harmonic": lambda d, length: 1.0 / (1.0 + d),
    "quadratic": lambda d, length: (1.0 + d) ** -2.0,
    "log": lambda d, length: 1.0 / np.log10(d + 1.7),
}


def pop(sessions: Sessions, n_items: int) -> Scores:
    """Items in the order of their training clicks, for every session alike."""
    order = popularity(sessions, n_items)
    return lambda prefixes: np.tile(order, (len(prefixes), 1))


def spop(sessions: Sessions, n_items: int) -> Scores:
    """Items by their clicks in the session so far; equal ones, and all others, by training clicks (Hidasi et al. 2016,
    "Session-based recommendations with recurrent neural networks", section 4, S-POP).
    """
    order = popularity(sessions, n_items)

    def scores(prefixes: Prefixes) -> np.ndarray:  # whose whole part is the count
        found = np.tile(order, (len(prefixes), 1))
        np.add.at(found, (prefixes.query, prefixes.items), np.float32(1.0))
        return found

    return scores


def itemknn(
    sessions: Sessions, n_items: int, *, k: Count = 100, shrinkage: Scale = 10.0, alpha: Share = 0.75,
    decay: Share = 0.4,
) -> Scores:  # fmt: skip
    """With ``n_i`` sessions that hold item i and ``n_ij`` that hold i and j,

        similarity(i, j) = n_ij / ((n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha)),    j not i
        score(j) = sum over the session's clicks on i of decay^(clicks after it) similarity(i, j)

    where j is among the k most similar of i (equal ones: the lower index first). Items that no click names follow by
    popularity. Linden et al. 2003; with a regularised cosine as in Hidasi et al. 2016, section 4 (Item-KNN), which is
    alpha 0.5 and decay 0.
    """
    order, similar = popularity(sessions, n_items), similarities(sessions, n_items, k, shrinkage, alpha)

    def scores(prefixes: Prefixes) -> np.ndarray:
        weight = np.power(decay, prefixes.distance)
        some = weight > 0
        shape = (len(prefixes), n_items)
        clicks = sparse.csr_array((weight[some], (prefixes.query[some], prefixes.items[some])), shape=shape)
        return over_popularity(clicks @ similar, order)

    return scores


def similarities(sessions: Sessions, n_items: int, k: int, shrinkage: float, alpha: float) -> Any:
    """CSR float64[V, V]: row i holds the k items most similar to i; see ``itemknn``."""
    lengths = np.diff(sessions.offsets)
    session = np.repeat(np.arange(len(sessions)), lengths)
    once = last_clicks(session, sessions.items, n_items)
    pair = session[once], sessions.items[once]
    incidence = sparse.csr_array((np.ones(len(once)), pair), shape=(len(sessions), n_items))
    by_item = incidence.T.tocsr()
    count = np.diff(by_item.indptr) + shrinkage
    count[count == 0] = 1.0  # an item without a training session has no neighbour either
    clicked, other = count**-alpha, count ** (alpha - 1.0)
    pairs = np.cumsum(np.bincount(pair[1], lengths[pair[0]], n_items))
    parts, low = [], 0
    while low < n_items:  # by blocks of rows: all pairs at once can be far more than the k that are kept
        bound = (pairs[low - 1] if low else 0) + BLOCK
        high = max(low + 1, int(np.searchsorted(pairs, bound, side="right")))
        rows = (by_item[low:high] @ incidence).tocoo()
        here, there = rows.coords
        value = rows.data * clicked[low + here] * other[there]
        keep = np.flatnonzero(there != low + here)
        keep = keep[np.lexsort((there[keep], -value[keep], here[keep]))]
        keep = keep[np.arange(len(keep)) - np.searchsorted(here[keep], here[keep]) < k]  # place within the row
        parts.append((low + here[keep], there[keep], value[keep]))
        low = high
    row, column, data = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sparse.csr_array((data, (row, column)), shape=(n_items, n_items))


def vsknn(
    sessions: Sessions, n_items: int, *, k: Count = 100, sample: Count = 1000, decay: Decay = "linear",
    vote_decay: Decay = "harmonic", idf: Scale = 2.0,
) -> Scores:  # fmt: skip
    """With the session s, its last click on item i at distance d_i from its end, and a past session n,

        similarity(s, n) = sum over the items i that they share of decay(d_i)
        score(j) = (1 + idf log(S / n_j)) sum over neighbours n that hold j of similarity(s, n) vote_decay(d*)

    where d* is the distance of the last click of s on an item of n, S the number of past sessions and n_j of those that
    hold j. The neighbours are the k most similar (equal ones: the most recent) of the ``sample`` most recent sessions
    that share an item of positive decay with s. Items of no neighbour follow by popularity. Ludewig and Jannach 2018,
    "Evaluation of session-based recommendation algorithms"; the decay of votes and the idf from Ludewig et al. 2021,
    "Empirical analysis of session-based recommendation algorithms".
    """
    order, past = popularity(sessions, n_items), Neighbourhood(sessions, n_items, sample)
    boost = 1.0 + idf * np.log(len(sessions) / np.maximum(1, past.frequency))

    def scores(prefixes: Prefixes) -> np.ndarray:
        lengths = prefixes.lengths
        near = past.nearest(past.pairs(prefixes, DECAYS[decay](prefixes.distance, lengths[prefixes.query])), k)
        strength = near.similarity * DECAYS[vote_decay](near.distance, lengths[near.query])
        votes = past.vote(near, strength, len(prefixes), 0.0)
        votes.data *= boost[votes.indices]
        return over_popularity(votes, order)

    return scores


def stan(
    sessions: Sessions, n_items: int, *, k: Count = 500, sample: Count = 1000, lambda1: Scale = 1.2,
    lambda2: Scale = 80.0, lambda3: Scale = 3.0,
) -> Scores:  # fmt: skip
    """With the session s of l(s) clicks, its last click on item i at distance d_i from its end,

        similarity(s, n) = sum over the items i that they share of exp(-d_i / lambda1) / sqrt(l(s) l(n))
                           * exp(-(t(s) - t(n)) / lambda2)
        score(j) = sum over neighbours n that hold j of similarity(s, n) exp(-|p(j, n) - p(i*, n)| / lambda3)

    where t is the time of a session's last click in days (no age is below 0), p(j, n) the position of the last click on
    j in n, and i* the shared item that was clicked last in s; a lambda of 0 leaves its factor out. Neighbours as of
    ``vsknn``. Garg et al. 2019, "Sequence and time aware neighborhood for session-based recommendations".
    """
    order, past = popularity(sessions, n_items), Neighbourhood(sessions, n_items, sample)

    def scores(prefixes: Prefixes) -> np.ndarray:
        pairs = past.pairs(prefixes, _fall(prefixes.distance, lambda1))
        norm = np.sqrt(prefixes.lengths[pairs.query] * past.lengths[pairs.session])
        age = np.maximum(0, prefixes.now[pairs.query] - past.ends[pairs.session]) / DAY
        near = past.nearest(replace(pairs, similarity=pairs.similarity / norm * _fall(age, lambda2)), k)
        return over_popularity(past.vote(near, near.similarity, len(prefixes), lambda3), order)

    return scores


BASELINES: dict[str, Callable[..., Scores]] = {
    "pop": pop, "spop": spop, "itemknn": itemknn, "vsknn": vsknn, "stan": stan,
}  # fmt: skip


def _fall(distance: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(-distance / scale) if scale else np.ones(len(distance))


@dataclass(frozen=True)
class Pairs:
    """Queries and their neighbours, by query, then from the oldest neighbour to the most recent."""

    query: np.ndarray  # int64[P]
    session: np.ndarray  # int64[P]
    similarity: np.ndarray  # float64[P]
    distance: np.ndarray  # int64[P], clicks after the query's most recent click on an item of the neighbour
    position: np.ndarray  # int64[P], where that item stands in the neighbour: its last click, from 0

    def take(self, index: np.ndarray) -> Pairs:
        return Pairs(*(column[index] for column in vars(self).values()))


class Neighbourhood:
    """Training sessions, numbered from the one that ended first to the one that ended last, and looked up by item; a
    query considers the ``sample`` most recent ones that share an item with it.
    """

    def __init__(self, sessions: Sessions, n_items: int, sample: int) -> None:
        ends = sessions.times[sessions.offsets[1:] - 1]
        order = np.argsort(ends, kind="stable")  # the data set's order may be by day only
        self.ends = ends[order]  # int64[S], ms since 1970, the time of each session's last click
        self.lengths = np.diff(sessions.offsets)[order]  # int64[S], clicks of each
        items = sessions.items[expand(sessions.offsets[:-1][order], self.lengths)]
        session = np.repeat(np.arange(len(order)), self.lengths)
        once = last_clicks(session, items, n_items)
        # The distinct items of each session in the order of their last clicks, and where in the session those are.
        self.items, session = items[once], session[once]
        self.positions = once - (np.cumsum(self.lengths) - self.lengths)[session]
        self.offsets = np.searchsorted(session, np.arange(len(order) + 1))  # where the items of each session begin
        self.frequency = np.bincount(self.items, minlength=n_items)
        # A session among the most recent `sample` of a query is among those of each item that they share, so that no
        # more need to be kept of an item, however popular.
        by_item = np.argsort(self.items, kind="stable")
        from_end = np.cumsum(self.frequency)[self.items[by_item]] - np.arange(len(by_item))
        by_item = by_item[from_end <= sample]
        self._counts = np.minimum(self.frequency, sample)
        self._starts = np.cumsum(self._counts) - self._counts
        self._sessions, self._positions = session[by_item], self.positions[by_item]
        self._sample, self._n_items = sample, n_items

    def pairs(self, prefixes: Prefixes, weight: np.ndarray) -> Pairs:
        """The sampled sessions of each query; their similarity is the sum of the weights, float64[n] of each click, of
        the items they share. An item counts with its last click; clicks of weight 0 find no sessions.
        """
        query, distance = prefixes.query, prefixes.distance
        clicks = last_clicks(query, prefixes.items, self._n_items)
        clicks = clicks[weight[clicks] > 0]
        items = prefixes.items[clicks]
        found = expand(self._starts[items], self._counts[items])
        clicks = np.repeat(clicks, self._counts[items])
        key = query[clicks] * len(self.ends) + self._sessions[found]
        order = np.argsort(key, kind="stable")  # within a pair the most recent click stays last
        key = key[order]
        last = np.flatnonzero(np.append(key[1:] != key[:-1], True)[: len(key)])
        first = np.append(0, last + 1)[: len(last)]
        total = np.add.reduceat(weight[clicks[order]], first) if len(first) else np.zeros(0)
        click, found = clicks[order[last]], found[order[last]]
        result = Pairs(query[click], self._sessions[found], total, distance[click], self._positions[found])
        after = np.searchsorted(result.query, result.query, side="right") - np.arange(len(result.query))
        return result.take(np.flatnonzero(after <= self._sample))

    def nearest(self, pairs: Pairs, k: int) -> Pairs:
        """The k most similar neighbours of each query, all where there are fewer; among equals the more recent."""
        many = np.flatnonzero(np.bincount(pairs.query)[pairs.query] > k)
        # Sums of the same weights in another order differ in their last bits; in float32 they are equal.
        similarity = pairs.similarity[many].astype(np.float32)
        order = many[np.lexsort((-pairs.session[many], -similarity, pairs.query[many]))]
        query = pairs.query[order]
        keep = np.ones(len(pairs.query), bool)
        keep[order[np.arange(len(order)) - np.searchsorted(query, query) >= k]] = False
        return pairs.take(np.flatnonzero(keep))

    def vote(self, pairs: Pairs, strength: np.ndarray, queries: int, scale: float) -> sparse.csr_array:
        """CSR float64[Q, V]: every neighbour gives its items its strength, float64[P], which falls to 1/e over
        ``scale`` clicks from ``Pairs.position`` (0: not at all).
        """
        counts = np.diff(self.offsets)[pairs.session]
        cells = expand(self.offsets[pairs.session], counts)
        away = np.abs(self.positions[cells] - np.repeat(pairs.position, counts))
        ends = np.append(0, np.cumsum(counts))
        shares = sparse.csr_array((_fall(away, scale), self.items[cells], ends), shape=(len(counts), self._n_items))
        places = np.searchsorted(pairs.query, np.arange(queries + 1))
        return sparse.csr_array((strength, np.arange(len(counts)), places), shape=(queries, len(counts))) @ shares
