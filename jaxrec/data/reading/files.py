"""The files that ``--raw`` means: CSV (plain, in gzip, zstd or zip) and Parquet, told apart by their content."""

from __future__ import annotations

import csv
import errno
import glob
import gzip
import os
import re
import shutil
import stat
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

from jaxrec.data.reading.duck import TEXT, fetch_row, identifier, quoted
from jaxrec.data.reading.table import Lines, Table, merged, reading
from jaxrec.errors import UserError, shown

STREAM = Path("standard input")  # what messages call it
STREAM_NAMES = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
KNOWN = (".parquet", ".csv", ".tsv", ".txt", ".dat", ".gz", ".zip", ".zst")
PARQUET = b"PAR1"
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
UNREADABLE = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"PK\x03\x04": "zip"}
DAMAGE = (EOFError, RuntimeError, ValueError, OSError, zlib.error, zipfile.BadZipFile, pa.ArrowException)
BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 20  # bytes
HEAD_BYTES = 1 << 16  # how much of a file is looked at to tell what it is; a header longer than this is no header
NO_QUOTE = "none"
LONG_LINE = 2_000_000  # bytes, with the end: DuckDB has to be told of longer ones
LONGEST_LINE = 100_000_000


def find_files(raw: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that ``--raw`` means, in the order given, and notes about those that were left out.

    Args:
        raw: files, folders (also of folders), patterns, or ``-`` for standard input, which becomes STREAM.
    """
    notes: list[str] = []
    seen: dict[str, Path] = {}
    for path in [path for name in raw for path in _meant(name, notes)]:
        real = str(path) if path is STREAM else os.path.realpath(path)
        if real in seen:
            raise UserError(f"{path}: named twice in --raw, also as {seen[real]}; a file is read once, leave one out")
        seen[real] = path
    return list(seen.values()), notes


def _meant(name: str, notes: list[str]) -> list[Path]:
    """The files that one word of ``--raw`` means; what is empty (Spark writes such parts) is left out and noted."""
    path = Path(name)
    if name in STREAM_NAMES:
        return [STREAM]
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


# ---- what is in a file -----------------------------------------------------------------------------------------------


@contextmanager
def unpacking(path: Path, packed: str) -> Iterator[None]:
    """Say in one line that a file cannot be read or unpacked."""
    try:
        yield
    except DAMAGE as error:
        number = getattr(error, "errno", None)
        if number == errno.ENOSPC:
            raise UserError(f"{path}: no disk space left to unpack it; free some or choose another --out") from None
        if number is None:
            raise UserError(f"{path}: truncated or damaged {packed}, or one that cannot be unpacked here "
                            f"({error}); fetch the file again, or unpack it") from None  # fmt: skip
        raise UserError(f"{path}: cannot be read ({os.strerror(number)}); check --raw") from None


def _unpacked(path: Path, scratch: Path) -> Path:
    """Where the bytes of a file lie: there, or in a copy in the directory ``scratch`` (of a pipe, of a zip)."""
    with unpacking(path, "file"):
        place = path
        if path is STREAM or stat.S_ISFIFO(path.stat().st_mode):
            with open(0 if path is STREAM else path, "rb", closefd=path is not STREAM) as stream:
                place = _copy(stream, scratch)
        elif not path.is_file():
            raise UserError(f"{path}: not a file; check --raw")
        with open(place, "rb") as stream:
            if MAGIC.get(stream.read(4)) != "zip":
                return place
    with unpacking(path, "zip"), zipfile.ZipFile(place) as archive:
        names = [name for name in archive.namelist()
                 if not name.endswith("/") and not any(part[0] == "." or part == "__MACOSX" for part in name.split("/"))
                 ]  # fmt: skip
        if len(names) != 1:
            raise UserError(f"{path}: a zip of {len(names):,} files, expected one; unpack it and give --raw the folder")
        with archive.open(names[0]) as stream:
            return _copy(stream, scratch)


def _copy(stream: Any, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    number, place = tempfile.mkstemp(prefix="raw_", dir=scratch)
    with open(number, "wb") as copy:
        shutil.copyfileobj(stream, copy, CHUNK)
    return Path(place)


def _open_bytes(place: Path, packed: str) -> Any:
    """A stream of a file's bytes as they are before they were packed."""
    if packed == "gzip":
        return gzip.open(place, "rb")
    return pa.input_stream(str(place), compression="zstd") if packed == "zstd" else open(place, "rb")


def _head(path: Path, place: Path) -> tuple[bytes, str]:
    """The first bytes of a file, unpacked, and how it is packed; refuses what is neither text nor Parquet."""
    with unpacking(path, "file"), open(place, "rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(PARQUET):
        return head, "none"
    if other := next((name for start, name in UNREADABLE.items() if head.startswith(start)), None):
        raise UserError(f"{path}: packed with {other}, which is not read here; unpack it, or pack it with gzip or zstd")
    packed = next((name for start, name in MAGIC.items() if head.startswith(start)), "none")
    with unpacking(path, packed), _open_bytes(place, packed) as stream:
        head = stream.read(HEAD_BYTES)
    if not head.removeprefix(BOM).strip():
        raise UserError(f"{path}: empty; expected one click event a line")
    if head.startswith((PARQUET, b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise UserError(f"{path}: binary, packed Parquet, or UTF-16; expected UTF-8 CSV text, also in gzip, zstd or "
                        "zip, or Parquet")  # fmt: skip
    return head, packed


def count_lines(stream: Any) -> Lines:
    """Count all lines, apart from how their fields are parsed; CRLF and CR end one too, and the last need not end."""
    total = blank = longest = rest = 0  # rest: bytes of the line that the last piece left open
    held, chunk = b"", b" "  # held: a CR at the end of a chunk, which may be half of a CRLF
    while chunk:
        chunk = stream.read(CHUNK)
        data = held + chunk
        held = b"\r" if chunk and data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        places = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        lengths = np.diff(places, prepend=-1 - rest)
        total += len(lengths)
        blank += int(np.count_nonzero(lengths == 1))
        rest = len(data) - 1 - int(places[-1]) if len(places) else rest + len(data)
        longest = max(longest, int(lengths.max(initial=0)), rest)
    return Lines(total - blank + bool(rest), blank, longest)


# ---- opening ---------------------------------------------------------------------------------------------------------


def open_tables(connection: Any, paths: Sequence[Path], **options: Any) -> Table:
    """Open several files as one table; options as of ``open_table``."""
    return merged([open_table(connection, path, **options) for path in paths])


def open_table(
    connection: Any, path: Path, delimiter: str = ",", columns: Sequence[str] | None = None, quote: str | None = None
) -> Table:
    """Look at a raw file and say how to read it.

    Args:
        path: CSV, CSV in gzip, zstd or zip, or Parquet; the content decides, not the name.
        delimiter: between the fields of a CSV file.
        columns: their names, for a CSV file without a header line.
        quote: around fields of a CSV file, or ``none``; by default ``"``, and no line end in such a field.
    """
    if quote == delimiter:
        raise UserError(f"--quote {shown(quote)}: the same as --delimiter; give two different characters")
    (scratch,) = fetch_row(connection, "SELECT current_setting('temp_directory')")
    place = _unpacked(path, Path(scratch))
    head, packed = _head(path, place)
    if head.startswith(PARQUET):
        return _open_parquet(connection, path, place)
    mark = "" if quote == NO_QUOTE else quote or '"'
    text = head.removeprefix(BOM)
    try:  # the first line that is not blank
        line = text.lstrip(b"\r\n").splitlines()[0].decode("utf-8")
        first = next(csv.reader([line], delimiter=delimiter, quotechar=mark)) if mark else line.split(delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: line 1 cannot be read as column names in UTF-8 ({error}); mend it, or convert the "
                        "file with iconv") from None  # fmt: skip
    names = list(columns or first)
    with unpacking(path, packed), _open_bytes(place, packed) as stream:
        lines = count_lines(stream)
    if lines.longest > LONGEST_LINE:
        raise UserError(f"{path}: a line of {lines.longest / 1e6:,.0f} MB, at most {LONGEST_LINE / 1e6:.0f} are read; "
                        "check what separates its lines")  # fmt: skip
    schema = ", ".join(f"'c{i}': '{TEXT}'" for i in range(len(names)))  # names of ours, whatever the header holds
    settings = (
        f", auto_detect = false, header = {columns is None}, delim = {quoted(delimiter)}, "
        f"quote = {quoted(mark)}, escape = {quoted(mark)}, compression = '{packed}', columns = {{{schema}}}"
    )
    blank = re.findall(rb"\r\n|\r|\n", text[: len(text) - len(text.lstrip(b"\r\n"))])
    settings += f", skip = {len(blank)}" if blank and columns is None else ""
    settings += f", max_line_size = {lines.longest + 1}" if lines.longest > LONG_LINE else ""
    known = {name: (f"c{i}", TEXT) for i, name in enumerate(names) if names.count(name) == 1}
    return Table(path, place, "read_csv", settings, known, tuple(names), columns is None, quote is not None, lines)


def _open_parquet(connection: Any, path: Path, place: Path) -> Table:
    table = Table(path, place, "read_parquet", "", {}, ())
    with reading(table), unpacking(path, "Parquet"):
        rows = connection.execute(f"DESCRIBE SELECT * FROM {table.relation}").fetchall()
        names = pq.read_schema(place).names  # DuckDB renames columns that differ from others in their case only
    columns = {name: (identifier(row[0]), row[1]) for name, row in zip(names, rows, strict=True)
               if names.count(name) == 1}  # fmt: skip
    return replace(table, columns=columns, names=tuple(names))
