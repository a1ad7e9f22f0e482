"""Queries of the baselines: every target of a split, with all clicks before it in its session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxrec.data.dataset import Sessions

WORK = 2**21  # clicks, and training sessions looked up for them, in one batch: about 100 MiB


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of sessions in CSR form: query ``q`` is ``items[offsets[q]:offsets[q + 1]]``, oldest click first.

    Attributes:
        items: int32[n].
        offsets: int64[Q + 1].
        now: int64[Q], ms since 1970: when the last click of the prefix happened. 0 for an empty prefix.
    """

    items: np.ndarray
    offsets: np.ndarray
    now: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64[Q], clicks of each prefix."""
        return np.diff(self.offsets)

    @property
    def query(self) -> np.ndarray:
        """int64[n], the query of each click."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def distance(self) -> np.ndarray:
        """int64[n], how many clicks follow each click within its prefix; 0 for the last one."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))


class Queries:
    """All queries of a split, in the order of its events; ``targets`` int32[N] are the items that they ask for."""

    def __init__(self, sessions: Sessions) -> None:
        self._items, self._times = np.asarray(sessions.items), np.asarray(sessions.times)
        self._end = sessions.target_positions
        self._begin = np.repeat(sessions.offsets[:-1], np.diff(sessions.offsets))[self._end]
        self.targets = self._items[self._end]

    def __len__(self) -> int:
        return len(self.targets)

    def prefixes(self, low: int, high: int, rows: int | None = None) -> Prefixes:
        """Queries ``low`` to ``high`` (exclusive), followed by empty ones up to ``rows``."""
        lengths = self._end[low:high] - self._begin[low:high]
        padding = max(0, (rows or 0) - len(lengths))
        offsets = np.concatenate([[0], np.cumsum(np.pad(lengths, (0, padding)))])
        now = np.pad(self._times[self._end[low:high] - 1], (0, padding))
        return Prefixes(self._items[expand(self._begin[low:high], lengths)], offsets, now)

    def batches(self, rows: int, work: np.ndarray) -> Iterator[tuple[int, int]]:
        """``(low, high)`` of batches of at most ``rows`` queries and of bounded work; ``work`` int64[V] is what a click
        on each item costs beside itself.
        """
        before = np.concatenate([[0], np.cumsum(1 + work[self._items])])
        done = np.cumsum(before[self._end] - before[self._begin])
        low = 0
        while low < len(self):
            bound = (done[low - 1] if low else 0) + WORK
            high = max(low + 1, min(low + rows, int(np.searchsorted(done, bound, side="right"))))
            yield low, min(high, len(self))
            low = high


def expand(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The ranges ``starts[i]`` to ``starts[i] + counts[i]``, one after the other.

    >>> expand(np.array([10, 3, 7]), np.array([2, 0, 3]))
    array([10, 11,  7,  8,  9])
    """
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def last_clicks(groups: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """Indices, ascending, of the last click on each item within each group (a session or a query).

    >>> last_clicks(np.array([0, 0, 0, 1]), np.array([5, 8, 5, 5]), 9)
    array([1, 2, 3])
    """
    backwards = (groups.astype(np.int64) * n_items + items)[::-1]
    return np.sort(len(items) - 1 - np.unique(backwards, return_index=True)[1])
