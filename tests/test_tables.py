"""Row-sparse tables: a plan of unique rows, and updates that equal the dense optimizer's on the rows that were read."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from jaxrec.config.finding import optimizers
from jaxrec.ops.tables import RowPlan, TableSpec, gather, glorot_like, plan_rows, scatter, scratch, update_rows
from jaxrec.training.optimizers import Adagrad, clip_scale, make_optimizer, make_schedule

pytestmark = pytest.mark.numbers

V, M, WIDTH = 9, 12, 3
IDS = st.lists(
    st.one_of(st.integers(0, V - 1), st.sampled_from([-1, V - 1, V, V + 3, 2**31 - 1])), min_size=M, max_size=M
)
plan_jit = jax.jit(lambda marks, ids, turn: plan_rows(marks, ids, turn))


def start() -> Array:
    return scratch(TableSpec(V, WIDTH, glorot_like))


def plan_of(ids: list[int], columns: Any = None) -> RowPlan:
    plan = plan_jit(start(), jnp.asarray(ids, jnp.int32), 0)[1]
    return plan._replace(columns=None if columns is None else jnp.asarray(columns))


@given(st.lists(IDS, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_plan_represents_each_id_once(turns: list[list[int]]) -> None:
    marks = start()
    for turn, listed in enumerate(turns):
        marks, plan = plan_jit(marks, jnp.asarray(listed, jnp.int32), turn)
        ids, slot = np.asarray(plan.ids), np.asarray(plan.slot)
        inside = [i for i in listed if 0 <= i < V]
        assert sorted(ids[ids < V]) == np.unique(inside).tolist()
        assert len(set(ids.tolist())) == M, "what pads is distinct and beyond the table"
        assert np.all(ids >= 0)
        for position, wanted in enumerate(listed):
            if 0 <= wanted < V:
                assert ids[slot[position]] == wanted
                assert slot[position] == listed.index(wanted), "the first position stands for an id"
            else:
                assert slot[position] == position
                assert ids[position] >= V


def test_gather_fills_and_scatter_drops() -> None:
    table = jnp.arange(1.0, 1 + V * WIDTH).reshape(V, WIDTH)
    plan = plan_of([V - 1, V - 1, 0, V, -1, 5, 2**31 - 1, 0, V + 1, V, V, V])
    rows = np.asarray(gather(table, plan.ids))
    np.testing.assert_array_equal(rows[[0, 2, 5]], np.asarray(table)[[V - 1, 0, 5]])
    np.testing.assert_array_equal(np.delete(rows, [0, 2, 5], axis=0), 0.0)
    new = np.asarray(scatter(table, plan.ids, jnp.full((M, WIDTH), -1.0)))
    touched = np.isin(np.arange(V), [V - 1, 0, 5])
    np.testing.assert_array_equal(new[touched], -1.0)
    np.testing.assert_array_equal(new[~touched], np.asarray(table)[~touched])


def test_the_last_row_is_untouched_by_padding() -> None:
    table = jnp.ones((V, WIDTH))
    optimizer = make_optimizer(Adagrad(), optax.constant_schedule(0.1)).tables
    plan = plan_of([0] * (M - 2) + [V, -1])
    new, _ = update_rows(optimizer, jnp.asarray(True), table, optimizer.init(table), plan,
                         gather(table, plan.ids), jnp.ones((M, WIDTH)))  # fmt: skip
    np.testing.assert_array_equal(new[V - 1], 1.0)
    assert np.all(np.asarray(new[0]) < 1.0)


CONFIGS: dict[str, dict[str, Any]] = {
    "adagrad": {"name": "adagrad"},
    "adagrad momentum": {"name": "adagrad", "momentum": 0.4},
    "sgd momentum": {"name": "sgd", "momentum": 0.9},
    "adam": {"name": "adam"},
    "adam linear": {"name": "adam", "schedule": "linear"},
    "adagrad warm-up": {"name": "adagrad", "momentum": 0.3, "warmup_steps": 3, "epsilon": 0.01},
}
RATE, STEPS = 0.1, 5


@cache
def made(name: str) -> tuple[optax.GradientTransformation, Any]:
    config = optimizers()[CONFIGS[name]["name"]](learning_rate=RATE, **CONFIGS[name])
    optimizer = make_optimizer(config, make_schedule(config, STEPS)).tables
    return optimizer, jax.jit(partial(update_rows, optimizer))


def rate(config: dict[str, Any], t: int) -> float:
    """The learning rate of step ``t``, by the definition of the schedules used above."""
    if config.get("schedule") == "linear":
        return RATE * (1 - t / STEPS)
    return RATE * min(1.0, t / config["warmup_steps"]) if "warmup_steps" in config else RATE


class ByHand:
    """The optimizers element by element, with the moments of what is not read standing still (lazy)."""

    def __init__(self, config: dict[str, Any], table: np.ndarray) -> None:
        self.config, self.table = config, table.astype(np.float64)
        self.first, self.second, self.trace = (np.zeros(table.shape) for _ in range(3))

    def step(self, t: int, gradient: np.ndarray, read: np.ndarray) -> None:
        """``gradient`` [V, width], ``read`` bool[V, width]."""
        config, momentum = self.config, self.config.get("momentum", 0.0)
        first, second, change = self.first.copy(), self.second.copy(), gradient
        if config["name"] == "adagrad":
            second = second + gradient**2
            root = np.sqrt(second + config.get("epsilon", 1e-6))
            change = np.where(second > 0, gradient / root, 0.0)
        elif config["name"] == "adam":
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            change = first / (1 - 0.9 ** (t + 1)) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        trace = momentum * self.trace - rate(config, t) * change
        self.table = np.where(read, self.table + trace, self.table)
        self.first, self.second = np.where(read, first, self.first), np.where(read, second, self.second)
        self.trace = np.where(read, trace, self.trace)


def random_steps(seed: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ids with duplicates and ids beyond the table, which columns are read, and a gradient for each position."""
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(STEPS):
        ids = rng.integers(0, V + 2, M)
        ids[ids == 4] = 3  # row 4 is never read
        steps.append((ids, rng.random((M, WIDTH)) < 0.7, rng.normal(size=(M, WIDTH)).astype(np.float32)))
    return steps


