"""The packed feed: each target scored once, with the clicks before it as its history, whatever the lengths."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import scored
from test_feeds import STREAMED, joined, numbered_sessions

from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import DAY, cut_chunks, packed_feed

LENGTHS = st.lists(st.integers(1, 14), min_size=1, max_size=50)


class Case(NamedTuple):
    lengths: list[int]
    window: int
    stride: int
    batch: int
    order: str
    steps: int

    def feed(self, seed: int = 1, steps: int | None = None, half_life: float | None = None) -> Feed:
        plan = Plan(self.batch, steps or self.steps, self.order, seed, STREAMED, training=True)
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
