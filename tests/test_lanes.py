"""The session-parallel feed: each pair once an epoch, whole sessions in order, balanced lanes, a reproducible order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.lanes import Block, lane_feed, lane_positions

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=60)
LANES = st.integers(1, 12)
ORDERS = st.sampled_from(["random", "time"])


class Layout(NamedTuple):
    """One epoch of a split whose event ``e`` is item ``e``, so that a block shows positions."""

    sessions: Sessions
    feed: Feed
    epoch: Block  # NumPy leaves [T, B]


def make_sessions(lengths: list[int] | np.ndarray) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = np.arange(offsets[-1])
    return Sessions(events.astype(np.int32), events * 1000, offsets)


def join(blocks: list[Block]) -> Block:
    return Block(*(np.concatenate([np.asarray(leaf) for leaf in leaves]) for leaves in zip(*blocks, strict=True)))


def lay_out(lengths: list[int], lanes: int, order: str, seed: int = 1, epoch: int = 0, steps: int = 1000) -> Layout:
    """Streamed: there shapes cost no compilation."""
    sessions = make_sessions(lengths)
    feed = lane_feed(sessions, Plan(lanes, steps, order, seed, 0))
    return Layout(sessions, feed, join(list(feed.epoch(epoch))))


def lane_sessions(sessions: Sessions, positions: np.ndarray) -> list[int]:
    """The session of each input of a lane, in order."""
    return [int(s) for s in np.searchsorted(sessions.offsets, positions[positions >= 0], side="right") - 1]


@given(LENGTHS, LANES, ORDERS, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_pair_stands_in_exactly_one_step(lengths: list[int], lanes: int, order: str, epoch: int) -> None:
    sessions, feed, block = lay_out(lengths, lanes, order, epoch=epoch, steps=7)
    live = block.weight > 0
    found = sorted(zip(block.input[live].tolist(), block.target[live].tolist(), strict=True))
    offsets = sessions.offsets
    assert found == [(e, e + 1) for s in range(len(lengths)) for e in range(offsets[s], offsets[s + 1] - 1)]
    assert feed.pairs == len(found)
    assert block.input.shape == (feed.shape.total, lanes)
    assert feed.shape.steps <= 7


@given(LENGTHS, LANES, ORDERS)
@settings(max_examples=60, deadline=None)
def test_a_lane_is_a_stream_of_whole_sessions(lengths: list[int], lanes: int, order: str) -> None:
    sessions, _, block = lay_out(lengths, lanes, order)
    opens = set(sessions.offsets[:-1].tolist())
    for lane in range(lanes):
        live = np.asarray(block.weight[:, lane]) > 0
        assert np.all(live[:-1] >= live[1:]), "a lane ends once"
        assert set(np.unique(block.weight[:, lane])) <= {0.0, 1.0}
        inputs, reset = block.input[live, lane], block.reset[live, lane]
        assert [int(e) in opens for e in inputs] == reset.tolist(), "reset exactly where a session opens"
        assert np.all(block.reset[~live, lane]), "a lane that has ended carries nothing on"
        met = lane_sessions(sessions, inputs)
        expected = [e for s in dict.fromkeys(met) for e in range(sessions.offsets[s], sessions.offsets[s + 1] - 1)]
        assert inputs.tolist() == expected, "sessions are whole, in order, one after the other"
        if order == "time":
            assert met == sorted(met)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=80), LANES, ORDERS)
@settings(max_examples=100, deadline=None)
def test_lanes_differ_by_less_than_the_longest_session(lengths: list[int], lanes: int, order: str) -> None:
    """Dealt by falling length, the k-th round gives each lane at most what the round before gave any.

    So two lanes differ by at most the sum over rounds of (longest - shortest of the round), which telescopes to the
    longest session's pairs.
    """
    positions = lane_positions(make_sessions(lengths).offsets, lanes, order, 5, 2)
    pairs = (positions >= 0).sum(axis=0)
    assert len(positions) == pairs.max(initial=0)
    assert pairs.max() - pairs.min() <= max(lengths) - 1


def test_lanes_of_a_usual_log_are_nearly_full() -> None:
    """Measured: 2,495 to 2,514 steps, on session lengths like those of real logs; always forth would double that."""
    lengths = 1 + np.random.default_rng(0).geometric(0.25, 40_000)
    pairs = (lane_positions(make_sessions(lengths).offsets, 64, "random", 0, 0) >= 0).sum(axis=0)
    assert pairs.max() - pairs.min() <= 22


@given(LENGTHS, LANES, ORDERS)
@settings(max_examples=40, deadline=None)
def test_the_order_is_a_function_of_seed_and_epoch_and_the_shape_of_neither(
    lengths: list[int], lanes: int, order: str
) -> None:
    offsets = make_sessions(lengths).offsets
    first = lane_positions(offsets, lanes, order, 1, 0)
    np.testing.assert_array_equal(first, lane_positions(offsets, lanes, order, 1, 0))
    for seed, epoch in [(1, 1), (2, 0), (2**32 - 1, 7)]:
        other = lane_positions(offsets, lanes, order, seed, epoch)
        np.testing.assert_array_equal(np.sort((other >= 0).sum(0)), np.sort((first >= 0).sum(0)))
        assert other.shape == first.shape
        if order == "time":
            np.testing.assert_array_equal(other, first)


def test_random_orders_differ_between_epochs_and_seeds() -> None:
    offsets = make_sessions(np.random.default_rng(0).integers(2, 9, 200)).offsets
    made = {
        lane_positions(offsets, 4, "random", seed, epoch).tobytes()
        for seed, epoch in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (0, 1)]
    }
    assert len(made) == 6
    # Sessions change lanes too, not only their places: otherwise the same ones would always be each other's negatives.
    lanes = [set(lane_positions(offsets, 4, "random", 1, epoch)[:, 0].tolist()) for epoch in (0, 1)]
    assert len(lanes[0] & lanes[1]) < 0.5 * len(lanes[0])


def test_random_order_does_not_sort_by_length() -> None:
    """Dealing goes by length; the order within a lane must not."""
    lengths = np.repeat([2, 12], 200)
    positions = lane_positions(make_sessions(lengths).offsets, 4, "random", 0, 0)
    sessions = make_sessions(lengths)
    for lane in range(4):
        met = list(dict.fromkeys(lane_sessions(sessions, positions[:, lane])))
        half = [lengths[s] for s in met[: len(met) // 2]]
        assert 0.25 < np.mean(np.array(half) == 12) < 0.75
