"""A few shapes for all requests: what a request brings is padded, and what comes of it cut.

A program is compiled for each shape. That takes up to a second, and its memory is never freed, so that a shape for each
number of queries, of items to leave out, or of items to return would fill a server. The steps here are coarse, as their
numbers multiply; what is added costs little beside the product with the catalogue.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.data.ids import bare
from jaxrec.errors import Note, UserError

BATCH = 256  # queries ranked in one go
FEW = 16  # or so many; one alone is a shape of its own
Kernel = Callable[[Array, Array, int], tuple[Array, Array]]
"""From queries float32[q, D], items int32[q, N] that each must not get, and a number k to items and scores [q, k]."""


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


DEFAULT_K = 20  # items that are recommended where no number is given, by models of sequences


def check_k(k: Any, most: int | None = None) -> int:
    """How many items are asked for.

    Args:
        k: None for the default, or all where there are fewer.
        most: that there are; None where more than there are may be asked for.
    """
    if k is None and most is not None:
        return min(DEFAULT_K, most)
    expected = "1 or more" if most is None else f"1 to {most}, the number of items in the catalogue"
    try:
        number = -1 if isinstance(k, bool) else operator.index(k)
    except TypeError:
        number = -1
    if number < 1 or (most is not None and number > most):
        raise UserError(f"k = {bare(k)}: expected {expected}")
    return number


def best(
    kernel: Kernel, queries: Array, items: int, banned: Sequence[np.ndarray], k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k best items of each query, and their scores; fewer where there are no more.

    Args:
        queries: float32[rows, D]; the rows behind those of ``banned`` are padding.
        items: rows of the table that is ranked.
        banned: int[any] of each query, items that it must not get.

    Returns:
        int64[at most k] and float32[at most k] of each query, best first; among equal scores the lower item first.
    """
    distinct = [np.unique(one) for one in banned]
    ban = np.full((len(queries), steps(max(map(len, distinct), default=0), 64, 16)), items, np.int32)
    for row, one in enumerate(distinct):
        ban[row, : len(one)] = one
    found, scores = map(np.asarray, kernel(queries, jnp.asarray(ban), min(steps(k, 32, 8), items)))
    answers = []
    for row in range(len(banned)):
        some = np.isfinite(scores[row, :k])
        answers.append((found[row, :k][some].astype(np.int64), scores[row, :k][some]))
    return answers


class UnknownItems(Note):
    """Items that the model has never seen; they are left out."""
