"""V-SKNN: items of past sessions that resemble the current one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from jaxrec.baselines.base import Baseline, SessionBaseline
from jaxrec.baselines.neighbours import Neighbourhood
from jaxrec.baselines.popularity import over_popularity, popularity
from jaxrec.baselines.prefixes import Prefixes
from jaxrec.config.sections import Count
from jaxrec.data.dataset import Sessions

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
    that share an item of positive decay with s. Items of no neighbour follow by popularity.

    With d = 0 for the last click and l clicks the decays are: none 1, linear max(0, 1 - d / 10), ratio (l - d) / l,
    harmonic 1 / (1 + d), quadratic 1 / (1 + d)^2, log 1 / log10(d + 1.7).

    Ludewig and Jannach 2018, "Evaluation of session-based recommendation algorithms" (V-SKNN); the decay
    of votes and the idf from Ludewig et al. 2021, "Empirical analysis of session-based recommendation algorithms".
    Defaults tuned on the last 5 % of Diginetica's training targets.
    """

    k: Count = 100
    """Neighbours of a session."""
    sample: Count = 1000
    """Sessions that neighbours are chosen from: the most recent that share an item with the session."""
    decay: Decay = "linear"
    """Weight of a click in the similarity, by its distance d to the session's end."""
    vote_decay: Decay = "harmonic"
    """Weight of a neighbour's vote, by the distance to the end of the last click that they share."""
    idf: Annotated[float, Field(ge=0.0)] = 2.0
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
