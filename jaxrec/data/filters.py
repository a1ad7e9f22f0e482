"""Filters on item attributes, as ``price <= 50 and c0_name = 'Beauty'``: the conditions of SQL, and nothing else of it.

DuckDB parses a filter, and what comes of that is looked through before anything is run: it may hold comparisons, and,
or, not, in, between, like, ilike and is null, of columns with numbers and texts. Whatever is not known here (functions,
casts, subqueries, a second statement) is refused. What passed runs on a connection that sees the attributes alone and
can neither open a file nor change its settings.

What a filter names is checked as in all runs: a column that is not there is an error; a value that no item has is a
note that names the nearest one (``unknown_values``); that nothing is left is an error.

As in SQL a comparison with a missing value is neither true nor false, so that such items match neither ``price > 5``
nor ``not (price > 5)``, but ``price is null``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.ids import MOST_COMPARED
from jaxrec.errors import UserError, nearest

TABLE, ROW = "items", "row number"  # ROW: a name that no filter can use, as it is none of the attributes
ALLOWED = (
    "a filter is made of columns, numbers, 'texts', = <> < <= > >=, and, or, not, in, between, like, ilike, is null"
)
COMPARISONS = {
    "COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO", "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHANOREQUALTO", "COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM",
}  # fmt: skip
LISTS = {"COMPARE_IN", "COMPARE_NOT_IN"}
EQUALITIES = {
    "COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM", *LISTS,
}  # fmt: skip
NULL_TESTS = {"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"}
LIKES = {"~~", "!~~", "~~*", "!~~*"}  # like, not like, ilike, not ilike
FORBIDDEN = {
    "SUBQUERY": "a subquery", "CAST": "a cast, or true or false,", "CASE": "CASE", "PARAMETER": "a parameter ($1 or ?)",
    "STAR": "*", "COLLATE": "COLLATE", "WINDOW": "a window function", "LAMBDA": "a lambda", "DEFAULT": "DEFAULT",
}  # fmt: skip
NUMBERS = {"INTEGER", "NUMERIC", "TINYINT", "SMALLINT", "BIGINT", "HUGEINT", "UHUGEINT", "DECIMAL", "FLOAT", "DOUBLE"}
TEXTS = {"STRING", "VARCHAR"}
LONGEST = 100_000  # characters of a filter
DEEPEST = 100  # parentheses and conditions within one another


def used_columns(text: str, schema: pa.Schema) -> list[str]:
    """Check a filter without running it.

    Args:
        text: the filter.
        schema: of the attributes.

    Returns:
        The columns that it reads, each once, in the order of the schema.
    """
    return list(_checked(text, schema)[0])


def matching(attributes: pa.Table, text: str) -> np.ndarray:
    """The items that a filter leaves.

    Args:
        attributes: a row an item; columns of numbers and texts can be used.
        text: the filter.

    Returns:
        int64[m], m >= 1: row numbers, ascending.
    """
    columns, _ = _checked(text, attributes.schema)
    with closing(_connect()) as connection:
        table = attributes.select(columns).append_column(ROW, pa.array(np.arange(len(attributes))))
        connection.register(TABLE, table)
        _lock(connection)
        try:
            found = connection.execute(_statement(text)).fetchnumpy()[ROW]
        except duckdb.Error as error:
            raise _error(f"cannot be evaluated ({str(error).splitlines()[0][:200]}); mend it") from None
    if not len(found):
        notes = "".join(f": {note}" for note in unknown_values(attributes, text)[:1])
        raise _error(f"{_shown(text)} leaves none of {len(attributes):,} items{notes}; ask for less")
    return np.sort(np.asarray(found, np.int64))  # DuckDB's threads need not keep the order


def unknown_values(attributes: pa.Table, text: str) -> list[str]:
    """The texts and whole numbers that a filter compares a column with and that no item has, in words.

    Args:
        attributes, text: as of ``matching``, which the filter has passed.
    """
    notes = []
    for name, value in dict.fromkeys(_checked(text, attributes.schema)[1]):
        column = attributes[name]
        try:
            there = pc.any(pc.equal(column, pa.scalar(value, column.type))).as_py()
        except (pa.ArrowInvalid, OverflowError, ValueError):  # a number that the column cannot hold
            there = False
        if not there:
            values = pc.drop_null(pc.unique(column))
            hint = nearest(str(value), map(str, values.to_pylist())) if len(values) <= MOST_COMPARED else ""
            notes.append(f"no item has the {name} {_shown(str(value))}{hint}")
    return notes


@lru_cache(maxsize=64)
def _checked(text: str, schema: pa.Schema) -> tuple[list[str], list[tuple[str, Any]]]:
    """Of a filter that passes all checks the columns that it reads, and those that it compares with a constant for
    equality, each with the constant."""
    with closing(_connect()) as connection:
        check = _Check(schema)
        return check.columns(_parse(connection, text)), check.asked


def _connect() -> Any:
    connection = duckdb.connect(":memory:")
    connection.execute(f"SET max_expression_depth = {DEEPEST}")
    connection.execute("SET python_enable_replacements = false")  # a name that is no column is no Python variable
    return connection


def _lock(connection: Any) -> None:
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _statement(text: str) -> str:
    return f'SELECT "{ROW}" FROM {TABLE} WHERE ({text}\n)'  # a line of its own: the text may end in a comment


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _error(message: str) -> UserError:
    return UserError(f"where: {' '.join(message.split())}")  # one line, whatever a filter's names and texts hold


# --- parsing ----------------------------------------------------------------------------------------------------------


def _parse(connection: Any, text: str) -> dict[str, Any]:
    """The syntax tree of the one condition that ``text`` is."""
    if not text.strip():
        raise _error("empty; give a condition, as \"price <= 50 and c0_name = 'Beauty'\", or leave it out")
    if len(text) > LONGEST:
        raise _error(f"{len(text):,} characters; at most {LONGEST:,} are allowed")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise _error(f"{_shown(text)} holds characters that are no text; remove them")
    condition, frame = _select(connection, text)
    if condition is None or frame != _select(connection, "true")[1]:
        # It closed our parenthesis and went on: with UNION, GROUP BY, LIMIT, another statement ...
        raise _error(f"{_shown(text)} is more than one condition; {ALLOWED}")
    return condition


def _select(connection: Any, text: str) -> tuple[dict[str, Any] | None, list[Any]]:
    """What follows WHERE in the query with ``text`` as its filter, and all the rest, without the places in the text."""
    try:
        found = connection.execute("SELECT json_serialize_sql(?)", [_statement(text)]).fetchall()
        parsed = json.loads(found[0][0])
    except (duckdb.Error, RecursionError) as error:
        raise _error(f"cannot be parsed ({str(error).splitlines()[0][:200]}); mend it") from None
    if parsed["error"]:
        raise _error(f"{_syntax(parsed['error_message'])}; {ALLOWED}")
    nodes = [statement["node"] for statement in parsed["statements"]]
    condition = nodes[0].pop("where_clause", None)
    return condition, _without_places(nodes)


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without_places(value) for name, value in tree.items() if not name.startswith("query_location")}
    return [_without_places(value) for value in tree] if isinstance(tree, list) else tree


def _syntax(message: str) -> str:
    """What DuckDB says about a syntax error, without what it says about the text around the filter."""
    if "expression depth" in message:
        return f"nested more than {DEEPEST} deep"
    if "unterminated" in message:
        return "a quote that is never closed"
    if message.endswith(('near ")"', "end of input")):
        return "syntax error at its end or at a ')'"
    line = message.splitlines()[0][:200]
    return line if line.startswith("syntax error") else f"not a condition ({line})"


# --- checking ---------------------------------------------------------------------------------------------------------


class _Check:
    """Walks a syntax tree as DuckDB 1.5 or 2.0 gives it; what it does not know, it refuses."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._known = {name.lower(): name for name in schema.names}
        self._used: set[str] = set()
        self.asked: list[tuple[str, Any]] = []  # columns and what they are compared with for equality

    def columns(self, tree: dict[str, Any]) -> list[str]:
        self._condition(tree)
        return [name for name in self._schema.names if name in self._used]

    def _condition(self, node: dict[str, Any]) -> None:
        kind, type_ = node["class"], node["type"]
        if kind == "CONJUNCTION" or type_ == "OPERATOR_NOT":
            for child in node["children"]:
                self._condition(child)
        elif kind == "COMPARISON" and type_ in COMPARISONS:
            self._same([node["left"], node["right"]])
            self._note_equality(type_, [node["left"], node["right"]])
        elif kind == "BETWEEN":
            self._same([node["input"], node["lower"], node["upper"]])
        elif kind == "OPERATOR" and type_ in LISTS:
            self._same(node["children"])
            self._note_equality(type_, node["children"])
        elif kind == "OPERATOR" and type_ in NULL_TESTS:
            self._value(node["children"][0])
        elif kind == "FUNCTION" and node["function_name"] in LIKES:
            self._texts(list(_arguments(node)))
        elif kind in ("COLUMN_REF", "CONSTANT"):
            _, shown = self._value(node)
            raise _error(f"{shown} alone is no condition; compare it with something")
        else:
            raise _forbidden(node)

    def _same(self, nodes: list[dict[str, Any]]) -> None:
        """All are numbers or all are texts."""
        first, *others = [self._value(node) for node in nodes]
        for kind, shown in others:
            if kind != first[0]:
                raise _error(f"{first[1]} is a {first[0]} and {shown} a {kind}; compare like with like: "
                                "texts stand in 'single quotes', numbers in none")  # fmt: skip

    def _note_equality(self, type_: str, nodes: list[dict[str, Any]]) -> None:
        """Keep the constants that a column of texts or whole numbers is compared with."""
        columns = [node["column_names"][0] for node in nodes if node["class"] == "COLUMN_REF"]
        constants = [node for node in nodes if node["class"] == "CONSTANT"]
        if type_ not in EQUALITIES or len(columns) != 1:
            return
        name = self._known[columns[0].lower()]
        for node in constants:
            kind, value = _literal(node)
            if kind in TEXTS:
                self.asked.append((name, str(value)))
            elif kind in NUMBERS and pa.types.is_integer(self._schema.field(name).type) and str(value).isdecimal():
                self.asked.append((name, int(value)))

    def _texts(self, nodes: list[dict[str, Any]]) -> None:
        for kind, shown in map(self._value, nodes):
            if kind != "text":
                raise _error(f"{shown} is a {kind}; like and ilike are for texts")

    def _value(self, node: dict[str, Any]) -> tuple[str, str]:
        """Whether a column or constant is a ``number`` or a ``text``, and how to call it in an error."""
        if node["class"] == "COLUMN_REF":
            return self._column(node["column_names"])
        if node["class"] == "CONSTANT":
            return _constant(node)
        if node["class"] == "FUNCTION" and node["function_name"] in ("-", "+"):
            signed = list(_arguments(node))
            if len(signed) == 1:
                kind, shown = self._value(signed[0])
                if kind != "number":
                    raise _error(f"{shown} is a {kind}, which has no sign; remove it")
                return kind, shown
        raise _forbidden(node)

    def _column(self, path: list[str]) -> tuple[str, str]:
        asked = ".".join(path)
        name = self._known.get(asked.lower()) if len(path) == 1 else None
        if name is None:
            raise _error(f"no column '{asked}'{nearest(asked, self._schema.names)}; there are: "
                            f"{', '.join(self._schema.names)}; a text stands in single quotes: '{asked}'")  # fmt: skip
        self._used.add(name)
        return _kind(name, self._schema.field(name).type), f"column '{name}'"


