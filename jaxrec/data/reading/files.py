"""Raw files to a DuckDB table: CSV (plain, in gzip, zstd or zip) and Parquet, told apart by their content, every value
and the number of lines checked.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow.parquet as pq

from jaxrec.data.reading.duck import fetch_number, fetch_row, identifier, quoted
from jaxrec.data.reading.fields import Field, check_values
from jaxrec.data.reading.lines import BOM, Lines, count_lines
from jaxrec.data.reading.table import TEXT, Table, merged
from jaxrec.data.reading.unpacked import PARQUET, compression, open_bytes, unpacked, unpacking
from jaxrec.errors import UserError, shown

# What DuckDB raises about a file; what the metadata of Parquet have wrong is of no class but the base of all.
DAMAGE = (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException, duckdb.Error)
HEAD_BYTES = 1 << 16  # how much of a file is looked at to tell what it is; a header longer than this is no header
NO_QUOTE = "none"
LONG_LINE = 2_000_000  # bytes, with the end: DuckDB has to be told of longer ones
LONGEST_LINE = 100_000_000
NOT_CSV = "not CSV text"
NO_HEADER = "line 1 cannot be read as column names in UTF-8"
# A part of what DuckDB says of a CSV file, and what we say.
PROBLEMS = {
    "unicode": "not UTF-8 text; convert the file, e.g. with iconv",
    "utf-8": "not UTF-8 text; convert the file, e.g. with iconv",
    "unterminated quote": "a quote not closed where its field ends; mend it, or give --quote none if quotes are text",
    "state machine": f"{NOT_CSV}; expected CSV, also in gzip, zstd or zip, or Parquet",
    "Maximum line size": "a quoted field of over 2 MB; mend it, or give --quote none if quotes are text",
}


def integer(text: str) -> str:
    """SQL: a text as int64, NULL unless it is written as an integer is (a bare cast rounds '1.5' and reads '1e3')."""
    return f"CASE WHEN CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) = {text} THEN TRY_CAST({text} AS BIGINT) END"


def timestamp(text: str) -> str:
    """SQL: an ISO 8601 text as milliseconds since 1970, UTC where it names no zone; NULL where it is none."""
    return f"epoch_ms(TRY_CAST({text} AS TIMESTAMPTZ))"


# ---- opening ---------------------------------------------------------------------------------------------------------


def open_tables(connection: Any, paths: Sequence[Path], **options: Any) -> Table:
    """Open several files as one table; options as of ``open_table``."""
    return merged([open_table(connection, path, **options) for path in paths])


def open_table(
    connection: Any,
    path: Path,
    delimiter: str = ",",
    columns: Sequence[str] | None = None,
    quote: str | None = None,
) -> Table:
    """Look at a raw file and say how to read it.

    Args:
        connection: DuckDB; the directory where it spills takes the copy of a zip or a pipe.
        path: CSV, CSV in gzip, zstd or zip, or Parquet; the content decides, not the name.
        delimiter: between the fields of a CSV file.
        columns: their names, for a CSV file without a header line.
        quote: around fields of a CSV file, or ``none``; by default ``"``, and no line end in such a field.
    """
    if quote == delimiter:
        raise UserError(f"--quote {shown(quote)}: the same as --delimiter; give two different characters")
    (scratch,) = fetch_row(connection, "SELECT current_setting('temp_directory')")
    place = unpacked(path, Path(scratch))
    head, packed = _head(path, place)
    if head.startswith(PARQUET):
        return _open_parquet(connection, path, place)
    mark = {None: '"', NO_QUOTE: ""}.get(quote, quote) or ""
    text = head.removeprefix(BOM)
    first = _header(path, text, delimiter, mark)
    if columns and sorted(one.strip().casefold() for one in first) == sorted(one.casefold() for one in columns):
        raise UserError(f"{path}: its first line names the columns; leave out --columns")
    names = list(columns or first)
    lines = _scan(path, place, packed)
    schema = ", ".join(f"'c{i}': '{TEXT}'" for i in range(len(names)))  # names of ours, whatever the header holds
    settings = (
        f", auto_detect = false, header = {columns is None}, delim = {quoted(delimiter)}, "
        f"quote = {quoted(mark)}, escape = {quoted(mark)}, compression = '{packed}', columns = {{{schema}}}"
    )
    blank = re.findall(rb"\r\n|\r|\n", text[: len(text) - len(text.lstrip(b"\r\n"))])
    settings += f", skip = {len(blank)}" if blank and columns is None else ""
    settings += f", max_line_size = {lines.longest + 1}" if lines.longest > LONG_LINE else ""
    known = {name: (f"c{i}", TEXT) for i, name in enumerate(names) if names.count(name) == 1}
    return Table(path, place, "read_csv", settings, known, tuple(names), columns is None, mark,
                 several_lines=quote is not None, lines=lines)  # fmt: skip


def _open_parquet(connection: Any, path: Path, place: Path) -> Table:
    table = Table(path, place, "read_parquet", "", {})
    with reading(path), unpacking(path, "Parquet"):
        rows = connection.execute(f"DESCRIBE SELECT * FROM {table.relation}").fetchall()
        names = pq.read_schema(place).names  # DuckDB renames columns that differ from others in their case only
    columns = {name: (identifier(row[0]), row[1]) for name, row in zip(names, rows, strict=True)
               if names.count(name) == 1}  # fmt: skip
    return Table(path, place, "read_parquet", "", columns, tuple(names))


def _head(path: Path, place: Path) -> tuple[bytes, str]:
    """The first bytes of a file, unpacked, and how it is packed; refuses what is neither text nor Parquet."""
    with unpacking(path, "file"), open(place, "rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(PARQUET):
        return head, "none"
    packed = compression(head, path)
    with unpacking(path, packed), open_bytes(place, packed) as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(PARQUET):
        raise UserError(f"{path}: Parquet packed in {packed}; unpack it, Parquet is packed in itself")
    if not head.removeprefix(BOM).strip():
        raise UserError(f"{path}: empty; expected one click event a line")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16 text; convert it to UTF-8, such as with iconv -f UTF-16 -t UTF-8")
    if b"\0" in head:
        raise UserError(f"{path}: a binary file; expected CSV text, CSV in gzip, zstd or zip, or Parquet (a NUL byte "
                        f"stands in line {head[: head.index(0)].count(10) + 1:,})")  # fmt: skip
    return head, packed


def _header(path: Path, text: bytes, delimiter: str, quote: str) -> list[str]:
    """The fields of the first line that is not blank."""
    try:
        line = text.lstrip(b"\r\n").splitlines()[0].decode("utf-8")
        return next(csv.reader([line], delimiter=delimiter, quotechar=quote)) if quote else line.split(delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {NO_HEADER} ({error}); mend it, or convert the file with iconv") from None


def _scan(path: Path, place: Path, packed: str) -> Lines:
    """The lines of a text file, which is read once for it."""
    with unpacking(path, packed), open_bytes(place, packed) as stream:
        found = count_lines(stream)
    if found.nul:
        raise UserError(f"{path}: line {found.nul:,}: a NUL byte, which no text holds; mend or remove the line")
    if found.longest > LONGEST_LINE:
        raise UserError(f"{path}: a line of {found.longest / 1e6:,.0f} MB, at most {LONGEST_LINE / 1e6:.0f} are read; "
                        "check what separates its lines")  # fmt: skip
    return found


# ---- loading ---------------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """What ``load`` has read.

    Attributes:
        read: rows, files and lines, for the manifest; see ``account``.
        invalid: how many rows were left out for a value that cannot be used.
        notes: what the user should know of them.
    """

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
    """Read ``fields`` of ``table`` into the new DuckDB table ``raw``, whose rowid is the input row from 0.

    Returns:
        What was read, for the manifest; see ``account``.
    """
    selected = ", ".join(f"{field.parse(table.column(field.column)[0])} AS {field.name}" for field in fields)
    with reading_all(connection, table):
        connection.execute(f"CREATE TABLE raw AS SELECT {selected} FROM {table.relation}")
    rows = fetch_number(connection, "SELECT count(*) FROM raw")
    read = account(connection, table.files, rows)
    if rows == 0:
        raise UserError(f"{table.called}: no events; expected one click event a line after the header")
    return read


def account(connection: Any, files: Sequence[Table], rows: int) -> dict[str, int]:
    """Compare the rows that were read with the lines there are; returns what was read, for the manifest."""
    texts = [(file, file.lines) for file in files if file.lines is not None]
    read = {"rows": rows, "files": len(files)}
    if blank := sum(found.blank for _, found in texts):
        read["blank_lines"] = blank
    if len(texts) == len(files) and rows >= sum(found.full - file.header for file, found in texts):
        return read  # of a single column DuckDB reads blank lines as rows of nothing
    lost = 0
    for file, found in texts:
        taken = found.full - file.header - fetch_number(connection, f"SELECT count(*) FROM {file.relation}")
        if taken > 0 and not file.several_lines:
            raise _lost_lines(connection, file, found, taken)
        lost += max(0, taken)
    return read | ({"lines_in_quotes": lost} if lost else {})


def _lost_lines(connection: Any, file: Table, lines: Lines, taken: int) -> UserError:
    """The error about the first field of a file that goes on over several lines."""
    columns = [f"c{i}" for i in range(len(file.names))]
    ends = f"regexp_matches(concat_ws('', {', '.join(columns)}), '[\\r\\n]')"
    found = connection.execute(
        f"SELECT * FROM (SELECT row_number() OVER () AS row, {', '.join(columns)} FROM {file.relation}) WHERE {ends} "
        "ORDER BY row LIMIT 1"
    ).fetchone()
    if found is None and len(lines.ends) > 1:
        return _mixed_ends(file, lines)
    ways = (f"if quotes are part of the text, give --quote none; if fields may hold line ends, give --quote "
            f"'{file.quote}'")  # fmt: skip
    if found is None:  # the lost lines are in the header
        return UserError(f"{file.path}: {taken:,} of its {lines.full:,} lines are in no row; {ways}")
    row, *values = found
    place, value = next((i, value) for i, value in enumerate(values) if value and ("\n" in value or "\r" in value))
    return UserError(f"{file.path}: row {row:,}, column '{file.names[place]}': a quote makes one field of several "
                     f"lines, {shown(value)} (in the file {taken:,} lines are in quotes so); {ways}")  # fmt: skip


def _mixed_ends(file: Table, lines: Lines) -> UserError:
    return UserError(
        f"{file.path}: its lines end in {' and '.join(lines.ends)}; write them alike, such as with dos2unix"
    )


def read_line(read: dict[str, int]) -> str:
    """``read 12 rows of 2 files`` of what ``account`` returns, with the lines that are no rows of their own."""
    files = f"{read['files']:,} files" if read["files"] > 1 else "1 file"
    more = {
        "blank_lines": ", {:,} blank lines",
        "lines_in_quotes": ", {:,} more lines inside quoted fields",
        "invalid_rows": "; left out {:,} with a value that cannot be used",
        "repeated_rows": "; left out {:,} that say the same as an earlier one",
    }
    parts = [text.format(read[name]) for name, text in more.items() if name in read]
    return f"read {read['rows']:,} rows of {files}" + "".join(parts)


# ---- what DuckDB says ------------------------------------------------------------------------------------------------


@contextmanager
def reading_all(connection: Any, table: Table) -> Iterator[None]:
    """As ``reading``, of the file that is to blame among several."""
    try:
        with reading(table.path):
            yield
    except UserError as error:
        for file in table.files:
            values = ", ".join(sql for sql, _ in file.columns.values())
            try:
                with reading(file.path):  # a count alone would not look at the values
                    connection.execute(f"SELECT bit_xor(hash({values})) FROM {file.relation}").fetchall()
            except UserError as own:
                if NOT_CSV in str(own) and file.lines is not None and len(file.lines.ends) > 1:
                    raise _mixed_ends(file, file.lines) from None
                raise own from None
        raise error from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what DuckDB says about a raw file, which may fill a screen, into one line of ours."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if type(error) not in DAMAGE or "No space left" in message:
            raise
        for packed in ("gzip", "zstd"):
            if packed in message.lower():
                raise UserError(f"{path}: truncated or damaged {packed}; fetch the file again") from None
        reason = message.splitlines()[0].split("Error: ", 1)[-1].rstrip(".")
        problem = f"cannot be read ({reason}); fetch or write the file again"
        problem = next((said for part, said in PROBLEMS.items() if part in message), problem)
        if found := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
            problem = f"{found[2]} field(s), expected {found[1]}; mend the line, or check what separates the fields"
        line = re.search(r"CSV Error on Line: (\d+)", message)
        raise UserError(f"{path}: {f'line {int(line[1]):,}: ' if line else ''}{problem}") from None
