"""Rows of arrays by their numbers, with derivatives in the form that the platform is fast at; also of tables whose rows
are dealt over devices (``ops.shards``), as evaluation and serving read them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec.ops import hosts
from jaxrec.ops.parallel import MODEL, Placement, by_hand, place_of_rows

CELLS = 2**22  # of the one-hot matrix of rows and places, up to which a derivative is a product and not a scatter
SUMMED = 2**24  # numbers, up to which a GPU adds them under a mask: one kernel, where a product is two


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["rows", "mesh"])
@dataclass(frozen=True)
class DealtRows:
    """An array of V rows, dealt round robin over the n devices of a mesh's axis ``model``, L = len(array) / n each; or
    a tree of such arrays, of which each device makes vectors of its rows (``topk.InParts``)."""

    array: Any  # [n * L, ...]: the rows of one device behind those of another
    rows: int  # V
    mesh: Mesh

    def __len__(self) -> int:
        return self.rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows, *self.array.shape[1:]

    @property
    def shards(self) -> int:
        return self.mesh.shape[MODEL]

    def of_rows(self, function: Callable[[Array], Array]) -> DealtRows:
        """With a function of each row in its place."""
        return replace(self, array=function(self.array))

    def whole(self) -> np.ndarray:
        """[V, ...]: the rows in their order, on the host."""
        here = self.array.is_fully_addressable
        array = np.asarray(self.array if here else multihost_utils.process_allgather(self.array, tiled=True))
        return gathered_array(array, self.rows, self.shards)

    def read(self, ids: Array, dtype: Any = None) -> Array:
        """[..., width] on every device: the rows at int32[...], zeros for -1; exchanged as numbers of ``dtype``."""

        def on_each(array: Array, ids: Array) -> Array:
            return jax.lax.psum(look_up(array, places_here(ids, self.shards), dtype), MODEL)

        places, everywhere = PartitionSpec(MODEL), PartitionSpec()
        read: Array = jax.shard_map(on_each, mesh=self.mesh, in_specs=(places, everywhere), out_specs=everywhere,
                                    check_vma=False)(self.array, ids)  # fmt: skip
        return read


Table = Array | DealtRows


def places_here(ids: Array, shards: int) -> Array:
    """int32[...], on each device: at which of its rows those of int32[...] numbers lie; -1 for others, and for -1."""
    mine = (ids >= 0) & (ids % shards == jax.lax.axis_index(MODEL))
    return jnp.where(mine, ids // shards, -1)


def rows_each(rows: int, shards: int) -> int:
    """Of a dealt array rows on each device, those of zeros included."""
    return -(-rows // shards**2) * shards


def gathered_array(array: np.ndarray, rows: int, shards: int) -> np.ndarray:
    """The array of a dealt one."""
    parts = array.reshape(shards, len(array) // shards, *array.shape[1:]).swapaxes(0, 1)
    return parts.reshape(array.shape)[:rows]


def deal(array: np.ndarray, mesh: Mesh) -> Any:
    """An array of the host as the devices of a mesh hold it, its rows dealt where there are enough of them: what is
    there already, if the same array was dealt before. No device and no process makes a second copy of all of it."""
    key = (id(array), mesh)
    if (found := _THERE.get(key)) is not None:
        return found
    place, shards = place_of_rows(len(array), mesh), mesh.shape[MODEL]
    if place is None:
        return hosts.put(array, NamedSharding(mesh, PartitionSpec()))
    each = rows_each(len(array), shards)

    def of_device(index: Any) -> np.ndarray:
        rows, mine = np.zeros((each, *array.shape[1:]), array.dtype), array[(index[0].start or 0) // each :: shards]
        rows[: len(mine)] = mine
        return rows

    dealt = jax.make_array_from_callback((shards * each, *array.shape[1:]), place, of_device)
    _THERE[key] = found = DealtRows(dealt, len(array), mesh)
    weakref.finalize(array, _THERE.pop, key, None).atexit = False
    return found


_THERE: weakref.WeakValueDictionary[tuple[int, Mesh], DealtRows] = weakref.WeakValueDictionary()


def shards_of(leaf: Any) -> int:
    """Over how many devices the rows of an array are dealt."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or tuple(sharding.spec[:1]) != (MODEL,):
        return 1
    return int(sharding.mesh.shape[MODEL])


