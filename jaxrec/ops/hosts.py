"""Arrays and values of a run that several processes train, a process for each host: global arrays, of which each puts
its own part on its own devices, and what the processes tell each other. Of one process nothing is exchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding


def several() -> bool:
    """Whether this run is trained by more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


# ---- arrays ----------------------------------------------------------------------------------------------------------


def put(tree: Any, place: Sharding | jax.Device) -> Any:
    """``jax.device_put``. Where devices of other processes belong to the place, each process has to hold the whole
    arrays, and puts what its own devices take of them; nothing is sent."""
    if isinstance(place, jax.Device) or place.is_fully_addressable:
        return jax.device_put(tree, place)

    def one(leaf: Any) -> Array:
        if isinstance(leaf, Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, place)  # one that all processes share already
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    return jax.tree.map(one, tree)


def put_parts(part: Callable[[int, int], Any], place: NamedSharding, axis: int) -> Any:
    """The global arrays whose ``axis`` is dealt, from ``part(i, n)``, a tree of NumPy arrays with what the devices hold
    that have part i of n. Parts of other processes' devices are never made."""
    cells = place.addressable_devices_indices_map((1,) * axis + (place.num_devices,))
    spans = {device: index[axis].indices(place.num_devices)[:2] for device, index in cells.items() if index is not None}
    size = next(stop - start for start, stop in spans.values())
    n, of_device = place.num_devices // size, {device: start // size for device, (start, _) in spans.items()}
    parts = {position: part(position, n) for position in sorted(set(of_device.values()))}

    def joined(*leaves: np.ndarray) -> Array:
        leaf = dict(zip(parts, leaves, strict=True))
        shape = list(leaves[0].shape)
        shape[axis] *= n
        local = [jax.device_put(leaf[position], device) for device, position in of_device.items()]
        return jax.make_array_from_single_device_arrays(tuple(shape), place, local)

    return jax.tree.map(joined, *parts.values())


def share(position: int, parts: int, tree: Any) -> Any:
    """What the devices at a position, of so many parts, hold of arrays [S, B, ...] whose axis 1 is dealt."""

    def one(leaf: Any) -> Any:
        size = leaf.shape[1] // parts
        return leaf[:, position * size : (position + 1) * size]

    return jax.tree.map(one, tree)


# ---- values ----------------------------------------------------------------------------------------------------------


def said(value: Any) -> list[Any]:
    """The JSON values that the processes say, by rank: all have to call this at the same place, and wait for each
    other. Floats arrive bit for bit."""
    if not several():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(text)], np.int32)).reshape(-1)
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(sizes.max()) - len(text))))
    return [json.loads(bytes(row[:size])) for row, size in zip(texts, sizes, strict=True)]


class Largest:
    """The largest of the numbers that the processes say after each block of steps, one block late: no host waits for
    its devices. All processes have the same answer; a number other than 0 is not said again at the next call."""

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh if several() else None
        self._coming: Array | None = None

    def __call__(self, number: int) -> int:
        if self._mesh is None:
            return number
        every = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        local = jax.make_array_from_callback((self._mesh.size,), every, lambda index: np.full(1, number, np.int32))
        before, self._coming = self._coming, _largest(local, self._mesh)
        if self._mesh.devices.flat[0].platform == "cpu":  # whose programs could wait for each other for ever
            jax.block_until_ready(self._coming)
        if before is None or not int(before):
            return 0
        self._coming = None
        return int(before)


@partial(jax.jit, static_argnames="mesh")
def _largest(numbers: Array, mesh: Mesh) -> Array:
    return jax.lax.with_sharding_constraint(jnp.max(numbers), NamedSharding(mesh, PartitionSpec()))
