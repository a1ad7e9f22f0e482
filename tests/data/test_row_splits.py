"""How rows are split, and what models that rank items read of them: against plain sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_data import FIELDS, PRICES, made, opened

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.retrieval import (
    Catalogue,
    has_each,
    has_items,
    known,
    positive_bits,
    read_fields,
    size_of_bits,
    unpack,
    value_counts,
)
from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.data.splits import RowData, RowSplits, configured_splits, held_by, split_rows
from jaxrec.errors import UserError

# ---- bits ------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([1, 32, 33, 64]))
def test_bits_are_sets(data: st.DataObject, n_items: int) -> None:
    """Of pairs that may come twice; user 0 has nothing."""
    n_users = 4
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1)), max_size=30))
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    bits = positive_bits(users, items, n_users, n_items)
    assert bits.dtype == np.uint32 and bits.nbytes == size_of_bits(n_users, n_items)
    has = {pair for pair in pairs if pair[0]}
    expected = np.array([[(user, item) in has for item in range(n_items)] for user in range(n_users)])
    np.testing.assert_array_equal(unpack(jnp.asarray(bits), n_items), expected)
    random = np.random.default_rng(len(pairs))
    asked, offered = random.integers(0, n_users, 4), random.integers(0, n_items, (4, 6))
    words = jnp.asarray(bits)
    found = has_items(words, jnp.asarray(asked), jnp.asarray(offered[0]))
    np.testing.assert_array_equal(found, expected[asked][:, offered[0]].T)
    each = has_each(words, jnp.asarray(asked), jnp.asarray(offered))
    np.testing.assert_array_equal(each, np.take_along_axis(expected[asked], offered, axis=1))


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
REFUSED: list[tuple[str, Schema, float, str]] = [
    ("leave_one_random", replace(SIDES, user=None), 0.2, "leave_one_random needs the field of the user"),
    ("cold_items", replace(SIDES, item=None), 0.2, "cold_items needs the field of the item"),
    ("cold_users", SIDES, 0.2, "0.2 and 0.0 of 1 rows leave none to train on"),
]


def test_where_little_is_left() -> None:
    assert [len(part) for part in split(ONE, "leave_one_random", validation=0.5)] == [1, 0, 0, 0]
    with pytest.raises(UserError, match=r"of 4 rows leave none to train on"):
        split(SHOP.take(np.array([0, 1, 5, 6])), "leave_one_out", repeats="leave")


@pytest.mark.parametrize(("protocol", "schema", "test", "message"), REFUSED)
def test_protocols_that_the_data_do_not_allow(protocol: str, schema: Schema, test: float, message: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.\w+.*: .*{message}"):
        split_rows(ONE, schema, protocol, 42, test, 0.0)


# ---- what is read of a data set --------------------------------------------------------------------------------------


def test_what_is_read() -> None:
    """The configured fields in their order; values that no training positive has are unknown; item 0 is no target."""
    data = opened([0, 1, 3, 5, 6], [2, 3, 4], ("age", "skin", "rate", "tags", "item", "price"))
    assert (data.n_users, data.n_items) == (5, 6)
    assert [field.name for field in data.fields.fields] == ["age", "skin", "rate", "tags", "item", "price"]
    found = data.queries(data.splits.test)  # row 3 is no positive
    np.testing.assert_array_equal(found.columns, [[0], [0]])  # skins 2 and 3 are in no training positive
    np.testing.assert_array_equal(found.numbers, [[7], [13]])
    np.testing.assert_array_equal(found.users, [2, 3])
    np.testing.assert_array_equal(found.items, [1, 4])
    np.testing.assert_array_equal(data.catalogue.columns[:, :2], [[0, 0], [1, -1], [2, 3], [-1, -1], [0, -1], [2, 0]])
    np.testing.assert_array_equal(data.catalogue.columns[:, 2], [0, 1, 2, 0, 0, 0])
    np.testing.assert_array_equal(data.catalogue.numbers, PRICES[:, ::-1])
    training = data.training_rows()
    np.testing.assert_array_equal(training.columns, [[1, 1, 1], [1, 1, 2]])  # skin, user, item; row 5 is of no item
    np.testing.assert_array_equal(training.numbers, [[1], [4]])
    np.testing.assert_array_equal(data.item_counts(), [0, 1, 1, 0, 0, 0])
    held = np.array(unpack(jnp.asarray(data.positives(data.splits.train, data.splits.test)), 6))
    assert {(int(u), int(i)) for u, i in np.argwhere(held)} == {(1, 1), (1, 2), (2, 1), (3, 4)}


def test_what_can_not_be_read() -> None:
    with pytest.raises(UserError, match=r"made: no positive row is left to train on; change data\.protocol"):
        opened([3, 6], [0])
    data = opened([0, 1, 2], [3])
    assert [field.name for field in data.fields.fields] == ["user", "price", "skin", "tags", "item", "age", "rate"]
    assert data.training_rows().columns.shape == (3, 4)
    data = replace(opened([0], [1]), schema=replace(FIELDS, fields=(replace(FIELDS.fields[0], size=2**20),)),
                   catalogue=Catalogue(np.zeros((32 * 64, 0)), np.zeros((32 * 64, 0))))  # fmt: skip
    data.check_mask(256)
    with pytest.raises(UserError, match=r"^loss\.mask: positives of 1,048,576 users and 2,048 items take 256 MiB, and "
                       r"data\.device_memory allows 255; raise it or choose duplicates"):  # fmt: skip
        data.check_mask(255)


def test_values_that_training_has_not_seen() -> None:
    schema = Schema((Field("a", "categorical", "user", 4), Field("b", "bag", "user", 3, 2)), None, None, 1, 0, 1)
    columns = np.array([[1, 0, 2], [3, 1, -1], [0, -1, -1]], np.int32)
    counts = value_counts(schema, columns)
    assert counts.tolist() == [1, 1, 0, 1, 1, 1, 1]
    found = known(schema, np.array([[2, 2, 1], [1, -1, -1]], np.int32), np.array([1, 1, 0, 1, 1, 0, 1]))
    assert found.tolist() == [[0, 2, 0], [1, -1, -1]]


NO_TOWERS: list[tuple[dict[str, Any], tuple[str, ...] | None, str]] = [
    ({"user": None}, None, "made: has no user field, and two_tower recommends items to users; prepare"),
    ({"item": None}, None, "made: has no item field"),
    ({}, ("skin", "item", "day"), r"^data\.fields: day is of the occasion, and a tower reads fields of the user or"),
    ({}, ("skin", "age"), r"^data\.fields: none of the item; add some of price, tags, item, rate"),
    ({}, ("tags",), r"^data\.fields: none of the user; add some of user, skin, age"),
    ({}, ("skni", "tags"), r"^data\.fields: no field 'skni' \(did you mean 'skin'\?\); there are user, price"),
]


@pytest.mark.parametrize(("changes", "fields", "message"), NO_TOWERS)
def test_fields_that_make_no_towers(changes: dict[str, Any], fields: tuple[str, ...] | None, message: str) -> None:
    config: Config = configuration.parse({"data": {"path": "x", "fields": fields}, "model": {"name": "two_tower"}})
    with pytest.raises(UserError, match=message):
        read_fields(config, made(replace(FIELDS, **changes)))
