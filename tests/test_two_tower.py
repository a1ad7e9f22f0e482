"""The towers are the plain ones in NumPy, a step's loss too; what is never wrong, what is drawn, and what stays as it is."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, arrays, assert_same_arrays
from numpy_two_tower import (
    N_ITEMS,
    N_USERS,
    SCHEMA,
    Batch,
    Given,
    bits,
    catalogue,
    has,
    interactions,
    item_counts,
    log_expected,
    rows,
    step_loss,
    tower,
)

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.feed import Plan
from jaxrec.data.row_feed import RowBlock
from jaxrec.data.rows import Field, Rows, Schema
from jaxrec.models.two_tower import Interactions, TwoTower
from jaxrec.optimizers import make_optimizer, make_schedule
from jaxrec.tables import gather, plan_rows, scratch
from jaxrec.training import TrainState, init_state, make_train_block

BATCH = 16
FIELDS = tuple(field.name for field in SCHEMA.fields if field.side != "context")


def make_config(**sections: dict[str, Any]) -> Config:
    values: dict[str, dict[str, Any]] = {
        "data": {"path": "x", "fields": FIELDS},
        "model": {"name": "two_tower", "embedding_dim": 5, "hidden": [8], "output_dim": 4, "dropout_hidden": 0.0},
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
        "training": {"batch_size": BATCH},
    }
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields
    return configuration.parse(values)


def random_weights(model: TwoTower, seed: int = 0) -> Given:
    """Parameters and statistics of which none is 0 or 1, as they are at first."""
    random = np.random.default_rng(seed)

    def like(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(0.7 * random.normal(size=leaf.shape), jnp.float32), tree)

    params = like(jax.eval_shape(model.init, jax.random.key(0)))
    statistics = like(jax.eval_shape(model.carry, BATCH)["statistics"])
    statistics = jax.tree.map_with_path(lambda path, leaf: jnp.abs(leaf) if "var" in str(path) else leaf, statistics)
    tables = {
        name: jnp.asarray(random.normal(size=(spec.rows, spec.width)), jnp.float32)
        for name, spec in model.tables.items()
    }
    return Given(params, statistics, tables)


# ---- the network -----------------------------------------------------------------------------------------------------

NETWORKS: list[dict[str, Any]] = [
    {}, {"hidden": [6, 7]}, {"hidden": []}, {"norm": "none", "dropout_hidden": 0.5},
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


def test_a_side_of_numbers_alone() -> None:
    """And one of values alone: there is a table for the latter only."""
    model = TwoTower(make_config(data={"fields": ("age", "tags")}), SCHEMA)
    assert set(model.tables) == {"item"}
    params = jax.jit(model.init)(jax.random.key(0))
    assert params["user"]["Dense_0"]["kernel"].shape == (1, 8) and params["item"]["Dense_0"]["kernel"].shape == (5, 8)
    weights = {"params": params, "tables": {"item": jnp.ones((6, 5))}, "statistics": model.carry(1)["statistics"]}
    found = model.encode("user", weights, jnp.zeros((3, 0), jnp.int32), jnp.array([[-1.0], [0.5], [2.0]]))
    assert found.shape == (3, 4) and np.isfinite(found).all()
    assert model.encode("item", weights, jnp.array([[1, -1]]), jnp.zeros((1, 0))).shape == (1, 4)


def test_the_defaults_are_those_of_the_seed() -> None:
    config = configuration.load(Path(ROOT) / "configs" / "two_tower_amore.yaml")
    sides = [("age", "numerical", "user"), *((name, "categorical", "user") for name in ("gender", "skin_type")),
             ("skin_concern", "categorical", "user"), ("product", "categorical", "item"),
             ("category", "categorical", "item"), ("brand", "categorical", "item"), ("price", "numerical", "item")]  # fmt: skip
    fields = tuple(Field(name, kind, side, 5, int(kind != "numerical")) for name, kind, side in sides)
    model = TwoTower(config, Schema(fields, None, "product", 1.0, 0.0, 1.0))
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(model.init, jax.random.key(0)))
    for side, width in (("user", 49), ("item", 33)):
        assert shapes[side]["Dense_0"]["kernel"] == (width, 64) and shapes[side]["Dense_1"]["kernel"] == (64, 32)
        assert shapes[side]["BatchNorm_0"]["scale"] == (64,)
    bare = configuration.parse({"data": {"path": "x"}, "model": {"name": "two_tower"}})
    for part in ("model", "loss", "optimizer"):
        assert getattr(bare, part) == getattr(config, part)


def test_how_tables_begin() -> None:
    for more, deviation in (({}, 300**-0.5), ({"init_std": 0.3}, 0.3)):
        spec = TwoTower(make_config(model={"embedding_dim": 300} | more), SCHEMA).tables["user"]
        assert (spec.rows, spec.width, spec.dense) == (7 + 5 + 4, 300, True)
        table = np.asarray(jax.jit(spec.init, static_argnums=1)(jax.random.key(0), (spec.rows, spec.width)))
        np.testing.assert_array_equal(table[[0, 7, 12]], 0.0)
        np.testing.assert_allclose(np.delete(table, [0, 7, 12], axis=0).std(axis=1), deviation, rtol=0.2)


# ---- the loss of a step ----------------------------------------------------------------------------------------------


def block_of(data: Rows, weight: np.ndarray, steps: int = 1) -> RowBlock:
    leaves = (data.columns, data.numbers, data.labels, data.ratings, np.float32(weight))
    return RowBlock(*(jnp.broadcast_to(leaf, (steps, *leaf.shape)) for leaf in leaves))


def one_step(model: TwoTower, data: Rows, weight: np.ndarray, known: Interactions) -> Any:
    """What ``loss`` reads of a step that holds these rows."""
    steps = model.steps(model.constants(known), block_of(data, weight), jax.random.split(jax.random.key(5), 1))
    return jax.tree.map(lambda leaf: leaf[0], steps)


def loss_of(model: TwoTower, given: Given, step: Any, known: Interactions, **carry: Any) -> tuple[float, float, Any]:
    """The mean, the sum and the carry."""
    constants = model.constants(known)

    def objective(params: Any, tables: Any) -> Any:
        plans = {}
        for name, reads in model.reads(step).items():
            _, plans[name] = plan_rows(scratch(model.tables[name]), reads, jnp.int32(0))
        read = {name: gather(tables[name], plans[name].ids) if plans else tables[name] for name in tables}
        held = {"statistics": given.statistics} | carry
        return model.loss(params, read, plans, held, step, jax.random.key(1), constants)

    mean, (new, total) = jax.jit(objective)(given.params, given.tables)
    return float(mean), float(total), new


LOSSES: dict[str, dict[str, Any]] = {
    "triplet": {"loss": {"name": "triplet", "margin": 0.8}},
    "triplet-hard": {"loss": {"name": "triplet", "mask": "duplicates", "n_sample": 5, "hard_negatives": 3}},
    "infonce": {"loss": {"name": "infonce", "temperature": 0.3, "mask": "duplicates"}, "model": {"norm": "none"}},
    "infonce-corrected": {"loss": {"name": "infonce", "logq": 0.7, "n_sample": 6, "sample_alpha": 0.5},
                          "model": {"hidden": [6, 7]}},
    "infonce-hard": {"loss": {"name": "infonce", "logq": 1.0, "n_sample": 4, "hard_negatives": 2}},
    "rows": {"loss": {"name": "infonce", "n_sample": 3}, "model": {"table": "rows"}},
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_step_is_the_plain_one(name: str) -> None:
    """Mean over the step's places, some without a row: they are no candidates and not among the statistics."""
    config = make_config(**LOSSES[name])
    model, data = TwoTower(config, SCHEMA), rows().take(np.arange(BATCH))
    given, known = random_weights(model), interactions(config.loss.mask == "positives")
    live = np.arange(BATCH) < 13
    step = one_step(model, data, live, known)
    carry, hard = {}, None
    if config.loss.hard_negatives:  # an index in which all neighbours of an item are one, whichever are drawn
        near = (np.arange(N_ITEMS) + 4) % N_ITEMS
        carry = {"steps": jnp.int32(1), "near": jnp.tile(jnp.asarray(near, jnp.int32)[:, None], (1, model._pool))}
        hard = np.tile(near[data.columns[:, 6]][:, None], (1, config.loss.hard_negatives))
    mean, total, new = loss_of(model, given, step, known, **carry)
    items = np.asarray(step.items)
    np.testing.assert_array_equal(items[:BATCH], data.columns[:, 6])
    assert len(items) == BATCH + config.loss.n_sample
    batch = Batch(data.columns[:, :5], data.numbers, data.columns[:, 5], items, live)
    expected, statistics = step_loss(config, given, batch, hard)
    assert total == pytest.approx(expected, rel=2e-4) and mean == pytest.approx(expected / BATCH, rel=2e-4)
    for side in ("user", "item"):
        for norm, values in statistics[side].items():
            for which, value in values.items():  # a tenth of the way from the old to those of the batch
                old = np.float64(given.statistics[side][norm][which])
                np.testing.assert_allclose(
                    new["statistics"][side][norm][which], 0.9 * old + 0.1 * value, rtol=1e-3, atol=1e-5
                )


