"""Any table of rows, with labels or of positives alone, in CSV or Parquet files; options say what its columns are."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

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
from jaxrec.sources.shared import add_file_arguments, add_raw_arguments, file_options, open_named, ranged

HELP = "any rows, such as clicks, ratings or purchases: CSV (also packed) or Parquet files, one row a line"
KIND = "rows"

MOST_VALUES = 256  # of a bag: every row takes as many columns as the longest one


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
    parser.add_argument("--user", metavar="COL", help="column: the user; integers or text, also a categorical field")
    parser.add_argument("--item", metavar="COL", help="column: the item; integers or text, also a categorical field")
    parser.add_argument("--time", metavar="COL", help="column: the time; a date and time or a number")
    columns("--categorical", "columns of one value each; an empty one is unknown")
    columns("--bag", "columns of several values each: text with --bag-separator between them, or Parquet lists")
    parser.add_argument("--bag-separator", type=_separator, default="|", metavar="TEXT", help="(default |)")
    columns("--numerical", "columns of numbers, which are standardised; a missing one (nothing, NA, NaN, NULL, None, "
            "\\N) becomes the mean")  # fmt: skip
    columns("--log-numerical", "such columns of which sign(x) log(1 + |x|) is taken first, such as prices and counts")
    columns("--user-fields", "fields that describe the user; an item's or the occasion's are the others")
    columns("--item-fields", "fields that describe the item")
    parser.add_argument(
        "--min-count", type=ranged(int, 1, 2**31 - 1), default=1, metavar="N",
        help="values of fewer rows are unknown (default 1)",
    )  # fmt: skip
    add_file_arguments(parser)


def _separator(text: str) -> str:
    if not text:
        raise ArgumentTypeError("expected at least one character, such as |")
    return "\t" if text == "\\t" else text


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the file; the fields are user, item, categorical ones, bags and numbers, each in the order of its option."""
    roles = _roles(arguments)
    timed = [] if arguments.time is None else [arguments.time]
    labelled = [] if arguments.label is None else [arguments.label]
    table, notes = open_named(connection, arguments, (*labelled, *roles, *timed))
    columns = [label_field(table, "label", name, arguments.na) for name in labelled]
    columns += [_column(f"field{i}", table, name, role, arguments.na)
                for i, (name, role) in enumerate(roles.items())]  # fmt: skip
    unit = None
    if arguments.time is not None:
        unit, parse, expected = read_times(
            connection, table, arguments.time, arguments.time_unit, arguments.time_format
        )
        columns.append(Field("time", arguments.time, parse, expected))
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
    times, time_unit = _times(connection, unit, len(labels))
    sides = (("user", arguments.user), ("item", arguments.item))
    return RawRows(
        fields=[replace(field, logarithm=field.name in arguments.log_numerical) for field in fields],
        ratings=labels,
        times=times,
        threshold=threshold,
        low=float(labels.min()),
        high=float(labels.max()),
        user=arguments.user,
        item=arguments.item,
        shown={side: _shown(fields, side, name) for side, name in sides if name is not None},
        options=_options(arguments) | file_options(arguments) | {"positive": threshold, "time_unit": unit},
        min_count=arguments.min_count,
        time_unit=time_unit,
        notes=notes,
        read=loaded.read_without(repeated_rows=repeated),
    )


