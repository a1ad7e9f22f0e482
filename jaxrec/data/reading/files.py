"""The files that ``--raw`` means: CSV (plain, in gzip, zstd or zip) and Parquet, told apart by their content."""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.reading.duck import TEXT, fetch_row, identifier, literal, quoted
from jaxrec.data.reading.table import Lines, Table, merged, reading
from jaxrec.errors import UserError, shown

STREAM = Path("/dev/stdin")
KNOWN = (".parquet", ".csv", ".tsv", ".txt", ".dat", ".gz", ".zip", ".zst")
PARQUET = b"PAR1"
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
DAMAGE = (EOFError, RuntimeError, ValueError, OSError, zlib.error, zipfile.BadZipFile, pa.ArrowException)
BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 20  # bytes
HEAD_BYTES = 1 << 16  # how much of a file is looked at to tell what it is; a header longer than this is no header
NO_QUOTE = "none"
LONG_LINE, LONGEST_LINE = 2_000_000, 100_000_000  # bytes, with the end: what DuckDB reads unasked, and what at most


def find_files(raw: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that ``--raw`` means, in the order given, and notes about those that were left out.

    ``raw`` are files, folders (also of folders), patterns, or ``-`` for standard input.
    """
    notes: list[str] = []
    seen: dict[str, Path] = {}
    for path in [path for name in raw for path in _meant(name, notes)]:
        if (first := seen.setdefault(os.path.realpath(path), path)) is not path:
            raise UserError(f"{path}: named twice in --raw, also as {first}; a file is read once, leave one out")
    return list(seen.values()), notes


def _meant(name: str, notes: list[str]) -> list[Path]:
    """The files that one word of ``--raw`` means; what is empty (Spark writes such parts) is left out and noted."""
    path = Path(STREAM if name == "-" else name)
    if not path.is_dir() and (os.path.lexists(name) or not glob.has_magic(name)):
        return [path]
    matches = [path] if path.is_dir() else [Path(match) for match in sorted(glob.glob(name, recursive=True))]
    files = there = [match for match in matches if match.is_file()]
    if not files:
        # What starts with a dot or _ are the notes of other programs, such as _SUCCESS or .x.parquet.crc.
        there = [file for folder in matches for file in sorted(folder.rglob("*"))
                 if file.is_file() and all(part[0] not in "._" for part in file.relative_to(folder).parts)]  # fmt: skip
        files = [file for file in there if file.name.lower().endswith(KNOWN)] or there
    filled = [file for file in files if file.stat().st_size or file.suffix.lower() == ".parquet"]
    if not filled:
        raise UserError(f"{name}: no raw files here, such as .parquet or .csv, with anything in them; check --raw")
    if left := [file.name for file in there if file not in set(filled)]:
        notes.append(f"{name}: left out what is empty or no raw file, {len(left):,} such as {left[0]}")
    return filled


@contextmanager
def unpacking(path: Path, packed: str) -> Iterator[None]:
    """Say in one line that a file cannot be read or unpacked."""
    try:
        yield
    except DAMAGE as error:
        number = getattr(error, "errno", None)
        if number is not None:
            raise UserError(f"{path}: cannot be read or unpacked ({os.strerror(number)}); check --raw, and the space "
                            "beside --out") from None  # fmt: skip
        raise UserError(f"{path}: truncated or damaged {packed}, or one that cannot be unpacked here ({error}); fetch "
                        "the file again, or unpack it") from None  # fmt: skip


def _unpacked(path: Path, scratch: Path) -> tuple[Path, bytes, str]:
    """Where the bytes of a file lie: there, or in a copy in the directory ``scratch`` (of a pipe, of a zip); the first
    of them, unpacked; and how they are packed. Refuses what is neither text nor Parquet."""

    def copied(stream: Any) -> Path:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="raw_", dir=scratch, delete=False) as copy:
            shutil.copyfileobj(stream, copy, CHUNK)
        return Path(copy.name)

    def head(place: Path, packed: str = "none") -> bytes:
        with _open_bytes(place, packed) as stream:
            return bytes(stream.read(HEAD_BYTES))

    with unpacking(path, "gzip, zstd or zip"):
        place = path
        if path.is_fifo():
            with open(os.dup(0) if path == STREAM else path, "rb") as stream:
                place = copied(stream)
        elif path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file; check --raw")
        if (start := head(place)).startswith((b"PK\x03\x04", b"PK\x05\x06")):
            with zipfile.ZipFile(place) as archive:
                names = [name for name in archive.namelist() if not re.search(r"(^|/)(\.|__MACOSX/)|/$", name)]
                if len(names) != 1:
                    raise UserError(f"{path}: a zip of {len(names):,} files, expected one; unpack it and give --raw "
                                    "the folder")  # fmt: skip
                with archive.open(names[0]) as member:
                    place = copied(member)
            start = head(place)
        packed = next((name for magic, name in PACKED.items() if start.startswith(magic)), "none")
        if start.startswith(PARQUET):
            return place, start, packed
        start = head(place, packed)
    if not start.removeprefix(BOM).strip():
        raise UserError(f"{path}: empty; expected one click event a line")
    if start.startswith((PARQUET, b"\xff\xfe", b"\xfe\xff", b"BZh")) or b"\0" in start:
        raise UserError(f"{path}: binary, packed otherwise, or UTF-16; expected UTF-8 CSV text, also in gzip, zstd or "
                        "zip, or Parquet")  # fmt: skip
    return place, start, packed


def _open_bytes(place: Path, packed: str) -> Any:
    """A stream of a file's bytes as they are before they were packed."""
    return pa.input_stream(str(place), compression=None if packed == "none" else packed)


def count_lines(stream: Any) -> Lines:
    """Count all lines, apart from how their fields are parsed; CRLF and CR end one too, and the last need not end."""
    total = blank = longest = rest = 0  # rest: bytes of the line that the last piece left open
    newlines, chunk = io.IncrementalNewlineDecoder(None, translate=True), b" "
    while chunk:
        chunk = stream.read(CHUNK)
        text = newlines.decode(chunk.decode("latin-1"), final=not chunk)
        data = np.frombuffer(text.encode("latin-1"), np.uint8)
        places = np.flatnonzero(data == ord("\n"))
        lengths = np.diff(places, prepend=-1 - rest)
        total += len(lengths)
        blank += int(np.count_nonzero(lengths == 1))
        rest = len(data) - 1 - int(places[-1]) if len(places) else rest + len(data)
        longest = max(longest, int(lengths.max(initial=0)), rest)
    return Lines(total - blank + bool(rest), blank, longest)


def open_tables(connection: Any, paths: Sequence[Path], **options: Any) -> Table:
    """Open several files as one table; options as of ``open_table``."""
    return merged([open_table(connection, path, **options) for path in paths])


def open_table(
    connection: Any, path: Path, delimiter: str = ",", columns: Sequence[str] | None = None, quote: str | None = None
) -> Table:
    """Look at a raw file and say how to read it.

    Args:
        path: CSV, CSV in gzip, zstd or zip, or Parquet; the content decides, not the name.
        columns: their names, for a CSV file without a header line.
        quote: around fields of a CSV file, or ``none``; by default ``"``, and no line end in such a field.
    """
    if quote == delimiter:
        raise UserError(f"--quote {shown(quote)}: the same as --delimiter; give two different characters")
    (scratch,) = fetch_row(connection, "SELECT current_setting('temp_directory')")
    place, head, packed = _unpacked(path, Path(scratch))
    if head.startswith(PARQUET):
        return _open_parquet(connection, path, place)
    mark = "" if quote == NO_QUOTE else quote or '"'
    text = head.removeprefix(BOM)
    lines_begin = text.lstrip(b"\r\n")
    try:  # the first line that is not blank
        line = lines_begin.splitlines()[0].decode("utf-8")
        first = next(csv.reader([line], delimiter=delimiter, quotechar=mark)) if mark else line.split(delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: line 1 cannot be read as column names in UTF-8 ({error}); mend it, or convert the "
                        "file with iconv") from None  # fmt: skip
    names = list(columns or first)
    with unpacking(path, packed), _open_bytes(place, packed) as stream:
        lines = count_lines(stream)
    schema = ", ".join(f"'c{i}': '{TEXT}'" for i in range(len(names)))  # names of ours, whatever the header holds
    reader = (
        f"read_csv(FILES, auto_detect = false, header = {columns is None}, delim = {quoted(delimiter)}, "
        f"quote = {quoted(mark)}, escape = {quoted(mark)}, compression = '{packed}', columns = {{{schema}}}"
    )
    blank = re.findall(rb"\r\n|\r|\n", text[: len(text) - len(lines_begin)])
    reader += f", skip = {len(blank)}" if blank and columns is None else ""
    reader += f", max_line_size = {min(lines.longest + 1, LONGEST_LINE)}" if lines.longest > LONG_LINE else ""
    known = {name: (f"c{i}", TEXT) for i, name in enumerate(names) if names.count(name) == 1}
    lines = lines._replace(full=lines.full - (columns is None))
    relation = f"{reader.replace('FILES', literal(place), 1)})"
    return Table(path, place, f"{reader})", relation, known, tuple(names), quote is not None, lines)


def _open_parquet(connection: Any, path: Path, place: Path) -> Table:
    table = Table(path, place, "read_parquet(FILES)", f"read_parquet({literal(place)})", {}, ())
    with reading(table), unpacking(path, "Parquet"):
        rows = connection.execute(f"DESCRIBE SELECT * FROM {table.relation}").fetchall()
        names = pq.read_schema(place).names  # DuckDB renames columns that differ from others in their case only
    columns = {name: (identifier(row[0]), row[1]) for name, row in zip(names, rows, strict=True)
               if names.count(name) == 1}  # fmt: skip
    return replace(table, columns=columns, names=tuple(names))
