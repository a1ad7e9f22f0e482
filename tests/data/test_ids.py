"""Raw ids to indices and back, and items with what is known of them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.ids import Ids, plain, read_list
from jaxrec.data.items import Items, Spans
from jaxrec.errors import UserError

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)


def integers(*ids: int) -> Ids:
    return Ids(np.array(ids, np.int64))


def texts(*ids: str) -> Ids:
    return Ids(np.array(ids, np.dtypes.StringDType()))


@given(st.lists(INT64, unique=True, max_size=30), st.lists(INT64, max_size=10))
@settings(max_examples=100, deadline=None)
def test_integers_go_there_and_back(ids: list[int], others: list[int]) -> None:
    known = integers(*ids)
    assert known.encode(ids).tolist() == known.encode([str(raw) for raw in ids]).tolist() == list(range(len(ids)))
    assert known.decode(np.arange(len(ids))) == ids
    assert known.encode(others).tolist() == [ids.index(raw) if raw in ids else -1 for raw in others]


@given(st.lists(TEXT, unique=True, max_size=30), st.lists(TEXT, max_size=10))
@settings(max_examples=100, deadline=None)
def test_texts_go_there_and_back(ids: list[str], others: list[str]) -> None:
    known = texts(*ids)
    assert known.encode(ids).tolist() == list(range(len(ids)))
    assert known.decode(np.arange(len(ids))) == ids
    places = {raw: place for place, raw in enumerate(ids)}
    if not set(map(str.casefold, ids)) <= {"true", "false"}:
        assert known.encode(others).tolist() == [places.get(raw, places.get(raw.strip(), -1)) for raw in others]


def test_what_counts_as_an_integer() -> None:
    known = integers(7, 12, 0, -3)
    raw: list[Any] = [
        12, "12", 12.0, "12.0", np.int32(12), np.float32(12.0), np.str_("12"), pa.scalar(12), b"12", Decimal(12), "-3",
        " 7 ", 0.0, np.array(7),
    ]  # fmt: skip
    assert known.encode(raw).tolist() == [1] * 10 + [3, 0, 2, 0]
    assert known.encode(pd.Series([12.0, None], index=[5, 6])).tolist() == [1, -1]
    unknown: list[Any] = [
        13, "13", 12.5, "12.5", "twelve", "", None, float("nan"), float("inf"), 2**63, -(2**63) - 1, 1e30, str(2**64),
        [12], "012", "+12", "1_2", "１２", "12.", "-0", False, np.bool_(False), "False", pd.NA, pd.NaT, {12: 12}, {12},
        np.array([12]), 10**5000, "9" * 5000, Decimal("NaN"), "1e1",
    ]  # fmt: skip
    assert known.encode(unknown).tolist() == [-1] * len(unknown), "none of them is item 0, which exists"


def test_texts_are_what_they_are_and_numbers_how_they_are_written() -> None:
    raw: list[Any] = ["12", "012", 12, 12.0, "a", "ä", "a ", "", " a", "A", "0012", True, None, ["12"], 10**5000]
    expected = [0, 1, 0, 0, 2, 3, 4, 5, 2, -1, -1, -1, -1, -1, -1]
    assert texts("12", "012", "a", "ä", "a ", "").encode(raw).tolist() == expected
    raw = [7, 7.0, np.int8(7), 1.5, np.float32(1.5), "1.5", "7", 0.1, None, float("nan"), "nan", True]
    expected = [0, 0, 0, 2, 2, -1, -1, -1, -1, -1, 4, -1]
    assert texts("7.0", "007", "1.50", "None", "nan", "true").encode(raw).tolist() == expected


@pytest.mark.parametrize("names", [("true", "false"), ("True", "False"), ("FALSE",)])
def test_true_and_false(names: tuple[str, ...]) -> None:
    known = Ids(names, first=1)
    for value in (False, np.bool_(False), "false", "False", " FALSE ", pa.scalar(False)):
        assert known.find(value) == len(names), value
    assert [known.find(value) for value in (0, "0", "f", "")] == [-1] * 4


@given(st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9), st.decimals(),
    st.lists(st.integers(), max_size=2), st.dates(), st.uuids(), st.sets(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whatever_is_given_is_an_id_or_unknown(value: Any) -> None:
    for known in (integers(7, -1, 0), texts("7", "1.5", "")):
        index = known.find(value)
        assert -1 <= index < 3
        if index >= 0:
            (raw,) = known.decode(np.array([index]))
            text = str(plain(value)).strip()
            assert text == str(raw) or Decimal(text) == Decimal(raw)


def test_texts_of_any_length() -> None:
    """NumPy keeps strings of more than 15 bytes apart from the array, and compares them wrongly across arrays."""
    ids = [f"{n:032x}" for n in (3, 1, 2)] + ["short", "x" * 15, "x" * 16, "x" * 300]
    assert texts(*ids).encode(ids[::-1]).tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert texts(*ids).encode(["", f"{4:032x}", "x" * 17]).tolist() == [-1] * 3


def test_the_ends_of_64_bits_and_nothing() -> None:
    low, high = -(2**63), 2**63 - 1
    known = integers(high, low, 0)
    assert known.encode([low, high, high - 1, str(high), float(2**63), low - 1]).tolist() == [1, 0, -1, 0, -1, -1]
    assert known.decode(np.array([0, 1])) == [high, low]
    assert integers(1).encode([]).shape == (0,) and Ids(()).encode([1, "x"]).tolist() == [-1, -1]
    assert all(type(raw) is int for raw in integers(5, 6).decode(np.array([1, 0])))
    assert all(type(raw) is str for raw in texts("5", "6").decode(np.array([1, 0])))


@pytest.mark.parametrize("first", [0, 1])
def test_ids_that_were_added_stand_behind_the_others(first: int) -> None:
    for known, new in ((Ids(np.array([30, 10]), first), [7, "x 1"]), (Ids(["b", "a"], first), ["7", "x 1"])):
        known = known.extended([7, "x 1"])
        assert known.encode([7, "7", " x 1", 8, "y"]).tolist() == [first + 2, first + 2, first + 3, -1, -1]
        assert known.decode(np.array([first + 3, first, first + 2])) == [new[1], known.values()[0], new[0]]


@pytest.mark.parametrize("ids", [[30, 10, 20], ["b", "a", "1"]])
def test_items_are_read(ids: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item": ids, "count": [9, 5, 5]}), file)
    items = Items.read(file)
    assert len(items) == 3 and items.decode(np.arange(3)) == ids and items.counts.tolist() == [9, 5, 5]
    for damage in (lambda: file.write_bytes(file.read_bytes()[:-20]), file.unlink,
                   lambda: pq.write_table(pa.table({"thing": [1, 2]}), file)):  # fmt: skip
        damage()
        with pytest.raises(UserError, match=r"items\.parquet: missing or damaged"):
            Items.read(file)


def test_items_that_may_be_recommended() -> None:
    table = pa.table({"price": [5.0, 7.0, None], "tags": [["a"], ["a", "b"], []]})
    spans = Spans(np.array([0, 10, 20], np.int32), np.array([100, 15, 90], np.int32), 1_000_000)
    items = Items(["x", "y", "z"], table.select(["price"]), lambda: table, spans)
    assert items.allowed()[0].tolist() == [True] * 3
    assert items.live(1_012_000).tolist() == [True, True, False] and items.period() == (1_000_000, 1_100_000)
    assert items.allowed("tags = 'a'")[0].tolist() == [True, True, False]
    mask, notes = items.allowed(["z", "q"], exclude=["z", 9])
    assert not mask.any() and notes == ["only: 1 unknown item left out: q", "exclude: 1 unknown item left out: 9"]
    items.add(["new", 4], [{"price": "6", "tags": "c"}, {"price": 9}], [{"note": 1}, {}])
    assert items.known(np.array([3, 0, 4])) == [{"note": 1}, {"price": 5.0}, {}]
    assert items.attributes.to_pylist()[3:] == [{"price": None, "tags": ["c"]}, {"price": 9.0, "tags": None}]
    for names, what in (("'4' is there already", [{"item": 4}]), ("no 'item', which identifies it", [{"item": " "}])):
        with pytest.raises(UserError, match=f"new item 1: {names}"):
            items.new_ids("new item", "item", what)
    with pytest.raises(UserError, match="no attributes to filter by"):
        Items(["x"]).allowed("price < 3")


@pytest.mark.parametrize(
    ("value", "names"),
    [({1}, "found a set, which has no order"), ({"a": 1}, "found a dict; give a list of ids"), ("7", "not a single"),
     (pd.DataFrame({"a": [1]}), "found a table"), (7, "a list of ids is expected")],
    ids=str,
)  # fmt: skip
def test_what_is_no_list(value: Any, names: str) -> None:
    with pytest.raises(UserError, match=f"^items: .*{names}"):
        read_list("items", value, ordered=True)
