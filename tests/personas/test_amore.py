"""The source ``amore``: a shop's reviews to rows, customers drawn from personas or given, and the files beside them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails, put
from reviews import WORDS, fake_embed, fake_encoding, made_customers, made_products, made_texts, write_json

from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.personas.clusters import draw_attributes
from jaxrec.personas.files import read_reviews
from jaxrec.personas.rules import Range, read_rules

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
REAL = SHARED / "amore"
TEXTS, TRUTH = made_texts(6)
PRODUCTS = made_products(TEXTS)
Capsys = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_encoding(monkeypatch)


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
        return field.raw(dataset.rows().numbers[:, numbers.index(name)]).tolist()
    known = [None, *dataset.values(name)]
    return [known[code] for code in dataset.rows().columns[:, dataset.schema.columns((name,))[0]].tolist()]


def test_customers_are_drawn(raw: Path, tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "out", raw)
    rows, bought = dataset.rows(), [product for product in PRODUCTS for _ in product["reviews"]]
    assert len(rows) == 36 and rows.labels.all() and not rows.times.any()
    assert values(dataset, "customer") == [f"user_{number:04d}" for number in range(36)]
    assert values(dataset, "product") == [one["product_id"] for one in bought]
    assert values(dataset, "brand") == [one["brand_name"] or None for one in bought]
    names = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men", 105: "105"}
    assert values(dataset, "category") == [names[one["category"]] for one in bought]
    np.testing.assert_allclose(values(dataset, "price"), [one["price"] for one in bought], rtol=1e-5)
    reviews = read_reviews(dataset.path, dataset.manifest)
    drawn = draw_attributes(reviews.labels, reviews.personas, reviews.rules, 0)
    np.testing.assert_allclose(values(dataset, "age"), drawn["age"], rtol=1e-5)
    assert values(dataset, "skin_concern") == drawn["skin_concern"].tolist()
    found = [reviews.personas[label].name for label in reviews.labels]
    assert np.mean([name == list(WORDS)[truth] for name, truth in zip(found, TRUTH, strict=True)]) > 0.9
    users = pq.read_table(dataset.path / "users.parquet").to_pydict()
    assert users == {"customer": [None, *reviews.customers], "persona": [None, *found]}


def test_the_files_beside_the_rows(raw: Path, tmp_path: Path) -> None:
    words = ["--seed=5", "--model=some/model"]
    dataset = prepared(tmp_path / "out", raw, *words)
    manifest, table = dataset.manifest, pq.read_table(dataset.path / "reviews.parquet").to_pydict()
    assert {"reviews.parquet", "embeddings.npy", "personas.json", "PERSONAS.md"} <= set(manifest["files"])
    assert table["text"] == TEXTS and table["product"] == values(dataset, "product")
    assert np.array_equal(np.load(dataset.path / "embeddings.npy"), fake_embed(TEXTS, ""))
    facts = json.loads((dataset.path / "personas.json").read_text(encoding="utf-8"))
    for one in facts["personas"]:
        assert [table["persona"][table["customer"].index(customer)] for customer in one["nearest"]] == [one["name"]] * 3
    names = [one["name"] for one in facts["personas"]]
    assert manifest["personas"] == {"attributes": "derived", "given": False, "clusters": 6, "seed": 5,
                                    "model": "some/model", "names": names}  # fmt: skip
    page = (dataset.path / "PERSONAS.md").read_text(encoding="utf-8")
    assert "36 reviews. K-means (k = 6, seed 5) on embeddings of some/model" in page.replace("\\", "")
    assert prepared(tmp_path / "again", raw, *words).manifest == manifest
    read_reviews(dataset.path, manifest).write(tmp_path)
    for name in ("personas.json", "PERSONAS.md", "embeddings.npy"):
        assert (tmp_path / name).read_bytes() == (dataset.path / name).read_bytes()
    (dataset.path / "personas.json").write_text("{}")
    with pytest.raises(UserError, match=r"out: damaged or missing reviews \('personas'\); prepare the data set again"):
        read_reviews(dataset.path, manifest)


def test_customers_are_given(raw: Path, tmp_path: Path) -> None:
    people = made_customers(PRODUCTS, TRUTH)
    people[0]["persona_name"] = "Sailor"
    file = write_json(tmp_path / "customers.json", people)
    dataset = prepared(tmp_path / "out", raw, "--customers", file, "--model=none")
    assert values(dataset, "customer") == [one["user_id"] for one in people]
    assert values(dataset, "gender") == [one["gender"] for one in people]
    np.testing.assert_allclose(values(dataset, "age"), [one["age"] for one in people], rtol=1e-5)
    reviews = read_reviews(dataset.path, dataset.manifest)
    assert reviews.given and reviews.embeddings is None and reviews.model is None
    assert [(one.name, one.rule) for one in reviews.personas] == [*((name, True) for name in WORDS), ("Sailor", False)]
    assert [reviews.personas[label].name for label in reviews.labels] == [one["persona_name"] for one in people]


def test_a_table_of_ones_own(raw: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("Giver: {title: gives, words: [gift, 선물], attributes: {income: {low: 1, high: 9}}}\n"
                    "Calm: {title: calm, words: [calm, 진정], attributes: {income: {low: 20, high: 30}}}\n",
                    encoding="utf-8")  # fmt: skip
    dataset = prepared(tmp_path / "out", raw, "--personas", mine, "--clusters", "auto")
    reviews, income = read_reviews(dataset.path, dataset.manifest), np.array(values(dataset, "income"))
    persona = np.array([reviews.personas[label].name for label in reviews.labels])
    assert {"Giver", "Calm"} <= set(persona)
    assert income[persona == "Giver"].max() < 10 < 19 < income[persona == "Calm"].min()


# --- bad input --------------------------------------------------------------------------------------------------------


def edit(*path: Any, value: Any) -> Callable[[list[Any]], Any]:
    """A change of one place of the file; ``...`` removes it."""
    return lambda entries: put(entries, path, value)


@pytest.mark.parametrize(("change", "message"), [
    (edit(2, "price", value=...), "2.price: missing"),
    (edit(2, "price", value="9,900"), "2.price: found '9,900'"),
    (edit(2, "product_id", value="p000-"), "products.2.product_id: found 'p000-', which 0 has too"),
    (edit(3, "reviews", 0, "content", value=" \n"), "3.reviews.0.content: "),
    (lambda entries: made_products(TEXTS[:4], 2), r"4 reviews \(4 different ones\) for 6 personas"),
])  # fmt: skip
def test_products_that_no_shop_has(
    change: Callable[[list[Any]], Any], message: str, tmp_path: Path, capsys: Capsys
) -> None:
    raw = tmp_path / "reviews.json"
    raw.write_text(json.dumps(change(copy.deepcopy(PRODUCTS))), encoding="utf-8")
    fails(capsys, "prepare", "amore", "--raw", raw, "--out", tmp_path / "out", names=message)
    assert list(tmp_path.iterdir()) == [raw]


@pytest.mark.parametrize(("change", "message"), [
    (lambda entries: entries[:-1], "35 customers for 36 reviews"),
    (edit(4, "age", value=3.5), "4.age: found 3.5"),
    (edit(4, "user_id", value="c3"), "customers.4.user_id: found 'c3', which 3 has too"),
    (edit(4, "purchased_product_id", value="p003-"), "customers.4.purchased_.*'p003-', but review 4 is of 'p000-'"),
])  # fmt: skip
def test_customers_that_do_not_fit(
    change: Callable[[list[Any]], Any], message: str, raw: Path, tmp_path: Path, capsys: Capsys
) -> None:
    file = write_json(tmp_path / "customers.json", change(made_customers(PRODUCTS, TRUTH)))
    words = ["--raw", raw, "--customers", file, "--model=none", "--out", tmp_path / "out"]
    fails(capsys, "prepare", "amore", *words, names=f"customers.json: .*{message}")


@pytest.mark.parametrize(("argv", "message"), [
    (["--model=none"], "--model none"),
    (["--clusters=6", "--customers=x"], "--clusters: --customers names the personas"),
    (["--personas={place}/price.yaml"], "price.yaml: A.attributes.price: a field of every data set"),
])  # fmt: skip
def test_options_that_do_not_go_together(
    argv: list[str], message: str, raw: Path, tmp_path: Path, capsys: Capsys
) -> None:
    (tmp_path / "price.yaml").write_text("A: {title: a, words: [a], attributes: {price: {low: 1, high: 2}}}\n")
    words = [word.format(place=tmp_path) for word in argv]
    fails(capsys, "prepare", "amore", "--raw", raw, "--out", tmp_path / "out", *words, names=message)


# --- the real shop ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data is not at {REAL} (set JAXREC_SHARED_DATA)")
def test_the_real_shop(tmp_path: Path) -> None:
    raw, file = REAL / "amoremall_reviews.json", REAL / "customers.json"
    dataset = prepared(tmp_path / "out", raw, "--customers", file, "--model=none")
    people = json.loads(file.read_text(encoding="utf-8"))
    for name, key in (("gender", "gender"), ("skin_type", "skin_type"), ("skin_concern", "skin_concern"),
                      ("customer", "user_id"), ("product", "purchased_product_id"),
                      ("category", "product_category_name")):  # fmt: skip
        assert values(dataset, name) == [one[key] for one in people], name
    np.testing.assert_allclose(values(dataset, "age"), [one["age"] for one in people], rtol=1e-5)
    assert [(one.name, one.size) for one in read_reviews(dataset.path, dataset.manifest).personas] == [
        ("Dry_Winter", 54), ("Anti_Aging", 17), ("Gift_Buyer", 4), ("Loyal_Repurchase", 91),
        ("Sensitive_Calming", 50), ("Detail_Reviewer", 61),
    ]  # fmt: skip
    ages = {rule.name: rule.attributes["age"] for rule in read_rules(None)}
    for one in people:
        age = ages[one["persona_name"]]
        assert isinstance(age, Range) and age.low <= one["age"] <= age.high
