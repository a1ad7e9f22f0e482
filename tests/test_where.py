"""Filters on item attributes: what they match, what is refused, and that nothing gets past the check."""

from __future__ import annotations

import operator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data import filters as where
from jaxrec.data.filters import matching, used_columns
from jaxrec.errors import UserError

ITEMS = pa.table({
    "name": ["lip balm", "Beauty cream", None, "it's 100% 手作り", "socks"],
    "price": [1.0, None, 50.0, 60.5, -3.0],
    "c0_name": pa.array(["Beauty", "Beauty", None, "Men", "Men"]).dictionary_encode(),
    "c0_id": pa.array([1, 1, None, 2, 2], pa.int64()),
    "Brand Name": ["a", "b", "c", "d", "e"],
    "sold out": [True, False, None, True, True],
})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("price <= 50 and c0_name = 'Beauty'", [0]),
        ("price <= 50 or c0_name = 'Beauty'", [0, 1, 2, 4]),
        ("price > 5", [2, 3]),
        ("not (price > 5)", [0, 4]),  # the missing price is neither
        ("price is null", [1]),
        ("PRICE IS NOT NULL AND Price <> 1", [2, 3, 4]),
        ("price between -3 and 1", [0, 4]),
        ("price not between -3 and 1", [2, 3]),
        ("price in (1, -3.0, 7)", [0, 4]),
        ("c0_name not in ('Beauty', 'x')", [3, 4]),
        ("c0_name in ('Men')", [3, 4]),
        ("name ilike '%BE%'", [1]),
        ("name like '%100\\% _作%'", []),
        ("name like '%100% _作%'", [3]),
        ("name not ilike '%b%' and name not like '%z%'", [3, 4]),
        ("name = 'it''s 100% 手作り'", [3]),
        ("\"Brand Name\" >= 'd' and ((price < 100.))", [3, 4]),
        ("-price = 3 or price = +1", [0, 4]),
        ("price = c0_id and c0_id < 1.5", [0]),
        ("c0_id is not distinct from 2", [3, 4]),
        ("price < 5 -- and cheap", [0, 4]),
        ("price < 5) and (price > 0", [0]),  # odd, and yet one condition
        ("price < 99999999999999999999 and price > -1e400", [0, 2, 3, 4]),
    ],
)
def test_what_a_filter_leaves(text: str, rows: list[int]) -> None:
    if not rows:
        refused(text, "leaves none of 5 items")
        return
    found = matching(ITEMS, text)
    assert found.dtype == np.int64
    assert found.tolist() == rows


def test_the_columns_that_a_filter_reads() -> None:
    assert used_columns("price < 3 or NAME like 'x%' and not price in (1, 2)", ITEMS.schema) == ["name", "price"]
    assert used_columns("1 = 1", ITEMS.schema) == []
    assert matching(ITEMS, "1 = 1").tolist() == [0, 1, 2, 3, 4]


