"""What a new run takes over from a trained one (``--start-from``): parameters, statistics, the rows of tables whose ids
that one was trained on (``tasks.moves``), and what the optimizer keeps of both, where it is the same optimizer. What
follows from data, such as counts, follows from the new data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.cli.command import say
from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.ops import hosts
from jaxrec.ops.rows import deal, gathered_array, shards_of
from jaxrec.run import open_run
from jaxrec.tasks.base import Loaded, load, part_of
from jaxrec.tasks.moves import OLD_ROWS, Moves, moved_table, old_rows
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule
from jaxrec.training.state import TrainState, init_state, rows_of

Moving = Callable[[Loaded, Config, Any], dict[str, Moves]]
"""A task's ``moved_rows``: of the other run, the configuration and its data set, the moves of each table."""
Unfit = Callable[[str, Any, Any], UserError]
"""The refusal of something that is one thing there and another here."""
UNSHAPING = ("table", "init_std", "stride")  # fields of a model that change nothing of what its weights mean


class Source(NamedTuple):
    """A trained run, and where the rows of the new run's tables come from."""

    loaded: Loaded
    moves: dict[str, Moves]

    def summary(self) -> str:
        """How many ids of the largest table move, how many are new, and how many are gone."""
        largest = max(self.moves.values(), key=lambda moves: len(moves.rows), default=None)
        if largest is None:
            return "no tables"
        known, new = largest.known, int((largest.rows < 0).sum())
        return f"{known:,} ids known, {new:,} new, {largest.trained - known:,} gone"

    @property
    def old_rows(self) -> dict[str, np.ndarray]:
        """Of each table bool[V], which rows move."""
        return {name: moves.rows >= 0 for name, moves in sorted(self.moves.items())}

    @property
    def kept(self) -> dict[str, np.ndarray]:
        """What the new run keeps of it."""
        return {OLD_ROWS: np.concatenate([np.zeros(0, bool), *self.old_rows.values()])}


def open_source(path: str | Path, run: Path, config: Config, dataset: Any) -> Source:
    """The run at ``path``, to start one of ``config`` on a data set from, at another place ``run``."""
    if Path(path).resolve() == run.resolve():
        raise UserError(f"--start-from {path}: is the run to be trained; choose another --run")
    theirs, model = open_run(path).config.model, config.model.name
    if not theirs.trained:
        raise UserError(f"--start-from {path}: a {theirs.name} of runs, which is not trained; go on from its parts, "
                        "then make it again of them")  # fmt: skip
    if theirs.name != model:
        raise UserError(f"--start-from {path}: a run of {theirs.name}, and model.name is {model}; name a run of "
                        f"{model}")  # fmt: skip
    moving: Moving | None = getattr(part_of(config, "task"), "moved_rows", None)
    if moving is None:
        raise UserError(f"--start-from: the task of {model} has no function moved_rows, which says where the rows of "
                        "tables come from; write one, or leave --start-from out")  # fmt: skip
    loaded = load(path, whole=True)
    source = Source(loaded, moving(loaded, config, dataset))
    if source.moves and not any(moves.known for moves in source.moves.values()):
        raise UserError(f"--start-from {path}: knows none of the ids of {dataset.path}; name a run of such data")
    return source


def rows_before(
    path: Path, resume: bool, begun: bool, source: Source | None, model: Any
) -> dict[str, np.ndarray] | None:
    """Of each table bool[V], which rows are not new to the run at ``path``: as the source says, or the run that goes
    on, ``begun`` where it has saved anything; None where there is no other run that it began with."""
    rows = None if source is None else source.old_rows
    if not resume or not (path / "config.yaml").exists():
        return rows
    before = old_rows(open_run(path), model.tables)
    if begun:
        return before
    same = before is rows
    if before is not None and rows is not None:
        same = before.keys() == rows.keys() and all(np.array_equal(before[name], rows[name]) for name in rows)
    if not same:
        kind = "without another run" if before is None else "with the weights of another run"
        raise UserError(f"{path}: was to begin {kind}, and has saved nothing yet; give the same --start-from, or "
                        "--overwrite in the place of --resume")  # fmt: skip
    return rows


