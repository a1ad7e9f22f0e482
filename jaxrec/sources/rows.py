"""Any table of rows, with labels or of positives alone, in CSV or Parquet files; options say what its columns are."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.cli.command import ranged
from jaxrec.data.encode import RawField, RawRows
from jaxrec.data.reading.bags import BETWEEN, read_bags
from jaxrec.data.reading.columns import (
    LARGEST,
    id_field,
    label_field,
    marker_notes,
    nothing_as_null,
    number_field,
    whole_column,
)
from jaxrec.data.reading.duck import NESTED, leave_out_repeated, note_repeated, value_text
from jaxrec.data.reading.table import Field, Table, load
from jaxrec.data.reading.times import ORDER, read_times
from jaxrec.errors import UserError, nearest
from jaxrec.sources.shared import add_file_arguments, add_raw_arguments, given_options, open_named

HELP = "any rows, such as clicks, ratings or purchases: CSV (also packed) or Parquet files, one row a line"
KIND = "rows"

MOST_VALUES = 256  # of a bag: every row takes as many columns as the longest one
OPTIONS = ("label", "user", "item", "time", "categorical", "bag", "bag_separator", "numerical", "log_numerical",
           "user_fields", "item_fields", "min_count", "delimiter", "time_format", "na")  # fmt: skip


class Role(NamedTuple):
    """What a column is for: ``kind`` and ``side`` as in ``rows.Field``, and the option that says so."""

    kind: str
    side: str
    option: str


def add_arguments(parser: ArgumentParser) -> None:
    def columns(option: str, help: str) -> None:
        parser.add_argument(option, nargs="+", action="extend", default=[], metavar="COL", help=help)

    add_raw_arguments(parser, "the rows")
    parser.add_argument("--label", metavar="COL", help="column: the label, a number or true/false, yes/no (default: "
                        "there is none, and every row is a positive, such as a purchase)")  # fmt: skip
    parser.add_argument(
        "--positive", type=ranged(float, -LARGEST, LARGEST), metavar="X", help="a label is positive from X on "
        "(default 1 where all labels are 0 or 1; otherwise it has to be given)",
    )  # fmt: skip
    for side in ("user", "item"):
        parser.add_argument(f"--{side}", metavar="COL", help=f"column: the {side}; integers or text, also a "
                            "categorical field")  # fmt: skip
    parser.add_argument("--time", metavar="COL", help="column: the time; a date and time or a number")
    columns("--categorical", "columns of one value each; an empty one is unknown")
    columns("--bag", "columns of several values each: text with --bag-separator between them, or Parquet lists")
    parser.add_argument("--bag-separator", type=_separator, default="|", metavar="TEXT", help="(default |)")
    columns("--numerical", "columns of numbers, which are standardised; a missing one (nothing, NA, NaN, NULL, None, "
            "\\N) becomes the mean")  # fmt: skip
    columns("--log-numerical", "such columns of which sign(x) log(1 + |x|) is taken first, such as prices and counts")
    columns("--user-fields", "fields that describe the user; an item's or the occasion's are the others")
    columns("--item-fields", "fields that describe the item")
    parser.add_argument("--min-count", type=ranged(int, 1, 2**31 - 1), default=1, metavar="N", help="values of fewer "
                        "rows are unknown (default 1)")  # fmt: skip
    add_file_arguments(parser)


def _separator(text: str) -> str:
    if not text:
        raise ArgumentTypeError("expected at least one character, such as |")
    return "\t" if text == "\\t" else text


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the file; the fields are user, item, categorical ones, bags and numbers, each in the order of its option."""
    roles, na = _roles(arguments), arguments.na
    timed = [] if arguments.time is None else [arguments.time]
    labelled = [] if arguments.label is None else [arguments.label]
    table, notes = open_named(connection, arguments, (*labelled, *roles, *timed))
    columns = [label_field(table, "label", name, na) for name in labelled]
    columns += [_column(f"field{i}", table, name, role, na) for i, (name, role) in enumerate(roles.items())]
    unit = None
    for name in timed:
        unit, parse, expected = read_times(connection, table, name, arguments.time_unit, arguments.time_format)
        columns.append(Field("time", name, parse, expected))
    loaded = load(connection, table, columns, arguments.drop_invalid)
    notes += loaded.notes
    names = [column.name for column in columns]
    repeated = leave_out_repeated(connection, names) if arguments.drop_duplicates else 0
    notes += [] if arguments.drop_duplicates else note_repeated(connection, names)
    # Without labels 1.0 of every row is one.
    labels = _fetch(connection, "label" if labelled else "CAST(1 AS DOUBLE)").to_numpy()
    threshold = _threshold(connection, table, arguments, labels, notes) if labelled else 1.0
    fields = [_field(connection, f"field{i}", table, name, role, arguments, notes)
              for i, (name, role) in enumerate(roles.items())]  # fmt: skip
    times = _fetch(connection, "time").to_numpy() if timed else np.zeros(len(labels), np.int64)
    time_unit = ORDER if unit == ORDER else "ms" if (times % 1000).any() else "s"  # whole seconds where they are
    sides = (("user", arguments.user), ("item", arguments.item))
    options = {name: getattr(arguments, name) for name in OPTIONS} | given_options(arguments)
    return RawRows(
        fields=[replace(field, logarithm=field.name in arguments.log_numerical) for field in fields],
        ratings=labels,
        times=times // 1000 if time_unit == "s" else times,
        threshold=threshold,
        low=float(labels.min()),
        high=float(labels.max()),
        user=arguments.user,
        item=arguments.item,
        shown={side: _shown(fields, side, name) for side, name in sides if name is not None},
        options=options | {"positive": threshold, "time_unit": unit},
        min_count=arguments.min_count,
        time_unit=time_unit,
        notes=notes,
        read=loaded.read_without(repeated_rows=repeated),
    )


