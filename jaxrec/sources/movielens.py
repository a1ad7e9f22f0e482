"""MovieLens 1M: ratings of films from 1 to 5 (grouplens.org/datasets/movielens/1m), as rows of 15 fields.

Fourteen are those of the feature set that AutoInt+ was published with on this data: user and film, decade and year of
the film, year, month and decade of the rating (UTC), the first three genres, and the user's gender, age, occupation and
zip code. The fifteenth, ``genres``, is all genres of a film as a bag. A label is positive from 4 on.
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
POSITIVE = 4.0
INTEGER, RATING, TEXT = "[0-9]{1,18}", "[1-5]", "(?:(?!::).)*"
EXPECTED = {INTEGER: "a whole number, 0 or more", RATING: "a whole number from 1 to 5", "[MF]": "M or F"}
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
    raw = fetch(arguments.tfds_dir) if arguments.tfds else arguments.raw
    ratings, users, movies = read_files(raw)
    by_user, by_film = (pc.index_in(ratings[name], side[name]).to_numpy().astype(np.int64)
                        for name, side in (("user", users), ("movie", movies)))  # fmt: skip
    moments = ratings["time"].combine_chunks().cast(pa.timestamp("s"))
    years = pc.year(moments)
    titles, names = (movies[name].combine_chunks() for name in ("title", "genres"))
    # The year that ends a title: ``Toy Story (1995)``; unknown where there is none.
    film_years = pc.struct_field(pc.extract_regex(titles, r"\((?P<year>\d{4})\)\s*$"), "year").cast(pa.int64())
    genres = pc.split_pattern(names, "|")
    listed = genres.to_pylist()
    first = [pa.array([row[n] if len(row) > n else NONE for row in listed], pa.string()) for n in range(3)]
    of_users = [(name, users[name].combine_chunks()) for name in users.column_names]
    of_films = [("movie", movies["movie"].combine_chunks()), ("movie_decade", _decade(film_years)),
                ("movie_year", film_years), *((f"genre{n}", values) for n, values in enumerate(first, 1))]  # fmt: skip
    fields = {name: _field(name, "user", values, by_user) for name, values in of_users}
    fields |= {name: _field(name, "item", values, by_film) for name, values in of_films}
    of_rows = (("rating_year", years), ("rating_month", pc.month(moments)), ("rating_decade", _decade(years)))
    fields |= {name: RawField(name, "categorical", "context", values) for name, values in of_rows}
    fields["genres"] = _field("genres", "item", genres, by_film, "bag")
    order = ["user", "movie", "movie_decade", "movie_year", *(name for name, _ in of_rows), "genre1", "genre2",
             "genre3", *users.column_names[1:], "genres"]  # fmt: skip
    return RawRows(
        fields=[fields[name] for name in order],
        ratings=ratings["rating"].to_numpy(),
        times=ratings["time"].to_numpy(),
        threshold=POSITIVE,
        low=1.0,
        high=5.0,
        user="user",
        item="movie",
        shown={"user": users, "item": movies.append_column("year", pa.chunked_array([film_years]))},
        calendar={name: name.removeprefix("rating_") for name, _ in of_rows},
        options={"raw": "tfds" if arguments.tfds else str(arguments.raw)},
    )


def _field(name: str, side: str, values: pa.Array, by: np.ndarray, kind: str = "categorical") -> RawField:
    """Without the entities that have no rows, whose values would otherwise stand in the vocabulary."""
    used, rows = np.unique(by, return_inverse=True)
    return RawField(name, kind, side, values.take(pa.array(used)), rows)


def _decade(years: pa.Array) -> pa.Array:
    return pc.multiply(pc.divide(years, 10), 10)


# ---- the files -------------------------------------------------------------------------------------------------------


class MovieLensFiles(NamedTuple):
    """What the files hold, in the order of their lines: columns of ``FIELDS``, int64 or text."""

    ratings: pa.Table
    users: pa.Table
    movies: pa.Table


def read_files(raw: Path) -> MovieLensFiles:
    """Read the published archive, or a folder with its three files, which may be ``.gz`` and lie in a folder ``ml-1m``;
    check that ratings are of users and films that are there.
    """
    if not raw.exists():
        raise UserError(f"{raw}: no such file or folder; check --raw")
    try:
        with unpacking(raw, "zip"):
            root = zipfile.Path(raw) if raw.is_file() else raw
            places = [_find(raw, root, name) for name in FIELDS]
            tables = [_parse(place, fields) for place, fields in zip(places, FIELDS.values(), strict=True)]
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a rare way
        raise UserError(f"{raw}: cannot be unpacked ({error}); unpack it and give --raw the folder") from None
    for column, place, table in zip(("user", "movie"), places[1:], tables[1:], strict=True):
        ids, rated = table[column].to_numpy(), tables[0][column].to_numpy()
        first = np.unique(ids, return_index=True)[1]
        if len(twice := np.setdiff1d(np.arange(len(ids)), first)):
            raise UserError(f"{place}: line {twice[0] + 1:,}: {column} {ids[twice[0]]} is on an earlier line already; "
                            "remove one of them")  # fmt: skip
        if len(unknown := np.flatnonzero(~np.isin(rated, ids))):
            raise UserError(f"{places[0]}: line {unknown[0] + 1:,}: {column} {rated[unknown[0]]} is not in "
                            f"{place.name} ({len(unknown):,} such lines); add it or remove them")  # fmt: skip
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
        values = line.split("::")
        if "title" in fields and len(values) > 3:
            values = [values[0], "::".join(values[1:-1]), values[-1]]
        what = f": found {shown(line, 40) or 'nothing'}, expected {len(fields)} fields {'::'.join(fields)}"
        for value, (name, one) in zip(values, fields.items(), strict=False):
            if len(values) == len(fields) and not re.fullmatch(one, value):
                what = f", field '{name}': found {shown(value, 40) or 'nothing'}, expected {EXPECTED.get(one, 'text')}"
                break
        raise UserError(f"{place}: line {number:,}{what}; mend or remove the line")
    kinds = [pa.int64() if one in (INTEGER, RATING) else pa.string() for one in fields.values()]
    columns = zip(fields, kinds, zip(*rows, strict=True), strict=True)
    return pa.table({name: pa.array(column, pa.string()).cast(kind) for name, kind, column in columns})


def fetch(data_dir: Path | None = None) -> Path:
    """The published archive through the downloads of tensorflow-datasets, checked, kept, and without TensorFlow; by
    default in its own folder, ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
    """
    try:
        import requests
        import tensorflow_datasets as tfds
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
    except tfds.core.download.download_manager.NonMatchingChecksumError:
        problem = "what came is not the published file (its checksum differs)"
    except (requests.RequestException, tfds.download.DownloadError) as error:
        problem = f"cannot be downloaded ({type(error).__name__})"
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); choose another --tfds-dir") from None
    raise UserError(f"--tfds: {URL}: {problem}; download it by hand and give the file to --raw instead of --tfds")
