"""Reviews of a shop's products, and a customer for each: personas from the reviews, attributes from the personas.

Nothing is known of the customers but what they wrote, so everything said of them is derived from the review of the
very product that is to be recommended (clusters.py); or it is given (``--customers``). A row is a purchase. Beside the
rows a dataset directory has reviews.parquet (row r is row r of the data), embeddings.npy (float16[n, d], where there
are any), personas.json (how they were found, the rules, the personas) and PERSONAS.md (the same to be read).
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, Field
from typing_extensions import TypedDict

from jaxrec.cli.command import ranged
from jaxrec.cli.text import parse_json
from jaxrec.data.encode import RawField, RawRows
from jaxrec.data.store import map_array
from jaxrec.errors import UserError, shown
from jaxrec.personas.clusters import Persona, describe, draw_attributes, find_personas
from jaxrec.personas.rules import Range, Rule, Text, Whole, parse_rules, read_rules, validated

HELP = "products with reviews in a JSON file; customers are drawn from personas of the reviews, or given"
KIND = "rows"
CLUSTERS = 6
MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
OWN = ("customer", "product", "category", "brand", "price", "product_rating")  # fields beside the attributes
CATEGORIES = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men"}
FILES = {
    "raw": "JSON: a list of products with product_id, product_name, price, brand_name, category, rating and reviews",
    "customers": "JSON: the customer of each review, in their order, with persona_name, purchased_product_id and the "
                 "attributes of the rules (default: drawn)",
    "personas": "YAML: words and attributes of the personas to look for (default: jaxrec/personas/personas.yaml)",
}  # fmt: skip
REVIEWS, EMBEDDINGS, FACTS, PAGE = "reviews.parquet", "embeddings.npy", "personas.json", "PERSONAS.md"
LONGEST = 200  # characters of a review on the page
Amount = Annotated[float, Field(strict=True, ge=0, le=1e30)]  # whose square is still a number, and finite as float32


def add_arguments(parser: ArgumentParser) -> None:
    for option, help in FILES.items():
        parser.add_argument(f"--{option}", type=Path, required=option == "raw", metavar="FILE", help=help)
    number = ranged(int, 2, 10**9)
    parser.add_argument("--clusters", type=lambda text: 0 if text == "auto" else number(text), metavar="N",
                        help=f"number of personas, or auto: the best of 2 to 12 (default {CLUSTERS})")  # fmt: skip
    parser.add_argument("--model", default=MODEL, metavar="NAME", help="of sentence-transformers, or a folder; none: "
                        f"no embeddings, only with --customers (default {MODEL})")  # fmt: skip
    parser.add_argument("--seed", type=ranged(int, 0, 2**32 - 1), default=0, metavar="N", help="of clusters and draws "
                        "(default 0)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Read the files, embed the reviews, and find or take their customers."""
    given, seed = arguments.customers is not None, arguments.seed
    model = None if arguments.model == "none" else arguments.model
    if model is None and not given:
        raise UserError("--model none: personas need embeddings; name a model, or give --customers")
    if given and arguments.clusters is not None:
        raise UserError("--clusters: --customers names the personas; leave one of the two out")
    clusters = CLUSTERS if arguments.clusters is None else arguments.clusters or None
    rules = read_rules(arguments.personas)
    if taken := set(rules[0].attributes) & set(OWN):
        raise UserError(f"{arguments.personas}: {rules[0].name}.attributes.{min(taken)}: a field of every data set is "
                        f"called so; name it other than {', '.join(OWN)}")  # fmt: skip
    products: list[Product] = _load(arguments.raw, list[Product], "products", Product.model_fields)
    _check_distinct(f"{arguments.raw}: product_id", [one.product_id for one in products])
    product = np.repeat(np.arange(len(products)), [len(one.reviews) for one in products])  # of each review
    texts = [review.content for one in products for review in one.reviews]
    bought = [products[number].product_id for number in product]
    ids, embeddings = [f"user_{number:04d}" for number in range(len(texts))], None
    people = read_customers(arguments.customers, bought, rules[0].attributes) if given else None
    if model is not None:
        from jaxrec.data.text.encoding import embed  # what needs no model must work without it

        embeddings = embed(texts, model)
    if people is not None:  # personas of the rules in their order, then others as they first appear
        named = [one["persona_name"] for one in people]
        names = list(dict.fromkeys([*(rule.name for rule in rules if rule.name in named), *named]))
        labels = np.array([names.index(name) for name in named], np.int32)
        personas = describe(labels, names, texts, rules, embeddings)
        ids = [one.get("user_id", known) for one, known in zip(people, ids, strict=True)]
        attributes = {name: np.array([one[name] for one in people], np.int64 if isinstance(kind, Range) else object)
                      for name, kind in rules[0].attributes.items()}  # fmt: skip
    else:
        assert embeddings is not None
        labels, personas = find_personas(embeddings, texts, rules, clusters, seed)
        attributes = draw_attributes(labels, personas, rules, seed)
    # Where a local folder lies says nothing about the content.
    called = "/".join(Path(model).resolve().parts[-2:]) if model and Path(model).is_dir() else model
    facts = {"seed": seed, "model": called, "clusters": len(personas), "given": given,
             "rules": {rule.name: rule.model_dump(exclude_none=True) for rule in rules},
             "personas": [asdict(one) | {"nearest": [ids[n] for n in one.nearest]} for one in personas]}  # fmt: skip
    names = [one.name for one in personas]
    persona = [names[label] for label in labels]

    def write(out: Path) -> list[str]:
        columns = {"customer": ids, "product": bought, "persona": persona, "text": texts}
        pq.write_table(pa.table({name: _text(values) for name, values in columns.items()}), out / REVIEWS)
        if embeddings is not None:
            np.save(out / EMBEDDINGS, np.ascontiguousarray(embeddings, np.float16), allow_pickle=False)
        (out / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / PAGE).write_text(personas_markdown(personas, rules, texts, facts), encoding="utf-8")
        return [REVIEWS, *([] if embeddings is None else [EMBEDDINGS]), FACTS, PAGE]

    users = {"customer": _text(ids)} | {name: _text(values.tolist()) if values.dtype == object else pa.array(values)
                                        for name, values in attributes.items()}  # fmt: skip
    fields, shop = _columns(users, products, product)
    options: dict[str, Any] = {name: vars(arguments)[name] and str(vars(arguments)[name]) for name in FILES}
    options |= {"clusters": None if given else clusters or "auto", "model": model, "seed": seed}
    found = {"attributes": "derived", **{name: facts[name] for name in ("given", "clusters", "seed", "model")}}
    return RawRows(
        fields, np.ones(len(texts), np.float32), np.zeros(len(texts), np.int64), 1.0, 0.0, 1.0, "customer", "product",
        shown={"user": pa.table({"customer": users["customer"], "persona": _text(persona)}), "item": shop},
        options=options, extras={"personas": found | {"names": names}}, write=write,
    )  # fmt: skip