def test_places_without_a_row_touch_nothing() -> None:
    """Whatever stands in them: neither the loss, nor the statistics, nor the rows that are read."""
    config = make_config(**LOSSES["rows"])
    model, live = TwoTower(config, SCHEMA), np.arange(BATCH) < 11
    given, known, found = random_weights(model), interactions(), []
    for behind in (rows().take(np.arange(11, BATCH)), rows().take(np.full(5, 39))):
        data = Rows(*(np.concatenate([getattr(rows(), name)[:11], 100.0 ** (name == "numbers") * getattr(behind, name)])
                      .astype(getattr(behind, name).dtype) for name in rows().__dataclass_fields__))  # fmt: skip
        step = one_step(model, data, live, known)
        reads = model.reads(step)
        for side, places in (("user", BATCH), ("item", BATCH + 3)):
            ids = np.asarray(reads[side].ids).reshape(places, -1)
            assert (ids[:11] < model.tables[side].rows).any(axis=1).all()
            assert (ids[11:BATCH] >= model.tables[side].rows).all()
        found.append(loss_of(model, given, step, known))
    assert found[0][:2] == found[1][:2]
    assert_same_arrays(found[0][2], found[1][2])


def same_everywhere(model: TwoTower) -> Given:
    """Weights with which all vectors are one: every candidate that counts takes an equal share of the softmax."""
    given = random_weights(model)
    return given._replace(params=jax.tree.map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if "bias" in str(path) else jnp.zeros_like(leaf), given.params
    ))  # fmt: skip


