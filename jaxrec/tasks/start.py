"""What a new run takes over from a trained one (``--start-from``): parameters, the rows of tables of the ids that both
know, and what the optimizer keeps of both, where it is the same optimizer. Whatever is new begins as in any run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.tasks.base import Loaded, load, part_of
from jaxrec.training.block import TrainState, init_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule


class Source(NamedTuple):
    """A trained run, and where each row of the new run's tables stands in its own: int64[rows], -1 for new ones."""

    loaded: Loaded
    rows: dict[str, np.ndarray]

    def known(self) -> tuple[int, int, int]:
        """How many ids of the largest table both know, how many are new, and how many are gone."""
        name = max(self.rows, key=lambda name: len(self.rows[name]))
        known = int((self.rows[name] >= 0).sum())
        return known, len(self.rows[name]) - known, self.loaded.model.tables[name].rows - known


def open_source(path: str | Path, run: Path, config: Config, dataset: Any) -> Source:
    """The run at ``path``, to start one of ``config`` on a data set from, at another place ``run``; its task's
    ``moved_rows`` says where rows of its tables stand."""
    moved: Callable[[Loaded, Any], dict[str, np.ndarray]] | None = getattr(part_of(config, "task"), "moved_rows", None)
    if moved is None:
        raise UserError(f"--start-from: found a configuration of {config.model.name}; models of sessions, as gru4rec "
                        "and narm, start from other runs; leave it out")  # fmt: skip
    if Path(path).resolve() == run.resolve():
        raise UserError(f"--start-from {path}: is the run to be trained; choose another --run")
    loaded = load(path)
    ours, theirs = config.model.name, loaded.run.config.model.name
    if ours != theirs:
        raise UserError(f"--start-from {path}: a run of {theirs}, and model.name is {ours}; name a run of {ours}")
    source = Source(loaded, moved(loaded, dataset))
    if not source.known()[0]:
        raise UserError(f"--start-from {path}: knows none of the ids of {dataset.path}; name a run of such data")
    return source


def taken_over(state: TrainState, source: Source, config: Config) -> TrainState:
    """The state before the first step with all that the source has of it."""
    loaded, rows = source.loaded, source.rows
    where = f"--start-from {loaded.run.path}"
    params = _same(where, "parameters", state.params, loaded.weights["params"])
    tables = {name: _moved(where, name, table, loaded.weights["tables"][name], rows[name])
              for name, table in state.tables.items()}  # fmt: skip
    state = state._replace(params=params, tables=tables)
    if _optimizer(config) == _optimizer(loaded.run.config) and (former := _former(loaded)) is not None:

        def kept(name: str, new: Any, old: Any) -> Any:
            by_row = np.ndim(new) > 0 and len(new) == len(tables[name])
            return _moved(where, name, new, old, rows[name]) if by_row else _same(where, "optimizer", new, old)

        by_table = {name: _but_schedules(partial(kept, name), part, former.table_optimizer[name])
                    for name, part in state.table_optimizer.items()}  # fmt: skip
        dense = _but_schedules(partial(_same, where, "optimizer"), state.optimizer, former.optimizer)
        state = state._replace(optimizer=dense, table_optimizer=by_table)
    if state.average is not None:
        state = state._replace(average=jax.tree.map(jnp.copy, {"params": params, "tables": tables}))
    return state


def _but_schedules(taken: Callable[[Any, Any], Any], new: Any, old: Any) -> Any:
    """An optimizer's state with ``taken`` of its leaves, but the schedules, which begin anew."""

    def one(ours: Any, theirs: Any) -> Any:
        return ours if isinstance(ours, optax.ScaleByScheduleState) else taken(ours, theirs)

    return jax.tree.map(one, new, old, is_leaf=lambda part: isinstance(part, optax.ScaleByScheduleState))


def _optimizer(config: Config) -> dict[str, Any]:
    """What of an optimizer decides which state it keeps."""
    values: dict[str, Any] = config.optimizer.model_dump()
    planned = values["schedule"] != "constant" or values["warmup_steps"] > 0
    return {"name": values["name"], "tables": values["tables"], "planned": planned,
            "momentum": bool(values.get("momentum")), "decay": bool(values.get("weight_decay"))}  # fmt: skip


def _former(loaded: Loaded) -> TrainState | None:
    """The last state of a trained run, on one device; None where it keeps none."""
    config = loaded.run.config
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 1))
    like = jax.eval_shape(lambda: init_state(loaded.model, optimizer, config.training))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
    return Checkpoints(loaded.run.path).last_state(like)


def _same(where: str, what: str, new: Any, old: Any) -> Any:
    """The old tree, of the shapes that the new one has."""
    shapes = [{jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
              for tree in (new, old)]  # fmt: skip
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        ours, theirs = (shape.get(name, "none") for shape in shapes)
        if ours != theirs:
            raise UserError(f"{where}: {what}{name} are {list(theirs)} there and {list(ours)} here; keep the fields of "
                            "the model that the run has")  # fmt: skip
    return jax.tree.map(lambda like, leaf: jax.device_put(leaf, like.sharding), new, old)


def _moved(where: str, name: str, new: Any, old: Any, rows: np.ndarray) -> Any:
    """A table, or what the optimizer keeps of it, with the old rows of ids that both know."""
    if new.shape[1:] != old.shape[1:]:
        raise UserError(f"{where}: rows of the table {name} are {list(old.shape[1:])} wide there and "
                        f"{list(new.shape[1:])} here; keep the fields of the model that the run has")  # fmt: skip
    known = (rows >= 0).reshape(-1, *(1,) * (new.ndim - 1))
    both = np.where(known, np.asarray(old)[np.maximum(rows, 0)], np.asarray(new))
    return jax.device_put(both, new.sharding)
