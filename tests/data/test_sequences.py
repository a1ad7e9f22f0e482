"""``prepare sequences``: a line per user, split by leave-one-out."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import call, fails, prepared, sessions

REAL = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data" / "amazon"
LINES = [["ann", "7", "3", "5", "9"], ["bob", "3", "7", "5"], ["cy", "5", "3", "7", "11", "3"]]
TEXT = "\n".join([" ".join(LINES[0]), "", "\t".join(LINES[1]), "  " + "  ".join(LINES[2]) + " "])


def test_each_line_is_split_by_its_order(tmp_path: Path) -> None:
    """Integers; an item that is a test target alone is in the catalogue, and no target is dropped."""
    manifest, out = prepared(tmp_path / "d", "sequences", TEXT), tmp_path / "d"
    wanted = [[int(one) for one in line[1:]] for line in LINES]
    for split, end in (("test", None), ("validation", -1), ("train", -2)):
        assert sessions(out, split) == [one[:end] for one in wanted], "in the order of the lines"
    assert set(pq.read_table(out / "items.parquet")["item"].to_pylist()) == {3, 5, 7, 9, 11}
    assert manifest["read"] == {"rows": 3, "files": 1, "blank_lines": 1}
    assert manifest["scored"] == {"validation": "last", "test": "last"} and "times" not in manifest
    assert manifest["counts"]["test"]["targets"] == manifest["counts"]["validation"]["targets"] == 3


def test_ids_are_texts_where_one_is(tmp_path: Path) -> None:
    prepared(tmp_path / "d", "sequences", TEXT.replace("9", "009"))
    assert sessions(tmp_path / "d", "test")[0] == ["7", "3", "5", "009"]


@pytest.mark.parametrize("pack", ["gz", "zst", "zip", "several", "windows"])
def test_packed_files_are_read_as_plain_ones(pack: str, tmp_path: Path) -> None:
    file = tmp_path / f"s.txt.{pack}"
    if pack == "gz":
        file.write_bytes(gzip.compress(TEXT.encode()))
    elif pack == "zst":
        with pa.output_stream(file, compression="zstd") as stream:
            stream.write(TEXT.encode())
    elif pack == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("s.txt", TEXT)
    elif pack == "windows":
        file.write_bytes(TEXT.replace("\n", "\r\n").encode())
    else:
        file.mkdir()
        for name, lines in (("a.txt", TEXT.splitlines()[:2]), ("b.txt", TEXT.splitlines()[2:])):
            (file / name).write_text("\n".join(lines))
    (plain := tmp_path / "plain.txt").write_text(TEXT)
    hashes = {prepared(tmp_path / "d", "sequences", raw)["content_hash"] for raw in (plain, file)}
    assert len(hashes) == 1


def test_users_of_fewer_than_three_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are refused with file, line, user and number; or are left out, and counted."""
    text = TEXT + "\ndee 4 8\neve\n"
    (raw := tmp_path / "s.txt").write_text(text)
    words = ["sequences", "--raw", raw, "--out", tmp_path / "d"]
    named = (
        r"s\.txt: line 5: user 'dee' has 2 items, and leave-one-out needs 3.*--drop-short leaves out such users, 2 here"
    )
    fails(capsys, "prepare", *words, names=named)
    assert call("prepare", *words, "--drop-short") == 0
    manifest = prepared(tmp_path / "d", "sequences", raw, "--drop-short")
    assert manifest["dropped"]["users of too few items"] == {"sessions": 2, "events": 2}
    assert manifest["read"]["rows"] == 5 and len(sessions(tmp_path / "d")) == 3
    assert manifest["options"]["drop_short"] is True


@pytest.mark.parametrize(("text", "words", "names"), [
    (TEXT + "\nann 1 2 3", [], r"line 5: user 'ann' again, after .*line 1; a user has one line"),
    ("ann 1 NA 3 4", [], "line 1: item 'NA', expected an id"),
    ("ann 1 x 3 4", ["--na", "x"], "line 1: item 'x', expected an id"),
    ("ann,1,2,3,4", [], "line 1: user 'ann,1,2,3,4' has 0 items"),
    ("ann 1 2\nbob 3", ["--drop-short"], "all 2 users have fewer than 3 items; expected lines 'user item item"),
    ("", [], r"s.txt: (is empty|holds no line 'user item item)"),
    ("\n \n", [], r"s.txt: holds no line 'user item item ...'; name another file"),
    ("ann 1 2 3\nbob 2 3 4", [], "s.txt: all users have 3 items, of which one is left to train on; .* needs 4"),
    (TEXT, ["--test-days", "3"], "unrecognized arguments: --test-days"),
])  # fmt: skip
def test_what_is_refused(
    text: str, words: list[str], names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw := tmp_path / "s.txt").write_text(text)
    fails(capsys, "prepare", "sequences", "--raw", raw, "--out", tmp_path / "d", *words, names=names)


def test_parquet_is_for_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"user": [1], "item": [2]}), raw := tmp_path / "s.parquet")
    fails(capsys, "prepare", "sequences", "--raw", raw, "--out", tmp_path / "d", names="Parquet; expected text")


def test_na_may_be_an_item(tmp_path: Path) -> None:
    prepared(tmp_path / "d", "sequences", "ann 1 NA 3 4", "--na")
    assert sessions(tmp_path / "d", "test") == [["1", "NA", "3", "4"]]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/amazon, which is not here")
@pytest.mark.parametrize(("name", "users", "items", "actions"), [
    ("Beauty", 22_363, 12_101, 198_502), ("Toys_and_Games", 19_412, 11_924, 167_597),
])  # fmt: skip
def test_the_published_counts(name: str, users: int, items: int, actions: int, tmp_path: Path) -> None:
    counts = prepared(tmp_path / "d", "sequences", REAL / f"{name}.txt")["counts"]
    assert counts["items"] == items
    assert counts["test"] == {"sessions": users, "events": actions, "targets": users}
    assert counts["train"]["events"] == actions - 2 * users
