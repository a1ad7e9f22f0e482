"""V-SKNN and STAN: items of the training sessions that share items with the current one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sparse
from pydantic import Field

from jaxrec.baselines.base import Baseline, SessionBaseline, over_popularity, popularity
from jaxrec.baselines.prefixes import Prefixes, expand, last_clicks
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Sessions

DAY = 86_400_000  # ms
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


class Vsknn(SessionBaseline):
    """``vsknn``: with the session s, its last click on item i at distance d_i from its end, and a past session n,

        similarity(s, n) = sum over the items i that they share of decay(d_i)
        score(j) = (1 + idf log(S / n_j)) sum over neighbours n that hold j of similarity(s, n) vote_decay(d*)

    where d* is the distance of the last click of s on an item of n, S the number of past sessions and n_j of those that
    hold j. The neighbours are the k most similar (equal ones: the most recent) of the ``sample`` most recent sessions
    that share an item of positive decay with s. Items of no neighbour follow by popularity. Ludewig and Jannach 2018,
    "Evaluation of session-based recommendation algorithms"; the decay of votes and the idf from Ludewig et al. 2021,
    "Empirical analysis of session-based recommendation algorithms". Defaults tuned on the last 5 % of Diginetica's
    training targets.
    """

    k: Count = 100
    """Neighbours of a session."""
    sample: Count = 1000
    """Sessions that neighbours are chosen from: the most recent that share an item with the session."""
    decay: Decay = "linear"
    """Weight of a click in the similarity, by its distance d to the session's end."""
    vote_decay: Decay = "harmonic"
    """Weight of a neighbour's vote, by the distance to the end of the last click that they share."""
    idf: Scale = 2.0
    """Strength of the inverse document frequency in an item's score (0: off)."""

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order, past = popularity(sessions, n_items), Neighbourhood(sessions, n_items, self.sample)
        boost = 1.0 + self.idf * np.log(len(sessions) / np.maximum(1, past.frequency))

        def scores(prefixes: Prefixes) -> np.ndarray:
            lengths = prefixes.lengths
            weight = DECAYS[self.decay](prefixes.distance, lengths[prefixes.query])
            near = past.nearest(past.pairs(prefixes, weight), self.k)
            strength = near.similarity * DECAYS[self.vote_decay](near.distance, lengths[near.query])
            votes = past.vote(near, strength, len(prefixes), lambda away: np.ones(len(away)))
            votes.data *= boost[votes.indices]
            return over_popularity(votes, order)

        return Baseline(past.work, scores)


class Stan(SessionBaseline):
    """``stan``: with the session s of l(s) clicks, its last click on item i at distance d_i from its end,

        similarity(s, n) = sum over the items i that they share of exp(-d_i / lambda1) / sqrt(l(s) l(n))
                           * exp(-(t(s) - t(n)) / lambda2)
        score(j) = sum over neighbours n that hold j of similarity(s, n) exp(-|p(j, n) - p(i*, n)| / lambda3)

    where t is the time of a session's last click (no age is below 0), p(j, n) the position of the last click on j in n,
    and i* the shared item that was clicked last in s. Neighbours as of ``Vsknn``. Garg et al. 2019, "Sequence and time
    aware neighborhood for session-based recommendations". Defaults tuned on the last 5 % of Diginetica's training
    targets.
    """

    k: Count = 500
    """Neighbours of a session."""
    sample: Count = 1000
    """Sessions that neighbours are chosen from: the most recent that share an item with the session."""
    lambda1: Scale = 1.2
    """Clicks over which the weight of a click of the session falls to 1/e, counted from its end (0: no decay)."""
    lambda2: Scale = 80.0
    """Days over which the weight of a neighbour falls to 1/e (0: no decay)."""
    lambda3: Scale = 3.0
    """Clicks over which an item's weight falls to 1/e, from the shared item that was clicked last (0: no decay)."""

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order, past = popularity(sessions, n_items), Neighbourhood(sessions, n_items, self.sample)

        def scores(prefixes: Prefixes) -> np.ndarray:
            pairs = past.pairs(prefixes, _fall(prefixes.distance, self.lambda1))
            norm = np.sqrt(prefixes.lengths[pairs.query] * past.lengths[pairs.session])
            age = np.maximum(0, prefixes.now[pairs.query] - past.ends[pairs.session]) / DAY
            similarity = pairs.similarity / norm * _fall(age, self.lambda2)
            near = past.nearest(replace(pairs, similarity=similarity), self.k)
            votes = past.vote(near, near.similarity, len(prefixes), lambda away: _fall(np.abs(away), self.lambda3))
            return over_popularity(votes, order)

        return Baseline(past.work, scores)


