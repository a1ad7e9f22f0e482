"""The data sets of BARS, from generated files of their layout."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from helpers import call, fails

from jaxrec.data.dataset import RowsDataset, open_dataset
from jaxrec.data.splits import RowData, configured_splits
from jaxrec.errors import UserError
from jaxrec.leaderboard.kinds import kind_of
from jaxrec.prepare import main
from jaxrec.recommend import Recommender
from jaxrec.sources.bars import CODES, COUNTS, FILES, bucket

SIZES = (60, 20, 30)  # rows of the three files
HEADERS = {
    "movielenslatest_x1": ("label", "user_id", "item_id", "tag_id"),
    "criteo_x1": ("label", *COUNTS, *CODES),
    "criteo_x4": ("Label", *COUNTS, *CODES),
}
Lines = list[list[str]]


def generated(name: str, seed: int = 0) -> list[Lines]:
    """The lines of the three files: labels that the first column of codes decides, rare values, and gaps."""
    draw, files = np.random.default_rng(seed), list[Lines]()
    for size, shift in zip(SIZES, (0, 3, 5), strict=True):  # what later files shift is not in training
        codes = draw.integers(0, 12, (size, 3 if name.startswith("movie") else 26)) + shift
        counts = draw.integers(-3, 400, (size, 0 if name.startswith("movie") else 13))
        lines = []
        for number, (left, right) in enumerate(zip(counts.tolist(), codes.tolist(), strict=True)):
            numbers = [f"{x / 400:.6f}" if name == "criteo_x1" else str(x) for x in left]
            values = [f"{x:08x}" if name == "criteo_x4" else str(x) for x in right]
            lines.append([str(right[0] % 2), *numbers, *values])
            if name.startswith("criteo") and number % 7 == 0:
                lines[-1][2] = lines[-1][-1] = ""
        files.append(lines)
    return files


def written(folder: Path, name: str, files: list[Lines], packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for file, lines in zip(FILES, files, strict=True):
        text = "\n".join(",".join(line) for line in [list(HEADERS[name]), *lines]) + "\n"
        (folder / f"{file}.gz").write_bytes(gzip.compress(text.encode())) if packed else (folder / file).write_text(
            text
        )
    return folder


def prepared(place: Path, name: str, files: list[Lines], *argv: str, packed: bool = False) -> RowsDataset:
    raw = written(place / name, name, files, packed)
    main(["bars", "--set", name, "--raw", str(raw), "--out", str(place / "data"), "--overwrite", *argv])
    dataset = open_dataset(place / "data")
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    return dataset


def numpy_bucket(text: str) -> int:
    """The bucket of a count, straight from BARS's description; 0 is the value that it counts as missing."""
    if not text:
        return 0
    x = float(text)
    return math.floor(math.log(x) ** 2) if x > 2 else int(x)


def meant(name: str, column: str, text: str) -> Any:
    """The value of a cell, None where it is nothing."""
    if name == "criteo_x4":
        return (numpy_bucket(text) or None) if column in COUNTS else (text or None)
    return int(text) if text else None


@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize("name", list(HEADERS))
def test_rows_keep_their_split_and_values_that_training_lacks_are_unknown(
    name: str, least: int, tmp_path: Path
) -> None:
    files = generated(name)
    dataset = prepared(tmp_path, name, files, "--min-count", str(least), packed=least == 4)
    lines = [line for part in files for line in part]
    rows, schema = dataset.rows(), dataset.schema
    assert dataset.manifest["splits"] == dict(zip(("train", "validation", "test"), SIZES, strict=True))
    np.testing.assert_array_equal(rows.labels, [float(line[0]) for line in lines])
    splits = configured_splits(RowData(path="x", protocol="published"), rows, schema, True)
    np.testing.assert_array_equal(splits.train, np.arange(60))
    np.testing.assert_array_equal(splits.validation, np.arange(60, 80))
    np.testing.assert_array_equal(splits.test, np.arange(80, 110))
    unknown = 0
    for place, column in enumerate(HEADERS[name][1:], 1):
        if name == "criteo_x1" and column in COUNTS:  # as they are
            found = rows.numbers[:, COUNTS.index(column)]
            np.testing.assert_array_equal(found, np.array([line[place] or 0 for line in lines], np.float32))
            continue
        cells = [meant(name, column, line[place]) for line in lines]
        seen = Counter(cell for cell in cells[:60] if cell is not None)
        kept = sorted(value for value, count in seen.items() if count >= least)
        assert dataset.values(column) == kept
        codes = {value: code for code, value in enumerate(kept, 1)}
        expected = [codes.get(cell, 0) for cell in cells]
        np.testing.assert_array_equal(rows.columns[:, schema.columns((column,))[0]], expected)
        unknown += expected[60:].count(0)
    assert unknown > 20


