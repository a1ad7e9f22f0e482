"""The compiled heart of training: a block of steps in one call, with the state donated."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.experimental.layout import Format
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed, Plan
from jaxrec.models.base import Model
from jaxrec.ops import parallel
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.rows import DealtRows, deal, rows_each
from jaxrec.ops.tables import RowPlan, Tables, gather, plan_block, plan_reads, read_columns, update_rows
from jaxrec.training.optimizers import Optimizer, make_optimizer, make_schedule
from jaxrec.training.state import (
    ROWS,
    TrainState,
    as_dealt,
    in_formats,
    init_state,
    lay_out,
    regroup,
    row_formats,
)


class BlockStats(NamedTuple):
    loss: Array  # float32[S], sums of the lanes' losses
    pairs: Array  # int32[], pairs trained on
    steps: Array  # int32[], steps with a live lane


def training_plan(config: Config, order: str = "random", passes: int = 1) -> Plan:
    settings = config.training
    return Plan(
        settings.batch_size, settings.steps_per_block, order, settings.seed, config.data.device_memory * 2**20,
        training=True, passes=passes,
        mesh=parallel.make_mesh(config.mesh.data, settings.batch_size, config.mesh.model),
    )  # fmt: skip


class Warming(NamedTuple):
    """The constants of a run that goes on from another one, where what that one trained warms up."""

    constants: Any  # the task's
    steps: Array  # int32[], over which updates come to be made in full
    old_rows: dict[str, Array]  # bool[V] of each table, which rows the other run trained

    def share(self, step: Array) -> Array:
        """float32[]: of an update of what is old that a step makes."""
        return jnp.minimum(1.0, step / self.steps)

    def shares(self, table: str, step: Array, ids: Array | None = None) -> Array:
        """float32[n, 1]: likewise of the rows of a table, all or int32[n] ids; those beyond it are of no row."""
        old = self.old_rows[table]
        old = old if ids is None else old.at[ids].get(mode="fill", fill_value=False)
        return jnp.where(old, self.share(step), 1.0)[:, None]


class Training:
    """A configuration's training of a model on a feed, ``block`` by block: what the loop, folds and benchmarks run."""

    def __init__(
        self, config: Config, model: Model, feed: Feed, device: jax.Device | None = None,
        old_rows: dict[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        """``device``: what the block is compiled for, where that is none of this machine; of a mesh, its first.
        ``old_rows``: of each table bool[V], which rows another run trained, where the run began with any."""
        self.config, self.model, self.feed, settings = config, model, feed, config.training
        self._old_rows = old_rows if config.start.warmup_steps else None
        self.schedule = make_schedule(config.optimizer, settings.epochs * feed.shape.used)
        self.optimizer = make_optimizer(config.optimizer, self.schedule)
        self._device = device or (jax.local_devices()[0] if feed.mesh is None else feed.mesh.devices.flat[0])
        self.on = on = Placement(feed.mesh, settings.precision == "bfloat16", parallel.platform_of(self._device))
        if on.shards > 1 and not any(on.deals(spec.rows) for spec in model.tables.values()):
            most = max((spec.rows for spec in model.tables.values()), default=0)
            raise UserError(f"mesh.model: found {on.shards}; no table has as many rows, the largest {most}; lower it")
        self._formats = row_formats(model, self.optimizer, self._whole, on) if on.platform == "tpu" else None
        self.block = make_train_block(model, self.optimizer, config.optimizer.clip_norm, settings.average, on,
                                      feed.shape.lanes, self._formats, settings.deterministic)  # fmt: skip

    @property
    def _whole(self) -> jax.sharding.Sharding:
        mesh = self.feed.mesh
        return SingleDeviceSharding(self._device) if mesh is None else NamedSharding(mesh, PartitionSpec())

    @property
    def _mesh(self) -> Mesh:
        assert self.feed.mesh is not None
        return self.feed.mesh

    def begin(self) -> TrainState:
        """The state before the first step, on the devices that train it: lanes dealt, the rest on all. On one device it
        is there for good, as what is restored is: one program for both, and a resumed run finds it in the cache."""
        mesh = self.feed.mesh
        whole, dealt = partial(parallel.replicate, mesh=mesh), partial(parallel.deal, mesh=mesh)

        def by_rows(leaf: Array) -> Array:
            return leaf if parallel.place_of_rows(len(leaf), mesh) else whole(leaf)  # they are made as they lie

        return self.placed(lay_out(self.make(), self.model, whole, dealt, by_rows))

    def make(self) -> TrainState:
        """``init_state``'s. On TPUs each device makes its own, tables by rows at once: they are not copied there. Where
        rows are dealt each device makes its own."""
        out = self._formats
        if self.on.shards > 1 or (out is not None and self.feed.mesh is not None):
            out = jax.tree.map(lambda like: like.format if self._formats else like.sharding, self.state_like())
        return init_state(self.model, self.optimizer, self.config.training, out, self.on)

    def placed(self, state: TrainState) -> TrainState:
        """The state in the layouts that ``block`` takes: what is restored from a checkpoint has the device's own."""
        return state if self._formats is None else in_formats(state, self._formats, jax.device_put)

    def state_like(self) -> TrainState:
        """Shapes and places of ``begin``'s arrays; none is made."""
        mesh = self.feed.mesh
        state = jax.eval_shape(lambda: init_state(self.model, self.optimizer, self.config.training, on=self.on))
        dealt = self._whole if mesh is None else NamedSharding(mesh, PartitionSpec(mesh.axis_names))

        def like(leaf: Any, place: Any) -> Any:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

        def by_rows(leaf: Any) -> Any:
            return like(leaf, parallel.place_of_rows(len(leaf), mesh) or self._whole)

        state = lay_out(state, self.model, partial(jax.tree.map, partial(like, place=self._whole)),
                        partial(jax.tree.map, partial(like, place=dealt)), by_rows)  # fmt: skip
        return state if self._formats is None else in_formats(state, self._formats, like)

    def constants(self, constants: Any) -> Any:
        """A task's constants where and as ``block`` takes them: on all devices, large matrices by rows on TPUs, since
        steps read rows of them; and which rows are old, where they warm up."""
        mesh = self.feed.mesh

        def whole(tree: Any) -> Any:
            there = parallel.replicate(tree, mesh)
            return jax.tree.map(lambda one: jax.device_put(one, self._format(one)) if self._lies(one) else one, there)

        def by_rows(leaf: Any) -> Any:
            return deal(np.asarray(leaf), self._mesh) if parallel.place_of_rows(len(leaf), mesh) else whole(leaf)

        constants = self.model.dealt(constants, whole, by_rows)
        if self._old_rows is None:
            return constants
        old = {name: getattr(by_rows(rows), "array", rows) if self.model.tables[name].dense else rows
               for name, rows in self._old_rows.items()}  # fmt: skip
        return Warming(constants, *whole((np.int32(self.config.start.warmup_steps), old)))

    def constants_like(self, constants: Any) -> Any:
        """Shapes and places of ``constants``'s arrays; none is made."""

        def like(leaf: Any) -> Any:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._format(leaf))

        def by_rows(leaf: Any) -> Any:
            if (place := parallel.place_of_rows(leaf.shape[0], self.feed.mesh)) is None:
                return like(leaf)
            shape = (self.on.shards * rows_each(leaf.shape[0], self.on.shards), *leaf.shape[1:])
            dealt: Any = jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=place)
            return DealtRows(dealt, leaf.shape[0], self._mesh)

        return self.model.dealt(constants, partial(jax.tree.map, like), by_rows)

    def _lies(self, leaf: Any) -> bool:
        """Whether a constant is laid by rows, where that is not what the device does by itself."""
        return self._formats is not None and leaf.ndim == 2 and leaf.shape[1] > 1 and leaf.size > 2**18

    def _format(self, leaf: Any) -> Any:
        return Format(ROWS, self._whole) if self._lies(leaf) else self._whole

    def served(self, state: TrainState) -> dict[str, Any]:
        """The weights to evaluate with: on one device, or dealt as they are."""
        if self.on.shards > 1:
            return as_dealt(self.model, state.weights(), self.feed.mesh)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), state.weights())

    def averaged(self, state: TrainState, ended: int, within: bool = False) -> TrainState:
        """The state after so many whole epochs, and ``within`` the next one, with the mean of the weights at the ends
        of the last ``average_epochs``, or, before the first of these ends, the weights as they are."""
        settings, raw = self.config.training, {"params": state.params, "tables": state.tables}
        if not settings.average_epochs:
            return state
        ends = ended - max(0, settings.epochs - settings.average_epochs)  # of those that count
        if ends < 1 or (ends == 1 and not within):
            return state._replace(average=jax.tree.map(jnp.copy, raw))
        return state if within else state._replace(average=_towards(state.average, raw, 1.0 / ends))

    def fit(self, constants: Any, feed: Feed | None = None) -> dict[str, Any]:
        """The weights after all epochs, without a run; ``feed`` may be another one with blocks of the same shapes."""
        feed, state = feed or self.feed, self.begin()
        constants = self.constants(constants)
        for epoch in range(self.config.training.epochs):
            for block in feed.epoch(epoch):
                state, stats = self.block(state, constants, block)
                parallel.take_turns(stats, feed.mesh)
            state = self.averaged(state, epoch + 1)
        return state.weights() if self.on.shards == 1 else self.served(state)


