"""The files of MovieLens 1M, ``ratings.dat``, ``users.dat``, ``movies.dat``, as tables with every value checked.

Layout: one record a line, ``::`` between fields, no header, latin-1. See the README of
https://files.grouplens.org/datasets/movielens/ml-1m.zip for what the codes mean.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.data.reading.files import unpacking
from jaxrec.errors import UserError, shown

FOLDER = "ml-1m"  # the folder within the published archive


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
    """What a field must be: a regular expression, the same in words, and the type of the column."""

    pattern: str
    expected: str
    type: pa.DataType


_INTEGER = _Kind("[0-9]{1,18}", "a whole number, 0 or more", pa.int64())
_RATING = _Kind("[1-5]", "a whole number from 1 to 5", pa.int64())
_TEXT = _Kind("(?:(?!::).)*", "text", pa.string())
FIELDS = {
    "ratings.dat": {"user": _INTEGER, "movie": _INTEGER, "rating": _RATING, "time": _INTEGER},
    "users.dat": {"user": _INTEGER, "gender": _Kind("[MF]", "M or F", pa.string()), "age": _INTEGER,
                  "occupation": _INTEGER, "zip": _TEXT},
    # A title may hold anything, also ::; it is what lies between the first and the last.
    "movies.dat": {"movie": _INTEGER, "title": _Kind(".*", "text", pa.string()), "genres": _TEXT},
}  # fmt: skip


def read_files(raw: Path) -> MovieLensFiles:
    """Read the files and check that ratings are of users and films that are there.

    Args:
        raw: the published archive or a folder with its three files, which may be ``.gz``; in both they may lie in a
            folder ``ml-1m``.
    """
    if not raw.exists():
        raise UserError(f"{raw}: no such file or folder; check --raw")
    if not raw.is_file():
        places = [_find(raw, raw, name) for name in FIELDS]
        return _checked([str(place) for place in places], [_lines(place) for place in places])
    try:
        with unpacking(raw, "zip"), zipfile.ZipFile(raw) as archive:
            members = [_find(raw, zipfile.Path(archive), name) for name in FIELDS]
            return _checked([str(place) for place in members], [_lines(place) for place in members])
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a rare way
        raise UserError(f"{raw}: cannot be unpacked ({error}); unpack it and give --raw the folder") from None


def _find(raw: Path, root: Path | zipfile.Path, name: str) -> Path | zipfile.Path:
    names = [f"{folder}{name}{packed}" for folder in ("", f"{FOLDER}/") for packed in ("", ".gz")]
    for one in names:
        if (root / one).is_file():
            return root / one
    raise UserError(f"{raw}: no {name} in it (looked for {', '.join(names)}); give MovieLens 1M to --raw")


def _lines(place: Path | zipfile.Path) -> str:
    """The text without carriage returns, and without blank lines after the last: editors leave both behind."""
    named = Path(str(place))
    with unpacking(named, "file"):
        data = place.read_bytes()
    with unpacking(named, "gzip"):
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    text = data.decode("latin-1").replace("\r\n", "\n").rstrip("\n")
    if not text.strip():
        raise UserError(f"{place}: empty; expected one record a line, '::' between its fields; fetch the file again")
    return text


def _checked(places: list[str], texts: list[str]) -> MovieLensFiles:
    kinds = zip(places, texts, FIELDS.values(), strict=True)
    ratings, users, movies = (_parse(place, text, fields) for place, text, fields in kinds)
    for place, table, column in ((places[1], users, "user"), (places[2], movies, "movie")):
        ids, rated = table[column].to_numpy(), ratings[column].to_numpy()
        first, inverse = np.unique(ids, return_index=True, return_inverse=True)[1:]
        if len(twice := np.flatnonzero(first[inverse] != np.arange(len(ids)))):
            raise UserError(f"{place}: line {twice[0] + 1:,}: {column} {ids[twice[0]]} is on line "
                            f"{first[inverse[twice[0]]] + 1:,} already; remove one of them")  # fmt: skip
        if len(unknown := np.flatnonzero(~np.isin(rated, ids))):
            raise UserError(f"{places[0]}: line {unknown[0] + 1:,}: {column} {rated[unknown[0]]} is not in "
                            f"{Path(place).name} ({len(unknown):,} such lines); add it or remove them")  # fmt: skip
    return MovieLensFiles(ratings, users, movies)


def _parse(place: str, text: str, fields: dict[str, _Kind]) -> pa.Table:
    """The table of a file; refuses the first line with a mistake."""
    pattern = "::".join(f"({kind.pattern})" for kind in fields.values())
    rows = re.findall(f"^{pattern}$", text, re.MULTILINE)
    if len(rows) < text.count("\n") + 1:
        lines = enumerate(text.split("\n"), 1)
        raise _complaint(place, *next(pair for pair in lines if not re.fullmatch(pattern, pair[1])), fields)
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(column, pa.string()).cast(kind.type)
                     for (name, kind), column in zip(fields.items(), columns, strict=True)})  # fmt: skip


def _complaint(place: str, number: int, line: str, fields: dict[str, _Kind]) -> UserError:
    values = line.split("::")
    if "title" in fields and len(values) > 3:
        values = [values[0], "::".join(values[1:-1]), values[-1]]
    for value, (name, kind) in zip(values, fields.items(), strict=False):
        if len(values) == len(fields) and not re.fullmatch(kind.pattern, value):
            found = shown(value, 40) if value else "nothing"
            return UserError(f"{place}: line {number:,}, field '{name}': found {found}, expected {kind.expected}; mend "
                             "or remove the line")  # fmt: skip
    return UserError(f"{place}: line {number:,}: {len(values)} field(s), expected {len(fields)}: {'::'.join(fields)}; "
                     "mend or remove the line")  # fmt: skip
