"""Item vectors of two heads side by side, without a copy of either: a table with a row for each item, and texts that
items share. Side by side at once they would be a second catalogue in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from jaxrec.ops.parallel import MODEL, in_blocks, joined
from jaxrec.ops.rows import DealtRows, Table, look_up, places_here

NAMES_AT_ONCE = 65_536  # projected in one go
EXACT = jax.lax.Precision.HIGHEST  # accelerators default to fewer bits


@partial(
    jax.tree_util.register_dataclass, data_fields=["rows", "trained", "new_row", "texts", "text_of"], meta_fields=[]
)
@dataclass(frozen=True)
class Heads:
    """The vectors of V items, float32[V, D + T]: rows of width D, and behind them texts of width T; either may be
    missing."""

    rows: Array | None  # float32[at most V, D]
    trained: Array  # bool[V], whether an item has its own row
    new_row: Array | None  # float32[D], in the place of a row
    texts: Array | None  # float32[U, T]
    text_of: Array | None  # int32[V], the text of each item; -1: none, which is zeros; None: each has its own

    def __len__(self) -> int:
        return len(self.trained)

    @property
    def width(self) -> int:
        return sum(part.shape[1] for part in (self.rows, self.texts) if part is not None)

    @property
    def text_part(self) -> slice:
        """Which numbers of a vector are of the text."""
        return slice(0 if self.rows is None else self.rows.shape[1], None)

    def part(self, start: Array | int, size: int) -> Array:
        """float32[size, D + T]: the vectors from ``start`` on."""

        def of(array: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(array, start, size)

        parts = []
        if self.rows is not None and self.new_row is not None:
            parts.append(jnp.where(of(self.trained)[:, None], of(self._padded(self.rows)), self.new_row))
        if self.texts is not None:
            parts.append(of(self.texts) if self.text_of is None else look_up(self.texts, of(self.text_of)))
        return jnp.concatenate(parts, axis=1)

    def whole(self) -> Array:
        """float32[V, D + T]: all vectors."""
        return self.part(0, len(self))

    def scores(self, queries: Array) -> Array:
        """float32[q, V]: the products with float32[q, D + T] queries, as the sum of two: of every row, and of every
        text once."""
        total = jnp.zeros((len(queries), len(self)))
        if self.rows is not None and self.new_row is not None:
            of_rows = queries[:, : self.rows.shape[1]]
            own = jnp.matmul(of_rows, self.rows.T, precision=EXACT)
            own = jnp.pad(own, ((0, 0), (0, len(self) - own.shape[1])))
            total = jnp.where(self.trained, own, jnp.matmul(of_rows, self.new_row, precision=EXACT)[:, None])
        if self.texts is not None:
            of_texts = jnp.matmul(queries[:, self.text_part], self.texts.T, precision=EXACT)
            total += of_texts if self.text_of is None else jnp.where(self.text_of < 0, 0.0, of_texts[:, self.text_of])
        return total

    def extended(self, texts: Array, size: int) -> Heads:
        """These items and behind them others without rows, one for each of float32[n, T] ``texts``; in all ``size``, of
        which the last are padding."""
        assert self.texts is not None and self.text_of is not None
        more, new = size - len(self), np.full(size - len(self), -1, np.int32)
        new[: len(texts)] = len(self.texts) + np.arange(len(texts))
        return replace(
            self,
            trained=jnp.pad(self.trained, (0, more)),
            texts=jnp.concatenate([self.texts, jnp.pad(texts, ((0, more - len(texts)), (0, 0)))]),
            text_of=jnp.concatenate([self.text_of, jnp.asarray(new)]),
        )

    def _padded(self, rows: Array) -> Array:
        return rows if len(rows) == len(self) else jnp.pad(rows, ((0, len(self) - len(rows)), (0, 0)))


@partial(jax.jit, static_argnums=0)
def texts_by_item(
    texts: Callable[[Any, Array], Array], weights: Any, names: Table, name_of: DealtRows
) -> Array:  # fmt: skip
    """float32[n * L, T], dealt as int32[V] ``name_of`` is: for each item on its device ``texts(weights, vectors)`` of
    its name, from float16[U, dim] ``names``. A name lies on another device than most items that it is of, so vectors
    are exchanged, a part at a time."""
    shards, everywhere, by_rows = name_of.shards, PartitionSpec(), PartitionSpec(MODEL)
    dealt = isinstance(names, DealtRows)

    def on_each(weights: Any, names: Array, name_of: Array) -> Array:
        def one(mine: Array) -> Array:
            if not dealt:
                return texts(weights, look_up(names, mine, jnp.bfloat16))
            asked = jax.lax.all_gather(mine, MODEL, tiled=True)
            found = look_up(names, places_here(asked, shards), jnp.bfloat16)
            return texts(weights, jax.lax.psum_scatter(found, MODEL, tiled=True))

        parts = in_blocks(name_of, max(1, min(len(name_of), NAMES_AT_ONCE // shards)))
        made: Array = joined(jax.lax.map(one, parts), len(name_of))
        return made

    places = everywhere, by_rows if dealt else everywhere, by_rows
    of_each = jax.shard_map(on_each, mesh=name_of.mesh, in_specs=places, out_specs=by_rows, check_vma=False)
    made: Array = of_each(weights, names.array if isinstance(names, DealtRows) else names, name_of.array)
    return made
