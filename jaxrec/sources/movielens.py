"""MovieLens 1M: ratings of films from 1 to 5 (grouplens.org/datasets/movielens/1m), as rows of 15 fields.

Fourteen are those of the feature set that AutoInt+ was published with on this data: user and film, decade and year of
the film, year, month and decade of the rating (UTC), the first three genres, and the user's gender, age, occupation and
zip code. The fifteenth, ``genres``, is all genres of a film as a bag. A label is positive from 4 on.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.encode import RawField, RawRows
from jaxrec.errors import UserError
from jaxrec.sources.movielens_files import MovieLensFiles, read_files

HELP = "MovieLens 1M: ratings.dat, users.dat and movies.dat, in a folder or ml-1m.zip"
KIND = "rows"
NONE = "no"  # a film's second or third genre, where it has none
POSITIVE = 4.0


def add_arguments(parser: ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--raw", type=Path, metavar="PATH", help="folder (members may be .gz) or ml-1m.zip")
    place.add_argument("--tfds", action="store_true", help="let tensorflow-datasets download and keep it")
    parser.add_argument("--tfds-dir", type=Path, metavar="DIR", help="where tensorflow-datasets keeps its data "
                        "(default: ~/tensorflow_datasets)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the three files."""
    if arguments.tfds_dir is not None and not arguments.tfds:
        raise UserError("--tfds-dir: belongs to --tfds; leave it out with --raw")
    if arguments.tfds:
        from jaxrec.sources.movielens_tfds import fetch

        return movielens_rows(read_files(fetch(arguments.tfds_dir)), {"raw": "tfds"})
    return movielens_rows(read_files(arguments.raw), {"raw": str(arguments.raw)})


def movielens_rows(files: MovieLensFiles, options: dict[str, Any]) -> RawRows:
    """The rows of the raw tables, in their order."""
    ratings, users, movies = files
    by_user = pc.index_in(ratings["user"], users["user"]).to_numpy().astype(np.int64)
    by_film = pc.index_in(ratings["movie"], movies["movie"]).to_numpy().astype(np.int64)
    moments = ratings["time"].combine_chunks().cast(pa.timestamp("s"))
    years = pc.year(moments)
    film_years = _film_years(movies["title"].combine_chunks())
    genres = pc.split_pattern(movies["genres"].combine_chunks(), "|")
    fields = [
        RawField("user", "categorical", "user", _chunk(users["user"]), by_user),
        RawField("movie", "categorical", "item", _chunk(movies["movie"]), by_film),
        RawField("movie_decade", "categorical", "item", _decade(film_years), by_film),
        RawField("movie_year", "categorical", "item", film_years, by_film),
        RawField("rating_year", "categorical", "context", years),
        RawField("rating_month", "categorical", "context", pc.month(moments)),
        RawField("rating_decade", "categorical", "context", _decade(years)),
        *(RawField(f"genre{i + 1}", "categorical", "item", _nth(genres, i), by_film) for i in range(3)),
        *(RawField(name, "categorical", "user", _chunk(users[name]), by_user)
          for name in ("gender", "age", "occupation", "zip")),
        RawField("genres", "bag", "item", genres, by_film),
    ]  # fmt: skip
    return RawRows(
        fields=[_only_rated(field) for field in fields],
        ratings=ratings["rating"].to_numpy(),
        times=ratings["time"].to_numpy(),
        threshold=POSITIVE,
        low=1.0,
        high=5.0,
        user="user",
        item="movie",
        shown={"user": users, "item": movies.append_column("year", pa.chunked_array([film_years]))},
        calendar={"rating_year": "year", "rating_month": "month", "rating_decade": "decade"},
        options=options,
    )


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _film_years(titles: pa.Array) -> pa.Array:
    """int64, the year that ends a title: ``Toy Story (1995)``; unknown where there is none."""
    found = pc.extract_regex(titles, r"\((?P<year>\d{4})\)\s*$")
    return pc.struct_field(found, "year").cast(pa.int64())


def _decade(years: pa.Array) -> pa.Array:
    return pc.multiply(pc.divide(years, 10), 10)


def _nth(genres: pa.Array, n: int) -> pa.Array:
    """The n-th genre, or ``no``."""
    names = [row[n] if row is not None and len(row) > n else NONE for row in genres.to_pylist()]
    return pa.array(names, pa.string())


def _only_rated(field: RawField) -> RawField:
    """Without the entities that have no rows, whose values would otherwise stand in the vocabulary."""
    if field.by is None:
        return field
    used, by = np.unique(field.by, return_inverse=True)
    return RawField(field.name, field.kind, field.side, field.values.take(pa.array(used)), by)
