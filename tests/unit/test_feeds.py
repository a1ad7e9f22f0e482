"""What holds for every kind of feed, and what lanes, rows and packed sessions have of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import scored

from jaxrec.data.dataset import Rows, Sessions
from jaxrec.feeds.base import Feed, Plan, ahead, lane_feed, row_feed
from jaxrec.feeds.packed import DAY, cut_chunks, packed_feed

HOUR, STREAMED = 3_600_000, 0
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
    "packed, types and times": partial(packed_feed, SESSIONS, 20, stride=2, events=True, times=HOURS, clock=True),
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
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(resident.split)), "no second copy on the host"
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


# ---- packed sessions: each target is scored once, with the clicks before it as its history ---------------------------


class Case(NamedTuple):
    lengths: list[int]
    window: int
    stride: int
    batch: int
    order: str
    steps: int

    def feed(self, seed: int = 1, half_life: float | None = None) -> Feed:
        plan = Plan(self.batch, self.steps, self.order, seed, STREAMED, training=True)
        return packed_feed(numbered_sessions(self.lengths), self.window, plan, self.stride, half_life)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A window, a stride up to it, and targets a step from it on."""
    window = draw(st.integers(1, 9))
    return Case(draw(LENGTHS), window, draw(st.integers(1, window)), window + draw(st.integers(0, 12)),
                draw(st.sampled_from(["random", "time"])), draw(st.integers(1, 9)))  # fmt: skip


@given(cases(), st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_target_is_scored_once_with_the_clicks_before_it(case: Case, seed: int, epoch: int) -> None:
    feed = case.feed(seed)
    live = joined(feed, epoch)
    found = scored(live)
    first = np.cumsum([0, *case.lengths])
    expected = {first[s] + t: first[s] for s, length in enumerate(case.lengths) for t in range(1, length)}
    assert sorted(one.target for one in found) == sorted(expected) and feed.pairs == len(found)
    assert live.weight.shape[1] == feed.shape.lanes <= case.batch and feed.shape.steps <= case.steps
    chunks = cut_chunks(numbered_sessions(case.lengths).offsets, case.window, case.stride)
    assert (live.input >= 0).sum() == chunks.length.sum(), "none lies over another"
    for one in found:
        before, seen = list(range(expected[one.target], one.target)), len(one.history)
        assert list(one.history) == before[len(before) - seen :], "the last clicks of its own session"
        assert min(case.window - case.stride + 1, len(before)) <= seen <= min(case.window, len(before))
        assert one.weight == 1.0


@given(cases().filter(lambda case: max(case.lengths) > 1), st.floats(0.05, 50.0))
@settings(max_examples=40, deadline=None)
def test_weights_halve_with_every_half_life_of_age(case: Case, half_life: float) -> None:
    """A target weighs by the age of its session's last click, and the mean weight of the targets is 1."""
    sessions = numbered_sessions(case.lengths)
    session = np.repeat(np.arange(len(case.lengths)), case.lengths)
    found = scored(joined(case.feed(half_life=half_life)))
    last: Any = sessions.times[sessions.offsets[1:] - 1]
    latest = max(last[s] for s, length in enumerate(case.lengths) if length > 1)
    value = {one.target: 0.5 ** ((latest - last[session[one.target]]) / DAY / half_life) for one in found}
    scale = len(value) / sum(value.values())
    for one in found:
        # No weight is below a floor of 1e-9, which shows where nearly all sessions are very old.
        assert one.weight == pytest.approx(scale * value[one.target], rel=1e-5, abs=2e-9 * scale)


def test_on_lengths_like_diginetica_s_few_scored_positions_are_padding() -> None:
    random = np.random.default_rng(0)
    lengths = 1 + random.geometric(1 / 3.6, 60_000)
    lengths[:600] = random.integers(20, 70, 600)
    feed = packed_feed(numbered_sessions(lengths), 20, Plan(512, 1000, "random", 1, STREAMED))
    assert feed.pairs > 0.95 * feed.shape.used * feed.shape.lanes
    inputs = sum(int((np.asarray(block.input) >= 0).sum()) for block in feed.epoch(0))
    _, rows, window = feed.like().input.shape
    assert inputs > 0.9 * feed.shape.used * rows * window, "and rows are nearly full"
