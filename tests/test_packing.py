"""The packed feed: each target scored once, with the clicks before it as its history, whatever the lengths."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, cut_chunks, packed_feed, target_positions

DAY = 24 * 60 * 60 * 1000  # ms

LENGTHS = st.lists(st.integers(1, 14), min_size=1, max_size=50)
ORDERS = st.sampled_from(["random", "time"])


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int]:
    """A window, a stride up to it, and targets a step from it on."""
    window = draw(st.integers(1, 9))
    return window, draw(st.integers(1, window)), window + draw(st.integers(0, 12))


class Scored(NamedTuple):
    """One scored position as a plain loop reads it from the blocks."""

    step: int
    history: tuple[int, ...]
    target: int
    weight: float


def make_sessions(lengths: Any) -> Sessions:
    """Event ``e`` is item ``e`` and the ``e``-th hour, so that a block shows positions."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = np.arange(offsets[-1])
    return Sessions(events.astype(np.int32), events * DAY // 24, offsets)


def make_plan(batch: int, steps: int = 1000, order: str = "random", seed: int = 1) -> Plan:
    return Plan(batch, steps, order, seed, 0, training=True)


def steps_of(feed: Feed, epoch: int = 0) -> PackedBlock:
    """An epoch's blocks behind each other, as NumPy arrays [T, ...]."""
    blocks = list(feed.epoch(epoch))
    assert len(blocks) == feed.shape.blocks
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *blocks)


def read(epoch: PackedBlock) -> list[Scored]:
    """The scored positions of an epoch, with what each of them sees."""
    found = []
    for step, (source, start, slot, target, weight) in enumerate(zip(*epoch[:5], strict=True)):
        window = source.shape[1]
        for at, to, much in zip(slot.tolist(), target.tolist(), weight.tolist(), strict=True):
            if much:
                row, column = divmod(at, window)
                history = source[row, start[row, column] : column + 1].tolist()
                found.append(Scored(step, tuple(history), to, much))
    return found


def expected_targets(lengths: list[int]) -> dict[int, list[int]]:
    """Each target's event with all the clicks of its session before it."""
    found: dict[int, list[int]] = {}
    first = 0
    for length in lengths:
        found |= {first + t: list(range(first, first + t)) for t in range(1, length)}
        first += length
    return found


