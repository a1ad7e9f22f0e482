"""How rows are split: against plain sets, as scikit-learn does, by time, or with a positive of each user left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import Field, Rows, Schema
from jaxrec.data.splits import RowData, RowSplits, configured_splits, held_by
from jaxrec.errors import UserError

SIDES = Schema(
    (Field("user", "categorical", "user", 7), Field("item", "categorical", "item", 6)), "user", "item", 4.0, 1.0, 5.0
)
PARTING = ["rows", "paper", "temporal", "leave_one_out", "leave_one_random"]  # pairs
PROTOCOLS = [*PARTING, "cold_users", "cold_items"]


def make_rows(users: Any, items: Any, ratings: Any, times: Any) -> Rows:
    columns, ratings = np.array([users, items], np.int32).T, np.array(ratings, np.float32)
    numbers, labels = np.zeros((len(ratings), 0), np.float32), (ratings >= 4).astype(np.float32)
    return Rows(columns, numbers, labels, ratings, np.array(times, np.int64), columns[:, 0])


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    """Users 0 to 5 and items 0 to 5, of which 0 is any unknown one; ratings 1 to 5, of which 4 and 5 are positive."""
    n = draw(st.integers(1, 40))
    ranges = ((0, 5), (0, 5), (1, 5), (1, 9))
    return make_rows(*(draw(st.lists(st.integers(*ends), min_size=n, max_size=n)) for ends in ranges))


def split(
    rows: Rows, protocol: str, seed: int = 7, test: float = 0.3, validation: float = 0.0, repeats: Any = "keep",
    positive: bool = False, schema: Schema = SIDES,
) -> RowSplits:  # fmt: skip
    data = RowData(path="x", protocol=protocol, split_seed=seed, test_fraction=test, validation_fraction=validation,
                   repeats=repeats)  # fmt: skip
    return configured_splits(data, rows, schema, not positive)


def pair_of(rows: Rows, row: int, positive: bool) -> tuple[int, int] | int:
    """The (user, item) of a row, or its number where it makes no pair."""
    user, item = rows.columns[row].tolist()
    return (user, item) if user and item and (rows.labels[row] > 0 or not positive) else row


@settings(max_examples=150, deadline=None)
@given(some_rows(), st.sampled_from(PROTOCOLS), st.sampled_from([0.0, 0.3]), st.booleans(), st.integers(0, 3))
def test_splits_cover_the_rows_part_no_pair_and_follow_the_seed(
    rows: Rows, protocol: str, share: float, positive: bool, seed: int
) -> None:
    try:
        found = split(rows, protocol, seed, validation=share, repeats="leave", positive=positive)
        kept = split(rows, protocol, seed, validation=share, positive=positive)
    except UserError:
        return  # nothing is left to train on
    below = rows.ratings[rows.labels == 0].max(initial=0)
    expected = np.flatnonzero(rows.ratings != below) if protocol == "paper" else np.arange(len(rows))
    for one in (found, kept):
        np.testing.assert_array_equal(np.sort(np.concatenate(one)), expected)
        assert len(one.train) and (share or not len(one.validation)) and all(part.dtype == np.int64 for part in one)
    assert not len(kept.left_out)
    for part, again in zip(kept, split(rows, protocol, seed, validation=share, positive=positive), strict=True):
        np.testing.assert_array_equal(part, again)
    pairs = [pair_of(rows, row, positive) for row in range(len(rows))]
    if protocol in PARTING:
        train, held, test, left = ({pairs[row] for row in part.tolist()} for part in found)
        assert not train & test and not train & held and not held & test and left <= held | test
    if len(set(pairs)) == len(pairs):
        for part, other in zip(found, kept, strict=True):
            np.testing.assert_array_equal(part, other)
    if protocol.startswith("cold"):
        of = rows.columns[:, int(protocol == "cold_items")]
        train, held, test = (set(of[part].tolist()) for part in kept[:3])
        assert not train & test and not train & held and not held & test
        assert 0 not in test | held, "unknown ones are not one of them"
        n = len(set(of[of > 0].tolist()))
        assert (len(test), len(held)) == (int(np.ceil(0.3 * n)), int(np.ceil(share * (n - len(test)))))
    if protocol == "temporal":
        assert len(kept.test) == int(np.ceil(0.3 * len(rows)))
        for one in (found, kept):
            assert all(rows.times[one.test].min() >= rows.times[part].max(initial=0) for part in one[:2])
    if protocol == "leave_one_random":
        for user in range(6):
            own = np.flatnonzero((rows.users == user) & (rows.labels > 0)).tolist() if user else []  # 0 is not a user
            liked = {pairs[row] for row in own}
            assert sum(rows.users[found.test] == user) == (len(liked) > 1)
            assert sum(rows.users[found.validation] == user) == (len(liked) > 2 and share > 0)
            assert not liked or liked - held - test, "a user keeps a positive of another item"


@settings(max_examples=60, deadline=None)
@given(some_rows(), st.booleans())
def test_each_user_leaves_the_last_positive_and_what_follows_out(rows: Rows, validation: bool) -> None:
    try:
        found = split(rows, "leave_one_out", validation=0.1 * validation)
    except UserError:
        return
    for user in range(6):
        own = [int(row) for _, row in sorted((rows.times[i], i) for i in np.flatnonzero(rows.users == user))]
        places = [place for place, row in enumerate(own) if rows.labels[row] > 0] if user else []  # 0 is not a user
        last = places[-1] if places else len(own)
        second = places[-2] if len(places) > 1 and validation else last
        wanted = (own[:second], own[second:last], own[last:])
        for part, expected in zip(found, wanted, strict=False):
            assert sorted(row for row in part if rows.users[row] == user) == sorted(expected)


def test_which_positive_is_left_out_is_random() -> None:
    """And each as often as the others."""
    rows = make_rows([1] * 5, range(5), [5] * 5, [0] * 5)
    left = [split(rows, "leave_one_random", seed, validation=0.5) for seed in range(1000)]
    for name in ("test", "validation"):
        counts = np.bincount([getattr(one, name)[0] for one in left], minlength=5)
        assert np.all(np.abs(counts - 200) < 4.5 * np.sqrt(1000 * 0.2 * 0.8)), counts


@pytest.mark.parametrize("n", [5, 7, 100, 1001])
def test_rows_are_split_as_scikit_learn_does(n: int) -> None:
    for seed in (42, 0):
        found = split(make_rows([1] * n, [1] * n, [5] * n, [0] * n), "rows", seed, 0.2, 0.1)
        order, test = np.random.RandomState(seed).permutation(n), -(-n // 5)
        held_out = int(np.ceil((n - test) / 10))
        np.testing.assert_array_equal(found.test, order[:test])
        np.testing.assert_array_equal(found.validation, order[test : test + held_out])
        np.testing.assert_array_equal(found.train, order[test + held_out :])


# Purchases of user 1: items 1 1 2 3 1, and then of user 2: 2 2 2 4.
SHOP = make_rows([1] * 5 + [2] * 4, [1, 1, 2, 3, 1, 2, 2, 2, 4], [5] * 9, range(1, 10))
EVERY = list(range(9))


@pytest.mark.parametrize(("protocol", "repeats", "wanted"), [  # train, validation, test, left out
    ("leave_one_out", "keep", [[0, 1, 2, 5, 6], [3, 7], [4, 8], []]),
    ("leave_one_out", "leave", [[2], [3, 7], [4, 8], [0, 1, 5, 6]]),
    ("temporal", "keep", [[0, 1, 2, 3, 4], [5], [6, 7, 8], []]),
    ("temporal", "leave", [[2, 3], [4], [7, 8], [0, 1, 5, 6]]),
    ("cold_users", "leave", [[0, 1, 2, 3, 4], [], [5, 6, 7, 8], []]),
    ("in_sample", "leave", [EVERY, [], EVERY, []]),
])  # fmt: skip
def test_what_becomes_of_repeated_purchases(protocol: str, repeats: str, wanted: list[list[int]]) -> None:
    share = 0.1 if protocol in ("leave_one_out", "temporal") else 0.0
    assert [sorted(part.tolist()) for part in split(SHOP, protocol, 0, 0.3, share, repeats)] == wanted


def test_who_repeats_by_default() -> None:
    """Models that rank items for users part no pair; click models do where rows are events of their own."""
    for protocol, impressions, held, left in (
        ("temporal", True, [4], 0), ("leave_one_out", True, [], 2),
        ("temporal", False, [], 4), ("in_sample", True, [], 0),
    ):  # fmt: skip
        data = RowData(path="x", protocol=protocol, test_fraction=0.6)
        found = configured_splits(data, SHOP, SIDES, impressions)
        both = held_by(data, SHOP, SIDES, found.train, found.test, impressions)
        assert sorted(found.test[both].tolist()) == held and len(found.left_out) == left


def test_protocols_that_the_data_do_not_allow() -> None:
    small = make_rows([1, 1, 2, 2], [1] * 4, [5, 3, 4, 2], [0] * 4)
    for schema, protocol, shares, message in (
        (SIDES, "temporal", (0.2, 0.0), "needs times, and the data set has"),
        (replace(SIDES, user=None), "leave_one_random", (0.2, 0.0), "leave_one_random needs the field of the user"),
        (SIDES, "rows", (0.9, 0.5), r"0\.9 and 0\.5 of 4 rows leave none to train on"),
    ):
        with pytest.raises(UserError, match=rf"^data\.\w+.*: .*{message}"):
            split(small, protocol, 42, *shares, schema=schema)
