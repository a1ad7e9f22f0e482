"""Made-up MovieLens 1M, as tables and as files."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxrec.sources.movielens import FILES

USERS, MOVIES, RATINGS = 30, 40, 300
# By movie; the last one has what Python and CSV readers may take for the end of a line, or a quote.
TITLES = {1: "Misérables, Les (1995)", 2: "Mission: Impossible: (1996)", 3: "\x1c\u00a0\t'\" (1999)"}


def tiny() -> list[pa.Table]:
    """Made-up data of that kind, in no order; the last user and the last movie have no ratings."""
    random = np.random.default_rng(0)
    users = random.choice(np.arange(1, 100), USERS, replace=False)
    movies = np.concatenate([list(TITLES), random.choice(np.arange(10, 4000), MOVIES - len(TITLES), replace=False)])
    ratings = {
        "user": random.choice(users[:-1], RATINGS),
        "movie": random.choice(movies[:-1], RATINGS),
        "rating": random.integers(1, 6, RATINGS),
        "time": random.integers(956_703_932, 1_046_454_590, RATINGS),
    }
    people = {
        "user": users,
        "gender": random.choice(["F", "M"], USERS).tolist(),
        "age": random.choice([1, 18, 25, 35, 45, 50, 56], USERS),
        "occupation": random.integers(0, 21, USERS),
        "zip": ["98107-2117", "00231", *(f"{code:05}" for code in random.integers(0, 99_999, USERS - 2))],
    }
    films = {
        "movie": movies,
        "title": [TITLES.get(int(movie), f"Film {movie} (1990)") for movie in movies],
        "genres": random.choice(["Drama", "Comedy|Romance", "Animation|Children's|Comedy"], MOVIES).tolist(),
    }
    return [pa.table(ratings), pa.table(people), pa.table(films)]


def texts(files: list[pa.Table]) -> dict[str, str]:
    """The three files as they are published, by name."""

    def lines(table: pa.Table) -> str:
        return "".join("::".join(map(str, row.values())) + "\n" for row in table.to_pylist())

    return {name: lines(table) for name, table in zip(FILES, files, strict=True)}


def write_folder(folder: Path, contents: dict[str, str], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        data = text.encode("latin-1")
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data, 1) if packed else data)
    return folder


def write_archive(path: Path, contents: dict[str, str], folder: str = "ml-1m/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in ({"README": "Read me."} | contents).items():
            archive.writestr(folder + name, text.encode("latin-1"))
    return path
