"""Embedding tables whose rows are read, differentiated and updated alone: those of a step are made unique, gathered
with their optimizer state, given to the model as vectors, updated and scattered back into donated buffers, at a cost
that does not depend on the catalogue. Duplicates are merged without sorting: every position writes its mark into an
int32[V] array at its id, the highest wins, and reading back tells each position who stands for it. Marks grow from step
to step, so that the array is never cleared within a block. Rows may be dealt over devices (``ops.shards``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrec.ops import shards
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.rows import Table, take_rows


class TableSpec(NamedTuple):
    """A table's shape and how its rows begin."""

    rows: int
    width: int
    init: Callable[[Array, tuple[int, int]], Array]  # of a key and (rows, width); float32
    dense: bool = False  # handed to the model whole and updated whole, as where every row has a gradient


class Read(NamedTuple):
    """Rows that a step reads of a table. Columns that are not read are not updated, which matters to momentum."""

    ids: Array  # int32[...], duplicates and all; a number outside [0, V) reads nothing
    width: int | None = None  # the first so many columns alone are read; None: all


Reads = dict[str, Read]
"""What a step reads of one table, by what it is read for. Where an id stands twice, its first position decides which
columns are read: reads of some columns stand behind those of all."""


class RowPlan(NamedTuple):
    """Which rows a step touches, for a list of M ids with duplicates."""

    ids: Array  # int32[M]; of the first position with an id; elsewhere distinct ids V, V + 1, ... beyond the table
    # int32[M]; the position that stands for this one's id: ids[slot[i]] is the i-th id asked for. Where nothing is read
    # the position itself, and on accelerators -1.
    slot: Array
    columns: Array | None = None  # bool, broadcastable to [M, width]: which columns a position reads; None: all
    shares: shards.Shares | None = None  # which devices have the rows of a dealt table


class Tables:
    """The tables as one step sees them, wherever they lie: ``arrays`` are float32[V, width], or the rows of a plan,
    float32[M, width], of tables whose rows are read and updated alone."""

    def __init__(
        self, arrays: dict[str, Any], reads: dict[str, Reads] | None = None, plans: dict[str, RowPlan] | None = None,
        on: Placement = ONE,
    ) -> None:  # fmt: skip
        self._arrays, self._reads, self._plans, self.on = arrays, reads or {}, plans or {}, on

    def whole(self, table: str) -> Any:
        """float32[V, width]: a dense table, or as ``ops.shards`` deals it."""
        assert table not in self._plans
        return self._arrays[table]

    def rows(self, table: str, ids: Array) -> Array:
        """float32[..., width]: the rows of a dense table at int32[...], zeros for -1; each device has its share."""
        return self.on.taken(self._look_up(table, self.on.whole(ids)))

    def _look_up(self, table: str, ids: Array) -> Array:
        array: Table = self.whole(table)
        rows: Array = (shards.look_up_dealt if self.on.deals(len(array)) else take_rows)(array, ids, self.on)
        return rows

    def vectors(self, table: str, name: str) -> Array:
        """float32[..., width]: the rows of a read, zeros for none; each device has its share."""
        reads, array = self._reads[table], self._arrays[table]
        read, names = reads[name], list(reads)
        if table not in self._plans:
            return self.rows(table, read.ids)
        start = sum(reads[before].ids.size for before in names[: names.index(name)])
        slot = self._plans[table].slot[start : start + read.ids.size]
        if not self.on.sorts:
            rows = array[slot] if read.width is None else array[slot, : read.width]
        else:  # whole rows, which a TPU gathers at once
            rows = take_rows(array, slot, self.on)[:, : read.width]
        return self.on.taken(rows.reshape(*read.ids.shape, rows.shape[1]))

    def columns(self, table: str, *names: str) -> tuple[Array, Array]:
        """The rows of reads, which are the table's first, each item once: float32[C, width], zeros where another place
        stands for a candidate, and int32[C], the place that does."""
        reads = self._reads[table]
        size = sum(reads[name].ids.size for name in names)
        if table not in self._plans:
            ids = jnp.concatenate([reads[name].ids.reshape(-1) for name in names])
            return self._look_up(table, ids), jnp.arange(size)
        assert tuple(reads)[: len(names)] == names
        return self._arrays[table][:size], self._plans[table].slot[:size]

    def through(self, table: str, function: Callable[[Array], Array]) -> Tables:
        """The tables with a function of each row of one of them in its place."""
        return Tables(self._arrays | {table: function(self._arrays[table])}, self._reads, self._plans, self.on)


def plan_reads(marks: Array, reads: Reads, turn: Array, width: int, on: Placement = ONE) -> tuple[Array, RowPlan]:
    """Make all ids that a step reads of a table of this width unique: the marks, zeros at the start of a block, and the
    plan, in which a position that reads nothing stands for itself. ``(turn + 1) * M`` must stay below 2 ** 31."""
    parts = [on.whole(read.ids.reshape(-1)) for read in reads.values()]
    ids = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    rows, m = marks.shape[0], ids.shape[0]
    position = jnp.arange(m, dtype=jnp.int32)
    top = (turn + 1) * m
    inside = (ids >= 0) & (ids < rows)
    where = jnp.where(inside, ids, rows)
    marks = marks.at[where].max(top - position, mode="drop")  # the earliest position has the highest mark
    slot = jnp.where(inside, top - marks.at[where].get(mode="clip"), position)
    plan = RowPlan(jnp.where(inside & (slot == position), ids, rows + position), slot)
    return on.whole((marks, plan._replace(columns=read_columns(reads, width))))


