"""Ranks of targets, a part at a time, and the metrics of them: of the blocks of a feed, of vectors, and of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import EvaluationConfig
from jaxrec.feeds.base import Feed, Plan
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.ops.topk import Candidates, block_size, rank
from jaxrec.tasks.base import Judged

QUERIES = 8192  # that are encoded and ranked in one call
Part = tuple[Any, Any]
"""float32[m] ranks, and int32[m, top] best items."""
Among = Callable[[np.ndarray], Candidates]
"""What queries of these numbers, int64[m], are ranked among."""
Encode = Callable[[dict[str, Any], Any, Any], tuple[Any, Array, Candidates]]
"""Of weights, what is carried, and a block: what is carried on, float32[..., Q] queries, and what they rank among."""


def in_parts(n: int, size: int, ranked: Callable[[np.ndarray], Part]) -> Iterator[Part]:
    """``ranked`` of the numbers 0 to n - 1, so many at a time; what fills the last part up is cut."""
    for start in range(0, n, size):
        ranks, best = ranked(np.minimum(np.arange(start, start + size), n - 1))
        yield np.asarray(ranks)[: n - start], np.asarray(best)[: n - start]


def collect(
    parts: Iterable[Part], ks: Sequence[int], n_items: int = 0, update: Callable[..., None] | None = None
) -> Judged:
    """Recall, MRR, NDCG and hit rate; ``rank`` float32[n] and ``top`` int32[n, top] items. With ``n_items`` also
    ``coverage@k``, the share of them in the top k of some query. ``update`` is called after each part."""
    found: list[Part] = []
    for part in parts:
        found.append(part)
        if update is not None:
            update()
    ranks, top = (np.concatenate(one) for one in zip(*found or [(np.zeros(0), np.zeros((0, 0), int))], strict=True))
    metrics = ranking_metrics(ranks, ks)
    if n_items:
        metrics |= {f"coverage@{k}": len(np.unique(top[:, :k])) / n_items for k in ks}
    return Judged(metrics, {"rank": ranks, "top": top})


def rank_vectors(
    queries: Any, targets: np.ndarray, items: Any, memory: int, among: Among, k: int = 0
) -> Iterator[Part]:
    """Ranks by the products of float32[n, D] and float32[V, D] of int32[n] targets; ``memory`` MiB at once."""
    queries, table, size = jnp.asarray(queries), jnp.asarray(items), block_size(len(items), memory)

    def ranked(rows: np.ndarray) -> Part:
        return rank(queries[rows], jnp.asarray(targets[rows]), table, size, k, among(rows))

    return in_parts(len(targets), max(1, min(QUERIES, len(targets))), ranked)


def evaluation_plan(batch: int) -> Plan:
    """How a split is fed to be evaluated: in its order, so many lanes or targets a step."""
    return Plan(batch, max(1, QUERIES // batch), order="time", seed=0, device_bytes=2**30)


class Judge:
    """Ranks the targets of a split by their products with ``items``, of weights float32[V, Q]; what is compiled is
    kept from call to call. ``sparse``: most of a block is not scored."""

    def __init__(
        self, feed: Feed, n_items: int, config: EvaluationConfig, items: Callable[[dict[str, Any]], Array],
        encode: Encode, carry: Any = None, sparse: bool = False,
    ) -> None:  # fmt: skip
        self.feed, self.targets, self.blocks = feed, feed.pairs, feed.shape.blocks
        self._items, self._encode, self._carry, self._sparse = items, encode, carry, sparse
        self._n_items, self._size = n_items, block_size(n_items, config.memory)

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None
    ) -> Judged:
        """See ``collect``; with ``top``, at least max(ks), also the coverage."""
        parts = self._parts(weights, min(top, self._n_items))
        return collect(parts, ks, self._n_items if top else 0, update)

    def _parts(self, weights: dict[str, Any], top: int) -> Iterator[Part]:
        carry, items = self._carry, self._items(weights)
        for block in self.feed.epoch(0):
            carry, queries, among = self._encode(weights, carry, block)
            flat, targets = queries.reshape(-1, queries.shape[-1]), block.target.reshape(-1)
            valid = np.flatnonzero(np.asarray(block.weight).reshape(-1) > 0)
            if self._sparse:  # filled up with row 0 to a power of two: few programs are compiled
                rows = np.pad(valid, (0, (1 << max(0, len(valid) - 1).bit_length()) - len(valid)))
                flat, targets, valid = flat[rows], targets[rows], np.arange(len(valid))
            ranks, best = rank(flat, targets, items, self._size, top, among)
            yield np.asarray(ranks)[valid], np.asarray(best)[valid]
