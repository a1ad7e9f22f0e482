"""Users' sequences, a line each: ``user item item ...``, oldest first, with spaces or tabs between, as S3-Rec has its
data sets. There are no times: the order of a line is the order of its events."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from jaxrec.data.clean.protocol import LEAVE_ONE_OUT, SHORTEST, Raw
from jaxrec.data.given import MARKERS
from jaxrec.data.reading.columns import NO_ID, ORDER, whole_column
from jaxrec.data.reading.duck import fetch_row, leave_out, listed, trimmed
from jaxrec.data.reading.table import NO_DELIMITER, NO_QUOTE, Table, find_files, open_tables, reading
from jaxrec.errors import UserError, shown

HELP = "users' sequences: a line per user, 'user item item ...', oldest first; the last item is the test"
KIND = "sessions"
SPLIT = LEAVE_ONE_OUT
DEFAULTS = {"min_item_support": 1}  # such files are filtered already, as 5-core ones are
LINE = "line"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--raw", nargs="+", action="extend", default=[], required=True, metavar="PATH", help="the sequences: text "
        "files (also in .gz, .zst or .zip), folders, quoted patterns such as 'logs/*.txt', or - for standard input",
    )  # fmt: skip
    parser.add_argument("--drop-short", action="store_true", help="leave out and count users with fewer than "
                        f"{SHORTEST} items (default: they are refused)")  # fmt: skip
    parser.add_argument("--na", nargs="*", metavar="TEXT", help="texts that are no id and are refused; --na alone: "
                        "every text is one (default: nan, null, NA, None, \\N and the like)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> Raw:
    table = open_tables(connection, find_files(arguments.raw), delimiter=NO_DELIMITER, columns=(LINE,), quote=NO_QUOTE)
    for file in table.files:
        if file.lines is None:
            raise UserError(f"{file.path}: Parquet; expected text, a line 'user item item ...' per user. A table of an "
                            "event a row is for prepare events --split leave_one_out")  # fmt: skip
    with reading(table, "expected UTF-8 text whose lines all end alike, in LF or in CR LF; mend it"):
        words = f"string_split_regex({trimmed(table.column(LINE)[0])}, '[ \\t]+')"
        connection.execute(f"CREATE TABLE raw AS SELECT {words} AS words FROM {table.relation}")
    blank = leave_out(connection, "words IS NULL OR words = ['']")
    (users,) = fetch_row(connection, "SELECT count(*) FROM raw")
    if not users:
        raise UserError(f"{table.called}: holds no line 'user item item ...'; name another file")
    _refuse_twice(connection, table)
    dropped = _short(connection, table, arguments.drop_short)
    (longest,) = fetch_row(connection, "SELECT max(len(words)) - 1 FROM raw")
    if longest == SHORTEST:
        raise UserError(f"{table.called}: all users have {SHORTEST} items, of which one is left to train on; at least "
                        f"one user needs {SHORTEST + 1}, since a training pair takes two")  # fmt: skip
    # The number of the line stands for the user, who is in one line alone.
    connection.execute("ALTER TABLE raw RENAME TO lines")
    connection.execute("CREATE TABLE raw AS SELECT rowid AS session, unnest(words[2:]) AS item, "
                       "generate_subscripts(words[2:], 1)::BIGINT AS time FROM lines")  # fmt: skip
    none = MARKERS if arguments.na is None else [text.strip().lower() for text in arguments.na]
    if none and (bad := connection.execute(f"SELECT session, item FROM raw WHERE lower(item) IN ({listed(none)}) "
                                           "ORDER BY rowid LIMIT 1").fetchall()):  # fmt: skip
        (row, item), *_ = bad
        raise UserError(f"{table.row_place(connection, row, LINE)}: item {shown(item)}, expected {NO_ID}")
    notes = whole_column(connection, "item", "items")
    given = {"na": arguments.na, "drop_short": arguments.drop_short}
    options = {"time_unit": ORDER, "split": LEAVE_ONE_OUT} | {name: value for name, value in given.items() if value}
    counts = {"rows": users, "files": len(table.files)} | ({"blank_lines": blank} if blank else {})
    return Raw(table.called, options, date="0", notes=notes, leave_one_out=True, whole_catalogue=True, counters=True,
               read=counts, dropped=dropped)  # fmt: skip


def _refuse_twice(connection: Any, table: Table) -> None:
    """Refuse a user of two lines."""
    twice = connection.execute("SELECT words[1], list(rowid ORDER BY rowid) AS lines FROM raw GROUP BY 1 "
                               "HAVING count(*) > 1 ORDER BY lines[1] LIMIT 1").fetchall()  # fmt: skip
    for user, rows in twice:
        places = [table.row_place(connection, row, LINE) for row in rows[:2]]
        raise UserError(f"{places[1]}: user {shown(user)} again, after {places[0]}; a user has one line, oldest item "
                        "first: put the two together")  # fmt: skip


def _short(connection: Any, table: Table, drop: bool) -> dict[str, dict[str, int]]:
    """Leave out the users with too few items for leave-one-out, or refuse them."""
    few = f"len(words) < {SHORTEST + 1}"
    sums = f"SELECT count(*), coalesce(sum(len(words) - 1), 0), min(rowid) FROM raw WHERE {few}"
    users, items, first = fetch_row(connection, sums)
    if drop:
        leave_out(connection, few)
        if not fetch_row(connection, "SELECT count(*) FROM raw")[0]:
            raise UserError(f"{table.called}: all {users:,} users have fewer than {SHORTEST} items; expected lines "
                            "'user item item ...', with spaces or tabs between")  # fmt: skip
        return {"users of too few items": {"sessions": users, "events": int(items)}}
    if users:
        user, count = fetch_row(connection, f"SELECT words[1], len(words) - 1 FROM raw WHERE rowid = {first}")
        raise UserError(f"{table.row_place(connection, first, LINE)}: user {shown(user)} has {count} item"
                        f"{'s' * (count != 1)}, and leave-one-out needs {SHORTEST}: to train on, to validate and to "
                        f"test; --drop-short leaves out such users, {users:,} here")  # fmt: skip
    return {}
