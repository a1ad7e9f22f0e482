"""Orbax checkpoints of a run: the last two to resume from, and the best one to use; a step is renamed when it is
complete, so that a process killed within a save leaves the step before.

    state/latest/<step>/{model,training,position}      everything; the two most recent
    state/best/<step>/{model,position}                 parameters alone, of the best validation metric
"""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrec.cli.command import say
from jaxrec.errors import UserError
from jaxrec.ops import hosts
from jaxrec.ops.rows import deal, gathered_array, rows_each, shards_of
from jaxrec.training.state import TrainState

MODEL_PARTS = ("params", "tables")
LARGE = 2**26  # bytes of what is restored, from which on it pays to look for what can be freed
SHARDS = "shards"  # in ``position``: over how many devices tables were dealt; not there where they were not
PLAIN = re.compile(r"(?!/gs/|/s3/|/cns/|/bigstore/)[A-Za-z0-9_./=,+-]*")  # what no library takes for more than a path


class Checkpoints:
    """The checkpoints of one run directory. With the number of ``rows`` of each table what is dealt over devices can be
    read on any number of them: arrays are saved as they lie, and ``position`` says over how many they were."""

    def __init__(self, run: Path, rows: dict[str, int] | None = None) -> None:
        self._root = run.absolute() / "state"  # Orbax refuses relative paths
        self._rows = rows or {}

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        """Save everything; ``position`` is what the host knows, as JSON."""
        model, training = _parts(state)
        self._save("latest", 2, int(state.step), {"model": model, "training": training}, position)

    def save_best(self, state: TrainState, position: dict[str, Any]) -> None:
        """Save the parameters as the best so far. What was best before goes once they are complete."""
        self._save("best", 1, int(state.step), {"model": state.weights()}, position)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The most recent readable state, with arrays like those of ``like``, and its position; None where there is
        none yet. What is younger goes: it will be reached again, and saved again at the same step."""
        found = self._read(like)
        hosts.said(None)  # all have read what is to go
        for place in self._root.glob("*/[0-9]*") if hosts.first() else ():
            if place.name.isdigit() and int(place.name) > (found[0] if found else -1):
                shutil.rmtree(place)
        return None if found is None else found[1:]

    def last_state(self, like: TrainState) -> TrainState | None:
        """The same state alone, and everything stays where it is."""
        found = self._read(like)
        return None if found is None else found[1]

    def _read(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Step, state and position of the most recent readable checkpoint."""
        model, training = _parts(like)
        found = self._restore("latest", {"model": model, "training": training})
        if found is None:
            return None
        training = dict(found[1]["training"])
        weights = {name: found[1]["model"][name] for name in MODEL_PARTS}
        raw = training.pop("raw", None)  # where weights are averaged, those not averaged
        state = like._replace(**(raw or weights), **training, average=weights if raw else None)
        return found[0], state, found[1]["position"]

    def restore_model(self, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Weights alone, to use, with shapes as those of ``TrainState.weights``, and where these say, or on one device,
        whatever devices trained it; the position; and which of ``best``, if validation chose one and it is readable,
        and ``latest`` it was."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        model = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here),
            like,
        )
        unreadable = UserError(f"{self._root.parent}: no checkpoint here yet; train it with python -m jaxrec.train")
        for kind in ("best", "latest"):
            try:
                if found := self._restore(kind, {"model": model}):
                    return found[1]["model"], found[1]["position"], kind
            except UserError as error:
                unreadable = error
        raise unreadable

    def last(self, kind: str) -> int:
        """The step of the youngest checkpoint, ``best`` or ``latest``; -1 where there is none."""
        places = (self._root / kind).glob("[0-9]*")
        return max((int(place.name) for place in places if place.name.isdigit()), default=-1)

    def _save(self, kind: str, keep: int, step: int, trees: dict[str, Any], position: dict[str, Any]) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) + 2**20
        free = hosts.said(shutil.disk_usage(self._root.parent).free)[0]
        if free < needed:  # noticed before Orbax does: its threads fill the screen with tracebacks
            raise UserError(f"{self._root}: no disk space: a checkpoint takes {needed / 1e6:.1f} MB, "
                            f"{free / 1e6:.1f} MB are left; free some, then go on with --resume")  # fmt: skip
        (self._root / kind).mkdir(parents=True, exist_ok=True)
        parts = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        if (shards := max(map(shards_of, jax.tree.leaves(trees["model"]["tables"])), default=1)) > 1:
            position = position | {SHARDS: shards}
        with self._manager(kind, keep) as manager:
            manager.save(step, args=ocp.args.Composite(**parts, position=ocp.args.JsonSave(position)), force=True)

    def _restore(self, kind: str, like: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Step and parts of the youngest readable checkpoint."""
        if not (self._root / kind).is_dir():
            return None
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with self._manager(kind) as manager:
            steps = sorted(manager.all_steps(), reverse=True)
            for step in steps:
                try:
                    return step, self._restored(manager, step, like)
                except Exception as error:  # Orbax and TensorStore raise many kinds; whichever it is, it is unreadable
                    _await_stragglers(error)
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
                    say("warning", f"{self._root / kind / str(step)}: unreadable, skipped ({reason})")
        if steps:
            raise UserError(f"{self._root / kind}: no readable checkpoint; restore the files or train again")
        return None

    def _restored(self, manager: ocp.CheckpointManager, step: int, like: dict[str, Any]) -> dict[str, Any]:
        args, with_path = ocp.args.Composite(position=ocp.args.JsonRestore()), jax.tree_util.tree_map_with_path
        position = manager.restore(step, args=args)["position"]
        shards = position.pop(SHARDS, 1)
        saved = with_path(partial(self._as_saved, shards), like)
        parts = {name: ocp.args.StandardRestore(tree) for name, tree in saved.items()}
        restored = jax.block_until_ready(dict(manager.restore(step, args=ocp.args.Composite(**parts)).items()))
        if sum(leaf.nbytes for leaf in jax.tree.leaves(restored)) > LARGE:
            gc.collect()  # Orbax's tasks refer to each other, and with them to a second copy of all arrays
        wanted: dict[str, Any] = with_path(partial(self._as_wanted, shards), like, restored)
        return wanted | {"position": position}

    def _as_saved(self, shards: int, path: Any, like: Any) -> Any:
        """The shape of an array as it was saved; where that is not how it is wanted, it is read to the host."""
        if (rows := self._rows_of(path, like)) is None or shards_of(like) == (was := _over(shards, rows)):
            return like
        return np.broadcast_to(np.zeros((), like.dtype), (_length(rows, was), *like.shape[1:]))

    def _as_wanted(self, shards: int, path: Any, like: Any, restored: Any) -> Any:
        if (rows := self._rows_of(path, like)) is None or shards_of(like) == (was := _over(shards, rows)):
            return restored
        array, now = gathered_array(restored, rows, was), shards_of(like)
        return deal(array, like.sharding.mesh).array if now > 1 else hosts.put(array, like.sharding)

    def _rows_of(self, path: Any, like: Any) -> int | None:
        """How many rows the table has that an array is, or is kept of; None where it is something else."""
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        tables = [after for part, after in pairwise(names) if part in ("tables", "table_optimizer")]
        rows = self._rows.get(tables[0]) if tables else None
        return rows if rows is not None and like.shape[:1] == (_length(rows, shards_of(like)),) else None

    @contextmanager
    def _manager(self, kind: str, keep: int | None = None) -> Iterator[ocp.CheckpointManager]:
        """Orbax's manager: to save, where it is said how many to keep, or to read, which leaves everything alone. Where
        an array cannot be read or written, TensorStore's other threads complain of it later: they are kept quiet."""
        saves, hooks = keep is not None, (sys.unraisablehook, sys.excepthook)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=saves, cleanup_tmp_directories=saves, enable_async_checkpointing=False
        )
        sys.unraisablehook, sys.excepthook = (lambda *_: None,) * 2
        try:
            with (
                plain_name(self._root / kind) as place,
                closing(ocp.CheckpointManager(place, options=options)) as manager,
            ):
                yield manager
        except Exception as error:  # TensorStore's is a ValueError, for whatever the file system says
            _await_stragglers(error)
            full = f"os_error_code='{errno.ENOSPC}'" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
            if not saves or not full:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._root / kind)) from None
        finally:
            sys.unraisablehook, sys.excepthook = hooks


@contextmanager
def plain_name(directory: Path) -> Iterator[Path]:
    """Another path of a directory where Orbax would take parts of its own for something else: it looks files up with a
    pattern in which the whole path stands (brackets are a choice), and ``/gs/`` is a store."""
    if PLAIN.fullmatch(str(directory)):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="jaxrec-", dir="/tmp") as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(directory, target_is_directory=True)
        yield link


def _over(shards: int, rows: int) -> int:
    """Over how many of so many devices a table of so many rows is dealt."""
    return shards if shards <= rows else 1


def _length(rows: int, shards: int) -> int:
    return rows if shards == 1 else shards * rows_each(rows, shards)


def _await_stragglers(error: Exception) -> None:
    """Let TensorStore's threads end, and collect what of them has not been awaited."""
    time.sleep(0.2)
    error.__traceback__ = None
    gc.collect()


def _parts(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is evaluated and served, and what else training needs: where weights are averaged, those not averaged."""
    training = state._asdict()
    raw = {name: training.pop(name) for name in MODEL_PARTS}
    return state.weights(), training if training.pop("average") is None else training | {"raw": raw}
