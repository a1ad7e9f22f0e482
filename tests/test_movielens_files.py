"""MovieLens 1M from its files: every place they may lie in, and one line for every mistake in them."""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxrec.errors import UserError
from jaxrec.sources import movielens_files
from jaxrec.sources.movielens_files import NAMES, MovieLensFiles, read_files

USERS, MOVIES, RATINGS = 30, 40, 300
TITLES = {  # by movie; the others are plain
    1: "Misérables, Les (1995)",
    2: "Face::Off (1997)",
    3: "Mission: Impossible: (1996)",
    4: "\x85 \x1c\u00a0\t'\" (1999)",  # what Python and CSV readers may take for the end of a line, or a quote
}


def tiny() -> MovieLensFiles:
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
    return MovieLensFiles(pa.table(ratings), pa.table(people), pa.table(films))


def texts(files: MovieLensFiles) -> dict[str, str]:
    """The three files as they are published, by name."""

    def lines(table: pa.Table) -> str:
        return "".join("::".join(map(str, row.values())) + "\n" for row in table.to_pylist())

    return {name: lines(table) for name, table in zip(NAMES, files, strict=True)}


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


def assert_same(found: MovieLensFiles, expected: MovieLensFiles) -> None:
    for name, table, other in zip(found._fields, found, expected, strict=True):
        assert table.schema == other.schema, name
        assert table.equals(other), name


PLACES: dict[str, Callable[[Path, dict[str, str]], Path]] = {
    "folder": lambda tmp, contents: write_folder(tmp / "raw", contents),
    "gzip": lambda tmp, contents: write_folder(tmp / "raw", contents, packed=True),
    "folder in a folder": lambda tmp, contents: write_folder(tmp / "ml-1m", contents).parent,
    "archive": lambda tmp, contents: write_archive(tmp / "ml-1m.zip", contents),
    "archive without a folder": lambda tmp, contents: write_archive(tmp / "a.zip", contents, folder=""),
}


@pytest.mark.parametrize("place", PLACES)
def test_all_places_and_packings_give_the_same(place: str, tmp_path: Path) -> None:
    assert_same(read_files(PLACES[place](tmp_path, texts(tiny()))), tiny())


@pytest.mark.parametrize(
    "edit", [lambda text: text.replace("\n", "\r\n"), lambda text: text[:-1], lambda t: t + "\n\n"]
)
def test_what_editors_do_to_line_ends_does_not_matter(edit: Callable[[str], str], tmp_path: Path) -> None:
    contents = {name: edit(text) for name, text in texts(tiny()).items()}
    assert_same(read_files(write_folder(tmp_path, contents)), tiny())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text('019:\n\t\r "+x.', max_size=4) | st.sampled_from(["1::2::3::4\n", "::"]), max_size=12))
@example(["1::2::3::9223372036854775807"])
@example(["1::2::3::9223372036854775808"])
@example(["1::2::3::99999999999999999999999"])
@example(["1\t1::2::3::4"])
@example(["1::2::3::4\n\n1::2::3::4"])
def test_the_quick_way_takes_only_what_the_careful_one_does(pieces: list[str]) -> None:
    data = "".join(pieces).encode().rstrip(b"\n")
    quick = movielens_files._quick_ratings(data)
    file = movielens_files._File(Path("ratings.dat"), data)
    try:
        careful = movielens_files._parse(file, movielens_files._RATING_FIELDS)
    except UserError:
        careful = None
    assert (quick is None) == (careful is None)
    assert quick is None or quick.equals(careful)


def change(text: str, line: int, to: str) -> str:
    """``text`` with another line ``line``, in which {0}, {1}, ... are its fields."""
    lines = text.split("\n")
    lines[line - 1] = to.format(*lines[line - 1].split("::"))
    return "\n".join(lines)


