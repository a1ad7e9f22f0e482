"""Two towers: the network and a step are the plain ones in NumPy; what is never wrong, drawn, looked up, trained."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_arrays
from steps import assert_slopes, config_of, random_weights, take_step

from jaxrec.config import Config
from jaxrec.data.dataset import Field, Rows, Schema
from jaxrec.feeds.base import Plan, RowBlock
from jaxrec.losses import contrastive
from jaxrec.models.two_tower import Interactions, TwoTower
from jaxrec.ops.parallel import Placement
from jaxrec.training.block import make_train_block
from jaxrec.training.optimizers import make_optimizer, make_schedule
from jaxrec.training.state import init_state

# ---- one row at a time, and the mean loss of a step with batch statistics worked out here ----------------------------

# Sides and kinds are mixed, so that the order of the fields is that of neither table.
SCHEMA = Schema(
    (
        Field("price", "numerical", "item", 1, 0),
        Field("user", "categorical", "user", 7),
        Field("device", "categorical", "context", 3),
        Field("item", "categorical", "item", 12),
        Field("likes", "bag", "user", 5, 3),
        Field("age", "numerical", "user", 1, 0),
        Field("tags", "bag", "item", 6, 2),
        Field("skin", "categorical", "user", 4),
        Field("weight", "numerical", "item", 1, 0),
    ),
    user="user", item="item", threshold=1.0, low=0.0, high=1.0,
)  # fmt: skip
N_USERS, N_ITEMS = 7, 12
PLACES = {  # of each side: name, first row in its table, columns
    "user": [("user", 0, slice(0, 1)), ("likes", 7, slice(1, 4)), ("skin", 12, slice(4, 5))],
    "item": [("item", 0, slice(0, 1)), ("tags", 12, slice(1, 3))],
}


class Given(NamedTuple):
    """Weights of a model: ``params`` and ``statistics`` by side, and ``tables``."""

    params: Any
    statistics: Any
    tables: Any


class Batch(NamedTuple):
    """A step: columns and numbers of its users, users, candidates (its products, then drawn ones), and which live."""

    columns: np.ndarray
    numbers: np.ndarray
    users: np.ndarray
    items: np.ndarray
    live: np.ndarray


@cache
def rows(n: int = 40) -> Rows:
    """As the feed gives them: the coded fields of the user, then user and item; values unknown, bags empty."""
    random = np.random.default_rng(0)
    columns = np.stack([random.integers(0, size, n) for size in (7, 5, 5, 5, 4, 7, 12)], axis=1).astype(np.int32)
    columns[:, 1:4][np.arange(3) >= (np.arange(n) % 4)[:, None]] = -1
    columns[:, 5] = columns[:, 0]
    columns[:, 6] = np.maximum(columns[:, 6], 1)
    ones = np.ones(n, np.float32)
    numbers = random.normal(size=(n, 1)).astype(np.float32)
    return Rows(columns, numbers, ones, ones, np.zeros(n, np.int64), columns[:, 5])


@cache
def catalogue() -> tuple[np.ndarray, np.ndarray]:
    """int32[V, 3] and float32[V, 2]."""
    random = np.random.default_rng(1)
    tags = random.integers(0, 6, (N_ITEMS, 2))
    tags[::3, 1], tags[5] = -1, -1
    columns = np.concatenate([np.arange(N_ITEMS)[:, None], tags], axis=1)
    return columns.astype(np.int32), random.normal(size=(N_ITEMS, 2)).astype(np.float32)


def item_counts() -> np.ndarray:
    return np.bincount(rows().columns[:, 6], minlength=N_ITEMS)


def has() -> set[tuple[int, int]]:
    """Pairs of a user and an item of the rows; user 0 is nobody."""
    return {(int(user), int(item)) for user, item in rows().columns[:, 5:] if user}


def interactions(masked: bool = True) -> Interactions:
    words = np.zeros((N_USERS, 1), np.uint32)  # one word is enough for 12 items
    for user, item in has():
        words[user, 0] |= np.uint32(1 << item)
    return Interactions(*catalogue(), item_counts(), words if masked else None)


def inputs(side: str, table: np.ndarray, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """float64[n, features]: a value's vector, the mean of a bag's, a number as it is."""
    found = []
    for codes, values in zip(columns, numbers, strict=True):
        parts = []
        for _, first, place in PLACES[side]:
            held = [np.float64(table[first + code]) for code in codes[place] if code >= 0]
            parts.append(np.mean(held, axis=0) if held else np.zeros(table.shape[1]))
        found.append(np.concatenate([*parts, values]))
    return np.array(found)


def tower(
    given: Given, side: str, columns: np.ndarray, numbers: np.ndarray, counted: np.ndarray | None
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """float64[n, output], and mean and variance of each layer over the counted rows; None: normalised as given."""
    params, found = given.params[side], dict[str, dict[str, Any]]()
    x = inputs(side, given.tables[side], columns, numbers)
    layers = sum(name.startswith("Dense") for name in params) - 1
    for layer in range(layers):
        dense = params[f"Dense_{layer}"]
        x = np.maximum(x @ np.float64(dense["kernel"]) + np.float64(dense["bias"]), 0)
        norm = f"BatchNorm_{layer}"
        if norm in params:
            if counted is None:
                mean, var = (np.float64(given.statistics[side][norm][name]) for name in ("mean", "var"))
            else:
                mean, var = x[counted].mean(axis=0), x[counted].var(axis=0)
            found[norm] = {"mean": mean, "var": var}
            x = (x - mean) / np.sqrt(var + 1e-5) * np.float64(params[norm]["scale"]) + np.float64(params[norm]["bias"])
    last = params[f"Dense_{layers}"]
    x = x @ np.float64(last["kernel"]) + np.float64(last["bias"])
    return x / np.linalg.norm(x, axis=1, keepdims=True), found


def log_expected(batch: int, n_sample: int, alpha: float) -> np.ndarray:
    """float64[V]: how often an item is among a step's candidates: as another row's, or drawn."""
    counts = item_counts().astype(float)
    counts[0] = 0
    mass = np.array([count**alpha if count else 0.0 for count in counts])
    expected = batch * counts / counts.sum() + n_sample * mass / mass.sum()
    return np.log(np.where(counts > 0, expected, 1.0))


def also_drawn(loss: Any, expected: float) -> float:
    """What is subtracted of a hard negative's logit: it is expected from the pool, and among the others."""
    if loss.name != "infonce" or not loss.logq:
        return 0.0
    share = loss.hard_negatives / min(loss.hard_pool, N_ITEMS - 2)
    return float(loss.logq * np.log(share + np.exp(expected / loss.logq)))


