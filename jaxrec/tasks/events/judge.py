"""Ranks of the next items of event sequences, among all items or those that are live at the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import EvaluationConfig
from jaxrec.data.dataset import Sessions
from jaxrec.data.items import Spans
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import target_positions
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.merrec import MERRec
from jaxrec.ops.topk import BlockSize, Live, block_size, ranks
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions.judge import QUERIES_PER_BLOCK

SAMPLE_SEED = 0  # of the sessions that are evaluated


def sample(sessions: Sessions, most: int | None) -> Sessions:
    """At most so many sessions, drawn at random but always the same."""
    if most is None or len(sessions) <= most:
        return sessions
    drawn = np.random.default_rng(SAMPLE_SEED).choice(len(sessions), most, replace=False)
    return sessions.pick(np.sort(drawn))


class EventEvaluator:
    """Evaluates parameters of one model on one split; what is compiled and laid out is kept from call to call.

    Args:
        model: the model.
        sessions: the split.
        config: tie rule, block memory, targets a step.
        trained: bool[V], whether training holds each item.

    Candidates are the items that are live at the time of a sequence's last event; all where the data do not say.

    Attributes:
        positions: int64[n], where in ``sessions`` each target stands, in the order of the ranks.
    """

    def __init__(self, model: MERRec, sessions: Sessions, config: EvaluationConfig, trained: np.ndarray) -> None:
        self._model, self._trained, self._ties = model, trained, Evaluation.of(config).ties
        batch = max(model.window, min(config.batch_size, QUERIES_PER_BLOCK))
        steps = max(1, QUERIES_PER_BLOCK // batch)
        self._feed = model.feed(sessions, Plan(batch, steps, order="time", seed=0, device_bytes=2**30))
        where = target_positions(self._feed)
        self._valid = where >= 0
        self.positions = where[self._valid].astype(np.int64)
        self._size = block_size(len(trained), config.memory)
        self._known = model.known
        self._encode = jax.jit(model.encode)

    @property
    def blocks(self) -> int:
        """Blocks of a pass."""
        return self._feed.shape.blocks

    def metrics(self, params: Any, tables: dict[str, Array], ks: Sequence[int]) -> dict[str, float]:
        """Recall, MRR, NDCG and hit rate at ``ks`` over all targets."""
        return ranking_metrics(self.ranks({"params": params, "tables": tables}), ks)

    def ranks(self, weights: dict[str, Any], update: Callable[..., None] | None = None) -> np.ndarray:
        """float32[n]: the rank of each target.

        Args:
            update: called after each block, for a progress bar.
        """
        items = self._model.catalogue_vectors(weights, self._trained)
        found, steps = [], self._feed.shape.steps
        for number, block in enumerate(self._feed.epoch(0)):
            queries = self._encode(weights, self._known, block)
            valid = self._valid[number * steps : (number + 1) * steps].reshape(-1)
            flat = queries.reshape(len(valid), -1)
            targets, known = block.target.reshape(-1), self._known
            live = None if known.live is None else Live(*known.live, block.asked.reshape(-1))
            found.append(np.asarray(ranks(flat, targets, items, self._size, self._ties, live))[valid])
            if update is not None:
                update()
        return np.concatenate([np.zeros(0, np.float32), *found])


def rank_by(
    queries: np.ndarray,
    targets: np.ndarray,
    times: np.ndarray,
    items: np.ndarray,
    config: EvaluationConfig,
    spans: Spans | None,
) -> np.ndarray:
    """float32[n]: ranks by the products of given vectors, as baselines have them.

    Args:
        queries: float32[n, D].
        targets: int32[n].
        times: int64[n], ms since 1970, when each is asked.
        items: float32[V, D].
    """
    size: BlockSize = block_size(len(items), config.memory)
    vectors, found = jnp.asarray(items), []
    live = None if spans is None else (jnp.asarray(spans.listed), jnp.asarray(spans.sold))
    for start in range(0, len(targets), QUERIES_PER_BLOCK):
        part = slice(start, start + QUERIES_PER_BLOCK)
        at = None
        if spans is not None and live is not None:
            at = Live(*live, jnp.asarray(spans.seconds(times[part])))
        query, target = jnp.asarray(queries[part]), jnp.asarray(targets[part])
        found.append(np.asarray(ranks(query, target, vectors, size, Evaluation.of(config).ties, at)))
    return np.concatenate([np.zeros(0, np.float32), *found])