@partial(jax.jit, donate_argnums=0)
def _towards(average: Any, weights: Any, share: Array) -> Any:
    """The average, moved by a share of the way to the weights."""
    return jax.tree.map(lambda old, now: old + share * (now - old), average, weights)


def make_train_block(
    model: Model, optimizer: Optimizer, clip_norm: float | None, average: float = 0.0, on: Placement = ONE,
    lanes: int | None = None, formats: TrainState | None = None, deterministic: bool = False,
) -> jax.stages.Wrapped:  # fmt: skip
    """``train_block(state, constants, block) -> (state, stats)``, compiled, with the state's buffers reused.
    ``average``: decay a step of the moving average, at most (1 + s) / (10 + s), or 0: none moves; ``lanes``: what a
    loss is averaged over; ``formats`` of the state, None of what has the device's own. Constants may
    be a ``Warming``."""

    def train_block(state: TrainState, constants: Any, block: Any) -> tuple[TrainState, BlockStats]:
        warming = constants if isinstance(constants, Warming) else None
        constants = constants if warming is None else warming.constants
        constants, block = model.dealt(constants, on.whole, on.by_rows), on.dealt(block, 1)
        share = 1.0 if lanes is None else block.weight.shape[1] / lanes
        take_step = partial(_step, model, optimizer, clip_norm, share, constants, warming, on)
        size, begin = block.weight.shape[0], state.step
        kept = None if average else state.average  # of ends of epochs: no step's business
        state = state if average else state._replace(average=None)
        state = regroup(lay_out(state, model, on.whole, on.dealt, on.by_rows), partial(model.packed, on=on))
        run_key, turns = jax.random.wrap_key_data(state.key), jnp.arange(size, dtype=jnp.int32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(run_key, begin + turns)
        streams = jax.vmap(lambda key: jax.random.split(key))(keys)
        steps = model.steps(constants, block, streams[:, 0], on)
        by_rows = [name for name, spec in model.tables.items() if not spec.dense]
        if not on.sorts:
            marks, plans = {name: jnp.zeros(model.tables[name].rows, jnp.int32) for name in by_rows}, {}
        else:
            marks, plans = {}, _plans(model, steps, by_rows, on)
            steps = model.planned(steps, plans, on)

        def one(loop: tuple[TrainState, dict[str, Array]], at: Any) -> tuple[Any, Array]:
            state, marks, loss = take_step(*loop, *at)
            if average:
                taken = (begin + at[0] + 1).astype(jnp.float32)
                share = jnp.where(at[3], 1.0 - jnp.minimum(average, (1.0 + taken) / (10.0 + taken)), 0.0)
                new = {"params": state.params, "tables": state.tables}
                moved = jax.tree.map(lambda old, now: old + share * (now - old), state.average, new)
                state = state._replace(average=moved)
            return (lay_out(state, model, on.whole, on.dealt, on.by_rows), marks), loss

        live = jnp.any(block.weight > 0, axis=1)
        (state, _), losses = jax.lax.scan(one, (state, marks), (turns, steps, plans, live, streams[:, 1]))
        state = regroup(state, model.unpacked)._replace(step=begin + jnp.sum(live, dtype=jnp.int32))
        state = state if average else state._replace(average=kept)
        losses = losses.reshape(size, -1).sum(axis=1)
        return state, on.whole(BlockStats(losses, jnp.sum(block.weight > 0), jnp.sum(live)))

    places: dict[str, Any] = {} if formats is None else {"out_shardings": (formats, None)}
    options = {"xla_gpu_deterministic_ops": True} if deterministic and on.platform == "gpu" else None
    return jax.jit(train_block, donate_argnums=0, compiler_options=options, **places)


def _plans(model: Model, steps: Any, tables: list[str], on: Placement) -> dict[str, RowPlan]:
    """The plans of all steps of a block, [S, M], for the tables whose rows are read and updated alone."""

    def ids(step: Any) -> dict[str, list[Array]]:  # lists keep the order of the reads
        reads = model.reads(step)
        return {name: [read.ids for read in reads[name].values()] for name in tables if name in reads}

    return {name: plan_block(reads, model.tables[name].rows, on) for name, reads in jax.vmap(ids)(steps).items()}


def _step(
    model: Model, optimizer: Optimizer, clip_norm: float | None, share: float, constants: Any, warming: Warming | None,
    on: Placement, state: TrainState, marks: dict[str, Array], turn: Array, step: Any, plans: dict[str, RowPlan],
    live: Array, key: Array,
) -> tuple[TrainState, dict[str, Array], Array]:  # fmt: skip
    """One step: plan and gather rows, differentiate, update, scatter; without a live lane nothing changes. Dense tables
    take the same way as dense parameters, with the tables' optimizer; ``share`` multiplies the loss."""
    marks, reads = dict(marks), model.reads(step)
    plans = {name: plan._replace(columns=read_columns(reads[name], model.tables[name].width))
             for name, plan in plans.items()}  # fmt: skip
    for name in (name for name in reads if name in marks):
        # Devices exchange the ids here, and below the derivatives of the rows: never a table.
        marks[name], plans[name] = plan_reads(marks[name], reads[name], turn, model.tables[name].width, on)
    rows = {name: on.whole(gather(state.tables[name], plan, on)) for name, plan in plans.items()}
    rows |= {name: table for name, table in state.tables.items() if name not in plans}

    def objective(params: Any, rows: dict[str, Array]) -> tuple[Array, tuple[Any, Array]]:
        loss, rest = model.loss(params, Tables(rows, reads, plans, on), state.carry, step, key, constants)
        return (loss if share == 1.0 else share * loss), rest

    slopes, (carry, loss) = jax.grad(objective, argnums=(0, 1), has_aux=True)(state.params, rows)
    slope = on.whole(slopes[0])
    row_slope = {name: (on.whole if name in plans else on.by_rows)(part) for name, part in slopes[1].items()}
    if clip_norm is not None:
        squares = jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves((slope, row_slope))]))
        factor = jnp.minimum(1.0, clip_norm * jax.lax.rsqrt(jnp.maximum(squares, 1e-30)))
        slope, row_slope = jax.tree.map(lambda leaf: leaf * factor, (slope, row_slope))

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, old)

    def update_dense(
        how: optax.GradientTransformation, old: Any, gradient: Any, optimizer_state: Any, pace: Array | None
    ) -> Any:
        change, new = how.update(gradient, optimizer_state, old)
        change = change if pace is None else jax.tree.map(lambda leaf: pace * leaf, change)
        return keep(optax.apply_updates(old, change), old), keep(new, optimizer_state)

    pace = None if warming is None else warming.share(state.step + turn)
    params, params_optimizer = update_dense(optimizer.dense, state.params, slope, state.optimizer, pace)
    tables, table_optimizer = dict(state.tables), dict(state.table_optimizer)
    for name, table in state.tables.items():
        old, plan = table_optimizer[name], plans.get(name)
        if warming is not None:
            pace = warming.shares(name, state.step + turn, None if plan is None else plan.ids)
        if plan is not None:
            updated = update_rows(optimizer.tables, live, table, old, plan, rows[name], row_slope[name], on, pace)
        else:
            updated = update_dense(optimizer.tables, table, row_slope[name], old, pace)
        tables[name], table_optimizer[name] = updated
    new = state._replace(params=params, tables=tables, optimizer=params_optimizer,
                         table_optimizer=table_optimizer, carry=keep(carry, state.carry))  # fmt: skip
    return new, marks, loss
