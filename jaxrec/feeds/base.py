"""What all feeds share: the blocks of a split by (epoch, block), cut on the device or prepared ahead on the host.

A kind of feed brings two pure functions: ``order`` says what takes which place in an epoch, ``cut`` fills a block's
steps. Where split and order fit in device memory they lie there and the device cuts; otherwise one thread prepares the
next block on the host while the device works. Both run the same ``cut``, so that their blocks are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrec.ops.parallel import deal, like, replicate


@dataclass(frozen=True)
class Plan:
    """How a split is to be fed, whatever the model.

    Attributes:
        batch: lanes, rows, or targets a step.
        steps_per_block: at most so many steps a block; fewer, so that an epoch has little padding.
        order: ``random`` or ``time``.
        seed: of the order.
        device_bytes: the split lives on the device if it and one epoch's order take no more than this.
        training: whether it is fed to train: sessions are then weighted and cut as the configuration says.
        passes: of rows: times that an epoch goes through the split.
        mesh: devices that share each step; None: one device.
    """

    batch: int
    steps_per_block: int
    order: str
    seed: int
    device_bytes: int
    training: bool = False
    passes: int = 1
    mesh: Mesh | None = None


@dataclass(frozen=True)
class Shape:
    """How an epoch is cut: ``blocks`` blocks of ``steps`` steps of ``lanes`` lanes; ``used`` steps hold pairs."""

    lanes: int
    steps: int
    blocks: int
    used: int

    @classmethod
    def of(cls, lanes: int, used: int, most: int) -> Shape:
        """The fewest blocks of at most ``most`` steps, with as little padding as they allow."""
        blocks = max(1, -(-used // most))
        return cls(lanes, max(1, -(-used // blocks)), blocks, used)

    @property
    def total(self) -> int:
        """Steps of all blocks."""
        return self.steps * self.blocks


class Cut(Protocol):
    def __call__(self, xp: Any, own: Callable[[Any], Any], split: Any, order: Any) -> Any:
        """A block.

        Args:
            xp: ``numpy`` or ``jax.numpy``, which the arrays are of.
            own: takes the block's steps from a tree of arrays that lead with the steps of all blocks.
            split: the split's arrays.
            order: those of the epoch's order.
        """


class Feed:
    """Blocks of a split, by (epoch, block): the order is a pure function of them and the seed.

    Leaves lead with [steps, ...]; among them are ``target`` and ``weight`` [steps, lanes], a weight of 0 marking what
    is no target. The second axis is dealt over the devices.

    Args:
        plan: where the split lies, and the devices.
        order_like: shapes and dtypes of ``order``'s arrays.
        cut: a function of a module, so that feeds share what is compiled.

    Attributes:
        shape: how an epoch is cut.
        pairs: targets in an epoch.
        split: a tree of NumPy arrays.
        order: a tree of NumPy arrays for an epoch.
        mesh: devices that share each step; None: one.
        resident: whether the split lies on the device.
    """

    def __init__(
        self, plan: Plan, shape: Shape, pairs: int, split: Any, order: Callable[[int], Any], order_like: Any, cut: Cut
    ) -> None:
        self.shape, self.pairs, self.split, self.order, self.mesh = shape, pairs, split, order, plan.mesh
        self._order_like, self._cut = order_like, cut
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((split, order_like)))
        self.resident = size <= plan.device_bytes
        self._device = replicate(split, plan.mesh) if self.resident else None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The blocks of an epoch from block ``start`` on."""
        order, first_steps = self.order(epoch), range(start * self.shape.steps, self.shape.total, self.shape.steps)
        if self.resident:
            on_device, steps = replicate(order, self.mesh), self.shape.steps
            for first in first_steps:
                yield deal(_cut_on_device(self._cut, self._device, on_device, first, steps), self.mesh, 1)
        else:
            yield from ahead(deal(self._cut_on_host(order, first), self.mesh, 1) for first in first_steps)

    def like(self) -> Any:
        """Shapes and dtypes of a block, to compile for."""
        cut = partial(_cut_on_device, self._cut, start=0, steps=self.shape.steps)
        return like(jax.eval_shape(cut, self.split, self._order_like), self.mesh, 1)

    def _cut_on_host(self, order: Any, first: int) -> Any:
        def own(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[first : first + self.shape.steps], tree)

        return self._cut(np, own, self.split, order)


@partial(jax.jit, static_argnames=("cut", "steps"))
def _cut_on_device(cut: Cut, split: Any, order: Any, start: int | Array, steps: int) -> Any:
    def own(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, steps), tree)

    return cut(jnp, own, split, order)


def ahead(blocks: Iterator[Any]) -> Iterator[Any]:
    """The same blocks, prepared by a thread: while one is in use the next one is ready, and a third in the making."""
    thread = ThreadPoolExecutor(1)
    try:
        coming = deque(thread.submit(next, blocks, None) for _ in range(2))
        while (block := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, blocks, None))
            yield block
    finally:
        thread.shutdown(cancel_futures=True)
