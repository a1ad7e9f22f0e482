"""Towers and a step's loss are the plain ones in NumPy; what is never wrong."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_arrays
from numpy_two_tower import (
    N_ITEMS,
    N_USERS,
    SCHEMA,
    Batch,
    Given,
    bits,
    catalogue,
    interactions,
    log_expected,
    rows,
    step_loss,
    tower,
)
from towers import BATCH, Found, Stepping, make_config, random_weights

from jaxrec.data.rows import Rows
from jaxrec.losses.contrastive import InfoNCE, Shared, contrast, cosines_of
from jaxrec.losses.contrastive import Rows as Contrasted
from jaxrec.models.two_tower import Interactions, TwoTower
from jaxrec.ops.parallel import ONE

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


def test_a_side_of_numbers_alone() -> None:
    """And one of values alone: there is a table for the latter only."""
    model = TwoTower(make_config(data={"fields": ("age", "tags")}), SCHEMA)
    assert set(model.tables) == {"item"}
    given = random_weights(model)
    for side, features in (("user", 1), ("item", 5)):
        assert given.params[side]["Dense_0"]["kernel"].shape == (features, 8)
    found = jax.jit(model.encode, static_argnums=0)(
        "user", given._asdict(), np.zeros((3, 0), np.int32), np.array([[-1.0], [0.5], [2.0]], np.float32)
    )
    assert found.shape == (3, 4) and np.asarray(found).std(axis=0).min() > 0.01
    tags = jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 0), jnp.float32)
    assert jax.eval_shape(lambda *of: model.encode("item", given._asdict(), *of), *tags).shape == (1, 4)


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


def test_places_without_a_row_touch_nothing() -> None:
    """Whatever stands in them: neither the loss, nor the statistics, nor the rows that are read."""
    stepping, live = stepping_of("rows"), np.arange(BATCH) < 11
    model, found = stepping.model, list[Found]()
    given = random_weights(model)
    for behind in (rows().take(np.arange(11, BATCH)), rows().take(np.full(5, 39))):
        data = Rows(*(np.concatenate([getattr(rows(), name)[:11], 100.0 ** (name == "numbers") * getattr(behind, name)])
                      .astype(getattr(behind, name).dtype) for name in rows().__dataclass_fields__))  # fmt: skip
        found.append(stepping.take(given, data, live))
        for side, places in (("user", BATCH), ("item", BATCH + 3)):
            ids = found[-1].reads[side]["row"].ids.reshape(places, -1)
            assert (ids[:11] >= 0).any(axis=1).all() and (ids < model.tables[side].rows).all()
            assert (ids[11:BATCH] < 0).all(), "outside the table: nothing is read"
    assert_same_arrays(found[0][2:], found[1][2:])


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
