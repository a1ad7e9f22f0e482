"""Where a program's arrays lie and what its products multiply: lanes, rows and scored positions are dealt over all
devices of a mesh, rows of tables over its axis ``model`` where it has one (``ops.shards``); all else, random numbers
too, is the same on every device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError
from jaxrec.ops import hosts

DATA, MODEL = "data", "model"
"""Axes of a mesh. Steps are dealt over both; rows of tables over the second, where there is one."""


def make_mesh(data: int | None, batch: int, model: int = 1) -> Mesh | None:
    """A mesh over the first ``data * model`` devices (None: all), those of all processes, which share a ``batch``; None
    where that is one."""
    every = jax.devices()
    shape = mesh_shape(len(every), data, batch, model, f"of devices ({every[0].platform}) there are {len(every)}")
    if (n := shape[0] * shape[1]) < len(every) and hosts.several():
        raise UserError(f"mesh.data: {n} of the {len(every)} devices of {jax.process_count()} processes would train, "
                        "and all have to; leave it out")  # fmt: skip
    return mesh_over(every, shape)


def mesh_shape(devices: int, data: int | None, batch: int, model: int, there: str) -> tuple[int, int]:
    """Sides of a mesh, ``data`` and ``model``, over so many devices, which ``there`` says, or why there is none."""
    if data is None and devices % model:
        raise UserError(f"mesh.model: found {model}; {there}; give a divisor of that, or mesh.data as well")
    data = devices // model if data is None else data
    n = data * model
    if n > devices:
        name, number = ("mesh.data", str(n)) if model == 1 else ("mesh.data x mesh.model", f"{data} x {model}")
        raise UserError(f"{name}: found {number}; {there}; give at most that, or leave mesh.data out for all")
    if batch % n:
        name = "mesh.data" if model == 1 else "mesh.data x mesh.model"
        raise UserError(f"training.batch_size: {batch} cannot be shared evenly by {n} devices ({name}); the next "
                        f"that can is {-(-batch // n) * n}")  # fmt: skip
    return data, model


def mesh_over(devices: Sequence[Any], shape: tuple[int, int]) -> Mesh | None:
    """The mesh of a shape over the first of some devices."""
    data, model = shape
    if data * model == 1:
        return None
    axes, sides = ((DATA, MODEL), shape) if model > 1 else ((DATA,), (data,))
    return jax.make_mesh(sides, axes, axis_types=(AxisType.Auto,) * len(axes), devices=devices[: data * model])


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays on every device of the mesh; without one, on the first device for good."""
    return hosts.put(tree, jax.local_devices()[0] if mesh is None else NamedSharding(mesh, PartitionSpec()))


def deal(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """The arrays, also NumPy's, with this axis dealt over the devices."""
    return replicate(tree, None) if mesh is None else hosts.put(tree, _dealt(mesh, axis))


def deal_parts(part: Callable[[int, int], Any], mesh: Mesh, axis: int = 0) -> Any:
    """``deal``'s arrays, from ``part(i, n)``, NumPy's of the devices at place i of n; of other hosts' none is made."""
    return hosts.put_parts(part, _dealt(mesh, axis), axis)


def like(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """The shapes of ``deal``'s arrays, to compile for."""
    if mesh is None:
        return tree
    dealt = _dealt(mesh, axis)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=dealt), tree)


def platform_of(device: jax.Device) -> str:
    """``cpu``, ``gpu`` or ``tpu``; JAX has several names of GPUs."""
    return device.platform if device.platform in ("cpu", "tpu") else "gpu"


def take_turns(results: Any, mesh: Mesh | None) -> None:
    """Wait for results where devices are virtual ones of a CPU, whose programs could wait for each other for ever."""
    if mesh is not None and mesh.devices.flat[0].platform == "cpu":
        jax.block_until_ready(results)


def pad(size: int, mesh: Mesh | None) -> int:
    """The next size that the devices can share evenly."""
    n = 1 if mesh is None else mesh.size
    return -(-size // n) * n


def _dealt(mesh: Mesh, axis: int) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, mesh.axis_names))


def place_of_rows(rows: int, mesh: Mesh | None) -> NamedSharding | None:
    """Where a table of so many rows lies, if it is dealt over devices."""
    return NamedSharding(mesh, PartitionSpec(MODEL)) if mesh is not None and Placement(mesh).deals(rows) else None


