"""MovieLens 1M from its files: every place they may lie in, and one line for every mistake in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from films import assert_same, texts, tiny, write_archive, write_folder

from jaxrec.errors import UserError
from jaxrec.sources.movielens_files import read_files

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


def change(text: str, line: int, to: str) -> str:
    """``text`` with another line ``line``, in which {0}, {1}, ... are its fields."""
    lines = text.split("\n")
    lines[line - 1] = to.format(*lines[line - 1].split("::"))
    return "\n".join(lines)


MISTAKES = [  # the file, the line, what it becomes, and what is said after the file and the line
    ("ratings.dat", 7, "{0}::{1}::{2}", r": 3 field\(s\), expected 4: user::movie::rating::time"),
    ("users.dat", 2, "{0}::{1}::{2}::{3}::{4}::5", r": 6 field\(s\), expected 5"),
    ("movies.dat", 5, "{0},{1},{2}", r": 1 field\(s\), expected 3"),
    ("ratings.dat", 9, "", r": 1 field\(s\), expected 4"),
    ("ratings.dat", 300, "{0}::x1::{2}::{3}", ", field 'movie': found 'x1', expected a whole number"),
    ("ratings.dat", 1, "::{1}::{2}::{3}", ", field 'user': found nothing"),
    ("ratings.dat", 3, "{0}::{1}::{2}::1.5", ", field 'time': found '1.5'"),
    ("ratings.dat", 3, "{0}:: 7::{2}::{3}", ", field 'movie': found ' 7'"),
    ("ratings.dat", 3, "{0}::{1}::{2}::-1", ", field 'time': found '-1'"),
    ("movies.dat", 3, "9223372036854775808::{1}::{2}", ", field 'movie': found '9223372036854775808'"),
    ("users.dat", 3, "{0}::{1}::²::{3}::{4}", ", field 'age': found '²'"),
    ("ratings.dat", 42, "{0}::{1}::0::{3}", ", field 'rating': found '0', expected a whole number from 1 to 5"),
    ("ratings.dat", 42, "{0}::{1}::6::{3}", ", field 'rating': found '6'"),
    ("users.dat", 4, "{0}::f::{2}::{3}::{4}", ", field 'gender': found 'f', expected M or F"),
    ("ratings.dat", 5, "777::{1}::{2}::{3}", r": user 777 is not in users\.dat \(1 such lines"),
    ("ratings.dat", 6, "{0}::9::{2}::{3}", r": movie 9 is not in movies\.dat"),
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
    refuses(write_folder(tmp_path, contents), rf"/{name}: line 9: \w+ {second.split('::')[0]} is on line 2 already")


def test_what_is_missing_empty_or_damaged(tmp_path: Path) -> None:
    refuses(tmp_path / "none", "none: no such file or folder")
    refuses(write_folder(tmp_path / "a", texts(tiny()) | {"users.dat": "\n\n"}), "/users.dat: empty")
    for raw in (write_folder(tmp_path / "b", {}), write_archive(tmp_path / "b.zip", {})):
        refuses(raw, r"no ratings.dat in it \(looked for ratings.dat, ratings.dat.gz, ml-1m/ratings.dat, ml-1m/")
    archive = write_archive(tmp_path / "ml-1m.zip", texts(tiny()))
    archive.write_bytes(archive.read_bytes()[:-40])
    refuses(archive, r"ml-1m\.zip: truncated or damaged zip")
    packed = write_folder(tmp_path / "c", texts(tiny()), packed=True) / "ratings.dat.gz"
    packed.write_bytes(packed.read_bytes()[:-40])
    refuses(packed.parent, r"ratings\.dat\.gz: truncated or damaged gzip")


def refuses(raw: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_files(raw)
    assert str(caught.value).startswith(str(raw))
