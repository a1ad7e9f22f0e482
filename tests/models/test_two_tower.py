"""Two towers: the network and a step are the plain ones in NumPy; what is never wrong, drawn, looked up, trained."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import arrays, assert_same_arrays
from numpy_two_tower import (
    N_ITEMS,
    N_USERS,
    SCHEMA,
    Batch,
    Given,
    bits,
    catalogue,
    interactions,
    item_counts,
    log_expected,
    rows,
    step_loss,
    tower,
)
from towers import BATCH, Stepping, make_config, random_weights

from jaxrec.config import Config
from jaxrec.data.rows import Rows
from jaxrec.feeds.base import Plan
from jaxrec.losses.contrastive import InfoNCE, Shared, contrast, cosines_of, infonce, triplet
from jaxrec.losses.contrastive import Rows as Contrasted
from jaxrec.models.two_tower import Interactions, TwoTower
from jaxrec.ops.parallel import ONE
from jaxrec.ops.tables import Tables
from jaxrec.training.block import TrainState, make_train_block
from jaxrec.training.optimizers import make_optimizer, make_schedule

# ---- the network -----------------------------------------------------------------------------------------------------

NETWORKS: list[dict[str, Any]] = [
    {"hidden": [6, 7]}, {"hidden": []}, {"norm": "none", "dropout_hidden": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_network_is_the_plain_one(network: dict[str, Any]) -> None:
    """With the given statistics; dropout is of training alone."""
    model = TwoTower(make_config(model=network), SCHEMA)
    given = random_weights(model)
    for side, columns, numbers in (("user", rows().columns[:, :5], rows().numbers), ("item", *catalogue())):
        found = np.asarray(jax.jit(model.encode, static_argnums=0)(side, given._asdict(), columns, numbers))
        expected, _ = tower(given, side, columns, numbers, None)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        assert found.std(axis=0).min() > 0.05


# ---- the loss of a step ----------------------------------------------------------------------------------------------


LOSSES: dict[str, dict[str, Any]] = {
    "triplet": {"loss": {"name": "triplet", "margin": 0.8, "n_sample": 5, "hard_negatives": 3}},
    "infonce": {"loss": {"name": "infonce", "logq": 0.7, "n_sample": 6, "sample_alpha": 0.5, "hard_negatives": 2},
                "model": {"hidden": [6, 7]}},
    "rows": {"loss": {"name": "infonce", "n_sample": 3, "temperature": 0.3, "mask": "duplicates"},
             "model": {"table": "rows"}},
}  # fmt: skip


@cache
def stepping_of(name: str) -> Stepping:
    config = make_config(**LOSSES[name])
    return Stepping(TwoTower(config, SCHEMA), interactions(config.loss.mask == "positives"))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_step_is_the_plain_one(name: str) -> None:
    """Mean over the step's places, some without a row: they are no candidates and not among the statistics."""
    config, stepping = make_config(**LOSSES[name]), stepping_of(name)
    model, data, live = stepping.model, rows().take(np.arange(BATCH)), np.arange(BATCH) < 13
    given = random_weights(model)
    carry: dict[str, Any] = {}
    hard = None
    if config.loss.hard_negatives:  # an index in which all neighbours of an item are one, whichever are drawn
        near = (np.arange(N_ITEMS) + 4) % N_ITEMS
        carry = {"steps": np.int32(1), "near": np.tile(near.astype(np.int32)[:, None], (1, model._pool))}
        hard = np.tile(near[data.columns[:, 6]][:, None], (1, config.loss.hard_negatives))
    found = stepping.take(given, data, live, **carry)
    items = found.step.items
    np.testing.assert_array_equal(items[:BATCH], data.columns[:, 6])
    assert len(items) == BATCH + config.loss.n_sample
    batch = Batch(data.columns[:, :5], data.numbers, data.columns[:, 5], items, live)
    expected, statistics = step_loss(config, given, batch, hard)
    assert found.total == pytest.approx(expected, rel=2e-4) and found.mean == pytest.approx(expected / BATCH, rel=2e-4)
    for seed in range(3):  # the derivative in a direction is the quotient of differences
        random = np.random.default_rng(seed)
        way = jax.tree.map(lambda leaf, random=random: random.normal(size=leaf.shape), (given.params, given.tables))
        ends = []
        for size in (-1e-6, 1e-6):
            moved = jax.tree.map(
                lambda leaf, by, size=size: np.float64(leaf) + size * by, (given.params, given.tables), way
            )
            ends.append(step_loss(config, given._replace(params=moved[0], tables=moved[1]), batch, hard)[0] / BATCH)
        slope = sum(np.vdot(np.float64(a), b) for a, b in zip(*map(jax.tree.leaves, (found.slopes, way)), strict=True))
        assert slope == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=5e-3, abs=1e-3)
    for side in ("user", "item"):
        for norm, values in statistics[side].items():
            for which, value in values.items():  # a tenth of the way from the old to those of the batch
                old = np.float64(given.statistics[side][norm][which])
                np.testing.assert_allclose(
                    found.carry["statistics"][side][norm][which], 0.9 * old + 0.1 * value, rtol=1e-3, atol=1e-5
                )


