"""Raw ids to indices and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.given import Ids, plain, read_list
from jaxrec.errors import UserError

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)


@given(st.lists(INT64, unique=True, max_size=20), st.lists(INT64, max_size=10))
@settings(max_examples=50, deadline=None)
def test_integers_go_there_and_back(ids: list[int], others: list[int]) -> None:
    known = Ids(np.array(ids, np.int64))
    assert known.encode(ids).tolist() == known.encode([str(raw) for raw in ids]).tolist() == list(range(len(ids)))
    assert known.decode(np.arange(len(ids))) == ids
    assert known.encode(others).tolist() == [ids.index(raw) if raw in ids else -1 for raw in others]


@given(st.lists(TEXT, unique=True, max_size=20), st.lists(TEXT, max_size=10))
@settings(max_examples=50, deadline=None)
def test_texts_go_there_and_back(ids: list[str], others: list[str]) -> None:
    known, places = Ids(pa.chunked_array([ids], pa.string())), {raw: place for place, raw in enumerate(ids)}
    assert known.encode(ids).tolist() == list(range(len(ids))) and known.decode(np.arange(len(ids))) == ids
    assert known.encode(others).tolist() == [places.get(raw, places.get(raw.strip(), -1)) for raw in others]


INTEGERS = Ids(np.array([7, 12, 0, -3]))
RAW: list[tuple[Ids, list[Any], list[int]]] = [
    (INTEGERS, [12, "12", 12.0, "12.0", np.int32(12), np.float32(12.0), np.str_("12"), pa.scalar(12), b"12"], [1] * 9),
    (INTEGERS, ["-3", " 7 ", 0.0, np.array(7)], [3, 0, 2, 0]),
    (INTEGERS, [13, 12.5, "twelve", "", None, float("nan"), float("inf"), 2**63, 1e30, str(2**64), [12], "012", "+12",
                "1_2", "１２", "12.", "-0", False, "False", pd.NA, pd.NaT, {12: 12}, {12}, 10**5000, "9" * 5000,
                "1e1"], [-1] * 26),
    (Ids([2**63 - 1, -(2**63)]), [-(2**63), 2**63 - 1, 2**63 - 2, float(2**63)], [1, 0, -1, -1]),
    (Ids(["12", "012", "a", "ä", "a ", ""]), ["12", "012", 12, 12.0, "a", "ä", "a ", "", " a", "A", "0012", None],
     [0, 1, 0, 0, 2, 3, 4, 5, 2, -1, -1, -1]),
    (Ids(["7.0", "007", "1.5", "None", "nan"]), [7, "7.0", 1.5, np.float32(1.5), "1.50", "7", None, "nan"],
     [-1, 0, 2, 2, -1, -1, -1, 4]),
    (Ids(["true", "False"]), [False, np.bool_(False), pa.scalar(True), " TRUE ", 0, "0", ""], [1, 1, 0, 0, -1, -1, -1]),
    (Ids(["x" * 15, "x" * 16, "x" * 300]), ["x" * 300, "x" * 16, "x" * 17], [2, 1, -1]),
    (Ids(()), [1, "x"], [-1, -1]),
]  # fmt: skip


@pytest.mark.parametrize(("known", "raw", "places"), RAW)
def test_what_an_id_is(known: Ids, raw: list[Any], places: list[int]) -> None:
    assert known.encode(raw).tolist() == places


@given(st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9), st.decimals(),
    st.lists(st.integers(), max_size=2), st.dates(), st.sets(st.integers(), max_size=2),
))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_whatever_is_given_is_an_id_or_unknown(value: Any) -> None:
    for known in (Ids(np.array([7, -1, 0])), Ids(["7", "1.5", ""])):
        index = known.find(value)
        assert -1 <= index < 3
        if index >= 0:
            (raw,) = known.decode(np.array([index]))
            text = str(plain(value)).strip().removesuffix(".0")
            assert ("0" if text == "-0" else text) == str(raw)  # -0.0 is 0


def test_what_is_no_list() -> None:
    for value in ({1}, {"a": 1}, "7", pd.DataFrame({"a": [1]}), 7):
        with pytest.raises(UserError, match=r"^items: found .*; give a list of ids in order"):
            read_list("items", value, ordered=True)
