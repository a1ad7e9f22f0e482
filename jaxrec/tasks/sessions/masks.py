"""What sessions hold already, as bits of items that are no candidates (``evaluation.history masked``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrec.baselines.base import expand
from jaxrec.config import EvaluationConfig
from jaxrec.data.dataset import Sessions
from jaxrec.data.retrieval import WORD, positive_bits
from jaxrec.metrics.ranking import random_ranking

QUERIES = 8192  # whose bits are held at once


def is_masked(config: EvaluationConfig) -> bool:
    """Whether items that a session holds already are no candidates."""
    return getattr(config, "history", "ranked") == "masked"


def item_bits(rows: np.ndarray, items: np.ndarray, n: int, n_items: int) -> np.ndarray:
    """uint32[n, ceil(V / 32)]: the bits of the items int[m] of int[m] rows."""
    return positive_bits(rows + 1, items, n + 1, n_items)[1:]


class History:
    """What stands before each target of a split in its session."""

    def __init__(self, sessions: Sessions, n_items: int) -> None:
        self._items, self._offsets, self._n_items = np.asarray(sessions.items), np.asarray(sessions.offsets), n_items
        self._targets = sessions.target_positions

    def bits(self, positions: np.ndarray) -> np.ndarray:
        """uint32[Q, ceil(V / 32)] of the targets at int64[Q] positions; none at -1."""
        begin = self._offsets[np.searchsorted(self._offsets, positions, side="right") - 1]
        lengths = np.where(positions < 0, 0, positions - begin)
        rows = np.repeat(np.arange(len(positions)), lengths)
        return item_bits(rows, self._items[expand(begin, lengths)], len(positions), self._n_items)

    def candidates(self) -> np.ndarray:
        """int64[targets]: among how many items each target is ranked, itself included."""
        counts = [np.zeros(0, np.int64)]
        for start in range(0, len(self._targets), QUERIES):
            part = self._targets[start : start + QUERIES]
            bits, target = self.bits(part), self._items[part]
            own = bits[np.arange(len(part)), target // WORD] >> (target % WORD).astype(np.uint32) & 1
            counts.append(self._n_items - np.bitwise_count(bits).sum(axis=1, dtype=np.int64) + own)
        return np.concatenate(counts)


def chance(sessions: Sessions, n_items: int, ks: Sequence[int], config: EvaluationConfig) -> dict[str, float]:
    """What a random order of the candidates is expected to give."""
    candidates = History(sessions, n_items).candidates() if is_masked(config) else np.array([n_items])
    return random_ranking(candidates, ks)
