"""Reviews of a shop's products, and a customer for each: personas from the reviews and attributes from the personas
(clusters.py), all derived from the review of the very product that is to be recommended, or given (``--customers``). A
row is a purchase. Beside the rows lie reviews.parquet (row r is row r of the data), embeddings.npy (float16[n, d]),
personas.json (how they were found, rules, personas) and PERSONAS.md (to be read)."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from jaxrec.cli.command import ranged
from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.data.given import read_file
from jaxrec.data.store import map_array
from jaxrec.errors import UserError, explained, shown
from jaxrec.personas import clusters
from jaxrec.personas.clusters import Persona, Range, Rules

HELP = "products with reviews in a JSON file; customers are drawn from personas of the reviews, or given"
KIND = "rows"
CLUSTERS = 6
MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
GOODS = pa.schema({"product": pa.string(), "category": pa.string(), "brand": pa.string(), "price": pa.float64(),
                   "product_rating": pa.float64(), "name": pa.string()})  # fmt: skip
CATEGORIES = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men"}
FILES = {
    "raw": "JSON: a list of products with product_id, product_name, price, brand_name, category, rating and reviews",
    "customers": "JSON: the customer of each review, in their order, with user_id, persona_name, purchased_product_id "
                 "and the attributes of the rules (default: drawn)",
}  # fmt: skip
REVIEWS, EMBEDDINGS, FACTS, PAGE = "reviews.parquet", "embeddings.npy", "personas.json", "PERSONAS.md"
LONGEST = 200  # characters of a review on the page
Text = Annotated[str, Field(strict=True, pattern=r"\S")]
Amount = Annotated[float, Field(strict=True, ge=0, le=1e30)]  # whose square is still a number, and finite as float32


def add_arguments(parser: ArgumentParser) -> None:
    for option, help in FILES.items():
        parser.add_argument(f"--{option}", type=Path, required=option == "raw", metavar="FILE", help=help)
    parser.add_argument("--clusters", type=ranged(int, 2, 10**9), default=CLUSTERS, metavar="N", help="number of "
                        f"personas, where --customers does not name them (default {CLUSTERS})")  # fmt: skip
    parser.add_argument("--model", default=MODEL, metavar="NAME", help="of sentence-transformers, or a folder (default "
                        f"{MODEL})")  # fmt: skip
    parser.add_argument("--seed", type=ranged(int, 0, 2**32 - 1), default=0, metavar="N", help="of clusters and draws "
                        "(default 0)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the files, embed the reviews, and find or take their customers."""
    from jaxrec.data.text.encoding import embed  # the other sources must work without it

    given, seed, model = arguments.customers is not None, arguments.seed, arguments.model
    rules = clusters.read_rules()
    products: list[Product] = _load(arguments.raw, Product)
    _check_distinct(f"{arguments.raw}: product_id", [one.product for one in products])
    product = np.repeat(np.arange(len(products)), [len(one.reviews) for one in products])  # of each review
    texts = [review.content for one in products for review in one.reviews]
    bought = [products[number].product for number in product]
    people = read_customers(arguments.customers, bought) if given else []
    embeddings = embed(texts, model)
    if given:  # personas of the rules in their order, then others as they first appear
        named, ids = [one.persona_name for one in people], [one.user_id for one in people]
        names = list(dict.fromkeys([*(name for name in rules if name in named), *named]))
        labels = np.array([names.index(name) for name in named], np.int32)
        personas = clusters.describe(labels, names, texts, rules, embeddings)
        attributes = {name: [getattr(one, name) for one in people] for name in clusters.kinds_of(rules)}
    else:
        labels, personas = clusters.find_personas(embeddings, texts, rules, arguments.clusters, seed)
        ids = [f"user_{number:04d}" for number in range(len(texts))]
        drawn = clusters.draw_attributes(labels, personas, rules, seed)
        attributes = {name: values.tolist() for name, values in drawn.items()}
    # Where a local folder lies says nothing about the content.
    called = "/".join(Path(model).resolve().parts[-2:]) if Path(model).is_dir() else model
    facts = {"seed": seed, "model": called, "clusters": len(personas), "given": given,
             "rules": {name: rule.model_dump() for name, rule in rules.items()},
             "personas": [asdict(one) | {"nearest": [ids[n] for n in one.nearest]} for one in personas]}  # fmt: skip
    names = [one.name for one in personas]
    persona = [names[label] for label in labels]

    def write(out: Path) -> list[str]:
        columns = {"customer": ids, "product": bought, "persona": persona, "text": texts}
        pq.write_table(pa.table(columns), out / REVIEWS)
        np.save(out / EMBEDDINGS, np.ascontiguousarray(embeddings, np.float16), allow_pickle=False)
        (out / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / PAGE).write_text(personas_markdown(personas, rules, texts, facts), encoding="utf-8")
        return [REVIEWS, EMBEDDINGS, FACTS, PAGE]

    users = pa.table({"customer": ids, "persona": persona, **attributes})
    goods = pa.Table.from_pylist([one.model_dump() for one in products], GOODS)
    fields = [RawField(name, "categorical" if table[name].type == pa.string() else "numerical", side,
                       table[name].combine_chunks(), by)
              for side, table, by in (("user", users.drop_columns("persona"), None), ("item", goods, product))
              for name in table.column_names if name != "name"]  # fmt: skip
    options = {"raw": str(arguments.raw), "customers": str(arguments.customers) if given else None, "personas": None,
               "clusters": None if given else arguments.clusters, "model": model, "seed": seed}  # fmt: skip
    found = {"attributes": "derived", **{name: facts[name] for name in ("given", "clusters", "seed", "model")}}
    return RawRows(
        fields, np.ones(len(texts), np.float32), np.zeros(len(texts), np.int64), 1.0, 0.0, 1.0, "customer", "product",
        shown={"user": users.select(["customer", "persona"]),
               "item": goods.select(["product", "name", "brand", "category", "price"])},
        options=options, extras={"personas": found | {"names": names}}, write=write,
    )  # fmt: skip


