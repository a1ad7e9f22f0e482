"""Ranks of the items that users like among all items, and the best ones, from a model of two towers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import EvaluationConfig
from jaxrec.data.retrieval import Queries, Retrieval, unpack
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.base import TowerModel

MOST_QUERIES = 4096  # of a call


class RetrievalEvaluator:
    """Ranks each positive of a split among the items that its user does not have yet.

    What does not count as a candidate: the user's other positives, of training and of the split; the unknown item.

    Args:
        part: row numbers of the split.

    Attributes:
        queries: the split's positives.
        had: uint32[users, words], ``positive_bits`` of what does not count.
    """

    def __init__(self, model: TowerModel, data: Retrieval, part: np.ndarray, config: EvaluationConfig) -> None:
        self.queries, self._catalogue = data.queries(part), data.catalogue
        self.had = data.positives(data.splits.train, part)
        cells = config.memory * 2**20 // 4
        self._rows = int(max(1, min(MOST_QUERIES, len(self.queries.users), cells // data.n_items)))
        self._encode = jax.jit(model.encode, static_argnums=0)

    @property
    def blocks(self) -> int:
        """Calls of a pass."""
        return -(-len(self.queries.users) // self._rows)

    @property
    def targets(self) -> int:
        """Positives to rank."""
        return len(self.queries.users)

    def vectors(self, weights: dict[str, Any]) -> tuple[Array, Array]:
        """float32[n, D] of the queries, and float32[V, D] of the items."""
        return (
            self._encode("user", weights, jnp.asarray(self.queries.columns), jnp.asarray(self.queries.numbers)),
            self._encode("item", weights, jnp.asarray(self._catalogue.columns), jnp.asarray(self._catalogue.numbers)),
        )

    def ranks(
        self, weights: dict[str, Any], k: int = 0, wider: tuple[np.ndarray, np.ndarray] | None = None,
        update: Callable[..., None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """float32[n] conservative ranks, and int32[n, k] items with the highest scores, best first.

        Args:
            k: at most the number of items; where a user has nearly all, the last places may hold what does not count.
            wider: further columns of the vectors, float32[n, R] and float32[V, R], as those of ``RuleBook``.
        """
        queries, items = self.vectors(weights)
        if wider is not None:
            queries, items = (jnp.concatenate([one, jnp.asarray(more)], axis=1)
                              for one, more in zip((queries, items), wider, strict=True))  # fmt: skip
        return rank_queries(self.queries, queries, items, self.had, self._rows, k, update)

    def metrics(
        self, params: Any, tables: Any, ks: Sequence[int], statistics: Any = None
    ) -> dict[str, float]:  # fmt: skip
        """Recall, MRR, NDCG and hit rate at ``ks``."""
        ranks, _ = self.ranks({"params": params, "tables": tables, "statistics": statistics})
        return ranking_metrics(ranks, ks)


def rank_queries(
    asked: Queries, queries: Array, items: Array, had: np.ndarray, rows: int, k: int = 0,
    update: Callable[..., None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """See ``RetrievalEvaluator.ranks``; ``had`` is ``positive_bits``, ``rows`` how many queries are ranked at once."""
    n, found = len(asked.users), []
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        missing = rows - len(asked.users[part])
        users, targets = (np.pad(one[part], (0, missing)) for one in (asked.users, asked.items))
        own = jnp.pad(queries[part], ((0, missing), (0, 0)))
        found.append(_rank(own, jnp.asarray(targets), items, jnp.asarray(had[users]), k))
        if update is not None:
            update()
    if not found:
        return np.zeros(0, np.float32), np.zeros((0, k), np.int32)
    ranks, best = (np.concatenate([np.asarray(one) for one in parts])[:n] for parts in zip(*found, strict=True))
    return ranks, best


@partial(jax.jit, static_argnames="k")
def _rank(queries: Array, targets: Array, items: Array, had: Array, k: int) -> tuple[Array, Array]:
    scores = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    own = jnp.take_along_axis(scores, targets[:, None], axis=1)
    index = jnp.arange(len(items))
    is_target = index == targets[:, None]
    allowed = (index > 0) & (is_target | ~unpack(had, len(items)))
    better = allowed & ~is_target & ~(scores < own)
    ranks = 1.0 + jnp.sum(better, axis=1)
    if not k:
        return ranks, jnp.zeros((len(ranks), 0), jnp.int32)
    return ranks, jax.lax.top_k(jnp.where(allowed & ~jnp.isnan(scores), scores, -jnp.inf), k)[1].astype(jnp.int32)
