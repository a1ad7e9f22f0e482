"""STAN: V-SKNN's neighbours with decays by position, by age, and by distance within the neighbour."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from jaxrec.baselines.base import Baseline, SessionBaseline
from jaxrec.baselines.neighbours import Neighbourhood
from jaxrec.baselines.popularity import over_popularity, popularity
from jaxrec.baselines.prefixes import Prefixes
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Sessions

DAY = 86_400_000  # ms
Scale = Annotated[float, Field(ge=0.0)]


class Stan(SessionBaseline):
    """``stan``: with the session s of l(s) clicks, its last click on item i at distance d_i from its end,

        similarity(s, n) = sum over the items i that they share of exp(-d_i / lambda1) / sqrt(l(s) l(n))
                           * exp(-(t(s) - t(n)) / lambda2)
        score(j) = sum over neighbours n that hold j of similarity(s, n) exp(-|p(j, n) - p(i*, n)| / lambda3)

    where t is the time of a session's last click (of s: of the query's last click, and no age is below 0), p(j, n) the
    position of the last click on j in n, and i* the shared item that was clicked last in s. The neighbours are the k
    most similar (equal ones: the most recent) of the ``sample`` most recent sessions that share an item with s. Items
    of no neighbour follow by popularity.

    Garg et al. 2019, "Sequence and time aware neighborhood for session-based recommendations". Defaults
    tuned on the last 5 % of Diginetica's training targets.
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
            pairs = past.pairs(prefixes, _decay(prefixes.distance, self.lambda1))
            norm = np.sqrt(prefixes.lengths[pairs.query] * past.lengths[pairs.session])
            age = np.maximum(0, prefixes.now[pairs.query] - past.ends[pairs.session]) / DAY
            similarity = pairs.similarity / norm * _decay(age, self.lambda2)
            near = past.nearest(replace(pairs, similarity=similarity), self.k)
            votes = past.vote(near, near.similarity, len(prefixes), lambda away: _decay(np.abs(away), self.lambda3))
            return over_popularity(votes, order)

        return Baseline(past.work, scores)


def _decay(distance: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(-distance / scale) if scale else np.ones(len(distance))
