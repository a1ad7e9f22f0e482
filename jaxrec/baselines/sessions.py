"""Baselines of sessions, fitted on training sessions: popularity and nearest neighbours; ``BASELINES`` by name.
Defaults were tuned on the last 5 % of Diginetica's training targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import scipy.sparse as sparse
from pydantic import Field

from jaxrec.baselines.base import Prefixes, Scores, Voting, first, last_clicks, popularity
from jaxrec.config.sections import Amount, Count
from jaxrec.data.dataset import Sessions

ROWS = 256  # items whose similarities to all others are held at once: far more than the k that are kept
DAY = 86_400_000  # ms
FAR, OFTEN = 50, 4  # clicks back, and clicks on an item, from which on all are alike
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Scale = Annotated[float, Field(ge=0.0)]
Decay = Literal["none", "linear", "harmonic"]
# Weights of a click by the number of clicks after it.
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda d: np.ones(len(d)),
    "linear": lambda d: np.maximum(0.0, 1.0 - 0.1 * d),
    "harmonic": lambda d: 1.0 / (1.0 + d),
}


def pop(sessions: Sessions, n_items: int) -> Scores:
    """Items in the order of their training clicks, for every session alike."""
    order = popularity(sessions, n_items)
    return lambda prefixes: np.tile(order, (len(prefixes), 1))


def spop(sessions: Sessions, n_items: int) -> Voting:
    """Items by their clicks in the session so far; equal ones, and all others, by training clicks (Hidasi et al. 2016,
    "Session-based recommendations with recurrent neural networks", section 4, S-POP)."""
    order = popularity(sessions, n_items)

    def votes(prefixes: Prefixes) -> Any:  # whose whole part is the count
        clicks = np.ones(len(prefixes.items)), (prefixes.query, prefixes.items)
        counts = sparse.csr_array(clicks, shape=(len(prefixes), n_items))  # sums up what repeats
        counts.data += order[counts.indices]
        return counts

    return Voting(votes, order)


def returns(sessions: Sessions, n_items: int, *, after: Amount = 0) -> Voting:
    """Items of the session so far, by how often training sessions went back so: of the times that a session went on
    from d clicks after its last one on an item, the n-th on that item, the share where it went on to that item. Others
    follow by training clicks; and so do all, where the session so far went back less often than ``after`` times."""
    order, rate = popularity(sessions, n_items), return_rates(sessions, n_items)

    def votes(prefixes: Prefixes) -> Any:
        last, seen = last_clicks(prefixes.query, prefixes.items, n_items), occurrences(prefixes.query, prefixes.items)
        went_back = np.bincount(prefixes.query, seen > 0, len(prefixes))
        last = last[went_back[prefixes.query[last]] >= after]
        count = seen[last]
        chance = rate[np.minimum(prefixes.distance[last], FAR - 1), np.minimum(count, OFTEN - 1)]
        pair = prefixes.query[last], prefixes.items[last]
        return sparse.csr_array((chance, pair), shape=(len(prefixes), n_items))

    return Voting(votes, order)


def return_rates(sessions: Sessions, n_items: int) -> np.ndarray:
    """float64[FAR, OFTEN]: the shares of ``returns`` by d and by n - 1, each to the last or more. One more of each kind
    is counted, so that none is 0."""
    place, session = np.arange(len(sessions.items)), np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets))
    by_item = np.lexsort((place, sessions.items, session))
    same = (np.diff(session[by_item]) == 0) & (np.diff(sessions.items[by_item]) == 0)
    until, back = sessions.offsets[1:][session] - 1, np.zeros(len(place), bool)  # the session's last click, or
    until[by_item[:-1][same]], back[by_item[:-1][same]] = by_item[1:][same], True  # the next one on the same item
    ahead = until - place  # times that the session goes on, with this click the last on its item
    count = np.minimum(occurrences(session, sessions.items), OFTEN - 1)
    went, stood = np.zeros((2, FAR, OFTEN))
    np.add.at(went, (np.minimum(ahead[back] - 1, FAR - 1), count[back]), 1)
    for d in range(FAR - 1):
        stood[d] = np.bincount(count[ahead > d], minlength=OFTEN)
    stood[-1] = np.bincount(count, np.maximum(ahead - (FAR - 1), 0), OFTEN)
    return np.asarray((went + 1.0) / (stood + 2.0))


def occurrences(groups: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64[n]: how often each click's item was clicked before in its group (a session or a query), whose clicks stand
    in order."""
    order = np.lexsort((np.arange(len(items)), items, groups))
    first = np.flatnonzero(np.append(True, (np.diff(groups[order]) != 0) | (np.diff(items[order]) != 0)))
    found = np.empty(len(items), np.int64)
    found[order] = np.arange(len(items)) - np.repeat(first, np.diff(np.append(first, len(items))))
    return found


