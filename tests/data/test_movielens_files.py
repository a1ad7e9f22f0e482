"""MovieLens 1M from its files: every place they may lie in, and one line for every mistake in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from films import assert_same, texts, tiny, write_archive, write_folder

from jaxrec.errors import UserError
from jaxrec.sources.movielens import read_files

PLACES: dict[str, Callable[[Path, dict[str, str]], Path]] = {
    "folder": lambda tmp, contents: write_folder(tmp / "raw", contents),
    "gzip": lambda tmp, contents: write_folder(tmp / "raw", contents, packed=True),
    "folder in a folder": lambda tmp, contents: write_folder(tmp / "ml-1m", contents).parent,
    "archive": lambda tmp, contents: write_archive(tmp / "ml-1m.zip", contents),
    "archive without a folder": lambda tmp, contents: write_archive(tmp / "a.zip", contents, folder=""),
}


@pytest.mark.parametrize("place", PLACES)
def test_all_places_and_packings_give_the_same(place: str, tmp_path: Path) -> None:
    contents = texts(tiny())
    contents["users.dat"] = contents["users.dat"].replace("\n", "\r\n") + "\n"  # as editors leave it
    assert_same(read_files(PLACES[place](tmp_path, contents)), tiny())


@pytest.mark.parametrize(("name", "line", "to", "message"), [
    ("ratings.dat", 7, "{0}::{1}::{2}", ": found '.*', expected 4 fields user::movie::rating::time"),
    ("movies.dat", 5, "{0},{1},{2}", ": found '.*', expected 3 fields"),
    ("ratings.dat", 300, "{0}::x1::{2}::{3}", ", field 'movie': found 'x1', expected a whole number"),
    ("movies.dat", 3, "9223372036854775808::{1}::{2}", ", field 'movie': found '9223372036854775808'"),
    ("ratings.dat", 42, "{0}::{1}::6::{3}", ", field 'rating': found '6', expected a whole number from 1 to 5"),
    ("users.dat", 4, "{0}::f::{2}::{3}::{4}", ", field 'gender': found 'f', expected M or F"),
    ("ratings.dat", 5, "777::{1}::{2}::{3}", r": user 777 is not in users\.dat \(1 such lines"),
])  # fmt: skip
def test_a_mistake_is_named_with_its_line(name: str, line: int, to: str, message: str, tmp_path: Path) -> None:
    contents = texts(tiny())
    lines = contents[name].split("\n")
    lines[line - 1] = to.format(*lines[line - 1].split("::"))
    refuses(write_folder(tmp_path, contents | {name: "\n".join(lines)}), rf"/{name}: line {line}{message}")


def test_what_is_given_twice_missing_or_damaged(tmp_path: Path) -> None:
    contents = texts(tiny())
    lines = contents["users.dat"].split("\n")
    twice = contents | {"users.dat": "\n".join([*lines[:8], lines[1], *lines[9:]])}
    refuses(write_folder(tmp_path / "a", twice), r"/users.dat: line 9: user \d+ is on an earlier line already")
    refuses(tmp_path / "none", "none: no such file or folder")
    for raw in (write_folder(tmp_path / "b", {}), write_archive(tmp_path / "b.zip", {})):
        refuses(raw, "no ratings.dat in it")
    archive = write_archive(tmp_path / "ml-1m.zip", contents)
    archive.write_bytes(archive.read_bytes()[:-40])
    refuses(archive, r"ml-1m\.zip: truncated or damaged zip")
    packed = write_folder(tmp_path / "c", contents, packed=True) / "ratings.dat.gz"
    packed.write_bytes(packed.read_bytes()[:-40])
    refuses(packed.parent, r"ratings\.dat\.gz: truncated or damaged gzip")


def refuses(raw: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_files(raw)
    assert str(caught.value).startswith(str(raw))
