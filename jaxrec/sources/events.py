"""Any click log in CSV or Parquet files, with the names of its columns given on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
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
from jaxrec.sources.shared import add_file_arguments, add_raw_arguments, file_options, open_named

HELP = "any click log: CSV (also packed) or Parquet files, one event a row"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 7}


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "the events")
    parser.add_argument(
        "--session", nargs="+", required=True, metavar="COL", help="column: the session, or the user (see "
        "--session-gap); several columns are one key, such as user visit where visits are numbered by user",
    )  # fmt: skip
    parser.add_argument("--item", required=True, metavar="COL", help="column: the item; integers or text")
    parser.add_argument(
        "--time", nargs="+", required=True, metavar="COL", help="column: the time; a date and time or a number. "
        "Further columns are those of --order",
    )  # fmt: skip
    parser.add_argument(
        "--order", nargs="+", default=[], metavar="COL", help="columns of numbers that order events of equal time, "
        "such as a position; without them these stay in the order of the file",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("time", LEAVE_ONE_OUT), default="time", help="time: sessions of the last days are the test "
        "split. leave_one_out, where --session is the user: of each user's events the last one is the test target, the "
        "one before it the validation target, and the others are for training; users with fewer than 3 are for "
        "training only, and test targets that occur nowhere before are dropped (default time)",
    )  # fmt: skip
    parser.add_argument("--event-column", metavar="COL", help="column: the kind of event, of which --events are kept")
    parser.add_argument("--events", nargs="+", metavar="KIND", help="kinds of event to keep, such as view cart")
    add_file_arguments(parser)


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``."""
    keys, (time, *order) = arguments.session, arguments.time
    order += arguments.order
    _check(arguments, keys, [time, *order])
    kind = [] if arguments.event_column is None else [arguments.event_column]
    table, notes = open_named(connection, arguments, (*keys, arguments.item, time, *order, *kind))
    times = read_times(connection, table, time, arguments.time_unit, arguments.time_format)
    _check_counters(arguments, times)
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
    return Raw(
        table.called,
        options=_options(arguments, times, order),
        order=tuple(orders),
        further=tuple(further),
        notes=notes,
        leave_one_out=arguments.split == LEAVE_ONE_OUT,
        counters=times.unit == ORDER,
        read=read,
        dropped=dropped,
        place=lambda row: table.row_place(connection, row),
    )


def _check(arguments: Namespace, keys: Sequence[str], times: Sequence[str]) -> None:
    """Refuse columns that are named twice, and one of ``--event-column`` and ``--events`` without the other."""
    for option, names in (("--session", keys), ("--time and --order", times)):
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"{option}: column '{twice[0]}' is named twice; name it once")
    if arguments.events is not None and arguments.event_column is None:
        raise UserError("--events: needs --event-column, the column of the kind of event; add it or leave --events out")
    if arguments.session_gap is not None and arguments.split == LEAVE_ONE_OUT:
        raise UserError(f"--session-gap: {LEAVE_ONE_OUT} holds out the last events of all that a user did, which must "
                        "not be cut; leave one of the two out")  # fmt: skip


def _check_counters(arguments: Namespace, times: Times) -> None:
    if times.unit != ORDER:
        return
    if arguments.test_days or arguments.validation_days:
        raise UserError("--time-unit order: counters have no days, so nothing can be split by them; give --test-days 0 "
                        "(training cuts a validation split of its own with data.validation_fraction), or --split "
                        "leave_one_out where sessions are users")  # fmt: skip
    if arguments.session_gap is not None:
        raise UserError("--session-gap: counters (--time-unit order) have no minutes; leave one of the two out")


def _options(arguments: Namespace, times: Times, order: Sequence[str]) -> dict[str, Any]:
    """The manifest's options; what is new since their first version only where it is given."""
    keys = arguments.session
    options: dict[str, Any] = {"session": keys if len(keys) > 1 else keys[0], "item": arguments.item}
    options |= {"time": arguments.time[0], "delimiter": arguments.delimiter, "time_unit": times.unit}
    options |= {"time_format": arguments.time_format, "na": arguments.na}
    given = {"order": list(order), "event_column": arguments.event_column, "events": arguments.events}
    given |= {} if arguments.split == "time" else {"split": arguments.split}
    return options | {name: value for name, value in given.items() if value} | file_options(arguments)