# By row the user and the item; drawn are two times item 9. User 1 has 3 and 9, user 2 has 3, 4 and 5, user 0 is nobody.
PAIRS = [(1, 3), (1, 9), (2, 3), (2, 4), (2, 5), (0, 6), (3, 7), (3, 7)]
HAS = [(1, 3), (1, 9), (2, 3), (2, 4), (2, 5), (3, 7)]
WRONG = {
    "duplicates": [8, 7, 8, 9, 9, 9, 8, 8],  # of ten those with another item
    "positives": [5, 5, 6, 6, 6, 9, 8, 8],  # rows 0 and 1: not 3, 3, 9, 9, 9
}


@pytest.mark.parametrize("mask", WRONG)
def test_duplicates_and_other_positives_are_never_wrong(mask: str) -> None:
    config = make_config(loss={"name": "infonce", "temperature": 1.0, "n_sample": 2, "mask": mask},
                         model={"norm": "none"})  # fmt: skip
    model, counts = TwoTower(config, SCHEMA), np.eye(N_ITEMS, dtype=int)[9]
    words = np.zeros((N_USERS, 1), np.uint32)
    for user, item in HAS:
        words[user] |= np.uint32(1 << item)
    known = Interactions(*catalogue(), counts, words if mask == "positives" else None)
    data = rows().take(np.arange(len(PAIRS)))
    columns = data.columns.copy()
    columns[:, 5:] = PAIRS
    data = Rows(columns, data.numbers, data.labels, data.ratings, data.times, data.users)
    given, wrong = same_everywhere(model), WRONG[mask]
    _, total, _ = loss_of(model, given, one_step(model, data, np.ones(8), known), known)
    assert np.exp(total) == pytest.approx(np.prod(np.add(wrong, 1.0)), rel=1e-3)
    # Each row alone beside what is drawn.
    for row, (user, item) in enumerate(PAIRS):
        one = one_step(model, data.take(np.array([row])), np.ones(1), known)
        _, total, _ = loss_of(model, given, one, known)
        drawn = 0 if item == 9 or (mask == "positives" and (user, 9) in HAS) else 2
        assert np.exp(total) == pytest.approx(1 + drawn, rel=1e-4)


