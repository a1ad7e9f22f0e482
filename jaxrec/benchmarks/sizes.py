"""The models at the sizes that the literature benchmarks them at, on synthetic data of these sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import Field, Rows, Schema, Sessions
from jaxrec.data.items import Catalogue
from jaxrec.data.retrieval import positive_bits
from jaxrec.feeds.base import Feed, Plan
from jaxrec.models.base import Model, make_model
from jaxrec.models.merrec import MERRec
from jaxrec.models.two_tower import Interactions
from jaxrec.programs.products import flop
from jaxrec.training.block import Training, training_plan
from jaxrec.training.state import TrainState

MEAN_LENGTH = 5  # clicks a session, about that of Diginetica
NAME_DIM, EVENT_TYPES, MOST_NAMES = 384, 6, 100_000
FIELDS, USERS, FILMS, OTHERS = 10, 6_040, 3_706, 20  # values of a row's first two fields, MovieLens 1M's; of the others
INTERACTIONS, PRODUCTS, OF_A_CUSTOMER = 2_000_000, 10_000, 10
USER_VALUES = {"gender": 3, "skin_type": 7, "skin_concern": 7}
ITEM_VALUES = {"category": 6, "brand": 20}
Sections = dict[str, dict[str, Any]]
Made = tuple[Model, Any, Any, int]
"""A model with synthetic data: its split, what its constants are made of, and how many items."""


@dataclass(frozen=True)
class Prepared:
    """A model with its feed."""

    config: Config
    model: Model
    feed: Feed
    constants: Any
    items: int
    targets: float  # of a step, on average
    shown: dict[str, Any]  # further columns of the result
    split: Any  # that the feed was made from

    @cached_property
    def training(self) -> Training:
        return Training(self.config, self.model, self.feed)

    def compiled(self, state: TrainState, constants: Any) -> jax.stages.Compiled:
        """The block that training runs on the feed's devices; of state and constants only shapes and places count."""
        return self.training.block.lower(state, constants, self.feed.like()).compile()

    def flop(self, state: TrainState, constants: Any) -> int:
        """Additions and multiplications of a step's matrix products, by the shapes of the block's program."""
        return flop(self.training.block.trace(state, constants, self.feed.like()), self.feed.shape.steps)


class Size(NamedTuple):
    """What the literature benchmarks a model at, where the command line does not say otherwise."""

    rows: dict[str, tuple[Any, ...]]  # values of options, of which each combination is a row
    sections: Callable[[Any], Sections]  # of the configuration, beside what all models share, from a row's options
    make: Callable[[Any, Config], Made]
    full: bool = False  # all steps have ``batch`` targets, but for the end of an epoch; otherwise on average
    cpu_steps: int | None = None  # of a repetition on a CPU, that it takes a second or two; None: as elsewhere


def prepare(name: str, options: Any, plan: Callable[..., Plan] = training_plan) -> Prepared:
    """A model with its feed, from options with one value for each name in the ``rows`` of the model's size."""
    size, config = SIZES[name], configured(name, options)
    model, split, known, items = size.make(options, config)
    feed = model.feed(split, plan(config))
    targets = feed.pairs / feed.shape.used
    shown = {name: getattr(options, name) for name in size.rows if name not in ("items", "loss", "batch")}
    return Prepared(config, model, feed, model.constants(known), items, options.batch if size.full else targets,
                    shown, split)  # fmt: skip


def configured(name: str, options: Any) -> Config:
    """The configuration of a model at such options."""
    shared: Sections = {
        "data": {"path": "synthetic"},
        "mesh": {"data": options.devices or None},
        "model": {"name": name},
        "training": {"batch_size": options.batch, "steps_per_block": options.steps,
                     "precision": options.precision},
    }  # fmt: skip
    sections = SIZES[name].sections(options)
    return configuration.parse({key: shared.get(key, {}) | sections.get(key, {}) for key in {**shared, **sections}})


