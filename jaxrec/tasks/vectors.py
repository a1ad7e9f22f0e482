"""What every recommender that ranks by products shares: few compiled shapes, the best items, notes.

A program is compiled for each shape. That takes up to a second, and its memory is never freed, so that a shape for each
number of queries, of items to leave out, or of items to return would fill a server. So what a request brings is padded
to coarse steps, and what comes of it cut; what is added costs little beside the product with the catalogue.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.ids import bare
from jaxrec.errors import UserError

BATCH = 256  # queries ranked in one go
FEW = 16  # or so many; one alone is a shape of its own
DEFAULT_K = 20  # items that are recommended where no number is given
POPULAR = "nothing is known, so the most popular items are recommended"
NOTHING_LEFT = "the exclusions leave nothing to recommend"
Kernel = Callable[[Array, Array, int], tuple[Array, Array]]
"""From queries float32[q, D], items int32[q, N] that each must not get, and a number k to items and scores [q, k]."""


class Best(NamedTuple):
    """The best items of queries.

    Attributes:
        items: int64[q, k], best first; among equal scores the lower item first.
        scores: float32[q, k]; -inf where there are no more items.
    """

    items: np.ndarray
    scores: np.ndarray

    def cut(self, n: int, k: int) -> Best:
        return Best(self.items[:n, :k], self.scores[:n, :k])

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Items and scores of each query, without those that are none."""
        for items, scores, count in zip(self.items, self.scores, np.isfinite(self.scores).sum(axis=1), strict=True):
            yield items[:count], scores[:count]


# ---- shapes ----------------------------------------------------------------------------------------------------------


def room(n: int) -> int:
    """The next power of two."""
    return 1 << max(0, n - 1).bit_length()


def steps(n: int, first: int, factor: int) -> int:
    """The least of ``first``, ``first * factor``, ``first * factor ** 2``, … that is at least n."""
    while first < n:
        first *= factor
    return first


def batches(n: int, most: int = BATCH) -> Iterator[tuple[slice, int]]:
    """Parts of n queries, and the number of rows that each is padded to: 1, 16 or 256, and at most ``most``."""
    start = 0
    while start < n:
        left = n - start
        rows = min(most, 1 if left == 1 else FEW if left <= 4 * FEW else BATCH)
        yield slice(start, min(n, start + rows)), rows
        start += rows


def capacity(known: int, added: int) -> int:
    """Rows of a table of ``known`` items, and of others that were added since, with room for more."""
    return known + (steps(added, 256, 4) if added else 0)


def padded(lists: Sequence[np.ndarray], rows: int, width: int, fill: int = 0) -> np.ndarray:
    """int32[rows, width]: a row for each list of integers, ``fill`` behind its end and in further rows."""
    lengths = np.zeros(rows, np.int64)
    lengths[: len(lists)] = [len(one) for one in lists]
    table = np.full((rows, width), fill, np.int32)
    if lengths.any():
        table[np.arange(width) < lengths[:, None]] = np.concatenate(lists)
    return table


# ---- ranking ---------------------------------------------------------------------------------------------------------


def check_k(k: Any, most: int | None = None) -> int:
    """How many items are asked for.

    Args:
        k: None for the default, or all where there are fewer.
        most: that there are; None where more than there are may be asked for.
    """
    if k is None and most is not None:
        return max(1, min(DEFAULT_K, most))
    expected = "1 or more" if most is None else f"1 to {most}, the number of items in the catalogue"
    try:
        number = -1 if isinstance(k, bool) else operator.index(k)
    except TypeError:
        number = -1
    if number < 1 or (most is not None and number > most):
        raise UserError(f"k = {bare(k)}: expected {expected}")
    return number


def ranked(kernel: Kernel, queries: Array, items: int, banned: Sequence[np.ndarray], k: int) -> Callable[[], Best]:
    """Have the device look for the k best items of each query.

    Args:
        queries: float32[rows, D]; the rows behind those of ``banned`` are padding.
        items: rows of the table that is ranked.
        banned: int[any] of each query, items that it must not get.

    Returns:
        What waits for them.
    """
    ban = padded(banned, len(queries), steps(max(map(len, banned), default=0), 64, 16), items)
    found, scores = kernel(queries, jnp.asarray(ban), min(steps(k, 32, 8), items))
    return lambda: Best(np.asarray(found), np.asarray(scores)).cut(len(banned), k)


def best(
    kernel: Kernel, queries: Array, items: int, banned: Sequence[np.ndarray], k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As ``ranked``: int64[at most k] items and float32[at most k] scores of each query."""
    return [(found.astype(np.int64), scores) for found, scores in ranked(kernel, queries, items, banned, k)().rows()]


def within(table: Array, pool: np.ndarray, banned: Sequence[np.ndarray]) -> tuple[Array, int, list[np.ndarray]]:
    """To rank some items alone: the table of those, with padding, their number, and by place in it what is banned.

    Args:
        pool: int[n], ascending.
        banned: items of each query.
    """
    size = min(steps(len(pool), 256, 16), len(table))
    rows = table[jnp.asarray(np.pad(pool, (0, size - len(pool))))]
    return rows, len(pool), [np.flatnonzero(np.isin(pool, one)) for one in banned]


def one_ahead(waiting: Iterable[Callable[[], Best]]) -> Iterator[Best]:
    """The results of ``ranked``, each read while the device works on the next."""
    last: Callable[[], Best] | None = None
    for one in waiting:
        if last is not None:
            yield last()
        last = one
    if last is not None:
        yield last()


def vector_table(ids: Sequence[Any], vectors: np.ndarray, attributes: Mapping[str, Any] | pa.Table) -> pa.Table:
    """Columns ``id`` and ``vector``, float32 lists of one length, and attributes of items.

    Args:
        vectors: float32[n, D].
    """
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    alike = all(type(one) is type(ids[0]) for one in ids)  # of items that were added some may be text
    columns = {
        "id": pa.array(list(ids) if alike else list(map(str, ids))),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    names = attributes.column_names if isinstance(attributes, pa.Table) else list(attributes)
    return pa.table(columns | {name: attributes[name] for name in names if name not in columns})
