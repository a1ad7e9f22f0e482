"""The compiled heart of training: a block of steps in one call, with the state donated."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrec.data.feed import Block
from jaxrec.models import Model
from jaxrec.optimizers import clip_scale
from jaxrec.tables import RowPlan, gather, plan_rows, scratch, update_rows


class TrainState(NamedTuple):
    """All that a step changes; a checkpoint holds it whole.

    Attributes:
        step: int32[], steps taken.
        params: the model's dense parameters.
        tables: the embedding tables by name.
        optimizer: the optimizer's state for params.
        row_optimizer: the optimizer's state for each table.
        carry: the model's hidden state.
        key: the run's random key; step ``s`` uses ``fold_in(key, s)``.
    """

    step: Array
    params: Any
    tables: dict[str, Array]
    optimizer: Any
    row_optimizer: dict[str, Any]
    carry: Any
    key: Array


class BlockStats(NamedTuple):
    """What a block reports.

    Attributes:
        loss: float32[S], sums of the lanes' losses.
        pairs: int32[], pairs trained on.
        steps: int32[], steps with a live lane.
    """

    loss: Array
    pairs: Array
    steps: Array


def init_state(model: Model, optimizer: optax.GradientTransformation, seed: int, lanes: int) -> TrainState:
    """The state before the first step. Compiled, since a hundred small operations one by one take seconds."""

    @jax.jit
    def init() -> TrainState:
        params_key, tables_key, steps_key = jax.random.split(jax.random.key(seed), 3)
        params = model.init(params_key)
        tables = {
            name: spec.init(jax.random.fold_in(tables_key, i), (spec.rows, spec.width))
            for i, (name, spec) in enumerate(sorted(model.tables.items()))
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            tables=tables,
            optimizer=optimizer.init(params),
            row_optimizer={name: optimizer.init(table) for name, table in tables.items()},
            carry=model.carry(lanes),
            key=jax.random.key_data(steps_key),
        )

    return init()


def make_train_block(
    model: Model, optimizer: optax.GradientTransformation, clip_norm: float | None
) -> jax.stages.Wrapped:
    """``train_block(state, constants, block) -> (state, stats)``, compiled; the state's buffers are reused.

    The derivative stops at the step, as published: the carry enters each step as a constant.
    """

    def train_block(state: TrainState, constants: Any, block: Block) -> tuple[TrainState, BlockStats]:
        size = block.input.shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.wrap_key_data(state.key), state.step + jnp.arange(size)
        )
        streams = jax.vmap(lambda key: jax.random.split(key))(keys)
        steps = model.steps(constants, block, streams[:, 0])
        marks = {name: scratch(spec) for name, spec in model.tables.items()}

        def one(loop: tuple[TrainState, dict[str, Array]], at: Any) -> tuple[Any, Array]:
            state, marks = loop
            turn, step, live, key = at
            state, marks, loss = _step(model, optimizer, clip_norm, state, marks, turn, step, live, key)
            return (state, marks), loss

        live = jnp.any(block.weight > 0, axis=1)
        turns = jnp.arange(size, dtype=jnp.int32)
        (state, _), losses = jax.lax.scan(one, (state, marks), (turns, steps, live, streams[:, 1]))
        return state, BlockStats(losses, jnp.sum(block.weight > 0), jnp.sum(live))

    return jax.jit(train_block, donate_argnums=0)


def _step(
    model: Model,
    optimizer: optax.GradientTransformation,
    clip_norm: float | None,
    state: TrainState,
    marks: dict[str, Array],
    turn: Array,
    step: Any,
    live: Array,
    key: Array,
) -> tuple[TrainState, dict[str, Array], Array]:
    """One step: plan and gather rows, differentiate, update, scatter. A step without a live lane changes nothing."""
    marks, plans = dict(marks), dict[str, RowPlan]()
    for name, reads in model.reads(step).items():
        marks[name], plans[name] = plan_rows(marks[name], reads, turn)
    rows = {name: gather(state.tables[name], plan.ids) for name, plan in plans.items()}

    derivative = jax.grad(model.loss, argnums=(0, 1), has_aux=True)
    (slope, row_slope), (carry, loss) = derivative(state.params, rows, plans, state.carry, step, key)
    if clip_norm is not None:
        squares = jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves((slope, row_slope))]))
        slope, row_slope = jax.tree.map(lambda leaf: leaf * clip_scale(squares, clip_norm), (slope, row_slope))

    change, new_optimizer = optimizer.update(slope, state.optimizer, state.params)
    params = optax.apply_updates(state.params, change)
    tables, row_optimizer = dict(state.tables), dict(state.row_optimizer)
    for name, plan in plans.items():
        tables[name], row_optimizer[name] = update_rows(
            optimizer, live, state.tables[name], state.row_optimizer[name], plan, rows[name], row_slope[name]
        )

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, old)

    new = TrainState(
        state.step + live,
        keep(params, state.params),
        tables,
        keep(new_optimizer, state.optimizer),
        row_optimizer,
        keep(carry, state.carry),
        state.key,
    )
    return new, marks, loss
