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
from helpers import call, fails
from reviews import WORDS, fake_embed, made_customers, made_products, made_texts, write_json

from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.personas.clusters import draw_attributes, read_rules
from jaxrec.personas.files import read_reviews

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
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

    def change(entries: list[Any]) -> Any:
        place: Any = entries
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return entries

    return change


REVIEW = (3, "reviews", 0)
BAD_PRODUCTS: list[tuple[Callable[[list[Any]], Any], str]] = [
    (lambda entries: {"products": 1}, r'found \{"products": 1\}; expected a list of products, each with product_id'),
    (lambda entries: [], r"found \[\]; expected a list of products"),
    (edit(2, value="x"), r'products\[2\]: found "x"; expected an object with product_id'),
    (edit(2, "price", value=...), r"products\[2\].price: missing; a product has product_id, product_name, price"),
    (lambda entries: [{"product_ID": "x"}], r"products\[0\].product_id: missing \(did you mean 'product_ID'\?\)"),
    (edit(2, "price", value="9,900"), r'products\[2\].price: found "9,900"; expected a number, 0 or more$'),
    (edit(2, "price", value=True), r"products\[2\].price: found true; expected a number"),
    (edit(2, "price", value=-1), r"products\[2\].price: found -1; expected a number"),
    (edit(2, "price", value=float("nan")), r"products\[2\].price: found NaN; expected a number"),
    (edit(2, "price", value=10**299), r"products\[2\].price: found 10+…; expected a number"),
    (edit(2, "price", value=10**400), r"a number of 401 digits; at most 300 are read"),
    (edit(2, "rating", value="5"), r'products\[2\].rating: found "5"; expected a number, 0 or more, or null'),
    (edit(2, "product_id", value=7), r"products\[2\].product_id: found 7; expected text that is not empty"),
    (edit(2, "product_id", value="p000-"), r"products\[2\].product_id: found 'p000-', which products\[0\] has too"),
    (edit(2, "category", value=None), r"products\[2\].category: found null; expected a whole number, or text"),
    (edit(2, "brand_name", value=3), r"products\[2\].brand_name: found 3; expected text"),
    (edit(3, "reviews", value=[]), r"products\[3\].reviews: no reviews; expected at least one a product; leave the"),
    (edit(3, "reviews", value="good"), r'products\[3\].reviews: found "good"; expected a list of objects with content'),
    (edit(*REVIEW, value="good"), r'products\[3\].reviews\[0\]: found "good"; expected an object with content'),
    (edit(*REVIEW, "content", value=...), r"products\[3\].reviews\[0\].content: missing; give the text, or leave"),
    (
        edit(*REVIEW, "content", value=" \n"),
        r'reviews\[0\].content: found " \\n"; expected text that is not empty; lea',
    ),
    (edit(*REVIEW, "content", value=None), r"products\[3\].reviews\[0\].content: found null; expected text"),
    (edit(*REVIEW, "content", value="a\ud800"), r'content: found "a\\ud800", half of a character; expected valid'),
    (lambda entries: made_products(TEXTS[:4], 2), r"^jaxrec: error: 4 reviews for 6 personas; expected at least 6"),
]


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
    (b"", r"line 1, column 1: not JSON \(Expecting value\); mend or fetch the file again$"),
    (b'[\n{"product_id": }]', r"line 2, column 16: not JSON"),
    (b'[{"product_id": "\xb0\xa1"}]', r"cannot be read \(not UTF-8 text\)"),
    (b"[" * 200_000, "not JSON that can be read"),
    (b"[" + b"1" * 5000 + b"]", "a number of 5,000 digits; at most 300 are read"),
    (b'[{"product_id": "p1", "product_id": "p2"}]', "'product_id' stands twice in one object"),
])  # fmt: skip
def test_no_json(data: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "reviews.json"
    if data is not None:
        raw.write_bytes(data)
    fails(capsys, "prepare", "amore", "--raw", raw, "--out", tmp_path / "out", names=f"{raw}.*{message}")


BAD_CUSTOMERS: list[tuple[Callable[[list[Any]], Any], str]] = [
    (lambda entries: {}, r"found \{\}; expected a list of customers"),
    (lambda entries: entries[:-1], "35 customers for 36 reviews; expected one customer a review, in their order"),
    (edit(4, value=None), r"customers\[4\]: found null; expected an object with purchased_product_id, persona"),
    (edit(4, "age", value=...), r"customers\[4\].age: missing; a customer has purchased"),
    (edit(4, "age", value=3.5), r"customers\[4\].age: found 3.5; expected a whole number"),
    (edit(4, "gender", value=1), r"customers\[4\].gender: found 1; expected text that is not empty"),
    (edit(4, "persona_name", value=""), r'customers\[4\].persona_name: found ""; expected text'),
    (edit(4, "user_id", value="c3"), r"customers\[4\].user_id: found 'c3', which customers\[3\] has too; give each"),
    (edit(4, "user_id", value=...), r"customers\[4\].user_id: found null; expected text"),
    (edit(4, "purchased_product_id", value="p0000"),
     r'purchased_product_id: found "p0000", which no product of --raw has \(did you mean \'p000-\'\?\)'),
    (edit(4, "purchased_product_id", value="p003-"),
     r"customers\[4\].purchased_product_id: found 'p003-', but review 4 is of 'p000-'; expected one customer a review"),
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
    (["--model=none"], "--model none: personas need embeddings; name a model, or give --customers$"),
    (["--clusters=1"], "argument --clusters: '1': expected a whole number, 2 or more, or auto"),
    (["--clusters=six"], "argument --clusters: 'six': expected"),
    (["--clusters=6", "--customers=x"], "--clusters: --customers names the personas; leave one of the two out"),
    (["--seed=-1"], "argument --seed: '-1': expected a whole number from 0"),
    (["--clusters=40"], "36 reviews for 40 personas; expected at least 40; add reviews or ask for fewer personas"),
    (["--personas=none.yaml"], "none.yaml: cannot read the personas"),
    (["--personas=bad.yaml"], "bad.yaml: A.attributes.x.low: found 'a'; expected a whole number"),
    (["--personas=price.yaml"], "price.yaml: A.attributes.price: a field of every data set is called so; name it"),
])  # fmt: skip
def test_bad_options(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = "A: {title: a, words: [a], attributes: {%s}}\n"
    Path("bad.yaml").write_text(rule % "x: {low: a, high: 2}")
    Path("price.yaml").write_text(rule % "price: {low: 1, high: 2}")
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
    assert all(rule.attributes["age"].low <= one["age"] <= rule.attributes["age"].high  # type: ignore[union-attr]
               for rule in read_rules(None) for one in people if one["persona_name"] == rule.name)  # fmt: skip
    assert "건조" in (dataset.path / "PERSONAS.md").read_text(encoding="utf-8")
    drawn = prepared(tmp_path / "drawn", raw)
    assert len(drawn.rows()) == 277 and len(drawn.manifest["personas"]["names"]) == 6