def whole(table: Table) -> np.ndarray:
    """The array on the host, its rows in their order."""
    return table.whole() if isinstance(table, DealtRows) else np.asarray(table)


def mesh_of(tree: Any) -> Mesh | None:
    """The devices that arrays of a tree are dealt over; None where none is."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, DealtRows))
    return next((leaf.mesh for leaf in leaves if isinstance(leaf, DealtRows)), None)


def rows_at(table: Table, ids: Array, width: int | None = None) -> Array:
    """[..., width]: the rows at int32[...], which are all there, or the first columns of them."""
    if isinstance(table, DealtRows):
        return table.read(ids)[..., :width] if width else table.read(ids)
    return table[ids] if width is None else table[ids, :width]


def of_rows(table: Table, function: Callable[[Array], Array]) -> Any:
    """The table with a function of each row in its place."""
    return table.of_rows(function) if isinstance(table, DealtRows) else function(table)


def look_up(table: Table, ids: Array, dtype: Any = None) -> Array:
    """[..., width] from a dense table and int32[...], rounded to ``dtype``, or as they are; zeros for -1."""
    if isinstance(table, DealtRows):
        return table.read(ids, dtype)
    rows = table.at[jnp.where(ids < 0, len(table), ids)].get(mode="fill", fill_value=0)
    return rows if dtype is None else rounded(rows, dtype)


def rounded(numbers: Array, dtype: Any) -> Array:
    """As numbers of ``dtype``, also where a wider one is made of them next, which XLA takes as leave not to round."""
    kind = jnp.finfo(dtype)
    exact = jax.lax.reduce_precision(numbers.astype(jnp.float32), kind.nexp, kind.nmant)
    return exact.astype(dtype)


def _take_forward(array: Table, index: Array, on: Placement) -> tuple[Array, tuple[Array, int]]:
    """float32[..., width]: the rows of float32[n, width] at int32[...], zeros for -1. The derivative adds up the rows
    of equal places; on accelerators, where that is not too large, as a product with a one-hot matrix: a scatter would
    add floats in no fixed order on GPUs, and row by row on TPUs."""
    return look_up(array, index), (index, len(array))


def _take_backward(on: Placement, saved: tuple[Array, int], slope: Array) -> tuple[Array, None]:
    index, rows = saved
    return add_rows(index.reshape(-1), slope.reshape(-1, slope.shape[-1]), rows, on), None


_take: Any = by_hand(_take_forward, _take_backward, (2,))


def take_rows(array: Table, index: Array, on: Placement) -> Array:
    """See ``_take_forward``; on a CPU the derivative is a scatter."""
    rows: Array = look_up(array, index) if on.platform == "cpu" else _take(array, index, on)
    return rows


def add_rows(index: Array, values: Array, rows: int, on: Placement) -> Array:
    """float32[rows, width]: the sums of float32[n, width] values of equal places, int32[n], -1 for none; in a fixed
    order on accelerators unless there is too much of it."""
    cells = rows * len(index)
    if on.platform == "cpu" or cells > CELLS:
        begin = jnp.zeros((rows, values.shape[1]), values.dtype)
        return begin.at[jnp.where(index < 0, rows, index)].add(values, mode="drop")
    here = jnp.arange(rows)[:, None] == index
    if on.platform == "gpu" and cells * values.shape[1] <= SUMMED:
        return jnp.sum(jnp.where(here[:, :, None], values, 0.0), axis=1)
    return jnp.matmul(here.astype(values.dtype), values, precision=jax.lax.Precision.HIGHEST)
