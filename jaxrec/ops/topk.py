"""Exact ranks and top-k over the full catalogue, in blocks whose memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from jaxrec.ops import hosts
from jaxrec.ops.parallel import DATA, MODEL, in_blocks, joined
from jaxrec.ops.rows import DealtRows, Table, places_here

CHUNK = 128  # items per chunk of the two-stage top-k
# Queries whose scores stay in a CPU's cache. The system takes the pages of arrays over 32 MB back after every call, and
# handing them out anew took a third of the time of 256 queries' product with 43,097 items.
ROWS = 64
TOGETHER = 512  # queries at least that share a part of a catalogue whose vectors are made for them


class BlockSize(NamedTuple):
    queries: int  # whose scores are held at once
    items: int


class Live(NamedTuple):
    """Items can be recommended where ``listed <= at < sold``."""

    listed: Any  # int32[V]; DealtRows of them where the items are dealt
    sold: Any
    at: Array  # int32[Q], when each query is asked, in the same units


class Candidates(NamedTuple):
    """The items that queries are ranked among. Excluded ones score -inf; None excludes nothing."""

    live: Live | None = None  # only items that are live at the query's time; a target that is not ranks last
    without: Array | None = None  # uint32[Q, ceil(V / 32)], bit mask of excluded items; never of the target


EVERYTHING = Candidates()


class InParts(Protocol):
    """The vectors of a catalogue, made a part at a time, where they would take too much memory all at once. A pytree,
    such as ``heads.Heads``."""

    @property
    def width(self) -> int: ...

    def __len__(self) -> int: ...

    def part(self, start: Array | int, size: int) -> Array:
        """float32[size, D]: the vectors of the items from ``start`` on."""
        ...


Items = Table | InParts
"""The vectors of a catalogue, wherever they lie."""


def block_size(n_items: int, memory: int, least: int = 64) -> BlockSize:
    """The largest useful block of float32 scores within ``memory`` MiB: all items if at least ``least`` queries fit."""
    cells = memory * 2**20 // 4
    if cells >= least * n_items:
        return BlockSize(int(min(512, cells // n_items)), n_items)
    parts = -(-n_items // max(CHUNK, cells // least))
    return BlockSize(least, -(-n_items // parts))


@partial(jax.jit, static_argnames=("size", "k"))
def rank(
    queries: Array, targets: Array, items: Items, size: BlockSize, k: int = 0, among: Candidates = EVERYTHING
) -> tuple[Array, Array]:
    """The rank of each query's target among the candidates by inner product, float32[Q] from 1 to V, last among equals,
    and the k best candidates, int32[Q, k], with excluded items behind them where they are fewer; from float32[Q, D]
    queries, int32[Q] targets and float32[V, D] items, whose scores are never held whole. A score that is not a number
    counts as better than the target. Of items that are dealt over devices each ranks its own."""
    if isinstance(items, DealtRows):
        return _rank_dealt(queries, targets, items, size, k, among)
    n_items, width = len(items), min(size.items, len(items))
    span, asked = _asked(targets, among)
    # The last part is as long as the others and begins before its first new item: padding would copy the catalogue.
    first_new = jnp.arange(-(-n_items // width), dtype=jnp.int32) * width
    starts = jnp.minimum(first_new, n_items - width)

    def one(query: Array, asked: Any) -> tuple[Array, Array]:
        def score(start: Array | int) -> Array:
            scores = _scores(query, _part(items, start, width))
            return _only(scores, start + jnp.arange(width), asked, _times(span, start, width))

        if len(starts) == 1:
            return _ranked(score(0), asked[0], k)
        ranks = _rank(n_items, _worse(score, starts, first_new, width, asked[0]))

        def new(start: Array, first: Array) -> Array:
            return jnp.where(start + jnp.arange(width) < first, -jnp.inf, score(start))

        return ranks, _best_of_parts(new, starts, first_new, k, len(query), n_items)[0]

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


@partial(jax.jit, static_argnames=("k", "size"))
def top_listed(
    queries: Array, items: DealtRows, banned: Array, k: int, size: BlockSize, allowed: DealtRows, live: Live | None
) -> tuple[Array, Array]:
    """``top_items`` of dealt items, of those that bool[V] ``allowed`` and ``live`` allow."""
    return _best_dealt(queries, items, banned, k, size, len(items), allowed, live)


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
    n, (span, asked) = items.shards, _asked(targets, among)
    span = None if span is None else tuple(times.array for times in span)

    def on_each(mine: Any, _: None, query: Array, asked: Any) -> tuple[Array, Array]:
        array, span = mine
        device, (first_new, starts, width) = jax.lax.axis_index(MODEL), _parts_of(array, size)

        def one(query: Array, asked: Any) -> tuple[Array, Array]:
            def score(start: Array, beyond: float = jnp.inf) -> Array:
                ids = device + n * (start + jnp.arange(width))
                scores = _scores(query, _part(array, start, width))
                scores = _only(scores, ids, asked, _times(span, start, width))
                return jnp.where(ids < len(items), scores, beyond)  # rows of zeros are worse than nothing

            def new(start: Array, first: Array) -> Array:
                return jnp.where(start + jnp.arange(width) < first, -jnp.inf, score(start, -jnp.inf))

            ranks = _rank(len(items), _worse(score, starts, first_new, width, places_here(asked[0], n), MODEL))
            return ranks, _merged(*_best_of_parts(new, starts, first_new, k, len(query), len(array)), n)[0]

        return _by_blocks(one, size, query, asked)

    return _on_groups(on_each, items, len(queries))((items.array, span), None, queries, asked)


def _best_dealt(
    queries: Array, items: DealtRows, banned: Array, k: int, size: BlockSize, count: Array | int,
    allowed: DealtRows | None = None, live: Live | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    n, (span, (_, at, _)) = items.shards, _asked(banned, Candidates(live))
    dealt = jax.tree.map(lambda one: one.array, (items, allowed, span), is_leaf=lambda one: isinstance(one, DealtRows))

    def on_each(mine: Any, count: Any, query: Array, asked: Any) -> tuple[Array, Array]:
        array, allowed, span = mine
        device, (first_new, starts, width) = jax.lax.axis_index(MODEL), _parts_of(array, size)

        def one(query: Array, asked: Any) -> tuple[Array, Array]:
            ban, at = asked
            mine = jnp.where((ban % n == device) & (ban < len(items)), ban // n, -1)

            def score(start: Array, first: Array) -> Array:
                place = start + jnp.arange(width)
                there = (place >= first) & (device + n * place < count)
                if allowed is not None:
                    there &= _part(allowed, start, width)
                scores = jnp.where(there, _scores(query, _part(array, start, width)), -jnp.inf)
                scores = _only(scores, place, (None, at, None), _times(span, start, width))
                row = jnp.arange(len(query))[:, None]
                return scores.at[row, jnp.where(mine >= start, mine - start, width)].set(-jnp.inf, mode="drop")

            return _merged(*_best_of_parts(score, starts, first_new, k, len(query), len(array)), n)

        return _by_blocks(one, size, query, asked)

    return _on_groups(on_each, items, len(queries))(dealt, jnp.asarray(count), queries, (banned, at))


def _parts_of(array: Array | InParts, size: BlockSize) -> tuple[Array, Array, int]:
    """Parts of the rows that are here: the first row of each that is in no part before, where it begins, its length. A
    part is copied to be multiplied, so it takes no more than a block of scores may."""
    cells = size.queries * size.items
    of_one = array.shape[1] if isinstance(array, Array) else array.width
    width = min(size.items, max(CHUNK, cells // of_one), len(array))
    first_new = jnp.arange(-(-len(array) // width), dtype=jnp.int32) * width
    return first_new, jnp.minimum(first_new, len(array) - width), width


def _part(items: Array | InParts, start: Array | int, width: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(items, start, width) if isinstance(items, Array) else items.part(start, width)


def _times(span: Any, start: Array | int, width: int) -> tuple[Array, Array] | None:
    """When the items of a part are listed and sold; None where that does not matter."""
    return None if span is None else (_part(span[0], start, width), _part(span[1], start, width))


def _merged(places: Array, scores: Array, n: int) -> tuple[Array, Array]:
    """The best of all devices, int32[Q, k] items and their scores, of the k best places of each; the lower item first
    among equals."""
    k, device = places.shape[1], jax.lax.axis_index(MODEL)
    if not k:
        return places, scores
    every = jax.lax.all_gather((scores, device + n * places), MODEL, axis=1, tiled=True)
    worst, ids = jax.lax.sort((-every[0], every[1]), dimension=1, num_keys=2)
    return ids[:, :k], -worst[:, :k]


def _on_groups(function: Callable[..., Any], items: DealtRows, queries: int) -> Any:
    """The function of a device's items, of what all have, and of two trees with a row for each query, as its results
    have, on each device; groups of devices that have all items between them share the queries where they can."""
    shared = not hosts.several() and queries % items.mesh.shape[DATA] == 0  # or else each host has all results
    mine = PartitionSpec(DATA) if shared else PartitionSpec()
    inputs = (PartitionSpec(MODEL), PartitionSpec(), mine, mine)
    return jax.shard_map(function, mesh=items.mesh, in_specs=inputs, out_specs=(mine, mine), check_vma=False)


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
    """``one`` on blocks of rows, one after the other, as alike as can be, since padding costs as much as rows do: the
    last block is padded with zeros, whose results are cut."""
    n = len(arrays[0])
    blocks = max(1, -(-n // size.queries))
    rows = max(1, -(-n // blocks))
    return joined(jax.lax.map(lambda block: one(*block), in_blocks(arrays, rows)), n)


def _scores(queries: Array, items: Array) -> Array:
    return jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)  # accelerators default to fewer bits


def _numbers(scores: Array) -> Array:
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def _ranked(scores: Array, targets: Array, k: int) -> tuple[Array, Array]:
    own = jnp.take_along_axis(scores, targets[:, None], axis=1)
    return _rank(scores.shape[1], jnp.sum(scores < own, axis=1)), _top_k(_numbers(scores), k)[1]


def _worse(
    score: Callable[[Array], Array], starts: Array, first_new: Array, width: int, targets: Array, axis: str = ""
) -> Array:
    """int32[Q]: how many items score below the target, in two passes over parts, whose scores are ``score(start)``: one
    finds the targets' scores, one counts. Each part is the same product in both, so the target meets its own score bit
    for bit. With an ``axis`` of a mesh items are dealt over it, and a target that is not here is -1."""

    def find(own: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        scores, place = score(part[0]), targets - part[0]
        inside = (targets >= part[1]) & (place < width)
        here = jnp.take_along_axis(scores, jnp.where(inside, place, 0)[:, None], 1)[:, 0]
        return jnp.where(inside, here, own), None

    own, _ = jax.lax.scan(find, jnp.zeros(len(targets)), (starts, first_new))
    own = jax.lax.psum(own, axis) if axis else own  # the others have 0

    def count(worse: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        new = part[0] + jnp.arange(width) >= part[1]
        return worse + jnp.sum((score(part[0]) < own[:, None]) & new, axis=1), None

    worse, _ = jax.lax.scan(count, jnp.zeros(len(targets), jnp.int32), (starts, first_new))
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

    (scores, ids), _ = jax.lax.scan(merge, begin, (starts, parts))
    return ids, scores


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
