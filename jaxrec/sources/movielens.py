"""MovieLens 1M: ratings of films from 1 to 5 (grouplens.org/datasets/movielens/1m), as rows of 15 fields.

Fourteen are those that AutoInt+ was published with on this data, the fifteenth is all genres of a film as a bag. A
label is positive from 4 on.
"""

from __future__ import annotations

import tempfile
import zipfile
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.data.reading.duck import fetch_row, integer
from jaxrec.data.reading.table import Field, load, open_table, unpacking
from jaxrec.errors import UserError

HELP = "MovieLens 1M: ratings.dat, users.dat and movies.dat, in a folder or ml-1m.zip"
KIND = "rows"
NONE = "no"  # a film's second or third genre, where it has none

FILES = {
    "ratings.dat": ("user", "movie", "rating", "time"),
    "users.dat": ("user", "gender", "age", "occupation", "zip"),
    "movies.dat": ("movie", "title", "genres"),
}
"""Of each file the fields, one record a line, ``::`` between fields, no header, latin-1."""
WHOLE = integer, "a whole number"
OTHERS = {
    "rating": ("CASE WHEN {0} IN ('1', '2', '3', '4', '5') THEN TRY_CAST({0} AS BIGINT) END".format, "1 to 5"),
    "gender": ("CASE WHEN {0} IN ('F', 'M') THEN {0} END".format, "F or M"),
    **dict.fromkeys(("zip", "title", "genres"), ("coalesce({0}, '')".format, "a text")),
}
"""How the fields that are no whole numbers are read, and what they have to be."""
URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"  # tensorflow-datasets has its checksum and compares it
PLACE = "downloads/jaxrec_movielens_1m"  # in the data directory, which may be one that tensorflow-datasets shares
PATIENCE = 20  # seconds for the server to answer at all


def add_arguments(parser: ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--raw", type=Path, metavar="PATH", help="folder (members may be .gz) or ml-1m.zip")
    place.add_argument("--tfds", action="store_true", help="let tensorflow-datasets download and keep it, in "
                       "$TFDS_DATA_DIR or ~/tensorflow_datasets")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """The rows of the three files, in the order of the ratings."""
    ratings, users, movies = read_files(connection, fetch() if arguments.tfds else arguments.raw)
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


def read_files(connection: Any, raw: Path) -> list[pa.Table]:
    """Ratings, users and films of the archive, or of a folder with the files, also as ``.gz`` or in a folder ``ml-1m``;
    columns of ``FILES`` in the order of the lines, int64 or text."""
    folder = raw
    if raw.is_file():
        (scratch,) = fetch_row(connection, "SELECT current_setting('temp_directory')")
        Path(scratch).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        with unpacking(raw), zipfile.ZipFile(raw) as archive:
            archive.extractall(folder)
    tables = [_read_file(connection, raw, folder, name) for name in FILES]
    for name, column, table in zip(list(FILES)[1:], ("user", "movie"), tables[1:], strict=True):
        ids, counts = np.unique(table[column], return_counts=True)
        wrong = np.append(ids[counts > 1], np.setdiff1d(tables[0][column], ids))
        if len(wrong):
            raise UserError(f"{raw}/{name}: {column} {wrong[0]} is not there, though rated, or twice; mend the files")
    return tables


def _read_file(connection: Any, raw: Path, folder: Path, name: str) -> pa.Table:
    """The table of a file; refuses the first line with a mistake."""
    places = [folder / inner / f"{name}{packed}" for inner in ("", "ml-1m") for packed in ("", ".gz")]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise UserError(f"{raw}: no {name} in it, also not as {name}.gz or in ml-1m; give MovieLens 1M to --raw")
    table = replace(open_table(connection, place, "::", FILES[name], "none", "latin-1"), path=raw / name)
    load(connection, table, [Field(column, column, *OTHERS.get(column, WHOLE)) for column in FILES[name]])
    found = connection.sql("SELECT * FROM raw").to_arrow_table()
    connection.execute("DROP TABLE raw")
    return found


def fetch() -> Path:
    """The published archive through the downloads of tensorflow-datasets, checked, kept, and without TensorFlow."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager

    place = Path(tfds.core.constants.DATA_DIR) / PLACE
    if kept := sorted(place.glob("*.zip")):
        return kept[0]
    tfds.disable_progress_bar()
    try:
        # The manager tries ten times, for minutes; without a network that is known at once.
        requests.head(URL, timeout=PATIENCE, allow_redirects=True).raise_for_status()
        manager = tfds.download.DownloadManager(download_dir=place, force_checksums_validation=True)
        return Path(manager.download(URL))
    except (tfds.download.DownloadError, download_manager.NonMatchingChecksumError, OSError) as error:
        raise UserError(f"--tfds: {URL} does not come to {place} as published ({type(error).__name__}: {error}); "
                        "download it by hand and give it to --raw") from None  # fmt: skip
