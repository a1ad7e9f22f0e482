"""The files of MovieLens 1M, ``ratings.dat``, ``users.dat``, ``movies.dat``, as tables with every value checked.

Layout: one record a line, ``::`` between fields, no header, latin-1. See the README of
https://files.grouplens.org/datasets/movielens/ml-1m.zip for what the codes mean.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from jaxrec.errors import UserError

NAMES = ("ratings.dat", "users.dat", "movies.dat")
FOLDER = "ml-1m"  # the folder within the published archive
RATINGS = (1, 5)  # the least and the most


class MovieLensFiles(NamedTuple):
    """What the files hold, in the order of their lines.

    Attributes:
        ratings: user, movie, rating (1 to 5), time (seconds since 1970), all int64. Every user and movie is one of the
            other tables. The order matters: published splits go by it.
        users: user (int64), gender (``M`` or ``F``), age and occupation (int64 codes), zip (text).
        movies: movie (int64), title, genres (``|`` between them); titles hold the year in brackets.
    """

    ratings: pa.Table
    users: pa.Table
    movies: pa.Table


class _Kind(NamedTuple):
    """What a field must be.

    Attributes:
        parse: from its text to its value, None where the text cannot be used.
        expected: for the error message.
        type: of the column.
    """

    parse: Callable[[str], Any]
    expected: str
    type: pa.DataType


class _File(NamedTuple):
    """One of the three: where it was found, and its bytes, unpacked, with ``\\n`` at the end of lines but the last."""

    path: Path
    data: bytes


def _integer(text: str) -> int | None:
    # isdigit alone takes superscripts, int alone signs and underscores; 19 digits are all that int64 can have.
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else -1
    return value if 0 <= value < 2**63 else None


def _rating(text: str) -> int | None:
    value = _integer(text)
    return value if value is not None and RATINGS[0] <= value <= RATINGS[1] else None


_INTEGER = _Kind(_integer, "a whole number, 0 or more", pa.int64())
_RATING = _Kind(_rating, f"a whole number from {RATINGS[0]} to {RATINGS[1]}", pa.int64())
_GENDER = _Kind(lambda text: text if text in ("M", "F") else None, "M or F", pa.string())
_TEXT = _Kind(lambda text: text, "text", pa.string())

_RATING_FIELDS = {"user": _INTEGER, "movie": _INTEGER, "rating": _RATING, "time": _INTEGER}
_USER_FIELDS = {"user": _INTEGER, "gender": _GENDER, "age": _INTEGER, "occupation": _INTEGER, "zip": _TEXT}
_MOVIE_FIELDS = {"movie": _INTEGER, "title": _TEXT, "genres": _TEXT}


def read_files(raw: Path) -> MovieLensFiles:
    """Read MovieLens 1M as published or unpacked.

    Args:
        raw: a folder with the three files, each possibly in gzip (``.gz``), or a zip archive of them; in both they may
            lie in a folder ``ml-1m``.
    """
    found = _from_archive(raw) if raw.is_file() else _from_folder(raw)
    ratings, users, movies = (found[name] for name in NAMES)
    files = MovieLensFiles(_ratings(ratings), _parse(users, _USER_FIELDS), _parse(movies, _MOVIE_FIELDS))
    for file, table, column in ((users, files.users, "user"), (movies, files.movies, "movie")):
        _check_distinct(file.path, table[column].to_numpy(), column)
        _check_listed(ratings.path, file.path, files.ratings[column].to_numpy(), table[column].to_numpy(), column)
    return files


def _from_folder(raw: Path) -> dict[str, _File]:
    if not raw.exists():
        raise UserError(f"{raw}: no such file or folder; check --raw")
    found = {}
    for name in NAMES:
        path = raw / _find(raw, name, lambda member: (raw / member).is_file())
        try:
            found[name] = _unpacked(path, path.read_bytes())
        except PermissionError:
            raise UserError(f"{path}: not readable; check its permissions") from None
    return found


def _from_archive(raw: Path) -> dict[str, _File]:
    try:
        # Not zipfile.is_zipfile: it says no to an archive of which the end is missing.
        with open(raw, "rb") as stream:
            if stream.read(2) != b"PK":
                raise UserError(f"{raw}: not a zip archive; --raw takes ml-1m.zip or a folder with {', '.join(NAMES)}")
        with zipfile.ZipFile(raw) as archive:
            members = set(archive.namelist())
            found = {name: _find(raw, name, members.__contains__) for name in NAMES}
            return {name: _unpacked(raw / member, archive.read(member)) for name, member in found.items()}
    except PermissionError:
        raise UserError(f"{raw}: not readable; check its permissions") from None
    # RuntimeError and its NotImplementedError: a password, or a compression method that zipfile lacks.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError):
        raise UserError(f"{raw}: truncated or damaged zip; fetch the file again") from None


def _find(raw: Path, name: str, exists: Callable[[str], bool]) -> str:
    candidates = [f"{folder}{name}{packed}" for folder in ("", f"{FOLDER}/") for packed in ("", ".gz")]
    for member in candidates:
        if exists(member):
            return member
    raise UserError(f"{raw}: no {name} in it (looked for {', '.join(candidates)}); give MovieLens 1M to --raw")


def _unpacked(path: Path, data: bytes) -> _File:
    """Lines without a carriage return, and no blank ones after the last: editors leave both behind."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise UserError(f"{path}: truncated or damaged gzip; fetch the file again") from None
    data = data.replace(b"\r\n", b"\n").rstrip(b"\n")
    if not data.strip():
        raise UserError(f"{path}: empty; expected one record a line, '::' between its fields; fetch the file again")
    return _File(path, data)


