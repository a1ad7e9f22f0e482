"""Several devices: a mesh of one axis over which the rows of a step are dealt.

Lanes, rows and scored positions, and what is carried by lane, are dealt over the axis ``data``; parameters, tables and
optimizer states are the same on every device. The compiler derives from that what has to be exchanged; where it would
have to guess, ``Placement`` says it. The program is the same for any number of devices, and its random numbers
are drawn at the global shape, so what is trained does not depend on how many there are, but for the order of sums.

What is traced is told by a ``Placement`` that is handed down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError
from jaxrec.ops import precision

AXIS = "data"


def make_mesh(devices: int | None, batch: int) -> Mesh | None:
    """A mesh over the first ``devices`` local devices, None for all; None where that is one.

    Args:
        batch: lanes, targets or rows of a step, which the devices have to share evenly.
    """
    found = jax.local_devices()
    n = len(found) if devices is None else devices
    if n > len(found):
        raise UserError(f"mesh.data: found {n}; of local devices ({found[0].platform}) there are {len(found)}; give at "
                        "most that, or leave it out for all")  # fmt: skip
    if batch % n:
        fewer = max(fewer for fewer in range(1, n) if batch % fewer == 0)
        raise UserError(f"training.batch_size: {batch} cannot be shared evenly by {n} devices (mesh.data); the next "
                        f"that can is {-(-batch // n) * n}, or give --mesh.data {fewer}")  # fmt: skip
    return None if n == 1 else jax.make_mesh((n,), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:n])


# ---- arrays on the devices -------------------------------------------------------------------------------------------


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays on every device of the mesh; without one, on the first device for good."""
    return jax.device_put(tree, jax.local_devices()[0] if mesh is None else NamedSharding(mesh, PartitionSpec()))


def deal(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """The arrays, also NumPy's, with this axis dealt over the devices."""
    return replicate(tree, None) if mesh is None else jax.device_put(tree, _dealt(mesh, axis))


def like(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
    """The shapes of ``deal``'s arrays, to compile for."""
    if mesh is None:
        return tree
    dealt = _dealt(mesh, axis)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=dealt), tree)


def local(tree: Any) -> Any:
    """Replicated arrays as those of the first device alone, without a copy: what is not trained runs there."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def take_turns(results: Any, mesh: Mesh | None) -> None:
    """Wait for a program's results where its devices are virtual ones of a CPU: they share their threads, so that two
    programs at a time can wait for each other for ever."""
    if mesh is not None and mesh.devices.flat[0].platform == "cpu":
        jax.block_until_ready(results)


def pad(size: int, mesh: Mesh | None) -> int:
    """The next size that the devices can share evenly."""
    n = 1 if mesh is None else mesh.size
    return -(-size // n) * n


def _dealt(mesh: Mesh, axis: int) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXIS))


# ---- within a compiled program ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """Where a program's arrays lie and what its products multiply; handed down while the program is traced.

    Attributes:
        mesh: devices that share each step; None: one, where ``whole``, ``dealt`` and ``taken`` do nothing.
        low: matrix products multiply bfloat16 (``ops.precision``).
    """

    mesh: Mesh | None = None
    low: bool = False

    def whole(self, tree: Any) -> Any:
        """The same arrays, complete on every device."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))

    def dealt(self, tree: Any, axis: int = 0) -> Any:
        """The same arrays, this axis dealt over the devices; one that they cannot share evenly is left to the
        compiler."""
        if self.mesh is None:
            return tree
        spread, n = _dealt(self.mesh, axis), self.mesh.size
        return jax.tree.map(
            lambda leaf: leaf if leaf.shape[axis] % n else jax.lax.with_sharding_constraint(leaf, spread), tree
        )

    def taken(self, tree: Any) -> Any:
        """Arrays that all devices have, of which each takes its share: what comes back as their derivative is exchanged
        as it is, and not added up in what they were read from."""
        return self.dealt(self.whole(tree))

    def sum_by_rows(self, function: Callable[..., tuple[Any, Any]], rows: Any, rest: Any) -> tuple[Any, Any]:
        """``function(rows, rest) -> (sums, found)`` where ``sums`` are sums over rows and ``found`` are rows again.

        On several devices each works through its own rows, in blocks of its own, and the sums are added up: left to
        itself the compiler would hand every block to all devices.

        Args:
            rows: a tree of arrays whose leading axis is dealt.
            rest: a tree of arrays that all devices have.
        """
        if self.mesh is None:
            return function(rows, rest)

        def on_each(rows: Any, rest: Any) -> tuple[Any, Any]:
            sums, found = function(rows, rest)
            return jax.lax.psum(sums, AXIS), found

        mine, all_ = PartitionSpec(AXIS), PartitionSpec()
        # What varies from device to device is not checked: the begin of a scan does not, its end does.
        each = jax.shard_map(
            on_each, mesh=self.mesh, in_specs=(mine, all_), out_specs=(all_, mine), check_vma=False
        )  # fmt: skip
        return each(rows, rest)

    def product(self, left: Array, right: Array) -> Array:
        """float32[..., M, N] from float32[..., M, K] and float32[K, N], or float32[..., K, N] of the same axes."""
        return precision.product(left, right) if self.low else left @ right

    def rounded(self, *arrays: Array) -> tuple[Array, ...]:
        """The arrays as they are to be multiplied, for a product that is differentiated by hand."""
        return tuple(map(precision.rounded, arrays)) if self.low else arrays


ONE = Placement()
"""One device and float32: what evaluates and serves."""
