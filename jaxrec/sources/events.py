"""Any click log in CSV or Parquet files, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from jaxrec.data.clean.choices import LEAVE_ONE_OUT, Raw
from jaxrec.data.reading.columns import (
    event_field,
    id_field,
    keep_events,
    order_field,
    order_numbers,
    session_field,
    whole_column,
)
from jaxrec.data.reading.duck import note_repeated
from jaxrec.data.reading.table import Field, check_values, read_raw
from jaxrec.data.reading.times import ORDER, Times, read_times
from jaxrec.errors import UserError
from jaxrec.sources.shared import add_file_arguments, add_raw_arguments, given_options, open_named

HELP = "any click log: CSV (also packed) or Parquet files, one event a row"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 7}


def add_arguments(parser: ArgumentParser) -> None:
    def columns(option: str, help: str, **settings: Any) -> None:
        parser.add_argument(option, metavar="COL", help=help, **settings)

    add_raw_arguments(parser, "the events")
    columns("--session", "column: the session, or the user (see --session-gap); several columns are one key, such as "
            "user visit where visits are numbered by user", nargs="+", required=True)  # fmt: skip
    columns("--item", "column: the item; integers or text", required=True)
    columns("--time", "column: the time; a date and time or a number. Further columns are those of --order", nargs="+",
            required=True)  # fmt: skip
    columns("--order", "columns of numbers that order events of equal time, such as a position; without them these "
            "stay in the order of the file", nargs="+", default=[])  # fmt: skip
    parser.add_argument(
        "--split", choices=("time", LEAVE_ONE_OUT), default="time", help="time: sessions of the last days are the test "
        "split. leave_one_out, where --session is the user: of each user's events the last one is the test target, the "
        "one before it the validation target, and the others are for training; users with fewer than 3 are for "
        "training only, and test targets that occur nowhere before are dropped (default time)",
    )  # fmt: skip
    columns("--event-column", "column: the kind of event, of which --events are kept")
    parser.add_argument("--events", nargs="+", metavar="KIND", help="kinds of event to keep, such as view cart")
    add_file_arguments(parser)


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``."""
    keys, (time, *order) = arguments.session, arguments.time
    order += arguments.order
    for option, names in (("--session", keys), ("--time and --order", [time, *order])):
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{option}: column '{twice[0]}' is named twice; name it once")
    kind = [] if arguments.event_column is None else [arguments.event_column]
    if arguments.events is not None and not kind:
        raise UserError("--events: needs --event-column, the column of the kind of event; add it or leave --events out")
    table, notes = open_named(connection, arguments, (*keys, arguments.item, time, *order, *kind))
    times = read_times(connection, table, time, arguments.time_unit, arguments.time_format)
    _check_split(arguments, times)
    orders = [f"order{i}" for i in range(len(order))]
    fields = [
        session_field(table, keys, arguments.na),
        id_field(table, "item", arguments.item, arguments.na),
        Field("time", time, times.parse, times.expected),
        *(order_field(table, name, column) for name, column in zip(orders, order, strict=True)),
    ]
    read = read_raw(connection, table, [*fields, *(event_field(table, "event", column) for column in kind)])
    dropped = {}
    for column in kind:
        dropped["other events"] = {"events": keep_events(connection, table, column, arguments.events, notes)}
    invalid, about = check_values(connection, table, fields, arguments.drop_invalid)
    notes += about
    if arguments.drop_invalid:
        dropped["invalid rows"] = {"events": invalid}
    notes += whole_column(connection, "item", f"column '{arguments.item}'")
    order_numbers(connection, orders)
    further = ["event"] if len(set(arguments.events or ())) > 1 else []
    if not arguments.drop_duplicates:
        notes += note_repeated(connection, ["session", "item", "time", *orders, *further])
    options = {"session": keys if len(keys) > 1 else keys[0], "item": arguments.item, "time": time}
    options |= {"delimiter": arguments.delimiter, "time_unit": times.unit, "time_format": arguments.time_format}
    # What is newer than the first version only where it is given.
    given = {"order": order, "event_column": arguments.event_column, "events": arguments.events}
    given |= {} if arguments.split == "time" else {"split": arguments.split}
    options |= {"na": arguments.na, **{name: value for name, value in given.items() if value}}
    return Raw(
        table.called,
        options=options | given_options(arguments),
        order=tuple(orders),
        further=tuple(further),
        notes=notes,
        leave_one_out=arguments.split == LEAVE_ONE_OUT,
        counters=times.unit == ORDER,
        read=read,
        dropped=dropped,
        place=lambda row: table.row_place(connection, row),
    )


def _check_split(arguments: Namespace, times: Times) -> None:
    gap = arguments.session_gap is not None
    if gap and arguments.split == LEAVE_ONE_OUT:
        raise UserError(f"--session-gap: {LEAVE_ONE_OUT} holds out the last events of all that a user did, which must "
                        "not be cut; leave one of the two out")  # fmt: skip
    if times.unit == ORDER and (gap or arguments.test_days or arguments.validation_days):
        raise UserError("--time-unit order: counters have no days to split by and no minutes for --session-gap; give "
                        "--test-days 0 (training cuts a validation split of its own with data.validation_fraction), or "
                        "--split leave_one_out where sessions are users")  # fmt: skip
