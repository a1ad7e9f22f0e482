"""Popularity over the training sessions and within the session, and Item-KNN."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import scipy.sparse as sparse
from pydantic import Field

from jaxrec.baselines.base import Baseline, SessionBaseline, over_popularity, popularity
from jaxrec.baselines.prefixes import Prefixes, last_clicks
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Sessions

BLOCK = 2**21  # pairs of clicks whose products are held at once
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Popularity(SessionBaseline):
    """``pop``: items in the order of their training clicks, for every session alike."""

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order = popularity(sessions, n_items)
        return Baseline(np.zeros(n_items, np.int64), lambda prefixes: np.tile(order, (len(prefixes), 1)))


class SessionPopularity(SessionBaseline):
    """``spop``: items by their clicks in the session so far; equal ones, and all others, by training clicks (Hidasi et
    al. 2016, "Session-based recommendations with recurrent neural networks", section 4, S-POP).
    """

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order = popularity(sessions, n_items)

        def scores(prefixes: Prefixes) -> np.ndarray:  # whose whole part is the count
            found = np.tile(order, (len(prefixes), 1))
            np.add.at(found, (prefixes.query, prefixes.items), np.float32(1.0))
            return found

        return Baseline(np.zeros(n_items, np.int64), scores)


class ItemKnn(SessionBaseline):
    """``itemknn``: with ``n_i`` sessions that hold item i and ``n_ij`` that hold i and j,

        similarity(i, j) = n_ij / ((n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha)),    j not i
        score(j) = sum over the session's clicks on i of decay^(clicks after it) similarity(i, j)

    where j is among the k most similar of i (equal ones: the lower index first). Items that no click names follow by
    popularity. Linden et al. 2003; with a regularised cosine as in Hidasi et al. 2016, section 4 (Item-KNN), which is
    alpha 0.5 and decay 0. Defaults tuned on the last 5 % of Diginetica's training targets.
    """

    k: Count = 100
    """Neighbours kept of each item."""
    shrinkage: Annotated[float, Field(ge=0.0)] = 10.0
    """Added to the counts of both items, so that rare items do not stand first by chance."""
    alpha: Share = 0.75
    """Share of the clicked item's count in the norm: 0.5 is the cosine, more favours popular neighbours."""
    decay: Share = 0.4
    """Weight of a click relative to the one after it: 0 scores by the last click alone, 1 by all alike."""

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order, similar = popularity(sessions, n_items), similarities(self, sessions, n_items)

        def scores(prefixes: Prefixes) -> np.ndarray:
            weight = np.power(self.decay, prefixes.distance)
            some = weight > 0
            shape = (len(prefixes), n_items)
            clicks = sparse.csr_array((weight[some], (prefixes.query[some], prefixes.items[some])), shape=shape)
            return over_popularity(clicks @ similar, order)

        return Baseline(np.diff(similar.indptr).astype(np.int64), scores)


def similarities(parameters: ItemKnn, sessions: Sessions, n_items: int) -> Any:
    """CSR float64[V, V]: row i holds the k items most similar to i."""
    lengths = np.diff(sessions.offsets)
    session = np.repeat(np.arange(len(sessions)), lengths)
    once = last_clicks(session, sessions.items, n_items)
    ones = np.ones(len(once))
    incidence = sparse.csr_array((ones, (session[once], sessions.items[once])), shape=(len(sessions), n_items))
    by_item = incidence.T.tocsr()
    count = np.diff(by_item.indptr) + parameters.shrinkage
    count[count == 0] = 1.0  # an item without a training session has no neighbour either
    clicked, other = count**-parameters.alpha, count ** (parameters.alpha - 1.0)
    pairs = np.cumsum(np.bincount(sessions.items[once], lengths[session[once]], n_items))
    parts, low = [], 0
    while low < n_items:  # by blocks of rows: all pairs at once can be far more than the k that are kept
        bound = (pairs[low - 1] if low else 0) + BLOCK
        high = max(low + 1, int(np.searchsorted(pairs, bound, side="right")))
        rows = (by_item[low:high] @ incidence).tocoo()
        here, there = rows.coords
        value = rows.data * clicked[low + here] * other[there]
        keep = np.flatnonzero(there != low + here)
        keep = keep[np.lexsort((there[keep], -value[keep], here[keep]))]
        place = np.arange(len(keep)) - np.searchsorted(here[keep], here[keep])  # within the row
        keep = keep[place < parameters.k]
        parts.append((low + here[keep], there[keep], value[keep]))
        low = high
    row, column, data = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sparse.csr_array((data, (row, column)), shape=(n_items, n_items))
