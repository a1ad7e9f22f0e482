"""Raw files, told apart by their content (CSV, plain or in gzip, zstd or zip, and Parquet), as one relation of DuckDB;
and the table ``raw`` that is read from it, every value and line checked."""

from __future__ import annotations

import csv
import glob
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.reading import duck
from jaxrec.data.reading.duck import TEXT, fetch_row, identifier, literal, quoted
from jaxrec.data.reading.remote import copy_object, find_objects, is_address
from jaxrec.errors import UserError, nearest, shown

Place = Path | str  # a path, or an address in a store
STREAM = Path("/dev/stdin")
KNOWN = (".parquet", ".csv", ".tsv", ".txt", ".dat", ".gz", ".zip", ".zst")
PARQUET = b"PAR1"
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
UNREADABLE = (EOFError, RuntimeError, ValueError, OSError, zlib.error, zipfile.BadZipFile, pa.ArrowException)
MOST_BLANK = 1000  # lines before a header
NO_QUOTE = "none"
NO_DELIMITER = "\x1f\x1e\x1f"  # of lines that are read whole
LONGEST_LINE = 32_000_000  # bytes; DuckDB's buffer, of which it would fill a sixteenth at most by itself

# What DuckDB raises about a file; what the metadata of Parquet have wrong is of no class but the base of all.
DAMAGE = (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException, duckdb.Error)
MOST_NAMED = 4  # columns with unusable values of which a message shows the first one


@dataclass(frozen=True)
class Table:
    """A raw file that has been opened: what it holds, and how DuckDB reads it. Or several, one after the other."""

    path: Place  # the file, the first of several, as the user named it
    place: Path  # where its bytes lie: there, or in a copy
    reader: str  # SQL: the table function that reads it, with FILES for the names of files
    relation: str  # SQL: the rows of the file, or of all files in their order, with the columns as the whole has them
    columns: dict[str, tuple[str, str]]  # by name: SQL expression and type
    names: tuple[str, ...]  # of all columns in their order, also those that several have
    lines: str | None = None  # SQL: of a text file its lines, each as ``line``, the header among them
    header: bool = False  # whether the first of them names the columns
    several_lines: bool = False  # fields in quotes may hold line ends
    parts: tuple[Table, ...] = ()  # of several files these, each as a table of its own

    @property
    def files(self) -> tuple[Table, ...]:
        """Each file as a table of its own."""
        return self.parts or (self,)

    @property
    def called(self) -> str:
        """What messages about the whole call it."""
        return f"{self.path} and {len(self.parts) - 1:,} more" if len(self.parts) > 1 else str(self.path)

    def column(self, name: str) -> tuple[str, str]:
        """The SQL expression and type of the column ``name``."""
        if name not in self.columns:
            what = "more than one" if name in self.names else "no"
            raise UserError(f"{self.path}: {what} column '{name}'{nearest(name, self.columns)}; it has "
                            f"{', '.join(self.names[:12])}")  # fmt: skip
        return self.columns[name]

    def row_place(self, connection: Any, row: int, what: str = "row") -> str:
        """``day2.csv: row 1,234`` of the row of ``raw`` with the rowid ``row``."""
        file, *later = self.files
        while later and row >= (rows := fetch_row(connection, f"SELECT count(*) FROM {file.relation}")[0]):
            row, (file, *later) = row - rows, later
        return f"{file.path}: {what} {row + 1:,}"