class Review(BaseModel):
    """A review; further entries of the file do not matter."""

    content: Text


class Product(BaseModel):
    """A product; the category is a name, or the number where it has none."""

    product: Text = Field(alias="product_id")
    name: Text = Field(alias="product_name")
    price: Amount
    brand: Annotated[Text | None, BeforeValidator(lambda name: name or None)] = Field(alias="brand_name")
    category: Annotated[Text, BeforeValidator(lambda one: CATEGORIES.get(one, str(one)) if type(one) is int else one)]
    product_rating: Amount | None = Field(alias="rating")
    reviews: Annotated[list[Review], Field(min_length=1)]


class Customer(BaseModel):
    """A customer with the attributes of the rules."""

    user_id: Text
    persona_name: Text
    purchased_product_id: Text
    age: Annotated[int, Field(strict=True, ge=0, le=2**53)]  # exact as float64
    gender: Text
    skin_type: Text
    skin_concern: Text


def read_customers(path: Path, bought: list[str]) -> list[Customer]:
    """The customer of each of n reviews of products ``bought``."""
    people: list[Customer] = _load(path, Customer)
    for number, (one, expected) in enumerate(zip_longest(people, bought)):
        found = one and one.purchased_product_id
        if found != expected:
            raise UserError(f"{path}: {number}.purchased_product_id: found {shown(found)}, expected {shown(expected)}; "
                            "give one customer a review, in their order")  # fmt: skip
    _check_distinct(f"{path}: user_id", [one.user_id for one in people])
    return people


def _check_distinct(place: str, names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{place}: found {shown(twice[0])} twice; give each its own")


def _load(path: Path, kind: Any) -> Any:
    """The entries of a JSON file, a list of them."""
    try:
        return TypeAdapter(Annotated[list[kind], Field(min_length=1)]).validate_python(read_file(path))
    except ValidationError as error:
        raise UserError(f"{path}: {explained(error)}") from None


class Reviews(NamedTuple):
    """The reviews of a dataset directory, one a row."""

    texts: list[str]
    embeddings: np.ndarray  # float16[n, d], mapped
    rules: Rules
    clusters: int
    seed: int  # of the clusters


def read_reviews(path: Path, manifest: dict[str, Any]) -> Reviews:
    """What a data set of this source, which was verified, has beside its rows."""
    if EMBEDDINGS not in manifest["files"]:  # as earlier versions could leave them out
        raise UserError(f"{path}: has no embeddings; prepare the data set again, or give --folds 0")
    facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    texts, embeddings = pq.read_table(path / REVIEWS)["text"].to_pylist(), map_array(path, EMBEDDINGS, manifest)
    return Reviews(texts, embeddings, clusters.parse_rules(facts["rules"]), len(facts["personas"]), facts["seed"])


def personas_markdown(personas: Sequence[Persona], rules: Rules, texts: Sequence[str], facts: dict[str, Any]) -> str:
    """PERSONAS.md: how the personas were found, a table of all, then each by itself."""
    model = f"embeddings of {facts['model']}"
    about = (f"K-means (k = {len(personas)}, seed {facts['seed']}) on {model}; attributes are drawn from the rule of "
             "the persona, or from any where it has none: they are derived from the review, not known of the "
             "customer.")  # fmt: skip
    if facts["given"]:
        about = f"Personas and attributes as given with the customers; rules are those of the table; {model}."
    total = max(1, sum(persona.size for persona in personas))
    lines = ["# Personas", "", f"{total:,} reviews. {about}", "", "| persona | reviews | share |", "|---|--:|--:|"]
    lines += [f"| {_plain(one.name)} | {one.size:,} | {one.size / total:.1%} |" for one in personas]
    for one in personas:
        title, rule = f": {_plain(one.title)}" if one.title else "", rules.get(one.name)
        lines += ["", f"## {_plain(one.name)}{title}", "", f"{one.size:,} reviews ({one.size / total:.1%})", ""]
        lines += ["- rule: none of the table" if rule is None else f"- rule: {_plain(', '.join(rule.words))}"]
        for name, kind in rule.attributes.items() if rule else ():
            if isinstance(kind, Range):
                what = f"{kind.low} to {kind.high}, uniform"
            else:
                shares = {value: weight / sum(kind.values()) for value, weight in kind.items()}
                what = ", ".join(f"{_plain(value)} {share:.0%}" for value, share in shares.items())
            lines.append(f"- {_plain(name)}: {what}")
        lines += [f"- telling words: {_plain(', '.join(one.words)) or 'none'}"]
        lines += ["- nearest reviews:", *(f"  - “{_plain(texts[number], LONGEST)}”" for number in one.nearest)]
    return "\n".join(lines) + "\n"


def _plain(text: str, longest: int | None = None) -> str:
    """On one line, shortened, and with nothing in it that Markdown would take for markup."""
    line = " ".join(text.split())
    if longest and len(line) > longest:
        line = line[:longest].rstrip() + "…"
    return re.sub(r"([\\`*_<>|\[\]#~])", r"\\\1", line)
