"""Tiny models of every kind with generated data, on any number of devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxrec import config as configuration
from jaxrec.benchmarks.sizes import synthetic_sessions
from jaxrec.config import Config
from jaxrec.data.items import Catalogue
from jaxrec.data.retrieval import positive_bits
from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.feeds.base import Feed
from jaxrec.losses.candidates import popularity
from jaxrec.models.base import Model, make_click_model, make_model, make_tower_model
from jaxrec.models.merrec import MERRec
from jaxrec.models.two_tower import Interactions
from jaxrec.training.block import training_plan

ITEMS, BATCH, STEPS = 60, 16, 10


class Made(NamedTuple):
    """A model with what trains it."""

    config: Config
    model: Model
    feed: Feed
    constants: Any


def _config(devices: int, model: dict[str, Any], loss: dict[str, Any], **sections: dict[str, Any]) -> Config:
    training = {"batch_size": BATCH, "steps_per_block": STEPS} | sections.pop("training", {})
    data = {"path": "generated"} | sections.pop("data", {})
    return configuration.parse({
        "data": data, "model": model, "loss": loss, "training": training, "mesh": {"data": devices}, **sections
    })  # fmt: skip


def _sessions(
    devices: int, model: dict[str, Any], loss: dict[str, Any], items: int = ITEMS, **sections: dict[str, Any]
) -> Made:
    config = _config(devices, model, loss, **sections)
    sessions = synthetic_sessions(items, 1500)
    made = make_model(config, items)
    feed = made.feed(sessions, training_plan(config))
    return Made(config, made, feed, made.constants(popularity(sessions.items, items)))


def gru4rec(devices: int, items: int = ITEMS) -> Made:
    """With dropout, logQ and clipping."""
    return _sessions(devices, GRU | {"dropout_hidden": 0.1}, SAMPLED, items, optimizer={"clip_norm": 1.0})


def _clicks(devices: int) -> Made:
    config = _config(
        devices,
        {"name": "autoint", "embedding_dim": 4, "blocks": 2, "heads": 2, "attention_dim": 4, "deep": [8],
         "dropout_hidden": 0.1, "dropout_attention": 0.1, "table": "rows"},
        {"name": "binary", "embedding_l2": 0.01},
        training={"metric": "auc", "batch_size": 128},  # so many that rows are padded on one device
        data={"unknown_rate": 0.1},
        optimizer={"name": "adam", "learning_rate": 0.01},
    )  # fmt: skip
    random, n = np.random.default_rng(0), 2000
    schema = Schema(tuple(Field(f"f{i}", "categorical", "context", 12) for i in range(3)), None, None, 1, 0, 1)
    columns = random.integers(1, 12, (n, 3), np.int32)
    labels = (random.random(n) < 0.5).astype(np.float32)
    rows = Rows(columns, np.zeros((n, 0), np.float32), labels, labels, np.zeros(n, np.int64), np.zeros(n, np.int32))
    model = make_click_model(config, schema)
    counts = np.concatenate([np.bincount(columns[:, i], minlength=12) for i in range(3)])
    return Made(config, model, model.feed(rows, training_plan(config)), model.constants(counts))


def _towers(devices: int) -> Made:
    config = _config(
        devices,
        {"name": "two_tower", "embedding_dim": 4, "hidden": [8], "output_dim": 4, "dropout_hidden": 0.1},
        {"name": "infonce", "hard_negatives": 2, "hard_pool": 8, "refresh_steps": 7, "n_sample": 5},
        data={"fields": ["skin", "brand", "age"]},
    )
    random, n, users = np.random.default_rng(0), 600, 40
    user, item = random.integers(1, users, n), random.integers(1, ITEMS, n)
    fields = (Field("customer", "categorical", "user", users), Field("age", "numerical", "user", 1, 0),
              Field("skin", "categorical", "user", 5), Field("product", "categorical", "item", ITEMS),
              Field("brand", "categorical", "item", 7))  # fmt: skip
    model = make_tower_model(config, Schema(fields, "customer", "product", 1.0, 0.0, 1.0))
    skin, brand = random.integers(1, 5, users)[user], random.integers(1, 7, (ITEMS, 1), np.int32)
    columns, ones = np.stack([skin, user, item], axis=1).astype(np.int32), np.ones(n, np.float32)
    age = random.standard_normal((users, 1)).astype(np.float32)[user]
    rows = Rows(columns, age, ones, ones, np.zeros(n, np.int64), user.astype(np.int32))
    known = Interactions(brand, np.zeros((ITEMS, 0), np.float32), np.bincount(item, minlength=ITEMS),
                         positive_bits(user, item, users, ITEMS))  # fmt: skip
    return Made(config, model, model.feed(rows, training_plan(config)), model.constants(known))


def _events(devices: int) -> Made:
    dims = {"name_dim": 4, "text_dim": 4, "event_dim": 2, "embedding_dim": 4, "layers": [6], "window": 6}
    model_config = {"name": "merrec", "head": "both", "dropout_hidden": 0.1, **dims}
    loss = {"name": "cross_entropy", "n_sample": 12}
    config = _config(devices, model_config, loss, data={"unknown_rate": 0.5})
    random, sessions = np.random.default_rng(0), synthetic_sessions(ITEMS, 1500)
    kinds = random.integers(0, 3, len(sessions.items)).astype(np.uint8)
    sessions = replace(sessions, events=kinds)
    names = random.standard_normal((20, 8), np.float32).astype(np.float16)
    name_of = random.integers(0, 20, ITEMS).astype(np.int32)
    model = MERRec(config, Catalogue(names, {}, name_of, np.zeros((ITEMS, 0), np.int32), (), ()), 3)
    feed = model.feed(sessions, training_plan(config))
    return Made(config, model, feed, model.constants(popularity(sessions.items, ITEMS)))


GRU, NARM = {"name": "gru4rec", "layers": [6]}, {"name": "narm", "embedding_dim": 4, "layers": [6], "window": 6}
# Narrower, or faster, layer normalisation makes of a difference in the last bit one in the fourth digit in 20 steps.
SASREC = {"name": "sasrec", "embedding_dim": 16, "window": 6, "heads": 2, "temperature": 1.0}
SAMPLED = {"name": "cross_entropy", "n_sample": 12, "logq": 1.0}

MADE: dict[str, Callable[[int], Made]] = {
    "gru4rec": gru4rec,
    "narm": lambda n: _sessions(n, NARM | {"dropout_hidden": 0.1}, {"name": "softmax"}),
    "sasrec": lambda n: _sessions(n, SASREC, SAMPLED, optimizer={"learning_rate": 0.01}),
    "autoint": _clicks,
    "two_tower": _towers,
    "merrec": _events,
}