def itemknn(
    sessions: Sessions, n_items: int, *, k: Count = 100, shrinkage: Scale = 10.0, alpha: Share = 0.75,
    decay: Share = 0.4,
) -> Voting:  # fmt: skip
    """With ``n_i`` sessions that hold item i and ``n_ij`` that hold i and j,

        similarity(i, j) = n_ij / ((n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha)),    j not i
        score(j) = sum over the session's clicks on i of decay^(clicks after it) similarity(i, j)

    where j is among the k most similar of i (equal ones: the lower index first). Items that no click names follow by
    popularity. Linden et al. 2003; with a regularised cosine as in Hidasi et al. 2016, section 4 (Item-KNN), which is
    alpha 0.5 and decay 0."""
    order, similar = popularity(sessions, n_items), similarities(sessions, n_items, k, shrinkage, alpha)

    def votes(prefixes: Prefixes) -> Any:
        weight = np.power(decay, prefixes.distance)
        some = weight > 0
        shape = (len(prefixes), n_items)
        clicks = sparse.csr_array((weight[some], (prefixes.query[some], prefixes.items[some])), shape=shape)
        return clicks @ similar

    return Voting(votes, order)


def similarities(sessions: Sessions, n_items: int, k: int, shrinkage: float, alpha: float) -> Any:
    """CSR float64[V, V]: row i holds the k items most similar to i; see ``itemknn``."""
    session = np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets))
    once = last_clicks(session, sessions.items, n_items)
    pair = session[once], sessions.items[once]
    incidence = sparse.csr_array((np.ones(len(once)), pair), shape=(len(sessions), n_items))
    by_item = incidence.T.tocsr()
    count = np.diff(by_item.indptr) + shrinkage
    count[count == 0] = 1.0  # an item without a training session has no neighbour either
    clicked, other, parts = count**-alpha, count ** (alpha - 1.0), []
    for low in range(0, n_items, ROWS):
        rows = (by_item[low : low + ROWS] @ incidence).tocoo()
        here, there = rows.coords
        value = rows.data * clicked[low + here] * other[there]
        keep = np.flatnonzero(there != low + here)
        keep = keep[first(k, here[keep], -value[keep], there[keep])]
        parts.append((low + here[keep], there[keep], value[keep]))
    row, column, data = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sparse.csr_array((data, (row, column)), shape=(n_items, n_items))


def vsknn(
    sessions: Sessions, n_items: int, *, k: Count = 100, sample: Count = 1000, decay: Decay = "linear",
    vote_decay: Decay = "harmonic", idf: Scale = 2.0,
) -> Voting:  # fmt: skip
    """With the session s, its last click on item i at distance d_i from its end, and a past session n,

        similarity(s, n) = sum over the items i that they share of decay(d_i)
        score(j) = (1 + idf log(S / n_j)) sum over neighbours n that hold j of similarity(s, n) vote_decay(d*)

    where d* is the distance of the last click of s on an item of n, S the number of past sessions and n_j of those that
    hold j. The neighbours are the k most similar (equal ones: the most recent) of the ``sample`` most recent sessions
    that share an item of positive decay with s. Items of no neighbour follow by popularity. Ludewig and Jannach 2018,
    "Evaluation of session-based recommendation algorithms"; the decay of votes and the idf from Ludewig et al. 2021,
    "Empirical analysis of session-based recommendation algorithms"."""
    order, past = popularity(sessions, n_items), Neighbourhood(sessions, n_items, sample)
    boost = 1.0 + idf * np.log(len(sessions) / np.maximum(1, past.frequency))

    def votes(prefixes: Prefixes) -> Any:
        return past.votes(prefixes, k, DECAYS[decay](prefixes.distance), age=lambda query, session: 1.0,
                          vote=DECAYS[vote_decay], share=lambda items, away: boost[items])  # fmt: skip

    return Voting(votes, order)


