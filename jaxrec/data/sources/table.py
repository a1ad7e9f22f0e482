"""Any click log in CSV or Parquet files, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from jaxrec.data.cleaning import Raw
from jaxrec.data.id_columns import id_field, whole_column
from jaxrec.data.raw_fields import Field
from jaxrec.data.raw_rows import note_repeated
from jaxrec.data.reading import load
from jaxrec.data.sources.shared import add_file_arguments, add_raw_arguments, file_options, open_named
from jaxrec.data.splits import LEAVE_ONE_OUT
from jaxrec.data.times import ORDER, read_times
from jaxrec.errors import UserError

HELP = "any click log: CSV (also packed) or Parquet files, one event a row"
DEFAULTS = {"min_item_support": 5, "test_days": 7}


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "the events")
    parser.add_argument("--session", required=True, metavar="COL", help="column: the session, or the user")
    parser.add_argument("--item", required=True, metavar="COL", help="column: the item; integers or text")
    parser.add_argument("--time", required=True, metavar="COL", help="column: the time; a date and time or a number")
    parser.add_argument(
        "--split", choices=("time", LEAVE_ONE_OUT), default="time", help="time: sessions of the last days are the test "
        "split. leave_one_out, where --session is the user: of each user's events the last one is the test target, the "
        "one before it the validation target, and the others are for training; users with fewer than 3 are for "
        "training only, and test targets that occur nowhere before are dropped (default time)",
    )  # fmt: skip
    add_file_arguments(parser)


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``cleaning.Raw``."""
    table, notes = open_named(connection, arguments, (arguments.session, arguments.item, arguments.time))
    times = read_times(connection, table, arguments.time, arguments.time_unit, arguments.time_format)
    if times.unit == ORDER and (arguments.test_days or arguments.validation_days):
        raise UserError("--time-unit order: counters have no days, so nothing can be split by them; give --test-days 0 "
                        "(training cuts a validation split of its own with data.validation_fraction), or --split "
                        "leave_one_out where sessions are users")  # fmt: skip
    fields = [
        id_field(table, "session", arguments.session, arguments.na),
        id_field(table, "item", arguments.item, arguments.na),
        Field("time", arguments.time, times.parse, times.expected),
    ]
    loaded = load(connection, table, fields, arguments.drop_invalid)
    notes += loaded.notes
    notes += [note for column in ("session", "item")
             for note in whole_column(connection, column, f"column '{getattr(arguments, column)}'")]  # fmt: skip
    if not arguments.drop_duplicates:
        notes += note_repeated(connection, [field.name for field in fields])
    options = {name: getattr(arguments, name) for name in ("session", "item", "time", "delimiter")}
    options |= {"time_unit": times.unit, "time_format": arguments.time_format, "na": arguments.na}
    options |= file_options(arguments) | ({} if arguments.split == "time" else {"split": arguments.split})
    return Raw(
        table.called,
        options=options,
        notes=notes,
        leave_one_out=arguments.split == LEAVE_ONE_OUT,
        counters=times.unit == ORDER,
        read=loaded.read,
        dropped={"invalid rows": {"events": loaded.invalid}} if arguments.drop_invalid else {},
        place=lambda row: table.row_place(connection, row),
    )
