"""What a run tells: metrics.jsonl, TensorBoard events, and where the time went."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.errors import UserError
from jaxrec.training.block import BlockStats

Sums = dict[str, list[float]]
"""``{"window": [loss, pairs], "epoch": [loss, pairs]}``."""
PARTS = ("compile", "train", "evaluate", "save")


def _tensorboard() -> Any:
    """tensorboardX, without torch, which it would load where that is installed: torch takes seconds, and the GPU."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it fails, which tensorboardX is made for
    try:
        return importlib.import_module("tensorboardX")
    finally:
        if absent:
            sys.modules.pop("torch", None)


class Clock:
    """Wall-clock seconds by part of the work, summed over restarts; ``train`` is what the other parts leave."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self._since = dict.fromkeys(PARTS, 0.0) | seconds, time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``; what went before it as training."""
        self.lap()
        try:
            yield
        finally:
            self.lap(name)

    def lap(self, name: str = "train") -> float:
        """Count the time since the last part as ``name``; returns the seconds of training so far."""
        before, self._since = self._since, time.perf_counter()
        self.seconds[name] += self._since - before
        return self.seconds["train"]


class Waited(Iterator[Any]):
    """An iterator that counts the ``seconds`` in which its user waited for it."""

    def __init__(self, values: Iterator[Any]) -> None:
        self._values, self.seconds = values, 0.0

    def __next__(self) -> Any:
        begin = time.perf_counter()
        try:
            return next(self._values)
        finally:
            self.seconds += time.perf_counter() - begin


class Log:
    """``metrics.jsonl`` (one object a line) and the same scalars for TensorBoard. What was written after the checkpoint
    that is resumed from is cut, behind ``size`` bytes, or hidden, behind ``step``."""

    def __init__(self, run: Path, size: int = 0, step: int = 0) -> None:
        file = run / "metrics.jsonl"
        file.touch()
        os.truncate(file, min(size, file.stat().st_size))
        self._stream = open(file, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        weakref.finalize(self, self._stream.close)  # or where an error or SIGTERM ends the loop
        self._events = _tensorboard().SummaryWriter(str(run / "tensorboard"), purge_step=step + 1, write_to_disk=True)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a line ``{"kind": kind, "step": step, …}``; numbers also go to TensorBoard as ``kind/name``."""
        self._stream.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._stream.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Bring everything to disk; returns the size of ``metrics.jsonl`` in bytes."""
        os.fsync(self._stream.fileno())
        self._events.flush()
        return os.fstat(self._stream.fileno()).st_size

    def close(self) -> None:
        self._stream.close()
        self._events.close()


class Unlogged(Log):
    """What processes have that do not write the run directory."""

    def __init__(self) -> None: ...

    def write(self, kind: str, step: int, **values: Any) -> None: ...

    def sync(self) -> int:
        return 0

    def close(self) -> None: ...


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that was cut off by a crash is left out."""
    with open(run / "metrics.jsonl", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.endswith("\n")]


def length_without_end(run: Path) -> int | None:
    """Bytes of ``metrics.jsonl`` without its last line, where that says that all epochs were trained; or None."""
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    return sum(map(len, lines[:-1])) if lines and b'"reason": "all epochs"' in lines[-1] else None


class Meter:
    """Adds up the losses of blocks, one block late, so that the device never waits for the host: into ``sums``, kept in
    the checkpoint and changed in place; a line of ``log`` after every ``every`` blocks, and the progress bar."""

    def __init__(
        self, log: Log, every: int, schedule: Callable[[int], Any], advance: Callable[..., None], sums: Sums
    ) -> None:
        self._log, self._every, self._schedule, self._advance, self._sums = log, every, schedule, advance, sums
        self._pending: tuple[BlockStats, int, int, int] | None = None

    def push(self, stats: BlockStats, epoch: int, block: int, first_step: int) -> None:
        """Take the results of a block that may still be running, and read those of the one before."""
        self.drain()
        self._pending = stats, epoch, block, first_step

    def drain(self) -> None:
        """Read what is pending."""
        if self._pending is None:
            return
        (stats, epoch, block, first_step), self._pending = self._pending, None
        losses, pairs, steps = np.asarray(stats.loss, np.float64), int(stats.pairs), int(stats.steps)
        if not np.isfinite(losses).all():
            step = first_step + int(np.flatnonzero(~np.isfinite(losses))[0])
            raise UserError(f"the loss is not finite at step {step} (learning rate {float(self._schedule(step)):.4g}); "
                            "try a third of --optimizer.learning_rate, or --optimizer.clip_norm 1")  # fmt: skip
        for sums in self._sums.values():
            sums[:] = sums[0] + float(losses.sum()), sums[1] + pairs
        self._advance(1, f"loss {losses.sum() / max(pairs, 1):.4f}")
        if (block + 1) % self._every == 0:
            step, rate = first_step + steps, float(self._schedule(first_step + max(steps, 1) - 1))
            self._log.write("train", step, epoch=epoch, loss=mean(self._sums["window"]), learning_rate=rate)
            self._sums["window"][:] = [0.0, 0]


def mean(sums: list[float]) -> float:
    """The mean loss of ``[sum of losses, pairs]``; 0 without pairs."""
    return sums[0] / sums[1] if sums[1] else 0.0
