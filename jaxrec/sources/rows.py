"""Any table of rows, with labels or of positives alone, in CSV or Parquet files; options say what its columns are."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.cli.command import ranged
from jaxrec.data.clean.encoding import whole_numbers
from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.data.reading import columns as read_as
from jaxrec.data.reading.columns import BETWEEN, ORDER, bracketed, read_bags, read_times
from jaxrec.data.reading.duck import NESTED, leave_out_repeated, note_repeated, value_text
from jaxrec.data.reading.table import Field, Table, load
from jaxrec.errors import UserError, nearest
from jaxrec.sources.shared import add_columns, add_file_arguments, add_raw_arguments, given_options, open_raw

HELP = "any rows, such as clicks, ratings or purchases: CSV (also packed) or Parquet files, one row a line"
KIND = "rows"

MOST_VALUES = 256  # of a bag: every row takes as many columns as the longest one
OPTIONS = ("label", "user", "item", "time", "categorical", "bag", "bag_separator", "numerical", "log_numerical",
           "user_fields", "item_fields", "min_count", "delimiter", "time_format", "na")  # fmt: skip
COLUMNS = {
    "label": "the label, a number or true/false, yes/no (default: none, and every row is a positive, as a purchase is)",
    "user": "the user; integers or text, also a categorical field",
    "item": "the item; integers or text, also a categorical field",
    "time": "the time; a date and time or a number",
    "categorical": "one value each; an empty one is unknown",
    "bag": "several values each: text with --bag-separator between them, or Parquet lists",
    "numerical": "numbers, which are standardised; missing ones (nothing, NA, NaN, NULL, None, \\N) become the mean",
    "log_numerical": "numbers of which sign(x) log(1 + |x|) is taken first, such as prices and counts",
    "user_fields": "fields that describe the user; an item's or the occasion's are the others",
    "item_fields": "fields that describe the item",
}
WHAT = ("missing", "spaced", "dotted", "filled", "bracketed")  # of a field's values are counted in ``RawRows.found``
Role = tuple[str, str]  # of a column: ``kind`` and ``side`` as in ``rows.Field``


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "the rows")
    parser.add_argument("--positive", type=ranged(float, -read_as.LARGEST, read_as.LARGEST), metavar="X", help="from "
                        "which label on rows are positive (default 1; needed where not all are 0 or 1)")  # fmt: skip
    add_columns(parser, COLUMNS, tuple(COLUMNS)[4:])
    parser.add_argument("--bag-separator", default="|", metavar="TEXT", help="\\t is a tab (default |)")
    parser.add_argument("--min-count", type=ranged(int, 1, 2**31 - 1), default=1, metavar="N", help="values of fewer "
                        "rows are unknown (default 1)")  # fmt: skip
    add_file_arguments(parser)


def in_parts(arguments: Namespace) -> bool:
    """Not where it is known from all files alone how many rows are left out, or which."""
    return not (arguments.drop_invalid or arguments.drop_duplicates)


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the file; the fields are user, item, categorical ones, bags and numbers, each in the order of its option."""
    part = vars(arguments).get("text_ids", False)
    arguments.bag_separator = arguments.bag_separator.replace("\\t", "\t")
    if not arguments.bag_separator:
        raise UserError("--bag-separator: empty; give at least one character, such as |")
    roles, na = _roles(arguments), arguments.na
    timed, labelled = ([one] if one else [] for one in (arguments.time, arguments.label))
    table = open_raw(connection, arguments, (*labelled, *roles, *timed))
    columns = [read_as.number_field(table, "label", name, na, label=True) for name in labelled]
    columns += [_column(f"field{i}", table, name, role, arguments) for i, (name, role) in enumerate(roles.items())]
    unit = None
    for name in timed:
        unit, field = read_times(connection, table, name, arguments)
        columns.append(field)
    read, invalid, notes = load(connection, table, columns, arguments.drop_invalid)
    names = [column.name for column in columns]
    left_out = {"invalid_rows": invalid}
    if arguments.drop_duplicates:
        left_out["repeated_rows"] = leave_out_repeated(connection, names)
    else:
        notes += note_repeated(connection, names)
    # Without labels 1.0 of every row is one.
    labels = _fetch(connection, "label" if labelled else "CAST(1 AS DOUBLE)").to_numpy()
    threshold = _threshold(connection, table, arguments, labels) if labelled else 1.0
    found = {"rows": len(labels), "positive": int((labels.astype(np.float32) >= threshold).sum())}  # as it is compared
    fields = [_field(connection, f"field{i}", table, name, role, arguments, found)
              for i, (name, role) in enumerate(roles.items())]  # fmt: skip
    times = _fetch(connection, "time").to_numpy() if timed else np.zeros(len(labels), np.int64)
    # Whole seconds where all are, which no part knows.
    time_unit = ORDER if unit == ORDER else "ms" if part or (times % 1000).any() else "s"
    sides = (("user", arguments.user), ("item", arguments.item))
    options = {name: getattr(arguments, name) for name in OPTIONS} | given_options(arguments)
    times = times // 1000 if time_unit == "s" else times
    low, high = float(labels.min()), float(labels.max())
    raw = RawRows(
        fields, labels, times, threshold, low, high, arguments.user, arguments.item,
        shown={side: _shown(fields, side, name) for side, name in sides if name is not None and not part},
        options=options | {"positive": threshold, "time_unit": unit},
        min_count=arguments.min_count, time_unit=time_unit, notes=notes,
        read=read | {name: n for name, n in left_out.items() if n}, found=found, part=part,
        columns=table.columns,
    )  # fmt: skip
    return raw if part else checked(arguments, raw, table.called)


