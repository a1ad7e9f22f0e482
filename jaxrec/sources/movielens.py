"""MovieLens 1M: ratings of films from 1 to 5 (grouplens.org/datasets/movielens/1m), as rows of 15 fields.

Fourteen are those that AutoInt+ was published with on this data, the fifteenth is all genres of a film as a bag. A
label is positive from 4 on.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.encode import RawField, RawRows
from jaxrec.data.reading.files import unpacking
from jaxrec.errors import UserError, shown

HELP = "MovieLens 1M: ratings.dat, users.dat and movies.dat, in a folder or ml-1m.zip"
KIND = "rows"
NONE = "no"  # a film's second or third genre, where it has none
INTEGER, RATING, TEXT = "[0-9]{1,18}", "[1-5]", "(?:(?!::).)*"
FIELDS = {
    "ratings.dat": {"user": INTEGER, "movie": INTEGER, "rating": RATING, "time": INTEGER},
    "users.dat": {"user": INTEGER, "gender": "[MF]", "age": INTEGER, "occupation": INTEGER, "zip": TEXT},
    # A title may hold anything, also ::; it is what lies between the first and the last.
    "movies.dat": {"movie": INTEGER, "title": ".*", "genres": TEXT},
}
"""Of each file, one record a line, ``::`` between fields, no header, latin-1: regular expressions of its fields."""
URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"  # tensorflow-datasets has its checksum and compares it
PLACE = "downloads/jaxrec_movielens_1m"  # in the data directory, which may be one that tensorflow-datasets shares
PATIENCE = 20  # seconds for the server to answer at all


def add_arguments(parser: ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--raw", type=Path, metavar="PATH", help="folder (members may be .gz) or ml-1m.zip")
    place.add_argument("--tfds", action="store_true", help="let tensorflow-datasets download and keep it")
    parser.add_argument("--tfds-dir", type=Path, metavar="DIR", help="where tensorflow-datasets keeps its data "
                        "(default: ~/tensorflow_datasets)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """The rows of the three files, in the order of the ratings."""
    if arguments.tfds_dir is not None and not arguments.tfds:
        raise UserError("--tfds-dir: belongs to --tfds; leave it out with --raw")
    ratings, users, movies = read_files(fetch(arguments.tfds_dir) if arguments.tfds else arguments.raw)
    # Without the entities that have no rows, whose values would otherwise stand in the vocabulary.
    rows = {side: np.unique(pc.index_in(ratings[name], table[name]).to_numpy(), return_inverse=True)
            for side, name, table in (("user", "user", users), ("item", "movie", movies))}  # fmt: skip

    def field(side: str, name: str, values: pa.ChunkedArray, kind: str = "categorical") -> RawField:
        used, by = rows[side]
        return RawField(name, kind, side, values.take(pa.array(used)).combine_chunks(), by)

    moments = ratings["time"].combine_chunks().cast(pa.timestamp("s"))
    calendar = {"year": pc.year(moments), "month": pc.month(moments), "decade": _decade(pc.year(moments))}
    # The year that ends a title: ``Toy Story (1995)``; unknown where there is none.
    titled = pc.extract_regex(movies["title"].combine_chunks(), r"\((?P<year>\d{4})\)\s*$")
    years = pa.chunked_array([pc.struct_field(titled, "year").cast(pa.int64())])
    genres = pc.split_pattern(movies["genres"], "|")
    padded = [[*row, NONE, NONE][:3] for row in genres.to_pylist()]
    return RawRows(
        fields=[
            field("user", "user", users["user"]),
            field("item", "movie", movies["movie"]),
            field("item", "movie_decade", _decade(years)),
            field("item", "movie_year", years),
            *(RawField(f"rating_{name}", "categorical", "context", values) for name, values in calendar.items()),
            *(field("item", f"genre{n}", pa.chunked_array([first]))
              for n, first in enumerate(zip(*padded, strict=True), 1)),
            *(field("user", name, users[name]) for name in users.column_names[1:]),
            field("item", "genres", genres, "bag"),
        ],
        ratings=ratings["rating"].to_numpy(),
        times=ratings["time"].to_numpy(),
        threshold=4.0, low=1.0, high=5.0, user="user", item="movie",
        shown={"user": users, "item": movies.append_column("year", years)},
        calendar={f"rating_{name}": name for name in calendar},
        options={"raw": "tfds" if arguments.tfds else str(arguments.raw)},
    )  # fmt: skip


def _decade(years: Any) -> Any:
    return pc.multiply(pc.divide(years, 10), 10)


class MovieLensFiles(NamedTuple):
    """What the files hold, in the order of their lines: columns of ``FIELDS``, int64 or text."""

    ratings: pa.Table
    users: pa.Table
    movies: pa.Table


def read_files(raw: Path) -> MovieLensFiles:
    """Read the archive, or a folder with its three files, which may be ``.gz`` and lie in a folder ``ml-1m``."""
    if not raw.exists():
        raise UserError(f"{raw}: no such file or folder; check --raw")
    with unpacking(raw, "zip"):
        root = zipfile.Path(raw) if raw.is_file() else raw
        places = [_find(raw, root, name) for name in FIELDS]
        tables = [_parse(place, fields) for place, fields in zip(places, FIELDS.values(), strict=True)]
    for column, place, table in zip(("user", "movie"), places[1:], tables[1:], strict=True):
        ids, counts = np.unique(table[column], return_counts=True)
        wrong = np.append(ids[counts > 1], np.setdiff1d(tables[0][column], ids))
        if len(wrong):
            raise UserError(f"{place}: {column} {wrong[0]} is not there, though rated, or twice; mend the files")
    return MovieLensFiles(*tables)


def _find(raw: Path, root: Any, name: str) -> Any:
    for one in (f"{folder}{name}{packed}" for folder in ("", "ml-1m/") for packed in ("", ".gz")):
        if (root / one).is_file():
            return root / one
    raise UserError(f"{raw}: no {name} in it, also not as {name}.gz or in ml-1m; give MovieLens 1M to --raw")


def _parse(place: Any, fields: dict[str, str]) -> pa.Table:
    """The table of a file; refuses the first line with a mistake."""
    with unpacking(Path(str(place)), "gzip"):
        data = place.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    # Editors leave carriage returns and blank lines at the end behind.
    text = data.decode("latin-1").replace("\r\n", "\n").rstrip("\n")
    pattern = "::".join(f"({one})" for one in fields.values())
    rows = re.findall(f"^{pattern}$", text, re.MULTILINE)
    if len(rows) < text.count("\n") + 1:
        lines = enumerate(text.split("\n"), 1)
        number, line = next(pair for pair in lines if not re.fullmatch(pattern, pair[1]))
        raise UserError(f"{place}: line {number:,}: found {shown(line, 80)}, expected {'::'.join(fields)}; ids and "
                        "times are whole numbers, ratings 1 to 5, genders M or F")  # fmt: skip
    kinds = [pa.int64() if one in (INTEGER, RATING) else pa.string() for one in fields.values()]
    columns = zip(fields, kinds, zip(*rows, strict=True), strict=True)
    return pa.table({name: pa.array(column, pa.string()).cast(kind) for name, kind, column in columns})


def fetch(data_dir: Path | None = None) -> Path:
    """The published archive through the downloads of tensorflow-datasets, checked, kept, and without TensorFlow."""
    try:
        import requests
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import download_manager
    except ImportError as error:
        raise UserError(f"--tfds: needs tensorflow-datasets (no module '{error.name}'); pip install "
                        "'jaxrec[tfds]'") from None  # fmt: skip
    place = Path(data_dir or tfds.core.constants.DATA_DIR) / PLACE
    if kept := sorted(place.glob("*.zip")):
        return kept[0]
    tfds.disable_progress_bar()
    try:
        manager = tfds.download.DownloadManager(download_dir=place, force_checksums_validation=True)
        # The manager tries ten times, for minutes; without a network that is known at once.
        requests.head(URL, timeout=PATIENCE, allow_redirects=True).raise_for_status()
        return Path(manager.download(URL))
    except (tfds.download.DownloadError, download_manager.NonMatchingChecksumError, OSError) as error:
        raise UserError(f"--tfds: {URL} does not come to {place} as published ({type(error).__name__}: {error}); "
                        "download it by hand and give it to --raw, or choose another --tfds-dir") from None  # fmt: skip