def plan_block(reads: Sequence[Array], rows: int, on: Placement = ONE) -> RowPlan:
    """The plans of all steps of a block, int32[S, M] each, without marks: by sorting, which accelerators do at once for
    all steps, where a scatter in every step would be serial on TPUs and three kernels more on GPUs. From int32[S, ...]
    ids of each read, of a table of so many rows."""
    parts = [on.whole(ids.reshape(len(ids), -1)) for ids in reads]
    ids = jnp.concatenate(parts, axis=1)
    position = jax.lax.broadcasted_iota(jnp.int32, ids.shape, 1)
    key = jnp.where((ids >= 0) & (ids < rows), ids, rows + position)  # what reads nothing stands for itself
    ordered, order = jax.lax.sort((key, position), dimension=1, num_keys=2)
    first = jnp.pad(ordered[:, 1:] != ordered[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    begin = jax.lax.cummax(jnp.where(first, position, 0), axis=1)  # where the run of each id begins
    _, slot = jax.lax.sort((order, jnp.take_along_axis(order, begin, axis=1)), dimension=1, num_keys=1)
    ids = jnp.where(slot == position, key, rows + position)
    own = shards.shares_of(ids, rows, on.shards) if on.deals(rows) else None
    return on.whole(RowPlan(ids, jnp.where(key < rows, slot, -1), None, own))


def read_columns(reads: Reads, width: int) -> Array | None:
    """``RowPlan.columns`` of what a step reads of a table of this width."""
    m = sum(read.ids.size for read in reads.values())
    of_all = sum(read.ids.size for read in reads.values() if read.width is None)
    if of_all == m:
        return None
    least = min(read.width for read in reads.values() if read.width is not None)
    return (jnp.arange(m)[:, None] < of_all) | (jnp.arange(width) < least)


def gather(table: Array, plan: RowPlan, on: Placement = ONE) -> Array:
    """float32[M, width]: the rows of ``RowPlan.ids``; for those beyond the table zeros, and on accelerators, where the
    mask would be a kernel of its own, the last row: nothing reads it, and nothing is written there."""
    if plan.shares is not None:
        return shards.gather_rows(table, plan.ids, plan.shares, on)
    if on.platform != "cpu":
        return table.at[plan.ids].get(mode="clip")
    return table.at[plan.ids].get(mode="fill", fill_value=0.0, unique_indices=True)


def update_rows(
    optimizer: optax.GradientTransformation, live: Array, table: Array, state: Any, plan: RowPlan, rows: Array,
    gradient: Array, on: Placement = ONE, pace: Array | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """The new table and state of an optimizer that treats elements independently, applied to the rows of a plan,
    float32[M, width], with a gradient summed over duplicates. Where ``live`` is false the plan must be empty, and what
    is not by row (a step count) stays as well. ``pace``, float32[M, 1], multiplies the change of each row (None: 1)."""
    by_row = optax.tree.map_params(optimizer, lambda leaf: True, state, transform_non_params=lambda leaf: False)
    if plan.shares is not None:
        alone = Placement(low=on.low, platform=on.platform)

        def update(table: Array, state: Any, ids: Array, at: Array, rest: Any) -> tuple[Array, Any]:
            live, columns, rows, gradient, pace = rest
            columns, rows, gradient, pace = jax.tree.map(lambda leaf: leaf[at], (columns, rows, gradient, pace))
            return update_rows(optimizer, live, table, state, RowPlan(ids, at, columns), rows, gradient, alone, pace)

        rest = live, plan.columns, rows, gradient, pace
        return shards.update_each(update, by_row, table, state, plan.ids, plan.shares, rest, on)
    old_state = jax.tree.map(lambda is_row, leaf: gather(leaf, plan, on) if is_row else leaf, by_row, state)
    change, new_state = optimizer.update(gradient, old_state, rows)
    change = change if pace is None else pace * change

    def scatter(whole: Array, new: Array, old: Array) -> Array:
        new = new if plan.columns is None else jnp.where(plan.columns, new, old)
        return whole.at[plan.ids].set(new, mode="drop", unique_indices=True)

    def put(is_row: bool, leaf: Array, old: Array, new: Array) -> Array:
        return scatter(leaf, new, old) if is_row else jnp.where(live, new, old)

    state = jax.tree.map(put, by_row, state, old_state, new_state)
    return scatter(table, rows + change, rows), state


def glorot_like(key: Array, shape: tuple[int, int], blocks: int = 1) -> Array:
    """float32[shape], uniform in ±sqrt(6 / (rows + columns / blocks)), of ``blocks`` matrices side by side."""
    bound = (6.0 / (shape[0] + shape[1] / blocks)) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