@contextmanager
def reading(table: Table, advice: str = "mend it, or see --quote and --delimiter") -> Iterator[None]:
    """Turn what DuckDB says about raw files, which may fill a screen, into one line, which ends with ``advice``."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if type(error) not in DAMAGE or "No space left" in message:
            raise
        # Between the place and the reason stands the line; behind it what DuckDB's own options could do.
        about = [line for line in message.partition("Possible")[0].splitlines() if line.strip()]
        reason = " ".join(about[:1] + about[1:][-1:]).split("Error: ", 1)[-1]
        path = next((file.path for file in table.files if str(file.place.resolve()) in message), table.path)
        raise UserError(f"{path}: cannot be read ({reason}); {advice}") from None


def find_files(raw: Sequence[str]) -> list[Place]:
    """The files that ``--raw`` means, each once, in the order given; ``raw`` are files, folders (also of folders),
    patterns, addresses of any of these in a store, or ``-`` for standard input."""
    return list({path if isinstance(path, str) else os.path.realpath(path): path
                 for name in raw for path in _meant(name)}.values())  # fmt: skip


def file_state(file: Place) -> tuple[int, str]:
    """The bytes of a file, and what changes when it does."""
    if isinstance(file, str):
        ((_, size, version),) = find_objects(file)
        return size, version
    with unpacking(file):
        state = file.stat()
    return state.st_size, str(state.st_mtime_ns)


def _meant(name: str) -> list[Place]:
    """The files that one word of ``--raw`` means, without those of its folders that are empty (Spark writes such
    parts)."""
    if is_address(name):
        filled: list[Place] = [address for address, size, _ in find_objects(name) if size]
    else:
        path = Path(STREAM if name == "-" else name)
        if not path.is_dir() and (os.path.lexists(name) or not glob.has_magic(name)):
            return [path]
        matches = [path] if path.is_dir() else [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        # What starts with a dot or _ are the notes of other programs, such as _SUCCESS or .x.parquet.crc.
        there = [match for match in matches if match.is_file()] or [
            file for folder in matches for file in sorted(folder.rglob("*"))
            if file.is_file() and all(part[0] not in "._" for part in file.relative_to(folder).parts)
        ]  # fmt: skip
        filled = [file for file in there if file.stat().st_size]
    if not filled:
        raise UserError(f"{name}: no raw files here, such as .parquet or .csv, with anything in them; check --raw")
    return [file for file in filled if str(file).lower().endswith(KNOWN)] or filled


@contextmanager
def unpacking(path: Place) -> Iterator[None]:
    """Say in one line that a file cannot be read or unpacked."""
    try:
        yield
    except UNREADABLE as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"{path}: cannot be read or unpacked ({reason}); check --raw and the space beside --out, or "
                        "fetch the file again") from None  # fmt: skip


def _unpacked(path: Place, scratch: Path) -> tuple[Path, bytes]:
    """Where the bytes of a file lie, there, or in a copy in ``scratch`` (of a store, a pipe, or a zip's file); and the
    first."""

    def copied(stream: Any = None) -> Path:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="raw_", dir=scratch, delete=False) as copy:
            if stream is not None:
                shutil.copyfileobj(stream, copy, 1 << 20)
        return Path(copy.name)

    with unpacking(path):
        if isinstance(path, str):
            copy_object(path, place := copied())
        elif path.is_fifo():
            with open(os.dup(0) if path == STREAM else path, "rb") as stream:
                place = copied(stream)
        else:
            place = path
        if zipfile.is_zipfile(place):
            with zipfile.ZipFile(place) as archive:
                names = [name for name in archive.namelist() if not re.search(r"(^|/)(\.|__MACOSX/)|/$", name)]
                if len(names) != 1:
                    raise UserError(f"{path}: a zip of {len(names):,} files, expected one; unpack it and give --raw "
                                    "the folder")  # fmt: skip
                with archive.open(names[0]) as member:
                    place = copied(member)
        with open(place, "rb") as stream:
            return place, stream.read(4)


def check_columns(path: Place, columns: Mapping[str, Any], first: Place, expected: Mapping[str, Any]) -> None:
    """Refuse a file whose columns are not those of the first one that it is read with."""
    if differing := [*(columns.items() ^ expected.items())]:
        raise UserError(f"{path}: column {shown(differing[0][0])} is not in {first}, or of another type or in another "
                        "place there; files read together need the same columns")  # fmt: skip


def open_tables(connection: Any, paths: Sequence[Place], **options: Any) -> Table:
    """Open several files, all with the same columns in the same order, as one table; options as of ``open_table``."""
    first, *others = tables = [open_table(connection, path, **options) for path in paths]
    for other in others:
        check_columns(other.path, other.columns, first.path, first.columns)
    if not others:
        return first
    if len({table.reader for table in tables}) == 1:  # read at once
        relation = first.reader.replace("FILES", f"[{', '.join(literal(table.place) for table in tables)}]", 1)
    else:  # some are packed
        relation = f"({' UNION ALL '.join(f'FROM {table.relation}' for table in tables)})"
    return replace(first, relation=relation, parts=tuple(tables))


def open_table(
    connection: Any, path: Place, delimiter: str = ",", columns: Sequence[str] | None = None, quote: str | None = None,
    encoding: str = "utf-8",
) -> Table:  # fmt: skip
    """Look at a raw file and say how to read it.

    Args:
        path: CSV, CSV in gzip, zstd or zip, or Parquet; the content decides, not the name.
        columns: their names, for a CSV file without a header line.
        quote: ``none``, or ``"`` where fields in quotes may hold line ends; by default they may not.
    """
    (scratch,) = fetch_row(connection, "SELECT current_setting('temp_directory')")
    place, start = _unpacked(path, Path(scratch))
    if start == PARQUET:
        return _open_parquet(connection, path, place)
    packed = next((name for magic, name in PACKED.items() if start.startswith(magic)), "none")
    if packed == "zstd":  # of one that is cut short DuckDB reads what there is
        with unpacking(path), pa.input_stream(str(place), compression=packed) as stream:
            while stream.read(1 << 20):
                pass
    settings = (f"auto_detect = false, compression = '{packed}', encoding = '{encoding}', "
                f"max_line_size = {LONGEST_LINE}, buffer_size = {LONGEST_LINE}")  # fmt: skip
    lines = (f"read_csv({literal(place)}, {settings}, header = false, delim = {quoted(NO_DELIMITER)}, quote = '', "
             f"escape = '', columns = {{'line': '{TEXT}'}}, strict_mode = false)")  # fmt: skip
    table = Table(path, place, "", "", {}, tuple(columns or ()), lines, columns is None, quote is not None)
    mark, names, skip = "" if quote == NO_QUOTE else '"', table.names, 0
    if columns is None:
        with reading(table):
            first = [line for (line,) in connection.execute(f"SELECT line FROM {lines} LIMIT {MOST_BLANK}").fetchall()]
        skip = next((n for n, line in enumerate(first) if line), 0)
        try:
            names = tuple(next(csv.reader(first[skip : skip + 1], delimiter=delimiter,
                                          quoting=csv.QUOTE_MINIMAL if mark else csv.QUOTE_NONE)))  # fmt: skip
        except (StopIteration, csv.Error) as error:
            raise UserError(f"{path}: no line of column names ({error}); expected CSV in UTF-8, also in gzip, "
                            "zstd or zip, or Parquet") from None  # fmt: skip
    schema = ", ".join(f"'c{i}': '{TEXT}'" for i in range(len(names)))  # names of ours, whatever the header holds
    reader = (f"read_csv(FILES, {settings}, header = {columns is None}, skip = {skip}, delim = {quoted(delimiter)}, "
              f"quote = {quoted(mark)}, escape = {quoted(mark)}, columns = {{{schema}}})")  # fmt: skip
    known = {name: (f"c{i}", TEXT) for i, name in enumerate(names) if names.count(name) == 1}
    relation = reader.replace("FILES", literal(place), 1)
    return replace(table, reader=reader, relation=relation, columns=known, names=names)


def _open_parquet(connection: Any, path: Place, place: Path) -> Table:
    table = Table(path, place, "read_parquet(FILES)", f"read_parquet({literal(place)})", {}, ())
    with reading(table), unpacking(path):
        rows = connection.execute(f"DESCRIBE SELECT * FROM {table.relation}").fetchall()
        names = pq.read_schema(place).names  # DuckDB renames columns that differ from others in their case only
    columns = {name: (identifier(row[0]), row[1]) for name, row in zip(names, rows, strict=True)
               if names.count(name) == 1}  # fmt: skip
    return replace(table, columns=columns, names=tuple(names))


@dataclass(frozen=True)
class Field:
    """One column of the table ``raw``, read from one column of a file."""

    name: str  # in raw
    column: str  # in the file
    parse: Callable[[str], str]  # from the column's SQL expression to one that is NULL where a value cannot be used
    expected: str  # what a value must be, for the error message


def load(
    connection: Any, table: Table, fields: Sequence[Field], drop_invalid: bool | None = None
) -> tuple[dict[str, int], int, list[str]]:
    """Read ``fields`` of ``table`` into the new DuckDB table ``raw``; what ``read_raw`` and ``check_values`` return."""
    return read_raw(connection, table, fields), *check_values(connection, table, fields, drop_invalid)


def read_raw(connection: Any, table: Table, fields: Sequence[Field]) -> dict[str, int]:
    """Read ``fields`` of ``table`` into the new DuckDB table ``raw``; returns what was read, for the manifest."""
    selected = ", ".join(f"{field.parse(table.column(field.column)[0])} AS {field.name}" for field in fields)
    with reading(table):
        connection.execute(f"CREATE TABLE raw AS SELECT {selected} FROM {table.relation}")
        (rows,) = fetch_row(connection, "SELECT count(*) FROM raw")
        if rows == 0:
            raise UserError(f"{table.called}: no events; expected one click event a line after the header")
        # Lines are counted apart from how their fields are parsed: those of no row are in quoted fields.
        counts = [(file, *fetch_row(connection, f"SELECT count(line), count(*) - count(line) FROM {file.lines}"))
                  for file in table.files if file.lines]  # fmt: skip
        texts, blank, lost = [(file, full - file.header) for file, full, _ in counts], sum(one[2] for one in counts), 0
        if len(texts) < len(table.files) or rows < sum(full for _, full in texts):
            lost = sum(_lost_lines(connection, file, full) for file, full in texts)
    more = {"blank_lines": blank, "lines_in_quotes": lost}
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
    sql = f"SELECT {table.columns[field.column][0]} FROM {table.relation} LIMIT 1 OFFSET {row}"
    (value,) = fetch_row(connection, sql)
    text = "nothing" if value is None else shown(str(value))
    return f"{table.row_place(connection, row)}, column '{field.column}': found {text}, expected {field.expected}"


def read_line(read: dict[str, int]) -> str:
    """``read 12 rows (files 2, blank lines 1)`` for the reader of the terminal."""
    more = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in read.items() if name != "rows")
    return f"read {read['rows']:,} rows ({more})"
