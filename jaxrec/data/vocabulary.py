"""Raw item ids to indices and back; the only place where raw ids live after preparation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.raw_ids import Places, plain, whole
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
        """int32[n] indices of raw ids; -1 for one that is not in the vocabulary. See ``jaxrec.data.raw_ids``."""
        values = list(raw)
        if not values or not len(self.ids):
            return np.full(len(values), -1, np.int32)
        if self.ids.dtype != np.int64:
            return np.array([self._places.find(value) for value in values], np.int32)
        numbers = [whole(plain(value)) for value in values]
        wanted = np.array([0 if number is None else number for number in numbers], np.int64)
        valid = np.array([number is not None for number in numbers])
        order, ordered = self._sorted
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(valid & (ordered[place] == wanted), order[place], -1).astype(np.int32)

    def nearest(self, value: Any) -> str:
        """`` (did you mean 'x'?)`` where an id is close, otherwise an empty string."""
        return "" if self.ids.dtype == np.int64 else self._places.nearest(value)

    def decode(self, indices: np.ndarray) -> list[int] | list[str]:
        """Raw ids of int[n] indices, as Python integers or strings."""
        picked = self.ids[np.asarray(indices)]
        return [int(value) for value in picked] if self.ids.dtype == np.int64 else [str(value) for value in picked]

    @cached_property
    def _places(self) -> Places:
        # Not searchsorted: NumPy's fails on two StringDType arrays that hold strings of more than 15 bytes.
        return Places(self.ids.tolist())

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.ids, kind="stable")
        return order, self.ids[order]