def step_loss(
    config: Config, given: Given, batch: Batch, hard: np.ndarray | None = None
) -> tuple[float, dict[str, Any]]:
    """The sum of the live rows' losses, with int[B, h] hard negatives, and the statistics of the batch by side."""
    loss, live = config.loss, batch.live
    columns, numbers = catalogue()
    b, drawn = len(live), len(batch.items) - len(live)
    queries, user_statistics = tower(given, "user", batch.columns, batch.numbers, live)
    hard = np.zeros((b, 0), int) if hard is None else hard
    every = np.concatenate([batch.items, hard.reshape(-1)])
    counted = np.append(live, np.zeros(len(every) - b, bool))
    vectors, item_statistics = tower(given, "item", columns[every], numbers[every], counted)
    near = vectors[b + drawn :].reshape(*hard.shape, vectors.shape[1])
    logq = loss.logq if loss.name == "infonce" else 0.0
    expected = logq * log_expected(config.training.batch_size, loss.n_sample, loss.sample_alpha)
    total = 0.0
    for row in np.flatnonzero(live):
        others = [(batch.items[c], vectors[c], expected[batch.items[c]]) for c in range(b + drawn) if c >= b or live[c]]
        others += [
            (item, vector, also_drawn(loss, expected[item])) for item, vector in zip(hard[row], near[row], strict=True)
        ]
        wrong = [
            (queries[row] @ vector, often) for item, vector, often in others
            if item and item != batch.items[row]
            and not (loss.mask == "positives" and (int(batch.users[row]), int(item)) in has())
        ]  # fmt: skip
        own = queries[row] @ vectors[row]
        if loss.name == "triplet":
            far = np.sqrt(2 - 2 * own)
            terms = [max(0.0, loss.margin + far - np.sqrt(2 - 2 * cosine)) for cosine, _ in wrong]
            total += np.mean(terms) if terms else 0.0
        else:
            right = own / loss.temperature - expected[batch.items[row]]
            logits = [cosine / loss.temperature - often for cosine, often in wrong]
            total += np.log(sum(np.exp(logit) for logit in [*logits, right])) - right
    return float(total), {"user": user_statistics, "item": item_statistics}


