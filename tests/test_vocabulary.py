"""Raw ids to indices and back."""

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

from jaxrec.data.ids import Places, plain
from jaxrec.data.items import Vocabulary
from jaxrec.errors import UserError

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)


def integers(*ids: int) -> Vocabulary:
    return Vocabulary(np.array(ids, np.int64), np.arange(len(ids), 0, -1))


def strings(*ids: str) -> Vocabulary:
    return Vocabulary(np.array(ids, np.dtypes.StringDType()), np.arange(len(ids), 0, -1))


@given(st.lists(INT64, unique=True, max_size=30), st.lists(INT64, max_size=10))
@settings(max_examples=100, deadline=None)
def test_integers_go_there_and_back(ids: list[int], others: list[int]) -> None:
    vocabulary = integers(*ids)
    assert vocabulary.encode(ids).tolist() == list(range(len(ids)))
    assert vocabulary.encode([str(raw) for raw in ids]).tolist() == list(range(len(ids)))
    assert vocabulary.decode(np.arange(len(ids))) == ids
    expected = [ids.index(raw) if raw in ids else -1 for raw in others]
    found = vocabulary.encode(others)
    assert found.tolist() == expected
    assert found.dtype == np.int32


@given(st.lists(TEXT, unique=True, max_size=30), st.lists(TEXT, max_size=10))
@settings(max_examples=100, deadline=None)
def test_strings_go_there_and_back(ids: list[str], others: list[str]) -> None:
    vocabulary = strings(*ids)
    assert vocabulary.encode(ids).tolist() == list(range(len(ids)))
    assert vocabulary.decode(np.arange(len(ids))) == ids
    places = {raw: place for place, raw in enumerate(ids)}
    expected = [places.get(raw, places.get(raw.strip(), -1)) for raw in others]
    assert vocabulary.encode(others).tolist() == expected


def test_what_counts_as_an_integer() -> None:
    vocabulary = integers(7, 12, 0, -3)
    raw: list[Any] = [
        12, "12", 12.0, "12.0", np.int32(12), np.float32(12.0), np.str_("12"), pa.scalar(12), b"12", Decimal(12), "-3",
        " 7 ", 0.0, np.array(7),
    ]  # fmt: skip
    assert vocabulary.encode(raw).tolist() == [1] * 10 + [3, 0, 2, 0]
    assert vocabulary.encode(pd.Series([12.0, None], index=[5, 6])).tolist() == [1, -1]
    unknown: list[Any] = [
        13, "13", 12.5, "12.5", "twelve", "", None, float("nan"), float("inf"), 2**63, -(2**63) - 1, 1e30, str(2**64),
        [12], "012", "+12", "1_2", "１２", "12.", "-0", False, np.bool_(False), "False", pd.NA, pd.NaT, {12: 12}, {12},
        np.array([12]), 10**5000, "9" * 5000, Decimal("NaN"), "1e1",
    ]  # fmt: skip
    assert vocabulary.encode(unknown).tolist() == [-1] * len(unknown), "none of them is item 0, which exists"


def test_strings_are_what_they_are() -> None:
    vocabulary = strings("12", "012", "a", "ä", "a ", "")
    raw: list[Any] = ["12", "012", 12, 12.0, "a", "ä", "a ", "", " a", "A", "0012", True, None, ["12"], 10**5000]
    assert vocabulary.encode(raw).tolist() == [0, 1, 0, 0, 2, 3, 4, 5, 2, -1, -1, -1, -1, -1, -1]


def test_numbers_among_strings() -> None:
    """A number is found by how it is written, or else as the number that it is; a text only by how it is written."""
    vocabulary = strings("7.0", "007", "1.50", "None", "nan", "true")
    raw: list[Any] = [7, 7.0, np.int8(7), 1.5, np.float32(1.5), "1.5", "7", 0.1, None, float("nan"), "nan", True]
    assert vocabulary.encode(raw).tolist() == [0, 0, 0, 2, 2, -1, -1, -1, -1, -1, 4, -1]


@pytest.mark.parametrize("names", [("true", "false"), ("True", "False"), ("FALSE",)])
def test_true_and_false(names: tuple[str, ...]) -> None:
    places = Places(names, first=1)
    for value in (False, np.bool_(False), "false", "False", " FALSE ", pa.scalar(False)):
        assert places.find(value) == len(names), value
    assert [places.find(value) for value in (0, "0", "f", "")] == [-1] * 4


@given(st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9), st.decimals(),
    st.lists(st.integers(), max_size=2), st.dates(), st.uuids(), st.sets(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whatever_is_given_is_an_id_or_unknown(value: Any) -> None:
    for vocabulary in (integers(7, -1, 0), strings("7", "1.5", "")):
        (index,) = vocabulary.encode([value]).tolist()
        assert -1 <= index < 3
        if index >= 0:
            (raw,) = vocabulary.decode(np.array([index]))
            text = str(plain(value)).strip()
            assert text == str(raw) or Decimal(text) == Decimal(raw)


def test_strings_of_any_length() -> None:
    """NumPy keeps strings of more than 15 bytes apart from the array, and compares them wrongly across arrays."""
    ids = [f"{n:032x}" for n in (3, 1, 2)] + ["short", "x" * 15, "x" * 16, "x" * 300]
    vocabulary = strings(*ids)
    assert vocabulary.encode(ids[::-1]).tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert vocabulary.encode(["", f"{4:032x}", "x" * 17]).tolist() == [-1] * 3


def test_the_ends_of_64_bits() -> None:
    low, high = -(2**63), 2**63 - 1
    vocabulary = integers(high, low, 0)
    assert vocabulary.encode([low, high, high - 1, str(high), float(2**63), low - 1]).tolist() == [1, 0, -1, 0, -1, -1]
    assert vocabulary.decode(np.array([0, 1])) == [high, low]


def test_nothing_and_nobody() -> None:
    assert integers(1).encode([]).shape == (0,)
    assert integers().encode([1, "x"]).tolist() == [-1, -1]
    assert integers(1).encode(raw for raw in (1, 2)).tolist() == [0, -1]
    assert integers(5, 6).decode(np.array([], np.int32)) == []


def test_decoded_ids_are_plain_python() -> None:
    assert all(type(raw) is int for raw in integers(5, 6).decode(np.array([1, 0])))
    assert all(type(raw) is str for raw in strings("5", "6").decode(np.array([1, 0])))


@pytest.mark.parametrize("ids", [[30, 10, 20], ["b", "a", "1"]])
def test_read(ids: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"item": ids, "count": [9, 5, 5]}), tmp_path / "items.parquet")
    vocabulary = Vocabulary.read(tmp_path / "items.parquet")
    assert len(vocabulary) == 3
    assert vocabulary.decode(np.arange(3)) == ids
    assert vocabulary.encode(ids[::-1]).tolist() == [2, 1, 0]
    assert vocabulary.counts.tolist() == [9, 5, 5]


def test_read_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    with pytest.raises(UserError, match=r"items\.parquet: missing or damaged"):
        Vocabulary.read(file)
    pq.write_table(pa.table({"item": [1, 2], "count": [2, 1]}), file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"items\.parquet: missing or damaged") as error:
        Vocabulary.read(file)
    assert "\n" not in str(error.value)
    pq.write_table(pa.table({"thing": [1, 2]}), file)
    with pytest.raises(UserError, match=r"items\.parquet: missing or damaged"):
        Vocabulary.read(file)
