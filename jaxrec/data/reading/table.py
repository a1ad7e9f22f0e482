"""Raw files as one relation of DuckDB, and the table ``raw`` that is read from it, every value and line checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from jaxrec.data.reading import duck
from jaxrec.data.reading.duck import TEXT, fetch_row
from jaxrec.errors import UserError, nearest, shown

# What DuckDB raises about a file; what the metadata of Parquet have wrong is of no class but the base of all.
DAMAGE = (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException, duckdb.Error)
# A part of what DuckDB says of a CSV file, and what we say.
PROBLEMS = {
    "gzip|zstd": "truncated or damaged gzip or zstd; fetch the file again",
    "unicode|utf-8": "not UTF-8 text; convert the file, e.g. with iconv",
    "unterminated quote": "a quote not closed where its field ends; mend it, or give --quote none if quotes are text",
    "state machine": "not CSV text; expected CSV, also in gzip, zstd or zip, with lines that end alike, or Parquet",
    "maximum line size": "a line or quoted field is too long; mend it, or give --quote none if quotes are text",
}
MOST_NAMED = 4  # columns with unusable values of which a message shows the first one


class Lines(NamedTuple):
    """The lines of a text file: how many hold something and how many nothing, and the bytes of the longest."""

    full: int
    blank: int
    longest: int


@dataclass(frozen=True)
class Table:
    """A raw file that has been opened: what it holds, and how DuckDB reads it. Or several, one after the other."""

    path: Path  # the file, the first of several, as the user named it
    place: Path  # where its bytes lie: there, or in a copy
    reader: str  # SQL: the table function that reads it, with FILES for the names of files
    relation: str  # SQL: the rows of the file, or of all files in their order, with the columns as the whole has them
    columns: dict[str, tuple[str, str]]  # by name: SQL expression and type
    names: tuple[str, ...]  # of all columns in their order, also those that several have
    several_lines: bool = False  # fields in quotes may hold line ends
    lines: Lines | None = None  # of a text file, but its header; None of Parquet
    parts: tuple[Table, ...] = ()  # of several files these, each as a table of its own

    @property
    def files(self) -> tuple[Table, ...]:
        """Each file as a table of its own."""
        return self.parts or (self,)

    @property
    def called(self) -> str:
        """What messages about the whole call it."""
        return f"{self.path} and {len(self.parts) - 1:,} more" if len(self.parts) > 1 else str(self.path)

    def column(self, name: str, hint: str = "") -> tuple[str, str]:
        """The SQL expression and type of the column ``name``."""
        if name not in self.columns:
            what = "more than one" if name in self.names else "no"
            raise UserError(f"{self.path}: {what} column '{name}'{nearest(name, self.columns)}; it has "
                            f"{', '.join(self.names[:12])}{hint}")  # fmt: skip
        return self.columns[name]

    def row_place(self, connection: Any, row: int) -> str:
        """``day2.csv: row 1,234`` of the row of ``raw`` with the rowid ``row``."""
        (row,) = fetch_row(connection, f"SELECT {duck.input_rows(connection)} FROM raw WHERE rowid = {row}")
        file, *later = self.files
        while later and row >= (rows := fetch_row(connection, f"SELECT count(*) FROM {file.relation}")[0]):
            row, (file, *later) = row - rows, later
        return f"{file.path}: row {row + 1:,}"


def merged(tables: Sequence[Table]) -> Table:
    """Several files as one table: columns by name, and as text where the files have other types for them."""
    first, *others = tables
    for other in others:
        if sorted(first.names) != sorted(other.names):
            differing = sorted({*first.names} ^ {*other.names}) or sorted(first.names)
            raise UserError(f"{other.path}: only one of it and {first.path} has {', '.join(map(repr, differing[:6]))}; "
                            "files that are read together need the same columns")  # fmt: skip
    if not others:
        return first
    if len({(table.reader, *sorted(table.columns.items())) for table in tables}) == 1:  # read at once
        relation = first.reader.replace("FILES", f"[{', '.join(duck.literal(table.place) for table in tables)}]", 1)
        return replace(first, relation=relation, parts=tuple(tables))
    # Names of ours: to DuckDB names that differ in their case only are the same.
    columns = {name: (f"c{i}", kind if all(other.columns[name][1] == kind for other in others) else TEXT)
               for i, (name, (_, kind)) in enumerate(first.columns.items())}  # fmt: skip
    selects = []
    for table in tables:
        pairs = [(*table.columns[name], *column) for name, column in columns.items()]
        values = [f"{sql if found == kind else duck.value_text(sql, found)} AS {alias}"
                  for sql, found, alias, kind in pairs]  # fmt: skip
        selects.append(f"SELECT {', '.join(values)} FROM {table.relation}")
    return replace(first, columns=columns, relation=f"({' UNION ALL '.join(selects)})", parts=tuple(tables))


@contextmanager
def reading(table: Table) -> Iterator[None]:
    """Turn what DuckDB says about raw files, which may fill a screen, into one line of ours."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if type(error) not in DAMAGE or "No space left" in message:
            raise
        reason = message.splitlines()[0].split("Error: ", 1)[-1].rstrip(".")
        problem = f"cannot be read ({reason}); fetch or write the file again"
        problem = next((said for part, said in PROBLEMS.items() if re.search(part, message.lower())), problem)
        if found := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
            problem = f"{found[2]} field(s), expected {found[1]}; mend the line, or check what separates the fields"
        line = re.search(r"CSV Error on Line: (\d+)", message)
        path = next((file.path for file in table.files if str(file.place.resolve()) in message), table.path)
        raise UserError(f"{path}: {f'line {int(line[1]):,}: ' if line else ''}{problem}") from None


