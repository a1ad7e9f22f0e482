"""What all feeds share: the blocks of a split by (epoch, block), cut on the device or prepared ahead on the host.

A kind of feed brings two pure functions: ``order`` says what takes which place in an epoch, ``cut`` fills a block's
steps. Wherever they run, the blocks are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrec.ops.parallel import deal, like, replicate

Cut = Callable[[Any, Callable[[Any], Any], Any, Any], Any]
"""``cut(xp, own, split, order) -> block``: ``xp`` is ``numpy`` or ``jax.numpy``, ``own`` takes the block's steps from a
tree of arrays that lead with the steps of all blocks."""


@dataclass(frozen=True)
class Plan:
    """How a split is to be fed, whatever the model."""

    batch: int  # lanes, rows, or targets a step
    steps_per_block: int  # at most; fewer, so that an epoch has little padding
    order: str  # "random" or "time"
    seed: int
    device_bytes: int  # the split lives on the device if it and one epoch's order take no more
    training: bool = False  # sessions are weighted and cut as the configuration says
    passes: int = 1  # of rows: times that an epoch goes through the split
    mesh: Mesh | None = None  # devices that share each step; None: one


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
        return self.steps * self.blocks


class Feed:
    """Blocks of a split, by (epoch, block): the order is a pure function of them and the seed.

    Leaves lead with [steps, ...]; among them are ``target`` and ``weight`` [steps, lanes], a weight of 0 marking what
    is no target. The second axis is dealt over the devices of ``mesh``. ``split`` and an epoch's ``order``, with shapes
    and dtypes ``order_like``, are trees of NumPy arrays. ``cut`` is a module's function: feeds share what is compiled.
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
        order, steps = self.order(epoch), self.shape.steps
        first_steps = range(start * steps, self.shape.total, steps)
        if self.resident:
            on_device = replicate(order, self.mesh)
            for first in first_steps:
                yield deal(_cut_on_device(self._cut, self._device, on_device, first, steps), self.mesh, 1)
        else:
            cuts = (self._cut(np, partial(_steps, first, steps), self.split, order) for first in first_steps)
            yield from ahead(deal(block, self.mesh, 1) for block in cuts)

    def like(self) -> Any:
        """Shapes and dtypes of a block, to compile for."""
        cut = partial(_cut_on_device, self._cut, start=0, steps=self.shape.steps)
        return like(jax.eval_shape(cut, self.split, self._order_like), self.mesh, 1)


def _steps(first: int, steps: int, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[first : first + steps], tree)


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


def shuffled(n: int, order: str, seed: int, epoch: int) -> np.ndarray:
    """int64[n]: 0 to n - 1 in an order that is a function of (seed, epoch); as they are in order ``time``."""
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return random.permutation(n) if order == "random" else np.arange(n)


def sort_order(values: np.ndarray) -> np.ndarray:
    """int64[n]: the stable order of non-negative integers; those below 2 ** 16 are sorted by radix, in linear time."""
    return np.argsort(values.astype(np.uint16) if values.max(initial=0) < 2**16 else values, kind="stable")
