"""The source ``amore``: a shop's reviews to rows, customers drawn from personas or given, and the files beside them."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails, put
from reviews import WORDS, fake_embed, made_customers, made_products, made_texts, write_json

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
FIELDS = [
    ("customer", "categorical", "user"), ("age", "numerical", "user"), ("gender", "categorical", "user"),
    ("skin_type", "categorical", "user"), ("skin_concern", "categorical", "user"), ("product", "categorical", "item"),
    ("category", "categorical", "item"), ("brand", "categorical", "item"), ("price", "numerical", "item"),
    ("product_rating", "numerical", "item"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings from words, without torch."""
    text = ModuleType("jaxrec.data.text.encoding")
    text.embed = fake_embed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jaxrec.data.text.encoding", text)


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
        numbers = [one.name for one in dataset.schema.fields if one.kind == "numerical"]
        return field.raw(dataset.rows().numbers[:, numbers.index(name)]).tolist()
    known = [None, *pq.read_table(dataset.path / f"vocabulary/{name}.parquet")["value"].to_pylist()]
    return [known[code] for code in dataset.rows().columns[:, dataset.schema.columns((name,))[0]].tolist()]


def test_customers_are_drawn(tmp_path: Path) -> None:
    raw = write_json(tmp_path / "reviews.json", PRODUCTS)
    dataset = prepared(tmp_path / "out", raw)
    assert [(one.name, one.kind, one.side) for one in dataset.schema.fields] == FIELDS
    assert (dataset.schema.user, dataset.schema.item) == ("customer", "product")
    rows = dataset.rows()
    assert len(rows) == 36 and rows.labels.all() and not rows.times.any()
    assert values(dataset, "customer") == [f"user_{number:04d}" for number in range(36)]
    bought = [product for product in PRODUCTS for _ in product["reviews"]]
    assert values(dataset, "product") == [one["product_id"] for one in bought]
    assert values(dataset, "brand") == [one["brand_name"] or None for one in bought]
    names = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men", 105: "105"}
    assert values(dataset, "category") == [names[one["category"]] for one in bought]
    np.testing.assert_allclose(values(dataset, "price"), [one["price"] for one in bought], rtol=1e-5)
    reviews = read_reviews(dataset.path, dataset.manifest)
    drawn = draw_attributes(reviews.labels, reviews.personas, reviews.rules, 0)
    np.testing.assert_allclose(values(dataset, "age"), drawn["age"], rtol=1e-5)
    assert values(dataset, "skin_concern") == drawn["skin_concern"].tolist()
    names_found = [reviews.personas[label].name for label in reviews.labels]
    assert np.mean([name == list(WORDS)[truth] for name, truth in zip(names_found, TRUTH, strict=True)]) > 0.9
    users, items = (pq.read_table(dataset.path / f"{side}s.parquet").to_pydict() for side in ("user", "item"))
    assert users == {"customer": [None, *reviews.customers], "persona": [None, *names_found]}
    assert set(items) == {"product", "name", "brand", "category", "price"} and "크림 0" in items["name"]


def test_the_files_beside_the_rows(tmp_path: Path) -> None:
    raw = write_json(tmp_path / "reviews.json", PRODUCTS)
    dataset = prepared(tmp_path / "out", raw, "--seed=5", "--model=some/model")
    manifest = dataset.manifest
    assert {"reviews.parquet", "embeddings.npy", "personas.json", "PERSONAS.md"} <= set(manifest["files"])
    table = pq.read_table(dataset.path / "reviews.parquet").to_pydict()
    assert list(table) == ["customer", "product", "persona", "text"]
    assert table["text"] == TEXTS and table["product"] == values(dataset, "product")
    embeddings = np.load(dataset.path / "embeddings.npy")
    assert embeddings.dtype == np.float16 and np.array_equal(embeddings, fake_embed(TEXTS, ""))
    facts = json.loads((dataset.path / "personas.json").read_text(encoding="utf-8"))
    assert {name: facts[name] for name in ("seed", "model", "clusters", "given")} == {
        "seed": 5, "model": "some/model", "clusters": 6, "given": False,
    }  # fmt: skip
    assert list(facts["rules"]) == list(WORDS)
    for one in facts["personas"]:
        assert set(one) == {"name", "title", "rule", "size", "words", "nearest"}
        assert [table["persona"][table["customer"].index(customer)] for customer in one["nearest"]] == [one["name"]] * 3
    names = [one["name"] for one in facts["personas"]]
    assert manifest["personas"] == {"attributes": "derived", "given": False, "clusters": 6, "seed": 5,
                                    "model": "some/model", "names": names}  # fmt: skip
    assert manifest["options"] == {"raw": str(raw), "customers": None, "personas": None, "clusters": 6,
                                   "model": "some/model", "seed": 5}  # fmt: skip
    page = (dataset.path / "PERSONAS.md").read_text(encoding="utf-8")
    assert "36 reviews. K-means (k = 6, seed 5) on embeddings of some/model" in page.replace("\\", "")
    assert "건조" in page
    again = prepared(tmp_path / "again", raw, "--seed=5", "--model=some/model")
    assert again.manifest == manifest
    back = read_reviews(dataset.path, manifest)
    back.write(tmp_path)
    for name in ("personas.json", "PERSONAS.md", "embeddings.npy"):
        assert (tmp_path / name).read_bytes() == (dataset.path / name).read_bytes()
    (dataset.path / "personas.json").write_text("{}")
    with pytest.raises(UserError, match=r"out: damaged or missing reviews \('personas'\); prepare the data set again"):
        read_reviews(dataset.path, manifest)


