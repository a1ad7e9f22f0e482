"""Ranking by products of vectors, in few compiled shapes.

A program is compiled for each shape, which takes up to a second, and its memory is never freed. So the numbers of
queries, of items to leave out and to return are padded to coarse steps, and what comes of it is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.given import bare
from jaxrec.errors import UserError
from jaxrec.ops.rows import DealtRows, Table, rows_at
from jaxrec.ops.topk import CHUNK, best_items, block_size, top_items

# Queries ranked in one go, and from how many on padding to that size costs less than smaller ones: among 43,097 items
# of width 257 they took 2.8, 8.0, 11, 23 and 88 ms on a core of an AMD EPYC (Zen 5).
SIZES = {1: 1, 4: 3, 16: 6, 64: 22, 256: 193}
BATCH = max(SIZES)
LONG = 1024  # items left out of all queries' lists; with more of them the others are ranked alone
DEFAULT_K = 20  # items that are recommended where no number is given
Kernel = Callable[[Array, Array, int], tuple[Array, Array]]
"""From queries float32[q, D], items int32[q, N] that each must not get, and a number k to items and scores [q, k]."""
Waiting = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Waits for the int32[at most k] best items of each query (among equals the lower one first), and float32 scores."""

# ---- shapes ----------------------------------------------------------------------------------------------------------


def steps(n: int, first: int, factor: int) -> int:
    """The least of ``first``, ``first * factor``, ``first * factor ** 2``, … that is at least n."""
    while first < n:
        first *= factor
    return first


def batches(n: int, most: int = BATCH) -> Iterator[tuple[slice, int]]:
    """Parts of n queries, and the size that each is padded to, at most ``most``."""
    start, sizes = 0, {size: least for size, least in SIZES.items() if size < most} | {most: SIZES.get(most, most)}
    while start < n:
        left = n - start
        rows = max(size for size, least in sizes.items() if least <= left)
        yield slice(start, min(n, start + rows)), rows
        start += rows


def in_batches(n: int, dispatch: Callable[[slice, int], Waiting], most: int = BATCH) -> Iterator[Any]:
    """What is found for n queries, each batch read while the device works on the next."""
    last: Waiting | None = None
    for part, rows in batches(n, most):
        now = dispatch(part, rows)
        if last is not None:
            yield from last()
        last = now
    if last is not None:
        yield from last()


def capacity(known: int, added: int) -> int:
    """Rows of a table of ``known`` items, and of others that were added since, with room for more."""
    return known + (steps(added, 256, 4) if added else 0)


def filled(rows: np.ndarray, n: int) -> Array:
    """An array with rows of zeros up to n."""
    return jnp.asarray(np.pad(rows, [(0, n - len(rows))] + [(0, 0)] * (rows.ndim - 1)))


def padded(lists: Sequence[np.ndarray], rows: int, width: int, fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
    """[rows, width, ...]: a row for each list, [n, ...], and ``fill`` behind its end and in further rows."""
    lengths = np.zeros(rows, np.int64)
    lengths[: len(lists)] = [len(one) for one in lists]
    table = np.full((rows, width, *np.shape(lists[0])[1:]), fill, dtype)
    if lengths.any():
        table[np.arange(width) < lengths[:, None]] = np.concatenate(lists)
    return table


def unit(vectors: Array) -> Array:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# ---- ranking ---------------------------------------------------------------------------------------------------------


def check_k(k: Any, most: int | None = None) -> int:
    """How many items are asked for, of ``most`` that there are; None is the default, or all where there are fewer."""
    if k is None:
        return DEFAULT_K if most is None else max(1, min(DEFAULT_K, most))
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= (most or k):
        expected = "1 or more" if most is None else f"1 to {most}, the number of items in the catalogue"
        raise UserError(f"k = {bare(k)}: expected {expected}")
    return int(k)


def ranked(kernel: Kernel, queries: Array, items: int, banned: Sequence[np.ndarray], k: int) -> Waiting:
    """Have the device look for the k best of so many items for each query, float32[rows, D], without its int[any]
    ``banned`` items; rows behind those are padding."""
    ban = padded(banned, len(queries), steps(max(map(len, banned), default=0), 64, 16), items)
    found, values = kernel(queries, jnp.asarray(ban), kernel_k(k, items))

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        places, scores = (np.asarray(one)[: len(banned), :k] for one in (found, values))
        for row, count in enumerate(np.isfinite(scores).sum(axis=1).tolist()):
            yield places[row, :count], scores[row, :count]

    return rows


def nearest(queries: Array, table: Table, mask: np.ndarray, gone: Sequence[np.ndarray], k: int, memory: int) -> Waiting:
    """``ranked`` by the products with those of the first V rows of a table, float32[at least V, D], that bool[V]
    ``mask`` allows, without what is ``gone`` for each query; ``memory`` is MiB of scores that are held at once."""
    out, pool, count = np.flatnonzero(~mask), np.flatnonzero(mask), len(mask)
    alone = len(out) > min(LONG, len(mask) // 2)
    if alone:
        size, count = min(steps(len(pool), 256, 16), len(table)), len(pool)
        table = rows_at(table, jnp.asarray(np.pad(pool, (0, size - count))))
    banned = [np.append(out, one) for one in gone] if len(out) else gone
    banned = [np.flatnonzero(np.isin(pool, one)) for one in gone] if alone else banned
    kernel = exact_kernel(table, count, memory)
    found = ranked(kernel, queries, len(table), banned, k)
    return (lambda: ((pool[places], scores) for places, scores in found())) if alone else found


def exact_kernel(table: Table, count: int, memory: int) -> Kernel:
    """What finds the best of the first ``count`` rows of a table, float32[at least count, D], by their products."""
    block = block_size(len(table), memory)
    whole = block.items == len(table) and not len(table) % CHUNK and len(table) - count < CHUNK
    whole = whole and not isinstance(table, DealtRows)

    def kernel(queries: Array, ban: Array, k: int) -> tuple[Array, Array]:
        if whole and len(table) > 2 * k * CHUNK:
            return best_items(queries, table, ban, k, count)
        return top_items(queries, table, ban, k, block, count)

    return kernel


def kernel_k(k: int, items: int) -> int:
    """How many of so many items are looked for where k are asked for."""
    return min(steps(k, 32, 8), items)


def vector_table(ids: Sequence[Any], vectors: np.ndarray, attributes: pa.Table) -> pa.Table:
    """Columns ``id`` and ``vector``, float32 lists of one length from float32[n, D], and attributes of items."""
    flat, columns = pa.array(np.ascontiguousarray(vectors).reshape(-1)), dict[str, Any]()
    alike = all(type(one) is type(ids[0]) for one in ids)  # of items that were added some may be text
    columns["id"] = pa.array(list(ids) if alike else list(map(str, ids)))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns | {name: attributes[name] for name in attributes.column_names if name not in columns})