def test_the_unknown_item_is_never_wrong() -> None:
    model = TwoTower(make_config(loss={"name": "infonce", "mask": "duplicates"}, model={"norm": "none"}), SCHEMA)
    data, known = rows().take(np.arange(3)), interactions(False)
    columns = data.columns.copy()
    columns[:, 6] = [0, 4, 5]
    data = Rows(columns, data.numbers, data.labels, data.ratings, data.times, data.users)
    _, total, _ = loss_of(model, same_everywhere(model), one_step(model, data, np.ones(3), known), known)
    assert np.exp(total) == pytest.approx(3 * 2 * 2, rel=1e-4)


# ---- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
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


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_share_of_the_values_becomes_unknown(rate: float) -> None:
    model, steps = TwoTower(make_config(data={"unknown_rate": rate}), SCHEMA), 60
    data, constants = rows(), model.constants(interactions())
    found = jax.jit(model.steps)(
        constants, block_of(data, np.ones(40), steps), jax.random.split(jax.random.key(0), steps)
    )
    items = np.asarray(data.columns[:, 6])
    for ids, columns, first in (
        (found.user_ids, data.columns[:, :5], [0, 7, 7, 7, 12]), (found.item_ids, catalogue()[0][items], [0, 12, 12]),
    ):  # fmt: skip
        plain = np.where(columns < 0, -1, columns + np.array(first))
        replaced = np.asarray(ids) != plain
        assert np.all(np.asarray(ids) == np.where(replaced, first, plain)) and not replaced[:, columns < 0].any()
        known = columns > 0
        deviation = np.sqrt(rate * (1 - rate) / (known.sum() * steps))
        assert abs(replaced[:, known].mean() - rate) <= 4 * deviation
    np.testing.assert_array_equal(found.items[:, :40], np.broadcast_to(items, (steps, 40)))


# ---- training --------------------------------------------------------------------------------------------------------


def states(config: Config, steps: int, dead: tuple[int, ...] = ()) -> list[TrainState]:
    """The state at the beginning and after each step, of 16 rows or, every third, of 8; ``dead`` ones have no row."""
    model = TwoTower(config, SCHEMA)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, steps))
    feed = model.feed(rows(), Plan(BATCH, 1, "random", 0, 2**20, training=True))
    block = make_train_block(model, optimizer, config.optimizer.clip_norm, config.training.average)
    constants = model.constants(interactions(config.loss.mask == "positives"))
    state = init_state(model, optimizer, 0, BATCH)
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
    model = {"dropout_hidden": 0.2}
    return states(make_config(loss=loss, model=model, optimizer={"name": "adam", "learning_rate": 0.1}), 8, dead=(4,))


def test_a_step_without_rows_changes_nothing() -> None:
    found = hard_states()
    assert_same_arrays(found[4], found[5])
    for before, after in ((found[3], found[4]), (found[5], found[6])):
        ours, theirs = arrays(before._replace(key=None)), arrays(after._replace(key=None))
        assert all(np.isfinite(value).all() for value in theirs.values())
        moved = {name for name, value in theirs.items() if np.any(value != ours[name])}
        assert {".step", ".tables['item']", ".carry['statistics']['user']['BatchNorm_0']['mean']",
                ".params['item']['Dense_0']['kernel']"} <= moved  # fmt: skip


