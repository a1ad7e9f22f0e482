"""The rows feed: B rows a step, shuffled anew each epoch, each row in exactly one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.data.rows import Rows
from jaxrec.feeds.base import Feed, Plan, Shape, shuffled


class RowBlock(NamedTuple):
    """Steps of B rows, leaves [S, B, ...]."""

    columns: Any  # int32[S, B, C], as in data.rows.Rows
    numbers: Any  # float32[S, B, M]
    target: Any  # float32[S, B], the label
    rating: Any  # float32[S, B]
    weight: Any  # float32[S, B], 1, or 0 behind a pass's last row


def row_feed(rows: Rows, plan: Plan) -> Feed:
    """The blocks of a split, ``plan.batch`` rows a step; in order ``time`` rows come as they stand. Each of an epoch's
    passes begins with a step of its own, so that training does not depend on how passes are dealt to epochs."""
    arrays = (rows.columns, np.int32), (rows.numbers, np.float32), (rows.labels, np.float32), (rows.ratings, np.float32)
    split = tuple(np.ascontiguousarray(array, dtype) for array, dtype in arrays)
    steps = -(-len(rows) // plan.batch)  # of a pass
    reads = plan.batch * max(1, rows.columns.shape[1] + rows.numbers.shape[1])
    most = min(plan.steps_per_block, max(1, (2**31 - 1) // reads - 1))  # the marks of tables.plan_reads are int32
    shape = Shape.of(plan.batch, plan.passes * steps, most)

    def order(epoch: int) -> np.ndarray:
        places = np.full((shape.total, plan.batch), -1, np.int32)  # -1 behind the last row of a pass
        for number in range(plan.passes):
            row = shuffled(len(rows), plan.order, plan.seed, epoch * plan.passes + number)
            places[number * steps : (number + 1) * steps].reshape(-1)[: len(rows)] = row
        return places

    order_like = jax.ShapeDtypeStruct((shape.total, plan.batch), np.int32)
    return Feed(plan, shape, plan.passes * len(rows), split, order, order_like, _cut)


def _cut(xp: Any, own: Callable[[Any], Any], split: tuple[Any, ...], order: Any) -> RowBlock:
    row = own(order)
    columns, numbers, target, rating = (leaf[xp.maximum(row, 0)] for leaf in split)
    return RowBlock(columns, numbers, target, rating, (row >= 0).astype(xp.float32))
