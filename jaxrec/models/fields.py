"""The fields of a row as vectors: every field's values stacked in one table, so that a batch is one gather."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.data.rows import Schema


class Stack(NamedTuple):
    """Where the values of each field lie in the stacked table.

    Attributes:
        offsets: int32[C + M]: of each column, then of each number, the first row of its field.
        widths: columns of each coded field, in order.
        unknown: int32[fields]: the row of each coded field's unknown value.
        order: the place of each field of the schema among coded fields first, numbers last.
        rows: of the table.
    """

    offsets: np.ndarray
    widths: tuple[int, ...]
    unknown: np.ndarray
    order: tuple[int, ...]
    rows: int

    @classmethod
    def of(cls, schema: Schema) -> Stack:
        sizes = [field.size for field in (*schema.coded, *schema.numerical)]
        starts = np.cumsum([0, *sizes])
        widths = [field.width for field in schema.coded] + [1] * len(schema.numerical)
        names = [field.name for field in (*schema.coded, *schema.numerical)]
        order = tuple(names.index(field.name) for field in schema.fields)
        unknown = starts[: len(schema.coded)].astype(np.int32)
        offsets = np.repeat(starts[:-1], widths).astype(np.int32)
        return cls(offsets, tuple(field.width for field in schema.coded), unknown, order, int(starts[-1]))

    def ids(self, columns: Array) -> Array:
        """int32[..., C + M]: rows of the table; -1 where a bag has ended. Numbers read the one row of their field."""
        numbers = len(self.offsets) - columns.shape[-1]
        coded = jnp.where(columns < 0, -1, columns + self.offsets[: columns.shape[-1]])
        fixed = jnp.broadcast_to(self.offsets[columns.shape[-1] :], (*columns.shape[:-1], numbers))
        return jnp.concatenate([coded, fixed], axis=-1)

    def fold(self, vectors: Array, ids: Array, numbers: Array) -> Array:
        """One vector a field: a value's own, the mean of a bag's (section 4.2), or a number times its field's.

        Args:
            vectors: float32[B, C + M, D], of ``ids``; whatever stands where an id is -1.
            ids: int32[B, C + M].
            numbers: float32[B, M].

        Returns:
            float32[B, F, D], in the order of the schema.
        """
        parts, start = [], 0
        for width in self.widths:
            part = vectors[:, start : start + width]
            if width > 1:
                held = (ids[:, start : start + width] >= 0)[..., None]
                total = jnp.sum(jnp.where(held, part, 0.0), axis=1, keepdims=True)
                part = total / jnp.maximum(jnp.sum(held, axis=1, keepdims=True), 1)
            parts.append(part)
            start += width
        if numbers.shape[-1]:
            parts.append(vectors[:, start:] * numbers[..., None])
        stacked = jnp.concatenate(parts, axis=1)
        in_order = self.order == tuple(range(len(self.order)))
        return stacked if in_order else stacked[:, np.array(self.order)]