def _kind(name: str, type_: pa.DataType) -> str:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    if pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_decimal(value):
        return "number"
    if pa.types.is_string(value) or pa.types.is_large_string(value):
        return "text"
    raise _error(f"column '{name}' is of type {type_}; only numbers and texts can be compared")


def _literal(node: dict[str, Any]) -> tuple[str, Any]:
    """The type of a constant, and its value."""
    if "literal" in node:  # since DuckDB 2.0
        return node["literal"]["kind"], node["literal"].get("text")
    return node["value"]["type"]["id"], node["value"].get("value")


def _constant(node: dict[str, Any]) -> tuple[str, str]:
    kind, value = _literal(node)
    if kind in TEXTS:
        return "text", f"'{value}'"
    if kind in NUMBERS:
        return "number", "a number" if isinstance(value, dict) or kind == "DECIMAL" else str(value)
    if kind.startswith("NULL"):
        raise _error("nothing equals NULL; write 'is null' or 'is not null' after the column")
    raise _error(f"a constant of type {kind.lower()} is not allowed; {ALLOWED}")


def _arguments(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of a function."""
    if "arguments" in node:  # since DuckDB 2.0
        return (argument["expression"] for argument in node["arguments"])
    return iter(node["children"])


def _forbidden(node: dict[str, Any]) -> UserError:
    kind = node["class"]
    if kind == "FUNCTION":
        what = f"the {'operator' if node.get('is_operator') else 'function'} '{node['function_name']}'"
    elif kind in ("CONJUNCTION", "COMPARISON", "BETWEEN") or node["type"] in LISTS | NULL_TESTS | {"OPERATOR_NOT"}:
        what = "a condition as a value of another"
    else:
        what = FORBIDDEN.get(kind, node["type"].removeprefix("OPERATOR_").replace("_", " ").lower())
    return _error(f"{what} is not allowed; {ALLOWED}")
