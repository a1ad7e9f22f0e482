"""Synthetic purchases of customers with personas, whose best possible ranking is known. A customer has one of six
personas and, from it, an age, a gender, a skin type and a skin concern, each the persona's own in eight cases of ten. A
purchase is drawn from a softmax over all products, whose logit is the popularity plus what these attributes make of
category, brand and price. Each customer draws ``--purchases`` times, and a product drawn again is dropped: with p the
probability in one draw and m the draws, a pair is among the rows with probability q = 1 - (1 - p)^m, and no ranking is
better than that by p. ``optimum`` is the share of the first k in the expected rows."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.sources.shared import Numbers, add_numbers

HELP = "made-up customers with personas and their purchases, with a known best ranking; needs no raw data"
KIND = "rows"

WORDS = {
    "gender": ("F", "M"),
    "skin_type": ("dry", "mature", "unknown", "normal", "sensitive", "combination", "oily"),
    "skin_concern": ("moisture", "wrinkle", "gift", "repurchase", "calming", "texture"),
    "category": ("cream", "serum", "gift set", "cleanser", "toner", "peeling", "sunscreen", "mask"),
    "brand": ("Aluvia", "Belmora", "Cerisea", "Dewlin", "Elmira", "Fenlow", "Galdris", "Havelin", "Ilvane", "Jorune"),
}
GENDERS, TYPES, CONCERNS, CATEGORIES, BRANDS = map(len, WORDS.values())
AGES = (18, 64)
PERSONAS = {  # the share of the customers, and their own ages (from, to), gender, skin type and concern
    "Dry_Winter": (0.20, (35, 49), "F", "dry", "moisture"),
    "Anti_Aging": (0.18, (35, 49), "F", "mature", "wrinkle"),
    "Gift_Buyer": (0.12, (25, 39), "M", "unknown", "gift"),
    "Loyal_Repurchase": (0.20, (25, 37), "F", "normal", "repurchase"),
    "Sensitive_Calming": (0.16, (20, 44), "F", "sensitive", "calming"),
    "Detail_Reviewer": (0.14, (25, 37), "M", "combination", "texture"),
}
OWN = 0.8  # share of a persona's customers that have its own value of an attribute
WIDEST = 100  # the optimum is known up to this k
KS = (1, 3, 5, 10, 20, WIDEST)
OPTIONS: Numbers = {
    "customers": (int, 1, 10**7, 2000, "customers"),
    "products": (int, 2, 10**4, 200, "products"),
    "purchases": (int, 1, 1000, 5, "purchases of each customer; of equal ones all but one are dropped"),
    "seed": (int, 0, 2**32, 0, "another seed makes another data set"),
}


class Chances(NamedTuple):
    """Customers by what they have in common, and the probability of each product that follows from it."""

    order: np.ndarray  # int64[C], the customers, those with equal attributes beside each other
    counts: np.ndarray  # int64[G], how many there are of each distinct combination
    probability: np.ndarray  # float64[G, P], of each product in one draw


def add_arguments(parser: ArgumentParser) -> None:
    add_numbers(parser, OPTIONS)
    parser.add_argument("--independent", action="store_true", help="purchases by popularity alone: a control, on which "
                        "no model can do better than the most popular products")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Draw customers, products and purchases; rows come in no order."""
    random = np.random.default_rng(arguments.seed)
    persona, customers = _customers(arguments.customers, random)
    n = arguments.products
    products = {"category": random.integers(CATEGORIES, size=n), "brand": random.integers(BRANDS, size=n),
                "price": np.round(np.exp(3.2 + 0.6 * random.normal(size=n)), 2)}  # fmt: skip
    chances = _chances(customers, products, 0.8 * random.normal(size=n), random)
    if arguments.independent:  # all customers in one group, whose probabilities are the mean of those that they had
        mean = np.average(chances.probability, axis=0, weights=chances.counts)
        chances = chances._replace(counts=chances.counts.sum()[None], probability=mean[None])
    by_customer, by_product = _purchases(chances, arguments.purchases, random)
    words = {name: pa.array(WORDS[name]).take(codes) for name, codes in (customers | products).items() if name in WORDS}
    people = pa.table({"customer": np.arange(1, len(persona) + 1), "persona": pa.array(PERSONAS).take(persona),
                       "age": customers["age"], **{name: words[name] for name in list(WORDS)[:3]}})  # fmt: skip
    goods = {name: words[name] for name in ("category", "brand")}
    names = [f"{brand} {category} {number}"
             for number, (category, brand) in enumerate(zip(*goods.values(), strict=True), 1)]  # fmt: skip
    shop = pa.table({"product": np.arange(1, n + 1), "name": names, **goods, "price": products["price"]})
    sold, by_sold = np.unique(by_product, return_inverse=True)  # what nobody bought is not among the values
    fields = [
        RawField(name, "numerical" if name in ("age", "price") else "categorical", side,
                 table[name].combine_chunks(), by, logarithm=name == "price")
        for side, table, by, hidden in (("user", people, by_customer, "persona"),
                                        ("item", shop.take(sold), by_sold.astype(np.int32), "name"))
        for name in table.column_names if name != hidden
    ]  # fmt: skip
    rows = len(by_customer)
    return RawRows(
        fields, np.ones(rows, np.float32), np.zeros(rows, np.int64), 1.0, 0.0, 1.0, "customer", "product",
        shown={"user": people, "item": shop},
        options={name: getattr(arguments, name) for name in (*OPTIONS, "independent")},
        extras={"optimum": optimum(chances, arguments.purchases), "personas": {"attributes": "stated"}},
    )  # fmt: skip


