"""Any click log in one CSV or Parquet file, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrec.data.events import Raw
from jaxrec.data.reading import TEXT, Field, Table, load, open_table, reading, timestamp
from jaxrec.errors import UserError

HELP = "any click log: one CSV, CSV in gzip or Parquet file, one event a row"
DEFAULTS = {"min_item_support": 5, "test_days": 7}

UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # ms per unit
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
NUMBERS = (*INTEGERS, "UBIGINT", "HUGEINT", "FLOAT", "DOUBLE")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, metavar="FILE", help=".csv, .csv.gz or .parquet")
    parser.add_argument("--session", required=True, metavar="COL", help="column: the session, or the user")
    parser.add_argument("--item", required=True, metavar="COL", help="column: the item; integers or text")
    parser.add_argument("--time", required=True, metavar="COL", help="column: the time; a date and time or a number")
    parser.add_argument(
        "--time-unit",
        choices=("auto", "iso", *UNITS),
        default="auto",
        help="iso: like 2014-04-07T08:51:09Z, UTC where no zone is given; others: a number since 1970 "
        "(default: what the first row looks like)",
    )
    parser.add_argument(
        "--delimiter", type=_delimiter, default=",", metavar="C", help="between CSV fields; \\t is a tab (default ,)"
    )


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``events.Raw``."""
    table = open_table(connection, arguments.raw, delimiter=arguments.delimiter)
    hint = "" if len(table.columns) > 1 else f"; is '{arguments.delimiter}' the right --delimiter?"
    for column in (arguments.session, arguments.item, arguments.time):
        table.column(column, hint)
    unit, parse, expected = _time(connection, table, arguments.time, arguments.time_unit)
    fields = [
        _identifier(table, "session", arguments.session),
        _identifier(table, "item", arguments.item),
        Field("time", arguments.time, parse, expected),
    ]
    load(connection, table, fields)
    for column in ("session", "item"):
        _integers_where_possible(connection, column)
    options = {name: getattr(arguments, name) for name in ("session", "item", "time", "delimiter")}
    return Raw(str(arguments.raw), options={**options, "time_unit": unit})


def _delimiter(text: str) -> str:
    character = "\t" if text == "\\t" else text
    if len(character) != 1 or character in '"\r\n' or not character.isascii():
        raise ArgumentTypeError(f"'{text}': expected one character, such as , or ; or \\t")
    return character


def _identifier(table: Table, name: str, column: str) -> Field:
    """The field of a session or item id: int64 or text."""
    _, kind = table.column(column)
    if kind in INTEGERS:
        return Field(name, column, lambda sql: f"CAST({sql} AS BIGINT)", "an id")
    if kind == TEXT:
        return Field(name, column, lambda sql: f"nullif({sql}, '')", "an id")
    raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected integers or text; convert the column")


def _integers_where_possible(connection: Any, column: str) -> None:
    """Make a column of text int64 if that loses nothing: no leading zero, sign or space in any row."""
    lossless = f"bool_and(CAST(TRY_CAST({column} AS BIGINT) AS VARCHAR) IS NOT DISTINCT FROM CAST({column} AS VARCHAR))"
    if connection.execute(f"SELECT {lossless} FROM raw").fetchone()[0]:
        connection.execute(f"ALTER TABLE raw ALTER {column} TYPE BIGINT")


def _time(connection: Any, table: Table, column: str, unit: str) -> tuple[str, Callable[[str], str], str]:
    """The unit of the time column, how to read it as ms since 1970, and what a value must be."""
    sql, kind = table.column(column)
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        if unit not in ("auto", "iso"):
            raise UserError(f"{table.path}: column '{column}' is of type {kind}, not a number; leave out --time-unit")
        return "iso", lambda sql: f"epoch_ms(CAST({sql} AS TIMESTAMPTZ))", "a time"
    if kind != TEXT and kind not in NUMBERS:
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected times, numbers or text")
    if unit == "auto":
        unit = _guess_unit(connection, table, sql)
    if unit == "iso":
        return unit, lambda sql: timestamp(f"CAST({sql} AS VARCHAR)"), "a time like 2014-04-07T08:51:09Z"
    return unit, lambda sql: _number(sql, UNITS[unit]), f"a number of {unit} since 1970"


def _guess_unit(connection: Any, table: Table, sql: str) -> str:
    """By the first row: a date, or a number whose magnitude gives the unit (1e11 s is the year 5138, 1e11 ms 1973)."""
    with reading(table.path):
        row = connection.execute(f"SELECT abs(TRY_CAST({sql} AS DOUBLE)) FROM {table.relation} LIMIT 1").fetchone()
    if row is None or row[0] is None:
        return "iso"
    return next((unit for unit, most in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if row[0] < most), "ns")


def _number(sql: str, factor: float) -> str:
    # Up to the year 9999: what lies beyond is not a time but a wrong unit or column.
    value = f"TRY_CAST({sql} AS DOUBLE) * {factor!r}"
    # TRY_CAST, as DuckDB may evaluate the branch for rows that fail the condition.
    return f"CASE WHEN abs({value}) < 253402300800000 THEN TRY_CAST(round({value}) AS BIGINT) END"
