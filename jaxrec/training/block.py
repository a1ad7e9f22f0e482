"""The compiled heart of training: a block of steps in one call, with the state donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from jaxrec.config import Config
from jaxrec.feeds.base import Feed, Plan
from jaxrec.models.base import Model
from jaxrec.ops import parallel
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import RowPlan, Tables, gather, plan_reads, scratch, update_rows
from jaxrec.training.optimizers import Optimizer, clip_scale, make_optimizer, make_schedule


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


def weights_like(model: Model) -> dict[str, Any]:
    """Shapes of ``TrainState.weights``, from the model alone: to serve no optimizer is needed."""

    def weights() -> dict[str, Any]:
        key = jax.random.key(0)
        tables = {name: spec.init(key, (spec.rows, spec.width)) for name, spec in model.tables.items()}
        return TrainState(
            jnp.zeros((), jnp.int32), model.init(key), tables, (), {}, None, model.carry(1), key
        ).weights()  # fmt: skip

    shapes: dict[str, Any] = jax.eval_shape(weights)
    return shapes


def new_state(config: Config, model: Model, optimizer: Optimizer) -> TrainState:
    """``init_state`` of a configuration."""
    settings = config.training
    return init_state(model, optimizer, settings.seed, settings.batch_size, averaged=settings.average > 0)


def place_state(state: TrainState, model: Model, mesh: Mesh | None) -> TrainState:
    """The state on the devices that train it: lanes dealt, the rest on all.

    On one device it is there for good, as what is restored is: one program for both, and a resumed run finds it in the
    cache.
    """
    return lay_out(state, model, partial(parallel.replicate, mesh=mesh), partial(parallel.deal, mesh=mesh))


def lay_out(state: TrainState, model: Model, whole: Callable[[Any], Any], dealt: Callable[[Any], Any]) -> TrainState:
    """The state with ``dealt`` of what goes by lane, and ``whole`` of the rest."""
    carry = (dealt if model.carries_lanes else whole)(state.carry)
    return whole(state._replace(carry=()))._replace(carry=carry)


def training_plan(config: Config, order: str = "random", passes: int = 1) -> Plan:
    """How a configuration feeds its training split.

    Args:
        order: of the split, ``random`` or ``time``.
        passes: through the split, of an epoch.
    """
    settings = config.training
    return Plan(
        settings.batch_size, settings.steps_per_block, order, settings.seed, config.data.device_memory * 2**20,
        training=True, passes=passes, mesh=parallel.make_mesh(config.mesh.data, settings.batch_size),
    )  # fmt: skip


class Training:
    """A configuration's training of a model on a feed: what the loop, folds and benchmarks run.

    Attributes:
        schedule, optimizer: of the configuration.
        block: ``make_train_block`` for the feed's blocks.
    """

    def __init__(self, config: Config, model: Model, feed: Feed) -> None:
        self.config, self.model, self.feed, settings = config, model, feed, config.training
        self.schedule = make_schedule(config.optimizer, settings.epochs * feed.shape.used)
        self.optimizer = make_optimizer(config.optimizer, self.schedule)
        on, clip_norm = Placement(feed.mesh, settings.precision == "bfloat16"), config.optimizer.clip_norm
        self.block = make_train_block(model, self.optimizer, clip_norm, settings.average, on, feed.shape.lanes)

    def begin(self) -> TrainState:
        """The state before the first step, where it is trained."""
        return place_state(new_state(self.config, self.model, self.optimizer), self.model, self.feed.mesh)

    def fit(self, constants: Any, feed: Feed | None = None) -> dict[str, Any]:
        """The weights after all epochs, without a run: no checkpoints, no log.

        Args:
            constants: of the model.
            feed: another one, with blocks of the same shapes; None: that of the training.
        """
        feed, state = feed or self.feed, self.begin()
        constants = parallel.replicate(constants, feed.mesh)
        for epoch in range(self.config.training.epochs):
            for block in feed.epoch(epoch):
                state, stats = self.block(state, constants, block)
                parallel.take_turns(stats, feed.mesh)
        return state.weights()


class Trainable(Protocol):
    """What a task has that is trained."""

    @property
    def model(self) -> Model: ...

    @property
    def feed(self) -> Feed: ...

    @property
    def constants(self) -> Any: ...


def fit(task: Trainable, config: Config) -> dict[str, Any]:
    """The weights of a task, ``{params, tables}`` (and ``statistics``), trained as configured, without a run."""
    return Training(config, task.model, task.feed).fit(task.constants)


def make_train_block(
    model: Model,
    optimizer: Optimizer,
    clip_norm: float | None,
    average: float = 0.0,
    on: Placement = ONE,
    lanes: int | None = None,
) -> jax.stages.Wrapped:
    """``train_block(state, constants, block) -> (state, stats)``, compiled; the state's buffers are reused.

    The derivative stops at the step, as published: the carry enters each step as a constant.

    Args:
        average: decay per step of the moving average, where the state keeps one. It is less in the first steps,
            (1 + s) / (10 + s) after s of them, so that where training began is soon forgotten.
        on: the devices that share each step, on which state, constants and blocks lie; and what products multiply.
        lanes: number of lanes that a step's loss is averaged over; None: all of the block, where none is there for the
            devices alone.
    """

    def train_block(state: TrainState, constants: Any, block: Any) -> tuple[TrainState, BlockStats]:
        constants, block = on.whole(constants), on.dealt(block, 1)
        share = 1.0 if lanes is None else block.weight.shape[1] / lanes
        stepper = _Stepper(model, optimizer, clip_norm, share, constants, on)
        size = block.weight.shape[0]
        state = placed(state)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.wrap_key_data(state.key), state.step + jnp.arange(size)
        )
        streams = jax.vmap(lambda key: jax.random.split(key))(keys)
        steps = model.steps(constants, block, streams[:, 0], on)
        marks = {name: scratch(spec) for name, spec in model.tables.items() if not spec.dense}

        def one(loop: tuple[TrainState, dict[str, Array]], at: Any) -> tuple[Any, Array]:
            state, marks = loop
            turn, step, live, key = at
            state, marks, loss = _step(stepper, state, marks, turn, step, live, key)
            if state.average is not None:
                state = _averaged(state, average, live)
            return (placed(state), marks), loss

        live = jnp.any(block.weight > 0, axis=1)
        turns = jnp.arange(size, dtype=jnp.int32)
        (state, _), losses = jax.lax.scan(one, (state, marks), (turns, steps, live, streams[:, 1]))
        return state, BlockStats(losses, jnp.sum(block.weight > 0), jnp.sum(live))

    def placed(state: TrainState) -> TrainState:
        return lay_out(state, model, on.whole, on.dealt)

    return jax.jit(train_block, donate_argnums=0)


class _Stepper(NamedTuple):
    """What all steps of a block share; ``share`` is what a step's loss is multiplied by."""

    model: Model
    optimizer: Optimizer
    clip_norm: float | None
    share: float
    constants: Any
    on: Placement