@dataclass(frozen=True)
class Field:
    """One column of the table ``raw``, read from one column of a file."""

    name: str  # in raw
    column: str  # in the file
    parse: Callable[[str], str]  # from the column's SQL expression to one that is NULL where a value cannot be used
    expected: str  # what a value must be, for the error message


class Loaded(NamedTuple):
    """What was read, for the manifest; rows left out for a value that cannot be used; and notes about them."""

    read: dict[str, int]
    invalid: int
    notes: list[str]

    def read_without(self, repeated_rows: int) -> dict[str, int]:
        """``read`` with the numbers of rows that were left out, where any were."""
        left_out = {"invalid_rows": self.invalid, "repeated_rows": repeated_rows}
        return self.read | {name: count for name, count in left_out.items() if count}


def load(connection: Any, table: Table, fields: Sequence[Field], drop_invalid: bool | None = None) -> Loaded:
    """Read ``fields`` of ``table`` into the new DuckDB table ``raw``; see ``read_raw`` and ``check_values``."""
    read = read_raw(connection, table, fields)
    return Loaded(read, *check_values(connection, table, fields, drop_invalid))


def read_raw(connection: Any, table: Table, fields: Sequence[Field]) -> dict[str, int]:
    """Read ``fields`` of ``table`` into the new DuckDB table ``raw``; returns what was read, for the manifest."""
    selected = ", ".join(f"{field.parse(table.column(field.column)[0])} AS {field.name}" for field in fields)
    with reading(table):
        connection.execute(f"CREATE TABLE raw AS SELECT {selected} FROM {table.relation}")
    (rows,) = fetch_row(connection, "SELECT count(*) FROM raw")
    texts = [(file, file.lines) for file in table.files if file.lines is not None]
    lost = 0  # lines that are no rows, all of them inside quoted fields; of a single column blank lines are rows
    if len(texts) < len(table.files) or rows < sum(lines.full for _, lines in texts):
        lost = sum(_lost_lines(connection, file, lines.full) for file, lines in texts)
    if rows == 0:
        raise UserError(f"{table.called}: no events; expected one click event a line after the header")
    more = {"blank_lines": sum(lines.blank for _, lines in texts), "lines_in_quotes": lost}
    return {"rows": rows, "files": len(table.files)} | {name: count for name, count in more.items() if count}


def _lost_lines(connection: Any, file: Table, full: int) -> int:
    """How many lines of a text file are in no row; refuses them where fields must not hold line ends."""
    columns = ", ".join(sql for sql, _ in file.columns.values())
    texts = f"SELECT row_number() OVER () AS row, concat_ws('', {columns}) AS text FROM {file.relation}"
    rows, row = fetch_row(
        connection, f"SELECT count(*), min(row) FILTER (regexp_matches(text, '[\\r\\n]')) FROM ({texts})"
    )
    if rows < full and not file.several_lines:
        raise UserError(f"{file.path}: {f'row {row:,}' if row else 'its header'}: a quote makes one field of several "
                        f"lines (in the file {full - rows:,} lines are in quotes so); if quotes are part of the text, "
                        "give --quote none; if fields may hold line ends, give --quote '\"'")  # fmt: skip
    return max(0, full - int(rows))


def check_values(
    connection: Any, table: Table, fields: Sequence[Field], drop_invalid: bool | None
) -> tuple[int, list[str]]:
    """Refuse or leave out the rows of ``raw`` with a value that cannot be used; how many went, and notes about them.

    ``drop_invalid`` is that of ``--drop-invalid``; None where the command has no such option.
    """
    rows, *usable = fetch_row(connection, f"SELECT count(*), {', '.join(f'count({f.name})' for f in fields)} FROM raw")
    bad = [field for field, count in zip(fields, usable, strict=True) if count < rows]
    if not bad:
        return 0, []
    unusable = " OR ".join(f"{field.name} IS NULL" for field in bad)
    (invalid,) = fetch_row(connection, f"SELECT count(*) FROM raw WHERE {unusable}")
    what = "; ".join(_first_value(connection, table, field) for field in bad[:MOST_NAMED])
    if not drop_invalid or invalid == rows:
        ways = "" if drop_invalid is None else ", or leave such rows out with --drop-invalid (not all of them)"
        raise UserError(f"{what}; mend or remove {invalid:,} of {rows:,} rows{ways}")
    duck.leave_out(connection, unusable)
    return invalid, [f"left out {invalid:,} of {rows:,} rows with a value that cannot be used: {what}"]


def _first_value(connection: Any, table: Table, field: Field) -> str:
    """Where the first unusable value of a column stands, what it is, and what was expected."""
    (row,) = fetch_row(connection, f"SELECT min(rowid) FROM raw WHERE {field.name} IS NULL")
    (at,) = fetch_row(connection, f"SELECT {duck.input_rows(connection)} FROM raw WHERE rowid = {row}")
    sql = f"SELECT {table.columns[field.column][0]} FROM {table.relation} LIMIT 1 OFFSET {at}"
    (value,) = fetch_row(connection, sql)
    text = "nothing" if value is None else shown(str(value))
    return f"{table.row_place(connection, row)}, column '{field.column}': found {text}, expected {field.expected}"


def read_line(read: dict[str, int]) -> str:
    """``read 12 rows (files 2, blank lines 1)`` for the reader of the terminal."""
    more = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in read.items() if name != "rows")
    return f"read {read['rows']:,} rows ({more})"
