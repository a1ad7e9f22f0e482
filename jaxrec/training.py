"""The compiled heart of training: a block of steps in one call, with the state donated."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrec.config import Config
from jaxrec.data.feed import Plan
from jaxrec.models import Model
from jaxrec.optimizers import Optimizer, clip_scale
from jaxrec.tables import RowPlan, gather, plan_rows, scratch, update_rows


class TrainState(NamedTuple):
    """All that a step changes; a checkpoint holds it whole.

    Attributes:
        step: int32[], steps taken.
        params: the model's dense parameters.
        tables: the embedding tables by name.
        optimizer: the optimizer's state for params.
        table_optimizer: the optimizer's state for each table.
        average: the moving average of ``{params, tables}``; None where none is kept.
        carry: what the model hands from step to step: a hidden state, or batch statistics.
        key: the run's random key; step ``s`` uses ``fold_in(key, s)``.
    """

    step: Array
    params: Any
    tables: dict[str, Array]
    optimizer: Any
    table_optimizer: dict[str, Any]
    average: dict[str, Any] | None
    carry: Any
    key: Array

    def weights(self) -> dict[str, Any]:
        """``{params, tables}`` to evaluate and serve with: the average where there is one; and ``statistics`` where a
        model's carry is a dictionary that has them, those of batch normalisation."""
        weights = {"params": self.params, "tables": self.tables} if self.average is None else self.average
        has = isinstance(self.carry, dict) and "statistics" in self.carry
        return weights | {"statistics": self.carry["statistics"]} if has else weights


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


def init_state(model: Model, optimizer: Optimizer, seed: int, lanes: int, averaged: bool = False) -> TrainState:
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
            optimizer=optimizer.dense.init(params),
            table_optimizer={name: optimizer.tables.init(table) for name, table in tables.items()},
            average=jax.tree.map(jnp.copy, {"params": params, "tables": tables}) if averaged else None,
            carry=model.carry(lanes),
            key=jax.random.key_data(steps_key),
        )

    return init()


def new_state(config: Config, model: Model, optimizer: Optimizer) -> TrainState:
    """``init_state`` of a configuration."""
    settings = config.training
    return init_state(model, optimizer, settings.seed, settings.batch_size, averaged=settings.average > 0)


def training_plan(config: Config) -> Plan:
    """How a configuration feeds its training split."""
    data, settings = config.data, config.training
    size = data.device_memory * 2**20
    return Plan(
        settings.batch_size, settings.steps_per_block, data.order, settings.seed, size, training=True,
        passes=settings.passes,
    )  # fmt: skip


def make_train_block(
    model: Model, optimizer: Optimizer, clip_norm: float | None, average: float = 0.0
) -> jax.stages.Wrapped:
    """``train_block(state, constants, block) -> (state, stats)``, compiled; the state's buffers are reused.

    The derivative stops at the step, as published: the carry enters each step as a constant.

    Args:
        average: decay per step of the moving average, where the state keeps one. It is less in the first steps,
            (1 + s) / (10 + s) after s of them, so that where training began is soon forgotten.
    """

    def train_block(state: TrainState, constants: Any, block: Any) -> tuple[TrainState, BlockStats]:
        size = block.weight.shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.wrap_key_data(state.key), state.step + jnp.arange(size)
        )
        streams = jax.vmap(lambda key: jax.random.split(key))(keys)
        steps = model.steps(constants, block, streams[:, 0])
        marks = {name: scratch(spec) for name, spec in model.tables.items() if not spec.dense}

        def one(loop: tuple[TrainState, dict[str, Array]], at: Any) -> tuple[Any, Array]:
            state, marks = loop
            turn, step, live, key = at
            state, marks, loss = _step(model, optimizer, clip_norm, state, constants, marks, turn, step, live, key)
            if state.average is not None:
                state = _averaged(state, average, live)
            return (state, marks), loss

        live = jnp.any(block.weight > 0, axis=1)
        turns = jnp.arange(size, dtype=jnp.int32)
        (state, _), losses = jax.lax.scan(one, (state, marks), (turns, steps, live, streams[:, 1]))
        return state, BlockStats(losses, jnp.sum(block.weight > 0), jnp.sum(live))

    return jax.jit(train_block, donate_argnums=0)


def _step(
    model: Model,
    optimizer: Optimizer,
    clip_norm: float | None,
    state: TrainState,
    constants: Any,
    marks: dict[str, Array],
    turn: Array,
    step: Any,
    live: Array,
    key: Array,
) -> tuple[TrainState, dict[str, Array], Array]:
    """One step: plan and gather rows, differentiate, update, scatter. A step without a live lane changes nothing.

    Dense tables take the same way as dense parameters, with the tables' optimizer.
    """
    marks, plans = dict(marks), dict[str, RowPlan]()
    for name, reads in model.reads(step).items():
        marks[name], plans[name] = plan_rows(marks[name], reads, turn)
    rows = {name: gather(state.tables[name], plan.ids) for name, plan in plans.items()}
    rows |= {name: table for name, table in state.tables.items() if name not in plans}

    derivative = jax.grad(model.loss, argnums=(0, 1), has_aux=True)
    (slope, row_slope), (carry, loss) = derivative(state.params, rows, plans, state.carry, step, key, constants)
    if clip_norm is not None:
        squares = jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves((slope, row_slope))]))
        slope, row_slope = jax.tree.map(lambda leaf: leaf * clip_scale(squares, clip_norm), (slope, row_slope))

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, old)

    def update_dense(by: optax.GradientTransformation, old: Any, gradient: Any, optimizer_state: Any) -> Any:
        change, new = by.update(gradient, optimizer_state, old)
        return keep(optax.apply_updates(old, change), old), keep(new, optimizer_state)

    params, params_optimizer = update_dense(optimizer.dense, state.params, slope, state.optimizer)
    tables, table_optimizer = dict(state.tables), dict(state.table_optimizer)
    for name, table in state.tables.items():
        if name in plans:
            tables[name], table_optimizer[name] = update_rows(
                optimizer.tables, live, table, table_optimizer[name], plans[name], rows[name], row_slope[name]
            )
        else:
            tables[name], table_optimizer[name] = update_dense(
                optimizer.tables, table, row_slope[name], table_optimizer[name]
            )

    new = state._replace(
        step=state.step + live,
        params=params,
        tables=tables,
        optimizer=params_optimizer,
        table_optimizer=table_optimizer,
        carry=keep(carry, state.carry),
    )
    return new, marks, loss


def _averaged(state: TrainState, decay: float, live: Array) -> TrainState:
    """The state with its average moved on by one step."""
    taken = state.step.astype(jnp.float32)
    share = jnp.where(live, 1.0 - jnp.minimum(decay, (1.0 + taken) / (10.0 + taken)), 0.0)
    new = {"params": state.params, "tables": state.tables}
    return state._replace(average=jax.tree.map(lambda old, now: old + share * (now - old), state.average, new))
