"""Training sessions that share items with a query: the neighbours of V-SKNN and STAN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse

from jaxrec.baselines.prefixes import Prefixes, expand, last_clicks
from jaxrec.data.dataset import Sessions


@dataclass(frozen=True)
class Pairs:
    """Queries and their neighbours, by query, then from the oldest neighbour to the most recent.

    Attributes:
        query: int64[P].
        session: int64[P], the neighbour.
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
        sessions: to search for neighbours.
        n_items: V.
        sample: how many sessions are considered for a query, the most recent that share an item with it.

    Attributes:
        items: int32[n], the distinct items of each session, in the order of their last clicks.
        positions: int64[n], where in the session that last click is, from 0.
        offsets: int64[S + 1], where the items of each session begin.
        lengths: int64[S], clicks of each session.
        ends: int64[S], ms since 1970, the last click of each session.
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

    def __len__(self) -> int:
        return len(self.ends)

    def pairs(self, prefixes: Prefixes, weight: np.ndarray) -> Pairs:
        """The sampled sessions of each query; their similarity is the sum of the weights of the items they share.

        Args:
            weight: float64[n], of each click of ``prefixes``. An item counts with its last click; clicks of weight 0
                find no sessions.
        """
        query, distance = prefixes.query, prefixes.distance
        clicks = last_clicks(query, prefixes.items, self._n_items)
        clicks = clicks[weight[clicks] > 0]
        items = prefixes.items[clicks]
        found = expand(self._starts[items], self.work[items])
        clicks = np.repeat(clicks, self.work[items])
        key = query[clicks] * len(self) + self._sessions[found]
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
        counts = np.bincount(pairs.query)
        many = np.flatnonzero(counts[pairs.query] > k)
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
        """Every neighbour gives each of its items a share of its strength.

        Args:
            strength: float64[P], of each pair.
            queries: Q.
            share: from int64[m] offsets, the position of an item in a neighbour less that of the item which it shares
                with the query (``Pairs.position``), to float64[m].

        Returns:
            CSR float64[Q, V], the sums.
        """
        counts = np.diff(self.offsets)[pairs.session]
        cells = expand(self.offsets[pairs.session], counts)
        away = self.positions[cells] - np.repeat(pairs.position, counts)
        ends = np.append(0, np.cumsum(counts))
        shares = sparse.csr_array((share(away), self.items[cells], ends), shape=(len(counts), self._n_items))
        places = np.searchsorted(pairs.query, np.arange(queries + 1))
        return sparse.csr_array((strength, np.arange(len(counts)), places), shape=(queries, len(counts))) @ shares