def optimum(chances: Chances, purchases: int) -> dict[str, Any]:
    """The expected ``hit_rate@k`` by the products' true probability; ``popularity``: by the expected number of rows."""
    bought = -np.expm1(purchases * np.log1p(-np.minimum(chances.probability, 1 - 1e-16)))
    rows = chances.counts @ bought
    hits = chances.counts @ np.sort(bought, axis=1)[:, : -WIDEST - 1 : -1]

    def rates(gains: np.ndarray) -> dict[str, float]:
        # Rounded, so that the manifest does not depend on the order in which a machine sums.
        shares = np.cumsum(gains) / rows.sum()
        return {f"hit_rate@{k}": round(float(shares[k - 1]), 9) for k in KS if k <= len(rows)}

    return {"over": "all rows, ranked among all products", **rates(hits), "popularity": rates(np.sort(rows)[::-1])}


def _customers(n: int, random: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """int64[n] personas, and by attribute int64[n]: the age in years, otherwise indices into ``WORDS``."""
    shares, ages, *own = zip(*PERSONAS.values(), strict=True)
    persona = random.choice(len(PERSONAS), size=n, p=np.array(shares) / np.sum(shares))
    first, last = np.array(ages).T
    age = random.integers(first[persona], last[persona] + 1)
    found = {"age": np.where(random.random(n) < OWN, age, random.integers(AGES[0], AGES[1] + 1, size=n))}
    for (name, words), values in zip(list(WORDS.items())[:3], own, strict=True):
        index = np.array([words.index(value) for value in values])[persona]
        found[name] = np.where(random.random(n) < OWN, index, random.integers(len(words), size=n))
    return persona, found


def _chances(
    customers: dict[str, np.ndarray], products: dict[str, np.ndarray], popularity: np.ndarray,
    random: np.random.Generator,
) -> Chances:  # fmt: skip
    """Group the customers, and draw what their attributes make of those of the products."""
    shape = (AGES[1] + 1, GENDERS, TYPES, CONCERNS)
    codes = np.ravel_multi_index(tuple(customers.values()), shape)
    distinct, counts = np.unique(codes, return_counts=True)
    age, gender, skin, concern = np.unravel_index(distinct, shape)
    years = ((age - 36) / 12)[:, None]
    # Each concern has a category of its own; all else is drawn.
    of_concern = 0.5 * random.normal(size=(CONCERNS, CATEGORIES)) + 2 * np.eye(CONCERNS, CATEGORIES)
    of_gender = 0.4 * random.normal(size=(GENDERS, CATEGORIES))
    of_type = 0.7 * random.normal(size=(TYPES, BRANDS))
    of_years = 0.4 * random.normal(size=BRANDS)
    by_category, by_brand = of_concern[concern] + of_gender[gender], of_type[skin] + years * of_years
    price = (np.log(products["price"]) - 3.2) / 0.6
    logits = by_category[:, products["category"]] + by_brand[:, products["brand"]] + 0.6 * years * price + popularity
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Chances(np.argsort(codes, kind="stable"), counts, odds / odds.sum(axis=1, keepdims=True))


def _purchases(chances: Chances, purchases: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """int32[n] each: customer and product of distinct pairs, in random order."""
    groups, products = chances.probability.shape
    # One ascending array of all groups' cumulative probabilities, the g-th group's from g to g + 1.
    steps = np.cumsum(chances.probability, axis=1)
    steps = steps / steps[:, -1:] + np.arange(groups)[:, None]
    group = np.repeat(np.arange(groups), chances.counts)[:, None]
    place = np.searchsorted(steps.ravel(), random.random((len(group), purchases)) + group, side="right")
    bought = np.clip(place - group * products, 0, products - 1).astype(np.int32)  # the sums are rounded
    bought.sort(axis=1)
    new = np.ones(bought.shape, bool)
    new[:, 1:] = bought[:, 1:] != bought[:, :-1]
    customer = np.repeat(chances.order.astype(np.int32), new.sum(axis=1))
    order = random.permutation(len(customer))
    return customer[order], bought[new][order]