# ---- the model -------------------------------------------------------------------------------------------------------

BATCH = 16
FIELDS = tuple(field.name for field in SCHEMA.fields if field.side != "context")


def make_config(**sections: dict[str, Any]) -> Config:
    model = {"name": "two_tower", "embedding_dim": 5, "hidden": [8], "output_dim": 4, "dropout_hidden": 0.0}
    small = {"data": {"path": "x", "fields": FIELDS}, "model": model, "training": {"batch_size": BATCH}}
    return config_of(small, {"optimizer": {"name": "sgd", "learning_rate": 0.5}}, sections)


def given_of(model: TwoTower) -> Given:
    """Weights and statistics of which none is 0 or 1, as they are at first."""
    random = np.random.default_rng(1)
    like = jax.eval_shape(model.carry, BATCH)["statistics"]
    statistics = jax.tree.map(lambda leaf: jnp.float32(0.1 + np.abs(random.normal(size=leaf.shape))), like)
    return Given(statistics=statistics, **random_weights(model, 0.8))


NETWORKS: list[dict[str, Any]] = [
    {"hidden": [6, 7]}, {"hidden": []}, {"norm": "none", "dropout_hidden": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_network_is_the_plain_one(network: dict[str, Any]) -> None:
    """With the given statistics; dropout is of training alone."""
    model = TwoTower(make_config(model=network), SCHEMA)
    given = given_of(model)
    for side, columns, numbers in (("user", rows().columns[:, :5], rows().numbers), ("item", *catalogue())):
        found = np.asarray(jax.jit(model.encode, static_argnums=0)(side, given._asdict(), columns, numbers))
        expected, _ = tower(given, side, columns, numbers, None)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        assert found.std(axis=0).min() > 0.05


LOSSES: dict[str, dict[str, Any]] = {
    "triplet": {"loss": {"name": "triplet", "margin": 0.8, "n_sample": 5, "hard_negatives": 3}},
    "infonce": {"loss": {"name": "infonce", "logq": 0.7, "n_sample": 6, "sample_alpha": 0.5, "hard_negatives": 2},
                "model": {"hidden": [6, 7]}},
    "rows": {"loss": {"name": "infonce", "n_sample": 3, "temperature": 0.3, "mask": "duplicates"},
             "model": {"table": "rows"}},
}  # fmt: skip


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("name", "cells"), [*((name, contrastive.CELLS) for name in LOSSES), ("infonce", 2)])
def test_the_loss_of_a_step_is_the_plain_one(
    name: str, cells: int, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean over the step's places, some without a row: they are no candidates and not among the statistics."""
    monkeypatch.setattr(contrastive, "CELLS", cells)
    config = make_config(**LOSSES[name])
    model, data, live = TwoTower(config, SCHEMA), rows().take(np.arange(BATCH)), np.arange(BATCH) < 13
    given = given_of(model)
    carry: dict[str, Any] = {}
    hard = None
    if config.loss.hard_negatives:  # an index in which all neighbours of an item are one, whichever are drawn
        near = (np.arange(N_ITEMS) + 4) % N_ITEMS
        carry = {"steps": np.int32(1), "near": np.tile(near.astype(np.int32)[:, None], (1, model._pool))}
        hard = np.tile(near[data.columns[:, 6]][:, None], (1, config.loss.hard_negatives))
    leaves = (data.columns, data.numbers, data.labels, data.ratings, np.asarray(live, np.float32))
    constants = model.constants(interactions(config.loss.mask == "positives"))
    weights, carry = {"params": given.params, "tables": given.tables}, carry | {"statistics": given.statistics}
    found = take_step(model, constants, RowBlock(*(leaf[None] for leaf in leaves)), weights, carry=carry,
                      on=Placement(platform=platform))  # fmt: skip
    items = found.step.items
    np.testing.assert_array_equal(items[:BATCH], data.columns[:, 6])
    assert len(items) == BATCH + config.loss.n_sample
    batch = Batch(data.columns[:, :5], data.numbers, data.columns[:, 5], items, live)
    expected, statistics = step_loss(config, given, batch, hard)
    assert found.total == pytest.approx(expected, rel=2e-4) and found.mean == pytest.approx(expected / BATCH, rel=2e-4)

    def plain(weights: Any) -> float:
        return step_loss(config, given._replace(**weights), batch, hard)[0] / BATCH

    assert_slopes(found.slopes, plain, weights, 1e-6, 5e-3)
    for side in ("user", "item"):
        for norm, values in statistics[side].items():
            for which, value in values.items():  # a tenth of the way from the old to those of the batch
                old = np.float64(given.statistics[side][norm][which])
                np.testing.assert_allclose(
                    found.carry["statistics"][side][norm][which], 0.9 * old + 0.1 * value, rtol=1e-3, atol=1e-5
                )


def test_hard_negatives_are_looked_up_every_third_step_and_a_step_without_rows_is_none() -> None:
    """With the weights of that moment; the fifth of eight steps has no row, and changes nothing."""
    loss = {"name": "triplet", "hard_negatives": 2, "hard_pool": 4, "refresh_steps": 3}
    config = make_config(loss=loss, optimizer={"name": "adam", "learning_rate": 0.1})
    model, optimizer = TwoTower(config, SCHEMA), make_optimizer(config.optimizer, make_schedule(config.optimizer, 8))
    feed = model.feed(rows(), Plan(BATCH, 1, "random", 0, 2**20, training=True))
    state, constants = init_state(model, optimizer, config.training), model.constants(interactions())
    train_block, encode = make_train_block(model, optimizer, None), jax.jit(model.encode, static_argnums=0)
    for number, step in enumerate([block for epoch in range(3) for block in feed.epoch(epoch)][:8]):
        step = step._replace(weight=0 * step.weight) if number == 4 else step
        before = jax.tree.map(np.array, state)  # copies: the block donates its state
        state, stats = train_block(state, constants, step)
        after = jax.tree.map(np.array, state)
        if number == 4:
            assert float(stats.loss[0]) == int(stats.steps) == 0
            assert_same_arrays(before, after)
            continue
        assert int(after.carry["steps"]) == number + 1 - (number > 4) and np.isfinite(stats.loss).all()
        assert np.any(before.carry["near"] != after.carry["near"]) == (number in (0, 3, 7))
        if number in (0, 3, 7):
            weights = {"params": before.params, "tables": before.tables, "statistics": before.carry["statistics"]}
            vectors = np.asarray(encode("item", weights, *catalogue()), np.float64)
            cosines = vectors @ vectors.T
            np.fill_diagonal(cosines, -2)
            cosines[:, 0] = -2
            expected = np.sort(np.argsort(-cosines, axis=1)[1:, :4])
            found = np.sort(after.carry["near"][1:])
            np.testing.assert_array_equal(found, expected, "the nearest, without the item itself and the unknown one")