def _ratings(file: _File) -> pa.Table:
    table = _quick_ratings(file.data)
    return _parse(file, _RATING_FIELDS) if table is None else table


def _quick_ratings(data: bytes) -> pa.Table | None:
    """The ratings of a file without a mistake, a million in a tenth of a second; None where there may be one."""
    if data.translate(None, b"0123456789:\n"):
        return None  # pyarrow is more liberal with numbers than we are, and a tab would be taken for a ::
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data.replace(b"::", b"\t")),
            pa.csv.ReadOptions(column_names=list(_RATING_FIELDS)),
            pa.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            pa.csv.ConvertOptions(column_types={name: kind.type for name, kind in _RATING_FIELDS.items()}),
        ).combine_chunks()
    except pa.ArrowInvalid:
        return None
    if any(column.null_count for column in table.columns):
        return None
    ratings = table["rating"].to_numpy()
    return table if RATINGS[0] <= ratings.min() and ratings.max() <= RATINGS[1] else None


def _parse(file: _File, fields: dict[str, _Kind]) -> pa.Table:
    """A table of any of the files, line by line; raises UserError at the first line with a mistake."""
    columns: dict[str, list[Any]] = {name: [] for name in fields}
    # Not splitlines: in a latin-1 title a byte 0x85 is no end of a line.
    for number, line in enumerate(file.data.decode("latin-1").split("\n"), 1):
        parts = _divide(line, fields)
        if len(parts) != len(fields):
            raise UserError(
                f"{file.path}: line {number:,}: {len(parts)} field(s), expected {len(fields)}: {'::'.join(fields)}; "
                "mend or remove the line"
            )
        for text, (name, kind) in zip(parts, fields.items(), strict=True):
            value = kind.parse(text)
            if value is None:
                raise UserError(
                    f"{file.path}: line {number:,}, field '{name}': found {_shown(text)}, expected {kind.expected}; "
                    "mend or remove the line"
                )
            columns[name].append(value)
    return pa.table({name: pa.array(columns[name], kind.type) for name, kind in fields.items()})


def _divide(line: str, fields: dict[str, _Kind]) -> list[str]:
    """The fields of a line. A title may hold anything, also ``::``: it is what lies between the first and the last."""
    parts = line.split("::")
    if "title" in fields and len(parts) > 2:
        movie, rest = line.split("::", 1)
        return [movie, *rest.rsplit("::", 1)]
    return parts


def _shown(text: str) -> str:
    """A field for an error message: on one line, whatever control characters a damaged file has."""
    return (repr(text) if len(text) <= 40 else repr(text[:40]) + "...") if text else "nothing"


def _check_distinct(path: Path, ids: np.ndarray, column: str) -> None:
    first, inverse = np.unique(ids, return_index=True, return_inverse=True)[1:]
    repeated = np.flatnonzero(first[inverse] != np.arange(len(ids)))
    if len(repeated):
        row = repeated[0]
        line, before = row + 1, first[inverse[row]] + 1
        raise UserError(f"{path}: line {line:,}: {column} {ids[row]} is on line {before:,} already; remove one of them")


def _check_listed(ratings: Path, path: Path, ids: np.ndarray, listed: np.ndarray, column: str) -> None:
    unknown = np.flatnonzero(~np.isin(ids, listed))
    if len(unknown):
        many = f" ({len(unknown):,} such lines)" if len(unknown) > 1 else ""
        raise UserError(
            f"{ratings}: line {unknown[0] + 1:,}: {column} {ids[unknown[0]]} is not in {path.name}{many}; "
            "add it there or remove the line"
        )