@given(LENGTHS, windows(), ORDERS, st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_every_target_is_scored_once_with_the_clicks_before_it(
    lengths: list[int], shape: tuple[int, int, int], order: str, seed: int, epoch: int, steps: int
) -> None:
    window, stride, batch = shape
    feed = packed_feed(make_sessions(lengths), window, make_plan(batch, steps, order, seed), stride)
    scored = read(steps_of(feed, epoch))
    expected = expected_targets(lengths)
    assert sorted(one.target for one in scored) == sorted(expected)
    assert feed.pairs == len(scored)
    for one in scored:
        before = expected[one.target]
        assert list(one.history) == before[len(before) - len(one.history) :], "the last clicks of its own session"
        least, most = min(window - stride + 1, len(before)), min(window, len(before))
        assert least <= len(one.history) <= most
        assert one.weight == 1.0


@given(LENGTHS, windows(), ORDERS, st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_the_grid_holds_whole_chunks_and_padding(
    lengths: list[int], shape: tuple[int, int, int], order: str, steps: int
) -> None:
    """A position continues the one before it in its row, or opens a chunk; where there is none it stands for itself."""
    window, stride, batch = shape
    feed = packed_feed(make_sessions(lengths), window, make_plan(batch, steps, order), stride)
    epoch = steps_of(feed)
    assert epoch.input.shape == (feed.shape.total, *feed.like().input.shape[1:])
    assert epoch.input.shape[2] == window
    assert epoch.weight.shape[1] == feed.shape.lanes <= batch
    assert feed.shape.steps <= steps
    inputs, column = 0, np.arange(window)
    for source, start in zip(epoch.input.reshape(-1, window), epoch.start.reshape(-1, window), strict=True):
        assert np.all((start >= 0) & (start <= column))
        for at in range(window):
            inside = start[at] < at
            assert not inside or (start[at - 1] == start[at] and source[at] == source[at - 1] + 1)
            assert source[at] >= 0 or not inside
        inputs += int((source >= 0).sum())
    assert inputs == cut_chunks(make_sessions(lengths).offsets, window, stride).length.sum(), "none lies over another"
    for source, slot, weight in zip(epoch.input, epoch.slot, epoch.weight, strict=True):
        live = slot[weight > 0]
        assert len(set(live.tolist())) == len(live)
        assert np.all(source.reshape(-1)[live] >= 0), "padding is not scored"
    used = epoch.weight.any(axis=1)
    assert used.sum() == feed.shape.used and not used[feed.shape.used :].any()
    assert np.all(epoch.input[feed.shape.used :] == -1)


@given(LENGTHS, windows())
@settings(max_examples=60, deadline=None)
def test_the_order_is_a_function_of_seed_and_epoch_and_the_shape_of_neither(
    lengths: list[int], shape: tuple[int, int, int]
) -> None:
    window, stride, batch = shape
    sessions = make_sessions(lengths)
    first = steps_of(packed_feed(sessions, window, make_plan(batch), stride))
    for seed, epoch in [(1, 0), (1, 1), (2, 0), (2**32 - 1, 7)]:
        feed = packed_feed(sessions, window, make_plan(batch, seed=seed), stride)
        other, again = steps_of(feed, epoch), steps_of(feed, epoch)
        for leaf, same, begun in zip(*map(jax.tree.leaves, (other, again, first)), strict=True):
            np.testing.assert_array_equal(leaf, same)
            assert leaf.shape == begun.shape
            if (seed, epoch) == (1, 0):
                np.testing.assert_array_equal(leaf, begun)
        for leaf, begun in zip(
            (other.start, other.slot, other.weight), (first.start, first.slot, first.weight), strict=True
        ):
            np.testing.assert_array_equal(leaf, begun)  # where chunks lie depends on their lengths alone


def test_random_orders_differ_between_epochs_and_seeds_and_time_order_does_not() -> None:
    sessions = make_sessions(np.random.default_rng(0).integers(2, 12, 200))

    def orders(order: str) -> set[bytes]:
        return {
            steps_of(packed_feed(sessions, 6, make_plan(20, order=order, seed=seed)), epoch).input.tobytes()
            for seed, epoch in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (0, 1)]
        }

    assert len(orders("random")) == 6
    assert len(orders("time")) == 1


@given(LENGTHS, windows())
@settings(max_examples=60, deadline=None)
def test_in_time_order_sessions_of_a_length_come_in_time(lengths: list[int], shape: tuple[int, int, int]) -> None:
    window, stride, batch = shape
    feed = packed_feed(make_sessions(lengths), window, make_plan(batch, order="time"), stride)
    session = np.repeat(np.arange(len(lengths)), lengths)
    chunks: dict[tuple[int, ...], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    by_start: dict[tuple[int, int], list[Scored]] = defaultdict(list)
    for one in read(steps_of(feed)):
        by_start[one.step, one.history[0]].append(one)
    for (step, first), scored in by_start.items():
        longest = max(len(one.history) for one in scored)
        chunks[longest, len(scored)][step].append(int(session[first]))
    for steps in chunks.values():
        in_turn = [steps[step] for step in sorted(steps)]
        for earlier, later in itertools.pairwise(in_turn):
            assert max(earlier) <= min(later)


def test_positions_and_types_of_events_belong_to_the_targets_and_inputs() -> None:
    random = np.random.default_rng(4)
    sessions = make_sessions(random.integers(1, 9, 40))
    sessions = replace(sessions, events=(sessions.items % 5).astype(np.uint8))
    feed = packed_feed(sessions, 4, make_plan(12, 3, "random"), 2, events=True)
    epoch, where = steps_of(feed, 2), target_positions(feed, 2)
    live = epoch.weight > 0
    np.testing.assert_array_equal(where >= 0, live)
    np.testing.assert_array_equal(sessions.items[where[live]], epoch.target[live])
    read = epoch.input >= 0
    np.testing.assert_array_equal(epoch.event[read], epoch.input[read] % 5)
    assert feed.like().event.shape[1:] == epoch.event.shape[1:]


@given(LENGTHS, windows(), ORDERS)
@settings(max_examples=40, deadline=None)
def test_the_steps_do_not_depend_on_how_many_make_a_block(
    lengths: list[int], shape: tuple[int, int, int], order: str
) -> None:
    window, stride, batch = shape
    sessions = make_sessions(lengths)
    one, *others = (packed_feed(sessions, window, make_plan(batch, steps, order), stride) for steps in (1000, 1, 3))
    whole = steps_of(one, 2)
    for feed in others:
        assert feed.shape.used == one.shape.used
        for leaf, expected in zip(*map(jax.tree.leaves, (steps_of(feed, 2), whole)), strict=True):
            np.testing.assert_array_equal(leaf[: feed.shape.used], expected[: feed.shape.used])


@given(LENGTHS.filter(lambda lengths: max(lengths) > 1), windows(), st.floats(0.05, 50.0))
@settings(max_examples=60, deadline=None)
def test_weights_halve_with_every_half_life_of_age(
    lengths: list[int], shape: tuple[int, int, int], half_life: float
) -> None:
    """A target weighs by the age of its session's last click, and the mean weight of the targets is 1."""
    window, stride, batch = shape
    sessions = make_sessions(lengths)
    session = np.repeat(np.arange(len(lengths)), lengths)
    scored = read(steps_of(packed_feed(sessions, window, make_plan(batch), stride, half_life)))
    last = [int(sessions.times[sessions.offsets[s + 1] - 1]) for s in range(len(lengths))]
    latest = max(last[s] for s in range(len(lengths)) if lengths[s] > 1)
    value = {one.target: 0.5 ** ((latest - last[session[one.target]]) / DAY / half_life) for one in scored}
    scale = len(value) / sum(value.values())
    for one in scored:
        # No weight is below a floor of 1e-9, which shows where nearly all sessions are very old.
        assert one.weight == pytest.approx(scale * value[one.target], rel=1e-5, abs=2e-9 * scale)


def padding(feed: Feed) -> float:
    """Share of the positions sent to the output layer that are no target."""
    return 1.0 - feed.pairs / (feed.shape.used * feed.shape.lanes)


def test_on_lengths_like_diginetica_s_few_scored_positions_are_padding() -> None:
    random = np.random.default_rng(0)
    lengths = 1 + random.geometric(1 / 3.6, 60_000)
    lengths[:600] = random.integers(20, 70, 600)
    feed = packed_feed(make_sessions(lengths), 20, make_plan(512))
    assert padding(feed) < 0.05
    inputs = sum(int((np.asarray(block.input) >= 0).sum()) for block in feed.epoch(0))
    _, rows, window = feed.like().input.shape
    assert inputs > 0.9 * feed.shape.used * rows * window, "and rows are nearly full"
