"""Exact ranks and top-k over the full catalogue, in blocks whose memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

CHUNK = 128  # items per chunk of the two-stage top-k


class BlockSize(NamedTuple):
    """Queries and items whose scores are held at once."""

    queries: int
    items: int


class Live(NamedTuple):
    """When items can be recommended, in the units of the queries' times: ``listed <= at < sold``.

    Attributes:
        listed, sold: int32[V].
        at: int32[Q], when each query is asked.
    """

    listed: Array
    sold: Array
    at: Array


def block_size(n_items: int, memory: int) -> BlockSize:
    """The largest useful block of float32 scores within ``memory`` MiB: all items if at least 64 queries fit."""
    cells = memory * 2**20 // 4
    if cells >= 64 * n_items:
        return BlockSize(int(min(512, cells // n_items)), n_items)
    parts = -(-n_items // max(CHUNK, cells // 64))
    return BlockSize(64, -(-n_items // parts))


@partial(jax.jit, static_argnames=("size", "ties"))
def ranks(queries: Array, targets: Array, items: Array, size: BlockSize, ties: str, live: Live | None = None) -> Array:
    """The rank of each query's target among all items by inner product.

    Ties: ``conservative`` puts the target last among equals, 1 + #(others >= it), ``standard`` first, 1 + #(others >
    it), ``median`` in the middle. The target's score is read from the same product as the others': a separate dot
    product differs in the last bit. A score that is not a number counts as better than the target.

    Args:
        queries: float32[Q, D].
        targets: int32[Q], in [0, V).
        items: float32[V, D].
        size: from ``block_size``; the scores of ``queries x items`` are never held whole.
        live: among items that are live at the query's time; None: among all.

    Returns:
        float32[Q], from 1 to V.
    """
    n_items = items.shape[0]
    times = jnp.zeros(len(queries), jnp.int32) if live is None else live.at
    if size.items >= n_items:

        def one(query: Array, target: Array, at: Array) -> Array:
            scores = _scores(query, items)
            if live is not None:
                scores = _only_live(scores, live.listed, live.sold, at)
            return _count(scores, target, ties)

        return _by_blocks(one, size, queries, targets, times)
    spans = None if live is None else (_parts(live.listed[:, None], size.items), _parts(live.sold[:, None], size.items))
    parts = partial(_rank_parts, items=_parts(items, size.items), spans=spans, n_items=n_items, ties=ties)
    return _by_blocks(parts, size, queries, targets, times)


def _only_live(scores: Array, listed: Array, sold: Array, at: Array) -> Array:
    """The scores with those of items that are not live at int32[q] ``at`` below all others."""
    return jnp.where((listed <= at[:, None]) & (at[:, None] < sold), scores, -jnp.inf)


@partial(jax.jit, static_argnames=("k", "size", "ties"))
def ranks_and_top(
    queries: Array, targets: Array, items: Array, k: int, size: BlockSize, ties: str
) -> tuple[Array, Array]:
    """``ranks``, and the items of ``top_items`` as int32[Q, k], from one product where a block holds the catalogue."""
    if size.items < items.shape[0]:
        none = jnp.full((len(queries), 1), items.shape[0], jnp.int32)
        return ranks(queries, targets, items, size, ties), top_items(queries, items, none, k, size)[0]

    def one(query: Array, target: Array) -> tuple[Array, Array]:
        scores = _scores(query, items)
        return _count(scores, target, ties), _top_k(jnp.where(jnp.isnan(scores), -jnp.inf, scores), k)[1]

    return _by_blocks(one, size, queries, targets)


@partial(jax.jit, static_argnames=("k", "size"))
def top_items(
    queries: Array, items: Array, banned: Array, k: int, size: BlockSize, count: Array | int | None = None
) -> tuple[Array, Array]:
    """The k items with the highest inner products, best first; among equal scores the lower index first.

    Args:
        queries: float32[Q, D].
        items: float32[V, D].
        banned: int32[Q, N], items that must not be returned; V for none.
        k: at most V.
        count: the items from this one on are padding, which is never returned; None: there is none.

    Returns:
        int32[Q, k] items, and float32[Q, k] scores (-inf where fewer than k items are allowed; a score that is not a
        number counts as not allowed).
    """
    parts, width = _parts(items, size.items), min(size.items, items.shape[0])
    count = items.shape[0] if count is None else count

    def one(query: Array, ban: Array) -> tuple[Array, Array]:
        begin = (jnp.full((len(query), k), -jnp.inf), jnp.full((len(query), k), items.shape[0], jnp.int32))

        def merge(best: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            first, vectors = part
            scores = _scores(query, vectors)  # [q, width]
            index = first + jnp.arange(width)
            scores = jnp.where((index < count) & ~jnp.isnan(scores), scores, -jnp.inf)
            row = jnp.arange(len(query))[:, None]
            scores = scores.at[row, jnp.where(ban >= first, ban - first, width)].set(-jnp.inf, mode="drop")
            values, places = _top_k(scores, min(k, width))
            values, ids = jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], first + places], 1)
            values, order = jax.lax.top_k(values, k)
            return (values, jnp.take_along_axis(ids, order, 1)), None

        starts = jnp.arange(len(parts), dtype=jnp.int32) * width
        (scores, ids), _ = jax.lax.scan(merge, begin, (starts, parts))
        return ids, scores

    return _by_blocks(one, size, queries, banned)


@partial(jax.jit, static_argnames="k")
def best_items(queries: Array, items: Array, banned: Array, k: int, count: Array | int) -> tuple[Array, Array]:
    """``top_items`` where all scores are held at once, in hardly more than the time of the product on a CPU.

    No pass is spent on padding, which is in the last chunk alone, nor on scores that are no numbers, which show in the
    maxima of chunks.

    Args:
        items: float32[V, D]; V is a multiple of ``CHUNK`` of more than ``2 * k`` chunks.
        count: the items from this one on are padding, less than ``CHUNK`` of them.
    """
    last = items.shape[0] - CHUNK
    scores = _scores(queries, items)
    scores = scores.at[jnp.arange(len(queries))[:, None], banned].set(-jnp.inf, mode="drop")
    tail = jnp.where(last + jnp.arange(CHUNK) < count, scores[:, last:], -jnp.inf)
    scores = jax.lax.dynamic_update_slice_in_dim(scores, tail, last, axis=1)
    maxima = scores.reshape(len(queries), -1, CHUNK).max(axis=2)
    values, found = jax.lax.cond(
        jnp.isnan(maxima).any(),
        lambda scores: _top_k(jnp.where(jnp.isnan(scores), -jnp.inf, scores), k),
        lambda scores: _top_k(scores, k),
        scores,
    )
    return found, values


@partial(jax.jit, static_argnames=("k", "ties"))
def rank_scores(scores: Array, targets: Array, k: int, ties: str) -> tuple[Array, Array]:
    """``ranks`` and the best k items where the scores are there already, as those of baselines are.

    Args:
        scores: float32[Q, V].
        targets: int32[Q], in [0, V).
        k: at most V; 0 for the ranks alone.

    Returns:
        float32[Q] ranks, and int32[Q, k] items.
    """
    rank = _count(scores, targets, ties)
    if not k:
        return rank, jnp.zeros((len(scores), 0), jnp.int32)
    return rank, _top_k(jnp.where(jnp.isnan(scores), -jnp.inf, scores), k)[1]


def _by_blocks(one: Callable[..., Any], size: BlockSize, *arrays: Array) -> Any:
    """``one`` on blocks of rows, one after the other; the last block is padded with zeros, whose results are cut."""
    n = len(arrays[0])
    rows = max(1, min(size.queries, n))
    blocks = -(-n // rows)
    cut = [
        jnp.pad(array, [(0, blocks * rows - n)] + [(0, 0)] * (array.ndim - 1)).reshape(blocks, rows, *array.shape[1:])
        for array in arrays
    ]
    result = jax.lax.map(lambda block: one(*block), tuple(cut))
    return jax.tree.map(lambda leaf: leaf.reshape(blocks * rows, *leaf.shape[2:])[:n], result)


def _scores(queries: Array, items: Array) -> Array:
    """float32[q, n]; in full precision also where accelerators multiply float32 with fewer bits by default."""
    return jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)


def _count(scores: Array, targets: Array, ties: str) -> Array:
    own = jnp.take_along_axis(scores, targets[:, None], axis=1)
    worse = jnp.sum(scores < own, axis=1)
    if ties == "conservative":
        return (scores.shape[1] - worse).astype(jnp.float32)
    equal = jnp.sum(scores == own, axis=1)
    return _break_ties(scores.shape[1], worse, equal, ties)


def _rank_parts(
    queries: Array, targets: Array, at: Array, items: Array, spans: tuple[Array, Array] | None, n_items: int, ties: str
) -> Array:
    """Two passes over parts of the catalogue: one finds the targets' scores, one counts.

    Each part is the same product in both passes, so the target meets its own score bit for bit.
    """
    width = items.shape[1]
    index = jnp.arange(width)
    starts = jnp.arange(len(items)) * width

    def part_scores(vectors: Array, span: tuple[Array, Array] | None) -> Array:
        scores = _scores(queries, vectors)
        return scores if span is None else _only_live(scores, span[0][:, 0], span[1][:, 0], at)

    def find(own: Array, part: tuple[Array, Array, Any]) -> tuple[Array, None]:
        first, vectors, span = part
        inside = (targets >= first) & (targets < first + width)
        place = jnp.where(inside, targets - first, 0)
        here = jnp.take_along_axis(part_scores(vectors, span), place[:, None], 1)[:, 0]
        return jnp.where(inside, here, own), None

    own, _ = jax.lax.scan(find, jnp.zeros(len(queries)), (starts, items, spans))

    def count(sums: tuple[Array, Array], part: tuple[Array, Array, Any]) -> tuple[tuple[Array, Array], None]:
        first, vectors, span = part
        scores = part_scores(vectors, span)
        real = first + index < n_items
        worse = jnp.sum((scores < own[:, None]) & real, axis=1)
        equal = jnp.sum((scores == own[:, None]) & real, axis=1)
        return (sums[0] + worse, sums[1] + equal), None

    zero = jnp.zeros(len(queries), jnp.int32)
    (worse, equal), _ = jax.lax.scan(count, (zero, zero), (starts, items, spans))
    return _break_ties(n_items, worse, equal, ties)


def _break_ties(n_items: int, worse: Array, equal: Array, ties: str) -> Array:
    """``equal`` counts the target itself; it is 0 only where its score is not a number, which ranks last."""
    others = jnp.maximum(equal - 1, 0)
    lost = {"conservative": 0.0 * others, "standard": 1.0 * others, "median": 0.5 * others}[ties]
    return (n_items - worse).astype(jnp.float32) - lost


def _parts(items: Array, width: int) -> Array:
    """[parts, width, D]: the items in parts, padded with zeros."""
    width = min(width, items.shape[0])
    parts = -(-items.shape[0] // width)
    return jnp.pad(items, ((0, parts * width - items.shape[0]), (0, 0))).reshape(parts, width, -1)


def _top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Exact top-k of float32[Q, N] in two stages: the k chunks with the highest maxima hold all of it.

    Sorting only k chunks takes a fraction of the time of sorting the row (a maximum is one pass at memory speed).
    """
    q, n = scores.shape
    chunks = -(-n // CHUNK)
    if chunks <= 2 * k:
        return jax.lax.top_k(scores, k)
    table = jnp.pad(scores, ((0, 0), (0, chunks * CHUNK - n)), constant_values=-jnp.inf).reshape(q, chunks, CHUNK)
    _, best = jax.lax.top_k(table.max(axis=2), k)
    best = jnp.sort(best, axis=1)  # chunks in order keep the lower index first among equal scores
    picked = jnp.take_along_axis(table, best[:, :, None], axis=1).reshape(q, k * CHUNK)
    values, place = jax.lax.top_k(picked, k)
    chunk = jnp.take_along_axis(best, place // CHUNK, axis=1)
    return values, chunk * CHUNK + place % CHUNK