def test_buckets_are_those_of_bars() -> None:
    counts = [-3, -1, 0, 1, 2, 3, 4, 7, 8, 20, 148, 149, 65535, 2**31]
    values = ", ".join(f"({count}::DOUBLE)" for count in counts)
    found = duckdb.execute(f"SELECT {bucket('x')} FROM (VALUES {values}) AS t(x)").fetchall()
    assert [value for (value,) in found] == [numpy_bucket(str(count)) for count in counts]


SMALL = ("--model.attention_dim", 8, "--model.deep", "[8]", "--training.epochs", 2, "--training.batch_size", 16)


def test_a_run_trains_on_the_published_split_evaluates_and_recommends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = generated("movielenslatest_x1")
    data, run = prepared(tmp_path, "movielenslatest_x1", files).path, tmp_path / "run"
    assert "train.csv: 60 rows, and the published file has 1,404,801" in capsys.readouterr().err
    config = Path(__file__).parents[2] / "configs" / "autoint_plus_movielens_latest_x1.yaml"
    assert call("train", "--config", config, "--data.path", data, "--run", run, *SMALL) == 0
    assert "60 rows" in (output := capsys.readouterr()).out + output.err
    assert call("evaluate", "--run", run, "--split", "validation") == 0
    assert call("evaluate", "--run", run) == 0
    with open(run / "eval-test.json", encoding="utf-8") as stream:
        assert '"rows": 30' in stream.read()
    assert Recommender.load(run).recommend({"user": int(files[0][0][1])}, k=3).items


def test_criteo_trains_from_its_configuration(tmp_path: Path) -> None:
    data, run = prepared(tmp_path, "criteo_x1", generated("criteo_x1")).path, tmp_path / "run"
    config = Path(__file__).parents[2] / "configs" / "autoint_plus_criteo_x1.yaml"
    assert call("train", "--config", config, "--data.path", data, "--run", run, *SMALL) == 0
    assert call("evaluate", "--run", run) == 0


def test_what_is_not_the_published_layout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, files = "movielenslatest_x1", generated("movielenslatest_x1")
    raw, out = written(tmp_path / "raw", name, files), tmp_path / "out"

    def refused(names: str, which: str = name) -> str:
        return fails(capsys, "prepare", "bars", "--set", which, "--raw", raw, "--out", out, names=names)

    refused("column 2 is 'user_id', and criteo_x1 has 'I1' there", "criteo_x1")
    for text, names in (
        ("label,user_id,tag_id,item_id\n1,2,3,4\n", "column 3 is 'tag_id'"),
        ("label,user_id,item_id\n1,2,3\n", "3 columns, and movielenslatest_x1 has 4"),
        ("label,user_id,item_id,tag_id\n2,1,1,1\n", "column 'label': found '2', expected 0 or 1"),
        ("label,user_id,item_id,tag_id\n1,x,1,1\n", "column 'user_id': found 'x', expected a whole number"),
        ("label,user_id,item_id,tag_id\n1,-7,1,1\n", "column 'user_id': found '-7', expected a whole number"),
        ("label,user_id,item_id,tag_id\n", "valid.csv: no rows"),
    ):
        (raw / "valid.csv").write_text(text)
        refused(names)
    (raw / "valid.csv").unlink()
    refused("no valid.csv in it")


def test_the_split_is_not_changed_by_other_settings(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, "movielenslatest_x1", generated("movielenslatest_x1"))
    rows = dataset.rows()
    for field, value in (("validation_fraction", 0.1), ("repeats", "leave")):
        with pytest.raises(UserError, match=f"data.{field}"):
            configured_splits(RowData.model_validate({"path": "x", "protocol": "published", field: value}), rows,
                              dataset.schema)  # fmt: skip


def test_the_leaderboard_leaves_the_published_splits_as_they_are(tmp_path: Path) -> None:
    """Nothing is held out of the training rows, and validation rows are never trained on."""
    dataset = prepared(tmp_path, "movielenslatest_x1", generated("movielenslatest_x1"))
    kind = kind_of(dataset, None, ["--data.protocol", "published"])
    assert kind.task == "clicks" and not kind.refits
    assert (kind.queries("validation"), kind.queries("test")) == SIZES[1:]
    assert kind.config("autoint", {}).data.validation_fraction == 0
    assert kind_of(dataset, None, []).refits and kind_of(dataset, None, []).queries("test") != SIZES[2]


def test_data_without_splits_of_their_own_have_none_to_keep() -> None:
    from test_row_splits import SHOP, SIDES

    with pytest.raises(UserError, match=r"data\.protocol: published needs"):
        configured_splits(RowData(path="x", protocol="published"), SHOP, SIDES)
