"""What holds for every kind of feed: blocks are the same wherever they are cut, and the thread ends with its user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.dataset import Sessions
from jaxrec.data.rows import Rows
from jaxrec.feeds.base import Feed, Plan, ahead
from jaxrec.feeds.lanes import lane_feed
from jaxrec.feeds.packed import packed_feed
from jaxrec.feeds.rows import row_feed

RESIDENT, STREAMED = 2**30, 0
RANDOM = np.random.default_rng(3)


def make_sessions() -> Sessions:
    offsets = np.concatenate([[0], np.cumsum(RANDOM.integers(1, 14, 60))])
    n = int(offsets[-1])
    items, events = RANDOM.integers(0, 50, n).astype(np.int32), RANDOM.integers(0, 6, n).astype(np.uint8)
    return Sessions(items, np.arange(n) * 3_600_000, offsets, events)  # an event an hour


SESSIONS = make_sessions()
LAST = replace(SESSIONS, last_only=True)
HOURS = (SESSIONS.times // 3_600_000).astype(np.int32)
VECTORS = RANDOM.normal(size=(9, 3)).astype(np.float16)
NAMES: Any = SimpleNamespace(dim=3, vectors=VECTORS, name_of=np.arange(50) % 10 - 1)
ROWS = Rows(
    RANDOM.integers(0, 9, (100, 2)).astype(np.int32), RANDOM.normal(size=(100, 1)).astype(np.float32),
    RANDOM.integers(0, 2, 100).astype(np.float32), RANDOM.normal(size=100).astype(np.float32), np.arange(100),
    np.zeros(100, np.int32),
)  # fmt: skip
KINDS: dict[str, Callable[[Plan], Feed]] = {
    "lanes": partial(lane_feed, SESSIONS),
    "lanes, last events": partial(lane_feed, LAST),
    "packed": partial(packed_feed, SESSIONS, 5),
    "packed, last events": partial(packed_feed, LAST, 5),
    "packed, weighed": partial(packed_feed, SESSIONS, 5, stride=2, half_life=2.0),
    "packed, types and times": partial(packed_feed, SESSIONS, 20, stride=2, events=True, times=HOURS),
    "rows": partial(row_feed, ROWS),
}


def made(kind: str, memory: int, order: str = "random") -> Feed:
    batch = 4 if kind.startswith("lanes") else 24
    return KINDS[kind](Plan(batch, 3, order, 7, memory, training=True, passes=2))


def content(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype, np.asarray(leaf).tobytes()


def form(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype


@pytest.mark.parametrize("order", ["random", "time"])
@pytest.mark.parametrize("kind", KINDS)
def test_resident_and_streamed_blocks_are_identical_from_any_block_on(kind: str, order: str) -> None:
    resident, streamed = (made(kind, memory, order) for memory in (RESIDENT, STREAMED))
    assert resident.resident and not streamed.resident
    assert resident.shape == streamed.shape and resident.shape.blocks > 2
    for epoch in (0, 3):
        whole = list(resident.epoch(epoch))
        assert len(whole) == resident.shape.blocks
        live = sum(int((np.asarray(block.weight) > 0).sum()) for block in whole)
        assert live == resident.pairs
        for feed in (resident, streamed):
            for start in (0, 1, feed.shape.blocks - 1, feed.shape.blocks):
                assert jax.tree.map(content, list(feed.epoch(epoch, start))) == jax.tree.map(content, whole[start:])
        for like in (resident.like(), streamed.like()):
            assert jax.tree.map(form, like) == jax.tree.map(form, whole[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_is_resident_where_it_and_the_order_of_an_epoch_fit(kind: str) -> None:
    feed = made(kind, STREAMED)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((feed.split, feed.order(0))))
    assert made(kind, size).resident and not made(kind, size - 1).resident


def test_blocks_with_names_come_from_the_host_and_bring_the_names_of_their_items() -> None:
    plan = Plan(24, 3, "random", 7, RESIDENT)
    plain, named = packed_feed(SESSIONS, 5, plan), packed_feed(SESSIONS, 5, plan, names=NAMES)
    assert plain.resident and not named.resident
    for block, expected in zip(named.epoch(1, 1), list(plain.epoch(1))[1:], strict=True):
        assert jax.tree.map(content, block._replace(names=None)) == jax.tree.map(content, expected)
        assert jax.tree.map(form, block) == jax.tree.map(form, named.like())
        for names, items in zip(block.names, (block.input, block.target), strict=True):
            row = np.where(items >= 0, NAMES.name_of[items], -1)
            vectors = np.where((row >= 0)[..., None], VECTORS[row].astype(jnp.bfloat16).astype(np.float32), 0.0)
            assert names.dtype == jnp.bfloat16
            np.testing.assert_array_equal(names.astype(np.float32), vectors)


def test_the_streaming_thread_ends_with_its_iterator() -> None:
    feed = made("rows", STREAMED)
    before = threading.active_count()
    blocks = feed.epoch(0)
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()  # type: ignore[attr-defined]  # what leaving a loop early does to a generator
    assert threading.active_count() == before
    assert len(list(feed.epoch(0))) == feed.shape.blocks
    assert threading.active_count() == before


def test_an_error_in_the_streaming_thread_is_raised_where_blocks_are_used() -> None:
    def blocks() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    before, prepared = threading.active_count(), ahead(blocks())
    assert next(prepared) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(prepared)
    assert threading.active_count() == before


def test_two_blocks_are_prepared_while_one_is_in_use() -> None:
    begun: list[int] = []
    third = threading.Event()

    def blocks() -> Iterator[int]:
        for number in range(1, 9):
            begun.append(number)
            if number == 3:
                third.set()
            yield number

    prepared = ahead(blocks())
    assert next(prepared) == 1
    assert third.wait(10)
    assert begun == [1, 2, 3], "no more: each of them takes memory"
    assert list(prepared) == list(range(2, 9))
