"""Raw files to a DuckDB table: CSV (plain or gzip) and Parquet, told apart by their content, every value checked."""

from __future__ import annotations

import csv
import glob
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from jaxrec.data.duck import identifier, quoted
from jaxrec.errors import UserError, nearest

TEXT = "VARCHAR"
# What DuckDB raises about a file; what the metadata of Parquet have wrong is of no class but the base of all.
DAMAGE = (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException, duckdb.Error)
HEAD_BYTES = 1 << 16  # how much of a file is looked at to tell what it is; a header longer than this is no header


@dataclass(frozen=True)
class Table:
    """A raw file that has been opened: what it holds, and how DuckDB reads it.

    Attributes:
        path: the file as the user named it.
        function: the table function that reads it, and ``settings``, its further arguments in SQL.
        columns: column name to (SQL expression, SQL type).
        packed: in gzip.
        repeated: names that several columns have, which are not in ``columns``.
    """

    path: Path
    function: str
    settings: str
    columns: dict[str, tuple[str, str]]
    packed: bool = False
    repeated: frozenset[str] = frozenset()

    @property
    def relation(self) -> str:
        """SQL: the rows of the file."""
        return together([self])

    def column(self, name: str, hint: str = "") -> tuple[str, str]:
        """The SQL expression and type of the column ``name``.

        Raises:
            UserError: there is no such column, or several; it names the ones there are and the nearest, then ``hint``.
        """
        if name in self.repeated:
            raise UserError(f"{self.path}: more than one column '{name}' in the header; rename the others")
        if name not in self.columns:
            found = ", ".join(list(self.columns)[:12]) + (", ..." if len(self.columns) > 12 else "")
            raise UserError(f"{self.path}: no column '{name}'{nearest(name, self.columns)}; it has {found}{hint}")
        return self.columns[name]


def together(tables: Sequence[Table]) -> str:
    """SQL: the rows of several files one after the other, which are read alike: of the same settings and columns."""
    return f"{tables[0].function}([{', '.join(literal(table.path) for table in tables)}]{tables[0].settings})"


def literal(path: Path) -> str:
    """SQL: a file's name; DuckDB would expand * ? [ in it."""
    return quoted(glob.escape(str(path.resolve())))


@dataclass(frozen=True)
class Field:
    """One column of the table ``raw``, read from one column of a file.

    Attributes:
        name: its name in ``raw``.
        column: its name in the file.
        parse: from the column's SQL expression to one that is NULL where the value cannot be used.
        expected: what the value must be, for the error message.
    """

    name: str
    column: str
    parse: Callable[[str], str]
    expected: str


def integer(text: str) -> str:
    """SQL: a text as int64, NULL unless it is written as an integer is (a bare cast rounds '1.5' and reads '1e3')."""
    return f"CASE WHEN CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) = {text} THEN TRY_CAST({text} AS BIGINT) END"


def timestamp(text: str) -> str:
    """SQL: an ISO 8601 text as milliseconds since 1970, UTC where it names no zone; NULL where it is none."""
    return f"epoch_ms(TRY_CAST({text} AS TIMESTAMPTZ))"


def open_table(connection: Any, path: Path, delimiter: str = ",", columns: Sequence[str] | None = None) -> Table:
    """Look at a raw file and say how to read it.

    Args:
        connection: DuckDB.
        path: CSV, CSV in gzip, or Parquet; the content decides, not the name.
        delimiter: between the fields of a CSV file.
        columns: their names, for a CSV file without a header line.

    Raises:
        UserError: missing, a directory, unreadable, empty, damaged, or neither CSV nor Parquet.
    """
    head, compression = _head(path)
    if head.startswith(b"PAR1"):
        table = Table(path, "read_parquet", "", {})
        with reading(path):
            rows = connection.execute(f"DESCRIBE SELECT * FROM {table.relation}").fetchall()
        return replace(table, columns={row[0]: (identifier(row[0]), row[1]) for row in rows})
    if b"\0" in head:
        raise UserError(f"{path}: a binary file; expected CSV text, CSV in gzip, or Parquet")
    names = list(columns) if columns else _header(path, head, delimiter)
    schema = ", ".join(f"'c{i}': '{TEXT}'" for i in range(len(names)))  # names of ours, whatever the header holds
    settings = (
        f", auto_detect = false, header = {columns is None}, delim = {quoted(delimiter)}, "
        f"quote = '\"', escape = '\"', compression = '{compression}', columns = {{{schema}}}"
    )
    repeated = frozenset(name for name in names if names.count(name) > 1)
    known = {name: (f"c{i}", TEXT) for i, name in enumerate(names) if name not in repeated}
    return Table(path, "read_csv", settings, known, compression == "gzip", repeated)


