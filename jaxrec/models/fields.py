"""The fields of a row as vectors: every field's values stacked in one table, so that a batch is one gather."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import Config
from jaxrec.config.sections import Count, Positive
from jaxrec.data.dataset import Schema
from jaxrec.models.base import Dropping


class RowConfig(Dropping):
    """What models of rows of fields have in common."""

    embedding_dim: Count = 16
    """Width of the vectors of values."""
    table: Literal["dense", "rows"] = "dense"
    """Whether every row of the tables is updated in every step, or only those read (for large vocabularies)."""
    init_std: Positive | None = None
    """Standard deviation of the tables' initial vectors (null: 1 / sqrt(embedding_dim))."""

    def dense(self, config: Config) -> str:
        return "" if self.table == "dense" else "model.table dense, found rows"


class Stack(NamedTuple):
    """Where the values of each field lie in the stacked table; C columns of coded fields and M numbers."""

    offsets: np.ndarray  # int32[C + M]: of each column, then of each number, the first row of its field
    widths: tuple[int, ...]  # columns of each coded field, in order
    unknown: np.ndarray  # int32[fields]: the row of each coded field's unknown value
    order: tuple[int, ...]  # the place of each field of the schema among coded fields first, numbers last
    rows: int  # of the table

    @classmethod
    def of(cls, schema: Schema) -> Stack:
        fields = (*schema.coded, *schema.numerical)
        starts = np.cumsum([0, *(field.size for field in fields)])
        widths = [field.width for field in schema.coded]
        offsets = np.repeat(starts[:-1], widths + [1] * len(schema.numerical)).astype(np.int32)
        order = tuple(fields.index(field) for field in schema.fields)
        return cls(offsets, tuple(widths), starts[: len(widths)].astype(np.int32), order, int(starts[-1]))

    def ids(self, columns: Array) -> Array:
        """int32[..., C + M]: rows of the table; -1 where a bag has ended. Numbers read the one row of their field."""
        n = columns.shape[-1]
        coded = jnp.where(columns < 0, -1, columns + self.offsets[:n])
        fixed = jnp.broadcast_to(self.offsets[n:], (*columns.shape[:-1], len(self.offsets) - n))
        return jnp.concatenate([coded, fixed], axis=-1)

    def fold(self, vectors: Array, ids: Array, numbers: Array) -> Array:
        """float32[B, F, D], one vector a field, in the order of the schema: a value's own, the mean of a bag's (section
        4.2), or a number times its field's; from float32[B, C + M, D] vectors of ids and float32[B, M] numbers."""
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
        return stacked if self.order == tuple(range(len(self.order))) else stacked[:, np.array(self.order)]


def with_unknown(columns: Array, keys: Array, rate: float) -> Array:
    """int32[S, B, C] columns with a share of the values made unknown, so that its vector learns to stand for any."""
    if not rate or not columns.shape[-1]:
        return columns
    kept = jax.vmap(lambda key: byte_mask(key, columns.shape[1:], rate) > 0)(keys)
    return jnp.where(kept | (columns < 0), columns, 0)


def byte_mask(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """float32[shape], a dropout mask of mean 1, 0 at ``rate`` to a 256th, from bytes: 32 bits take too long."""
    dropped, size = min(max(round(rate * 256), 1), 255), math.prod(shape)
    words = jax.random.bits(key, (-(-size // 4),), jnp.uint32)  # drawn as bytes, each would take a word's time
    keep = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape) >= dropped
    return jnp.where(keep, jnp.float32(256 / (256 - dropped)), jnp.float32(0.0))
