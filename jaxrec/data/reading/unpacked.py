"""The files that ``--raw`` means: found by name, folder or pattern, and copied where DuckDB cannot read them as they
are: the one file in a zip, and what comes through standard input or another pipe.
"""

from __future__ import annotations

import errno
import glob
import gzip
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxrec.errors import UserError

STREAM = Path("standard input")  # what messages call it
STREAM_NAMES = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
KNOWN = (".parquet", ".csv", ".tsv", ".txt", ".dat", ".gz", ".zip", ".zst")
PARQUET = b"PAR1"
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
UNREADABLE = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, pa.ArrowException)


def find_files(raw: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that ``--raw`` means, in the order given; those of a folder or a pattern in the order of their names.

    Args:
        raw: files, folders (also of folders), patterns, or ``-`` for standard input, which becomes STREAM.

    Returns:
        The files, and notes about those that were left out.
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
    """The files that one word of ``--raw`` means."""
    path = Path(name)
    if name in STREAM_NAMES:
        return [STREAM]
    if path.is_dir():
        return _inside(path, notes)
    if os.path.lexists(name) or not glob.has_magic(name):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
    files = [match for match in matches if match.is_file()]
    return _filled(name, files, files, notes) if files else [
        file for folder in matches if folder.is_dir() for file in _inside(folder, notes)
    ] or _filled(name, [], [], notes)  # fmt: skip


def _inside(folder: Path, notes: list[str]) -> list[Path]:
    """The files of a folder and of the folders in it: those with a name as raw files have it, or else all of them."""
    # What starts with a dot or _ are the notes of other programs, such as _SUCCESS or .x.parquet.crc.
    visible = [path for path in sorted(folder.rglob("*"))
               if path.is_file() and all(part[0] not in "._" for part in path.relative_to(folder).parts)]  # fmt: skip
    named = [path for path in visible if path.name.lower().endswith(KNOWN)]
    return _filled(str(folder), named or visible, visible, notes)


def _filled(place: str, files: Sequence[Path], there: Sequence[Path], notes: list[str]) -> list[Path]:
    """The files that hold something (Spark writes empty parts; empty Parquet is damaged instead); notes the others."""
    filled = [path for path in files if path.stat().st_size or path.suffix.lower() == ".parquet"]
    if not filled:
        raise UserError(f"{place}: no raw files here, such as .parquet or .csv, with anything in them; check --raw")
    if left := [path.name for path in there if path not in set(filled)]:
        more = f" and {len(left) - 3:,} more" if len(left) > 3 else ""
        notes.append(f"{place}: left out what is empty or no raw file: {', '.join(left[:3])}{more}")
    return filled


# ---- what is in a file -----------------------------------------------------------------------------------------------


def unpacked(path: Path, scratch: Path) -> Path:
    """Where the bytes of a file lie: there, or in a copy in the directory ``scratch`` (of a pipe, of a zip)."""
    with unpacking(path, "file"):
        place = path
        if path is STREAM or stat.S_ISFIFO(path.stat().st_mode):
            if path is STREAM and os.isatty(0):
                raise UserError("standard input: a terminal; send a file into it, such as with: cat clicks.csv | ...")
            with open(0 if path is STREAM else path, "rb", closefd=path is not STREAM) as stream:
                place = _copy(stream, scratch)
        elif not path.is_file():
            raise UserError(f"{path}: not a file; check --raw")
        with open(place, "rb") as stream:
            zipped = MAGIC.get(stream.read(4)) == "zip"
    if not zipped:
        return place
    try:
        with unpacking(path, "zip"), zipfile.ZipFile(place) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")
                     and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]  # fmt: skip
            if len(names) != 1:
                raise UserError(f"{path}: a zip of {len(names):,} files, expected one; unpack it and give --raw the "
                                "folder")  # fmt: skip
            with archive.open(names[0]) as stream:
                return _copy(stream, scratch)
    except (NotImplementedError, RuntimeError, ValueError) as error:  # encrypted, or packed in a rare way
        raise UserError(f"{path}: cannot be unpacked ({error}); unpack it and give --raw the file") from None


def _copy(stream: Any, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    number, place = tempfile.mkstemp(prefix="raw_", dir=scratch)
    with open(number, "wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
    return Path(place)


def compression(head: bytes, path: Path) -> str:
    """How a file that begins with ``head`` is packed, as DuckDB calls it: gzip, zstd or none."""
    for start, name in UNREADABLE.items():
        if head.startswith(start):
            raise UserError(f"{path}: packed with {name}, which is not read; unpack it, or pack it with gzip or zstd")
    packed = next((name for start, name in MAGIC.items() if head.startswith(start)), "none")
    if packed == "zip":
        raise UserError(f"{path}: a zip in a zip; unpack it and give --raw the file")
    return packed


def open_bytes(place: Path, packed: str) -> Any:
    """A stream of a file's bytes as they are before they were packed."""
    if packed == "gzip":
        return gzip.open(place, "rb")
    if packed == "zstd":
        return pa.input_stream(str(place), compression="zstd")
    return open(place, "rb")


@contextmanager
def unpacking(path: Path, packed: str) -> Iterator[None]:
    """Say in one line that a file cannot be read or unpacked."""
    try:
        yield
    except (*DAMAGE, OSError) as error:
        number = getattr(error, "errno", None)
        if number == errno.ENOSPC:
            raise UserError(f"{path}: no disk space left to unpack it; free some or choose another --out") from None
        if number is None:
            raise UserError(f"{path}: truncated or damaged {packed}; fetch the file again") from None
        raise UserError(f"{path}: cannot be read ({os.strerror(number)}); check --raw") from None
