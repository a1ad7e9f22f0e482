"""The rows feed: B rows a step, shuffled anew each epoch, each row in exactly one step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.data.rows import Rows
from jaxrec.feeds.base import Plan, Shape, ahead
from jaxrec.sharding import deal, like, replicate


class RowBlock(NamedTuple):
    """Steps of B rows, leaves [S, B, ...].

    Attributes:
        columns: int32[S, B, C], as in ``rows.Rows``.
        numbers: float32[S, B, M].
        target: float32[S, B], the label.
        rating: float32[S, B].
        weight: float32[S, B], 1, or 0 behind an epoch's last row.
    """

    columns: Any
    numbers: Any
    target: Any
    rating: Any
    weight: Any


class RowFeed:
    """Blocks of a split, by (epoch, block): the order is a pure function of them and the seed.

    Args:
        rows: the split.
        plan: ``batch`` rows a step; in order ``time`` rows come as they stand. Each of an epoch's passes begins with a
            step of its own, so that training does not depend on how passes are dealt to epochs.
    """

    def __init__(self, rows: Rows, plan: Plan) -> None:
        self._host = RowBlock(
            np.ascontiguousarray(rows.columns, np.int32), np.ascontiguousarray(rows.numbers, np.float32),
            np.asarray(rows.labels, np.float32), np.asarray(rows.ratings, np.float32), np.ones(len(rows), np.float32),
        )  # fmt: skip
        self._plan, self._n, self.mesh = plan, len(rows), plan.mesh
        self._steps = -(-self._n // plan.batch)  # of a pass
        used = plan.passes * self._steps
        reads = plan.batch * max(1, rows.columns.shape[1] + rows.numbers.shape[1])
        most = min(plan.steps_per_block, max(1, (2**31 - 1) // reads - 1))  # the marks of tables.plan_rows are int32
        blocks = max(1, -(-used // most))
        self.shape = Shape(plan.batch, max(1, -(-used // blocks)), blocks, used)
        order_bytes = 4 * self.shape.steps * blocks * plan.batch
        self.resident = sum(leaf.nbytes for leaf in self._host) + order_bytes <= plan.device_bytes
        self._device = replicate(self._host, plan.mesh) if self.resident else None

    @property
    def pairs(self) -> int:
        """Rows in an epoch."""
        return self._n * self._plan.passes

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RowBlock]:
        """The blocks of an epoch from block ``start`` on."""
        order = self.order(epoch)
        if self._device is not None:
            on_device = replicate(order, self.mesh)
            for block in range(start, self.shape.blocks):
                cut = _cut(self._device, on_device, block * self.shape.steps, self.shape.steps)
                yield deal(cut, self.mesh, 1)
        else:
            yield from ahead(self._host_block(order, block) for block in range(start, self.shape.blocks))

    def like(self) -> RowBlock:
        """Shapes and dtypes of a block, to compile for."""
        lead = (self.shape.steps, self.shape.lanes)
        block = RowBlock(*(jax.ShapeDtypeStruct((*lead, *leaf.shape[1:]), leaf.dtype) for leaf in self._host))
        return like(block, self.mesh, 1)

    def order(self, epoch: int) -> np.ndarray:
        """int32[blocks * steps, B]: which row takes which place; -1 behind the last one."""
        room = self.shape.blocks * self.shape.steps
        order = np.full((room, self.shape.lanes), -1, np.int32)
        for number in range(self._plan.passes):
            key = [self._plan.seed, epoch * self._plan.passes + number]
            rows = np.arange(self._n)
            if self._plan.order == "random":
                rows = np.random.Generator(np.random.Philox(key=key)).permutation(self._n)
            order[number * self._steps : (number + 1) * self._steps].reshape(-1)[: self._n] = rows
        return order

    def _host_block(self, order: np.ndarray, block: int) -> RowBlock:
        part = order[block * self.shape.steps : (block + 1) * self.shape.steps]
        picked = RowBlock(*(leaf[np.maximum(part, 0)] for leaf in self._host))
        return deal(picked._replace(weight=(part >= 0).astype(np.float32)), self.mesh, 1)


@partial(jax.jit, static_argnames="steps")
def _cut(split: RowBlock, order: Array, start: int, steps: int) -> RowBlock:
    part = jax.lax.dynamic_slice_in_dim(order, start, steps)
    picked = RowBlock(*(leaf[jnp.maximum(part, 0)] for leaf in split))
    return picked._replace(weight=(part >= 0).astype(jnp.float32))
