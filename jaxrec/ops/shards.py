"""Tables whose rows are dealt over the axis ``model`` of a mesh, round robin: of n devices d has the rows d, d + n,
d + 2 n, ... Items are numbered by how often they occur, so blocks of rows would leave nearly all work to one device.

An array of V rows becomes one of n * L, L a multiple of n, in which each device's rows lie one behind the other and
rows of zeros behind them. A step's positions are sorted by whose rows they read. Each device hands its rows to all,
since candidates are scored everywhere, ``capacity`` of them at a time: what does not fit waits for another round, so
that shapes are fixed and nothing is lost. The derivative of a row goes to all as it does without dealing, and only
the row's device updates it, beside what the optimizer keeps of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec.ops.parallel import MODEL, Placement, by_hand
from jaxrec.ops.rows import DealtRows, add_rows, places_here, rows_each

RARELY = "further_rounds"  # the scope of loops that do not turn unless many rows of a step are one device's
DEALT_AT_ONCE = 2**26  # bytes of a device's block that change places at a time
HERE, ALL = PartitionSpec(MODEL), PartitionSpec()


class Shares(NamedTuple):
    """Which of M positions read rows of which of n devices; leaves may lead with steps."""

    order: Array  # int32[M], the positions: by device, and in order; those that read nothing last
    start: Array  # int32[n + 1], where in ``order`` the positions of each device begin; last those of none
    turn: Array  # int32[M], the number of each position among its device's, from 0 on; -1 where nothing is read


def capacity(positions: int, shards: int) -> int:
    """Rows that a device hands out in a round: an even share and four standard deviations more."""
    mean = positions / shards
    return min(positions, 8 * math.ceil((mean + 4 * math.sqrt(mean)) / 8))


def shares_of(ids: Array, rows: int, shards: int) -> Shares:
    """Of int32[..., M] ids without duplicates, whose numbers from ``rows`` on read nothing."""
    last = ids.ndim - 1
    positions = jax.lax.broadcasted_iota(jnp.int32, ids.shape, last)
    owner = jnp.where(ids < rows, ids % shards, shards)
    ordered, order = jax.lax.sort((owner, positions), dimension=last, num_keys=2)
    start = jnp.sum(owner[..., None, :] < jnp.arange(shards + 1)[:, None], axis=-1, dtype=jnp.int32)
    turn = jnp.where(ordered < shards, positions - jnp.take_along_axis(start, ordered, axis=-1), -1)
    _, turn = jax.lax.sort((order, turn), dimension=last, num_keys=1)
    return Shares(order, start, turn)


def _further(own: Shares, size: int, one: Callable[[Array, Any], Any], first: Any) -> Any:
    """What becomes of the first round's result in as many further ones as the device with the most rows needs."""
    rounds = -(-jnp.max(own.start[1:] - own.start[:-1]) // size)
    with jax.named_scope(RARELY):
        return jax.lax.fori_loop(1, rounds, one, first)


def _mine(own: Shares, turn: Array, size: int) -> tuple[Array, Array]:
    """int32[size] positions whose rows this device hands out in a round, and bool[size], which of them there are."""
    device = jax.lax.axis_index(MODEL)
    place = own.start[device] + turn * size + jnp.arange(size)
    return own.order.at[place].get(mode="clip"), place < own.start[device + 1]


def _on_each(function: Callable[..., Any], on: Placement, inputs: Any, outputs: Any) -> Callable[..., Any]:
    """The function on each device's part of ``HERE`` arrays; what comes out to ``ALL`` is the same on every device."""
    return jax.shard_map(function, mesh=on.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def gather_rows(table: Array, ids: Array, own: Shares, on: Placement) -> Array:
    """float32[M, width] on every device: the rows of a dealt table at int32[M], zeros where nothing is read."""
    n, size = on.shards, capacity(len(ids), on.shards)

    def on_each(table: Array, ids: Array, own: Shares) -> Array:
        def hand_out(turn: Array, rows: Array) -> Array:
            at, there = _mine(own, turn, size)
            mine = table.at[jnp.where(there, ids[at] // n, len(table))].get(mode="fill", fill_value=0.0)
            every = jax.lax.all_gather(mine, MODEL, tiled=True)  # [n * size, width]
            now = own.turn // size == turn
            found = every[jnp.where(now, ids % n * size + own.turn - turn * size, 0)]
            return jnp.where(now[:, None], found, rows)

        first = hand_out(jnp.zeros((), jnp.int32), jnp.zeros((len(ids), table.shape[1]), table.dtype))
        return _further(own, size, hand_out, first)

    rows: Array = _on_each(on_each, on, (HERE, ALL, ALL), ALL)(table, ids, own)
    return rows


Update = Callable[[Array, Any, Array, Array, Any], tuple[Array, Any]]
"""From rows float32[L, width] and an optimizer's state of them, int32[K] which of them are updated, L and more for
none, int32[K] at which positions they stand, and whatever is by position, to the new rows and state."""


def update_each(
    update: Update, by_row: Any, table: Array, state: Any, ids: Array, own: Shares, rest: Any, on: Placement
) -> tuple[Array, Any]:
    """``update`` of a dealt table and its state, on each device of its own rows alone, a round of positions after the
    other. Of the state's leaves those of ``by_row`` are dealt as the table is; all others, as a step count, go on once.
    Whatever is by position, ``rest``, every device has."""
    n, size = on.shards, capacity(len(ids), on.shards)
    places = jax.tree.map(lambda dealt: HERE if dealt else ALL, by_row)

    def on_each(table: Array, state: Any, ids: Array, own: Shares, rest: Any) -> tuple[Array, Any]:
        def take(turn: Array, now: tuple[Array, Any]) -> tuple[Array, Any]:
            at, there = _mine(own, turn, size)
            row = jnp.where(there, ids[at] // n, len(table) + jnp.arange(size))
            mixed = jax.tree.map(lambda dealt, new, old: new if dealt else old, by_row, now[1], state)
            return update(now[0], mixed, row, at, rest)

        first = take(jnp.zeros((), jnp.int32), (table, state))
        return _further(own, size, take, first)

    inputs, outputs = (HERE, places, ALL, ALL, ALL), (HERE, places)
    done: tuple[Array, Any] = _on_each(on_each, on, inputs, outputs)(table, state, ids, own, rest)
    return done


# ---- dense tables ----------------------------------------------------------------------------------------------------


def _look_up_forward(table: Array, ids: Array, on: Placement) -> tuple[Array, tuple[Array, int]]:
    """float32[..., width] on every device: the rows of a dealt table at int32[...], zeros for -1. Of the derivative
    each device adds up what is of its own rows."""
    return DealtRows(table, len(table), _mesh(on)).read(ids), (ids, len(table) // on.shards)


def _look_up_backward(on: Placement, saved: tuple[Array, int], slope: Array) -> tuple[Array, None]:
    ids, rows = saved

    def on_each(ids: Array, slope: Array) -> Array:
        return add_rows(places_here(ids, on.shards).reshape(-1), slope.reshape(-1, slope.shape[-1]), rows, on)

    return _on_each(on_each, on, (ALL, ALL), HERE)(ids, on.whole(slope)), None


look_up_dealt: Any = by_hand(_look_up_forward, _look_up_backward, (2,))


# ---- how a table is dealt, and gathered again ------------------------------------------------------------------------


def deal_rows(table: Array, on: Placement) -> Array:
    """An array [V, ...] as it is dealt, [n * L, ...]: blocks of rows, as which a compiler can make it without making it
    whole anywhere, change places, so many at a time that little is there a third time."""
    n = on.shards
    each = rows_each(len(table), n)
    rows, width = each // n, math.prod(table.shape[1:])  # rows that a device has of another's block
    turns = -(-rows * n * width * table.dtype.itemsize // DEALT_AT_ONCE)
    size = -(-rows // turns)
    padded = jnp.pad(table, [(0, n * each - len(table))] + [(0, 0)] * (table.ndim - 1))
    padded = jax.lax.with_sharding_constraint(padded, NamedSharding(_mesh(on), HERE))

    def on_each(block: Array) -> Array:  # rows that follow one another
        device = jax.lax.axis_index(MODEL)

        def deal(turn: Array, dealt: Array) -> Array:
            start = jnp.minimum(turn * size, rows - size)
            part = jax.lax.dynamic_slice_in_dim(block, start * n, size * n).reshape(size, n, *block.shape[1:])
            for far in range(n):  # libtpu 0.0.42 ends at an all-to-all within groups of 16 of 64 devices
                mine = jax.lax.dynamic_index_in_dim(part, (device + far) % n, 1, keepdims=False)
                found = jax.lax.ppermute(mine, MODEL, [(one, (one + far) % n) for one in range(n)])
                dealt = jax.lax.dynamic_update_slice_in_dim(dealt, found, (device - far) % n * rows + start, 0)
            return dealt

        dealt: Array = jax.lax.fori_loop(0, turns, deal, jnp.zeros_like(block))
        return dealt

    dealt: Array = _on_each(on_each, on, HERE, HERE)(padded)
    return dealt


def _mesh(on: Placement) -> Any:
    assert on.mesh is not None
    return on.mesh