# ---- what the options say --------------------------------------------------------------------------------------------


def _roles(arguments: Namespace) -> dict[str, Role]:
    """The role of every column that is a field; of user and item, and with ``--user-fields`` and ``--item-fields``."""
    values = vars(arguments)
    missing = [f"--{side}" for side in ("user", "item") if values[side] is None]
    if arguments.label is None and missing:
        raise UserError("--label: not given, so every row is a positive, of which models learn who has what: that "
                        f"needs {' and '.join(missing)}; name the column, or that of the label")  # fmt: skip
    for option, needed in (("positive", "label"), ("time_format", "time"), ("time_unit", "time"),
                           ("user_fields", "user"), ("item_fields", "item")):  # fmt: skip
        if values[option] not in (None, "auto", []) and values[needed] is None:
            raise UserError(f"--{option.replace('_', '-')}: belongs to --{needed}; leave it out, or name the column of "
                            f"the {needed}")  # fmt: skip
    named = [("label", arguments.label), ("time", arguments.time), ("user", arguments.user), ("item", arguments.item)]
    named += [(option, column) for option in ("categorical", "bag", "numerical") for column in values[option]]
    named += [("log-numerical", column) for column in dict.fromkeys(arguments.log_numerical)
              if column not in arguments.numerical]  # fmt: skip
    found: dict[str, Role] = {}
    for option, column in named:
        if column is None:
            continue
        if column in found:
            raise UserError(f"--{option} {column}: the column is {found[column].option} already; name it once")
        if option not in ("label", "time") and ("/" in column or len(column.encode()) > 200):  # a file's name
            raise UserError(f"--{option} {column[:40]}: a name with a / or of over 200 bytes; rename the column")
        kind = {"user": "categorical", "item": "categorical", "log-numerical": "numerical"}.get(option, option)
        found[column] = Role(kind, option if option in ("user", "item") else "context", f"--{option}")
    fields = {name: role for name, role in found.items() if role.kind not in ("label", "time")}
    if not fields:
        raise UserError("no fields to learn from; name columns with --user, --item, --categorical, --bag, --numerical")
    for side in ("user", "item"):
        for name in values[f"{side}_fields"]:
            if name not in fields:
                raise UserError(f"--{side}-fields {name}: no such field{nearest(name, fields)}; there are "
                                f"{', '.join(fields)}")  # fmt: skip
            if fields[name].side not in ("context", side):
                raise UserError(f"--{side}-fields {name}: the field is of the {fields[name].side} already; name it "
                                "once")  # fmt: skip
            fields[name] = fields[name]._replace(side=side)
    return fields


def _threshold(connection: Any, table: Table, arguments: Namespace, labels: np.ndarray, notes: list[str]) -> float:
    """From which label on rows are positive; a note where all are."""
    column, threshold = f"column '{arguments.label}'", arguments.positive
    if threshold is None:
        threshold = 1.0
        if len(other := np.flatnonzero((labels != 0) & (labels != 1))):
            raise UserError(f"{table.row_place(connection, int(other[0]))}, {column}: found {labels[other[0]]:g}, so "
                            "labels are not all 0 or 1; say with --positive from which number on they are positive"
                            )  # fmt: skip
    positive = labels.astype(np.float32) >= threshold  # as they will be compared
    if positive.all() and arguments.user is not None and arguments.item is not None:
        notes.append(f"{column}: all {len(labels):,} labels are positive ({threshold:g} or more): enough for "
                     "two_tower; autoint needs both classes")  # fmt: skip
    elif positive.all() or not positive.any():
        raise UserError(f"{table.called}: {column}: found labels from {labels.min():g} to {labels.max():g}, all "
                        f"{'positive' if positive.all() else 'negative'} (positive is {threshold:g} or more); add rows "
                        "of the other class or choose another --positive")  # fmt: skip
    return float(threshold)