def _head(path: Path) -> tuple[bytes, str]:
    """The first bytes of a file, unpacked, and its compression as DuckDB calls it."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check --raw")
    if not path.is_file():
        raise UserError(f"{path}: not a file; --raw takes one raw file")
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
        packed = head.startswith(b"\x1f\x8b")
        if packed:
            with gzip.open(path, "rb") as stream:
                head = stream.read(HEAD_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: truncated or damaged gzip; fetch the file again") from None
    except PermissionError:
        raise UserError(f"{path}: not readable; check its permissions") from None
    if not head.strip():
        raise UserError(f"{path}: empty; expected one click event a line")
    return head, "gzip" if packed else "none"


def _header(path: Path, head: bytes, delimiter: str) -> list[str]:
    """The column names in the first line that is not blank."""
    line = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").splitlines()[0]
    try:
        return next(csv.reader([line.decode("utf-8")], delimiter=delimiter))
    except UnicodeDecodeError:
        raise UserError(f"{path}: line 1 is not UTF-8 text; convert the file, e.g. with iconv") from None


def load(connection: Any, table: Table, fields: Sequence[Field]) -> None:
    """Read ``fields`` of ``table`` into the new DuckDB table ``raw``, whose rowid is the input row from 0.

    Raises:
        UserError: a damaged file, no events in it, or a value that cannot be used: its row, column and text.
    """
    try:
        _load(connection, table, fields)
    except UserError:
        # DuckDB does not compare checksums, so damage may first show as a strange line or value. Reading it all again
        # is worth it only now.
        if table.packed:
            _check_gzip(table.path)
        raise


def _load(connection: Any, table: Table, fields: Sequence[Field]) -> None:
    expressions = [table.column(field.column)[0] for field in fields]
    selected = ", ".join(f"{f.parse(sql)} AS {f.name}" for f, sql in zip(fields, expressions, strict=True))
    with reading(table.path):
        connection.execute(f"CREATE TABLE raw AS SELECT {selected} FROM {table.relation}")
    counts = ", ".join(f"count({field.name})" for field in fields)
    rows, *usable = connection.execute(f"SELECT count(*), {counts} FROM raw").fetchone()
    if rows == 0:
        raise UserError(f"{table.path}: no events; expected one click event a line after the header")
    for field, sql, count in zip(fields, expressions, usable, strict=True):
        if count < rows:
            (row,) = connection.execute(f"SELECT min(rowid) FROM raw WHERE {field.name} IS NULL").fetchone()
            (value,) = connection.execute(f"SELECT {sql} FROM {table.relation} LIMIT 1 OFFSET {row}").fetchone()
            found = "nothing" if value is None else f"'{value}'"
            many = f" ({rows - count:,} such rows)" if rows - count > 1 else ""
            raise UserError(
                f"{table.path}: row {row + 1:,}, column '{field.column}': found {found}{many}, "
                f"expected {field.expected}; mend or remove it"
            )


def _check_gzip(path: Path) -> None:
    try:
        with gzip.open(path, "rb") as stream:
            while stream.read(1 << 20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: truncated or damaged gzip; fetch the file again") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what DuckDB says about a raw file into one line of ours.

    Raises:
        UserError: the file is damaged or not of its format.
    """
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if type(error) not in DAMAGE or "No space left" in message:
            raise
        if "GZIP" in message.upper():
            raise UserError(f"{path}: truncated or damaged gzip; fetch the file again") from None
        raise UserError(f"{path}: {_csv_problem(message)}") from None


def _csv_problem(message: str) -> str:
    """The line and the reason in a DuckDB message, which otherwise fills a screen."""
    line = re.search(r"CSV Error on Line: (\d+)", message)
    place = f"line {int(line[1]):,}: " if line else ""
    columns = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if columns:
        return f"{place}{columns[2]} field(s), expected {columns[1]}; mend the line, or check what separates the fields"
    if "unicode" in message or "utf-8" in message:
        return f"{place}not UTF-8 text; convert the file, e.g. with iconv"
    if "unterminated quote" in message:
        return f"{place}a quote that is never closed; mend the line"
    if "state machine" in message:
        return "not CSV text; expected CSV, CSV in gzip, or Parquet"
    reason = message.splitlines()[0].split("Error: ", 1)[-1].rstrip(".")
    return f"{place}cannot be read ({reason}); fetch or write the file again"
