"""What all feeds share: the blocks of a split by (epoch, block), cut on the device or prepared ahead on the host. A
kind of feed brings two pure functions: ``order`` gives what an epoch has where, ``cut`` fills its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrec.data.dataset import Rows, Sessions
from jaxrec.ops import hosts
from jaxrec.ops.parallel import deal, deal_parts, like, replicate

Take = Callable[[Any], Any]
"""What takes a part of every array of a tree."""
Cut = Callable[[Any, Take, Take, Any, Any], Any]
"""``cut(xp, own, mine, split, order) -> block``: ``xp`` is ``numpy`` or ``jax.numpy``, ``own`` takes the block's steps
from a tree of arrays that lead with the steps of all blocks, and ``mine`` what is to be cut of arrays
[steps, lanes, ...]: all lanes, or those of one device where several hosts train, as each reads its share alone."""


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
    """Blocks of a split, a pure function of seed, epoch and block, whose leaves lead with [steps, ...]; among them are
    ``target`` and ``weight`` [steps, lanes], 0 for no target. ``split``, given as a tree of NumPy arrays, lives on the
    device alone where there is room. An epoch's ``order``, of shapes ``order_like``, is such a tree; ``cut`` is a
    module's function, so that feeds share what is compiled."""

    def __init__(
        self, plan: Plan, shape: Shape, pairs: int, split: Any, order: Callable[[int], Any], order_like: Any, cut: Cut
    ) -> None:
        self.shape, self.pairs, self.order, self.mesh = shape, pairs, order, plan.mesh
        self._order_like, self._cut = order_like, cut
        # Of the split with an epoch's order, which live on the device where there is room.
        self.bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((split, order_like)))
        self.resident = self.bytes <= plan.device_bytes
        self.split = replicate(split, plan.mesh) if self.resident else split

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The blocks of an epoch from block ``start`` on."""
        order, steps = self.order(epoch), self.shape.steps
        first_steps = range(start * steps, self.shape.total, steps)
        if self.resident:
            on_device = replicate(order, self.mesh)
            for first in first_steps:
                yield deal(_cut_on_device(self._cut, self.split, on_device, first, steps), self.mesh, 1)
        else:
            yield from ahead(self._streamed(partial(_steps, first, steps), order) for first in first_steps)

    def _streamed(self, own: Take, order: Any) -> Any:
        """A block cut on the host; of several hosts each cuts what its own devices take."""
        cut = partial(self._cut, np, own)
        if self.mesh is None or not hosts.several():
            return deal(cut(_all, self.split, order), self.mesh, 1)
        return deal_parts(lambda place, n: cut(partial(hosts.share, place, n), self.split, order), self.mesh, 1)

    def like(self) -> Any:
        """Shapes and dtypes of a block, to compile for."""
        cut = partial(_cut_on_device, self._cut, start=0, steps=self.shape.steps)
        return like(jax.eval_shape(cut, self.split, self._order_like), self.mesh, 1)


def _all(tree: Any) -> Any:
    return tree


def _steps(first: int, steps: int, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[first : first + steps], tree)


@partial(jax.jit, static_argnames=("cut", "steps"))
def _cut_on_device(cut: Cut, split: Any, order: Any, start: int | Array, steps: int) -> Any:
    def own(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, steps), tree)

    return cut(jnp, own, _all, split, order)


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


# ---- rows: B a step, shuffled anew each epoch, each in exactly one step ----------------------------------------------


class RowBlock(NamedTuple):
    """Steps of B rows, leaves [S, B, ...]."""

    columns: Any  # int32[S, B, C], as in data.dataset.Rows
    numbers: Any  # float32[S, B, M]
    target: Any  # float32[S, B], the label
    rating: Any  # float32[S, B]
    weight: Any  # float32[S, B], 1, or 0 behind a pass's last row


def row_feed(rows: Rows, plan: Plan) -> Feed:
    """The blocks of a split, ``plan.batch`` rows a step; a pass begins with a step, whatever epoch it is dealt to."""
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
    return Feed(plan, shape, plan.passes * len(rows), split, order, order_like, _cut_rows)


def _cut_rows(xp: Any, own: Take, mine: Take, split: tuple[Any, ...], order: Any) -> RowBlock:
    row = mine(own(order))
    columns, numbers, target, rating = (leaf[xp.maximum(row, 0)] for leaf in split)
    return RowBlock(columns, numbers, target, rating, (row >= 0).astype(xp.float32))


# ---- lanes: B side by side -------------------------------------------------------------------------------------------


class LaneBlock(NamedTuple):
    """Steps of all lanes, leaves [S, B]."""

    input: Any  # int32, the item just seen
    target: Any  # int32, the item that follows
    reset: Any  # bool, whether the input opens a session: the hidden state is zeroed before it
    weight: Any  # float32, 1; 0 where a lane has ended, or the item that follows is not scored


def lane_positions(offsets: np.ndarray, lanes: int, order: str, seed: int, epoch: int) -> np.ndarray:
    """int32[T, lanes]: the position of the input event by step and lane, whose target is the next, -1 behind the end,
    from int64[sessions + 1] ``offsets``; order ``random`` shuffles sessions anew each epoch."""
    steps = np.diff(offsets) - 1  # pairs of each session
    sessions = np.flatnonzero(steps > 0)
    steps, n = steps[sessions], len(sessions)
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    deal, queue = (rng.permutation(n) if order == "random" else np.arange(n) for _ in range(2))
    lane = np.empty(n, np.int64)
    lane[deal[sort_order(steps[deal])[::-1]]] = _seats(n, lanes)
    stream = queue[sort_order(lane[queue])]
    # The sessions are written one behind the other into their lanes.
    starts, steps, lane = offsets[:-1][sessions][stream], steps[stream], lane[stream]
    length = np.bincount(lane, weights=steps, minlength=lanes).astype(np.int64)
    longest = int(length.max(initial=0))
    before = np.cumsum(steps) - steps  # pairs ahead of each session in the whole stream
    place = lane * longest + before - (np.cumsum(length) - length)[lane]
    grid = np.full(lanes * longest, -1, np.int32)
    pair = np.arange(int(steps.sum()), dtype=np.int64)
    grid[pair + np.repeat(place - before, steps)] = pair + np.repeat(starts - before, steps)
    return np.ascontiguousarray(grid.reshape(lanes, longest).T)


def _seats(sessions: int, lanes: int) -> np.ndarray:
    """int64[sessions]: the lane of each session, from the longest to the shortest, dealt forth and back."""
    turn, seat = np.divmod(np.arange(sessions), lanes)
    return np.where(turn % 2 == 0, seat, lanes - 1 - seat)


def lane_feed(sessions: Sessions, plan: Plan) -> Feed:
    """The session-parallel feed (Hidasi et al. 2016, section 3.1.2): ``plan.batch`` lanes, each a stream of whole
    sessions, dealt in order of length, forth and back, so that all are nearly full (Diginetica, 128 lanes: 99 %)."""
    offsets, targets = np.asarray(sessions.offsets), sessions.target_positions
    opens, scored = np.zeros((2, len(sessions.items)), bool)  # of each event: whether it opens a session, is a target
    opens[offsets[:-1][np.diff(offsets) > 0]] = True
    scored[targets] = True
    split = np.asarray(sessions.items, np.int32), opens, scored if sessions.last_only else None
    steps = np.diff(offsets) - 1
    steps = np.sort(steps[steps > 0])[::-1]
    longest = np.bincount(_seats(len(steps), plan.batch), weights=steps, minlength=plan.batch).max(initial=0)
    shape = Shape.of(plan.batch, int(longest), plan.steps_per_block)

    def order(epoch: int) -> np.ndarray:
        positions = lane_positions(offsets, plan.batch, plan.order, plan.seed, epoch)
        return np.pad(positions, ((0, shape.total - shape.used), (0, 0)), constant_values=-1)

    order_like = jax.ShapeDtypeStruct((shape.total, plan.batch), np.int32)
    return Feed(plan, shape, len(targets), split, order, order_like, _cut_lanes)


def lane_targets(feed: Feed, epoch: int = 0) -> np.ndarray:
    """int64[steps of all blocks, B]: where in the split each target of a lane feed stands; -1 behind a lane's end."""
    position = feed.order(epoch).astype(np.int64)
    return np.where(position >= 0, position + 1, -1)


def _cut_lanes(xp: Any, own: Take, mine: Take, split: tuple[Any, Any, Any], order: Any) -> LaneBlock:
    items, opens, scored = split
    position = mine(own(order))
    at = xp.maximum(position, 0)
    after = xp.minimum(at + 1, len(items) - 1)
    live = position >= 0 if scored is None else (position >= 0) & scored[after]
    return LaneBlock(items[at], items[after], opens[at] | (position < 0), live.astype(xp.float32))
