"""Sources of rows: any table through ``prepare rows``, and made-up clicks whose best predictions are known."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fails

from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.metrics.clicks import auc
from jaxrec.prepare import main
from jaxrec.sources import rows_synthetic

CLICKS = """uid,item,clicked,at,gender,brand,genres,price,stars
7,a,1,2024-01-01T10:00:00Z,M,acme,Drama|War,3.5,5
8,b,0,2024-01-02T10:00:00.900Z,F,,Comedy,,3
7,b,0,2024-01-03T10:00:00Z,M,"ze,ta",,-10,4
9,c,1,2024-01-04T10:00:00Z,,acme,War|Drama||War,100,1
"""
OPTIONS = ["--label=clicked", "--user=uid", "--item=item", "--time=at", "--categorical", "gender", "brand",
           "--bag", "genres", "--numerical", "price", "--log-numerical", "price", "--user-fields", "gender",
           "--item-fields", "brand", "genres", "price"]  # fmt: skip


def prepared(out: Path, *argv: object) -> RowsDataset:
    main([*map(str, argv), "--out", str(out)])
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    return dataset


def write(file: Path, text: str = CLICKS) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def values(dataset: RowsDataset, name: str) -> list[Any]:
    """The raw values of a field by row; of a bag lists."""
    known = [None, *pq.read_table(dataset.path / f"vocabulary/{name}.parquet")["value"].to_pylist()]
    columns = dataset.rows().columns[:, dataset.schema.columns((name,))]
    rows = [[known[code] for code in row if code >= 0] for row in columns.tolist()]
    bag = next(field.kind for field in dataset.schema.fields if field.name == name) == "bag"
    return rows if bag else [row[0] for row in rows]


# --- any table --------------------------------------------------------------------------------------------------------


def test_rows_of_a_table(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "out", "rows", "--raw", write(tmp_path / "c.csv"), *OPTIONS)
    assert values(dataset, "uid") == [7, 8, 7, 9]
    assert values(dataset, "item") == ["a", "b", "b", "c"]
    assert values(dataset, "gender") == ["M", "F", "M", None]
    assert values(dataset, "brand") == ["acme", None, "ze,ta", "acme"]
    assert values(dataset, "genres") == [["Drama", "War"], ["Comedy"], [None], ["War", "Drama", "War"]]
    rows = dataset.rows()
    assert rows.labels.tolist() == [1, 0, 0, 1]
    assert rows.times.tolist() == [1704103200000 + 86400000 * day + 900 * (day == 1) for day in range(4)]
    assert dataset.manifest["times"] == {"unit": "ms", "first": "2024-01-01T10:00:00Z", "last": "2024-01-04T10:00:00Z"}
    logs = np.array([np.log1p(3.5), -np.log1p(10), np.log1p(100)])
    np.testing.assert_allclose(rows.numbers[[0, 2, 3], 0], (logs - logs.mean()) / logs.std(), rtol=1e-6)
    shown = pq.read_table(dataset.path / "items.parquet").to_pydict()
    assert shown["brand"] == [None, "acme", "ze,ta", "acme"]
    assert str(tmp_path) not in str(dataset.manifest)


def test_every_way_of_packing_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = CLICKS.replace(".900Z", "Z")
    plain = write(tmp_path / "c.csv", whole)
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(whole.encode()))
    write(tmp_path / "tabs.csv", whole.replace('"ze,ta"', "ze;ta").replace(",", "\t").replace(";", ","))
    price = pa.array([3.5, float("nan"), -10, 100])
    table = pa.table({
        "uid": pa.array([7, 8, 7, 9], pa.uint8()), "item": list("abbc"), "clicked": [True, False, False, True],
        "at": pa.array(np.array([f"2024-01-0{day}T10:00" for day in range(1, 5)], "datetime64[us]")),
        "gender": pa.array(["M", "F", "M", None]), "brand": ["acme", "", "ze,ta", "acme"], "price": price,
        "genres": [["Drama", "War"], ["Comedy"], None, ["War", "Drama", "War"]],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "c.parquet")
    found = set()
    for number, file in enumerate([plain, tmp_path / "c.csv.gz", tmp_path / "c.parquet", tmp_path / "tabs.csv"]):
        more = ["--delimiter", "\\t"] if number == 3 else []
        found.add(prepared(tmp_path / str(number), "rows", "--raw", file, *OPTIONS, *more).manifest["content_hash"])
    assert len(found) == 1


def test_ratings_rare_values_and_lists_of_integers(tmp_path: Path) -> None:
    table = pa.table({
        "stars": pa.array([5, 1, 4, 2], pa.int8()), "a": ["01", "01", "2", None], "b": [1.5, 1.5, float("nan"), 2.0],
        "c{": [[1, 2], [2], [], [2, None]], "d": ["1{2", "2", "", "2"],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "r.parquet")
    words = ["--label=stars", "--positive=4", "--min-count=2", "--categorical", "a", "b", "--bag", "c{", "d"]
    dataset = prepared(tmp_path / "out", "rows", "--raw", tmp_path / "r.parquet", *words, "--bag-separator={")
    assert values(dataset, "a") == ["01", "01", None, None]
    assert values(dataset, "b") == ["1.5", "1.5", None, None]
    assert values(dataset, "c{") == [[None, 2], [2], [None], [2]]
    assert values(dataset, "d") == [[None, 2], [2], [None], [2]]
    assert dataset.manifest["label"] == {"threshold": 4.0, "low": 1.0, "high": 5.0}
    assert dataset.rows().labels.tolist() == [1, 0, 1, 0]
    assert not dataset.rows().times.any()


LABEL, FIELD = ["--label", "clicked"], ["--categorical", "brand"]


@pytest.mark.parametrize(("argv", "message"), [
    ([*LABEL, "--categorical", "brnd"], r"c\.csv: no column 'brnd' \(did you mean 'brand'\?\)"),
    (["--label", "brand", "--item", "item"], "row 1, column 'brand': found 'acme'"),
    (["--label", "stars", *FIELD, "--positive", "6"], "'stars': found labels from 1 to 5, all negative"),
    (FIELD, "--label: not given, .*needs --user and --item"),
    (LABEL, "no fields to learn from"),
    ([*LABEL, *FIELD, "--user-fields", "brand"], "--user-fields: belongs to --user"),
    ([*LABEL, "--user", "uid", "--item", "item", "--item-fields", "uid"], "--item-fields uid: .* of the user already"),
    ([*LABEL, "--categorical", "a/b"], "--categorical a/b: a name with a /"),
    ([*LABEL, "--bag", "genres"], "row 2, column 'genres': a bag of 300 values"),
])  # fmt: skip
def test_what_rows_refuses(argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(tmp_path / "c.csv", CLICKS.replace("Comedy", "x|" * 300))
    fails(capsys, "prepare", "rows", "--raw", raw, "--out", tmp_path / "deep" / "out", *argv, names=message)
    assert list(tmp_path.iterdir()) == [raw]  # nothing half-written


# --- made-up clicks ---------------------------------------------------------------------------------------------------

MADE = ["rows-synthetic", "--rows=20000", "--users=50", "--items=30", "--seed=3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    return prepared(tmp_path_factory.mktemp("made") / "out", *MADE)


def columns(dataset: RowsDataset, groups: Sequence[tuple[str, ...]]) -> np.ndarray:
    """float64[n, ...]: for each group of fields an indicator of each combination of their values; the number."""
    rows = dataset.rows()
    parts = [np.ones((len(rows), 1)), np.asarray(rows.numbers, np.float64)]
    for group in groups:
        found = rows.columns[:, dataset.schema.columns(group)]
        code = np.unique(found, axis=0, return_inverse=True)[1].reshape(-1)
        parts.append((code[:, None] == np.arange(code.max() + 1)).astype(np.float64))
    return np.concatenate(parts, axis=1)


def regression_auc(x: np.ndarray, labels: np.ndarray) -> float:
    """The AUC of a ridge regression on the second half of the rows (at random), fitted on the first."""
    fit, rest = np.split(np.random.default_rng(0).permutation(len(labels)), 2)
    weights = np.linalg.solve(x[fit].T @ x[fit] + 4 * np.eye(x.shape[1]), x[fit].T @ labels[fit])
    return auc((x[rest] @ weights).astype(np.float32), labels[rest])


MAIN = [("user",), ("item",), ("device",), ("segment",), ("age",), ("brand",), ("tags",)]


def test_single_fields_fall_short_of_the_optimum_and_pairs_do_not(made: RowsDataset) -> None:
    labels, optimum = made.rows().labels, made.manifest["optimum"]
    alone = regression_auc(columns(made, MAIN), labels)
    pairs = regression_auc(columns(made, [*MAIN, ("segment", "item"), ("age", "item")]), labels)
    assert 0.78 < optimum["auc"] < 0.9
    assert optimum["auc"] - alone > 0.08
    assert optimum["auc"] - pairs < 0.04  # 10,000 rows do not tell all of 420 pairs
    assert alone > 0.6  # there is something in single fields


def test_the_optimum_is_that_of_the_labels_probabilities() -> None:
    random = np.random.default_rng(0)
    probability = np.round(random.uniform(0.01, 0.99, 3000), 2)  # with ties
    labels = (random.random(3000) < probability).astype(np.float32)
    found = rows_synthetic.optimum(probability, labels)
    assert found["auc"] == pytest.approx(auc(probability.astype(np.float32), labels), abs=1e-9)
    expected = -np.mean(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    assert found["log_loss"] == pytest.approx(expected, abs=1e-8)


def test_made_up_rows(made: RowsDataset, tmp_path: Path) -> None:
    rows, manifest = made.rows(), made.manifest
    assert (manifest["optimum"]["over"], manifest["optimum"]["rows"]) == ("all rows", 20_000)
    assert [(field.name, field.kind, field.side) for field in made.schema.fields] == [
        ("user", "categorical", "user"), ("item", "categorical", "item"), ("segment", "categorical", "user"),
        ("age", "categorical", "user"), ("brand", "categorical", "item"), ("device", "categorical", "context"),
        ("tags", "bag", "item"), ("log_price", "numerical", "item"),
    ]  # fmt: skip
    assert np.all(np.diff(rows.times) >= 0)
    for side in ("user", "item"):  # what describes an entity is the same in all of its rows
        own = rows.columns[:, made.schema.columns((side,))[0]]
        columns = made.schema.columns(made.schema.of_side(side))
        np.testing.assert_array_equal(made.array(f"{side}s.npy")[own], rows.columns[:, columns])
    np.testing.assert_array_equal(made.array("items_numbers.npy")[rows.columns[:, 1]], rows.numbers)
    again = prepared(tmp_path / "again", *MADE, "--threads=1")
    assert again.manifest == manifest
    assert prepared(tmp_path / "other", *MADE[:-1], "--seed=4").manifest["content_hash"] != manifest["content_hash"]


def test_noise_lowers_the_optimum_and_independent_labels_leave_none(made: RowsDataset, tmp_path: Path) -> None:
    noisy = prepared(tmp_path / "noisy", *MADE, "--noise=0.5").manifest["optimum"]
    assert 0.6 < noisy["auc"] < made.manifest["optimum"]["auc"] - 0.1
    assert noisy["log_loss"] > made.manifest["optimum"]["log_loss"]
    control = prepared(tmp_path / "control", *MADE, "--independent")
    assert control.manifest["optimum"]["auc"] == 0.5
    labels = control.rows().labels
    share = float(labels.mean())
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert control.manifest["optimum"]["log_loss"] == pytest.approx(entropy, abs=1e-3)
    assert regression_auc(columns(control, MAIN), labels) == pytest.approx(0.5, abs=0.02)
