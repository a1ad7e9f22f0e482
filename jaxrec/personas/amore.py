"""Reviews of a shop's products, and a customer for each: personas from the reviews, attributes from the personas.

Nothing is known of the customers but what they wrote, so everything said of them is derived from the review of the
very product that is to be recommended (clusters.py); or it is given (``--customers``). A row is a purchase.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, Field
from typing_extensions import TypedDict

from jaxrec.cli.command import ranged
from jaxrec.cli.text import parse_json
from jaxrec.data.encode import RawField, RawRows
from jaxrec.errors import UserError, shown
from jaxrec.personas.clusters import describe, draw_attributes, find_personas
from jaxrec.personas.files import Reviews
from jaxrec.personas.rules import Range, Text, Whole, read_rules, validated

HELP = "products with reviews in a JSON file; customers are drawn from personas of the reviews, or given"
KIND = "rows"
CLUSTERS = 6
MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
OWN = ("customer", "product", "category", "brand", "price", "product_rating")  # fields beside the attributes
CATEGORIES = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men"}
Amount = Annotated[float, Field(strict=True, ge=0, le=1e30)]  # whose square is still a number, and finite as float32


def add_arguments(parser: ArgumentParser) -> None:
    def file(option: str, help: str, required: bool = False) -> None:
        parser.add_argument(f"--{option}", type=Path, required=required, metavar="FILE", help=help)

    file("raw", "JSON: a list of products with product_id, product_name, price, brand_name, category, rating and "
         "reviews, a list with the content of each", required=True)  # fmt: skip
    file("customers", "JSON: the customer of each review, in their order, with persona_name, purchased_product_id and "
         "the attributes of the rules (default: drawn)")  # fmt: skip
    file("personas", "YAML: words and attributes of the personas to look for (default: the six of "
         "jaxrec/personas/personas.yaml, which says how to write one)")  # fmt: skip
    parser.add_argument("--clusters", type=_clusters, metavar="N", help="number of personas, or auto: that of 2 to "
                        f"12 with the best silhouette (default {CLUSTERS})")  # fmt: skip
    parser.add_argument("--model", default=MODEL, metavar="NAME", help="of sentence-transformers, or a folder; none: "
                        f"no embeddings, only with --customers (default {MODEL})")  # fmt: skip
    parser.add_argument(
        "--seed", type=ranged(int, 0, 2**32 - 1), default=0, metavar="N", help="of clusters and draws (default 0)"
    )


def _clusters(text: str) -> int:
    """0 is auto."""
    if text == "auto":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 2):
        raise ArgumentTypeError(f"'{text}': expected a whole number, 2 or more, or auto")
    return int(text)


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the files, embed the reviews, and find or take their customers."""
    given, model = arguments.customers is not None, None if arguments.model == "none" else arguments.model
    if model is None and not given:
        raise UserError("--model none: personas need embeddings; name a model, or give --customers")
    if given and arguments.clusters is not None:
        raise UserError("--clusters: --customers names the personas; leave one of the two out")
    clusters = CLUSTERS if arguments.clusters is None else arguments.clusters or None
    rules = read_rules(arguments.personas)
    if taken := [name for name in rules[0].attributes if name in OWN]:
        raise UserError(f"{arguments.personas}: {rules[0].name}.attributes.{taken[0]}: a field of every data set is "
                        f"called so; name it other than {', '.join(OWN)}")  # fmt: skip
    shop = read_products(arguments.raw)
    n, seed, ids, embeddings = len(shop.texts), arguments.seed, None, None
    customers = read_customers(arguments.customers, shop, rules[0].attributes) if given else None
    if model is not None:
        from jaxrec.data.text.encoding import embed  # what needs no model must work without it

        embeddings = embed(shop.texts, model)
    if customers is not None:  # personas of the rules in their order, then others as they first appear
        ids, named, attributes = customers
        present = dict.fromkeys(named)
        names = list(dict.fromkeys([*(rule.name for rule in rules if rule.name in present), *present]))
        labels = np.array([names.index(name) for name in named], np.int32)
        personas = describe(labels, names, shop.texts, rules, embeddings)
    else:
        assert embeddings is not None
        labels, personas = find_personas(embeddings, shop.texts, rules, clusters, seed)
        attributes = draw_attributes(labels, personas, rules, seed)
    ids = ids or [f"user_{number:04d}" for number in range(n)]
    products = [shop.products[product].product_id for product in shop.product]
    # Where a local folder lies says nothing about the content.
    called = "/".join(Path(model).resolve().parts[-2:]) if model and Path(model).is_dir() else model
    reviews = Reviews(ids, products, shop.texts, labels, personas, rules, embeddings, seed, called, given)
    files = {name: vars(arguments)[name] for name in ("raw", "customers", "personas")}
    options: dict[str, Any] = {name: None if path is None else str(path) for name, path in files.items()}
    options |= {"clusters": None if given else clusters or "auto", "model": model, "seed": seed}
    return _rows(shop, reviews, attributes, options)


