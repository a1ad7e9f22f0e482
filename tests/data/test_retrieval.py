"""What models that rank items read of rows, and hits by hand; ranks are held in contract/test_judges.py."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import call
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec import config as configuration
from jaxrec.data.dataset import Field, Rows, RowsDataset, Schema, open_dataset
from jaxrec.data.retrieval import Queries, Retrieval, has_each, has_items, positive_bits
from jaxrec.data.splits import RowSplits
from jaxrec.errors import UserError
from jaxrec.tasks.base import make_task
from jaxrec.tasks.retrieval import task as counting

FIELDS = Schema(
    (
        Field("user", "categorical", "user", 5), Field("price", "numerical", "item", 1, 0),
        Field("skin", "categorical", "user", 4), Field("tags", "bag", "item", 5, 2),
        Field("item", "categorical", "item", 6), Field("age", "numerical", "user", 1, 0),
        Field("rate", "numerical", "item", 1, 0), Field("day", "categorical", "context", 3),
    ), "user", "item", 4.0, 1.0, 5.0,
)  # fmt: skip
PRICES = np.arange(12, dtype=np.float32).reshape(6, 2)  # and rates, of each item


class Made(RowsDataset):
    """Without files: user 1 to 4, skin, tags, item, day; price, age, rate."""

    def rows(self) -> Rows:
        columns = np.array([
            [1, 1, 1, -1, 1, 1], [1, 1, 2, 3, 2, 2], [2, 2, 1, -1, 1, 1], [2, 2, -1, -1, 3, 1], [3, 3, 4, -1, 4, 1],
            [4, 1, 1, -1, 0, 1], [4, 1, 2, 3, 2, 2],
        ], np.int32)  # fmt: skip
        numbers = np.arange(21, dtype=np.float32).reshape(7, 3)
        ratings = np.array([5, 4, 5, 1, 5, 5, 3], np.float32)
        labels = (ratings >= 4).astype(np.float32)
        return Rows(columns, numbers, labels, ratings, np.zeros(7, np.int64), columns[:, 0])

    def array(self, name: str) -> np.ndarray:
        if name == "items.npy":  # tags and item
            return np.array([[0, 0, 0], [1, -1, 1], [2, 3, 2], [-1, -1, 3], [4, -1, 4], [2, 4, 5]], np.int32)
        return PRICES


def opened(train: list[int], test: list[int], fields: tuple[str, ...] | None = None, **schema: Any) -> Retrieval:
    own = replace(FIELDS, **schema)
    label = {"threshold": own.threshold, "low": own.low, "high": own.high}
    manifest = {"fields": [asdict(field) for field in own.fields], "user": own.user, "item": own.item, "label": label}
    data = Made(Path("made"), manifest)
    splits = RowSplits(np.array(train, np.int64), np.zeros(0, np.int64), np.array(test, np.int64))
    config = configuration.parse({"data": {"path": "x", "fields": fields}, "model": {"name": "two_tower"}})
    return Retrieval.open(config, data, data.rows(), splits)


def unpacked(bits: np.ndarray, n_items: int) -> np.ndarray:
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=n_items).astype(bool)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([1, 32, 33]))
def test_bits_are_sets(data: st.DataObject, n_items: int) -> None:
    """Of pairs that may come twice; user 0 has nothing."""
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, n_items - 1)), max_size=30))
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    bits, has = positive_bits(users, items, 4, n_items), {pair for pair in pairs if pair[0]}
    expected = np.array([[(user, item) in has for item in range(n_items)] for user in range(4)])
    np.testing.assert_array_equal(unpacked(bits, n_items), expected)
    random = np.random.default_rng(len(pairs))
    asked, offered = random.integers(0, 4, 4), random.integers(0, n_items, (4, 6))
    found = has_items(jnp.asarray(bits), jnp.asarray(asked), jnp.asarray(offered[0]))
    np.testing.assert_array_equal(found, expected[asked][:, offered[0]].T)
    each = has_each(jnp.asarray(bits), jnp.asarray(asked), jnp.asarray(offered))
    np.testing.assert_array_equal(each, np.take_along_axis(expected[asked], offered, axis=1))


def test_what_is_read() -> None:
    """The configured fields in their order; values that no training positive has are unknown; item 0 is no target."""
    data = opened([0, 1, 3, 5, 6], [2, 3, 4], ("age", "skin", "rate", "tags", "item", "price"))
    assert (data.n_users, data.n_items) == (5, 6)
    found = data.queries(data.splits.test)  # row 3 is no positive
    np.testing.assert_array_equal(found.columns, [[0], [0]])  # skins 2 and 3 are in no training positive
    np.testing.assert_array_equal(found.numbers, [[7], [13]])
    assert (found.users.tolist(), found.items.tolist()) == ([2, 3], [1, 4])
    np.testing.assert_array_equal(data.catalogue.columns[:, :2], [[0, 0], [1, -1], [2, 3], [-1, -1], [0, -1], [2, 0]])
    np.testing.assert_array_equal(data.catalogue.columns[:, 2], [0, 1, 2, 0, 0, 0])
    np.testing.assert_array_equal(data.catalogue.numbers, PRICES[:, ::-1])
    training = data.training_rows()
    np.testing.assert_array_equal(training.columns, [[1, 1, 1], [1, 1, 2]])  # skin, user, item; row 5 is of no item
    np.testing.assert_array_equal(training.numbers, [[1], [4]])
    np.testing.assert_array_equal(data.item_counts(), [0, 1, 1, 0, 0, 0])
    held = unpacked(data.positives(data.splits.train, data.splits.test), 6)
    assert {(int(u), int(i)) for u, i in np.argwhere(held)} == {(1, 1), (1, 2), (2, 1), (3, 4)}


@pytest.mark.parametrize(("changes", "fields", "message"), [
    ({"user": None}, None, "^made: has no user field, and two_tower recommends items to users; prepare"),
    ({}, ("age",), r"^data\.fields: none of the item; add some of price, tags, item, rate"),
    ({}, None, "^made: no positive row is left to train on"),
])  # fmt: skip
def test_what_makes_no_towers(changes: dict[str, Any], fields: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened([3], [0], fields, **changes)


CATEGORIES = np.array([0, 1, 1, 2, 2, 3])


def test_hits_of_lists() -> None:
    lists = {"rank": np.array([1.0, 4.0, 3.0]), "top": np.array([[1, 2, 3], [5, 3, 1], [4, 1, 2]])}
    found = counting.answered(lists, np.array([1, 4, 2]), CATEGORIES, [1, 2, 3])
    assert {name: values.tolist() for name, values in found.items()} == {
        "hit_rate@1": [1, 0, 0], "hit_rate@2": [1, 0, 0], "hit_rate@3": [1, 0, 1],
        "category_hit@1": [1, 0, 0], "category_hit@2": [1, 1, 1], "category_hit@3": [1, 1, 1],
    }  # fmt: skip
    low, high = counting.measured(found)["intervals"]["hit_rate@3"]
    assert 0 <= low <= counting.means(found)["hit_rate@3"] <= high <= 1


def test_what_is_expected_of_chance_and_popularity(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: five products of which a customer may have some, and the target is a candidate all the same."""
    monkeypatch.setattr(counting, "CELLS", 1)
    targets = np.array([1, 3, 5])
    had = positive_bits(np.array([1, 1, 3, 3, 3]), np.array([1, 2, 3, 4, 5]), 4, 6)[[1, 2, 3]]
    found = counting.expected(np.zeros(6), targets, had, CATEGORIES, [1, 2])
    # Candidates: 1, 3, 4, 5; all five; 1, 2, 5. Of the target's category one, two and one of them.
    np.testing.assert_allclose(found["hit_rate@2"], [2 / 4, 2 / 5, 2 / 3])
    np.testing.assert_allclose(found["category_hit@1"], [1 / 4, 2 / 5, 1 / 3])
    np.testing.assert_allclose(found["category_hit@2"], [2 / 4, 1 - 3 / 10, 2 / 3])
    found = counting.expected(np.array([99.0, 4, 7, 4, 4, 1]), targets, had, None, [1, 2])
    np.testing.assert_allclose(found["hit_rate@1"], [1 / 3, 0, 0])
    np.testing.assert_allclose(found["hit_rate@2"], [2 / 3, 1 / 3, 0])


