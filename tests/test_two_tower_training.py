"""How two towers are trained: what is drawn, looked up and replaced in a step, and what stays as it is."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import arrays, assert_same_arrays
from numpy_two_tower import (
    N_ITEMS,
    SCHEMA,
    catalogue,
    interactions,
    item_counts,
    log_expected,
    rows,
)
from towers import BATCH, block_of, make_config, random_weights

from jaxrec.config import Config
from jaxrec.feeds.base import Plan
from jaxrec.models.two_tower import TwoTower
from jaxrec.ops.tables import Tables
from jaxrec.training.block import TrainState, make_train_block
from jaxrec.training.optimizers import make_optimizer, make_schedule

# ---- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_negatives_are_drawn_by_popularity(alpha: float) -> None:
    """Of products that training has, and never the unknown one."""
    loss = {"name": "infonce", "n_sample": 4000, "sample_alpha": alpha, "logq": 1.0}
    config, counts = make_config(loss=loss), item_counts().copy()
    counts[0], counts[7] = 50, 0
    known = interactions()._replace(counts=counts)
    model, data = TwoTower(config, SCHEMA), rows().take(np.arange(BATCH))
    block = block_of(data, np.ones(BATCH), 5)
    items = np.asarray(
        jax.jit(model.steps)(model.constants(known), block, jax.random.split(jax.random.key(2), 5)).items
    )
    assert items.shape == (5, BATCH + 4000) and np.any(items[0] != items[1])
    seen = np.bincount(items[:, BATCH:].reshape(-1), minlength=N_ITEMS) / 20_000
    mass = np.array([0.0 if i in (0, 7) or not counts[i] else float(counts[i]) ** alpha for i in range(N_ITEMS)])
    share = mass / mass.sum()
    assert np.all(np.abs(seen - share) <= 4.5 * np.sqrt(share / 20_000)) and seen[0] == seen[7] == 0


def test_how_often_an_item_is_expected_among_the_candidates() -> None:
    for n, alpha in ((0, 0.0), (6, 0.5), (9, 1.0)):
        config = make_config(loss={"name": "infonce", "logq": 1.0, "n_sample": n, "sample_alpha": alpha})
        found = TwoTower(config, SCHEMA).constants(interactions()).log_expected
        np.testing.assert_allclose(found, log_expected(BATCH, n, alpha), rtol=1e-4)


# ---- training --------------------------------------------------------------------------------------------------------


def states(config: Config, steps: int, dead: tuple[int, ...] = ()) -> list[TrainState]:
    """The state at the beginning and after each step, of 16 rows or, every third, of 8; ``dead`` ones have no row."""
    model = TwoTower(config, SCHEMA)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, steps))
    feed = model.feed(rows(), Plan(BATCH, 1, "random", 0, 2**20, training=True))
    constants = model.constants(interactions(config.loss.mask == "positives"))
    given = random_weights(model)
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(model.carry, BATCH))
    slots = [optimizer.dense.init(table) for table in given.tables.values()]
    state = TrainState(jnp.int32(0), given.params, given.tables, optimizer.dense.init(given.params),
                       dict(zip(given.tables, slots, strict=True)), None, carry | {"statistics": given.statistics},
                       jax.random.key_data(jax.random.key(3)))  # fmt: skip
    train_block = make_train_block(model, optimizer, config.optimizer.clip_norm)
    block = train_block.lower(state, constants, feed.like()).compile()
    found = [jax.tree.map(np.array, state)]  # copies: the block donates its state
    for number, step in enumerate([block for epoch in range(4) for block in feed.epoch(epoch)][:steps]):
        if number in dead:
            step = step._replace(weight=jnp.zeros_like(step.weight))
        state, stats = block(state, constants, step)
        assert np.isfinite(stats.loss).all() and (
            number not in dead or (float(stats.loss[0]), int(stats.steps)) == (0, 0)
        )
        found.append(jax.tree.map(np.array, state))
    return found


@cache
def hard_states() -> list[TrainState]:
    """Eight steps with hard negatives looked up every third; the fifth has no row."""
    loss = {"name": "triplet", "hard_negatives": 2, "hard_pool": 4, "refresh_steps": 3}
    return states(make_config(loss=loss, optimizer={"name": "adam", "learning_rate": 0.1}), 8, dead=(4,))


def test_a_step_without_rows_changes_nothing() -> None:
    found = hard_states()
    assert_same_arrays(found[4], found[5])
    for before, after in ((found[3], found[4]), (found[5], found[6])):
        ours, theirs = arrays(before), arrays(after)
        assert all(np.isfinite(value).all() for value in theirs.values())
        moved = {name for name, value in theirs.items() if np.any(value != ours[name])}
        assert {".step", ".tables['item']", ".carry['statistics']['user']['BatchNorm_0']['mean']",
                ".params['item']['Dense_0']['kernel']"} <= moved  # fmt: skip


def test_hard_negatives_are_looked_up_every_so_many_steps() -> None:
    """With the weights of that moment; the dead step is none."""
    found = hard_states()
    model = TwoTower(make_config(), SCHEMA)
    encode, indices = jax.jit(model.encode, static_argnums=0), 0
    for number, (before, after) in enumerate(pairwise(found)):
        assert int(after.carry["steps"]) == number + 1 - (number >= 4)
        if number not in (0, 3, 7):  # steps 0, 3 and, as one was dead, 6
            np.testing.assert_array_equal(after.carry["near"], before.carry["near"])
            continue
        weights = {"params": before.params, "tables": before.tables, "statistics": before.carry["statistics"]}
        vectors = np.asarray(encode("item", weights, *catalogue()), np.float64)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        cosines[:, 0] = -2
        expected = np.argsort(-cosines, axis=1)[:, :4]
        same = [set(a) == set(b) for a, b in zip(after.carry["near"].tolist(), expected.tolist(), strict=True)]
        assert all(same[1:]), "the nearest, without the item itself and the unknown one"
        indices += bool(np.any(after.carry["near"] != before.carry["near"]))
    assert indices == 3, "they differ, so that looking them up matters"


def test_what_no_row_holds_is_no_hard_negative() -> None:
    """As are items held out whole: they would be nothing but wrong."""
    model = TwoTower(make_config(loss={"hard_negatives": 2, "hard_pool": 8}), SCHEMA)
    given, counts = random_weights(model), np.where(np.arange(N_ITEMS) % 3 == 0, 0, item_counts() + 1)
    constants = model.constants(interactions()._replace(counts=counts))
    carry = model.carry(BATCH) | {"statistics": given.statistics}
    look = jax.jit(lambda: model._refreshed(given.params, Tables(given.tables), carry, constants)["near"])
    near = np.asarray(look())
    trained = set(np.flatnonzero(counts[1:]) + 1)
    for item in range(1, N_ITEMS):
        assert set(near[item]) - {0} == trained - {item}, "all that are, as the pool is larger, and 0 for the others"


def test_hard_negatives_are_drawn_from_the_nearest() -> None:
    config = make_config(loss={"hard_negatives": 4, "hard_pool": 4})
    model, data = TwoTower(config, SCHEMA), rows()
    step: Any = SimpleNamespace(user=data.columns[:, 5], items=jnp.asarray(data.columns[:, 6]))
    near = jnp.asarray(np.random.default_rng(0).permuted(np.tile(np.arange(N_ITEMS), (N_ITEMS, 1)), axis=1)[:, :4])
    drawn = jax.jit(jax.vmap(lambda key: model._hard({"near": near}, step, key)))
    found = np.asarray(drawn(jax.random.split(jax.random.key(0), 50)))
    assert found.shape == (50, 40, 4)
    for row, item in enumerate(data.columns[:, 6]):
        seen = Counter(found[:, row].reshape(-1).tolist())
        assert set(seen) == set(np.asarray(near)[item].tolist()) and min(seen.values()) > 20


def test_a_table_of_rows_is_trained_like_a_dense_one() -> None:
    """Under sgd, step for step."""
    clipped = {"clip_norm": 0.7}
    dense, by_rows = (states(make_config(model={"table": table}, optimizer=clipped), 3) for table in ("dense", "rows"))
    np.testing.assert_array_equal(dense[0].tables["item"], by_rows[0].tables["item"])
    for ours, theirs, before in zip(by_rows[1:], dense[1:], dense, strict=False):
        assert min(np.abs(theirs.tables[side] - before.tables[side]).max() for side in ("user", "item")) > 1e-3
        for a, b in zip(jax.tree.leaves((ours.params, ours.tables, ours.carry)),
                        jax.tree.leaves((theirs.params, theirs.tables, theirs.carry)), strict=True):  # fmt: skip
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
