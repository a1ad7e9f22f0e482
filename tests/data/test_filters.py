"""Filters on items' attributes: what they leave, and what is refused."""

from __future__ import annotations

import operator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.filters import joined, matching
from jaxrec.errors import UserError

ITEMS = pa.table({
    "name": ["lip balm", "Beauty cream", None, "it's 100% 手作り", "socks"],
    "price": [1.0, None, 50.0, 60.5, -3.0],
    "weight": pa.array([1.1, 2.2, None, 4.4, 5.5], pa.float32()),
    "c0_name": pa.array(["Beauty", "Beauty", None, "Men", "Men"]).dictionary_encode(),
    "c0_id": pa.array([1, 1, None, 2, 2], pa.int64()),
    "Brand Name": ["a", "b", "c", "d", "e"],
    "sold": [True, False, None, True, True],
    "genres": [["Comedy", "Children's"], ["Drama"], [], None, ["Comedy"]],
    "day": pa.array([0, 1, 2, 3, 4], pa.date32()),
})  # fmt: skip


@pytest.mark.parametrize(("text", "rows"), [
    ("price <= 50 and c0_name = 'Beauty'", [0]),
    ("not (price > 5)", [0, 4]),  # the missing price is neither
    ("PRICE IS NOT NULL AND Price <> 1", [2, 3, 4]),
    ("price not between -3 and 1", [2, 3]),
    ("price in (1, -3.0)", [0, 4]),
    ("c0_name not in ('Beauty')", [3, 4]),
    ("name like '%100% _作%' or name ilike '%BE%'", [1, 3]),
    ("name not ilike '%b%' and name not like '%z%'", [3, 4]),
    ("name = 'it''s 100% 手作り'", [3]),
    ("\"Brand Name\" >= 'd' and ((price < 100.))", [3, 4]),
    ("price = c0_id and 1.5 > c0_id", [0]),
    ("weight = 1.1 or weight >= 5.5", [0, 4]),
    ("price < 99999999999999999999 and price > -1e400", [0, 2, 3, 4]),
    ("not " * 3000 + "price = 1", [0]),
    ("sold != true", [1]),
    ("genres <> 'Comedy'", [1]),  # of a bag one value that fits is enough
    ("genres like 'C%n''s' or genres in ('Drama')", [0, 1]),
    ("genres is null", [2, 3]),
    ("genres=Children's", [0]),  # FIELD=VALUE
    ("name=lip balm", [0]),
    ("genres=Comedy\nprice=1.0\nsold=True", [0]),
    ("price=1 or price=50", [0, 2]),
])  # fmt: skip
def test_what_a_filter_leaves(text: str, rows: list[int]) -> None:
    found, notes = matching(ITEMS, text)
    assert found.dtype == np.int64 and found.tolist() == rows and not notes


@pytest.mark.parametrize(("text", "names"), [
    ("", "found ''; give a condition"),
    ("prise <= 50", r"no attribute 'prise' \(did you mean 'price'\?\); there are name, price, weight, c0_name"),
    ('c0_name = "Beauty"', "no attribute 'Beauty'.*a text stands in single quotes: 'Beauty'"),
    ("price <= 50 andd c0_name = 'a'", "andd c0_name.* is not expected"),
    ("price >", "ends too early"),
    ("c0_name = 'a", "'a.* is not expected"),
    ("lower(name) = 'x'", r"\(name\)"),
    ("price = 1; drop table items", "; drop"),
    ("price=abc", "attribute 'price' is a number and 'abc' a text"),
    ("price > c0_name", "attribute 'price' is a number and attribute 'c0_name' a text"),
    ("name = genres", "what has several values compares with a constant"),
    ("1 = 1", "1 is a number and 1 a number; compare an attribute"),
    ("day = 'x'", "attribute 'day' is of type date32"),
    ("c0_name = 'Beuty'", r"leaves none of 5 items: no item has the c0_name 'Beuty' \(did you mean 'Beauty'\?\)"),
    ("price = 1 or " * 10_000 + "price = 2", "at most 100,000"),
])  # fmt: skip
def test_what_is_refused(text: str, names: str) -> None:
    with pytest.raises(UserError, match=f"^where: .*{names}"):
        matching(ITEMS, text)


def test_values_that_no_item_has_are_noted() -> None:
    rows, notes = matching(ITEMS, "price > 0 and c0_name in ('Men', 'Woman') or genres = 'Horror'")
    assert rows.tolist() == [3]
    assert notes == ["no item has the c0_name 'Woman'", "no item has the genres 'Horror'"]


def test_words_of_a_command_line() -> None:
    assert joined(["price", "<=", "5"]) == "price <= 5"
    assert matching(ITEMS, joined(["genres=Comedy", "price=1"]))[0].tolist() == [0]


# --- against NumPy ----------------------------------------------------------------------------------------------------

OPERATORS = {"=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
             ">=": operator.ge}  # fmt: skip
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([-0.5, 1.25, 1e9]))
TEXTS = st.text("ab'é", max_size=2)
Case = tuple[str, np.ndarray, np.ndarray]  # a filter, where it is true, and where it is false
LENGTH = 12


@st.composite
def cases(draw: st.DrawFn, table: pa.Table) -> Case:
    column = draw(st.sampled_from(table.column_names))
    values = table[column].to_pylist()
    known = np.array([value is not None for value in values])
    literals = TEXTS if column == "text" else NUMBERS
    kind = draw(st.sampled_from([*OPERATORS, "in", "between", "null"]))
    one, two = draw(literals), draw(literals)
    if kind == "null":
        return f"{column} is null", ~known, known
    if kind == "in":
        text, true = f"{column} in ({_sql(one)}, {_sql(two)})", [value in (one, two) for value in values]
    elif kind == "between":
        text = f"{column} between {_sql(one)} and {_sql(two)}"
        true = [value is not None and one <= value <= two for value in values]
    else:
        text = f"{column} {kind} {_sql(one)}"
        true = [value is not None and OPERATORS[kind](value, one) for value in values]
    return text, np.array(true) & known, ~np.array(true) & known


def _sql(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _join(word: str, left: Case, right: Case) -> Case:
    text = f"({left[0]}) {word} ({right[0]})"
    if word == "and":
        return text, left[1] & right[1], left[2] | right[2]
    return text, left[1] | right[1], left[2] & right[2]


@st.composite
def tables_and_cases(draw: st.DrawFn) -> tuple[pa.Table, Case]:
    def column(values: st.SearchStrategy[object], kind: pa.DataType) -> pa.Array:
        return pa.array(draw(st.lists(st.none() | values, min_size=LENGTH, max_size=LENGTH)), kind)

    table = pa.table({
        "text": column(TEXTS, pa.string()),
        "real": column(NUMBERS.map(float), pa.float64()),
        "whole": column(st.integers(-3, 3), pa.int64()),
    })  # fmt: skip
    simple: st.SearchStrategy[Case] = cases(table)
    return table, draw(st.recursive(simple, lambda inner: st.one_of(
        st.builds(_join, st.sampled_from(["and", "or"]), inner, inner),
        inner.map(lambda case: (f"not ({case[0]})", case[2], case[1])),
    ), max_leaves=5))  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(tables_and_cases())
def test_filters_are_masks(drawn: tuple[pa.Table, Case]) -> None:
    table, (text, true, _) = drawn
    if true.any():
        np.testing.assert_array_equal(matching(table, text)[0], np.flatnonzero(true))
    else:
        with pytest.raises(UserError, match=f"leaves none of {LENGTH} items"):
            matching(table, text)
