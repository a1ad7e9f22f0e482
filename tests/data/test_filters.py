"""Filters on items' attributes: what they leave, and what is refused."""

from __future__ import annotations

from functools import partial

import duckdb
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
    ("name like '%100% _作%' or name like 'Be%'", [1, 3]),
    ("name not like '%b%' and name not like '%z%'", [1, 3, 4]),
    ("name = 'it''s 100% 手作り'", [3]),
    ("\"Brand Name\" >= 'd' and ((price < 100.))", [3, 4]),
    ("weight = 1.1 or weight >= 5.5", [0, 4]),  # of float32
    ("day >= '1970-01-04' and sold != false", [3, 4]),
    ("not " * 3000 + "price = 1", [0]),
    ("genres <> 'Comedy'", [1]),  # of a bag one value that fits is enough
    ("genres like 'C%n''s' or genres in ('Drama')", [0, 1]),
    ("genres is null", [2, 3]),
    ("name=lip balm", [0]),  # FIELD=VALUE
    ("genres=Comedy\nprice=1.0\nsold=True", [0]),
])  # fmt: skip
def test_what_a_filter_leaves(text: str, rows: list[int]) -> None:
    found = matching(ITEMS, text)
    assert found.dtype == np.int64 and found.tolist() == rows


@pytest.mark.parametrize(("text", "names"), [
    ("prise <= 50", r"no attribute 'prise' \(did you mean 'price'\?\); there are name, price, weight, c0_name"),
    ("price = 1; drop table items", "; drop"),
    ("price=abc", "attribute 'price' is of type double, to which 'abc' does not compare"),
    ("c0_name = 'Beuty'", "leaves none of 5 items"),
])  # fmt: skip
def test_what_is_refused(text: str, names: str) -> None:
    with pytest.raises(UserError, match=f"^where: .*{names}"):
        matching(ITEMS, text)


def test_words_of_a_command_line() -> None:
    for words, rows in ((["price", "<=", "5"], [0, 4]), (["genres=Comedy", "price=1"], [0])):
        assert matching(ITEMS, joined(words)).tolist() == rows


NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([-0.5, 1.25, 1e9])).map(str)
TEXTS = st.text("ab'é", max_size=2)
LITERALS = {"text": TEXTS.map(lambda text: "'" + text.replace("'", "''") + "'"), "real": NUMBERS, "whole": NUMBERS}
VALUES = {"text": (TEXTS, pa.string()), "real": (NUMBERS.map(float), pa.float64()),
          "whole": (st.integers(-3, 3), pa.int64())}  # fmt: skip
FORMS = [*(f"{{0}} {sign} {{1}}" for sign in ("=", "<>", "<", "<=", ">", ">=")), "{0} not in ({1}, {2})",
         "{0} is not null"]  # fmt: skip


@st.composite
def conditions(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(LITERALS)))
    return draw(st.sampled_from(FORMS)).format(name, draw(LITERALS[name]), draw(LITERALS[name]))


@settings(deadline=None, max_examples=50)
@given(
    st.fixed_dictionaries({
        name: st.lists(st.none() | values, min_size=12, max_size=12).map(partial(pa.array, type=kind))
        for name, (values, kind) in VALUES.items()
    }),
    st.recursive(conditions(), lambda inner: st.one_of(
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner), inner.map("not ({})".format),
    ), max_leaves=5),
)  # fmt: skip
def test_filters_are_those_of_sql(columns: dict[str, pa.Array], text: str) -> None:
    table = pa.table({**columns, "row": range(12)})
    with duckdb.connect() as connection:
        connection.register("items", table)
        wanted = [row for (row,) in connection.execute(f"SELECT row FROM items WHERE {text} ORDER BY row").fetchall()]
    if wanted:
        assert matching(table, text).tolist() == wanted
    else:
        with pytest.raises(UserError, match="leaves none of 12 items"):
            matching(table, text)