def test_customers_are_given(tmp_path: Path) -> None:
    raw = write_json(tmp_path / "reviews.json", PRODUCTS)
    people = made_customers(PRODUCTS, TRUTH)
    people[0]["persona_name"] = "Sailor"
    file = write_json(tmp_path / "customers.json", people)
    dataset = prepared(tmp_path / "out", raw, "--customers", file, "--model=none")
    assert values(dataset, "customer") == [one["user_id"] for one in people]
    assert values(dataset, "gender") == [one["gender"] for one in people]
    np.testing.assert_allclose(values(dataset, "age"), [one["age"] for one in people], rtol=1e-5)
    assert "embeddings.npy" not in dataset.manifest["files"]
    reviews = read_reviews(dataset.path, dataset.manifest)
    assert reviews.given and reviews.embeddings is None and reviews.model is None
    assert [one.name for one in reviews.personas] == [*WORDS, "Sailor"]
    assert [reviews.personas[label].name for label in reviews.labels] == [one["persona_name"] for one in people]
    assert [one.rule for one in reviews.personas] == [True] * 6 + [False]
    assert not any(one.nearest for one in reviews.personas) and all(one.words for one in reviews.personas[:6])
    for one in people:
        del one["user_id"]
    write_json(file, people)
    with_model = prepared(tmp_path / "model", raw, "--customers", file)
    assert values(with_model, "customer")[:2] == ["user_0000", "user_0001"]
    assert all(one.nearest for one in read_reviews(with_model.path, with_model.manifest).personas)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    raw = write_json(tmp_path / "reviews.json", PRODUCTS)
    mine = tmp_path / "mine.yaml"
    mine.write_text("Giver: {title: gives, words: [gift, 선물], attributes: {income: {low: 1, high: 9}}}\n"
                    "Calm: {title: calm, words: [calm, 진정], attributes: {income: {low: 20, high: 30}}}\n",
                    encoding="utf-8")  # fmt: skip
    dataset = prepared(tmp_path / "out", raw, "--personas", mine, "--clusters", "auto")
    names = [field.name for field in dataset.schema.fields]
    assert names == ["customer", "income", "product", "category", "brand", "price", "product_rating"]
    assert dataset.manifest["options"]["clusters"] == "auto"
    reviews = read_reviews(dataset.path, dataset.manifest)
    income = np.array(values(dataset, "income"))
    persona = np.array([reviews.personas[label].name for label in reviews.labels])
    assert {"Giver", "Calm"} <= set(persona)
    assert income[persona == "Giver"].max() < 10 < 19 < income[persona == "Calm"].min()


# --- bad input --------------------------------------------------------------------------------------------------------


def edit(*path: Any, value: Any) -> Callable[[list[Any]], Any]:
    """A change of one place of the file; ``...`` removes it."""
    return lambda entries: put(entries, path, value)