# ---- what the file holds ---------------------------------------------------------------------------------------------


def _column(name: str, table: Table, column: str, role: Role, na: Sequence[str] | None) -> Field:
    """How a field is read: text (of a list with BETWEEN between values), empty where unknown; or a number or NaN."""
    if role.kind == "numerical":
        return number_field(table, name, column, na)
    _, found = table.column(column)
    if found.endswith("]") and role.kind == "bag":
        return Field(name, column, lambda sql: f"coalesce(array_to_string({sql}, chr({ord(BETWEEN)})), '')", "a list")
    if role.option in ("--user", "--item") and not found.endswith("]"):
        return id_field(table, name, column, na, optional=True)
    if found.endswith("]") or found.startswith(NESTED):
        raise UserError(f"{table.path}: column '{column}' is of type {found}; expected integers or text (--bag takes "
                        "lists)")  # fmt: skip
    return Field(name, column, lambda sql: f"coalesce({nothing_as_null(value_text(sql, found), na)}, '')", "a value")


def _fetch(connection: Any, expression: str) -> pa.ChunkedArray:
    """A column of the table ``raw``, in the order of the rows."""
    with connection.cursor() as own:  # DuckDB refuses sql() on one whose last result was not read to its end
        return own.sql(f"SELECT {expression} AS value FROM raw").to_arrow_table()["value"]


def _field(
    connection: Any, column: str, table: Table, name: str, role: Role, arguments: Namespace, notes: list[str]
) -> RawField:
    """A field as it was read; adds to the notes what was changed."""
    called = f"column '{name}'"
    if role.kind == "numerical":
        numbers = pa.array(_fetch(connection, column).to_numpy(), from_pandas=True)  # NaN becomes null
        if missing := numbers.null_count:
            notes.append(f"{called}: {missing:,} of {len(numbers):,} numbers are missing and become the mean")
        return RawField(name, role.kind, role.side, numbers)
    if role.kind == "categorical":
        notes += whole_column(connection, column, called)
        notes += marker_notes(connection, column, called) if arguments.na is None else []
    # Rows as codes of distinct values: the text of a large file's column is more than one array can hold.
    codes = _fetch(connection, column).dictionary_encode("encode").combine_chunks()
    by = codes.indices.to_numpy().astype(np.int64)
    if role.kind == "categorical":
        return RawField(name, role.kind, role.side, codes.dictionary, by)
    separator = BETWEEN if table.column(name)[1].endswith("]") else arguments.bag_separator

    def place(row: int) -> str:
        return f"{table.row_place(connection, row)}, {called}"

    lists = read_bags(codes.dictionary.to_pylist(), by, separator, arguments.na, place, called, notes)
    lengths = np.array([len(values) for values in lists])
    if len(longest := np.flatnonzero(lengths[by] > MOST_VALUES)):
        raise UserError(f"{place(int(longest[0]))}: a bag of {lengths[by[longest[0]]]:,} values, at most {MOST_VALUES} "
                        "are allowed; shorten it, or check --bag-separator")  # fmt: skip
    values = pa.array([value for one in lists for value in one], pa.string())
    try:  # as integers if that loses nothing: no leading zero, sign or space in any of them
        integers = values.cast(pa.int64())
        values = integers if integers.cast(values.type).equals(values) else values
    except pa.ArrowInvalid:
        pass
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return RawField(name, role.kind, role.side, pa.ListArray.from_arrays(offsets, values), by)


def _shown(fields: list[RawField], side: str, name: str) -> pa.Table:
    """The raw values of the fields of one side by entity, as they last stood in the rows."""
    entity = next(field for field in fields if field.name == name)
    assert entity.by is not None
    last = len(entity.by) - 1 - np.unique(entity.by[::-1], return_index=True)[1]  # every code has a row
    columns = {name: entity.values}
    for field in fields:
        if field.side == side and field.name != name:
            columns[field.name] = field.values.take(pa.array(last if field.by is None else field.by[last]))
    return pa.table(columns)
