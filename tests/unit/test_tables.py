"""Row-sparse tables: a plan of unique rows, updates that follow the optimizers' formulae on the rows that were read."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.config.finding import optimizers
from jaxrec.ops.tables import Read, RowPlan, gather, plan_reads, update_rows
from jaxrec.training.optimizers import Adagrad, make_optimizer, make_schedule

pytestmark = pytest.mark.numbers

V, M, WIDTH = 9, 12, 3
RATE, STEPS = 0.1, 5
IDS = st.lists(
    st.one_of(st.integers(0, V - 1), st.sampled_from([-1, V - 1, V, V + 3, 2**31 - 1])), min_size=M, max_size=M
)
START = jnp.zeros(V, jnp.int32)
plan_jit = jax.jit(lambda marks, ids, turn: plan_reads(marks, {"row": Read(ids)}, turn, WIDTH))


def plan_of(ids: Any, columns: Any = None) -> RowPlan:
    return plan_jit(START, jnp.asarray(ids, jnp.int32), 0)[1]._replace(columns=columns)


@given(st.lists(IDS, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_plan_represents_each_id_once_and_gathers_its_row(turns: list[list[int]]) -> None:
    marks, table = START, jnp.arange(1.0, 1 + V * WIDTH).reshape(V, WIDTH)
    for turn, listed in enumerate(turns):
        marks, plan = plan_jit(marks, jnp.asarray(listed, jnp.int32), turn)
        ids, slot, rows = np.asarray(plan.ids), np.asarray(plan.slot), np.asarray(gather(table, plan.ids))
        assert sorted(ids[ids < V]) == sorted({i for i in listed if 0 <= i < V}) and np.all(ids >= 0)
        assert len(set(ids.tolist())) == M, "what pads is distinct and beyond the table"
        for position, wanted in enumerate(listed):
            if 0 <= wanted < V:
                assert slot[position] == listed.index(wanted), "the first position stands for an id"
                assert ids[slot[position]] == wanted
            else:
                assert slot[position] == position and ids[position] >= V
            expected = table[wanted] if 0 <= wanted < V else jnp.zeros(WIDTH)
            np.testing.assert_array_equal(rows[slot[position]], expected)


CONFIGS: dict[str, dict[str, Any]] = {
    "adagrad": {"name": "adagrad"},
    "adagrad momentum": {"name": "adagrad", "momentum": 0.4},
    "sgd momentum": {"name": "sgd", "momentum": 0.9},
    "adam": {"name": "adam"},
    "adam linear": {"name": "adam", "schedule": "linear"},
    "adagrad warm-up": {"name": "adagrad", "momentum": 0.3, "warmup_steps": 3, "epsilon": 0.01},
}


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
            change = np.where(second > 0, gradient / np.sqrt(second + config.get("epsilon", 1e-6)), 0.0)
        elif config["name"] == "adam":
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            change = first / (1 - 0.9 ** (t + 1)) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        trace = momentum * self.trace - rate(config, t) * change
        self.table = np.where(read, self.table + trace, self.table)
        self.first, self.second = np.where(read, first, self.first), np.where(read, second, self.second)
        self.trace = np.where(read, trace, self.trace)


@pytest.mark.parametrize("with_columns", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_follow_the_formulae_over_several_steps(name: str, with_columns: bool) -> None:
    """Ids with duplicates and ids beyond the table; row 4 is never read, nor is anything in a step that is padding."""
    config = optimizers()[CONFIGS[name]["name"]](learning_rate=RATE, **CONFIGS[name])
    optimizer = make_optimizer(config, make_schedule(config, STEPS)).tables
    update, random = jax.jit(partial(update_rows, optimizer)), np.random.default_rng(1)
    table = begin = jax.random.normal(jax.random.key(0), (V, WIDTH))
    state, hand = optimizer.init(table), ByHand(CONFIGS[name], np.asarray(table))
    untouched = [np.asarray(leaf)[4] for leaf in jax.tree.leaves(state) if leaf.ndim]
    for t in range(STEPS):
        ids = random.integers(0, V + 2, M)
        ids[ids == 4] = 3
        columns, by_position = random.random((M, WIDTH)) < 0.7, random.normal(size=(M, WIDTH)).astype(np.float32)
        plan = plan_of(ids, jnp.asarray(columns) if with_columns else None)
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
    jax.tree.map(np.testing.assert_array_equal, [leaf[4] for leaf in jax.tree.leaves(state) if leaf.ndim], untouched)
    nothing = plan_of([V] * M, jnp.ones((M, WIDTH), bool) if with_columns else None)
    after = update(jnp.asarray(False), table, state, nothing, gather(table, nothing.ids), jnp.ones((M, WIDTH)))
    jax.tree.map(np.testing.assert_array_equal, after, (table, state))


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_learning_rates(kind: str, warmup: int) -> None:
    """From the peak at the end of the warm-up to its share at the last planned step, and no further."""
    schedule = make_schedule(
        Adagrad(learning_rate=0.2, schedule=kind, final_fraction=0.1, warmup_steps=warmup), 20 + warmup
    )
    fall = {"constant": np.zeros(31), "linear": np.minimum(np.arange(31) / 20, 1),
            "cosine": 0.5 - 0.5 * np.cos(np.pi * np.minimum(np.arange(31) / 20, 1))}[kind]  # fmt: skip
    expected = [*(0.2 * np.arange(warmup) / max(warmup, 1)), *(0.2 - 0.18 * fall)]
    np.testing.assert_allclose([float(schedule(t)) for t in range(warmup + 31)], expected, atol=1e-7)
