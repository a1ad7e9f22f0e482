"""Any click log in CSV or Parquet files, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from jaxrec.data.clean.protocol import LEAVE_ONE_OUT, Raw
from jaxrec.data.reading import columns as read_as
from jaxrec.data.reading.columns import ORDER, read_times
from jaxrec.data.reading.duck import note_repeated
from jaxrec.data.reading.table import check_values, read_raw
from jaxrec.errors import UserError
from jaxrec.sources.shared import add_columns, add_file_arguments, add_raw_arguments, given_options, open_raw

HELP = "any click log: CSV (also packed) or Parquet files, one event a row"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 7}
COLUMNS = {
    "session": "the session, or the user (see --session-gap); several are one key, such as user visit",
    "item": "the item; integers or text",
    "time": "the time; a date and time or a number. Events of equal time stay in the order of the file",
    "event_column": "the kind of event, of which --events are kept",
}


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "the events")
    add_columns(parser, COLUMNS, ("session",), ("session", "item", "time"))
    parser.add_argument(
        "--split", choices=("time", LEAVE_ONE_OUT), default="time", help="time: sessions of the last days are the test "
        "split. leave_one_out, where --session is the user: of each user's events the last one is the test target, the "
        "one before it the validation target, and the others are for training; users with fewer than 3 are for "
        "training only, and test targets that occur nowhere before are dropped (default time)",
    )  # fmt: skip
    parser.add_argument("--events", nargs="+", metavar="KIND", help="kinds of event to keep, such as view cart")
    add_file_arguments(parser)


def in_parts(arguments: Namespace) -> bool:
    """Not where kinds of event, or how many rows cannot be used, are known from all files alone."""
    return arguments.event_column is None and not arguments.drop_invalid


def read(connection: Any, arguments: Namespace) -> Raw:
    keys, time, kind = arguments.session, arguments.time, arguments.event_column
    if arguments.events is not None and kind is None:
        raise UserError("--events: needs --event-column, the column of the kind of event; add it or leave --events out")
    table = open_raw(connection, arguments, (*keys, arguments.item, time, *([kind] if kind else [])))
    unit, time_field = read_times(connection, table, time, arguments)
    loo, gap, counters = arguments.split == LEAVE_ONE_OUT, arguments.session_gap is not None, unit == ORDER
    if gap and (loo or counters):
        raise UserError(f"--session-gap: counters have no minutes, and {LEAVE_ONE_OUT} holds out the last of all "
                        "events of a user, which must not be cut; leave one of the two out")  # fmt: skip
    fields = [
        read_as.session_field(table, keys, arguments.na),
        read_as.id_field(table, "item", arguments.item, arguments.na),
        time_field,
    ]
    kinds = [read_as.type_field(table, kind, arguments.na)] if kind else []
    read, dropped = read_raw(connection, table, [*fields, *kinds]), {}
    if kind:  # before values are checked: an event of another kind may have no item
        wanted = arguments.events or [""]  # of which the refusal lists the kinds
        dropped["other events"] = {"events": read_as.choose_types(connection, table, kind, wanted)[1]}
    invalid, about = check_values(connection, table, fields, arguments.drop_invalid)
    if arguments.drop_invalid:
        dropped["invalid rows"] = {"events": invalid}
    text_ids = vars(arguments).get("text_ids", False)
    notes = [*about, *read_as.whole_column(connection, "item", f"column '{arguments.item}'", text_ids)]
    further = ("event",) if kind else ()
    if not arguments.drop_duplicates:
        notes += note_repeated(connection, ["session", "item", "time", *further])
    options = {"session": keys if len(keys) > 1 else keys[0], "item": arguments.item, "time": time,
               "delimiter": arguments.delimiter, "time_unit": unit, "time_format": arguments.time_format,
               "na": arguments.na}  # fmt: skip
    # What is newer than the first version only where it is given.
    newer = {"event_column": kind, "events": arguments.events, "split": LEAVE_ONE_OUT * loo}
    options |= {name: value for name, value in newer.items() if value} | given_options(arguments)
    return Raw(
        table.called, options, further=further, notes=notes, leave_one_out=loo, counters=counters,
        time_unit=unit, read=read, dropped=dropped, columns=table.columns,
    )  # fmt: skip