def _fall(distance: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(-distance / scale) if scale else np.ones(len(distance))


@dataclass(frozen=True)
class Pairs:
    """Queries and their neighbours, by query, then from the oldest neighbour to the most recent.

    Attributes:
        query, session: int64[P].
        similarity: float64[P].
        distance: int64[P], clicks after the most recent click of the query that is on an item of the neighbour.
        position: int64[P], where that item stands in the neighbour: its last click, from 0.
    """

    query: np.ndarray
    session: np.ndarray
    similarity: np.ndarray
    distance: np.ndarray
    position: np.ndarray

    def take(self, index: np.ndarray) -> Pairs:
        return Pairs(*(column[index] for column in vars(self).values()))


class Neighbourhood:
    """Training sessions, numbered from the one that ended first to the one that ended last, and looked up by item.

    Args:
        sample: how many sessions are considered for a query, the most recent that share an item with it.

    Attributes:
        items, positions: int32[n] and int64[n], the distinct items of each session in the order of their last clicks,
            and where in the session those are, from 0.
        offsets: int64[S + 1], where the items of each session begin.
        lengths, ends: int64[S], clicks of each session, and the time of its last one, ms since 1970.
        frequency: int64[V], sessions that hold each item.
        work: int64[V], sessions that a click on each item brings.
    """

    def __init__(self, sessions: Sessions, n_items: int, sample: int) -> None:
        ends = sessions.times[sessions.offsets[1:] - 1]
        order = np.argsort(ends, kind="stable")  # the data set's order may be by day only
        self.ends = ends[order]
        self.lengths = np.diff(sessions.offsets)[order]
        items = sessions.items[expand(sessions.offsets[:-1][order], self.lengths)]
        session = np.repeat(np.arange(len(order)), self.lengths)
        once = last_clicks(session, items, n_items)
        self.items, session = items[once], session[once]
        self.positions = once - (np.cumsum(self.lengths) - self.lengths)[session]
        self.offsets = np.searchsorted(session, np.arange(len(order) + 1))
        self.frequency = np.bincount(self.items, minlength=n_items)
        # A session among the most recent `sample` of a query is among those of each item that they share, so that no
        # more need to be kept of an item, however popular.
        by_item = np.argsort(self.items, kind="stable")
        from_end = np.cumsum(self.frequency)[self.items[by_item]] - np.arange(len(by_item))
        by_item = by_item[from_end <= sample]
        self.work = np.minimum(self.frequency, sample)
        self._starts = np.cumsum(self.work) - self.work
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
        found = expand(self._starts[items], self.work[items])
        clicks = np.repeat(clicks, self.work[items])
        key = query[clicks] * len(self.ends) + self._sessions[found]
        order = np.argsort(key, kind="stable")  # within a pair the most recent click stays last
        key = key[order]
        last = np.flatnonzero(np.append(key[1:] != key[:-1], True)[: len(key)])
        first = np.append(0, last + 1)[: len(last)]
        total = np.add.reduceat(weight[clicks[order]], first) if len(first) else np.zeros(0)
        last = order[last]
        recent = query[clicks[last]], self._sessions[found[last]], total, distance[clicks[last]]
        result = Pairs(*recent, self._positions[found[last]])
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

    def vote(
        self, pairs: Pairs, strength: np.ndarray, queries: int, share: Callable[[np.ndarray], np.ndarray]
    ) -> sparse.csr_array:
        """CSR float64[Q, V]: every neighbour gives each of its items a share of its strength, float64[P]. ``share`` is
        of the item's position in the neighbour less ``Pairs.position``.
        """
        counts = np.diff(self.offsets)[pairs.session]
        cells = expand(self.offsets[pairs.session], counts)
        away = self.positions[cells] - np.repeat(pairs.position, counts)
        ends = np.append(0, np.cumsum(counts))
        shares = sparse.csr_array((share(away), self.items[cells], ends), shape=(len(counts), self._n_items))
        places = np.searchsorted(pairs.query, np.arange(queries + 1))
        return sparse.csr_array((strength, np.arange(len(counts)), places), shape=(queries, len(counts))) @ shares
