"""Two towers of the published size (49 features → 64 → 32, 33 → 64 → 32) on generated interactions."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec import config as configuration
from jaxrec.benchmarks.case import Prepared, sections
from jaxrec.config import Config
from jaxrec.data.positives import positive_bits
from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.models import make_tower_model
from jaxrec.models.two_tower import Interactions
from jaxrec.training import training_plan

BATCH, LOSSES, HARD = 4096, ("triplet", "infonce"), (0, 4)
INTERACTIONS, PRODUCTS, OF_A_CUSTOMER = 2_000_000, 10_000, 10
USER_VALUES = {"gender": 3, "skin_type": 7, "skin_concern": 7}
ITEM_VALUES = {"category": 6, "brand": 20}


def prepare(options: Any, loss: str, batch: int, hard: int) -> Prepared:
    """The model with a feed of interactions whose products have Zipf popularity (exponent 0.8)."""
    products = options.items[0] if options.items else PRODUCTS
    customers = max(1, options.interactions // OF_A_CUSTOMER)
    given = sections(options, batch)
    config = configuration.parse({
        **given,
        "data": given["data"] | {"fields": [field.name for field in _fields(0, 0) if field.size]},
        "model": {"name": "two_tower"},
        "loss": {"name": loss, "hard_negatives": hard},
    })  # fmt: skip
    schema = Schema(_fields(customers + 1, products + 1), "customer", "product", 1.0, 0.0, 1.0)
    random, n = np.random.default_rng(0), options.interactions
    share = np.cumsum(np.arange(1, products + 1) ** -0.8)
    item = np.minimum(np.searchsorted(share / share[-1], random.random(n)), products - 1) + 1
    user = random.integers(1, customers + 1, n)
    of_users, of_items = (
        np.stack([random.integers(1, size, rows + 1, np.int32) for size in sizes.values()], axis=1)
        for sizes, rows in ((USER_VALUES, customers), (ITEM_VALUES, products))
    )
    columns = np.concatenate([of_users[user], user[:, None], item[:, None]], axis=1).astype(np.int32)
    ones = np.ones(n, np.float32)
    age = random.standard_normal((customers + 1, 1)).astype(np.float32)[user]
    rows = Rows(columns, age, ones, ones, np.zeros(n, np.int64), user.astype(np.int32))
    model = make_tower_model(config, schema)
    feed = model.feed(rows, training_plan(config))
    price = random.standard_normal((products + 1, 1)).astype(np.float32)
    known = Interactions(of_items, price, np.bincount(item, minlength=products + 1),
                         positive_bits(user, item, customers + 1, products + 1))  # fmt: skip
    flop, size = work(config, batch, hard)
    shown = {"units": config.model.hidden[0], "dim": config.model.output_dim, "n_sample": 0, "hard": hard,
             "precision": options.precision}  # fmt: skip
    return Prepared(config, model, feed, model.constants(known), products, batch, flop, size, shown)


def _fields(customers: int, products: int) -> tuple[Field, ...]:
    def coded(name: str, side: str, size: int) -> Field:
        return Field(name, "categorical", side, size)

    return (
        coded("customer", "user", customers), Field("age", "numerical", "user", 1, 0),
        *(coded(name, "user", size) for name, size in USER_VALUES.items()),
        coded("product", "item", products),
        *(coded(name, "item", size) for name, size in ITEM_VALUES.items()),
        Field("price", "numerical", "item", 1, 0),
    )  # fmt: skip


def work(config: Config, batch: int, hard: int) -> tuple[int, int]:
    """FLOP and bytes of one step: three times the products forward; scores written once and read twice."""
    model = config.model
    widths = (len(USER_VALUES) * model.embedding_dim + 1, len(ITEM_VALUES) * model.embedding_dim + 1)
    user, item = (width * model.hidden[0] + model.hidden[0] * model.output_dim for width in widths)
    of_row = user + (1 + hard) * item + (batch + hard) * model.output_dim
    return 3 * 2 * batch * of_row, 4 * 3 * batch * (batch + hard)