WHOLE = "expected a whole number, 0 or more; mend or remove the line$"
SCALE = "expected a whole number from 1 to 5; mend or remove the line$"
MISTAKES = [  # the file, the line, what it becomes, and what is said after the file and the line
    ("ratings.dat", 7, "{0}::{1}::{2}", r": 3 field\(s\), expected 4: user::movie::rating::time; mend or remove"),
    ("users.dat", 2, "{0}::{1}::{2}::{3}::{4}::5", r": 6 field\(s\), expected 5: user::gender::age::occupation::zip; "),
    ("movies.dat", 5, "{0},{1},{2}", r": 1 field\(s\), expected 3: movie::title::genres; "),
    ("ratings.dat", 9, "", r": 1 field\(s\), expected 4: "),
    ("ratings.dat", 300, "{0}::x1::{2}::{3}", f", field 'movie': found 'x1', {WHOLE}"),
    ("ratings.dat", 1, "::{1}::{2}::{3}", f", field 'user': found nothing, {WHOLE}"),
    ("ratings.dat", 3, "{0}::{1}::{2}::1.5", rf", field 'time': found '1\.5', {WHOLE}"),
    ("ratings.dat", 3, "{0}:: 7::{2}::{3}", f", field 'movie': found ' 7', {WHOLE}"),
    ("ratings.dat", 3, "{0}::{1}::{2}::-1", f", field 'time': found '-1', {WHOLE}"),
    ("movies.dat", 3, "9223372036854775808::{1}::{2}", f", field 'movie': found '9223372036854775808', {WHOLE}"),
    ("users.dat", 3, "{0}::{1}::²::{3}::{4}", f", field 'age': found '²', {WHOLE}"),
    ("ratings.dat", 42, "{0}::{1}::0::{3}", f", field 'rating': found '0', {SCALE}"),
    ("ratings.dat", 42, "{0}::{1}::6::{3}", f", field 'rating': found '6', {SCALE}"),
    ("ratings.dat", 42, "{0}::{1}::4.5::{3}", rf", field 'rating': found '4\.5', {SCALE}"),
    ("users.dat", 4, "{0}::f::{2}::{3}::{4}", ", field 'gender': found 'f', expected M or F; mend or remove the line$"),
    ("ratings.dat", 5, "777::{1}::{2}::{3}", r": user 777 is not in users\.dat; add it there or remove the line$"),
    ("ratings.dat", 6, "{0}::9::{2}::{3}", r": movie 9 is not in movies\.dat; add it there or remove the line$"),
]


@pytest.mark.parametrize(("name", "line", "to", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line(name: str, line: int, to: str, message: str, tmp_path: Path) -> None:
    contents = texts(tiny())
    contents[name] = change(contents[name], line, to)
    refuses(write_folder(tmp_path, contents), rf"/{name}: line {line}{message}")


@pytest.mark.parametrize("name", ["users.dat", "movies.dat"])
def test_an_id_given_twice(name: str, tmp_path: Path) -> None:
    contents = texts(tiny())
    second = contents[name].split("\n")[1]
    contents[name] = change(contents[name], 9, second)
    refuses(write_folder(tmp_path, contents), rf"/{name}: line 9: \w+ {second.split('::')[0]} is on line 2 already; ")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file(name: str, tmp_path: Path) -> None:
    refuses(write_folder(tmp_path, texts(tiny()) | {name: "\n\n"}), f"/{name}: empty; expected one record a line")


def test_many_ratings_of_what_is_not_listed_are_counted(tmp_path: Path) -> None:
    contents = texts(tiny())
    contents["movies.dat"] = contents["movies.dat"].split("\n", 1)[1]
    movie = tiny().movies["movie"][0].as_py()
    of = [line for line, found in enumerate(tiny().ratings["movie"].to_pylist(), 1) if found == movie]
    refuses(
        write_folder(tmp_path, contents), rf"line {of[0]}: movie {movie} is .* \({len(of)} such lines\); add it there"
    )


@pytest.mark.parametrize("place", ["folder", "archive"])
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_where_it_was_looked_for(name: str, place: str, tmp_path: Path) -> None:
    contents = texts(tiny())
    del contents[name]
    raw = PLACES[place](tmp_path, contents)
    refuses(raw, rf"no {name} in it \(looked for {name}, {name}\.gz, ml-1m/{name}, ml-1m/{name}\.gz\)")


def test_what_is_no_folder_and_no_archive(tmp_path: Path) -> None:
    refuses(tmp_path / "none", "none: no such file or folder; check --raw$")
    raw = write_folder(tmp_path, texts(tiny()))
    refuses(
        raw / "ratings.dat", r"ratings\.dat: not a zip archive; --raw takes ml-1m\.zip or a folder with ratings\.dat"
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:200] + b"\0" * 20 + data[220:]])
def test_damage_to_what_is_packed(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "ml-1m.zip", texts(tiny()))
    archive.write_bytes(damage(archive.read_bytes()))
    refuses(archive, r"ml-1m\.zip: truncated or damaged zip; fetch the file again$")
    packed = write_folder(tmp_path / "raw", texts(tiny()), packed=True) / "ratings.dat.gz"
    packed.write_bytes(damage(packed.read_bytes()))
    refuses(packed.parent, r"ratings\.dat\.gz: truncated or damaged gzip; fetch the file again$")


def refuses(raw: Path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_files(raw)
    assert str(caught.value).startswith(str(raw))
    assert len(str(caught.value).splitlines()) == 1
    assert re.search(message, str(caught.value)), caught.value
