"""Synthetic purchases of customers with personas, whose best possible ranking is known.

A customer has one of six personas and, from it, an age, a gender, a skin type and a skin concern, each of which is the
persona's own in eight cases of ten and any in the others. A product has a category, a brand, a price and a popularity.
A purchase is drawn from a softmax over all products, whose logit is the popularity plus what the concern, the skin
type, the age and the gender make of category, brand and price. It depends on attributes that the rows hold, so that a
model can learn all of it; the persona itself has no influence beyond them.

Each customer draws ``--purchases`` times, and a product drawn again is dropped: pairs are distinct, and customers have
that many rows or a few less. With p the probability of a product in one draw and m the draws, the pair is among the
rows with probability q = 1 - (1 - p)^m exactly. q grows with p, so that no ranking by the customer's attributes is
better than that by p, and the expected hits among its first k are sums of q; ``optimum`` is their share of the expected
rows, that is the hit rate of a row taken at random, ranked among all products. A ranking may only be better by what it
knows of a customer's other rows: that what is bought once does not come again.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.data.encode import RawField, RawRows
from jaxrec.sources.shared import add_number

HELP = "made-up customers with personas and their purchases, with a known best ranking; needs no raw data"
KIND = "rows"

TYPES = ("dry", "mature", "unknown", "normal", "sensitive", "combination", "oily")
CONCERNS = ("moisture", "wrinkle", "gift", "repurchase", "calming", "texture")
GENDERS = ("F", "M")
CATEGORIES = ("cream", "serum", "gift set", "cleanser", "toner", "peeling", "sunscreen", "mask")
BRANDS = ("Aluvia", "Belmora", "Cerisea", "Dewlin", "Elmira", "Fenlow", "Galdris", "Havelin", "Ilvane", "Jorune")
AGES = (18, 64)
OWN = 0.8  # share of a persona's customers that have its own value of an attribute
WIDEST = 100  # the optimum is known up to this k
KS = (1, 3, 5, 10, 20, WIDEST)
CELLS = 2_000_000  # probabilities in memory at a time


class Persona(NamedTuple):
    """Its share of the customers, and its own ages (from, to), gender, skin type and concern."""

    name: str
    share: float
    ages: tuple[int, int]
    gender: str
    type: str
    concern: str


PERSONAS = (
    Persona("Dry_Winter", 0.20, (35, 49), "F", "dry", "moisture"),
    Persona("Anti_Aging", 0.18, (35, 49), "F", "mature", "wrinkle"),
    Persona("Gift_Buyer", 0.12, (25, 39), "M", "unknown", "gift"),
    Persona("Loyal_Repurchase", 0.20, (25, 37), "F", "normal", "repurchase"),
    Persona("Sensitive_Calming", 0.16, (20, 44), "F", "sensitive", "calming"),
    Persona("Detail_Reviewer", 0.14, (25, 37), "M", "combination", "texture"),
)


class Customers(NamedTuple):
    """int64[C] each: the persona, the age in years, and indices of gender, skin type and concern."""

    persona: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    type: np.ndarray
    concern: np.ndarray


class Products(NamedTuple):
    """int64[P] indices of category and brand; float64[P] price, and popularity in the logit."""

    category: np.ndarray
    brand: np.ndarray
    price: np.ndarray
    popularity: np.ndarray


class Chances(NamedTuple):
    """Customers by what they have in common, and the logits that follow from it.

    Attributes:
        order: int64[C], the customers, those with equal attributes beside each other.
        counts: int64[G], how many there are of each distinct combination.
        left, right: float64[G, F] and float64[F, P], whose product are the logits without the popularity.
        popularity: float64[P].
    """

    order: np.ndarray
    counts: np.ndarray
    left: np.ndarray
    right: np.ndarray
    popularity: np.ndarray

    def probabilities(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Parts of the combinations with float64[part, P], the probability of each product in one draw."""
        size = max(1, CELLS // len(self.popularity))
        for start in range(0, len(self.counts), size):
            part = slice(start, start + size)
            yield part, _softmax(self.left[part] @ self.right + self.popularity)


def add_arguments(parser: ArgumentParser) -> None:
    number = partial(add_number, parser)
    number("customers", int, 1, 10**7, 2000, "customers")
    number("products", int, 2, 10**5, 200, "products")
    number("purchases", int, 1, 1000, 5, "purchases of each customer; of equal ones all but one are dropped")
    number("seed", int, 0, 2**32, 0, "another seed makes another data set")
    parser.add_argument("--independent", action="store_true", help="purchases by popularity alone: a control, on which "
                        "no model can do better than the most popular products")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Draw customers, products and purchases; rows come in no order."""
    random = np.random.default_rng(arguments.seed)
    customers, products = _customers(arguments.customers, random), _products(arguments.products, random)
    chances = _chances(customers, products, random)
    if arguments.independent:
        chances = _independent(chances)
    by_customer, by_product = _purchases(chances, arguments.purchases, random)
    people, goods = _shown_customers(customers), _shown_products(products)
    names = ("customers", "products", "purchases", "seed", "independent")
    return RawRows(
        fields=_fields(people, goods, by_customer, by_product),
        ratings=np.ones(len(by_customer), np.float32),
        times=np.zeros(len(by_customer), np.int64),
        threshold=1.0,
        low=0.0,
        high=1.0,
        user="customer",
        item="product",
        shown={"user": people, "item": goods},
        options={name: getattr(arguments, name) for name in names},
        extras={"optimum": optimum(chances, arguments.purchases), "personas": {"attributes": "stated"}},
    )


def optimum(chances: Chances, purchases: int) -> dict[str, Any]:
    """The expected hit rate of a row taken at random, where all products are ranked by their true probability.

    Returns:
        ``hit_rate@k`` for each k of ``KS`` up to the number of products; ``popularity``: the same where all customers
        get one ranking, by the expected number of rows; ``over``: what it is the mean of.
    """
    products = len(chances.popularity)
    width = min(WIDEST, products)
    hits, rows = np.zeros(width), np.zeros(products)
    for part, probability in chances.probabilities():
        bought = -np.expm1(purchases * np.log1p(-np.minimum(probability, 1 - 1e-16)))
        best = np.sort(np.partition(bought, products - width, axis=1)[:, products - width :], axis=1)[:, ::-1]
        hits += chances.counts[part] @ best
        rows += chances.counts[part] @ bought

    def rates(gains: np.ndarray) -> dict[str, float]:
        # Rounded, so that the manifest does not depend on the order in which a machine sums.
        shares = np.cumsum(gains) / rows.sum()
        return {f"hit_rate@{k}": round(float(shares[k - 1]), 9) for k in KS if k <= width}

    popular = np.sort(rows)[::-1][:width]
    return {"over": "all rows, ranked among all products", **rates(hits), "popularity": rates(popular)}


def _customers(n: int, random: np.random.Generator) -> Customers:
    shares = np.array([persona.share for persona in PERSONAS])
    persona = random.choice(len(PERSONAS), size=n, p=shares / shares.sum())

    def attribute(own: np.ndarray, values: int) -> np.ndarray:
        return np.where(random.random(n) < OWN, own[persona], random.integers(values, size=n))

    first, last = np.array([persona.ages for persona in PERSONAS]).T
    age = random.integers(first[persona], last[persona] + 1)
    age = np.where(random.random(n) < OWN, age, random.integers(AGES[0], AGES[1] + 1, size=n))
    drawn = [attribute(np.array([values.index(getattr(one, name)) for one in PERSONAS]), len(values))
             for name, values in (("gender", GENDERS), ("type", TYPES), ("concern", CONCERNS))]  # fmt: skip
    return Customers(persona, age, *drawn)


def _products(n: int, random: np.random.Generator) -> Products:
    category, brand = random.integers(len(CATEGORIES), size=n), random.integers(len(BRANDS), size=n)
    price = np.round(np.exp(3.2 + 0.6 * random.normal(size=n)), 2)
    return Products(category, brand, price, 0.8 * random.normal(size=n))


def _chances(customers: Customers, products: Products, random: np.random.Generator) -> Chances:
    """Group the customers, and draw what their attributes make of those of the products."""
    shape = (AGES[1] + 1, len(GENDERS), len(TYPES), len(CONCERNS))
    codes = np.ravel_multi_index((customers.age, customers.gender, customers.type, customers.concern), shape)
    distinct, counts = np.unique(codes, return_counts=True)
    age, gender, skin, concern = np.unravel_index(distinct, shape)
    years = ((age - 36) / 12)[:, None]
    # Each concern has a category of its own; all else is drawn.
    of_concern = 0.5 * random.normal(size=(len(CONCERNS), len(CATEGORIES))) + 2 * np.eye(len(CONCERNS), len(CATEGORIES))
    of_gender = 0.4 * random.normal(size=(len(GENDERS), len(CATEGORIES)))
    of_type = 0.7 * random.normal(size=(len(TYPES), len(BRANDS)))
    of_years = 0.4 * random.normal(size=len(BRANDS))
    left = [of_concern[concern] + of_gender[gender], of_type[skin] + years * of_years, 0.6 * years]
    price = (np.log(products.price) - 3.2) / 0.6
    right = [np.eye(len(CATEGORIES))[:, products.category], np.eye(len(BRANDS))[:, products.brand], price[None]]
    return Chances(
        np.argsort(codes, kind="stable"), counts, np.hstack(left), np.concatenate(right), products.popularity
    )


def _independent(chances: Chances) -> Chances:
    """All customers in one group, whose probabilities are the mean of those that they had."""
    mean = np.zeros(len(chances.popularity))
    for part, probability in chances.probabilities():
        mean += chances.counts[part] @ probability
    customers = chances.counts.sum()
    features = chances.right.shape[0]
    return Chances(chances.order, customers[None], np.zeros((1, features)), chances.right, np.log(mean / customers))


def _purchases(chances: Chances, purchases: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """int32[n] each: customer and product of distinct pairs, in random order."""
    products = len(chances.popularity)
    ends = np.cumsum(chances.counts)
    bought = np.empty((int(ends[-1]), purchases), np.int32)
    for part, probability in chances.probabilities():
        # One ascending array of all groups' cumulative probabilities, the g-th group's from g to g + 1.
        groups = len(probability)
        steps = np.cumsum(probability, axis=1)
        steps /= steps[:, -1:]
        steps += np.arange(groups)[:, None]
        last, first = int(ends[part][-1]), int(ends[part][0] - chances.counts[part][0])
        group = np.repeat(np.arange(groups), chances.counts[part])[:, None]
        place = np.searchsorted(steps.ravel(), random.random((last - first, purchases)) + group, side="right")
        bought[first:last] = np.clip(place - group * products, 0, products - 1)  # the sums are rounded
    bought.sort(axis=1)
    new = np.ones(bought.shape, bool)
    new[:, 1:] = bought[:, 1:] != bought[:, :-1]
    customer = np.repeat(chances.order.astype(np.int32), new.sum(axis=1))
    order = random.permutation(len(customer))
    return customer[order], bought[new][order]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """float64[n, P], in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _fields(people: pa.Table, goods: pa.Table, by_customer: np.ndarray, by_product: np.ndarray) -> list[RawField]:
    """Of customers and products; those of products that nobody bought are not among the values."""
    sold = np.bincount(by_product, minlength=len(goods)) > 0
    by_sold = (np.cumsum(sold) - 1)[by_product].astype(np.int32)
    goods = goods.filter(pa.array(sold))
    sides = (("user", people, by_customer, ("customer", "age", "gender", "skin_type", "skin_concern")),
             ("item", goods, by_sold, ("product", "category", "brand", "price")))  # fmt: skip
    return [
        RawField(name, "numerical" if name in ("age", "price") else "categorical", side, table[name].combine_chunks(),
                 by, logarithm=name == "price")
        for side, table, by, names in sides for name in names
    ]  # fmt: skip


def _shown_customers(customers: Customers) -> pa.Table:
    names = {"persona": [persona.name for persona in PERSONAS], "gender": GENDERS, "type": TYPES, "concern": CONCERNS}
    persona, gender, skin, concern = (pa.array(words).take(pa.array(getattr(customers, attribute)))
                                      for attribute, words in names.items())  # fmt: skip
    ids = np.arange(1, len(customers.age) + 1)
    return pa.table({"customer": ids, "persona": persona, "age": customers.age, "gender": gender, "skin_type": skin,
                     "skin_concern": concern})  # fmt: skip


def _shown_products(products: Products) -> pa.Table:
    category = [CATEGORIES[code] for code in products.category]
    brand = [BRANDS[code] for code in products.brand]
    names = [f"{maker} {kind} {number}" for number, (maker, kind) in enumerate(zip(brand, category, strict=True), 1)]
    ids = np.arange(1, len(names) + 1)
    return pa.table({"product": ids, "name": names, "category": category, "brand": brand, "price": products.price})
