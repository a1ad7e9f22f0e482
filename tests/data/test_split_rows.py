"""How rows are split: disjoint and whole, as scikit-learn does, by time, or with each user's last positive left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.data.splits import RowSplits, split_rows
from jaxrec.errors import UserError

SCHEMA = Schema((Field("user", "categorical", "user", 9),), "user", None, 4.0, 1.0, 5.0)


def some_rows(users: list[int], ratings: list[int], times: list[int]) -> Rows:
    n = len(users)
    columns = np.array(users, np.int32).reshape(n, 1)
    labels = (np.array(ratings) >= 4).astype(np.float32)
    return Rows(
        columns, np.zeros((n, 0), np.float32), labels, np.array(ratings, np.float32), np.array(times), columns[:, 0]
    )


@st.composite
def splittable(draw: st.DrawFn) -> Rows:
    n = draw(st.integers(5, 40))
    parts = (st.integers(0, 4), st.integers(1, 5), st.integers(1, 9))
    users, ratings, times = (draw(st.lists(part, min_size=n, max_size=n)) for part in parts)
    return some_rows(users, ratings, times)


def split(rows: Rows, protocol: str, test: float = 0.2, validation: float = 0.1, seed: int = 42) -> RowSplits:
    return split_rows(rows, SCHEMA, protocol, seed, test, validation)


@settings(max_examples=60, deadline=None)
@given(splittable(), st.sampled_from(["rows", "paper", "temporal", "leave_one_out"]), st.sampled_from([0.0, 0.1, 0.5]))
def test_splits_are_disjoint_and_cover(rows: Rows, protocol: str, validation: float) -> None:
    try:
        found = split(rows, protocol, validation=validation)
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
    found = split(some_rows([1] * n, [5] * n, [0] * n), "rows", seed=seed)
    order, test = np.random.RandomState(seed).permutation(n), -(-n // 5)
    held_out = int(np.ceil((n - test) / 10))
    np.testing.assert_array_equal(found.test, order[:test])
    np.testing.assert_array_equal(found.validation, order[test : test + held_out])
    np.testing.assert_array_equal(found.train, order[test + held_out :])


@settings(max_examples=50, deadline=None)
@given(splittable())
def test_the_latest_rows_are_the_test_split(rows: Rows) -> None:
    found = split(rows, "temporal")
    train, validation, test = (rows.times[part] for part in found[:3])
    assert len(test) == int(np.ceil(0.2 * len(rows)))
    assert train.max() <= validation.min()
    assert validation.max() <= test.min()


@settings(max_examples=60, deadline=None)
@given(splittable(), st.booleans())
def test_each_user_leaves_the_last_positive_and_what_follows_out(rows: Rows, validation: bool) -> None:
    try:
        found = split(rows, "leave_one_out", validation=0.1 * validation)
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


SMALL = some_rows([1, 1, 2, 2], [5, 3, 4, 2], [1, 2, 3, 4])
REFUSED: list[tuple[Rows, Schema, str, float, str]] = [
    (some_rows([1, 1], [5, 1], [0, 0]), SCHEMA, "temporal", 0.2, "temporal needs times, and the data set has none"),
    (some_rows([1, 1], [5, 1], [0, 0]), SCHEMA, "leave_one_out", 0.2, "leave_one_out needs times, and the data"),
    (SMALL, Schema((), None, None, 4, 1, 5), "leave_one_out", 0.2, "leave_one_out needs the field of the user"),
    (SMALL.take(np.array([0, 2])), SCHEMA, "leave_one_out", 0.2, "of 2 rows leave none to train on"),
    (SMALL, SCHEMA, "rows", 0.9, r"0\.9 and 0\.5 of 4 rows leave none to train on"),
    (SMALL.take(np.array([0, 1, 2])), SCHEMA, "paper", 0.2, "leaves out ratings of 3, and no negative is left without"),
]


@pytest.mark.parametrize(("rows", "schema", "protocol", "test", "message"), REFUSED)
def test_protocols_that_the_data_do_not_allow(
    rows: Rows, schema: Schema, protocol: str, test: float, message: str
) -> None:
    with pytest.raises(UserError, match=rf"^data\.\w+.*: .*{message}") as caught:
        split_rows(rows, schema, protocol, 42, test, 0.5)
    assert len(str(caught.value).splitlines()) == 1
