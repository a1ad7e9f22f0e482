"""How rows are split: against plain sets, as scikit-learn does, by time, or with a positive of each user left out."""

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
def test_protocols_that_one_row_does_not_allow(protocol: str, schema: Schema, message: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.\w+.*: .*{message}"):
        split_rows(ONE, schema, protocol, 42, 0.2, 0.0)


# ---- protocols by time and by row ------------------------------------------------------------------------------------

USERS = Schema((Field("user", "categorical", "user", 9),), "user", None, 4.0, 1.0, 5.0)


def rows_of(users: list[int], ratings: list[int], times: list[int]) -> Rows:
    n = len(users)
    columns = np.array(users, np.int32).reshape(n, 1)
    labels = (np.array(ratings) >= 4).astype(np.float32)
    return Rows(
        columns, np.zeros((n, 0), np.float32), labels, np.array(ratings, np.float32), np.array(times), columns[:, 0]
    )


@st.composite
def some_times(draw: st.DrawFn) -> Rows:
    n = draw(st.integers(5, 40))
    parts = (st.integers(0, 4), st.integers(1, 5), st.integers(1, 9))
    users, ratings, times = (draw(st.lists(part, min_size=n, max_size=n)) for part in parts)
    return rows_of(users, ratings, times)


def split_users(rows: Rows, protocol: str, test: float = 0.2, validation: float = 0.1, seed: int = 42) -> RowSplits:
    return split_rows(rows, USERS, protocol, seed, test, validation)


@settings(max_examples=60, deadline=None)
@given(some_times(), st.sampled_from(["rows", "paper", "temporal", "leave_one_out"]), st.sampled_from([0.0, 0.1, 0.5]))
def test_splits_are_disjoint_and_cover(rows: Rows, protocol: str, validation: float) -> None:
    try:
        found = split_users(rows, protocol, validation=validation)
    except UserError:
        return
    every = np.sort(np.concatenate(found))
    assert all(part.dtype == np.int64 for part in found)
    assert len(np.unique(every)) == len(every)
    below = rows.ratings[rows.labels == 0].max(initial=0)
    expected = np.flatnonzero(rows.ratings != below) if protocol == "paper" else np.arange(len(rows))
    np.testing.assert_array_equal(every, expected)
    assert validation or not len(found.validation)


@pytest.mark.parametrize("n", [5, 7, 100, 1001])
@pytest.mark.parametrize("seed", [42, 0])
def test_rows_are_split_as_scikit_learn_does(n: int, seed: int) -> None:
    found = split_users(rows_of([1] * n, [5] * n, [0] * n), "rows", seed=seed)
    order, test = np.random.RandomState(seed).permutation(n), -(-n // 5)
    held_out = int(np.ceil((n - test) / 10))
    np.testing.assert_array_equal(found.test, order[:test])
    np.testing.assert_array_equal(found.validation, order[test : test + held_out])
    np.testing.assert_array_equal(found.train, order[test + held_out :])


@settings(max_examples=50, deadline=None)
@given(some_times())
def test_the_latest_rows_are_the_test_split(rows: Rows) -> None:
    found = split_users(rows, "temporal")
    train, validation, test = (rows.times[part] for part in found[:3])
    assert len(test) == int(np.ceil(0.2 * len(rows)))
    assert train.max() <= validation.min()
    assert validation.max() <= test.min()


@settings(max_examples=60, deadline=None)
@given(some_times(), st.booleans())
def test_each_user_leaves_the_last_positive_and_what_follows_out(rows: Rows, validation: bool) -> None:
    try:
        found = split_users(rows, "leave_one_out", validation=0.1 * validation)
    except UserError:
        return
    for user in range(5):
        own = [int(row) for _, row in sorted((rows.times[i], i) for i in np.flatnonzero(rows.users == user))]
        places = [place for place, row in enumerate(own) if rows.labels[row] > 0] if user else []  # 0 is not a user
        last = places[-1] if places else len(own)
        second = places[-2] if len(places) > 1 and validation else last
        assert sorted(row for row in found.test if rows.users[row] == user) == sorted(own[last:])
        assert sorted(row for row in found.validation if rows.users[row] == user) == sorted(own[second:last])
        assert sorted(row for row in found.train if rows.users[row] == user) == sorted(own[:second])


SMALL = rows_of([1, 1, 2, 2], [5, 3, 4, 2], [1, 2, 3, 4])
REFUSED: list[tuple[Rows, Schema, str, float, str]] = [
    (rows_of([1, 1], [5, 1], [0, 0]), USERS, "temporal", 0.2, "temporal needs times, and the data set has none"),
    (rows_of([1, 1], [5, 1], [0, 0]), USERS, "leave_one_out", 0.2, "leave_one_out needs times, and the data"),
    (SMALL, Schema((), None, None, 4, 1, 5), "leave_one_out", 0.2, "leave_one_out needs the field of the user"),
    (SMALL.take(np.array([0, 2])), USERS, "leave_one_out", 0.2, "of 2 rows leave none to train on"),
    (SMALL, USERS, "rows", 0.9, r"0\.9 and 0\.5 of 4 rows leave none to train on"),
    (SMALL.take(np.array([0, 1, 2])), USERS, "paper", 0.2, "leaves out ratings of 3, and no negative is left without"),
]


@pytest.mark.parametrize(("rows", "schema", "protocol", "test", "message"), REFUSED)
def test_protocols_that_the_data_do_not_allow(
    rows: Rows, schema: Schema, protocol: str, test: float, message: str
) -> None:
    with pytest.raises(UserError, match=rf"^data\.\w+.*: .*{message}") as caught:
        split_rows(rows, schema, protocol, 42, test, 0.5)
    assert len(str(caught.value).splitlines()) == 1