BAD_PRODUCTS: list[tuple[Callable[[list[Any]], Any], str]] = [
    (lambda entries: {"products": 1}, r"products: found \{'products': 1\}.*expected a list of products"),
    (lambda entries: [], r"products: found \[\]"),
    (edit(2, value="x"), "products: 2: found 'x'"),
    (edit(2, "price", value=...), "2.price: missing"),
    *((edit(2, "price", value=value), f"2.price: found {found}") for value, found in
      (("9,900", "'9,900'"), (True, "True"), (-1, "-1"), (float("nan"), "nan"), (10**299, "10+…"))),
    (edit(2, "price", value=10**400), "a number of 401 digits"),
    (edit(2, "rating", value="5"), "2.rating: found '5'"),
    (edit(2, "product_id", value=7), "2.product_id: found 7"),
    (edit(2, "product_id", value="p000-"), "products.2.product_id: found 'p000-', which 0 has too"),
    (edit(2, "category", value=None), "2.category: found None"),
    (edit(2, "brand_name", value=3), "2.brand_name: found 3"),
    (edit(3, "reviews", value=[]), r"3.reviews: found \[\]"),
    (edit(3, "reviews", 0, value="good"), "3.reviews.0: found 'good'"),
    *((edit(3, "reviews", 0, "content", value=value), "3.reviews.0.content: ")
      for value in (..., " \n", None, "a\ud800")),
    (lambda entries: made_products(TEXTS[:4], 2), r"^jaxrec: error: 4 reviews \(4 different ones\) for 6 personas"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_PRODUCTS)
def test_bad_products(
    change: Callable[[list[Any]], Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "reviews.json"
    raw.write_text(json.dumps(change(copy.deepcopy(PRODUCTS))), encoding="utf-8")
    line = fails(capsys, "prepare", "amore", "--raw", raw, "--out", tmp_path / "out", names=message)
    assert str(raw) in line or "personas" in line
    assert list(tmp_path.iterdir()) == [raw]


@pytest.mark.parametrize(("data", "message"), [
    (None, r"cannot be read \(No such file or directory\); check --raw$"),
    (b"", "line 1, column 1: not JSON"),
    (b'[{"product_id": "\xb0\xa1"}]', r"cannot be read \(not UTF-8 text\)"),
])  # fmt: skip
def test_no_json(data: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "reviews.json"
    if data is not None:
        raw.write_bytes(data)
    fails(capsys, "prepare", "amore", "--raw", raw, "--out", tmp_path / "out", names=f"{raw}.*{message}")


BAD_CUSTOMERS: list[tuple[Callable[[list[Any]], Any], str]] = [
    (lambda entries: {}, r"customers: found \{\}.*expected a list of customers, each with purchased_product_id"),
    (lambda entries: entries[:-1], "35 customers for 36 reviews"),
    (edit(4, value=None), "4: found None"),
    (edit(4, "age", value=...), "4.age: missing"),
    (edit(4, "age", value=3.5), "4.age: found 3.5"),
    (edit(4, "gender", value=1), "4.gender: found 1"),
    (edit(4, "persona_name", value=""), "4.persona_name: found ''"),
    (edit(4, "user_id", value="c3"), "customers.4.user_id: found 'c3', which 3 has too"),
    (edit(4, "user_id", value=...), "35 of 36 customers have a user_id"),
    (edit(4, "purchased_product_id", value="p0000"), r"found 'p0000', which no product .*did you mean 'p000-'"),
    (edit(4, "purchased_product_id", value="p003-"), "customers.4.purchased_.*'p003-', but review 4 is of 'p000-'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_CUSTOMERS)
def test_customers_that_do_not_fit(
    change: Callable[[list[Any]], Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_json(tmp_path / "reviews.json", PRODUCTS)
    file = write_json(tmp_path / "customers.json", change(made_customers(PRODUCTS, TRUTH)))
    fails(capsys, "prepare", "amore", "--raw", raw, "--customers", file, "--model=none", "--out", tmp_path / "out",
          names=f"customers.json: .*{message}")  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), [
    (["--model=none"], "--model none"),
    (["--clusters=1"], "--clusters: '1'"),
    (["--clusters=6", "--customers=x"], "--clusters: --customers names the personas"),
    (["--personas=none.yaml"], "none.yaml: cannot read the personas"),
    (["--personas=price.yaml"], "price.yaml: A.attributes.price: a field of every data set"),
])  # fmt: skip
def test_bad_options(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("price.yaml").write_text("A: {title: a, words: [a], attributes: {price: {low: 1, high: 2}}}\n")
    raw = write_json(tmp_path / "reviews.json", PRODUCTS)
    fails(capsys, "prepare", "amore", "--raw", raw, "--out", tmp_path / "out", *argv, names=message)


# --- the real shop ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data is not at {REAL} (set JAXREC_SHARED_DATA)")
def test_the_real_shop(tmp_path: Path) -> None:
    raw, file = REAL / "amoremall_reviews.json", REAL / "customers.json"
    dataset = prepared(tmp_path / "out", raw, "--customers", file, "--model=none")
    counts = dataset.manifest["counts"]
    assert (counts["rows"], counts["values"]["product"], counts["values"]["customer"]) == (277, 93, 277)
    people = json.loads(file.read_text(encoding="utf-8"))
    for name in ("gender", "skin_type", "skin_concern"):
        assert values(dataset, name) == [one[name] for one in people]
    np.testing.assert_allclose(values(dataset, "age"), [one["age"] for one in people], rtol=1e-5)
    assert values(dataset, "customer") == [one["user_id"] for one in people]
    assert values(dataset, "product") == [one["purchased_product_id"] for one in people]
    assert values(dataset, "category") == [one["product_category_name"] for one in people]
    reviews = read_reviews(dataset.path, dataset.manifest)
    assert [(one.name, one.size) for one in reviews.personas] == [
        ("Dry_Winter", 54), ("Anti_Aging", 17), ("Gift_Buyer", 4), ("Loyal_Repurchase", 91),
        ("Sensitive_Calming", 50), ("Detail_Reviewer", 61),
    ]  # fmt: skip
    ages = {rule.name: rule.attributes["age"] for rule in read_rules(None)}
    for one in people:
        age = ages[one["persona_name"]]
        assert isinstance(age, Range) and age.low <= one["age"] <= age.high
    assert "건조" in (dataset.path / "PERSONAS.md").read_text(encoding="utf-8")
    drawn = prepared(tmp_path / "drawn", raw)
    assert len(drawn.rows()) == 277 and len(drawn.manifest["personas"]["names"]) == 6
