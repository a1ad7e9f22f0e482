"""Synthetic click rows whose best possible predictions are known: the probability with which each label was drawn.

A user has a segment, an age group and a taste, an item a brand, tags, a price and a character; tastes are those of the
segment and characters those of the brand and the tags, each with something of its own. The logit of a click has a
weight of the user, of the item and of the device, and two interactions, which no sum of functions of single fields can
follow: the product of taste and character, and the price times a slope that the age group has.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.sources.shared import Numbers, add_numbers

HELP = "made-up clicks with a known best result; needs no raw data"
KIND = "rows"

START = 1_704_067_200  # 2024-01-01 UTC, in seconds
SPAN = 30 * 86_400  # s
SEGMENTS, AGES, BRANDS, TAGS, MOST_TAGS = 8, 6, 12, 16, 3
DEVICES, DEVICE_WEIGHTS = ("desktop", "phone", "tablet"), np.array([-0.4, 0.1, 0.3])
WIDTH = 4  # of tastes and characters
OPTIONS: Numbers = {
    "rows": (int, 100, 10**8, 200_000, "rows to make"),
    "users": (int, 2, 10**7, 2000, "users"),
    "items": (int, 2, 10**7, 500, "items"),
    "noise": (float, 0, 1, 0.0, "share of the rows whose label is the toss of a coin"),
    "seed": (int, 0, 2**32, 0, "another seed makes another data set"),
}


def add_arguments(parser: ArgumentParser) -> None:
    add_numbers(parser, OPTIONS)
    parser.add_argument("--independent", action="store_true", help="labels that nothing in the rows has an influence "
                        "on: a control, on which no model can do better than an AUC of .5")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """Draw users, items, rows in the order of time, and their labels."""
    random = np.random.default_rng(arguments.seed)
    n, users, items = arguments.rows, arguments.users, arguments.items
    segment, age = random.integers(SEGMENTS, size=users), random.integers(AGES, size=users)
    taste = random.normal(size=(SEGMENTS, WIDTH))[segment] + 0.4 * random.normal(size=(users, WIDTH))
    user_weight = 0.4 * random.normal(size=users)
    brand = random.integers(BRANDS, size=items)
    tags = random.random((items, TAGS)).argsort(axis=1) < random.integers(1, MOST_TAGS + 1, size=items)[:, None]
    of_tags = tags @ random.normal(size=(TAGS, WIDTH)) / tags.sum(axis=1, keepdims=True)
    of_brand = random.normal(size=(BRANDS, WIDTH))[brand]
    character = of_brand + of_tags + 0.4 * random.normal(size=(items, WIDTH))
    character -= character.mean(axis=0)  # what all tastes like in an item is its weight
    price = np.round(np.exp(3 + 0.8 * random.normal(size=items)), 2)
    item_weight = 0.4 * random.normal(size=items)
    user, item = (np.minimum((random.random(n) ** 1.5 * size).astype(np.int64), size - 1) for size in (users, items))
    device = random.integers(len(DEVICES), size=n)
    times = START + np.sort(random.integers(SPAN, size=n))
    match = np.einsum("nw,nw->n", taste[user], character[item]) / np.sqrt(WIDTH)
    slope = np.linspace(-1, 1, AGES)[age]
    logit = -1 + user_weight[user] + item_weight[item] + DEVICE_WEIGHTS[device] + match
    logit += slope[user] * ((np.log(price) - 3) / 0.8)[item]
    probability = (1 - arguments.noise) / (1 + np.exp(-logit)) + arguments.noise / 2
    if arguments.independent:
        probability = np.full(n, probability.mean())
    labels = (random.random(n) < probability).astype(np.float32)
    # Of users and items that have rows; ids are shuffled, so that they say nothing about the popularity.
    some_users, by_user = np.unique(user, return_inverse=True)
    some_items, by_item = np.unique(item, return_inverse=True)
    user_ids, item_ids = random.permutation(users) + 1, random.permutation(items) + 1
    bags = pa.array([[f"tag{tag}" for tag in np.flatnonzero(row)] for row in tags[some_items]], pa.list_(pa.string()))
    segments = pa.array([f"segment{code}" for code in segment[some_users]])
    brands = pa.array([f"brand{code}" for code in brand[some_items]])
    fields = [
        RawField("user", "categorical", "user", pa.array(user_ids[some_users]), by_user),
        RawField("item", "categorical", "item", pa.array(item_ids[some_items]), by_item),
        RawField("segment", "categorical", "user", segments, by_user),
        RawField("age", "categorical", "user", pa.array(15 + 10 * age[some_users]), by_user),
        RawField("brand", "categorical", "item", brands, by_item),
        RawField("device", "categorical", "context", pa.array(DEVICES).take(pa.array(device))),
        RawField("tags", "bag", "item", bags, by_item),
        RawField("log_price", "numerical", "item", pa.array(np.log(price[some_items])), by_item),
    ]
    options = {name: getattr(arguments, name) for name in (*OPTIONS, "independent")}
    extras = {"optimum": {"over": "all rows", "rows": n, **optimum(probability, labels)}}
    return RawRows(fields, labels, times, 1.0, 0.0, 1.0, "user", "item", options=options, extras=extras)


def optimum(probability: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What the true probabilities, strictly between 0 and 1, reach: ``auc`` and ``log_loss``, in nats."""
    positive, negative = probability[labels == 1], np.sort(probability[labels == 0])
    won = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
    auc = won.sum() / (2 * len(positive) * len(negative)) if len(positive) and len(negative) else np.nan
    log_loss = -np.mean(np.where(labels == 1, np.log(probability), np.log1p(-probability)))
    # Rounded, so that the manifest does not depend on the order in which a machine sums.
    return {"auc": round(float(auc), 9), "log_loss": round(float(log_loss), 9)}
