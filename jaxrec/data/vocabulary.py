"""Raw item ids to indices and back; the only place where raw ids live after preparation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.errors import UserError


class Vocabulary:
    """The items of a data set; the row number is the item's index.

    Attributes:
        ids: int64[V] or StringDType[V], as in the raw data.
        counts: int64[V], events in the whole training split, descending.
    """

    def __init__(self, ids: np.ndarray, counts: np.ndarray) -> None:
        self.ids, self.counts = ids, counts

    @classmethod
    def read(cls, file: Path) -> Vocabulary:
        """Read ``items.parquet``.

        Raises:
            UserError: missing or damaged.
        """
        try:
            table = pq.read_table(file, columns=["item", "count"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: missing or damaged ({str(error).splitlines()[0]}); prepare again") from None
        item = table["item"].combine_chunks()
        if pa.types.is_integer(item.type):
            ids = item.to_numpy().astype(np.int64)
        else:
            ids = np.array(item.to_pylist(), dtype=np.dtypes.StringDType())
        return cls(ids, table["count"].to_numpy())

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, raw: Iterable[Any]) -> np.ndarray:
        """int32[n] indices of raw ids; -1 for one that is not in the vocabulary. ``"12"`` and ``12`` are one id."""
        values = list(raw)
        if not values or not len(self.ids):
            return np.full(len(values), -1, np.int32)
        if self.ids.dtype != np.int64:
            return np.array([self._index.get(str(value), -1) for value in values], np.int32)
        numbers = [_integer(value) for value in values]
        wanted = np.array([0 if number is None else number for number in numbers], np.int64)
        valid = np.array([number is not None for number in numbers])
        order, ordered = self._sorted
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(valid & (ordered[place] == wanted), order[place], -1).astype(np.int32)

    def decode(self, indices: np.ndarray) -> list[int] | list[str]:
        """Raw ids of int[n] indices, as Python integers or strings."""
        picked = self.ids[np.asarray(indices)]
        return [int(value) for value in picked] if self.ids.dtype == np.int64 else [str(value) for value in picked]

    @cached_property
    def _index(self) -> dict[str, int]:
        # Not searchsorted: NumPy's fails on two StringDType arrays that hold strings of more than 15 bytes.
        return {raw: index for index, raw in enumerate(self.ids.tolist())}

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.ids, kind="stable")
        return order, self.ids[order]


def _integer(value: Any) -> int | None:
    """The value as an int64, or None where it is none (also ``1.5`` and numbers beyond 64 bits)."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    exact = not isinstance(value, (float, np.floating)) or value == number
    return number if exact and -(2**63) <= number < 2**63 else None
