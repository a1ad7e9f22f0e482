"""Orbax checkpoints of a run: the last two to resume from, and the best one to use.

    state/latest/<step>/{model,training,position}      everything; the two most recent
    state/best/<step>/{model,position}                 parameters alone, of the best validation metric

Orbax writes a step under a temporary name and renames it when it is complete, so that a process killed within a save
leaves the step before. What was complete and got damaged later is noticed on reading, and the one before is used.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrec.cli.command import say
from jaxrec.errors import UserError
from jaxrec.training.block import TrainState

MODEL_PARTS = ("params", "tables")
PLAIN = re.compile(r"[A-Za-z0-9_./=,+-]*")  # what no library takes for anything but a path
STORES = ("/gs/", "/s3/", "/cns/", "/bigstore/")
ROOM = 2**20  # bytes for what a checkpoint holds beside its arrays


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run: Path) -> None:
        self._root = run.absolute() / "state"  # Orbax refuses relative paths
        self._read_back = False

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        """Save everything; ``position`` is what the host knows, as JSON."""
        model, training = _parts(state)
        self._save("latest", 2, state, {"model": model, "training": training}, position)

    def save_best(self, state: TrainState, position: dict[str, Any]) -> None:
        """Save the parameters as the best so far. What was best before goes once they are complete."""
        self._save("best", 1, state, {"model": _parts(state)[0]}, position)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The most recent complete state, with arrays like those of ``like``; None where there is none yet."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        model, training = _parts(abstract)
        args = {"model": ocp.args.StandardRestore(model), "training": ocp.args.StandardRestore(training)}
        found = self._restore("latest", args)
        self._forget_after(found[0] if found else -1)
        if found is None:
            return None
        _, parts = found
        return _whole(like, parts["model"], parts["training"]), parts["position"]

    def restore_model(
        self, like: dict[str, Any], kinds: Sequence[str] = ("best", "latest")
    ) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Weights alone, to use: the best if validation chose one and it is readable, or the latest.

        Args:
            like: arrays or shapes as those of ``TrainState.weights``.

        Returns:
            The weights, the position, and which of ``best`` and ``latest`` it was.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # whatever devices trained it
        model = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
        unreadable: UserError | None = None
        for kind in kinds:
            try:
                found = self._restore(kind, {"model": ocp.args.StandardRestore(model)})
            except UserError as error:
                unreadable = error
                continue
            if found is not None:
                return found[1]["model"], found[1]["position"], kind
        if unreadable is not None:
            raise unreadable
        raise UserError(f"{self._root.parent}: no checkpoint here yet; train it with python -m jaxrec.train")

    def last(self, kind: str) -> int:
        """The step of the youngest checkpoint, ``best`` or ``latest``; -1 where there is none."""
        places = (self._root / kind).glob("[0-9]*")
        return max((int(place.name) for place in places if place.name.isdigit()), default=-1)

    def _save(self, kind: str, keep: int, state: TrainState, trees: dict[str, Any], position: dict[str, Any]) -> None:
        self._require_room(trees)
        args = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        with _no_stragglers(), self._manager(kind, keep) as manager:
            whole = ocp.args.Composite(**args, position=ocp.args.JsonSave(position))
            manager.save(int(state.step), args=whole, force=True)
        if not self._read_back:
            self._check(kind, int(state.step), trees)
            self._read_back = True

    def _check(self, kind: str, step: int, trees: dict[str, Any]) -> None:
        """Read a process's first save back: what cannot be read should not be found out when it is needed."""
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, trees)
        args = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        place = self._root / kind / str(step)
        try:
            with self._manager(kind) as manager, _no_stragglers():
                found = manager.restore(step, args=ocp.args.Composite(**args))
            same = jax.tree.map(
                lambda one, other: np.array_equal(one, other, equal_nan=True), dict(found.items()), trees
            )
        except Exception as error:  # whichever of Orbax's and TensorStore's many kinds it is
            raise UserError(f"{place}: the checkpoint that was just written cannot be read back "
                            f"({_reason(error)}); choose another --run") from None  # fmt: skip
        if not all(jax.tree.leaves(same)):
            raise UserError(f"{place}: the checkpoint reads back otherwise than it was written; check the disk, or "
                            "choose another --run")  # fmt: skip

    def _restore(self, kind: str, args: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if not (self._root / kind).is_dir():
            return None
        with self._manager(kind) as manager, _no_stragglers():
            steps = sorted(manager.all_steps(), reverse=True)
            for step in steps:
                try:
                    parts = manager.restore(step, args=ocp.args.Composite(**args, position=ocp.args.JsonRestore()))
                    return step, dict(parts.items())
                except Exception as error:  # Orbax and TensorStore raise many kinds; whichever it is, it is unreadable
                    time.sleep(0.2)  # stragglers, and what of them has not been awaited is collected here
                    error.__traceback__ = None
                    gc.collect()
                    say("warning", f"{self._root / kind / str(step)}: unreadable, skipped ({_reason(error)})")
        if steps:
            raise UserError(f"{self._root / kind}: no readable checkpoint; restore the files or train again")
        return None

    def _require_room(self, tree: Any) -> None:
        """Notice a full disk before Orbax does: its threads fill the screen with tracebacks."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + ROOM
        free = shutil.disk_usage(self._root.parent).free
        if free < needed:
            raise UserError(f"{self._root}: no disk space: a checkpoint takes {needed / 1e6:.1f} MB, "
                            f"{free / 1e6:.1f} MB are left; free some, then go on with --resume")  # fmt: skip

    def _forget_after(self, step: int) -> None:
        """What is younger than the state resumed from will be reached again, and saved again at the same step.

        That is a best that was saved just before the end, or a latest that turned out unreadable.
        """
        for kind in ("best", "latest"):
            for place in (self._root / kind).glob("[0-9]*"):
                if place.name.isdigit() and int(place.name) > step:
                    shutil.rmtree(place)

    @contextmanager
    def _manager(self, kind: str, keep: int | None = None) -> Iterator[ocp.CheckpointManager]:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=keep is not None, cleanup_tmp_directories=keep is not None,
            enable_async_checkpointing=False,
        )  # fmt: skip
        if keep is not None:
            (self._root / kind).mkdir(parents=True, exist_ok=True)
        with plain_name(self._root / kind) as place:
            yield from self._managed(kind, keep, ocp.CheckpointManager(place, options=options))

    def _managed(self, kind: str, keep: int | None, manager: Any) -> Iterator[Any]:
        try:
            yield manager
        except (OSError, ValueError) as error:  # ValueError is TensorStore's, for whatever the file system says
            full = f"os_error_code='{errno.ENOSPC}'" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
            if keep is None or not full:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._root / kind)) from None
        finally:
            manager.close()


@contextmanager
def plain_name(directory: Path) -> Iterator[Path]:
    """Another path of a directory, for libraries that take parts of a path for something else.

    Orbax looks its files up with a pattern in which the whole path stands: in ``layers=[100]`` the brackets would be a
    choice of characters, and nothing is found. It takes ``/gs/`` and ``/s3/`` for stores of other companies.
    """
    if PLAIN.fullmatch(str(directory)) and not str(directory).startswith(STORES):
        yield directory
        return
    for root in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if PLAIN.fullmatch(root) and os.access(root, os.W_OK):
            break
    with tempfile.TemporaryDirectory(prefix="jaxrec-", dir=root) as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(directory, target_is_directory=True)
        yield link


@contextmanager
def _no_stragglers() -> Iterator[None]:
    """Keep quiet what comes after an error that we tell of: where one array cannot be read or written, TensorStore's
    other calls come back to an event loop that is closed by then, from threads of its own."""
    hooks = sys.unraisablehook, sys.excepthook

    def unraisable(event: Any) -> None:
        if not _late(event.exc_value):
            hooks[0](event)

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not _late(error):
            hooks[1](kind, error, trace)

    sys.unraisablehook, sys.excepthook = unraisable, uncaught
    try:
        yield
    except BaseException:
        time.sleep(0.2)  # for the stragglers
        gc.collect()  # and what of them has not been awaited
        raise
    finally:
        sys.unraisablehook, sys.excepthook = hooks


def _late(error: BaseException | None) -> bool:
    return "Event loop is closed" in str(error) or "was never awaited" in str(error)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def _parts(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is evaluated and served, and what else training needs: where weights are averaged, those not averaged."""
    training = state._asdict()
    raw = {name: training.pop(name) for name in MODEL_PARTS}
    if training.pop("average") is not None:
        training["raw"] = raw
    return state.weights(), training


def _whole(like: TrainState, model: dict[str, Any], training: dict[str, Any]) -> TrainState:
    """The state of its parts."""
    training = dict(training)
    raw, model = training.pop("raw", None), {name: model[name] for name in MODEL_PARTS}
    return like._replace(**(model if raw is None else raw), **training, average=None if raw is None else model)