def stan(
    sessions: Sessions, n_items: int, *, k: Count = 500, sample: Count = 1000, lambda1: Scale = 1.2,
    lambda2: Scale = 80.0, lambda3: Scale = 3.0,
) -> Voting:  # fmt: skip
    """With the session s of l(s) clicks, its last click on item i at distance d_i from its end,

        similarity(s, n) = sum over the items i that they share of exp(-d_i / lambda1) / sqrt(l(s) l(n))
                           * exp(-(t(s) - t(n)) / lambda2)
        score(j) = sum over neighbours n that hold j of similarity(s, n) exp(-|p(j, n) - p(i*, n)| / lambda3)

    where t is the time of a session's last click in days (no age is below 0), p(j, n) the position of the last click on
    j in n, and i* the shared item that was clicked last in s; a lambda of 0 leaves its factor out. Neighbours as of
    ``vsknn``. Garg et al. 2019, "Sequence and time aware neighborhood for session-based recommendations"."""
    order, past = popularity(sessions, n_items), Neighbourhood(sessions, n_items, sample)

    def votes(prefixes: Prefixes) -> Any:
        def age(query: np.ndarray, session: np.ndarray) -> np.ndarray:
            days = np.maximum(0, prefixes.now[query] - past.ends[session]) / DAY
            return _fall(days, lambda2) / np.sqrt(prefixes.lengths[query] * past.lengths[session])

        return past.votes(prefixes, k, _fall(prefixes.distance, lambda1), age, vote=lambda distance: 1.0,
                          share=lambda items, away: _fall(away, lambda3))  # fmt: skip

    return Voting(votes, order)


BASELINES: dict[str, Callable[..., Scores]] = {
    "pop": pop, "spop": spop, "returns": returns, "itemknn": itemknn, "vsknn": vsknn, "stan": stan,
}  # fmt: skip


def _fall(distance: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(-distance / scale) if scale else np.ones(len(distance))


class Neighbourhood:
    """Training sessions by their ends, of which a query considers the ``sample`` last that share an item."""

    def __init__(self, sessions: Sessions, n_items: int, sample: int) -> None:
        ends = sessions.times[sessions.offsets[1:] - 1]
        order = np.argsort(ends, kind="stable")  # the data set's order may be by day only
        self.ends = ends[order]  # int64[S], ms since 1970, the time of each session's last click
        self.lengths = np.diff(sessions.offsets)[order]  # int64[S], clicks of each
        session = np.repeat(np.arange(len(order)), np.diff(sessions.offsets))
        once = last_clicks(session, sessions.items, n_items)
        items, position = sessions.items[once], once - sessions.offsets[session[once]]
        session = np.argsort(order)[session[once]]
        # CSR int64[S, V]: where in each session the last click on each of its items is.
        self._positions = sparse.csr_array((position, (session, items)), shape=(len(order), n_items))
        self.frequency = np.bincount(items, minlength=n_items)
        # A session among the most recent `sample` of a query is among those of each item that they share, so that no
        # more need to be kept of an item, however popular.
        kept = first(sample, items, -session)
        holders = np.ones(len(kept)), (items[kept], session[kept])
        self._holders = sparse.csr_array(holders, shape=(n_items, len(order)))
        self._sample = sample

    def votes(
        self, prefixes: Prefixes, k: int, weight: np.ndarray, age: Callable[[np.ndarray, np.ndarray], Any],
        vote: Callable[[np.ndarray], Any], share: Callable[[np.ndarray, np.ndarray], Any],
    ) -> Any:  # fmt: skip
        """CSR float64[Q, V]: what the ``k`` most similar neighbours of each query (among equals the more recent) give
        their items: similarity (the sum of ``weight`` over the shared items' last clicks, where it is above 0, times
        ``age``) times ``vote`` (of the clicks after the last one on an item of the neighbour) times ``share`` (of the
        neighbour's items, and of how many clicks they stand from that one)."""
        clicks = last_clicks(prefixes.query, prefixes.items, len(self.frequency))
        clicks = clicks[weight[clicks] > 0]
        places = prefixes.query[clicks], prefixes.items[clicks]
        weights = sparse.csr_array((weight[clicks], places), shape=(len(prefixes), len(self.frequency)))
        shared = (weights @ self._holders).tocoo()
        query, session = shared.coords
        recent = first(self._sample, query, -session)
        query, session = query[recent], session[recent]
        similarity = shared.data[recent] * age(query, session)
        # Sums of the same weights in another order differ in their last bits; in float32 they are equal.
        best = first(k, query, -similarity.astype(np.float32), -session)
        query, session = query[best], session[best]
        distance = np.full(weights.shape, 2**31 - 1, np.int32)  # clicks after each item of the query
        distance[places] = prefixes.distance[clicks]
        held = self._positions[session]
        pair = np.repeat(np.arange(len(query)), np.diff(held.indptr))
        own = distance[query[pair], held.indices]
        nearest = np.minimum.reduceat(own, held.indptr[:-1])
        position = held.data[own == nearest[pair]]  # one each: no two items of a query have the same distance
        shares = share(held.indices, np.abs(held.data - position[pair])), held.indices, held.indptr
        strengths = similarity[best] * vote(nearest), (query, np.arange(len(query)))
        voters = sparse.csr_array(strengths, shape=(len(prefixes), len(query)))
        return voters @ sparse.csr_array(shares, shape=held.shape)
