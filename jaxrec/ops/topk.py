"""Exact ranks and top-k over the full catalogue, in blocks whose memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from jaxrec.ops.parallel import DATA, MODEL, in_blocks, joined
from jaxrec.ops.rows import DealtRows, Table

CHUNK = 128  # items per chunk of the two-stage top-k
# Queries whose scores stay in a CPU's cache. The system takes the pages of arrays over 32 MB back after every call, and
# handing them out anew took a third of the time of 256 queries' product with 43,097 items.
ROWS = 64


class BlockSize(NamedTuple):
    queries: int  # whose scores are held at once
    items: int


class Live(NamedTuple):
    """Items can be recommended where ``listed <= at < sold``."""

    listed: Array  # int32[V]
    sold: Array  # int32[V]
    at: Array  # int32[Q], when each query is asked, in the same units


class Candidates(NamedTuple):
    """The items that queries are ranked among. Excluded ones score -inf; None excludes nothing."""

    live: Live | None = None  # only items that are live at the query's time; a target that is not ranks last
    without: Array | None = None  # uint32[Q, ceil(V / 32)], bit mask of excluded items; never of the target


EVERYTHING = Candidates()


def block_size(n_items: int, memory: int) -> BlockSize:
    """The largest useful block of float32 scores within ``memory`` MiB: all items if at least 64 queries fit."""
    cells = memory * 2**20 // 4
    if cells >= 64 * n_items:
        return BlockSize(int(min(512, cells // n_items)), n_items)
    parts = -(-n_items // max(CHUNK, cells // 64))
    return BlockSize(64, -(-n_items // parts))


@partial(jax.jit, static_argnames=("size", "k"))
def rank(
    queries: Array, targets: Array, items: Table, size: BlockSize, k: int = 0, among: Candidates = EVERYTHING
) -> tuple[Array, Array]:
    """The rank of each query's target among the candidates by inner product, float32[Q] from 1 to V, last among equals,
    and the k best candidates, int32[Q, k], with excluded items behind them where they are fewer; from float32[Q, D]
    queries, int32[Q] targets and float32[V, D] items, whose scores are never held whole. A score that is not a number
    counts as better than the target. Of items that are dealt over devices each ranks its own."""
    if isinstance(items, DealtRows):
        return _rank_dealt(queries, targets, items, size, k, among)
    n_items, width = len(items), min(size.items, len(items))
    span, asked = _asked(targets, among)
    parts = in_blocks((items, span), width)
    starts = jnp.arange(len(parts[0]), dtype=jnp.int32) * width

    def one(query: Array, asked: Any) -> tuple[Array, Array]:
        def score(start: Array | int, part: Any) -> Array:
            return _only(_scores(query, part[0]), start + jnp.arange(width), asked, part[1])

        if len(starts) == 1:
            return _ranked(score(0, jax.tree.map(lambda leaf: leaf[0], parts)), asked[0], k)
        ranks = _rank(n_items, _worse(score, starts, parts, asked[0], n_items))

        def real(start: Array, part: Any) -> Array:
            return jnp.where(start + jnp.arange(width) < n_items, score(start, part), -jnp.inf)

        return ranks, _best_of_parts(real, starts, parts, k, len(query), n_items)[0]

    return _by_blocks(one, size, queries, asked)


@partial(jax.jit, static_argnames="k")
def rank_scores(scores: Array, targets: Array, k: int = 0, among: Candidates = EVERYTHING) -> tuple[Array, Array]:
    """``rank`` where the scores are there already, float32[Q, V], as those of baselines are."""
    span, asked = _asked(targets, among)
    return _ranked(_only(scores, jnp.arange(scores.shape[1]), asked, span), targets, k)


@partial(jax.jit, static_argnames="k")
def top_scores(scores: Array, banned: Array, k: int) -> tuple[Array, Array]:
    """``top_items`` where the scores are there already, float32[Q, V]."""
    scores = scores.at[jnp.arange(len(scores))[:, None], banned].set(-jnp.inf, mode="drop")
    values, found = _top_k(_numbers(scores), k)
    return found, values


@partial(jax.jit, static_argnames=("k", "size"))
def top_items(
    queries: Array, items: Table, banned: Array, k: int, size: BlockSize, count: Array | int | None = None
) -> tuple[Array, Array]:
    """The k items with the highest inner products, the lower index first among equals: int32[Q, k], and float32[Q, k]
    scores (-inf where fewer are allowed, or no number); from float32[Q, D] queries and float32[V, D] items, without the
    ``banned`` ones, int32[Q, N] (V for none), and padding, which are the items from ``count`` on."""
    if isinstance(items, DealtRows):
        return _best_dealt(queries, items, banned, k, size, len(items) if count is None else count)
    n_items, width = len(items), min(size.items, len(items))
    parts, count = in_blocks(items, width), n_items if count is None else count
    starts = jnp.arange(len(parts), dtype=jnp.int32) * width

    def one(query: Array, ban: Array) -> tuple[Array, Array]:
        def score(start: Array, vectors: Array) -> Array:
            scores = jnp.where(start + jnp.arange(width) < count, _scores(query, vectors), -jnp.inf)
            row = jnp.arange(len(query))[:, None]
            return scores.at[row, jnp.where(ban >= start, ban - start, width)].set(-jnp.inf, mode="drop")

        return _best_of_parts(score, starts, parts, k, len(query), n_items)

    return _by_blocks(one, size, queries, banned)


@partial(jax.jit, static_argnames="k")
def best_items(queries: Array, items: Array, banned: Array, k: int, count: Array | int) -> tuple[Array, Array]:
    """``top_items`` where all scores of ``ROWS`` queries are held at once and there are more than ``2 * k`` whole
    chunks: no pass is spent on padding, in the last chunk alone, nor on scores that are no numbers, which maxima
    show."""

    def one(query: Array, ban: Array) -> tuple[Array, Array]:
        scores = _scores(query, items)
        scores = scores.at[jnp.arange(len(query))[:, None], ban].set(-jnp.inf, mode="drop")
        table = scores.reshape(len(query), -1, CHUNK)
        best = maxima(table)
        best = jax.lax.cond(jnp.isnan(best).any(), lambda: maxima(_numbers(table)), lambda: best)
        values, found = _top_of_chunks(table, best, k, count)
        return found, values

    def maxima(table: Array) -> Array:
        last = jnp.where(len(items) - CHUNK + jnp.arange(CHUNK) < count, table[:, -1], -jnp.inf)
        return table.max(axis=2).at[:, -1].set(last.max(axis=1))

    return _by_blocks(one, BlockSize(ROWS, len(items)), queries, banned)


def _rank_dealt(
    queries: Array, targets: Array, items: DealtRows, size: BlockSize, k: int, among: Candidates
) -> tuple[Array, Array]:
    n, span, asked = items.shards, *_asked(targets, among)

    def on_each(array: Array, span: Any, query: Array, asked: Any) -> tuple[Array, Array]:
        device, width = jax.lax.axis_index(MODEL), min(size.items, len(array))
        ids = device + n * jnp.arange(len(array))
        parts = in_blocks((array, jax.tree.map(lambda leaf: leaf.at[ids].get(mode="clip"), span)), width)
        starts = jnp.arange(len(parts[0]), dtype=jnp.int32) * width
        here = -((device - len(items)) // n)  # how many of the items are on this device

        def one(query: Array, asked: Any) -> tuple[Array, Array]:
            def score(start: Array, part: Any) -> Array:
                return _only(_scores(query, part[0]), device + n * (start + jnp.arange(width)), asked, part[1])

            def real(start: Array, part: Any) -> Array:
                return jnp.where(start + jnp.arange(width) < here, score(start, part), -jnp.inf)

            place = jnp.where(asked[0] % n == device, asked[0] // n, -1)
            ranks = _rank(len(items), _worse(score, starts, parts, place, here, MODEL))
            return ranks, _merged(*_best_of_parts(real, starts, parts, k, len(query), len(array)), n)[0]

        return _by_blocks(one, size, query, asked)

    return _on_groups(on_each, items, len(queries), 2, 2)(items.array, span, queries, asked)


def _best_dealt(
    queries: Array, items: DealtRows, banned: Array, k: int, size: BlockSize, count: Array | int
) -> tuple[Array, Array]:
    n = items.shards

    def on_each(array: Array, count: Any, query: Array, ban: Array) -> tuple[Array, Array]:
        device, width = jax.lax.axis_index(MODEL), min(size.items, len(array))
        parts = in_blocks(array, width)
        starts = jnp.arange(len(parts), dtype=jnp.int32) * width

        def one(query: Array, ban: Array) -> tuple[Array, Array]:
            mine = jnp.where((ban % n == device) & (ban < len(items)), ban // n, -1)

            def score(start: Array, vectors: Array) -> Array:
                ids = device + n * (start + jnp.arange(width))
                scores = jnp.where(ids < count, _scores(query, vectors), -jnp.inf)
                row = jnp.arange(len(query))[:, None]
                return scores.at[row, jnp.where(mine >= start, mine - start, width)].set(-jnp.inf, mode="drop")

            return _merged(*_best_of_parts(score, starts, parts, k, len(query), len(array)), n)

        return _by_blocks(one, size, query, ban)

    return _on_groups(on_each, items, len(queries), 2, 2)(items.array, jnp.asarray(count), queries, banned)


def _merged(places: Array, scores: Array, n: int) -> tuple[Array, Array]:
    """The best of all devices, int32[Q, k] items and their scores, of the k best places of each; the lower item first
    among equals."""
    k, device = places.shape[1], jax.lax.axis_index(MODEL)
    if not k:
        return places, scores
    every = jax.lax.all_gather((scores, device + n * places), MODEL, axis=1, tiled=True)
    worst, ids = jax.lax.sort((-every[0], every[1]), dimension=1, num_keys=2)
    return ids[:, :k], -worst[:, :k]


def _on_groups(function: Callable[..., Any], items: DealtRows, queries: int, by_query: int, results: int) -> Any:
    """The function of a device's items, of what all have, and of so many trees with a row for each query, on each
    device; groups of devices that have all items between them share the queries where they can."""
    mine = PartitionSpec(*([] if queries % items.mesh.shape[DATA] else [DATA]))
    inputs = (PartitionSpec(MODEL), PartitionSpec(), *(mine,) * by_query)
    return jax.shard_map(function, mesh=items.mesh, in_specs=inputs, out_specs=(mine,) * results, check_vma=False)


def _asked(targets: Array, among: Candidates) -> tuple[Any, Any]:
    """When items are live; and of each query its target, when it is asked, and what is excluded."""
    span, at = (None, None) if among.live is None else (among.live[:2], among.live.at)
    return span, (targets, at, among.without)


def _only(scores: Array, index: Array, asked: Any, span: tuple[Array, Array] | None) -> Array:
    """The scores of the items int32[w] ``index``, with -inf for those that are no candidates."""
    target, at, without = asked
    if span is not None:
        scores = jnp.where((span[0] <= at[:, None]) & (at[:, None] < span[1]), scores, -jnp.inf)
    if without is None:
        return scores
    bits = (jnp.take(without, index // 32, axis=1, mode="clip") >> (index % 32).astype(jnp.uint32)) & 1
    return jnp.where((bits == 0) | (index == target[:, None]), scores, -jnp.inf)


def _by_blocks(one: Callable[..., Any], size: BlockSize, *arrays: Any) -> Any:
    """``one`` on blocks of rows, one after the other; the last block is padded with zeros, whose results are cut."""
    n = len(arrays[0])
    rows = max(1, min(size.queries, n))
    return joined(jax.lax.map(lambda block: one(*block), in_blocks(arrays, rows)), n)


def _scores(queries: Array, items: Array) -> Array:
    return jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)  # accelerators default to fewer bits


def _numbers(scores: Array) -> Array:
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def _ranked(scores: Array, targets: Array, k: int) -> tuple[Array, Array]:
    own = jnp.take_along_axis(scores, targets[:, None], axis=1)
    return _rank(scores.shape[1], jnp.sum(scores < own, axis=1)), _top_k(_numbers(scores), k)[1]


def _worse(score: Any, starts: Array, parts: Any, targets: Array, n_items: Array | int, axis: str = "") -> Array:
    """int32[Q]: how many items score below the target, in two passes over parts, whose scores are ``score(start,
    part)``: one finds the targets' scores, one counts. Each part is the same product in both, so the target meets its
    own score bit for bit. With an ``axis`` of a mesh items are dealt over it, and a target that is not here is -1."""

    def find(own: Array, part: tuple[Array, Any]) -> tuple[Array, None]:
        scores, place = score(*part), targets - part[0]
        inside = (place >= 0) & (place < scores.shape[1])
        here = jnp.take_along_axis(scores, jnp.where(inside, place, 0)[:, None], 1)[:, 0]
        return jnp.where(inside, here, own), None

    own = _over_parts(find, jnp.zeros(len(targets)), (starts, parts))
    own = jax.lax.psum(own, axis) if axis else own  # the others have 0

    def count(worse: Array, part: tuple[Array, Any]) -> tuple[Array, None]:
        scores = score(*part)
        real = part[0] + jnp.arange(scores.shape[1]) < n_items
        return worse + jnp.sum((scores < own[:, None]) & real, axis=1), None

    worse = _over_parts(count, jnp.zeros(len(targets), jnp.int32), (starts, parts))
    return jax.lax.psum(worse, axis) if axis else worse


def _rank(n_items: int, worse: Array) -> Array:
    """Nothing is below a target whose score is not a number: it is last."""
    return (n_items - worse).astype(jnp.float32)


def _best_of_parts(score: Any, starts: Array, parts: Any, k: int, queries: int, n_items: int) -> tuple[Array, Array]:
    begin = (jnp.full((queries, k), -jnp.inf), jnp.full((queries, k), n_items, jnp.int32))

    def merge(best: tuple[Array, Array], part: tuple[Array, Any]) -> tuple[tuple[Array, Array], None]:
        scores = _numbers(score(*part))
        values, places = _top_k(scores, min(k, scores.shape[1]))
        values, ids = jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], part[0] + places], 1)
        values, order = jax.lax.top_k(values, k)
        return (values, jnp.take_along_axis(ids, order, 1)), None

    scores, ids = _over_parts(merge, begin, (starts, parts))
    return ids, scores


def _over_parts(step: Callable[[Any, Any], tuple[Any, None]], begin: Any, parts: Any) -> Any:
    """What a scan over parts carries; of a single one without a scan, which would copy it."""
    if len(jax.tree.leaves(parts)[0]) == 1:
        return step(begin, jax.tree.map(lambda leaf: leaf[0], parts))[0]
    return jax.lax.scan(step, begin, parts)[0]


def _top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Exact top-k of float32[Q, N]: the k chunks with the highest maxima hold it, and are sorted faster."""
    q, n = scores.shape
    if not k:
        return jnp.zeros((q, 0)), jnp.zeros((q, 0), jnp.int32)
    chunks = -(-n // CHUNK)
    if chunks <= 2 * k:
        return jax.lax.top_k(scores, k)
    table = jnp.pad(scores, ((0, 0), (0, chunks * CHUNK - n)), constant_values=-jnp.inf).reshape(q, chunks, CHUNK)
    return _top_of_chunks(table, table.max(axis=2), k)


def _top_of_chunks(table: Array, maxima: Array, k: int, count: Array | int | None = None) -> tuple[Array, Array]:
    """The k best of float32[Q, chunks, CHUNK]; with a ``count``, of the scores before it that are numbers."""
    _, best = jax.lax.top_k(maxima, k)
    best = jnp.sort(best, axis=1)  # chunks in order keep the lower index first among equal scores
    picked = jnp.take_along_axis(table, best[:, :, None], axis=1)
    if count is not None:
        picked = jnp.where(best[:, :, None] * CHUNK + jnp.arange(CHUNK) < count, _numbers(picked), -jnp.inf)
    values, place = jax.lax.top_k(picked.reshape(len(table), k * CHUNK), k)
    chunk = jnp.take_along_axis(best, place // CHUNK, axis=1)
    return values, chunk * CHUNK + place % CHUNK
