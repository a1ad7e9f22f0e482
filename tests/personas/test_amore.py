"""The source ``amore``: a shop's reviews to rows, customers drawn or given; and its cross-validation by review."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails
from reviews import WORDS, fake_embed, fake_encoding, made_customers, made_products, made_texts, write_json

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import RowsDataset, open_dataset
from jaxrec.errors import UserError
from jaxrec.personas import folds as review_folds
from jaxrec.personas.amore import Reviews, read_reviews
from jaxrec.personas.folds import Fold, cross_validate, make_folds

TEXTS, TRUTH = made_texts(6)
PRODUCTS = made_products(TEXTS)
DRAWS = 7
Capsys = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_encoding(monkeypatch)
    monkeypatch.setattr(review_folds, "DRAWS", DRAWS)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_json(tmp_path / "reviews.json", PRODUCTS)


def prepared(out: Path, raw: Path, *argv: object) -> RowsDataset:
    assert call("prepare", "amore", "--raw", raw, "--out", out, *argv) == 0
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    return dataset


def values(dataset: RowsDataset, name: str) -> list[Any]:
    """The raw values of a field by row."""
    field = next(one for one in dataset.schema.fields if one.name == name)
    if field.kind == "numerical":
        numbers = [one.name for one in dataset.schema.numerical]
        return np.round(field.raw(dataset.rows().numbers[:, numbers.index(name)])).tolist()
    known = [None, *dataset.values(name)]
    return [known[code] for code in dataset.rows().columns[:, dataset.schema.columns((name,))[0]].tolist()]


def personas(dataset: RowsDataset) -> tuple[list[str], dict[str, Any]]:
    """The persona of each review, and what personas.json says."""
    table, facts = pq.read_table(dataset.path / "reviews.parquet"), (dataset.path / "personas.json").read_text("utf-8")
    return table["persona"].to_pylist(), json.loads(facts)


def test_customers_are_drawn(raw: Path, tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "out", raw, "--seed=5", "--model=some/model")
    rows, bought = dataset.rows(), [product for product in PRODUCTS for _ in product["reviews"]]
    assert len(rows) == 36 and rows.labels.all() and not rows.times.any()
    assert values(dataset, "customer") == [f"user_{number:04d}" for number in range(36)]
    for name, key in (("product", "product_id"), ("price", "price")):
        assert values(dataset, name) == [one[key] for one in bought]
    assert values(dataset, "brand") == [one["brand_name"] or None for one in bought]
    names = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men", 105: "105"}
    assert values(dataset, "category") == [names[one["category"]] for one in bought]
    found, facts = personas(dataset)
    assert np.mean([name == list(WORDS)[truth] for name, truth in zip(found, TRUTH, strict=True)]) > 0.85
    for one in facts["personas"]:
        assert [found[int(customer.removeprefix("user_"))] for customer in one["nearest"]] == [one["name"]] * 3
    users = pq.read_table(dataset.path / "users.parquet").to_pydict()
    assert users == {"customer": [None, *values(dataset, "customer")], "persona": [None, *found]}
    assert np.array_equal(np.load(dataset.path / "embeddings.npy"), fake_embed(TEXTS, ""))
    assert dataset.manifest["personas"] == {
        "attributes": "derived", "given": False, "clusters": 6, "seed": 5, "model": "some/model",
        "names": [one["name"] for one in facts["personas"]],
    }  # fmt: skip
    page = (dataset.path / "PERSONAS.md").read_text(encoding="utf-8")
    assert "36 reviews. K-means (k = 6, seed 5) on embeddings of some/model" in page.replace("\\", "")


def test_customers_are_given(raw: Path, tmp_path: Path) -> None:
    people = made_customers(PRODUCTS, TRUTH)
    people[0]["persona_name"] = "Sailor"
    file = write_json(tmp_path / "customers.json", people)
    dataset = prepared(tmp_path / "out", raw, "--customers", file)
    for name, key in (("customer", "user_id"), ("gender", "gender"), ("age", "age")):
        assert values(dataset, name) == [one[key] for one in people]
    found, facts = personas(dataset)
    assert facts["given"]
    assert {one["name"]: one["rule"] for one in facts["personas"]} == dict.fromkeys(WORDS, True) | {"Sailor": False}
    assert found == [one["persona_name"] for one in people]


@pytest.mark.parametrize(("change", "message"), [
    (lambda products, people: products[2].pop("price"), "r.json: 2.price: missing"),
    (lambda products, people: products[2].update(product_id="p000-"), "product_id: found 'p000-' twice"),
    (lambda products, people: people.pop(), "customers.json: 35.purchased_product_id: found None"),
])  # fmt: skip
def test_what_no_shop_has(change: Any, message: str, tmp_path: Path, capsys: Capsys) -> None:
    products, people = copy.deepcopy(PRODUCTS), made_customers(PRODUCTS, TRUTH)
    change(products, people)
    raw, customers = (write_json(tmp_path / f"{name}.json", value)
                      for name, value in (("r", products), ("customers", people)))  # fmt: skip
    fails(capsys, "prepare", "amore", "--raw", raw, "--customers", customers, "--out", tmp_path / "out", names=message)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    """60 reviews of 8 products."""
    root = tmp_path_factory.mktemp("amore")
    with pytest.MonkeyPatch.context() as patch:
        fake_encoding(patch)
        return prepared(root / "derived", write_json(root / "reviews.json", made_products(made_texts(10)[0], 8)))


def config_of(dataset: RowsDataset) -> Config:
    return configuration.parse({
        "data": {"path": str(dataset.path), "protocol": "in_sample", "validation_fraction": 0.0, "test_fraction": 0.0,
                 "fields": ["age", "gender", "skin_type", "skin_concern", "category", "brand", "price"]},
        "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [8], "output_dim": 4, "dropout_hidden": 0.0},
        "loss": {"name": "triplet"},
        "training": {"epochs": 1, "passes": 2, "batch_size": 32, "metric": "recall@3"},
        "evaluation": {"k": [3], "category": "category"},
    })  # fmt: skip


def folds_of(dataset: RowsDataset, folds: int, stated: bool = False) -> list[Fold]:
    return list(make_folds(config_of(dataset), dataset, folds, 0, stated))


@pytest.mark.parametrize("stated", [True, False])
def test_each_review_is_left_out_once(dataset: RowsDataset, stated: bool) -> None:
    """And its customer with it; a fold is trained on all the others."""
    found, rows = folds_of(dataset, 4, stated), dataset.rows()
    left_out = np.concatenate([data.splits.test for data, _ in found])
    np.testing.assert_array_equal(np.sort(left_out), np.arange(60))
    for data, profiles in found:
        train, _, test, _ = data.splits
        np.testing.assert_array_equal(np.sort(np.append(train, test)), np.arange(60))
        assert not set(rows.users[train]) & set(rows.users[test]) and len(test) == 15
        assert set(data.training_rows().users.tolist()) == set(rows.users[train].tolist())
        np.testing.assert_array_equal(profiles.items, np.repeat(data.queries(test).items, 1 if stated else DRAWS))
        if stated:
            age = [field.name for field in dataset.schema.numerical].index("age")
            np.testing.assert_array_equal(profiles.numbers[:, 0], rows.numbers[test, age])


def changed(reviews: Reviews, rows: np.ndarray) -> Reviews:
    """With other things said in some of the reviews."""
    embeddings, texts = np.array(reviews.embeddings), list(reviews.texts)
    embeddings[rows] = embeddings[rows[::-1]] * np.float16(-3)
    for row in rows:
        texts[row] = "선물로 gift present packaging"
    return reviews._replace(embeddings=embeddings, texts=texts)


def test_what_a_left_out_review_says_does_not_matter(dataset: RowsDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the attributes of the others, nor to the profiles that its customer is asked for with."""
    reviews, (data, profiles) = read_reviews(dataset.path, dataset.manifest), folds_of(dataset, 3)[0]
    train, _, test, _ = data.splits
    monkeypatch.setattr(review_folds, "read_reviews", lambda *_: changed(reviews, test))
    other, asked = folds_of(dataset, 3)[0]
    for ours, theirs in zip((*profiles, data.rows.columns[train]), (*asked, other.rows.columns[train]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(review_folds, "read_reviews", lambda *_: changed(reviews, train))
    other, _ = folds_of(dataset, 3)[0]
    assert np.any(data.rows.columns[train] != other.rows.columns[train]), "those of others do"


def test_the_figures_of_all_folds(dataset: RowsDataset) -> None:
    moved: list[int] = []
    result = cross_validate(config_of(dataset), dataset, [2, 3], 2, update=lambda: moved.append(1))
    assert (result["folds"], result["targets"], len(moved)) == (2, 60, 2)
    assert result["profiles"] == f"{DRAWS} profiles a review, drawn like those of the other customers"
    assert result["chance"]["hit_rate@3"] == pytest.approx(3 / 8)
    for name in ("hit_rate@2", "hit_rate@3", "category_hit@2", "category_hit@3"):
        low, high = result["intervals"][name]
        assert 0 <= low <= result[name] <= high <= 1 and name in result["popularity"]
    with pytest.raises(UserError, match=r"^--folds 61: expected 2 to 60, the number of customers, or 0 for none"):
        folds_of(dataset, 61)