def _rows(shop: Shop, reviews: Reviews, attributes: dict[str, np.ndarray], options: dict[str, Any]) -> RawRows:
    """One row a review: a purchase."""
    n, names = len(shop.texts), [persona.name for persona in reviews.personas]

    def texts(name: str) -> pa.Array:
        return pa.array([getattr(product, name) for product in shop.products], pa.string())

    customers, persona = (pa.array(values, pa.string()) for values in
                          (reviews.customers, [names[label] for label in reviews.labels]))  # fmt: skip
    goods = {"product": texts("product_id"), "category": texts("category"), "brand": texts("brand_name")}
    numbers = {"price": pa.array(shop.numbers("price")), "product_rating": pa.array(shop.numbers("rating"))}
    item = {"product": goods["product"], "name": texts("product_name"), "brand": goods["brand"],
            "category": goods["category"], "price": numbers["price"]}  # fmt: skip
    of_users = {name: pa.array(values.tolist(), pa.string()) if values.dtype == object else pa.array(values)
                for name, values in attributes.items()}  # fmt: skip
    sides = (("user", {"customer": customers} | of_users, None), ("item", goods | numbers, shop.product))
    return RawRows(
        fields=[
            RawField(name, "categorical" if values.type == pa.string() else "numerical", side, values, by)
            for side, columns, by in sides
            for name, values in columns.items()
        ],
        ratings=np.ones(n, np.float32),
        times=np.zeros(n, np.int64),
        threshold=1.0,
        low=0.0,
        high=1.0,
        user="customer",
        item="product",
        shown={"user": pa.table({"customer": customers, "persona": persona}), "item": pa.table(item)},
        options=options,
        extras={"personas": {"attributes": "derived", "given": reviews.given, "clusters": len(names),
                             "seed": reviews.seed, "model": reviews.model, "names": names}},
        write=reviews.write,
    )  # fmt: skip


# ---- the files -------------------------------------------------------------------------------------------------------


class Review(BaseModel):
    """A review; further entries of the file do not matter."""

    content: Text


class Product(BaseModel):
    """A product; the category is a name, or the number where it has none."""

    product_id: Text
    product_name: Text
    price: Amount
    brand_name: Annotated[Text | None, BeforeValidator(lambda name: None if name == "" else name)]
    category: Annotated[Text, BeforeValidator(lambda one: CATEGORIES.get(one, str(one)) if type(one) is int else one)]
    rating: Amount | None
    reviews: Annotated[list[Review], Field(min_length=1)]


class Shop(NamedTuple):
    """The products of the file, in its order, and their reviews, one after the other."""

    products: list[Product]
    product: np.ndarray  # int64[n], the product of each review
    texts: list[str]  # n, none empty

    def numbers(self, name: str) -> np.ndarray:
        """float64[P]; nan is unknown."""
        values = [getattr(product, name) for product in self.products]
        return np.array([math.nan if value is None else value for value in values], np.float64)


def read_products(path: Path) -> Shop:
    """Read a list of products with their reviews."""
    advice = f"; expected a list of products, each with {', '.join(Product.model_fields)}"
    kind = Annotated[list[Product], Field(min_length=1)]
    products = validated(kind, _load(path, "--raw"), f"{path}: products", advice)
    _check_distinct(f"{path}: products", "product_id", [one.product_id for one in products])
    texts = [review.content for one in products for review in one.reviews]
    return Shop(products, np.repeat(np.arange(len(products)), [len(one.reviews) for one in products]), texts)


def read_customers(
    path: Path, shop: Shop, kinds: Mapping[str, Any]
) -> tuple[list[str] | None, list[str], dict[str, np.ndarray]]:
    """The customer of each of n reviews, with the attributes ``kinds``, as rules have them: distinct ids (None where
    the file has none), names of personas, and by attribute int64[n] or object[n] of text.
    """
    attributes: dict[str, Any] = {name: Whole if isinstance(kind, Range) else Text for name, kind in kinds.items()}
    fields = {"purchased_product_id": Text, "persona_name": Text, "user_id": NotRequired[Text]} | attributes
    customer = TypedDict("customer", fields)  # type: ignore[misc]
    advice = f"; expected a list of customers, each with {', '.join(fields)}"
    entries = validated(list[customer], _load(path, "--customers"), f"{path}: customers", advice)
    if len(entries) != len(shop.texts):
        raise UserError(f"{path}: {len(entries)} customers for {len(shop.texts)} reviews; give one a review, in their "
                        "order")  # fmt: skip
    for number, (entry, product) in enumerate(zip(entries, shop.product, strict=True)):
        found, expected = entry["purchased_product_id"], shop.products[product].product_id
        if found != expected:
            raise UserError(f"{path}: customers.{number}.purchased_product_id: found {shown(found)}, but review "
                            f"{number} is of '{expected}'; expected one customer a review, in their order")  # fmt: skip
    ids = [entry["user_id"] for entry in entries if "user_id" in entry]
    if 0 < len(ids) < len(entries):
        raise UserError(f"{path}: {len(ids)} of {len(entries)} customers have a user_id; give one to each, or to none")
    _check_distinct(f"{path}: customers", "user_id", ids)
    columns = {name: np.array([entry[name] for entry in entries], np.int64 if isinstance(kind, Range) else object)
               for name, kind in kinds.items()}  # fmt: skip
    return ids or None, [entry["persona_name"] for entry in entries], columns


def _check_distinct(place: str, field: str, names: list[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if first.setdefault(name, number) != number:
            raise UserError(f"{place}.{number}.{field}: found {shown(name)}, which {first[name]} has too; give each "
                            "its own")  # fmt: skip


def _load(path: Path, option: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}); check {option}") from None
    return parse_json(text, str(path), "mend or fetch the file again")