def _popular(random: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """int64[draws] below ``n`` with Zipf popularity (exponent 0.8)."""
    edges = np.cumsum(np.arange(1, n + 1) ** -0.8)
    return np.minimum(np.searchsorted(edges / edges[-1], random.random(draws)), n - 1)


def synthetic_sessions(n_items: int, events: int, seed: int = 0) -> Sessions:
    """Sessions of geometric length whose items are independent with Zipf popularity (exponent 0.8)."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / (MEAN_LENGTH - 1), max(1, events // MEAN_LENGTH)) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = _popular(rng, n_items, offsets[-1]).astype(np.int32)
    return Sessions(items, np.zeros(offsets[-1], np.int64), offsets)


def _sessions(options: Any, config: Config) -> Made:
    events = 3 * options.steps * options.batch * MEAN_LENGTH // 4
    sessions = synthetic_sessions(options.items, max(2 * options.items, events))
    counts = np.bincount(sessions.items, minlength=options.items)
    return make_model(config, options.items), sessions, counts, options.items


def _events(options: Any, config: Config) -> Made:
    n_items, random = options.items, np.random.default_rng(0)
    sessions = synthetic_sessions(n_items, max(2 * n_items, 4 * options.steps * options.batch))
    sessions = replace(sessions, events=random.integers(0, EVENT_TYPES, len(sessions.items)).astype(np.uint8))
    names = min(n_items, MOST_NAMES)
    vectors = (random.standard_normal((names, NAME_DIM), np.float32) * NAME_DIM**-0.5).astype(np.float16)
    name_of = random.integers(0, names, n_items).astype(np.int32)
    model = MERRec(config, Catalogue(vectors, {}, name_of, np.zeros((n_items, 0), np.int32), (), ()), EVENT_TYPES)
    return model, sessions, np.bincount(sessions.items, minlength=n_items), n_items


def _rows(options: Any, config: Config) -> Made:
    sizes = [USERS + 1, FILMS + 1, *[OTHERS + 1] * options.fields][: options.fields]
    fields = tuple(Field(f"field_{i}", "categorical", "context", size) for i, size in enumerate(sizes))
    random, n = np.random.default_rng(0), 2 * options.steps * options.batch
    columns = np.stack([random.integers(1, size, n, np.int32) for size in sizes], axis=1)
    labels = (random.random(n) < 0.5).astype(np.float32)
    rows = Rows(columns, np.zeros((n, 0), np.float32), labels, labels, np.zeros(n, np.int64), np.zeros(n, np.int32))
    return make_model(config, Schema(fields, None, None, 1, 0, 1)), rows, np.zeros(0), sum(sizes)


def _interactions(options: Any, config: Config) -> Made:
    """Products have Zipf popularity (exponent 0.8)."""
    products = options.items[0] if options.items else PRODUCTS
    customers, n = max(1, options.interactions // OF_A_CUSTOMER), options.interactions
    fields = (
        Field("customer", "categorical", "user", customers + 1), Field("age", "numerical", "user", 1, 0),
        *(Field(name, "categorical", "user", size) for name, size in USER_VALUES.items()),
        Field("product", "categorical", "item", products + 1),
        *(Field(name, "categorical", "item", size) for name, size in ITEM_VALUES.items()),
        Field("price", "numerical", "item", 1, 0),
    )  # fmt: skip
    random = np.random.default_rng(0)
    item = _popular(random, products, n) + 1
    user = random.integers(1, customers + 1, n)
    of_users, of_items = (
        np.stack([random.integers(1, size, rows + 1, np.int32) for size in sizes.values()], axis=1)
        for sizes, rows in ((USER_VALUES, customers), (ITEM_VALUES, products))
    )
    columns = np.concatenate([of_users[user], user[:, None], item[:, None]], axis=1).astype(np.int32)
    ones = np.ones(n, np.float32)
    age, price = (random.standard_normal((size + 1, 1)).astype(np.float32) for size in (customers, products))
    rows = Rows(columns, age[user], ones, ones, np.zeros(n, np.int64), user.astype(np.int32))
    known = Interactions(of_items, price, np.bincount(item, minlength=products + 1),
                         positive_bits(user, item, customers + 1, products + 1))  # fmt: skip
    return make_model(config, Schema(fields, "customer", "product", 1.0, 0.0, 1.0)), rows, known, products


def _loss(options: Any) -> dict[str, Any]:
    """The loss of a row, full or sampled."""
    return {"name": options.loss} | ({} if options.loss == "softmax" else {"n_sample": options.n_sample})


def _sequences(options: Any, **model: Any) -> Sections:
    """As published: vectors of 50, dropout and Adam."""
    model |= {"embedding_dim": options.dim or 50, "dropout_embedding": 0.25, "dropout_hidden": 0.5}
    return {"model": model, "loss": _loss(options), "optimizer": ADAM}


def _autoint(options: Any) -> Sections:
    """AutoInt+ with three layers of two heads and a deep network of 400-400, without dropout."""
    dim = options.dim or 32
    model = {"embedding_dim": dim, "blocks": 3, "heads": 2, "attention_dim": dim, "deep": [400, 400]}
    return {"model": model, "loss": {"name": "binary"}, "optimizer": ADAM, "training": {"metric": "auc"}}


ADAM = {"name": "adam", "learning_rate": 0.001}
TOWER_FIELDS = ["age", *USER_VALUES, *ITEM_VALUES, "price"]  # as published: 49 features → 64 → 32, and 33 → 64 → 32
DIGINETICA = {"items": (43_097,), "loss": ("softmax",), "batch": (512,)}
SIZES = {
    # As published: one layer, constrained embedding and Adagrad.
    "gru4rec": Size({"items": (40_000,), "loss": ("cross_entropy", "bpr_max"), "batch": (32, 128, 512)},
                    lambda options: {"model": {"layers": [options.units]}, "loss": _loss(options)},
                    _sessions, full=True),
    "narm": Size(DIGINETICA, lambda options: _sequences(options, layers=[options.units]), _sessions, cpu_steps=20),
    # Two blocks of one head, or of two.
    "sasrec": Size(DIGINETICA, _sequences, _sessions, cpu_steps=20),
    "esasrec": Size(DIGINETICA, lambda options: _sequences(options, heads=2), _sessions, cpu_steps=20),
    "hstu": Size(DIGINETICA, lambda options: _sequences(options, heads=2, time_bias=True), _sessions, cpu_steps=20),
    "bert4rec": Size(DIGINETICA, lambda options: _sequences(options, heads=2), _sessions, cpu_steps=20),
    "autoint": Size({"batch": (2048,)}, _autoint, _rows, full=True, cpu_steps=40),
    "two_tower": Size({"loss": ("triplet", "infonce"), "batch": (4096,), "hard": (0, 4)},
                      lambda options: {"data": {"fields": TOWER_FIELDS},
                                       "loss": {"name": options.loss, "hard_negatives": options.hard}},
                      _interactions, full=True, cpu_steps=40),
    # As published: names of 384, event vectors of 32, GRU 128 x 2.
    "merrec": Size({"items": (10_000, 100_000, 1_000_000), "loss": ("cross_entropy",), "batch": (512,),
                    "head": ("both",)}, lambda options: {"model": {"head": options.head}, "loss": _loss(options)},
                   _events, cpu_steps=50),
}  # fmt: skip