def _times(connection: Any, unit: str | None, n: int) -> tuple[np.ndarray, str]:
    """int64[n] and their unit: whole seconds where they are, or milliseconds; counters as they are."""
    if unit is None:
        return np.zeros(n, np.int64), "s"
    times = _fetch(connection, "time").to_numpy()
    if unit == ORDER:
        return times, ORDER
    return (times, "ms") if (times % 1000).any() else (times // 1000, "s")


def _options(arguments: Namespace) -> dict[str, Any]:
    names = ("label", "user", "item", "time", "categorical", "bag", "bag_separator", "numerical", "log_numerical",
             "user_fields", "item_fields", "min_count", "delimiter", "time_format", "na")  # fmt: skip
    return {name: getattr(arguments, name) for name in names}


# ---- what the options say --------------------------------------------------------------------------------------------


def _roles(arguments: Namespace) -> dict[str, Role]:
    """The role of every column that is a field."""
    found = {} if arguments.label is None else {arguments.label: Role("label", "", "--label")}
    named = [("time", "--time", [arguments.time]), ("categorical", "--user", [arguments.user])]
    named += [("categorical", "--item", [arguments.item]), ("categorical", "--categorical", arguments.categorical)]
    named += [("bag", "--bag", arguments.bag), ("numerical", "--numerical", arguments.numerical)]
    logarithms = [name for name in dict.fromkeys(arguments.log_numerical) if name not in arguments.numerical]
    named += [("numerical", "--log-numerical", logarithms)]
    for kind, option, columns in named:
        for column in columns:
            if column is None:
                continue
            if column in found:
                raise UserError(f"{option} {column}: the column is {found[column].option} already; name it once")
            if kind != "time" and ("/" in column or len(column.encode()) > 200):  # a field's vocabulary is a file
                raise UserError(f"{option} {column[:40]}: a name with a / or of over 200 bytes; rename the column")
            found[column] = Role(kind, option[2:] if option in ("--user", "--item") else "context", option)
    fields = {name: role for name, role in found.items() if role.kind not in ("label", "time")}
    if arguments.label is None:
        _check_positives_alone(arguments)
    if not fields:
        raise UserError("no fields to learn from; name columns with --user, --item, --categorical, --bag, --numerical")
    for option, given in (("--time-unit", arguments.time_unit != "auto"), ("--time-format", arguments.time_format)):
        if arguments.time is None and given:
            raise UserError(f"{option}: belongs to --time; leave it out, or name the column of the time")
    return _with_sides(fields, arguments)


def _check_positives_alone(arguments: Namespace) -> None:
    """Without labels there have to be users and items: what else could be learned?"""
    if arguments.positive is not None:
        raise UserError("--positive: belongs to --label; leave it out, or name the column of the label")
    missing = [f"--{side}" for side in ("user", "item") if getattr(arguments, side) is None]
    if missing:
        raise UserError("--label: not given, so every row is a positive, of which models learn who has what: that "
                        f"needs {' and '.join(missing)}; name the column, or that of the label")  # fmt: skip


def _with_sides(fields: dict[str, Role], arguments: Namespace) -> dict[str, Role]:
    """The fields with the sides that ``--user-fields`` and ``--item-fields`` give them."""
    for side in ("user", "item"):
        option, names = f"--{side}-fields", getattr(arguments, f"{side}_fields")
        if names and getattr(arguments, side) is None:
            raise UserError(f"{option}: needs --{side}, the column of what they describe; add it or leave them out")
        for name in names:
            if name not in fields:
                raise UserError(f"{option} {name}: no such field{nearest(name, fields)}; there are {', '.join(fields)}")
            if fields[name].side not in ("context", side):
                raise UserError(f"{option} {name}: the field is of the {fields[name].side} already; name it once")
            fields[name] = fields[name]._replace(side=side)
    return fields


def _threshold(connection: Any, table: Table, arguments: Namespace, labels: np.ndarray, notes: list[str]) -> float:
    """From which label on rows are positive; a note where all are."""
    place, threshold = f"{table.called}: column '{arguments.label}'", arguments.positive
    if threshold is None:
        other = np.flatnonzero((labels != 0) & (labels != 1))
        if len(other):
            raise UserError(
                f"{table.row_place(connection, int(other[0]))}, column '{arguments.label}': found "
                f"{labels[other[0]]:g}, so labels are not all 0 or 1; say with --positive from which number on "
                "they are positive"
            )
        threshold = 1.0
    positive = labels.astype(np.float32) >= threshold  # as they will be compared
    if positive.all() and arguments.user is not None and arguments.item is not None:
        notes.append(f"column '{arguments.label}': all {len(labels):,} labels are positive ({threshold:g} or more): "
                     "enough for two_tower; autoint needs both classes")  # fmt: skip
    elif positive.all() or not positive.any():
        of = "positive" if positive.all() else "negative"
        raise UserError(
            f"{place}: found labels from {labels.min():g} to {labels.max():g}, all {of} (positive is {threshold:g} or "
            f"more), so there is nothing to learn; add rows of the other class or choose another --positive"
        )
    return float(threshold)


# ---- what the file holds ---------------------------------------------------------------------------------------------


def _column(name: str, table: Table, column: str, role: Role, na: Sequence[str] | None) -> Field:
    """How a field is read: text (of a list with BETWEEN between values), empty where unknown; or a number or NaN."""
    if role.kind == "numerical":
        return number_field(table, name, column, na)
    _, found = table.column(column)
    if found.endswith("]"):
        if role.kind != "bag":
            raise UserError(f"{table.path}: column '{column}' holds lists ({found}); give it to --bag instead")
        return Field(name, column, lambda sql: f"coalesce(array_to_string({sql}, chr({ord(BETWEEN)})), '')", "a list")
    if role.option in ("--user", "--item"):
        return id_field(table, name, column, na, optional=True)
    if found.startswith(NESTED):
        raise UserError(f"{table.path}: column '{column}' is of type {found}; expected integers or text")
    return Field(name, column, lambda sql: f"coalesce({nothing_as_null(value_text(sql, found), na)}, '')", "a value")


def _fetch(connection: Any, expression: str) -> pa.ChunkedArray:
    """A column of the table ``raw``, in the order of the rows."""
    with connection.cursor() as own:  # DuckDB refuses sql() on one whose last result was not read to its end
        return own.sql(f"SELECT {expression} AS value FROM raw").to_arrow_table()["value"]


def _field(
    connection: Any, column: str, table: Table, name: str, role: Role, arguments: Namespace, notes: list[str]
) -> RawField:
    """A field as it was read; adds to the notes what was changed."""
    if role.kind == "numerical":
        numbers = pa.array(_fetch(connection, column).to_numpy(), from_pandas=True)  # NaN becomes null
        if missing := numbers.null_count:
            notes.append(f"column '{name}': {missing:,} of {len(numbers):,} numbers are missing and become the mean")
        return RawField(name, role.kind, role.side, numbers)
    called = f"column '{name}'"
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
    longest = np.flatnonzero(lengths[by] > MOST_VALUES)
    if len(longest):
        raise UserError(
            f"{place(int(longest[0]))}: a bag of {lengths[by[longest[0]]]:,} values, "
            f"at most {MOST_VALUES} are allowed; shorten it, or check --bag-separator"
        )
    values = _integers_where_possible(pa.array([value for one in lists for value in one], pa.string()))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return RawField(name, role.kind, role.side, pa.ListArray.from_arrays(offsets, values), by)


def _integers_where_possible(values: pa.Array) -> pa.Array:
    """As int64 if that loses nothing: no leading zero, sign or space in any of them."""
    try:
        integers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
    return integers if integers.cast(values.type).equals(values) else values


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
