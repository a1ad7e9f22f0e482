"""The session-parallel feed (Hidasi et al. 2016, section 3.1.2): B lanes, each a stream of whole sessions.

Every (input, target) pair of the split stands in exactly one step of one lane. Sessions are dealt to lanes so that all
lanes are nearly full: in order of length, forth and back, so that each lane gets the same mixture. Two lanes differ by
at most the longest session; with sessions of common lengths by a few steps (Diginetica, 128 lanes: 99 % full). Lane
lengths therefore depend on the session lengths alone, and shapes are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan, Shape


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


def lane_feed(sessions: Sessions, plan: Plan) -> Feed:
    """The blocks of a split in ``plan.batch`` lanes; their order is that of ``lane_positions``."""
    offsets, targets = np.asarray(sessions.offsets), sessions.target_positions
    opens, scored = np.zeros((2, len(sessions.items)), bool)  # of each event: whether its session begins with it
    opens[offsets[:-1][np.diff(offsets) > 0]] = True
    scored[targets] = True  # whether it is a target
    split = np.asarray(sessions.items, np.int32), opens, scored if sessions.last_only else None
    shape = Shape.of(plan.batch, lane_length(offsets, plan.batch), plan.steps_per_block)

    def order(epoch: int) -> np.ndarray:
        positions = lane_positions(offsets, plan.batch, plan.order, plan.seed, epoch)
        return np.pad(positions, ((0, shape.total - shape.used), (0, 0)), constant_values=-1)

    order_like = jax.ShapeDtypeStruct((shape.total, plan.batch), np.int32)
    return Feed(plan, shape, len(targets), split, order, order_like, _cut)


def _cut(xp: Any, own: Callable[[Any], Any], split: tuple[Any, Any, Any], order: Any) -> Block:
    items, opens, scored = split
    position = own(order)
    at = xp.maximum(position, 0)
    after = xp.minimum(at + 1, len(items) - 1)
    live = position >= 0 if scored is None else (position >= 0) & scored[after]
    return Block(items[at], items[after], opens[at] | (position < 0), live.astype(xp.float32))
