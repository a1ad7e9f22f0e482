"""What a run changes from step to step, where it lies, and how it begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec.config.sections import TrainingConfig
from jaxrec.models.base import Model
from jaxrec.ops import parallel
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.rows import DealtRows
from jaxrec.ops.shards import deal_rows
from jaxrec.training.optimizers import Optimizer

ROWS = Layout(major_to_minor=(0, 1))  # a table's rows one behind the other, each in one piece


class TrainState(NamedTuple):
    """All that a step changes; a checkpoint holds it whole."""

    step: Array  # int32[], steps taken
    params: Any  # the model's dense parameters
    tables: dict[str, Array]  # the embedding tables by name
    optimizer: Any  # the optimizer's state for params
    table_optimizer: dict[str, Any]  # the optimizer's state for each table
    average: dict[str, Any] | None  # the average of {params, tables} over time; None where none is kept
    carry: Any  # what the model hands from step to step: a hidden state, or batch statistics
    key: Array  # the run's random key; step s uses fold_in(key, s)

    def weights(self) -> dict[str, Any]:
        """``{params, tables}`` to serve, averages where there are, and ``statistics`` of batch normalisation."""
        weights = {"params": self.params, "tables": self.tables} if self.average is None else self.average
        has = isinstance(self.carry, dict) and "statistics" in self.carry
        return weights | {"statistics": self.carry["statistics"]} if has else weights


def init_state(
    model: Model, optimizer: Optimizer, settings: TrainingConfig, formats: TrainState | None = None, on: Placement = ONE
) -> TrainState:
    """The state before the first step, in ``formats`` of its leaves, with tables dealt. Compiled, since a hundred small
    operations one by one take seconds."""

    def deal(table: Array) -> Array:
        return deal_rows(table, on) if on.deals(len(table)) else table

    def init() -> TrainState:
        params_key, tables_key, steps_key = jax.random.split(jax.random.key(settings.seed), 3)
        params = model.init(params_key)
        tables = {
            name: deal(spec.init(jax.random.fold_in(tables_key, i), (spec.rows, spec.width)))
            for i, (name, spec) in enumerate(sorted(model.tables.items()))
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            tables=tables,
            optimizer=optimizer.dense.init(params),
            table_optimizer={name: optimizer.tables.init(table) for name, table in tables.items()},
            average=jax.tree.map(jnp.copy, {"params": params, "tables": tables}) if averages(settings) else None,
            carry=model.carry(settings.batch_size),
            key=jax.random.key_data(steps_key),
        )

    made: TrainState = jax.jit(init, out_shardings=formats)() if formats else jax.jit(init)()
    return made


def averages(settings: TrainingConfig) -> bool:
    """Whether an average of the weights is kept beside them."""
    return settings.average > 0 or settings.average_epochs > 0


def weights_like(model: Model, mesh: Mesh | None = None) -> dict[str, Any]:
    """Shapes of ``TrainState.weights``, from the model alone: to serve no optimizer is needed. With a ``mesh`` also
    their places on it, where rows of tables are dealt."""
    none, on = Optimizer(optax.identity(), optax.identity()), Placement(mesh)
    like = dict(jax.eval_shape(lambda: init_state(model, none, TrainingConfig(batch_size=1), on=on).weights()))
    if mesh is None:
        return like
    whole = NamedSharding(mesh, PartitionSpec())

    def at(place: Any, leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    tables = {name: at(parallel.place_of_rows(model.tables[name].rows, mesh) or whole, leaf)
              for name, leaf in like["tables"].items()}  # fmt: skip
    return jax.tree.map(partial(at, whole), like) | {"tables": tables}


def rows_of(model: Model) -> dict[str, int]:
    """How many rows each table has."""
    return {name: spec.rows for name, spec in model.tables.items()}


def as_dealt(model: Model, weights: dict[str, Any], mesh: Mesh | None) -> dict[str, Any]:
    """Weights with tables by their rows, where those are dealt over the devices of a mesh."""
    if mesh is None:
        return weights
    on = Placement(mesh)
    tables = {name: DealtRows(table, rows, mesh) if on.deals(rows := model.tables[name].rows) else table
              for name, table in weights["tables"].items()}  # fmt: skip
    return weights | {"tables": tables}


def row_formats(
    model: Model, optimizer: Optimizer, place: jax.sharding.Sharding, on: Placement = ONE
) -> TrainState:  # fmt: skip
    """Of each leaf of the state ``ROWS`` at a place, for tables by rows and moments of their shape; None of all others.
    A TPU would lay them by columns, which pads less, and turn them about at both ends of every block."""
    like = jax.eval_shape(lambda: init_state(model, optimizer, TrainingConfig(batch_size=1), on=on))

    def of(name: str, tree: Any) -> Any:
        mine = None if model.tables[name].dense else like.tables[name].shape
        here = parallel.place_of_rows(like.tables[name].shape[0], on.mesh) or place
        return jax.tree.map(lambda leaf: Format(ROWS, here) if leaf.shape == mine else None, tree)

    tables, moments = ({name: of(name, part) for name, part in parts.items()}
                       for parts in (like.tables, like.table_optimizer))  # fmt: skip
    return jax.tree.map(lambda leaf: None, like)._replace(tables=tables, table_optimizer=moments)


def in_formats(state: TrainState, formats: TrainState, put: Callable[[Any, Format], Any]) -> TrainState:
    """The state with ``put`` of each leaf that has a format, and the format."""

    def one(how: Format | None, leaf: Any) -> Any:
        return leaf if how is None else put(leaf, how)

    return jax.tree.map(one, formats, state, is_leaf=lambda how: how is None or isinstance(how, Format))


def lay_out(
    state: TrainState, model: Model, whole: Callable[[Any], Any], dealt: Callable[[Any], Any],
    by_rows: Callable[[Any], Any],
) -> TrainState:  # fmt: skip
    """The state with ``dealt`` of what goes by lane, ``by_rows`` of tables and what is kept of their rows, and
    ``whole`` of the rest."""

    def of_tables(tree: dict[str, Any]) -> dict[str, Any]:
        def one(name: str, leaf: Any) -> Any:
            return (by_rows if leaf.ndim and len(leaf) == len(state.tables[name]) else whole)(leaf)

        return {name: jax.tree.map(partial(one, name), part) for name, part in tree.items()}

    carry = (dealt if model.carries_lanes else whole)(state.carry)
    rest = whole(state._replace(carry=(), tables={}, table_optimizer={}, average=None))
    average = state.average
    if average is not None:
        average = {"params": whole(average["params"]), "tables": of_tables(average["tables"])}
    tables, moments = of_tables(state.tables), of_tables(state.table_optimizer)
    state = rest._replace(carry=carry, tables=tables, table_optimizer=moments, average=average)
    return state


def regroup(state: TrainState, regrouped: Callable[[Any], Any]) -> TrainState:
    """The state with a function of whatever is a tree of all parameters: they, moments of them, their average."""
    like = jax.tree.structure(state.params)

    def through(tree: Any) -> Any:
        is_params = partial(_has_structure, like)
        return jax.tree.map(lambda part: regrouped(part) if is_params(part) else part, tree, is_leaf=is_params)

    average = None if state.average is None else state.average | {"params": regrouped(state.average["params"])}
    return state._replace(params=regrouped(state.params), optimizer=through(state.optimizer), average=average)


def _has_structure(structure: Any, tree: Any) -> bool:
    return bool(jax.tree.structure(tree) == structure)
