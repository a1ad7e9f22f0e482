"""Synthetic click rows whose best possible predictions are known: the probability with which each label was drawn.

A user has a segment, an age group and a taste, an item a brand, tags, a price and a character; tastes are those of the
segment and characters those of the brand and the tags, each with something of its own. The logit of a click is a
constant, a weight of the user, of the item and of the device, and two interactions: the inner product of taste and
character, and the price times a slope that the age group has. All is a function of the row's fields, and most of it
of pairs of them, which no sum of functions of single fields can follow.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.data.encode import RawField, RawRows
from jaxrec.sources.shared import add_number

HELP = "made-up clicks with a known best result; needs no raw data"
KIND = "rows"

START = 1_704_067_200  # 2024-01-01 UTC, in seconds
DAY = 86_400
DAYS = 30
SEGMENTS, AGES, BRANDS, TAGS, DEVICES = 8, 6, 12, 16, ("desktop", "phone", "tablet")
MOST_TAGS = 3
WIDTH = 4  # of tastes and characters


class People(NamedTuple):
    """Users: segment and age group int[U], weight float[U], taste float[U, WIDTH], slope of the price float[U]."""

    segment: np.ndarray
    age: np.ndarray
    weight: np.ndarray
    taste: np.ndarray
    slope: np.ndarray


class Goods(NamedTuple):
    """Items: brand int[I], tags bool[I, TAGS], price and weight float[I], character float[I, WIDTH]."""

    brand: np.ndarray
    tags: np.ndarray
    price: np.ndarray
    weight: np.ndarray
    character: np.ndarray


def add_arguments(parser: ArgumentParser) -> None:
    number = partial(add_number, parser)
    number("rows", int, 100, 10**8, 200_000, "rows to make")
    number("users", int, 2, 10**7, 2000, "users")
    number("items", int, 2, 10**7, 500, "items")
    number("noise", float, 0, 1, 0.0, "share of the rows whose label is the toss of a coin")
    number("seed", int, 0, 2**32, 0, "another seed makes another data set")
    parser.add_argument("--independent", action="store_true", help="labels that nothing in the rows has an influence "
                        "on: a control, on which no model can do better than an AUC of .5")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Draw users, items, rows in the order of time, and their labels."""
    random = np.random.default_rng(arguments.seed)
    people, goods = _people(arguments.users, random), _goods(arguments.items, random)
    n = arguments.rows
    user = _popular(arguments.users, n, random)
    item = _popular(arguments.items, n, random)
    device = random.integers(len(DEVICES), size=n)
    times = START + np.sort(random.integers(DAYS * DAY, size=n))
    probability = _probability(people, goods, user, item, np.array([-0.4, 0.1, 0.3])[device], arguments.noise)
    if arguments.independent:
        probability = np.full(n, probability.mean())
    labels = (random.random(n) < probability).astype(np.float32)
    options = {name: getattr(arguments, name) for name in ("rows", "users", "items", "noise", "seed", "independent")}
    return RawRows(
        fields=_fields(people, goods, user, item, device, random),
        ratings=labels,
        times=times,
        threshold=1.0,
        low=0.0,
        high=1.0,
        user="user",
        item="item",
        options=options,
        extras={"optimum": {"over": "all rows", "rows": n, **optimum(probability, labels)}},
    )


def optimum(probability: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What the true probabilities reach: ``auc`` (not a number where a class is missing) and ``log_loss``, in nats.

    A model may by chance do a little better on a part of the rows; over many rows none does.

    Args:
        probability: float64[n], strictly between 0 and 1.
        labels: [n], 0 or 1.
    """
    positive, negative = probability[labels == 1], np.sort(probability[labels == 0])
    won = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
    auc = won.sum() / (2 * len(positive) * len(negative)) if len(positive) and len(negative) else np.nan
    log_loss = -np.mean(np.where(labels == 1, np.log(probability), np.log1p(-probability)))
    # Rounded, so that the manifest does not depend on the order in which a machine sums.
    return {"auc": round(float(auc), 9), "log_loss": round(float(log_loss), 9)}


def _people(n: int, random: np.random.Generator) -> People:
    segment, age = random.integers(SEGMENTS, size=n), random.integers(AGES, size=n)
    taste = random.normal(size=(SEGMENTS, WIDTH))[segment] + 0.4 * random.normal(size=(n, WIDTH))
    slope = np.linspace(-1, 1, AGES)[age]
    return People(segment, age, 0.4 * random.normal(size=n), taste, slope)


def _goods(n: int, random: np.random.Generator) -> Goods:
    brand = random.integers(BRANDS, size=n)
    tags = random.random((n, TAGS)).argsort(axis=1) < random.integers(1, MOST_TAGS + 1, size=n)[:, None]
    of_tags = tags @ random.normal(size=(TAGS, WIDTH)) / tags.sum(axis=1, keepdims=True)
    character = random.normal(size=(BRANDS, WIDTH))[brand] + of_tags + 0.4 * random.normal(size=(n, WIDTH))
    price = np.round(np.exp(3 + 0.8 * random.normal(size=n)), 2)
    # Centred: what all tastes like in an item is its weight, and not the interactions' part.
    return Goods(brand, tags, price, 0.4 * random.normal(size=n), character - character.mean(axis=0))


def _probability(
    people: People, goods: Goods, user: np.ndarray, item: np.ndarray, device: np.ndarray, noise: float
) -> np.ndarray:
    """float64[n], of a click in each row; ``device`` is the weight of the row's device."""
    match = np.einsum("nw,nw->n", people.taste[user], goods.character[item]) / np.sqrt(WIDTH)
    price = (np.log(goods.price) - 3) / 0.8
    logit = -1 + people.weight[user] + goods.weight[item] + device + match + people.slope[user] * price[item]
    return (1 - noise) / (1 + np.exp(-logit)) + noise / 2


def _popular(n: int, rows: int, random: np.random.Generator) -> np.ndarray:
    """int64[rows]: draws of 0 to n - 1, low ones more often."""
    return np.minimum((random.random(rows) ** 1.5 * n).astype(np.int64), n - 1)


def _fields(
    people: People, goods: Goods, user: np.ndarray, item: np.ndarray, device: np.ndarray, random: np.random.Generator
) -> list[RawField]:
    """Of users and items that have rows; ids are shuffled, so that they say nothing about the popularity."""
    users, by_user = np.unique(user, return_inverse=True)
    items, by_item = np.unique(item, return_inverse=True)
    user_ids, item_ids = random.permutation(len(people.age)) + 1, random.permutation(len(goods.price)) + 1
    tags = pa.array([[f"tag{tag}" for tag in np.flatnonzero(row)] for row in goods.tags[items]], pa.list_(pa.string()))

    def named(prefix: str, codes: np.ndarray) -> pa.Array:
        return pa.array([f"{prefix}{code}" for code in codes])

    return [
        RawField("user", "categorical", "user", pa.array(user_ids[users]), by_user),
        RawField("item", "categorical", "item", pa.array(item_ids[items]), by_item),
        RawField("segment", "categorical", "user", named("segment", people.segment[users]), by_user),
        RawField("age", "categorical", "user", pa.array(15 + 10 * people.age[users]), by_user),
        RawField("brand", "categorical", "item", named("brand", goods.brand[items]), by_item),
        RawField("device", "categorical", "context", pa.array(DEVICES).take(pa.array(device))),
        RawField("tags", "bag", "item", tags, by_item),
        RawField("log_price", "numerical", "item", pa.array(np.log(goods.price[items])), by_item),
    ]
