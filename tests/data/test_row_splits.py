"""How rows are split: against plain sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.data.splits import RowData, RowSplits, configured_splits, held_by, split_rows
from jaxrec.errors import UserError

# ---- protocols -------------------------------------------------------------------------------------------------------

SIDES = Schema(
    (Field("user", "categorical", "user", 7), Field("item", "categorical", "item", 6)), "user", "item", 4.0, 1.0, 5.0
)


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    """Users 0 to 5 and items 0 to 5, of which 0 is any unknown one; ratings 1 to 5, of which 4 and 5 are positive."""
    n = draw(st.integers(1, 40))
    users, items, ratings = (draw(st.lists(st.integers(a, 5), min_size=n, max_size=n)) for a in (0, 0, 1))
    columns = np.array([users, items], np.int32).T
    labels = (np.array(ratings) >= 4).astype(np.float32)
    numbers, times = np.zeros((n, 0), np.float32), np.zeros(n, np.int64)
    return Rows(columns, numbers, labels, np.array(ratings, np.float32), times, columns[:, 0])


def split(
    rows: Rows, protocol: str, seed: int = 7, test: float = 0.3, validation: float = 0.0, repeats: str = "keep",
    positive: bool = False,
) -> RowSplits:  # fmt: skip
    return split_rows(rows, SIDES, protocol, seed, test, validation, repeats, positive)


PROTOCOLS = ["leave_one_random", "cold_users", "cold_items"]


@settings(max_examples=30, deadline=None)
@given(some_rows(), st.sampled_from(PROTOCOLS), st.sampled_from([0.0, 0.3]), st.integers(0, 3))
def test_splits_are_disjoint_cover_and_follow_the_seed(rows: Rows, protocol: str, share: float, seed: int) -> None:
    try:
        found = split(rows, protocol, seed, validation=share)
    except UserError:
        return  # nothing is left to train on
    every = np.sort(np.concatenate(found))
    np.testing.assert_array_equal(every, np.arange(len(rows)))
    assert len(found.train) and (share or not len(found.validation))
    for part, again in zip(found, split(rows, protocol, seed, validation=share), strict=True):
        assert part.dtype == np.int64
        np.testing.assert_array_equal(part, again)


@settings(max_examples=30, deadline=None)
@given(some_rows(), st.booleans())
def test_each_user_leaves_a_positive_out_and_keeps_one(rows: Rows, validation: bool) -> None:
    try:
        found = split(rows, "leave_one_random", validation=0.1 * validation)
    except UserError:
        return
    for user in range(6):
        positive = set(np.flatnonzero((rows.users == user) & (rows.labels > 0)).tolist()) if user else set()
        test, held = (
            {row for row in part.tolist() if rows.users[row] == user} for part in (found.test, found.validation)
        )
        assert len(test) == (len(positive) > 1) and test <= positive
        assert len(held) == (len(positive) > 2 and validation) and held <= positive - test
        assert not positive or positive - test - held


def test_which_positive_is_left_out_is_random() -> None:
    """And each as often as the others."""
    n = 5
    columns = np.array([[1, i] for i in range(n)], np.int32)
    ones = np.ones(n, np.float32)
    rows = Rows(columns, np.zeros((n, 0), np.float32), ones, 5 * ones, np.zeros(n, np.int64), columns[:, 0])
    left = [split(rows, "leave_one_random", seed, validation=0.5) for seed in range(1000)]
    for name in ("test", "validation"):
        counts = np.bincount([getattr(one, name)[0] for one in left], minlength=n)
        assert np.all(np.abs(counts - 200) < 4.5 * np.sqrt(1000 * 0.2 * 0.8)), counts


@settings(max_examples=30, deadline=None)
@given(some_rows(), st.sampled_from([0, 1]), st.sampled_from([0.0, 0.3]))
def test_cold_users_and_items_are_left_out_whole(rows: Rows, column: int, share: float) -> None:
    of = rows.columns[:, column]
    try:
        found = split(rows, ["cold_users", "cold_items"][column], validation=share)
    except UserError:
        return
    train, held, test = (set(of[part].tolist()) for part in found[:3])
    assert not train & test and not train & held and not held & test
    assert 0 not in test | held, "unknown ones are not one of them"
    n = len(set(of[of > 0].tolist()))
    assert len(test) == int(np.ceil(0.3 * n))
    assert len(held) == int(np.ceil(share * (n - len(test))))


@settings(max_examples=10, deadline=None)
@given(some_rows())
def test_in_sample_is_everything_twice(rows: Rows) -> None:
    found = split(rows, "in_sample")
    np.testing.assert_array_equal(found.train, np.arange(len(rows)))
    np.testing.assert_array_equal(found.test, np.arange(len(rows)))
    assert not len(found.validation)
    with pytest.raises(UserError, match=r"^data\.validation_fraction: in_sample trains on all rows; set it to 0"):
        split(rows, "in_sample", validation=0.1)


# ---- repeated pairs --------------------------------------------------------------------------------------------------

PARTING = ["rows", "paper", "temporal", "leave_one_out", "leave_one_random"]


def known_pair(rows: Rows, row: int, positive: bool) -> tuple[int, int] | int:
    """The (user, item) of a row, or its number where it makes no pair."""
    user, item = rows.columns[row].tolist()
    return (user, item) if user and item and (rows.labels[row] > 0 or not positive) else row


@settings(max_examples=80, deadline=None)
@given(some_rows(), st.sampled_from(PARTING), st.booleans(), st.booleans(), st.integers(0, 3))
def test_no_pair_stands_on_two_sides(rows: Rows, protocol: str, validation: bool, positive: bool, seed: int) -> None:
    rows = replace(rows, times=np.random.default_rng(seed).integers(1, 9, len(rows)))
    share = 0.3 * validation
    try:
        found = split(rows, protocol, seed, validation=share, repeats="leave", positive=positive)
        kept = split(rows, protocol, seed, validation=share, positive=positive)
    except UserError:
        return
    every = np.concatenate(found)
    assert len(np.unique(every)) == len(every), "and no row twice"
    np.testing.assert_array_equal(np.sort(every), np.sort(np.concatenate(kept)))
    train, held, test = ({known_pair(rows, row, positive) for row in part.tolist()} for part in found[:3])
    assert not train & test and not train & held and not held & test
    assert {known_pair(rows, row, positive) for row in found.left_out.tolist()} <= held | test
    pairs = [known_pair(rows, row, positive) for row in range(len(rows))]
    if len(set(pairs)) == len(pairs):  # then all is as it was
        for one, other in zip(found, kept, strict=True):
            np.testing.assert_array_equal(one, other)
    if protocol == "temporal":
        assert all(rows.times[found.test].min() >= rows.times[part].max(initial=0) for part in found[:2])
    if protocol == "leave_one_random":
        for user in range(1, 6):
            liked = {pairs[row] for row in np.flatnonzero((rows.users == user) & (rows.labels > 0)).tolist()}
            assert sum(rows.users[found.test] == user) == (len(liked) > 1)
            assert sum(rows.users[found.validation] == user) == (len(liked) > 2 and validation)
            assert not liked or liked - held - test, "a user keeps a positive of another item"


# Purchases of user 1: items 1 1 2 3 1, and then of user 2: 2 2 2 4.
BOUGHT = np.array([[1, 1], [1, 1], [1, 2], [1, 3], [1, 1], [2, 2], [2, 2], [2, 2], [2, 4]], np.int32)
SHOP = Rows(BOUGHT, np.zeros((9, 0), np.float32), np.ones(9, np.float32), np.full(9, 5, np.float32),
            np.arange(1, 10), BOUGHT[:, 0])  # fmt: skip
WANTED: list[tuple[str, str, list[list[int]]]] = [  # train, validation, test, left out
    ("leave_one_out", "keep", [[0, 1, 2, 5, 6], [3, 7], [4, 8], []]),
    ("leave_one_out", "leave", [[2], [3, 7], [4, 8], [0, 1, 5, 6]]),
    ("leave_one_out", "once", [[2], [3, 7], [4, 8], [0, 1, 5, 6]]),
    ("temporal", "keep", [[0, 1, 2, 3, 4], [5], [6, 7, 8], []]),
    ("temporal", "leave", [[2, 3], [4], [7, 8], [0, 1, 5, 6]]),
    ("cold_users", "leave", [[0, 1, 2, 3, 4], [], [5, 6, 7, 8], []]),
    ("cold_users", "once", [[2, 3, 4], [], [7, 8], [0, 1, 5, 6]]),
    ("in_sample", "leave", [list(range(9)), [], list(range(9)), []]),
]


@pytest.mark.parametrize(("protocol", "repeats", "wanted"), WANTED)
def test_what_becomes_of_repeated_purchases(protocol: str, repeats: str, wanted: list[list[int]]) -> None:
    share = 0.1 if protocol in ("leave_one_out", "temporal") else 0.0
    found = split(SHOP, protocol, 0, 0.3, share, repeats)
    assert [sorted(part.tolist()) for part in found] == wanted


def test_who_repeats_by_default() -> None:
    """Models that rank items for users part no pair; click models do where rows are events of their own."""
    for protocol, impressions, held, left in (
        ("temporal", True, [4], 0), ("leave_one_out", True, [], 2), ("temporal", False, [], 4),
        ("in_sample", True, [], 0),
    ):  # fmt: skip
        data = RowData(path="x", protocol=protocol, test_fraction=0.6)
        found = configured_splits(data, SHOP, SIDES, impressions)
        both = held_by(data, SHOP, SIDES, found.train, found.test, impressions)
        assert sorted(found.test[both].tolist()) == held and len(found.left_out) == left


ONE = Rows(np.array([[1, 2]], np.int32), np.zeros((1, 0), np.float32), np.ones(1, np.float32),
           np.full(1, 5, np.float32), np.zeros(1, np.int64), np.ones(1, np.int32))  # fmt: skip


def test_where_little_is_left() -> None:
    assert [len(part) for part in split(ONE, "leave_one_random", validation=0.5)] == [1, 0, 0, 0]
    with pytest.raises(UserError, match=r"of 4 rows leave none to train on"):
        split(SHOP.take(np.array([0, 1, 5, 6])), "leave_one_out", repeats="leave")


@pytest.mark.parametrize(("protocol", "schema", "message"), [
    ("cold_users", replace(SIDES, user=None), "cold_users needs the field of the user"),
    ("cold_users", SIDES, "0.2 and 0.0 of 1 rows leave none to train on"),
])  # fmt: skip
def test_protocols_that_the_data_do_not_allow(protocol: str, schema: Schema, message: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.\w+.*: .*{message}"):
        split_rows(ONE, schema, protocol, 42, 0.2, 0.0)
