"""Made-up customers and products, as rows: what a customer buys follows from skin and age, or from nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import yaml

from jaxrec import run as runs
from jaxrec.data.encode import RawField, RawRows, write_rows
from jaxrec.data.rows import Schema
from jaxrec.data.store import staging, write_manifest
from jaxrec.models.base import make_tower_model
from jaxrec.training.block import new_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule

USERS, ITEMS, EACH = 224, 40, 3  # EACH: products that a customer bought
SKINS, BRANDS = ("dry", "oily", "normal", "mature"), ("old brand", "young brand")
LIKES = [["spa"], ["spa", "gold"], [], ["sun"]]
TAGS = [["new"], ["new", "soft"], [], ["big"]]
Sections = dict[str, dict[str, Any]]

RULE = {"when": {"skin_type": "dry"}, "boost": {"category": "cream"}, "by": 0.3}
SYNTHETIC: Sections = {
    "data": {"protocol": "in_sample", "validation_fraction": 0.0, "test_fraction": 0.0,
             "fields": ["age", "gender", "skin_type", "skin_concern", "category", "brand", "price"]},
    "model": {"dropout_hidden": 0.0},
    "loss": {"name": "triplet"},
    "training": {"epochs": 1, "passes": 12, "steps_per_block": 200},
    "evaluation": {"k": [3, 5], "category": "category"},
    "recommendation": {"rules": [RULE]},
}  # fmt: skip
"""For data of the source personas-synthetic."""


def customer(user: int) -> int:
    """Raw id."""
    return 1000 + user


def product(item: int) -> str:
    """Raw id."""
    return f"p{item:02}"


def age(user: int) -> int:
    return (50 if user % 2 else 20) + user % 9


def skin(user: int) -> int:
    return user // 2 % 4


def kind(item: int) -> int:
    """Of eight, five products each: category and brand."""
    return item // 5


def group(user: int) -> int:
    """The kind of the products that the customer buys."""
    return 2 * skin(user) + (age(user) < 40)


def bought(learnable: bool) -> np.ndarray:
    """int[USERS, EACH]."""
    random = np.random.default_rng(4)
    chosen = [random.choice(5, EACH, replace=False) + 5 * group(user) for user in range(USERS)]
    noise = [random.choice(ITEMS, EACH, replace=False) for _ in range(USERS)]
    return np.array(chosen if learnable else noise)


def raw_rows(learnable: bool) -> RawRows:
    """Three positives of each customer, of 5 stars, and a product of 2 stars that is none."""
    user, item = np.repeat(np.arange(USERS), EACH), bought(learnable).reshape(-1)
    user, item = np.append(user, np.arange(USERS)), np.append(item, (np.arange(USERS) * 7 + 3) % ITEMS)
    stars = np.append(np.full(USERS * EACH, 5.0), np.full(USERS, 2.0))
    order = np.random.default_rng(5).permutation(len(user))
    user, item, stars = user[order], item[order], stars[order]
    people, things = range(USERS), range(ITEMS)
    text = pa.list_(pa.string())
    shop = pa.array([product(i) for i in things])
    fields = [
        RawField("customer", "categorical", "user", pa.array([customer(u) for u in people]), user),
        RawField("price", "numerical", "item", pa.array([2.0 + 3 * i for i in things]), item, logarithm=True),
        RawField("skin", "categorical", "user", pa.array([SKINS[skin(u)] for u in people]), user),
        RawField("age", "numerical", "user", pa.array([age(u) for u in people]), user),
        RawField("likes", "bag", "user", pa.array([LIKES[u % 4] for u in people], text), user),
        RawField("product", "categorical", "item", shop, item),
        RawField("category", "categorical", "item", pa.array([SKINS[kind(i) // 2] for i in things]), item),
        RawField("brand", "categorical", "item", pa.array([BRANDS[kind(i) % 2] for i in things]), item),
        RawField("tags", "bag", "item", pa.array([TAGS[i % 4] for i in things], text), item),
        RawField("season", "categorical", "context", pa.array([["hot", "cold"][u % 2] for u in user])),
    ]
    names = pa.table({"product": shop, "name": [f"Thing {i}" for i in things]})
    known = pa.table({"customer": [customer(u) for u in people], "persona": [SKINS[skin(u)].title() for u in people]})
    shown = {"item": names, "user": known}
    return RawRows(fields, stars, np.zeros(len(user), np.int64), 4.0, 1.0, 5.0, "customer", "product", shown)


def write_source(out: Path, learnable: bool) -> Path:
    with staging(out) as stage:
        result = write_rows(raw_rows(learnable), stage.dataset)
        write_manifest(stage.dataset, result.pop("files"), kind="rows", source="made up", options={}, **result)
    return out


def write_towers(file: Path, source: Path, *sections: Sections) -> Path:
    """A configuration in which a pass of 378 rows is 12 steps, half a block; later sections win over earlier ones."""
    values: Sections = {
        "data": {"path": str(source), "protocol": "cold_users", "test_fraction": 0.25, "validation_fraction": 0.25},
        "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [16], "output_dim": 8, "dropout_hidden": 0.1},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "training": {
            "epochs": 2, "passes": 4, "batch_size": 32, "steps_per_block": 24, "metric": "hit_rate@3", "log_every": 1,
        },
        "evaluation": {"k": [3]},
    }  # fmt: skip
    for more in sections:
        for section, fields in more.items():
            values[section] = values.get(section, {}) | fields
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return file


def load_state(run: Path) -> tuple[Any, dict[str, Any]]:
    """The latest training state of a run and its position."""
    opened = runs.open_run(run)
    optimizer = make_optimizer(opened.config.optimizer, make_schedule(opened.config.optimizer, 1))
    made = make_tower_model(opened.config, Schema.from_manifest(opened.manifest))
    found = Checkpoints(run).restore(jax.eval_shape(lambda: new_state(opened.config, made, optimizer)))
    assert found is not None
    return found