def checked(arguments: Namespace, raw: RawRows, called: str) -> RawRows:
    """The rows of all files, ``called`` so, with notes about what was changed; or a UserError where all labels are of
    one class, or all bags are no bags."""
    notes, (rows, positive) = list(raw.notes), (raw.found[name] for name in ("rows", "positive"))
    ours = f"column '{arguments.label}': all {rows:,} labels are"
    if arguments.label and positive == rows and None not in (arguments.user, arguments.item):
        notes.append(f"{ours} positive ({raw.threshold:g} or more): enough for two_tower; autoint needs both classes")
    elif arguments.label and positive in (0, rows):
        raise UserError(f"{called}: {ours} {'positive' if positive else 'negative'} (positive is {raw.threshold:g} or "
                        "more); add rows of the other class or another --positive")  # fmt: skip
    for field in raw.fields:
        column, *counts = f"column '{field.name}'", *(raw.found.get(f"{what} {field.name}", 0) for what in WHAT)
        missing, spaced, dotted, filled, bracketed = counts
        notes += read_as.id_notes(column, spaced, dotted)
        if missing:
            notes.append(f"{column}: {missing:,} of {rows:,} numbers are missing and become the mean")
        if filled and filled == bracketed:
            raise UserError(f"{called}, {column}: all bags are lists as text, in [ and ]; write their values with "
                            "--bag-separator between them, or lists of Parquet")  # fmt: skip
    return replace(raw, notes=notes)


def _roles(arguments: Namespace) -> dict[str, Role]:
    """The role of every column that is a field; of user and item, and with ``--user-fields`` and ``--item-fields``."""
    values = vars(arguments)
    if arguments.label is None and None in (arguments.user, arguments.item):
        raise UserError("--label: not given, so every row is a positive, of which models learn who has what: that "
                        "needs --user and --item; name their columns, or that of the label")  # fmt: skip
    roles: dict[str, Role] = {}
    logs = [column for column in dict.fromkeys(arguments.log_numerical) if column not in arguments.numerical]
    for option, kind, side, columns in (
        *((name, name, "", [values[name]]) for name in ("label", "time") if values[name] is not None),
        *((name, "categorical", name, [values[name]]) for name in ("user", "item") if values[name] is not None),
        *((name, name, "context", values[name]) for name in ("categorical", "bag", "numerical")),
        ("log-numerical", "numerical", "context", logs),
    ):
        for column in columns:
            if column in roles:
                raise UserError(f"--{option} {column}: the column has another role already; name it once")
            if side and ("/" in column or len(column.encode()) > 200):  # a file's name
                raise UserError(f"--{option} {column[:40]}: a name with a / or of over 200 bytes; rename the column")
            roles[column] = kind, side
    fields = {name: role for name, role in roles.items() if role[1]}
    if not fields:
        raise UserError("no fields to learn from; name columns with --user, --item, --categorical, --bag, --numerical")
    for side in ("user", "item"):
        for name in values[f"{side}_fields"]:
            if values[side] is None or name not in fields or fields[name][1] not in ("context", side):
                raise UserError(f"--{side}-fields {name}: no such field{nearest(name, fields)}, of the other side "
                                f"already, or without --{side}; there are {', '.join(fields)}")  # fmt: skip
            fields[name] = fields[name][0], side
    return fields


