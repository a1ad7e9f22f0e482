"""Popularity over the training sessions, and within the session; the order that ends the ranking of the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.baselines.base import Baseline, SessionBaseline
from jaxrec.baselines.prefixes import Prefixes
from jaxrec.data.dataset import Sessions


class Popularity(SessionBaseline):
    """``pop``: items in the order of their training clicks, for every session alike."""

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order = popularity(sessions, n_items)
        return Baseline(np.zeros(n_items, np.int64), lambda prefixes: np.tile(order, (len(prefixes), 1)))


class SessionPopularity(SessionBaseline):
    """``spop``: items by their clicks in the session so far; equal ones, and all others, by training clicks.

    Hidasi et al. 2016, "Session-based recommendations with recurrent neural networks", section 4 (S-POP).
    """

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        order = popularity(sessions, n_items)

        def scores(prefixes: Prefixes) -> np.ndarray:  # whose whole part is the count
            found = np.tile(order, (len(prefixes), 1))
            np.add.at(found, (prefixes.query, prefixes.items), np.float32(1.0))
            return found

        return Baseline(np.zeros(n_items, np.int64), scores)


def popularity(sessions: Sessions, n_items: int) -> np.ndarray:
    """float32[V] in [0, 1), in the order of the training clicks, equal where they are.

    The rank among the distinct counts and not the count itself: counts over 2^24 would run together in float32.
    """
    _, rank = np.unique(np.bincount(sessions.items, minlength=n_items), return_inverse=True)
    return (rank / (rank.max() + 1)).astype(np.float32)


def over_popularity(named: Any, order: np.ndarray) -> np.ndarray:
    """Dense scores from a method's sparse ones; items that it does not name stand below all others, by popularity.

    So a query without any neighbour still has a ranking, and only its items with equal training counts tie.

    Args:
        named: CSR float64[Q, V], above 0 where the method names an item.
        order: float32[V], from ``popularity``.

    Returns:
        float32[Q, V], below 0 where an item is not named.
    """
    scores = np.tile(order - np.float32(1.0), (named.shape[0], 1))
    rows = np.repeat(np.arange(named.shape[0]), np.diff(named.indptr))
    values = named.data.astype(np.float32)
    some = values > 0  # a decay may end below the smallest float32
    scores[rows[some], named.indices[some]] = values[some]
    return scores
