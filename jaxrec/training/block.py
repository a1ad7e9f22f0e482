"""The compiled heart of training: a block of steps in one call, with the state donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxrec.config import Config
from jaxrec.config.sections import TrainingConfig
from jaxrec.feeds.base import Feed, Plan
from jaxrec.models.base import Model
from jaxrec.ops import parallel
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import RowPlan, Tables, gather, plan_reads, update_rows
from jaxrec.training.optimizers import Optimizer, make_optimizer, make_schedule


class TrainState(NamedTuple):
    """All that a step changes; a checkpoint holds it whole."""

    step: Array  # int32[], steps taken
    params: Any  # the model's dense parameters
    tables: dict[str, Array]  # the embedding tables by name
    optimizer: Any  # the optimizer's state for params
    table_optimizer: dict[str, Any]  # the optimizer's state for each table
    average: dict[str, Any] | None  # the moving average of {params, tables}; None where none is kept
    carry: Any  # what the model hands from step to step: a hidden state, or batch statistics
    key: Array  # the run's random key; step s uses fold_in(key, s)

    def weights(self) -> dict[str, Any]:
        """``{params, tables}`` to serve, averages where there are, and ``statistics`` of batch normalisation."""
        weights = {"params": self.params, "tables": self.tables} if self.average is None else self.average
        has = isinstance(self.carry, dict) and "statistics" in self.carry
        return weights | {"statistics": self.carry["statistics"]} if has else weights


class BlockStats(NamedTuple):
    loss: Array  # float32[S], sums of the lanes' losses
    pairs: Array  # int32[], pairs trained on
    steps: Array  # int32[], steps with a live lane


def init_state(model: Model, optimizer: Optimizer, settings: TrainingConfig) -> TrainState:
    """The state before the first step. Compiled, since a hundred small operations one by one take seconds."""

    @jax.jit
    def init() -> TrainState:
        params_key, tables_key, steps_key = jax.random.split(jax.random.key(settings.seed), 3)
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
            average=jax.tree.map(jnp.copy, {"params": params, "tables": tables}) if settings.average else None,
            carry=model.carry(settings.batch_size),
            key=jax.random.key_data(steps_key),
        )

    return init()


def weights_like(model: Model) -> dict[str, Any]:
    """Shapes of ``TrainState.weights``, from the model alone: to serve no optimizer is needed."""
    none = Optimizer(optax.identity(), optax.identity())
    return dict(jax.eval_shape(lambda: init_state(model, none, TrainingConfig(batch_size=1)).weights()))


def lay_out(state: TrainState, model: Model, whole: Callable[[Any], Any], dealt: Callable[[Any], Any]) -> TrainState:
    """The state with ``dealt`` of what goes by lane, and ``whole`` of the rest."""
    carry = (dealt if model.carries_lanes else whole)(state.carry)
    return whole(state._replace(carry=()))._replace(carry=carry)


def training_plan(config: Config, order: str = "random", passes: int = 1) -> Plan:
    settings = config.training
    return Plan(
        settings.batch_size, settings.steps_per_block, order, settings.seed, config.data.device_memory * 2**20,
        training=True, passes=passes, mesh=parallel.make_mesh(config.mesh.data, settings.batch_size),
    )  # fmt: skip


class Training:
    """A configuration's training of a model on a feed, ``block`` by block: what the loop, folds and benchmarks run."""

    def __init__(self, config: Config, model: Model, feed: Feed, platform: str | None = None) -> None:
        """``platform``: what the block is compiled for, where that is not what is here."""
        self.config, self.model, self.feed, settings = config, model, feed, config.training
        self.schedule = make_schedule(config.optimizer, settings.epochs * feed.shape.used)
        self.optimizer = make_optimizer(config.optimizer, self.schedule)
        platform, clip_norm = platform or parallel.platform_of(feed.mesh), config.optimizer.clip_norm
        on = Placement(feed.mesh, settings.precision == "bfloat16", platform)
        self.block = make_train_block(model, self.optimizer, clip_norm, settings.average, on, feed.shape.lanes)

    def begin(self) -> TrainState:
        """The state before the first step, on the devices that train it: lanes dealt, the rest on all. On one device it
        is there for good, as what is restored is: one program for both, and a resumed run finds it in the cache."""
        state, mesh = init_state(self.model, self.optimizer, self.config.training), self.feed.mesh
        return lay_out(state, self.model, partial(parallel.replicate, mesh=mesh), partial(parallel.deal, mesh=mesh))

    def state_like(self, device: jax.Device) -> TrainState:
        """Shapes and places of ``begin``'s arrays on the feed's mesh, or without one on a device; none is made."""
        mesh = self.feed.mesh
        state = jax.eval_shape(lambda: init_state(self.model, self.optimizer, self.config.training))
        whole = SingleDeviceSharding(device) if mesh is None else NamedSharding(mesh, PartitionSpec())
        dealt = whole if mesh is None else NamedSharding(mesh, PartitionSpec(parallel.AXIS))

        def placed(tree: Any, sharding: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf.update(sharding=sharding), tree)

        return lay_out(state, self.model, partial(placed, sharding=whole), partial(placed, sharding=dealt))

    def fit(self, constants: Any, feed: Feed | None = None) -> dict[str, Any]:
        """The weights after all epochs, without a run; ``feed`` may be another one with blocks of the same shapes."""
        feed, state = feed or self.feed, self.begin()
        constants = parallel.replicate(constants, feed.mesh)
        for epoch in range(self.config.training.epochs):
            for block in feed.epoch(epoch):
                state, stats = self.block(state, constants, block)
                parallel.take_turns(stats, feed.mesh)
        return state.weights()