def test_hard_negatives_are_looked_up_every_so_many_steps() -> None:
    """With the weights of that moment; the dead step is none."""
    found = hard_states()
    config = make_config(model={"dropout_hidden": 0.2})
    model = TwoTower(config, SCHEMA)
    encode, indices = jax.jit(model.encode, static_argnums=0), 0
    for number, (before, after) in enumerate(zip(found, found[1:], strict=False)):
        assert int(after.carry["steps"]) == number + 1 - (number >= 4)
        if number not in (0, 3, 7):  # steps 0, 3 and, as one was dead, 6
            np.testing.assert_array_equal(after.carry["near"], before.carry["near"])
            continue
        weights = {"params": before.params, "tables": before.tables, "statistics": before.carry["statistics"]}
        vectors = np.float64(encode("item", weights, *catalogue()))
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        cosines[:, 0] = -2
        expected = np.argsort(-cosines, axis=1)[:, :4]
        same = [set(a) == set(b) for a, b in zip(after.carry["near"].tolist(), expected.tolist(), strict=True)]
        assert all(same[1:]), "the nearest, without the item itself and the unknown one"
        indices += bool(np.any(after.carry["near"] != before.carry["near"]))
    assert indices == 3, "they differ, so that looking them up matters"


def test_hard_negatives_are_drawn_from_the_nearest() -> None:
    config = make_config(loss={"hard_negatives": 6, "hard_pool": 4} | {"hard_negatives": 4})
    model, data = TwoTower(config, SCHEMA), rows()
    near = jnp.asarray(np.random.default_rng(0).permuted(np.tile(np.arange(N_ITEMS), (N_ITEMS, 1)), axis=1)[:, :4])
    step = one_step(model, data, np.ones(40), interactions())
    carry, constants = {"near": near}, model.constants(interactions())
    drawn = jax.jit(jax.vmap(lambda key: model._hard(carry, step, constants, key)))
    found = np.asarray(drawn(jax.random.split(jax.random.key(0), 50)))
    assert found.shape == (50, 40, 4)
    for row, item in enumerate(data.columns[:, 6]):
        seen = Counter(found[:, row].reshape(-1).tolist())
        assert set(seen) == set(np.asarray(near)[item].tolist()) and min(seen.values()) > 20


def test_there_are_no_more_neighbours_than_other_items() -> None:
    config = make_config(loss={"hard_negatives": 2, "hard_pool": 500})
    assert TwoTower(config, SCHEMA).carry(BATCH)["near"].shape == (N_ITEMS, N_ITEMS - 2)


def test_a_table_of_rows_is_trained_like_a_dense_one() -> None:
    """Under sgd, step for step, clipped and with what is random."""
    loss = {"name": "infonce", "n_sample": 5, "logq": 1.0, "sample_alpha": 0.5}
    dense, by_rows = (
        states(make_config(
            model={"table": table, "dropout_hidden": 0.2}, loss=loss, data={"unknown_rate": 0.1},
            optimizer={"clip_norm": 0.7},
        ), 3) for table in ("dense", "rows")
    )  # fmt: skip
    np.testing.assert_array_equal(dense[0].tables["item"], by_rows[0].tables["item"])
    for ours, theirs, before in zip(by_rows[1:], dense[1:], dense, strict=False):
        assert min(np.abs(theirs.tables[side] - before.tables[side]).max() for side in ("user", "item")) > 1e-3
        for a, b in zip(jax.tree.leaves((ours.params, ours.tables, ours.carry)),
                        jax.tree.leaves((theirs.params, theirs.tables, theirs.carry)), strict=True):  # fmt: skip
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_dropout_is_anew_in_each_step() -> None:
    config = make_config(model={"dropout_hidden": 0.3})
    model, data = TwoTower(config, SCHEMA), rows().take(np.arange(BATCH))
    given, known = random_weights(model), interactions()
    step, constants = one_step(model, data, np.ones(BATCH), known), model.constants(known)
    carry = {"statistics": given.statistics}
    loss = jax.jit(lambda key: model.loss(given.params, given.tables, {}, carry, step, key, constants)[1][1])
    found = [float(loss(key)) for key in jax.random.split(jax.random.key(0), 3)]
    assert len(set(found)) == 3
    batch = Batch(data.columns[:, :5], data.numbers, data.columns[:, 5], np.asarray(step.items), np.ones(BATCH, bool))
    assert all(abs(one - step_loss(config, given, batch)[0]) > 1e-3 for one in found)


def test_the_bits_of_the_helper() -> None:
    assert {(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if bits()[u, 0] >> i & 1} == has()
