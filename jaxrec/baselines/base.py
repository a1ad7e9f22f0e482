"""What every baseline of sessions is: parameters that fit on training sessions, and give scores of all items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