def same_everywhere(model: TwoTower) -> Given:
    """Weights with which all vectors are one: every candidate that counts takes an equal share of the softmax."""
    given = random_weights(model)
    return given._replace(params=jax.tree.map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if "bias" in str(path) else jnp.zeros_like(leaf), given.params
    ))  # fmt: skip


# By row the user and the item; drawn are two times item 9. User 0 is nobody, and item 0 none.
PAIRS = [(1, 3), (1, 9), (2, 3), (2, 4), (2, 5), (0, 6), (3, 7), (3, 7), (3, 0)]
HAS = [(1, 3), (1, 9), (2, 3), (2, 4), (2, 5), (3, 7)]
WRONG = {
    "duplicates": [8, 7, 8, 9, 9, 9, 8, 8, 10],  # of ten those with another item
    "positives": [5, 5, 6, 6, 6, 9, 8, 8, 8],  # rows 0 and 1: not 3, 3, 9, 9, 9
}


@pytest.mark.parametrize("mask", WRONG)
def test_duplicates_other_positives_and_the_unknown_item_are_never_wrong(mask: str) -> None:
    loss = {"name": "infonce", "temperature": 1.0, "n_sample": 2, "mask": mask}
    model, counts = TwoTower(make_config(loss=loss, model={"norm": "none"}), SCHEMA), np.eye(N_ITEMS, dtype=int)[9]
    words = np.zeros((N_USERS, 1), np.uint32)
    for user, item in HAS:
        words[user] |= np.uint32(1 << item)
    known = Interactions(*catalogue(), counts, words if mask == "positives" else None)
    data = rows().take(np.arange(len(PAIRS)))
    columns = data.columns.copy()
    columns[:, 5:] = PAIRS
    data = Rows(columns, data.numbers, data.labels, data.ratings, data.times, data.users)
    found = Stepping(model, known).take(same_everywhere(model), data, np.ones(len(PAIRS)))
    assert found.step.items[-2:].tolist() == [9, 9]
    assert np.exp(found.total) == pytest.approx(np.prod(np.add(WRONG[mask], 1.0)), rel=1e-3)


def test_scores_in_blocks() -> None:
    """More than a block holds: the same sums and derivatives as all at once."""
    random, b, h = np.random.default_rng(0), 1030, 2
    vectors = [jnp.float32(random.normal(size=(n, 3)) / 2) for n in (b, b, b * h, b + 20)]
    user, item, near = (jnp.asarray(random.integers(0, n, size), jnp.int32)
                        for n, size in ((N_USERS, b), (N_ITEMS, b + 20), (N_ITEMS, (b, h))))  # fmt: skip
    live, words, expected = (
        jnp.arange(b) < 1001,
        jnp.asarray(bits()),
        jnp.asarray(log_expected(16, 2, 1.0), jnp.float32),
    )
    assert b * (b + 20) > 2**20, "what a block holds"
    loss = InfoNCE(logq=0.5)

    def parts(query: Any, right: Any, close: Any, offered: Any) -> tuple[Contrasted, Shared]:
        rows = Contrasted(query, right, user, item[:b], near, close.reshape(b, h, 3))
        return rows, Shared(offered, item, jnp.append(live, jnp.ones(20, bool)), expected, words)

    def blocked(*floats: Any) -> Any:
        rows, shared = parts(*floats)
        return 3 * contrast(loss, ONE, rows, live, shared)

    def whole(*floats: Any) -> Any:
        return 3 * jnp.sum(jnp.where(live, loss(cosines_of(*parts(*floats))), 0.0))

    ours, theirs = (jax.jit(jax.value_and_grad(one, argnums=(0, 1, 2, 3)))(*vectors) for one in (blocked, whole))
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-5)
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [partial(triplet, margin=0.5), infonce], ids=["triplet", "infonce"])
def test_derivatives_where_vectors_are_one_place_or_opposite(loss: Any) -> None:
    """A cosine may by rounding leave [-1, 1]; a row may have no wrong item."""
    query, cosines = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0 + 1e-6, -1.0, -1.0 - 1e-6])
    places = jnp.stack([cosines, jnp.zeros(4)], axis=1)

    def total(query: Any, right: Any, candidates: Any, wrong: Any) -> tuple[Any, Any]:
        losses = loss(right @ query, jnp.stack([candidates @ query, query[:1].repeat(4)]), wrong)
        return jnp.sum(losses), losses

    slope = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    for held in (True, False):
        (_, losses), slopes = slope(query, places, places, jnp.full((2, 4), held))
        assert np.isfinite(losses).all() and all(np.isfinite(one).all() for one in slopes)
        assert held or (not np.any(losses) and not any(np.any(one) for one in slopes))


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