def in_blocks(tree: Any, rows: int) -> Any:
    """The arrays, [n, ...], as blocks of so many rows, [blocks, rows, ...], the last one filled up with zeros."""

    def cut(leaf: Array) -> Array:
        blocks = -(-len(leaf) // rows)
        padded = jnp.pad(leaf, [(0, blocks * rows - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(blocks, rows, *leaf.shape[1:])

    return jax.tree.map(cut, tree)


def joined(tree: Any, n: int) -> Any:
    """The first ``n`` rows of blocks, [n, ...] from [blocks, rows, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])[:n], tree)


def by_hand(forward: Callable[..., Any], backward: Callable[..., Any], static: tuple[int, ...] = ()) -> Any:
    """The function, of positional arguments, whose ``forward`` gives its result and what ``backward`` takes."""
    function: Any = jax.custom_vjp(lambda *arguments: forward(*arguments)[0], nondiff_argnums=static)
    function.defvjp(forward, backward)
    return function


@dataclass(frozen=True)
class Placement:
    """Handed down while a program is traced."""

    mesh: Mesh | None = None  # devices that share each step; None: one, where whole, dealt and taken do nothing
    low: bool = False  # matrix products multiply bfloat16, forward and backward, with sums in float32
    platform: str = "cpu"  # what runs the program, of ``platform_of``: it decides where platforms want other forms

    @property
    def shards(self) -> int:
        """Over how many devices the rows of a table are dealt."""
        return 1 if self.mesh is None else self.mesh.shape.get(MODEL, 1)

    def deals(self, rows: int) -> bool:
        """Whether a table of so many rows is dealt; a smaller one than there are devices lies whole on each."""
        return 1 < self.shards <= rows

    @property
    def sorts(self) -> bool:
        """Whether rows that a step reads twice are found by sorting, for all steps of a block at once, and not by marks
        of the length of a table, which a CPU is faster with."""
        return self.platform != "cpu" or self.shards > 1

    def by_rows(self, tree: Any) -> Any:
        """The same tables, as they are dealt."""

        def one(leaf: Array) -> Array:
            place = place_of_rows(len(leaf), self.mesh)
            return self.whole(leaf) if place is None else jax.lax.with_sharding_constraint(leaf, place)

        return jax.tree.map(one, tree)

    def whole(self, tree: Any) -> Any:
        """The same arrays, complete on every device."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))

    def dealt(self, tree: Any, axis: int = 0) -> Any:
        """The same arrays, this axis dealt over the devices; left to the compiler where they cannot share it evenly."""
        if self.mesh is None:
            return tree
        spread, n, constrained = _dealt(self.mesh, axis), self.mesh.size, jax.lax.with_sharding_constraint
        return jax.tree.map(lambda leaf: leaf if leaf.shape[axis] % n else constrained(leaf, spread), tree)

    def taken(self, tree: Any) -> Any:
        """Each device's share of arrays that all have; its derivative is exchanged as it is, not added up before."""
        return self.dealt(self.whole(tree))

    def sum_by_rows(self, function: Callable[..., tuple[Any, Any]], rows: Any, rest: Any) -> tuple[Any, Any]:
        """``function(rows, rest) -> (sums, found)``, sums over rows, whose leading axis is dealt, and rows again: each
        device works through its own rows, of which the compiler would hand every block to all."""
        if self.mesh is None:
            return function(rows, rest)

        def on_each(rows: Any, rest: Any) -> tuple[Any, Any]:
            sums, found = function(rows, rest)
            return jax.lax.psum(sums, axes), found

        axes = self.mesh.axis_names
        mine, every = PartitionSpec(axes), PartitionSpec()
        # What varies from device to device is not checked: the begin of a scan does not, its end does.
        return jax.shard_map(
            on_each, mesh=self.mesh, in_specs=(mine, every), out_specs=(every, mine), check_vma=False
        )(rows, rest)  # fmt: skip

    def sum_by_rows_and_items(
        self, function: Callable[..., tuple[Any, Any, Any]], rows: Any, items: Any
    ) -> tuple[Any, Any, Any]:
        """``function(rows, items) -> (sums, of items, of rows)`` where items are dealt (``ops.shards``): each device
        works through the rows of its group and the items it has. Sums and what is of items are of the group's rows,
        what is of rows of the device's items, and is added up."""

        def on_each(rows: Any, items: Any) -> tuple[Any, Any, Any]:
            sums, of_items, of_rows = function(rows, items)
            return *jax.lax.psum((sums, of_items), DATA), jax.lax.psum(of_rows, MODEL)

        mine, here, every = PartitionSpec(DATA), PartitionSpec(MODEL), PartitionSpec()
        assert self.mesh is not None
        return jax.shard_map(
            on_each, mesh=self.mesh, in_specs=(mine, here), out_specs=(every, here, mine), check_vma=False
        )(rows, items)  # fmt: skip

    def product(self, left: Array, right: Array) -> Array:
        """float32[..., M, N] from float32[..., M, K] and float32[K, N], or float32[..., K, N] of the same axes."""
        return _product(left, right) if self.low else left @ right

    def rounded(self, *arrays: Array) -> tuple[Array, ...]:
        """The arrays as they are to be multiplied, for a product that is differentiated by hand."""
        return tuple(array.astype(jnp.bfloat16) for array in arrays) if self.low else arrays


ONE, LOW = Placement(), Placement(low=True)
"""One device and float32, what evaluates and serves; one device and bfloat16."""


def _forward(left: Array, right: Array) -> tuple[Array, tuple[Array, ...]]:
    factors = LOW.rounded(left, right)  # kept rounded for the derivative
    return _multiply(*factors), factors


def _backward(factors: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    (left, right), (slope,) = factors, LOW.rounded(slope)
    by_left = _multiply(slope, right.mT)
    if right.ndim == 2:
        left, slope = left.reshape(-1, left.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return by_left, _multiply(left.mT, slope)


def _multiply(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


_product = by_hand(_forward, _backward)
