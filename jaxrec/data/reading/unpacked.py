"""The files that ``--raw`` means: found by name, folder or pattern, and unpacked where DuckDB cannot read them as they
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
KNOWN = (".parquet", ".csv", ".tsv", ".txt", ".dat")
PACKED = (".gz", ".zip", ".zst")
PARQUET = b"PAR1"
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
UNREADABLE = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}  # packed so, and not read
CHUNK = 1 << 20  # bytes


def find_files(raw: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that ``--raw`` means, in the order given; those of a folder or a pattern in the order of their names.

    Args:
        raw: files, folders (also of folders), patterns, or ``-`` for standard input, which becomes STREAM.

    Returns:
        The files, and notes about those of folders that were left out.
    """
    found: list[Path] = []
    notes: list[str] = []
    for name in raw:
        path = Path(name)
        if name in STREAM_NAMES:
            found.append(STREAM)
        elif path.is_dir():
            found += _inside(path, notes)
        elif not os.path.lexists(name) and glob.has_magic(name):
            found += _matching(name, notes)
        else:
            found.append(path)
    seen: dict[str, Path] = {}
    for path in found:
        real = str(path) if path is STREAM else os.path.realpath(path)
        if real in seen:
            also = "" if seen[real] == path else f" (also as {seen[real]})"
            raise UserError(f"{path}: named twice in --raw{also}; a file is read once, leave one out")
        seen[real] = path
    return found, notes


def _inside(folder: Path, notes: list[str]) -> list[Path]:
    """The files of a folder and of the folders in it: those with a name as raw files have it, or else all of them."""
    # What starts with a dot or _ are the notes of other programs, such as _SUCCESS or .x.parquet.crc.
    visible = [path for path in sorted(folder.rglob("*"))
               if path.is_file() and path.suffix != ".crc"
               and all(part[0] not in "._" for part in path.relative_to(folder).parts)]  # fmt: skip
    known = [path for path in visible if _is_known(path)] or visible
    files = [path for path in known if not _is_empty(path)]
    if not files:
        raise UserError(f"{folder}: no raw files in this folder, such as .parquet or .csv; check --raw")
    left = [path for path in visible if path not in set(files)]
    if left:
        notes.append(f"{folder}: left out what is empty or no raw file: {_some(left)}")
    return files


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3:,} more" if len(paths) > 3 else "")


def _is_known(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith((*KNOWN, *PACKED))


def _is_empty(path: Path) -> bool:
    """An empty part, as Spark writes some; Parquet without a byte is damaged instead."""
    return not path.stat().st_size and path.suffix.lower() != ".parquet"


def _matching(pattern: str, notes: list[str]) -> list[Path]:
    """The files that a pattern matches, or those of the folders where it matches nothing else."""
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in matches if path.is_file()]
    files = files or [path for folder in matches if folder.is_dir() for path in _inside(folder, notes)]
    if not files:
        raise UserError(f"{pattern}: no file matches this pattern; check --raw")
    empty = [path for path in files if _is_empty(path)]
    if empty and len(empty) < len(files):
        notes.append(f"{pattern}: left out what is empty: {_some(empty)}")
        files = [path for path in files if path not in set(empty)]
    return files


# ---- what is in a file -----------------------------------------------------------------------------------------------


def unpacked(path: Path, scratch: Path) -> Path:
    """Where the bytes of a file lie: there, or in a copy in the directory ``scratch`` (of a pipe, of a zip)."""
    with _copying(path):
        if path is STREAM or (path.exists() and stat.S_ISFIFO(path.stat().st_mode)):
            path, name = _copy_stream(path, scratch), path
        else:
            name = path
            _check_file(path)
        with open(path, "rb") as stream:
            head = stream.read(4)
        if MAGIC.get(head) == "zip":
            return _copy_member(path, name, scratch)
        return path


def _check_file(path: Path) -> None:
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file; check --raw")
    if path.is_dir():
        raise UserError(f"{path}: not a file but a folder; name the files in it")
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: a link to nothing, or to itself; check --raw")
    if not path.is_file():
        raise UserError(f"{path}: not a file; check --raw")


@contextmanager
def _copying(path: Path) -> Iterator[None]:
    """Say in one line why a file cannot be opened or copied."""
    try:
        yield
    except PermissionError:
        raise UserError(f"{path}: not readable; check its permissions") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{path}: no disk space left to unpack it; free some or choose another --out") from None
        raise UserError(f"{path}: cannot be read or unpacked ({error.strerror or error}); check --raw") from None


def _copy_stream(path: Path, scratch: Path) -> Path:
    if path is not STREAM:
        with open(path, "rb") as stream:
            return _copy(stream, scratch)
    if os.isatty(0):
        raise UserError("standard input: a terminal; send a file into it, such as with: cat clicks.csv | ...")
    with open(0, "rb", closefd=False) as stream:
        return _copy(stream, scratch)


def _copy_member(path: Path, name: Path, scratch: Path) -> Path:
    """A copy of the only file in a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir() and _is_data(member.filename)]
            if len(members) != 1:
                names = ", ".join(member.filename for member in members[:6]) + (", ..." if len(members) > 6 else "")
                what = f"holds {len(members):,} files ({names})" if members else "holds no file"
                raise UserError(f"{name}: {what}, expected one; unpack it and give --raw the folder or its files")
            if members[0].flag_bits & 1:
                raise UserError(f"{name}: encrypted; unpack it with its password and give --raw the file")
            with archive.open(members[0]) as stream:
                return _copy(stream, scratch)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError):
        raise UserError(f"{name}: truncated or damaged zip; fetch the file again") from None
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(f"{name}: cannot be unpacked ({error}); unpack it and give --raw the file") from None


def _is_data(member: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in member.split("/"))


def _copy(stream: Any, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    number, place = tempfile.mkstemp(prefix="raw_", dir=scratch)
    with open(number, "wb") as copy:
        shutil.copyfileobj(stream, copy, CHUNK)
    return Path(place)


def compression(head: bytes, path: Path) -> str:
    """How a file that begins with ``head`` is packed, as DuckDB calls it: gzip, zstd or none."""
    for start, name in UNREADABLE.items():
        if head.startswith(start):
            raise UserError(f"{path}: packed with {name}, which is not read; unpack it, or pack it with gzip or zstd")
    return next((name for start, name in MAGIC.items() if head.startswith(start)), "none")


def open_bytes(place: Path, packed: str) -> Any:
    """A stream of a file's bytes as they are before they were packed."""
    if packed == "gzip":
        return gzip.open(place, "rb")
    if packed == "zstd":
        return pa.input_stream(str(place), compression="zstd")
    return open(place, "rb")


@contextmanager
def unpacking(path: Path, packed: str) -> Iterator[None]:
    """Say in one line that a packed file is damaged."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, pa.ArrowException):
        raise UserError(f"{path}: truncated or damaged {packed}; fetch the file again") from None
    except PermissionError:
        raise UserError(f"{path}: not readable; check its permissions") from None
    except OSError as error:
        if packed == "none" or error.errno is not None:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); check --raw") from None
        raise UserError(f"{path}: truncated or damaged {packed}; fetch the file again") from None
