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
from scipy.optimize import minimize
from scipy.special import expit, log_expit

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
    assert dataset.last_second(rows.times) == 1704103200 + 3 * 86400
    logs = np.array([np.log1p(3.5), -np.log1p(10), np.log1p(100)])
    np.testing.assert_allclose(rows.numbers[[0, 2, 3], 0], (logs - logs.mean()) / logs.std(), rtol=1e-6)
    assert rows.numbers[1, 0] == 0
    sides = {field.name: field.side for field in dataset.schema.fields}
    assert sides == {"uid": "user", "item": "item", "gender": "user", "brand": "item", "genres": "item",
                     "price": "item"}  # fmt: skip
    shown = pq.read_table(dataset.path / "items.parquet").to_pydict()
    assert shown["brand"] == [None, "acme", "ze,ta", "acme"]
    assert shown["price"] == [None, 3.5, -10, 100]
    options = dataset.manifest["options"]
    assert (options["log_numerical"], options["positive"], options["time_unit"]) == (["price"], 1.0, "iso")
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
REFUSED: list[tuple[list[str], str]] = [
    ([*LABEL, "--categorical", "brnd"], r"c\.csv: no column 'brnd' \(did you mean 'brand'\?\)"),
    ([*LABEL, *FIELD, "--delimiter", ";"], "no column 'clicked'.*is ';' the right --delimiter"),
    ([*LABEL, *FIELD, "--bag", "brand"], "--bag brand: the column is --categorical already"),
    ([*LABEL, "--user", "clicked"], "--user clicked: the column is --label already"),
    (["--label", "brand", "--item", "item"], "row 1, column 'brand': found 'acme'"),
    ([*LABEL, "--numerical", "price", "gender"], "row 1, column 'gender': found 'M'"),
    (["--label", "stars", *FIELD], "row 1, column 'stars': found 5, .*say with --positive"),
    (["--label", "stars", *FIELD, "--positive", "6"], "'stars': found labels from 1 to 5, all negative"),
    (["--label", "stars", *FIELD, "--positive", "1"], "'stars': found labels from 1 to 5, all positive"),
    (["--label", "stars", *FIELD, "--positive", "nan"], "--positive: 'nan'"),
    (LABEL, "no fields to learn from"),
    ([*LABEL, *FIELD, "--time-unit", "s"], "--time-unit: belongs to --time"),
    ([*LABEL, *FIELD, "--user-fields", "brand"], "--user-fields: needs --user"),
    ([*LABEL, *FIELD, "--user", "uid", "--user-fields", "brad"], r"brad: no such field \(did you mean 'brand'\?\)"),
    ([*LABEL, "--user", "uid", "--item", "item", "--item-fields", "uid"], "--item-fields uid: .* of the user already"),
    ([*LABEL, "--categorical", "a/b"], "--categorical a/b: a name with a /"),
    ([*LABEL, *FIELD, "--bag-separator", ""], "--bag-separator: expected at least one character"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED)
def test_what_rows_refuses(argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(tmp_path / "c.csv")
    fails(capsys, "prepare", "rows", "--raw", raw, "--out", tmp_path / "deep" / "out", *argv, names=message)
    assert list(tmp_path.iterdir()) == [raw]  # nothing half-written


def test_lists_and_long_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(tmp_path / "c.csv", CLICKS.replace("Comedy", "x|" * 300))
    words = ["prepare", "rows", "--out", tmp_path / "out", "--raw"]
    fails(capsys, *words, raw, *OPTIONS, names="c.csv: row 2, column 'genres': a bag of 300 values")
    pq.write_table(pa.table({"y": [0, 1], "x": [[1], [2]]}), raw)
    fails(capsys, *words, raw, "--label=y", "--categorical=x", names=r"column 'x' holds lists \(BIGINT\[\]\).*--bag")
    fails(capsys, *words, raw, "--label=x", "--item=y", names=r"column 'x' is of type BIGINT\[\]; expected numbers")


# --- made-up clicks ---------------------------------------------------------------------------------------------------

MADE = ["rows-synthetic", "--rows=20000", "--users=50", "--items=30", "--seed=3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    return prepared(tmp_path_factory.mktemp("made") / "out", *MADE)


def table(dataset: RowsDataset, groups: Sequence[tuple[str, ...]]) -> np.ndarray:
    """float64[n, ...]: for each group of fields an indicator of each combination of their values; the number."""
    rows = dataset.rows()
    parts = [np.ones((len(rows), 1)), np.asarray(rows.numbers, np.float64)]
    for group in groups:
        columns = rows.columns[:, dataset.schema.columns(group)]
        code = np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)
        parts.append((code[:, None] == np.arange(code.max() + 1)).astype(np.float64))
    return np.concatenate(parts, axis=1)


def logistic_auc(x: np.ndarray, labels: np.ndarray) -> float:
    """The AUC of a logistic regression on the second half of the rows (at random), fitted on the first."""
    order = np.random.default_rng(0).permutation(len(labels))
    fit, rest = np.split(order, 2)
    known, sign = x[fit], 2.0 * labels[fit] - 1

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (known @ w)
        gradient = -(sign * expit(-margin)) @ known
        return float(-log_expit(margin).sum() + w @ w), gradient + 2 * w

    best = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    return auc((x[rest] @ best).astype(np.float32), labels[rest])


MAIN = [("user",), ("item",), ("device",), ("segment",), ("age",), ("brand",), ("tags",)]


def test_single_fields_fall_short_of_the_optimum_and_pairs_do_not(made: RowsDataset) -> None:
    labels, optimum = made.rows().labels, made.manifest["optimum"]
    alone = logistic_auc(table(made, MAIN), labels)
    pairs = logistic_auc(table(made, [*MAIN, ("segment", "item"), ("age", "item")]), labels)
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
    assert logistic_auc(table(control, MAIN), labels) == pytest.approx(0.5, abs=0.02)


def test_a_profile_says_a_number_as_the_rows_do(tmp_path: Path) -> None:
    """The logarithm that preparing takes is taken of a profile's number too, and undone where one is shown."""
    plain = write(tmp_path / "c.csv", CLICKS)
    dataset = prepared(tmp_path / "out", "rows", "--raw", plain, *OPTIONS, "--log-numerical", "price")
    field = next(field for field in dataset.schema.fields if field.name == "price")
    assert field.logarithm
    stored = dataset.rows().numbers[:, 0]
    np.testing.assert_allclose(field.standardised(np.array([3.5, -10.0, 100.0])), stored[[0, 2, 3]], rtol=1e-5)
    np.testing.assert_allclose(field.raw(stored[[0, 2, 3]]), [3.5, -10.0, 100.0], rtol=1e-5)
    words = ["--label", "clicked", "--categorical", "brand", "--log-numerical", "price"]
    alone = prepared(tmp_path / "alone", "rows", "--raw", plain, *words)
    np.testing.assert_array_equal(alone.rows().numbers[:, 0], stored, "--log-numerical says that it is a number too")
