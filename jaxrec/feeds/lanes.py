"""The session-parallel feed (Hidasi et al. 2016, section 3.1.2): B lanes, each a stream of whole sessions.

Every (input, target) pair of the split stands in exactly one step of one lane. Sessions are dealt to lanes so that all
lanes are nearly full: in order of length, forth and back, so that each lane gets the same mixture. Two lanes differ by
at most the longest session; with sessions of common lengths by a few steps (Diginetica, 128 lanes: 99 % full). Lane
lengths therefore depend on the session lengths alone, and shapes are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Shape, ahead
from jaxrec.sharding import deal, like, replicate


class Block(NamedTuple):
    """Steps of all lanes, leaves [S, B].

    Attributes:
        input: int32, the item just seen.
        target: int32, the item that follows.
        reset: bool, whether the input opens a session: the hidden state is zeroed before it.
        weight: float32, 1, or 0 where a lane has ended, or where the item that follows is not scored.
    """

    input: Any
    target: Any
    reset: Any
    weight: Any


def lane_positions(offsets: np.ndarray, lanes: int, order: str, seed: int, epoch: int) -> np.ndarray:
    """The events that are inputs, by step and lane.

    Args:
        offsets: int64[sessions + 1].
        order: ``random``: sessions are shuffled anew each epoch. ``time``: each lane takes its sessions in the order in
            which they stand, that of time.

    Returns:
        int32[T, lanes]: the position of the input event (its target is the next one), -1 where a lane has ended.
    """
    steps = np.diff(offsets) - 1  # pairs of each session
    sessions = np.flatnonzero(steps > 0)
    steps = steps[sessions]
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    deal = rng.permutation(len(sessions)) if order == "random" else np.arange(len(sessions))
    # Stable sorts of small integers are radix sorts, linear in the number of sessions.
    small = np.uint16 if len(steps) and steps.max() < 2**16 else np.int64
    by_length = deal[np.argsort(steps[deal].astype(small), kind="stable")[::-1]]
    lane = np.empty(len(sessions), np.int64)
    lane[by_length] = _seats(len(sessions), lanes)
    queue_order = rng.permutation(len(sessions)) if order == "random" else np.arange(len(sessions))
    stream = queue_order[np.argsort(lane[queue_order].astype(small if lanes < 2**16 else np.int64), kind="stable")]
    return _lay_out(offsets[:-1][sessions][stream], steps[stream], lane[stream], lanes)


def lane_length(offsets: np.ndarray, lanes: int) -> int:
    """Steps of the longest lane, the same for every order."""
    steps = np.diff(offsets) - 1
    steps = np.sort(steps[steps > 0])[::-1]
    return int(np.bincount(_seats(len(steps), lanes), weights=steps, minlength=lanes).max(initial=0))


def _seats(sessions: int, lanes: int) -> np.ndarray:
    """int64[sessions]: the lane of each session, from the longest to the shortest, dealt forth and back."""
    turn, seat = np.divmod(np.arange(sessions), lanes)
    return np.where(turn % 2 == 0, seat, lanes - 1 - seat)


def _lay_out(starts: np.ndarray, steps: np.ndarray, lane: np.ndarray, lanes: int) -> np.ndarray:
    """Write the sessions one behind the other into their lanes (``lane`` ascending)."""
    length = np.bincount(lane, weights=steps, minlength=lanes).astype(np.int64)
    longest = int(length.max(initial=0))
    before = np.cumsum(steps) - steps  # pairs ahead of each session in the whole stream
    ahead = np.cumsum(length) - length  # pairs ahead of each lane
    place = lane * longest + before - ahead[lane]
    grid = np.full(lanes * longest, -1, np.int32)
    pair = np.arange(int(steps.sum()), dtype=np.int64)
    grid[pair + np.repeat(place - before, steps)] = pair + np.repeat(starts - before, steps)
    return np.ascontiguousarray(grid.reshape(lanes, longest).T)


class SessionFeed:
    """Blocks of a split, by (epoch, block): the order is a pure function of them and the seed.

    Args:
        sessions: the split.
        lanes: B.
        steps_per_block: at most so many steps a block; fewer, so that an epoch has little padding.
        order: see ``lane_positions``.
        device_bytes: the split lives on the device if events and one epoch's order take no more than this; otherwise a
            thread prepares the next block on the host while the device works.
        mesh: devices that share the lanes; None: one device.

    Attributes:
        pairs: targets scored in an epoch.
    """

    def __init__(
        self,
        sessions: Sessions,
        lanes: int,
        steps_per_block: int,
        order: str,
        seed: int,
        device_bytes: int,
        mesh: Mesh | None = None,
    ) -> None:
        self._offsets = np.asarray(sessions.offsets)
        self._items = np.asarray(sessions.items, dtype=np.int32)
        self._order, self._seed, self.mesh = order, seed, mesh
        self._opens = np.zeros(len(self._items), bool)
        self._opens[self._offsets[:-1][np.diff(self._offsets) > 0]] = True
        self.pairs = int(np.maximum(np.diff(self._offsets) - 1, 0).sum())
        self._scored: np.ndarray | None = None  # bool[n], events that are targets, where some with a pair are not
        if sessions.last_only:
            self._scored = np.zeros(len(self._items), bool)
            self._scored[sessions.target_positions] = True
            self.pairs = int(self._scored.sum())
        used = lane_length(self._offsets, lanes)
        blocks = max(1, -(-used // steps_per_block))
        self.shape = Shape(lanes, max(1, -(-used // blocks)), blocks, used)
        padded = self.shape.steps * blocks * lanes
        self.resident = 5 * len(self._items) + 4 * padded <= device_bytes
        if self.resident:
            self._device = replicate((self._items, self._opens, self._scored), mesh)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Block]:
        """The blocks of an epoch from block ``start`` on."""
        positions = self.positions(epoch)
        if self.resident:
            on_device = replicate(positions, self.mesh)
            for block in range(start, self.shape.blocks):
                cut = _cut(*self._device, on_device, block * self.shape.steps, self.shape.steps)
                yield deal(cut, self.mesh, 1)
        else:
            yield from ahead(self._host_block(positions, block) for block in range(start, self.shape.blocks))

    def like(self) -> Block:
        """Shapes and dtypes of a block, to compile for."""
        shape = (self.shape.steps, self.shape.lanes)
        block = Block(*(jax.ShapeDtypeStruct(shape, dtype) for dtype in (np.int32, np.int32, np.bool_, np.float32)))
        return like(block, self.mesh, 1)

    def positions(self, epoch: int) -> np.ndarray:
        """int32[blocks * steps, lanes]: ``lane_positions``, padded with -1 to whole blocks."""
        positions = lane_positions(self._offsets, self.shape.lanes, self._order, self._seed, epoch)
        padding = self.shape.steps * self.shape.blocks - len(positions)
        return np.pad(positions, ((0, padding), (0, 0)), constant_values=-1)

    def _host_block(self, positions: np.ndarray, block: int) -> Block:
        part = positions[block * self.shape.steps : (block + 1) * self.shape.steps]
        at = np.maximum(part, 0)
        after = np.minimum(at + 1, len(self._items) - 1)
        live = part >= 0 if self._scored is None else (part >= 0) & self._scored[after]
        host = Block(self._items[at], self._items[after], self._opens[at] | (part < 0), live.astype(np.float32))
        return deal(host, self.mesh, 1)


@partial(jax.jit, static_argnames="steps")
def _cut(items: Array, opens: Array, scored: Array | None, positions: Array, start: int, steps: int) -> Block:
    part = jax.lax.dynamic_slice_in_dim(positions, start, steps)
    at = jnp.maximum(part, 0)
    live = part >= 0 if scored is None else (part >= 0) & scored[at + 1]
    return Block(items[at], items[at + 1], opens[at] | (part < 0), live.astype(jnp.float32))
