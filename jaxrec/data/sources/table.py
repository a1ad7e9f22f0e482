"""Any click log in one CSV or Parquet file, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from jaxrec.data.events import Raw
from jaxrec.data.id_columns import id_field, whole_column
from jaxrec.data.reading import Field, load, open_table
from jaxrec.data.sources.shared import add_file_arguments
from jaxrec.data.times import ORDER, read_times
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
    times = read_times(connection, table, arguments.time, arguments.time_unit, arguments.time_format)
    if times.unit == ORDER and (arguments.test_days or arguments.validation_days):
        raise UserError("--time-unit order: counters have no days, so nothing can be split by them; give --test-days 0 "
                        "(training cuts a validation split of its own with data.validation_fraction)")  # fmt: skip
    fields = [
        id_field(table, "session", arguments.session, arguments.na),
        id_field(table, "item", arguments.item, arguments.na),
        Field("time", arguments.time, times.parse, times.expected),
    ]
    load(connection, table, fields)
    notes = [note for column in ("session", "item")
             for note in whole_column(connection, column, f"column '{getattr(arguments, column)}'")]  # fmt: skip
    options = {name: getattr(arguments, name) for name in ("session", "item", "time", "delimiter")}
    options |= {"time_unit": times.unit, "time_format": arguments.time_format, "na": arguments.na}
    return Raw(str(arguments.raw), options=options, notes=notes, counters=times.unit == ORDER)
