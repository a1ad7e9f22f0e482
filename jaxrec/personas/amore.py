"""Reviews of a shop's products, and a customer for each: personas from the reviews, attributes from the personas.

Nothing is known of the customers but what they wrote, so everything said of them is derived from the review of the
very product that is to be recommended (clusters.py); or it is given (``--customers``). A row is a purchase.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.data.encode import RawField, RawRows
from jaxrec.errors import UserError
from jaxrec.personas.amore_files import Shop, read_customers, read_products
from jaxrec.personas.clusters import describe, draw_attributes, find_personas
from jaxrec.personas.files import Reviews
from jaxrec.personas.rules import read_rules
from jaxrec.sources.shared import ranged

HELP = "products with reviews in a JSON file; customers are drawn from personas of the reviews, or given"
KIND = "rows"
CLUSTERS = 6
MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
OWN = ("customer", "product", "category", "brand", "price", "product_rating")  # fields beside the attributes


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
    n, seed, embeddings = len(shop.texts), arguments.seed, None
    customers = read_customers(arguments.customers, shop, rules[0].attributes) if given else None
    if model is not None:
        from jaxrec.data.text.encoding import embed  # what needs no model must work without it

        embeddings = embed(shop.texts, model)
    if customers is not None:  # personas of the rules in their order, then others as they first appear
        present = dict.fromkeys(customers.personas)
        names = list(dict.fromkeys([*(rule.name for rule in rules if rule.name in present), *present]))
        labels = np.array([names.index(name) for name in customers.personas], np.int32)
        personas, attributes = describe(labels, names, shop.texts, rules, embeddings), customers.attributes
    else:
        assert embeddings is not None
        labels, personas = find_personas(embeddings, shop.texts, rules, clusters, seed)
        attributes = draw_attributes(labels, personas, rules, seed)
    ids = (customers and customers.ids) or [f"user_{number:04d}" for number in range(n)]
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