def _threshold(connection: Any, table: Table, arguments: Namespace, labels: np.ndarray) -> float:
    """From which label on rows are positive."""
    column, threshold = f"column '{arguments.label}'", 1.0 if arguments.positive is None else float(arguments.positive)
    other = np.flatnonzero((labels != 0) & (labels != 1))
    if arguments.positive is None and len(other):
        raise UserError(f"{_place(connection, table, int(other[0]))}, {column}: found {labels[other[0]]:g}, so labels "
                        "are not all 0 or 1; say with --positive from which number on they are positive")  # fmt: skip
    return threshold


def _column(name: str, table: Table, column: str, role: Role, arguments: Namespace) -> Field:
    """How a field is read: text (of a list with BETWEEN between values), empty where unknown; or a number or NaN."""
    na, (_, found), (kind, _) = arguments.na, table.column(column), role
    if kind == "numerical":
        return read_as.number_field(table, name, column, na)
    if found.endswith("]") and kind == "bag":
        return Field(name, column, lambda sql: f"coalesce(array_to_string({sql}, chr({ord(BETWEEN)})), '')", "a list")
    if found.endswith("]") or found.startswith(NESTED):
        raise UserError(f"{table.path}: column '{column}' is of type {found}; expected integers or text (--bag takes "
                        "lists)")  # fmt: skip
    if column in (arguments.user, arguments.item):
        return read_as.id_field(table, name, column, na, optional=True)
    text = read_as.nothing_as_null
    return Field(name, column, lambda sql: f"coalesce({text(value_text(sql, found), na)}, '')", "a value")


def _fetch(connection: Any, expression: str) -> pa.ChunkedArray:
    """A column of the table ``raw``, in the order of the rows."""
    return connection.sql(f"SELECT {expression} AS value FROM raw").to_arrow_table()["value"]


def _field(
    connection: Any, column: str, table: Table, name: str, role: Role, arguments: Namespace, found: dict[str, int]
) -> RawField:
    """A field as it was read; adds to ``found`` how many values are what ``checked`` asks about."""
    called, kind, part = f"column '{name}'", role[0], vars(arguments).get("text_ids", False)
    if kind == "numerical":
        numbers = pa.array(_fetch(connection, column).to_numpy(), from_pandas=True)  # NaN becomes null
        found[f"missing {name}"] = numbers.null_count
        return RawField(name, *role, numbers, logarithm=name in arguments.log_numerical)
    if kind == "categorical":
        found |= zip((f"spaced {name}", f"dotted {name}"), read_as.read_ids(connection, column, part), strict=True)
    # Rows as codes of distinct values: the text of a large file's column is more than one array can hold.
    codes = _fetch(connection, column).dictionary_encode("encode").combine_chunks()
    by = codes.indices.to_numpy().astype(np.int64)
    if kind == "categorical":
        return RawField(name, *role, codes.dictionary, by)
    separator = BETWEEN if table.column(name)[1].endswith("]") else arguments.bag_separator
    texts = codes.dictionary.to_pylist()
    if separator != BETWEEN:
        found |= zip((f"filled {name}", f"bracketed {name}"), bracketed(texts, arguments.na), strict=True)
    lists = read_bags(texts, separator, arguments.na)
    lengths = np.array([len(values) for values in lists])
    if len(longest := np.flatnonzero(lengths[by] > MOST_VALUES)):
        row = _place(connection, table, int(longest[0]))
        raise UserError(f"{row}, {called}: a bag of {lengths[by[longest[0]]]:,} values, at most {MOST_VALUES} "
                        "are allowed; shorten it, or check --bag-separator")  # fmt: skip
    values = pa.array([value for one in lists for value in one], pa.string())
    if not part and (integers := whole_numbers(values)) is not None:
        values = integers
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return RawField(name, *role, pa.ListArray.from_arrays(offsets, values), by)


def _place(connection: Any, table: Table, place: int) -> str:
    """Where the row of ``raw`` at a place among those that are left stands in the files."""
    return table.row_place(connection, _fetch(connection, "rowid")[place].as_py())


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