def _step(
    by: _Stepper, state: TrainState, marks: dict[str, Array], turn: Array, step: Any, live: Array, key: Array
) -> tuple[TrainState, dict[str, Array], Array]:
    """One step: plan and gather rows, differentiate, update, scatter. A step without a live lane changes nothing.

    Dense tables take the same way as dense parameters, with the tables' optimizer.
    """
    marks, plans, on = dict(marks), dict[str, RowPlan](), by.on
    reads = by.model.reads(step)
    for name in (name for name in reads if name in marks):
        # Devices exchange the ids here, and below the derivatives of the rows: never a table.
        marks[name], plans[name] = plan_reads(marks[name], reads[name], turn, by.model.tables[name].width, on)
    rows = {name: on.whole(gather(state.tables[name], plan.ids)) for name, plan in plans.items()}
    rows |= {name: table for name, table in state.tables.items() if name not in plans}

    def objective(params: Any, rows: dict[str, Array]) -> tuple[Array, tuple[Any, Array]]:
        tables = Tables(rows, reads, plans, on)
        loss, rest = by.model.loss(params, tables, state.carry, step, key, by.constants)
        return (loss if by.share == 1.0 else by.share * loss), rest

    slopes, (carry, loss) = jax.grad(objective, argnums=(0, 1), has_aux=True)(state.params, rows)
    slope, row_slope = on.whole(slopes)
    if by.clip_norm is not None:
        squares = jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves((slope, row_slope))]))
        factor = clip_scale(squares, by.clip_norm)
        slope, row_slope = jax.tree.map(lambda leaf: leaf * factor, (slope, row_slope))

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, old)

    def update_dense(how: optax.GradientTransformation, old: Any, gradient: Any, optimizer_state: Any) -> Any:
        change, new = how.update(gradient, optimizer_state, old)
        return keep(optax.apply_updates(old, change), old), keep(new, optimizer_state)

    params, params_optimizer = update_dense(by.optimizer.dense, state.params, slope, state.optimizer)
    tables, table_optimizer = dict(state.tables), dict(state.table_optimizer)
    for name, table in state.tables.items():
        how, old = by.optimizer.tables, table_optimizer[name]
        if name in plans:
            updated = update_rows(how, live, table, old, plans[name], rows[name], row_slope[name])
        else:
            updated = update_dense(how, table, row_slope[name], old)
        tables[name], table_optimizer[name] = updated

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
