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

from jaxrec.config import optimizers
from jaxrec.ops.tables import Read, RowPlan, gather, plan_reads, update_rows
from jaxrec.training.optimizers import Adagrad, make_optimizer, make_schedule

pytestmark = pytest.mark.numbers

V, M, WIDTH = 9, 12, 3
IDS = st.lists(
    st.one_of(st.integers(0, V - 1), st.sampled_from([-1, V - 1, V, V + 3, 2**31 - 1])), min_size=M, max_size=M
)
START = jnp.zeros(V, jnp.int32)
plan_jit = jax.jit(lambda marks, ids, turn: plan_reads(marks, {"row": Read(ids)}, turn, WIDTH))


def plan_of(ids: Any, columns: Any = None) -> RowPlan:
    return plan_jit(START, jnp.asarray(ids, jnp.int32), 0)[1]._replace(columns=columns)


@given(st.lists(IDS, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_plan_represents_each_id_once_and_gathers_its_row(turns: list[list[int]]) -> None:
    marks, table = START, jnp.arange(1.0, 1 + V * WIDTH).reshape(V, WIDTH)
    for turn, listed in enumerate(turns):
        marks, plan = plan_jit(marks, jnp.asarray(listed, jnp.int32), turn)
        ids, slot, rows = np.asarray(plan.ids), np.asarray(plan.slot), np.asarray(gather(table, plan))
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
    "adagrad momentum": {"name": "adagrad", "momentum": 0.4},
    "sgd momentum": {"name": "sgd", "momentum": 0.9},
    "adam linear": {"name": "adam", "schedule": "linear"},
    "adagrad warm-up": {"name": "adagrad", "momentum": 0.3, "warmup_steps": 3, "epsilon": 0.01},
}


@pytest.mark.parametrize("with_columns", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_move_as_in_a_whole_table_and_others_stand_still(name: str, with_columns: bool) -> None:
    """Over several steps, moments included. Ids with duplicates and beyond the table; row 4 is never read, nor is
    anything in a step that is padding."""
    config = optimizers()[CONFIGS[name]["name"]](learning_rate=0.1, **CONFIGS[name])
    optimizer = make_optimizer(config, make_schedule(config, 5)).tables
    update, whole = jax.jit(partial(update_rows, optimizer)), jax.jit(optimizer.update)
    random = np.random.default_rng(1)
    table = expected = begin = jax.random.normal(jax.random.key(0), (V, WIDTH))
    state = moments = optimizer.init(table)
    for _ in range(5):
        ids = random.integers(0, V + 2, M)
        ids[ids == 4] = 3
        columns, by_position = random.random((M, WIDTH)) < 0.7, random.normal(size=(M, WIDTH)).astype(np.float32)
        plan = plan_of(ids, jnp.asarray(columns) if with_columns else None)
        # As in the model, positions read rows[slot]: the derivative sums duplicates into their first position.
        back = jax.vjp(lambda rows, slot=plan.slot: rows[slot], jnp.zeros((M, WIDTH)))[1]
        gradient = back(jnp.asarray(by_position))[0]
        table, state = update(jnp.asarray(True), table, state, plan, gather(table, plan), gradient)
        total, read = np.zeros((V, WIDTH), np.float32), np.zeros((V, WIDTH), bool)
        for position, row in enumerate(ids):
            if row < V:
                total[row] += by_position[position]
                if ids.tolist().index(row) == position:
                    read[row] = columns[position] if with_columns else True
        change, new = whole(total, moments, expected)
        keep = lambda a, b, read=read: jnp.where(read, a, b) if a.shape == read.shape else a  # noqa: E731
        expected, moments = jnp.where(read, expected + change, expected), jax.tree.map(keep, new, moments)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), (table, state), (expected, moments))
    np.testing.assert_array_equal(table[4], begin[4])
    nothing = plan_of([V] * M, jnp.ones((M, WIDTH), bool) if with_columns else None)
    after = update(jnp.asarray(False), table, state, nothing, gather(table, nothing), jnp.ones((M, WIDTH)))
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
