"""Metrics of a click model on rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxrec.config import EvaluationConfig
from jaxrec.data.rows import Rows
from jaxrec.feeds.base import Plan
from jaxrec.feeds.rows import row_feed
from jaxrec.metrics.clicks import click_metrics
from jaxrec.models.base import ClickModel

ROWS_PER_STEP = 4096
STEPS_PER_BLOCK = 32


class RowEvaluator:
    """Evaluates parameters of one click model on one split; what is compiled and laid out is kept from call to call."""

    def __init__(self, model: ClickModel, rows: Rows, config: EvaluationConfig) -> None:
        self.rows = rows
        batch = min(ROWS_PER_STEP, max(1, len(rows)))
        plan = Plan(batch, STEPS_PER_BLOCK, order="time", seed=0, device_bytes=2**30)
        self._feed = row_feed(rows, plan)

        def block_logits(params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> Array:
            return jax.lax.map(lambda step: model.logits(params, tables, *step), (columns, numbers))

        self._logits = jax.jit(block_logits)

    @property
    def blocks(self) -> int:
        """Blocks of a pass."""
        return self._feed.shape.blocks

    def logits(self, params: Any, tables: dict[str, Array], update: Callable[..., None] | None = None) -> np.ndarray:
        """float32[n] of all rows, in their order.

        Args:
            update: called after each block, for a progress bar.
        """
        found = []
        for block in self._feed.epoch(0):
            found.append(self._logits(params, tables, block.columns, block.numbers).reshape(-1))
            if update is not None:
                update()
        return np.concatenate([np.asarray(part) for part in found])[: len(self.rows)]

    def metrics(self, params: Any, tables: dict[str, Array], ks: Sequence[int]) -> dict[str, float]:
        """AUC, log loss, calibration error, and the rankings of each user's rows at ``ks``."""
        users = known_users(self.rows.users)
        return click_metrics(self.logits(params, tables), self.rows.labels, users, ks)


def known_users(users: np.ndarray) -> np.ndarray | None:
    """int32[n] to rank by: unknown users, who are not one, as -1, in no ranking; None where all are unknown."""
    return np.where(users > 0, users, -1) if np.any(users) else None
