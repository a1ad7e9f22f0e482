"""Sums of numbers that lie in shards, with the bits that NumPy's sum of all of them in one array has.

NumPy adds pairwise: it halves an array, the left half cut down to a multiple of 8, until at most ``LEAF`` numbers are
left. A shard sums the largest such spans that lie within it; of those at its ends it gives the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LEAF = 128  # numbers that NumPy adds without halving


class Sums(NamedTuple):
    """What a shard knows of the sum of all numbers."""

    spans: list[tuple[int, int, float]]  # begin and end among all numbers, and the sum
    loose: list[tuple[int, list[float]]]  # begin, and the numbers from there on, of spans that other shards share


def _halves(begin: int, end: int) -> tuple[tuple[int, int], tuple[int, int]]:
    middle = begin + ((end - begin) // 2 & -8)
    return (begin, middle), (middle, end)


def partial_sums(values: np.ndarray, first: int, total: int) -> Sums:
    """Of float64[n] ``values``, which stand from ``first`` on among ``total`` numbers."""
    last, sums, waiting = first + len(values), Sums([], []), [(0, total)]
    while waiting:
        begin, end = waiting.pop()
        low, high = max(begin, first), min(end, last)
        if low >= high:
            continue
        here = values[low - first : high - first]
        if (low, high) == (begin, end):
            sums.spans.append((begin, end, float(here.sum())))
        elif end - begin <= LEAF:
            sums.loose.append((low, here.tolist()))
        else:
            waiting += _halves(begin, end)
    return sums


def whole_sum(shards: Sequence[Any], total: int) -> float:
    """The sum of ``total`` numbers by the ``Sums`` of all shards, in their order; these may come from JSON."""
    known = {(begin, end): value for spans, _ in shards for begin, end, value in spans}
    loose = {begin + place: value for _, pieces in shards for begin, values in pieces
             for place, value in enumerate(values)}  # fmt: skip

    def add(begin: int, end: int) -> float:
        if (begin, end) in known:
            return known[begin, end]
        if end - begin <= LEAF:
            return float(np.sum([loose[place] for place in range(begin, end)]))
        left, right = _halves(begin, end)
        return add(*left) + add(*right)

    return add(0, total)
