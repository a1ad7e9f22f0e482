"""Any click log in one CSV or Parquet file, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from jaxrec.data.events import Raw
from jaxrec.data.reading import TEXT, Field, Table, load, open_table
from jaxrec.data.sources.shared import INTEGERS, add_file_arguments, time_parser
from jaxrec.errors import UserError

HELP = "any click log: one CSV, CSV in gzip or Parquet file, one event a row"
DEFAULTS = {"min_item_support": 5, "test_days": 7}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, metavar="FILE", help=".csv, .csv.gz or .parquet")
    parser.add_argument("--session", required=True, metavar="COL", help="column: the session, or the user")
    parser.add_argument("--item", required=True, metavar="COL", help="column: the item; integers or text")
    parser.add_argument("--time", required=True, metavar="COL", help="column: the time; a date and time or a number")
    add_file_arguments(parser)


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``events.Raw``."""
    table = open_table(connection, arguments.raw, delimiter=arguments.delimiter)
    hint = "" if len(table.columns) > 1 else f"; is '{arguments.delimiter}' the right --delimiter?"
    for column in (arguments.session, arguments.item, arguments.time):
        table.column(column, hint)
    unit, parse, expected = time_parser(connection, table, arguments.time, arguments.time_unit)
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