def note_start(config: Config, source: Source | None, old_rows: dict[str, np.ndarray] | None) -> None:
    """Say what of a configuration does nothing without a source, or differs from the source's."""
    if old_rows is None and config.start != type(config.start)():
        say("note", "start: its fields are of runs that --start-from begins, and change nothing in this one")
    if source is not None and (changed := _changed("model", config, source.loaded.run.config)):
        say("note", f"--start-from {source.loaded.run.path}: {changed}; its weights are of the former")


def taken_over(state: TrainState, source: Source, config: Config) -> TrainState:
    """The state before the first step with all that the source has of it."""
    loaded, weights = source.loaded, source.loaded.weights
    unfit = partial(_unfit, config, loaded)
    if state.tables.keys() != weights["tables"].keys():
        raise unfit("tables", sorted(weights["tables"]), sorted(state.tables))
    tables = {name: _taken_table(unfit, name, table, weights["tables"][name], source.moves[name], config.start.new_rows)
              for name, table in state.tables.items()}  # fmt: skip
    state = state._replace(params=_same(unfit, "parameters", state.params, weights["params"]), tables=tables)
    if "statistics" in weights:
        statistics = _same(unfit, "statistics", state.carry["statistics"], weights["statistics"])
        state = state._replace(carry=state.carry | {"statistics": statistics})
    if _optimizer(config) == _optimizer(loaded.run.config) and (former := _former(loaded)) is not None:

        def taken(name: str, new: Any, old: Any) -> Any:
            by_row = np.ndim(new) > 0 and len(new) == len(tables[name])
            moves = source.moves[name]
            return _taken_table(unfit, name, new, old, moves) if by_row else _same(unfit, "state", new, old)

        by_table = {name: _but_schedules(partial(taken, name), part, former.table_optimizer[name])
                    for name, part in state.table_optimizer.items()}  # fmt: skip
        dense = _but_schedules(partial(_same, unfit, "state"), state.optimizer, former.optimizer)
        state = state._replace(optimizer=dense, table_optimizer=by_table)
    if state.average is not None:
        state = state._replace(average=jax.tree.map(jnp.copy, {"params": state.params, "tables": tables}))
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
    return Checkpoints(loaded.run.path, rows_of(loaded.model)).last_state(like)


def _same(unfit: Unfit, what: str, new: Any, old: Any) -> Any:
    """The old tree, of the shapes that the new one has."""
    shapes = [{jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
              for tree in (new, old)]  # fmt: skip
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        ours, theirs = (shape.get(name, ("none",)) for shape in shapes)
        if ours != theirs:
            raise unfit(f"the {what} {name}", list(theirs), list(ours))
    return jax.tree.map(lambda like, leaf: hosts.put(leaf, like.sharding), new, old)


def _taken_table(unfit: Unfit, name: str, new: Any, old: Any, moves: Moves, how: str = "random") -> Any:
    """A table, or what the optimizer keeps of it, with the old rows of ids that move; see ``moved_table``."""
    if new.shape[1:] != old.shape[1:]:
        raise unfit(f"rows of the table {name}", list(old.shape[1:]), list(new.shape[1:]))
    shards = shards_of(new)
    fresh = gathered_array(np.asarray(new), len(moves.rows), shards) if shards > 1 else np.asarray(new)
    moved = moved_table(how, moves, np.asarray(old), fresh)
    return deal(moved, new.sharding.mesh).array if shards > 1 else hosts.put(moved, new.sharding)


def _unfit(config: Config, loaded: Loaded, what: str, theirs: Any, ours: Any) -> UserError:
    """The refusal of arrays that do not fit: by the fields of the configurations that differ, if there are any."""
    former = loaded.run.config
    changed = _changed("model", config, former) or _changed("loss", config, former)
    changed = changed or f"{what}: found {theirs} there and {ours} here"
    return UserError(f"--start-from {loaded.run.path}: {changed}; set what differs as it is there")


def _changed(section: str, ours: Config, theirs: Config) -> str:
    """The fields of a section that give weights another shape or meaning, with both values; empty where none does."""
    former, now = (getattr(config, section).model_dump(mode="json") for config in (theirs, ours))
    names = [name for name in now if name not in UNSHAPING and not name.startswith("dropout")]
    return ", ".join(f"{section}.{name} is {former.get(name)} there and {now[name]} here" for name in names
                     if former.get(name) != now[name])  # fmt: skip
