"""What holds for every kind of feed, and of lanes and rows what is their own; packed sessions are in test_packing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import Rows, Sessions
from jaxrec.feeds.base import Feed, Plan, ahead, lane_feed, row_feed
from jaxrec.feeds.packed import packed_feed

HOUR, RESIDENT, STREAMED = 3_600_000, 2**30, 0
RANDOM = np.random.default_rng(3)


def numbered_sessions(lengths: Any) -> Sessions:
    """Event ``e`` is item ``e``, so that a block shows positions, of type ``e % 5`` and of the ``e``-th hour."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = np.arange(offsets[-1])
    return Sessions(events.astype(np.int32), events * HOUR, offsets, (events % 5).astype(np.uint8))


def numbered_rows(n: int) -> Rows:
    """Rows that tell their number in every leaf."""
    number = np.arange(n)
    columns, half = np.stack([number, number + 1], axis=1).astype(np.int32), (number / 2).astype(np.float32)
    return Rows(columns, half[:, None], (number % 3 == 0).astype(np.float32), half, number, columns[:, 0])


SESSIONS = numbered_sessions(RANDOM.integers(1, 14, 60))
LAST = replace(SESSIONS, last_only=True)
HOURS = (SESSIONS.times // HOUR).astype(np.int32)
KINDS: dict[str, Callable[[Plan], Feed]] = {
    "lanes": partial(lane_feed, SESSIONS),
    "lanes, last events": partial(lane_feed, LAST),
    "packed": partial(packed_feed, SESSIONS, 5),
    "packed, last events": partial(packed_feed, LAST, 5),
    "packed, weighed": partial(packed_feed, SESSIONS, 5, stride=2, half_life=2.0),
    "packed, types and times": partial(packed_feed, SESSIONS, 20, stride=2, events=True, times=HOURS),
    "rows": partial(row_feed, numbered_rows(100)),
}


def made(kind: str, memory: int, order: str = "random", seed: int = 7) -> Feed:
    return KINDS[kind](Plan(4 if kind.startswith("lanes") else 24, 3, order, seed, memory, training=True, passes=2))


def content(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype, np.asarray(leaf).tobytes()


def form(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype


def joined(feed: Feed, epoch: int = 0) -> Any:
    """An epoch's blocks behind each other, NumPy leaves [T, ...]."""
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *feed.epoch(epoch))


@pytest.mark.parametrize("order", ["random", "time"])
@pytest.mark.parametrize("kind", KINDS)
def test_resident_and_streamed_blocks_are_identical_from_any_block_on(kind: str, order: str) -> None:
    streamed = made(kind, STREAMED, order)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((streamed.split, streamed.order(0))))
    resident = made(kind, size, order)
    assert resident.resident and not streamed.resident and not made(kind, size - 1, order).resident
    assert resident.shape == streamed.shape and resident.shape.blocks > 2
    for epoch in (0, 3):
        whole = list(resident.epoch(epoch))
        assert len(whole) == resident.shape.blocks
        assert sum(int((np.asarray(block.weight) > 0).sum()) for block in whole) == resident.pairs
        for feed in (resident, streamed):
            for start in (0, 1, feed.shape.blocks):
                assert jax.tree.map(content, list(feed.epoch(epoch, start))) == jax.tree.map(content, whole[start:])
            assert jax.tree.map(form, feed.like()) == jax.tree.map(form, whole[0])


def test_the_streaming_thread_ends_with_its_iterator_and_passes_errors_on() -> None:
    before = threading.active_count()
    blocks = made("rows", STREAMED).epoch(0)
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()  # type: ignore[attr-defined]  # what leaving a loop early does to a generator
    assert threading.active_count() == before
    prepared = ahead(1 / n for n in (1, 0))
    with pytest.raises(ZeroDivisionError):
        list(prepared)
    assert threading.active_count() == before


LENGTHS, LANES = st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 12)


@given(LENGTHS, LANES, st.sampled_from(["random", "time"]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_lanes_are_streams_of_whole_sessions(lengths: list[int], lanes: int, order: str, epoch: int) -> None:
    """Every pair stands in exactly one step, and lanes differ by less than the longest session: dealt by falling
    length, the k-th round gives each lane at most what the round before gave any, and the differences telescope."""
    sessions = numbered_sessions(lengths)
    feed, offsets = lane_feed(sessions, Plan(lanes, 7, order, 1, STREAMED)), sessions.offsets
    block = joined(feed, epoch)
    live = block.weight > 0
    pairs = sorted(zip(block.input[live].tolist(), block.target[live].tolist(), strict=True))
    assert pairs == [(e, e + 1) for s in range(len(lengths)) for e in range(offsets[s], offsets[s + 1] - 1)]
    assert feed.pairs == len(pairs) and feed.shape.steps <= 7
    assert block.input.shape == (feed.shape.total, lanes)
    assert np.ptp(live.sum(0)) <= max(lengths) - 1
    for lane in range(lanes):
        inputs, reset = block.input[live[:, lane], lane], block.reset[live[:, lane], lane]
        assert np.all(live[:-1, lane] >= live[1:, lane]), "a lane ends once"
        assert np.all(block.reset[~live[:, lane], lane]), "a lane that has ended carries nothing on"
        assert np.isin(inputs, offsets[:-1]).tolist() == reset.tolist(), "reset exactly where a session opens"
        met = list(dict.fromkeys((np.searchsorted(offsets, inputs, side="right") - 1).tolist()))
        assert inputs.tolist() == [e for s in met for e in range(offsets[s], offsets[s + 1] - 1)]
        assert order == "random" or met == sorted(met)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_each_row_comes_once_an_epoch(n: int, batch: int, steps: int, epoch: int) -> None:
    feed = row_feed(numbered_rows(n), Plan(batch, steps, "random", 1, STREAMED))
    shape, block = feed.shape, joined(feed, epoch)
    assert shape.steps <= steps and (shape.blocks - 1) * shape.steps < shape.used == -(-n // batch)
    np.testing.assert_array_equal(block.weight.ravel(), np.arange(block.weight.size) < n)
    number = block.columns[block.weight > 0, 0]
    np.testing.assert_array_equal(np.sort(number), np.arange(n))
    for leaf, expected in ((block.columns[..., 1], number + 1), (block.numbers[..., 0], number / 2),
                           (block.rating, number / 2), (block.target, number % 3 == 0)):  # fmt: skip
        np.testing.assert_array_equal(leaf[block.weight > 0], expected)
    in_time = joined(row_feed(numbered_rows(n), Plan(batch, steps, "time", 1, STREAMED)), epoch)
    np.testing.assert_array_equal(in_time.columns[in_time.weight > 0, 0], np.arange(n))