def make_train_block(
    model: Model, optimizer: Optimizer, clip_norm: float | None, average: float = 0.0, on: Placement = ONE,
    lanes: int | None = None,
) -> jax.stages.Wrapped:  # fmt: skip
    """``train_block(state, constants, block) -> (state, stats)``, compiled, with the state's buffers reused.
    ``average``: decay a step of the moving average, at most (1 + s) / (10 + s); ``lanes``: what a loss is averaged
    over."""

    def train_block(state: TrainState, constants: Any, block: Any) -> tuple[TrainState, BlockStats]:
        constants, block = on.whole(constants), on.dealt(block, 1)
        share = 1.0 if lanes is None else block.weight.shape[1] / lanes
        take_step = partial(_step, model, optimizer, clip_norm, share, constants, on)
        size = block.weight.shape[0]
        state = lay_out(state, model, on.whole, on.dealt)
        run_key, numbers = jax.random.wrap_key_data(state.key), state.step + jnp.arange(size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(run_key, numbers)
        streams = jax.vmap(lambda key: jax.random.split(key))(keys)
        steps = model.steps(constants, block, streams[:, 0], on)
        marks = {name: jnp.zeros(spec.rows, jnp.int32) for name, spec in model.tables.items() if not spec.dense}

        def one(loop: tuple[TrainState, dict[str, Array]], at: Any) -> tuple[Any, Array]:
            state, marks, loss = take_step(*loop, *at)
            if state.average is not None:
                taken = state.step.astype(jnp.float32)
                share = jnp.where(at[2], 1.0 - jnp.minimum(average, (1.0 + taken) / (10.0 + taken)), 0.0)
                new = {"params": state.params, "tables": state.tables}
                moved = jax.tree.map(lambda old, now: old + share * (now - old), state.average, new)
                state = state._replace(average=moved)
            return (lay_out(state, model, on.whole, on.dealt), marks), loss

        live = jnp.any(block.weight > 0, axis=1)
        turns = jnp.arange(size, dtype=jnp.int32)
        (state, _), losses = jax.lax.scan(one, (state, marks), (turns, steps, live, streams[:, 1]))
        return state, BlockStats(losses, jnp.sum(block.weight > 0), jnp.sum(live))

    return jax.jit(train_block, donate_argnums=0)


def _step(
    model: Model, optimizer: Optimizer, clip_norm: float | None, share: float, constants: Any, on: Placement,
    state: TrainState, marks: dict[str, Array], turn: Array, step: Any, live: Array, key: Array,
) -> tuple[TrainState, dict[str, Array], Array]:  # fmt: skip
    """One step: plan and gather rows, differentiate, update, scatter; without a live lane nothing changes. Dense tables
    take the same way as dense parameters, with the tables' optimizer; ``share`` multiplies the loss."""
    marks, plans = dict(marks), dict[str, RowPlan]()
    reads = model.reads(step)
    for name in (name for name in reads if name in marks):
        # Devices exchange the ids here, and below the derivatives of the rows: never a table.
        marks[name], plans[name] = plan_reads(marks[name], reads[name], turn, model.tables[name].width, on)
    rows = {name: on.whole(gather(state.tables[name], plan.ids)) for name, plan in plans.items()}
    rows |= {name: table for name, table in state.tables.items() if name not in plans}

    def objective(params: Any, rows: dict[str, Array]) -> tuple[Array, tuple[Any, Array]]:
        loss, rest = model.loss(params, Tables(rows, reads, plans, on), state.carry, step, key, constants)
        return (loss if share == 1.0 else share * loss), rest

    slopes, (carry, loss) = jax.grad(objective, argnums=(0, 1), has_aux=True)(state.params, rows)
    slope, row_slope = on.whole(slopes)
    if clip_norm is not None:
        squares = jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves((slope, row_slope))]))
        factor = jnp.minimum(1.0, clip_norm * jax.lax.rsqrt(jnp.maximum(squares, 1e-30)))
        slope, row_slope = jax.tree.map(lambda leaf: leaf * factor, (slope, row_slope))

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, old)

    def update_dense(how: optax.GradientTransformation, old: Any, gradient: Any, optimizer_state: Any) -> Any:
        change, new = how.update(gradient, optimizer_state, old)
        return keep(optax.apply_updates(old, change), old), keep(new, optimizer_state)

    params, params_optimizer = update_dense(optimizer.dense, state.params, slope, state.optimizer)
    tables, table_optimizer = dict(state.tables), dict(state.table_optimizer)
    for name, table in state.tables.items():
        old = table_optimizer[name]
        if name in plans:
            updated = update_rows(optimizer.tables, live, table, old, plans[name], rows[name], row_slope[name])
        else:
            updated = update_dense(optimizer.tables, table, row_slope[name], old)
        tables[name], table_optimizer[name] = updated
    new = state._replace(step=state.step + live, params=params, tables=tables, optimizer=params_optimizer,
                         table_optimizer=table_optimizer, carry=keep(carry, state.carry))  # fmt: skip
    return new, marks, loss
