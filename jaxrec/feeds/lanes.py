"""The session-parallel feed (Hidasi et al. 2016, section 3.1.2): B lanes, each a stream of whole sessions, which are
dealt in order of length, forth and back, so that all lanes are nearly full (Diginetica, 128 lanes: 99 %). Every pair of
an input and a target stands in exactly one step of one lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan, Shape, sort_order


class Block(NamedTuple):
    """Steps of all lanes, leaves [S, B]."""

    input: Any  # int32, the item just seen
    target: Any  # int32, the item that follows
    reset: Any  # bool, whether the input opens a session: the hidden state is zeroed before it
    weight: Any  # float32, 1; 0 where a lane has ended, or the item that follows is not scored


def lane_positions(offsets: np.ndarray, lanes: int, order: str, seed: int, epoch: int) -> np.ndarray:
    """int32[T, lanes]: the position of the input event by step and lane, whose target is the next; -1 behind the end;
    from int64[sessions + 1] ``offsets``. Order ``random`` shuffles sessions anew each epoch, ``time`` leaves them."""
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
    """The blocks of a split in ``plan.batch`` lanes; their order is that of ``lane_positions``."""
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
    return Feed(plan, shape, len(targets), split, order, order_like, _cut)


def _cut(xp: Any, own: Callable[[Any], Any], split: tuple[Any, Any, Any], order: Any) -> Block:
    items, opens, scored = split
    position = own(order)
    at = xp.maximum(position, 0)
    after = xp.minimum(at + 1, len(items) - 1)
    live = position >= 0 if scored is None else (position >= 0) & scored[after]
    return Block(items[at], items[after], opens[at] | (position < 0), live.astype(xp.float32))
