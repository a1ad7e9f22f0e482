"""What every baseline of sessions is: parameters that fit on training sessions, and give scores of all items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrec.baselines.prefixes import Prefixes
from jaxrec.config.sections import Section
from jaxrec.data.dataset import Sessions


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        work: int64[V], how much a click on each item costs in a batch; see ``Queries.batches``.
        scores: float32[Q, V] of queries; those of a query do not depend on the others in the batch.
    """

    work: np.ndarray
    scores: Callable[[Prefixes], np.ndarray]


class SessionBaseline(Section):
    """Parameters of a baseline."""

    def fit(self, sessions: Sessions, n_items: int) -> Baseline:
        """Fit on training sessions over ``n_items``."""
        raise NotImplementedError


def popularity(sessions: Sessions, n_items: int) -> np.ndarray:
    """float32[V] in [0, 1), in the order of the training clicks, equal where they are.

    The rank among the distinct counts and not the count itself: counts over 2^24 would run together in float32.
    """
    _, rank = np.unique(np.bincount(sessions.items, minlength=n_items), return_inverse=True)
    return (rank / (rank.max() + 1)).astype(np.float32)


def over_popularity(named: Any, order: np.ndarray) -> np.ndarray:
    """float32[Q, V] from CSR float64[Q, V], above 0 where a method names an item: the others stand below 0, by
    ``popularity``, so that a query without any neighbour still has a ranking.
    """
    scores = np.tile(order - np.float32(1.0), (named.shape[0], 1))
    rows = np.repeat(np.arange(named.shape[0]), np.diff(named.indptr))
    values = named.data.astype(np.float32)
    some = values > 0  # a decay may end below the smallest float32
    scores[rows[some], named.indices[some]] = values[some]
    return scores
