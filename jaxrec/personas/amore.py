"""Reviews of a shop's products, and a customer for each: personas from the reviews, attributes from the personas.

Nothing is known of the customers but what they wrote, so everything said of them is derived from the review of the
very product that is to be recommended (clusters.py); or it is given (``--customers``). A row is a purchase.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.data.encode import RawField, RawRows
from jaxrec.errors import UserError
from jaxrec.personas.amore_files import Customers, Shop, read_customers, read_products
from jaxrec.personas.clusters import Persona, describe, draw_attributes, find_personas
from jaxrec.personas.files import Reviews
from jaxrec.personas.rules import Rule, read_rules
from jaxrec.sources.shared import ranged

HELP = "products with reviews in a JSON file; customers are drawn from personas of the reviews, or given"
KIND = "rows"
CLUSTERS = 6
MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
OWN = ("customer", "product", "category", "brand", "price", "product_rating")  # fields beside the attributes


class Found(NamedTuple):
    """Customers of n reviews: their ids, personas (int32[n], what they are) and attributes ([n] by name)."""

    ids: list[str]
    labels: np.ndarray
    personas: tuple[Persona, ...]
    attributes: dict[str, np.ndarray]


def add_arguments(parser: ArgumentParser) -> None:
    def file(option: str, help: str, required: bool = False) -> None:
        parser.add_argument(f"--{option}", type=Path, required=required, metavar="FILE", help=help)

    file("raw", "JSON: a list of products with product_id, product_name, price, brand_name, category, rating and "
         "reviews, a list with the content of each", required=True)  # fmt: skip
    file("customers", "JSON: the customer of each review, in their order, with persona_name, purchased_product_id and "
         "the attributes of the rules (default: drawn)")  # fmt: skip
    file("personas", "YAML: words and attributes of the personas to look for (default: the six of "
         "jaxrec/personas/personas.yaml, which says how to write one)")  # fmt: skip
    parser.add_argument(
        "--clusters", type=_clusters, metavar="N",
        help=f"number of personas, or auto: that of 2 to 12 with the best silhouette (default {CLUSTERS})",
    )  # fmt: skip
    parser.add_argument(
        "--model", default=MODEL, metavar="NAME",
        help=f"of sentence-transformers, or a folder; none: no embeddings, only with --customers (default {MODEL})",
    )  # fmt: skip
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
    rules = _rules(arguments.personas)
    shop = read_products(arguments.raw)
    customers = read_customers(arguments.customers, shop, rules[0].attributes) if given else None
    embeddings = None if model is None else _embed(shop.texts, model)
    if customers is not None:
        found = _given(customers, shop, rules, embeddings)
    else:
        assert embeddings is not None
        labels, personas = find_personas(embeddings, shop.texts, rules, clusters, arguments.seed)
        attributes = draw_attributes(labels, personas, rules, arguments.seed)
        found = Found(_numbered(len(labels)), labels, personas, attributes)
    products = [shop.products[product] for product in shop.product]
    reviews = Reviews(found.ids, products, shop.texts, found.labels, found.personas, rules, embeddings,
                      arguments.seed, None if model is None else _called(model), given)  # fmt: skip
    options: dict[str, Any] = {name: None if getattr(arguments, name) is None else str(getattr(arguments, name))
               for name in ("raw", "customers", "personas")}  # fmt: skip
    options |= {"clusters": None if given else clusters or "auto", "model": model, "seed": arguments.seed}
    return _rows(shop, found, reviews, options)


def _called(model: str) -> str:
    """The name of a model that is kept with the data: where a local folder lies says nothing about the content."""
    return "/".join(Path(model).resolve().parts[-2:]) if Path(model).is_dir() else model


def _rules(path: Path | None) -> tuple[Rule, ...]:
    rules = read_rules(path)
    for name in rules[0].attributes:
        if name in OWN:
            raise UserError(f"{path}: {rules[0].name}.attributes.{name}: a field of every data set is called so; name "
                            f"it other than {', '.join(OWN)}")  # fmt: skip
    return rules


def _embed(texts: list[str], model: str) -> np.ndarray:
    """float16[n, d]."""
    from jaxrec.data.text.encoding import embed  # what needs no model must work without it

    return embed(texts, model)


def _numbered(n: int) -> list[str]:
    return [f"user_{number:04d}" for number in range(n)]


def _given(customers: Customers, shop: Shop, rules: tuple[Rule, ...], embeddings: np.ndarray | None) -> Found:
    """Personas by their names: those of the rules in their order, then others as they first appear."""
    present = dict.fromkeys(customers.personas)
    names = [rule.name for rule in rules if rule.name in present]
    names += [name for name in present if name not in names]
    place = {name: number for number, name in enumerate(names)}
    labels = np.array([place[name] for name in customers.personas], np.int32)
    personas = describe(labels, names, shop.texts, rules, embeddings)
    return Found(customers.ids or _numbered(len(labels)), labels, personas, customers.attributes)


def _rows(shop: Shop, found: Found, reviews: Reviews, options: dict[str, Any]) -> RawRows:
    """One row a review: a purchase."""
    n, names = len(shop.texts), [persona.name for persona in found.personas]
    customers = pa.array(found.ids, pa.string())
    goods = {name: pa.array(values, pa.string()) for name, values in
             (("product", shop.products), ("category", shop.categories), ("brand", shop.brands))}  # fmt: skip
    numbers = {"price": pa.array(shop.prices), "product_rating": pa.array(shop.ratings)}
    shown_user = {"customer": customers, "persona": pa.array([names[label] for label in found.labels], pa.string())}
    shown_item = {"product": goods["product"], "name": pa.array(shop.names, pa.string()), "brand": goods["brand"],
                  "category": goods["category"], "price": numbers["price"]}  # fmt: skip
    return RawRows(
        fields=[
            RawField("customer", "categorical", "user", customers),
            *(_attribute(name, values) for name, values in found.attributes.items()),
            *(RawField(name, "categorical", "item", values, shop.product) for name, values in goods.items()),
            *(RawField(name, "numerical", "item", values, shop.product) for name, values in numbers.items()),
        ],
        ratings=np.ones(n, np.float32),
        times=np.zeros(n, np.int64),
        threshold=1.0,
        low=0.0,
        high=1.0,
        user="customer",
        item="product",
        shown={"user": pa.table(shown_user), "item": pa.table(shown_item)},
        options=options,
        extras={"personas": {"attributes": "derived", "given": reviews.given, "clusters": len(names),
                             "seed": reviews.seed, "model": reviews.model, "names": names}},
        write=reviews.write,
    )  # fmt: skip


def _attribute(name: str, values: np.ndarray) -> RawField:
    """A field of the customers: numbers, or text."""
    if values.dtype == object:
        return RawField(name, "categorical", "user", pa.array(values.tolist(), pa.string()))
    return RawField(name, "numerical", "user", pa.array(values))