def refused(text: str, names: str) -> None:
    with pytest.raises(UserError, match=names) as caught:
        matching(ITEMS, text)
    message = str(caught.value)
    assert message.startswith("where: ") and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "empty; give a condition"),
        (" \n ", "empty"),
        ("prise <= 50", r"no column 'prise' \(did you mean 'price'\?\); there are: name, price, c0_name, c0_id"),
        ('c0_name = "Beauty"', "no column 'Beauty'.*a text stands in single quotes: 'Beauty'"),
        ("c0_name = Beauty", "no column 'Beauty'.*single quotes"),
        ('"a\nb" = 1', "no column 'a b'"),
        ('"row number" = 1', "no column 'row number'"),
        ("items.price = 1", "no column 'items.price'.*'price'"),
        ("price <= 50 andd c0_name = 'a'", 'syntax error at or near "andd"'),
        ("名前 = 'ü' andd x", 'near "andd"'),
        ("price >", "syntax error at its end"),
        ("(price > 1", "syntax error at its end"),
        ("price = 1) -- ", r"syntax error at its end or at a '\)'"),
        ("c0_name = 'a", "a quote that is never closed"),
        ("price = 'abc'", "column 'price' is a number and 'abc' a text; compare like with like.*single quotes"),
        ("c0_name < 5", "column 'c0_name' is a text and 5 a number"),
        ("price > c0_name", "column 'price' is a number and column 'c0_name' a text"),
        ("price between 1 and 'x'", "and 'x' a text"),
        ("c0_id in (1, 'x')", "and 'x' a text"),
        ("price like '1%'", "column 'price' is a number; like and ilike are for texts"),
        ("c0_name = -name", "column 'name' is a text, which has no sign"),
        ("c0_name = null", "nothing equals NULL; write 'is null'"),
        ("price in (1, null)", "nothing equals NULL"),
        ("price", "column 'price' alone is no condition"),
        ("not 1", "1 alone is no condition"),
        ("price = true", "not allowed; a filter is made of"),
        ('"sold out" = 1', "column 'sold out' is of type bool; only numbers and texts"),
        ("price = 5000", "'price = 5000' leaves none of 5 items"),
        ("price = 1\0) or (1 = 1", "characters that are no text"),
        ("name = '\udcff'", "characters that are no text"),
        ("price = 1 or " * 10_000 + "price = 2", "130,009 characters; at most 100,000"),
        ("not " * 3000 + "price = 1", "nested more than 100 deep"),
    ],
)
def test_what_is_refused(text: str, names: str) -> None:
    refused(text, names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(select count(*) from items) > 0", "a subquery"),
        ("price in (select price from items)", "a subquery"),
        ("exists (from read_text('/etc/passwd'))", "a subquery"),
        ("price = any([1, 2])", "a subquery"),
        ("read_csv('/etc/passwd')", "the function 'read_csv'"),
        ("getenv('HOME') = 'x'", "the function 'getenv'"),
        ("name ilike getenv('HOME')", "the function 'getenv'"),
        ("lower(name) = 'x' and price = 1", "the function 'lower'"),
        ("price + 1 > 3", r"the operator '\+'"),
        ("name || 'x' = 'y'", r"the operator '\|\|'"),
        ("name ~ 'x'", "the function 'regexp"),
        ("name similar to 'x'", "the function 'regexp"),
        ("name like 'a' escape 'b'", "'like_escape'"),
        ("price in [1, 2]", "the function 'contains'"),
        ("name[1] = 'x'", "not allowed"),
        ("count(*) over () > 1", "a window function"),
        ("price::int = 1", "a cast"),
        ("cast(name as int) = 1", "a cast"),
        ("price > date '2020-01-01'", "a cast"),
        ("case when price > 1 then true end", "CASE"),
        ("coalesce(price, 1) > 0", "coalesce"),
        ("columns(*) > 3", r"\* is not allowed"),
        ("price = $1", "a parameter"),
        ("name collate nocase = 'x'", "COLLATE"),
        ("(price > 1) = (price > 2)", "a condition as a value of another"),
        ("1=1) UNION SELECT (1", "more than one condition"),
        ("1=1) union all (from read_text('/etc/passwd') where true", "more than one condition|syntax error"),
        ("price < 5) limit (1", "more than one condition"),
        ("price < 5) group by (price", "more than one condition"),
        ("price < 5) order by (price", "more than one condition"),
        ("1=1); select (1", "more than one condition"),
        ("1=1;drop table items", 'syntax error at or near ";"'),
        ("1=1); drop table items; select (1", "not a condition|more than one"),
        ("1=1); set enable_external_access = true; select (1", "not a condition|more than one"),
        ("1=1); copy items to '/tmp/x.csv'; select (1", "not a condition|more than one"),
    ],
)
def test_what_is_no_filter(text: str, names: str) -> None:
    refused(text, names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("exists (from read_text({file}))", "Permission Error"),
        ("price in (select secret from stolen)", "stolen"),
        ("exists (select * from information_schema.tables) and getenv('HOME') is not null", "getenv"),
    ],
)
def test_nothing_is_in_reach_even_without_the_check(
    text: str, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that a filter runs on reads no file, no variable of ours and no environment."""
    stolen = pa.table({"secret": [1.0]})
    (tmp_path / "a.txt").write_text("secret")
    monkeypatch.setattr(where._Check, "columns", lambda self, tree: ["price"])
    refused(text.format(file=repr(str(tmp_path / "a.txt"))), rf"cannot be evaluated \(.*{names}")
    assert len(stolen) == 1


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


@settings(deadline=None, max_examples=100)
@given(tables_and_cases())
def test_filters_are_masks(drawn: tuple[pa.Table, Case]) -> None:
    table, (text, true, _) = drawn
    if true.any():
        np.testing.assert_array_equal(matching(table, text), np.flatnonzero(true))
    else:
        with pytest.raises(UserError, match=f"leaves none of {LENGTH} items"):
            matching(table, text)