@pytest.mark.parametrize("with_columns", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_follow_the_formulae_over_several_steps(name: str, with_columns: bool) -> None:
    optimizer, update = made(name)
    table = jax.random.normal(jax.random.key(0), (V, WIDTH))
    begin, hand = np.asarray(table), ByHand(CONFIGS[name], np.asarray(table))
    state = begin_state = optimizer.init(table)
    for t, (ids, columns, by_position) in enumerate(random_steps(1)):
        plan = plan_of(ids.tolist(), columns if with_columns else None)
        # As in the model, positions read rows[slot]: the derivative sums duplicates into their first position.
        back = jax.vjp(lambda rows, slot=plan.slot: rows[slot], jnp.zeros((M, WIDTH)))[1]
        gradient = back(jnp.asarray(by_position))[0]
        table, state = update(jnp.asarray(True), table, state, plan, gather(table, plan.ids), gradient)
        total, read = np.zeros((V, WIDTH)), np.zeros((V, WIDTH), bool)
        for position, row in enumerate(ids):
            if row < V:
                total[row] += by_position[position]
                if ids.tolist().index(row) == position:
                    read[row] = columns[position] if with_columns else True
        hand.step(t, total, read)
        np.testing.assert_allclose(table, hand.table, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(table[4], begin[4])
    for leaf, old in zip(jax.tree.leaves(state), jax.tree.leaves(begin_state), strict=True):
        if leaf.ndim:
            np.testing.assert_array_equal(leaf[4], old[4])


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_that_are_read_move_as_under_dense_optax(name: str) -> None:
    """Every row read in every step: nothing is left of the sparsity."""
    optimizer, update = made(name)
    table = dense = jax.random.normal(jax.random.key(1), (M, WIDTH))
    state = dense_state = optimizer.init(table)
    plan = plan_rows(jnp.zeros(M, jnp.int32), jnp.arange(M)[::-1], jnp.asarray(0))[1]
    for t in range(3):
        gradient = jax.random.normal(jax.random.key(10 + t), (M, WIDTH))
        change, dense_state = optimizer.update(gradient, dense_state, dense)
        dense = optax.apply_updates(dense, change)
        table, state = update(jnp.asarray(True), table, state, plan, gather(table, plan.ids), gradient[::-1])
    np.testing.assert_allclose(table, dense, rtol=1e-5, atol=1e-7)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(dense_state), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_empty_step_changes_nothing(name: str) -> None:
    optimizer, update = made(name)
    table = jnp.ones((V, WIDTH))
    state = optimizer.init(table)
    plan = plan_of([V] * M)
    new, new_state = update(jnp.asarray(False), table, state, plan, gather(table, plan.ids), jnp.ones((M, WIDTH)))
    np.testing.assert_array_equal(new, table)
    jax.tree.map(np.testing.assert_array_equal, new_state, state)


def test_constant_rates() -> None:
    schedule = make_schedule(Adagrad(learning_rate=0.2), 10)
    assert [float(schedule(t)) for t in (0, 5, 100)] == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("warmup", [0, 4])
def test_falling_rates(warmup: int) -> None:
    """From the peak at the end of the warm-up to its share at the last planned step, and no further."""
    for kind, middle in (("linear", 0.5 * (1 + 0.1)), ("cosine", 0.5 * (1 + 0.1))):
        config = Adagrad(learning_rate=0.2, schedule=kind, final_fraction=0.1, warmup_steps=warmup)
        schedule = make_schedule(config, 20 + warmup)
        assert float(schedule(warmup)) == pytest.approx(0.2)
        assert float(schedule(warmup + 10)) == pytest.approx(0.2 * middle)
        assert float(schedule(warmup + 20)) == pytest.approx(0.02)
        assert float(schedule(warmup + 100)) == pytest.approx(0.02)
        rates = [float(schedule(warmup + t)) for t in range(21)]
        assert np.all(np.diff(rates) < 0)
        if warmup:
            assert [float(schedule(t)) for t in range(warmup)] == pytest.approx(
                [0.2 * t / warmup for t in range(warmup)]
            )
    cosine = make_schedule(Adagrad(learning_rate=1.0, schedule="cosine"), 4)
    assert [float(cosine(t)) for t in range(5)] == pytest.approx(0.5 * (1 + np.cos(np.pi * np.arange(5) / 4)), abs=1e-7)


def test_clip_scale() -> None:
    assert clip_scale(jnp.asarray(25.0), None) == 1.0
    assert float(clip_scale(jnp.asarray(25.0), 10.0)) == 1.0
    assert float(clip_scale(jnp.asarray(25.0), 1.0)) == pytest.approx(0.2)
    assert float(clip_scale(jnp.asarray(0.0), 1.0)) == 1.0