def test_the_oracle_knows_what_the_fields_tell_apart() -> None:
    """Four customers; without the age two of them are one."""
    asked = Queries(np.array([[1], [1], [2], [2]], np.int32), np.array([[20, 1], [30, 1], [30, 2], [30, 2]]),
                    np.arange(1, 5), np.array([1, 3, 2, 5]))  # fmt: skip
    found = counting.oracle(asked, ["age", "size"], CATEGORIES, [1, 2])
    assert found["all fields"] == {"hit_rate@1": 0.75, "hit_rate@2": 1.0, "category_hit@1": 0.75, "category_hit@2": 1.0}
    assert found["without age"]["hit_rate@1"] == 0.5 and found["without age"]["hit_rate@2"] == 1.0
    assert found["without size"] == found["all fields"]


# ---- rows without labels, or of which all are positive ---------------------------------------------------------------

# Users of even numbers have the even ones of 10 items, but one each; the others the odd ones.
PAIRS = [(user, item) for user in range(1, 21) for item in range(10) if item % 2 == user % 2 and item // 2 != user % 5]


def purchases(out: Path, label: str = "", *argv: object) -> RowsDataset:
    """Purchases, with a column of labels that are all the same or without."""
    (file := out.with_suffix(".csv")).write_text("u,i,y\n" + "".join(f"{u},{i},{label}\n" for u, i in PAIRS))
    assert call("prepare", "rows", "--raw", file, "--user", "u", "--item", "i", *argv, "--out", out) == 0
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    return dataset


def test_rows_without_labels_or_all_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = purchases(tmp_path / "none")
    rows = dataset.rows()
    assert rows.labels.tolist() == rows.ratings.tolist() == [1] * len(PAIRS)
    assert dataset.manifest["label"] == {"threshold": 1.0, "low": 1.0, "high": 1.0}
    assert rows.columns.tolist() == [[user, item + 1] for user, item in PAIRS]
    for label, more in (("yes", ()), ("5", ("--positive", "4"))):
        other = purchases(tmp_path / label, label, "--label", "y", *more)
        assert f"column 'y': all {len(PAIRS)} labels are positive" in capsys.readouterr().err
        assert (other.manifest["content_hash"] == dataset.manifest["content_hash"]) == (label != "5")
    config = configuration.parse(
        {"data": {"path": str(dataset.path), "protocol": "paper"}, "model": {"name": "two_tower"}}
    )
    data = Retrieval.open(config, dataset)
    positives = data.queries(data.splits.train)
    assert len(positives.users) == len(data.splits.train) > len(data.splits.test) > 0
    assert make_task(config, dataset).size == f"{len(positives.users)} positives of 20 users and 10 items"
    with pytest.raises(UserError, match="the train split are all 1, and autoint tells positive rows from others"):
        make_task(configuration.parse({"data": {"path": str(dataset.path)}, "model": {"name": "autoint"}}), dataset)
