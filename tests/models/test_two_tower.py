"""Two towers: the network and a step are the plain ones in NumPy; what is never wrong, drawn, looked up, trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_arrays
from numpy_two_tower import N_ITEMS, SCHEMA, Batch, Given, catalogue, interactions, rows, step_loss, tower
from steps import assert_slopes, config_of, random_weights, take_step

from jaxrec.config import Config
from jaxrec.feeds.base import Plan, RowBlock
from jaxrec.losses import contrastive
from jaxrec.models.two_tower import TwoTower
from jaxrec.training.block import init_state, make_train_block
from jaxrec.training.optimizers import make_optimizer, make_schedule

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


@pytest.mark.parametrize(("name", "cells"), [*((name, contrastive.CELLS) for name in LOSSES), ("infonce", 100)])
def test_the_loss_of_a_step_is_the_plain_one(name: str, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
    found = take_step(model, constants, RowBlock(*(leaf[None] for leaf in leaves)), weights, carry=carry)
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
