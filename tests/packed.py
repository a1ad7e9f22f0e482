"""What the tests of models on the packed feed share: small models, and how a plain reader would feed them."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from steps import config_of, scored, tables_of

from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import PackedBlock
from jaxrec.models.packed import SequenceModel

Weights = dict[str, Any]  # {params, tables}


def make_config(name: str, **sections: dict[str, Any]) -> Config:
    """A small model under a full softmax; ``sections`` add to it and win over it."""
    model = {"name": name, "embedding_dim": 6, "window": 5} | ({"layers": [8]} if name == "narm" else {})
    small = {"model": model, "loss": {"name": "softmax"}, "training": {"batch_size": 16}}
    return config_of(small, {"optimizer": {"name": "adam", "learning_rate": 0.01}}, sections)


def make_model(name: str, n_items: int, **sections: dict[str, Any]) -> SequenceModel:
    return SequenceModel(make_config(name, **sections), n_items)


def make_sessions(sessions: list[list[int]]) -> Sessions:
    offsets = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    items = np.concatenate([np.asarray(session, np.int32) for session in sessions])
    return Sessions(items, np.arange(len(items)), offsets)


def random_sessions(lengths: list[int], n_items: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, n_items, length).tolist() for length in lengths]


def packed_block(model: SequenceModel, sessions: list[list[int]], batch: int = 16) -> PackedBlock:
    """All steps of the training feed, NumPy leaves [S, ...]."""
    feed = model.feed(make_sessions(sessions), Plan(batch, 1000, "random", 3, 0, training=True))
    return jax.tree.map(np.asarray, next(iter(feed.epoch(0))))


def prefix_block(prefixes: list[list[int]], targets: list[int], window: int) -> PackedBlock:
    """The published way: each prefix is read on its own, from the left of its own row, and scored at its end."""
    n = len(prefixes)
    source = np.full((1, n, window), -1, np.int32)
    start = np.tile(np.arange(window, dtype=np.int32), (1, n, 1))
    slot = np.zeros((1, n), np.int32)
    for row, prefix in enumerate(prefixes):
        shown = prefix[-window:]
        source[0, row, : len(shown)], start[0, row, : len(shown)] = shown, 0
        slot[0, row] = row * window + len(shown) - 1
    return PackedBlock(source, start, slot, np.asarray([targets], np.int32), np.ones((1, n), np.float32))


def all_prefixes(sessions: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Every prefix that has a target, and the targets."""
    cuts = [(session, t) for session in sessions for t in range(1, len(session))]
    return [session[:t] for session, t in cuts], [session[t] for session, t in cuts]


def histories(block: PackedBlock) -> list[tuple[int, ...]]:
    """For each slot of a block that has a target: the clicks that its position sees, then the target."""
    return [(*one.history, one.target) for one in scored(block)]


@cache
def compiled_loss(model: SequenceModel) -> Any:
    """``(weights, block)`` to the sum of the targets' losses with its derivatives."""

    def total(weights: Weights, block: PackedBlock) -> Array:
        keys = jax.random.split(jax.random.key(0), len(block.input))
        constants = model.constants(np.ones(len(weights["tables"]["item"])))

        def one(at: Any) -> Array:
            step, key = at
            tables = tables_of(model, weights["tables"], step)
            return model.loss(weights["params"], tables, (), step, key, constants)[1][1]

        return jnp.sum(jax.lax.map(one, (model.steps(constants, block, keys), keys)))

    return jax.jit(jax.value_and_grad(total))


def scores(model: SequenceModel, weights: Weights, block: PackedBlock) -> np.ndarray:
    """float32[n, V]: the scores of each slot that has a target."""
    _, queries = jax.jit(model.encode)(weights["params"], weights["tables"], (), jax.tree.map(jnp.asarray, block))
    return np.asarray(queries)[block.weight > 0] @ np.asarray(model.items(weights["tables"])).T


def loss_and_slopes(model: SequenceModel, weights: Weights, block: PackedBlock) -> tuple[Array, Weights]:
    """The sum of the targets' losses, with its derivatives by all parameters."""
    found: tuple[Array, Weights] = compiled_loss(model)(weights, jax.tree.map(jnp.asarray, block))
    return found
