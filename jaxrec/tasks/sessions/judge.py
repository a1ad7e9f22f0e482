"""Metrics of a model on sessions: each is read once, and every click but its first is a query's target.

Where the data set says so, only the last click of each session is (``Sessions.last_only``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxrec.config import EvaluationConfig
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Plan
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.base import SessionModel
from jaxrec.ops.topk import block_size, ranks, ranks_and_top
from jaxrec.tasks.sessions import Evaluation

QUERIES_PER_BLOCK = 8192  # queries encoded in one call


class Evaluator:
    """Evaluates parameters of one model on one split; what is compiled and laid out is kept from call to call.

    Args:
        model: the model.
        sessions: the split.
        n_items: V.
        config: tie rule, block memory, lanes or targets a step.
    """

    def __init__(self, model: SessionModel, sessions: Sessions, n_items: int, config: EvaluationConfig) -> None:
        self._model, self._n_items, self._ties = model, n_items, Evaluation.of(config).ties
        batch = min(config.batch_size, len(sessions) if model.window is None else QUERIES_PER_BLOCK)
        self._batch = max(1, batch, model.window or 1)
        steps = max(1, QUERIES_PER_BLOCK // self._batch)
        self._feed = model.feed(sessions, Plan(self._batch, steps, order="time", seed=0, device_bytes=2**30))
        self._size = block_size(n_items, config.memory)
        self._sparse = sessions.last_only and model.window is None  # lanes walk over much that is not scored
        self.targets = self._feed.pairs
        self._encode = jax.jit(model.encode)

    @property
    def blocks(self) -> int:
        """Blocks of a pass."""
        return self._feed.shape.blocks

    def metrics(
        self,
        params: Any,
        tables: dict[str, Array],
        ks: Sequence[int],
        coverage: bool = False,
        update: Callable[..., None] | None = None,
    ) -> dict[str, float]:
        """Recall, MRR, NDCG and hit rate at ``ks``.

        Args:
            coverage: whether to add ``coverage@k``, the share of the catalogue that stands in the top k of some query.
            update: called after each block, for a progress bar.
        """
        found = [np.zeros(0, np.float32)]
        seen = Seen(self._n_items, ks) if coverage else None
        carry, items = self._model.carry(self._batch), self._model.items(tables)
        for block in self._feed.epoch(0):
            carry, queries = self._encode(params, tables, carry, block)
            flat = queries.reshape(-1, queries.shape[-1])
            valid = np.asarray(block.weight).reshape(-1) > 0
            targets = block.target.reshape(-1)
            if self._sparse:
                rows, valid = scored_rows(valid)
                flat, targets = flat[rows], targets[rows]
            if seen is None:
                rank = ranks(flat, targets, items, self._size, self._ties)
            else:
                rank, top = ranks_and_top(flat, targets, items, seen.depth, self._size, self._ties)
                seen.add(np.asarray(top)[valid])
            found.append(np.asarray(rank)[valid])
            if update is not None:
                update()
        result = ranking_metrics(np.concatenate(found), ks)
        return result | (seen.shares() if seen is not None else {})


def scored_rows(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[m], the rows that are ranked, and bool[m], which of them count: the valid ones, filled up with row 0.

    m is a power of two, so that few programs are compiled whatever a block holds.
    """
    rows = np.flatnonzero(valid)
    room = 1 << max(0, len(rows) - 1).bit_length()
    return np.pad(rows, (0, room - len(rows))), np.arange(room) < len(rows)


class Seen:
    """Which items stood in the top k of some query, for each k."""

    def __init__(self, n_items: int, ks: Sequence[int]) -> None:
        self._n_items = n_items
        self._marks = {k: np.zeros(n_items, bool) for k in ks}

    @property
    def depth(self) -> int:
        return min(max(self._marks), self._n_items)

    def add(self, top: np.ndarray) -> None:
        for k, mark in self._marks.items():
            mark[top[:, :k].reshape(-1)] = True

    def shares(self) -> dict[str, float]:
        return {f"coverage@{k}": float(mark.mean()) for k, mark in self._marks.items()}