def _columns(
    users: dict[str, pa.Array], products: list[Product], product: np.ndarray
) -> tuple[list[RawField], pa.Table]:
    """The fields, of users by row and of products by int64[n], the product of each row; and what is shown of these."""
    goods = {"product": _text([one.product_id for one in products]),
             "category": _text([one.category for one in products]),
             "brand": _text([one.brand_name for one in products]),
             "price": pa.array([one.price for one in products]),
             "product_rating": pa.array(np.array([one.rating for one in products], np.float64))}  # fmt: skip
    fields = [RawField(name, "categorical" if values.type == pa.string() else "numerical", side, values, by)
              for side, columns, by in (("user", users, None), ("item", goods, product))
              for name, values in columns.items()]  # fmt: skip
    shop = {"product": goods["product"], "name": _text([one.product_name for one in products])}
    shop |= {name: goods[name] for name in ("brand", "category", "price")}
    return fields, pa.table(shop)


def _text(values: list[Any]) -> pa.Array:
    return pa.array(values, pa.string())


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


def read_customers(path: Path, bought: list[str], kinds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The customer of each of n reviews of products ``bought``, with the attributes ``kinds``, as rules have them."""
    attributes: dict[str, Any] = {name: Whole if isinstance(kind, Range) else Text for name, kind in kinds.items()}
    fields = {"purchased_product_id": Text, "persona_name": Text, "user_id": NotRequired[Text]} | attributes
    customer = TypedDict("customer", fields)  # type: ignore[misc]
    people: list[dict[str, Any]] = _load(path, list[customer], "customers", fields)
    for number, (one, expected) in enumerate(zip_longest(people, bought)):
        found = one and one["purchased_product_id"]
        if found != expected:
            raise UserError(f"{path}: customers.{number}.purchased_product_id: found {shown(found)}, expected "
                            f"{shown(expected)}; give one customer a review, in their order")  # fmt: skip
    ids = [one.get("user_id") for one in people]
    _check_distinct(f"{path}: user_id", ids if any(ids) else [])
    return people


def _check_distinct(place: str, names: list[str | None]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1 or name is None]:
        raise UserError(f"{place}: found {shown(twice[0])} twice, or missing; give each its own")


def _load(path: Path, kind: Any, what: str, fields: Sequence[str] | Mapping[str, Any]) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); check its name, and that it is UTF-8 text") from None
    value = parse_json(text, str(path), "mend or fetch the file again")
    kind = Annotated[kind, Field(min_length=1)]
    return validated(kind, value, f"{path}: {what}", f"; expected a list of {what}, each with {', '.join(fields)}")


class Reviews(NamedTuple):
    """The reviews of a dataset directory, one a row."""

    texts: list[str]
    embeddings: np.ndarray | None  # float16[n, d], mapped
    rules: tuple[Rule, ...]
    clusters: int
    seed: int  # of the clusters


def read_reviews(path: Path, manifest: dict[str, Any]) -> Reviews:
    """What a data set of this source has beside its rows."""
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        texts = pq.read_table(path / REVIEWS)["text"].to_pylist()
        embeddings = map_array(path, EMBEDDINGS, manifest) if EMBEDDINGS in manifest["files"] else None
        rules = parse_rules(facts["rules"], str(path / FACTS))
        return Reviews(texts, embeddings, rules, len(facts["personas"]), facts["seed"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged or missing reviews ({error}); prepare the data set again") from None


def personas_markdown(
    personas: Sequence[Persona], rules: Sequence[Rule], texts: Sequence[str], facts: dict[str, Any]
) -> str:
    """PERSONAS.md: how the personas were found, a table of all, then each by itself."""
    model = "no embeddings" if facts["model"] is None else f"embeddings of {facts['model']}"
    about = (f"K-means (k = {len(personas)}, seed {facts['seed']}) on {model}; attributes are drawn from the rule of "
             "the persona, or from any where it has none: they are derived from the review, not known of the "
             "customer.")  # fmt: skip
    if facts["given"]:
        about = f"Personas and attributes as given with the customers; rules are those of the table; {model}."
    total = max(1, sum(persona.size for persona in personas))
    by_name = {rule.name: rule for rule in rules}
    lines = ["# Personas", "", f"{total:,} reviews. {about}", "", "| persona | reviews | share |", "|---|--:|--:|"]
    lines += [f"| {_plain(one.name)} | {one.size:,} | {one.size / total:.1%} |" for one in personas]
    for one in personas:
        title, rule = f": {_plain(one.title)}" if one.title else "", by_name.get(one.name)
        lines += ["", f"## {_plain(one.name)}{title}", "", f"{one.size:,} reviews ({one.size / total:.1%})", ""]
        lines += ["- rule: none of the table" if rule is None else f"- rule: {_plain(', '.join(rule.words))}"]
        for name, kind in rule.attributes.items() if rule else ():
            if isinstance(kind, Range):
                form = "uniform" if kind.mean is None else f"normal, mean {kind.mean:g}, deviation {kind.deviation:g}"
                what = f"{kind.low} to {kind.high}, {form}"
            else:
                shares = {value: weight / sum(kind.values()) for value, weight in kind.items()}
                what = ", ".join(f"{_plain(value)} {share:.0%}" for value, share in shares.items())
            lines.append(f"- {_plain(name)}: {what}")
        lines += [f"- telling words: {_plain(', '.join(one.words)) or 'none'}"]
        lines += ["- nearest reviews:"] if one.nearest else ["- nearest reviews: not known without embeddings"]
        lines += [f"  - “{_plain(texts[number], LONGEST)}”" for number in one.nearest]
    return "\n".join(lines) + "\n"


def _plain(text: str, longest: int | None = None) -> str:
    """On one line, shortened, and with nothing in it that Markdown would take for markup."""
    line = " ".join(text.split())
    if longest and len(line) > longest:
        line = line[:longest].rstrip() + "…"
    return re.sub(r"([\\`*_<>|\[\]#~])", r"\\\1", line)
