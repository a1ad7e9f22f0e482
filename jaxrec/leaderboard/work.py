"""What a leaderboard keeps while it works: the seconds that it has used, trials, and finished rows, in a folder beside
its table. A process that was killed loses at most a few seconds of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.store import read_sealed, write_sealed
from jaxrec.errors import UserError
from jaxrec.run import difference, written

STATE = "state.json"
HEARTBEAT = 2.0  # seconds between two notes of the time that is used


@dataclass
class Trial:
    """A training of a model with some changes to where its search began."""

    model: str
    name: str  # of the run, in the folder
    changes: dict[str, Any]  # by section.field
    epochs: int  # planned
    values: dict[str, float] = field(default_factory=dict)  # validation metric by epoch
    state: str = "running"  # then done, pruned (hopeless), cut (by the time), replanned (with fewer epochs), or failed
    reason: str = ""  # why it failed
    seconds: float = 0.0  # in all
    epoch_seconds: float = 0.0  # of training an epoch
    judge_seconds: float = 0.0  # of validation after an epoch
    first_judge: float = 0.0  # of the first of them, which compiles it

    @property
    def fixed_seconds(self) -> float:
        """Of what a training needs beside its epochs: opening, compiling."""
        return max(0.0, self.seconds - len(self.values) * (self.epoch_seconds + self.judge_seconds))


@dataclass
class Row:
    """A finished ranker; what is kept of each query lies beside it."""

    name: str
    settings: str
    trained_on: str
    validation: float | None  # the metric by which its settings were chosen
    seconds_fit: float
    seconds_evaluate: float
    memory_mib: float
    seeds: list[int] = field(default_factory=list)
    trials: int = 0
    run: str = ""  # of the first seed
    parts: list[str] = field(default_factory=list)  # of a blend


class Work:
    """The folder, and the clock: ``used`` seconds of ``budget``, those of processes that were killed included."""

    def __init__(self, path: Path, record: dict[str, Any], budget: float) -> None:
        self.path, self.budget, self._record = path, budget, record
        self._begin, self._saved = time.monotonic(), 0.0
        self._before, self.finished = 0.0, False
        self.baselines: dict[str, dict[str, float]] = {}  # by name and settings the value on validation
        self.trials: list[Trial] = []
        self.rows: dict[str, Row] = {}
        self.notes: list[str] = []
        if (path / STATE).exists():
            self._read()
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path}: exists and holds no leaderboard (no {STATE}); choose another --out")
        else:
            path.mkdir(parents=True, exist_ok=True)
            self.save()

    def _read(self) -> None:
        try:
            state = read_sealed(self.path / STATE)
            self._before, self.finished = float(state["seconds"]), bool(state["finished"])
            self.baselines, self.notes = state["baselines"], state["notes"]
            self.trials = [Trial(**one) for one in state["trials"]]
            self.rows = {name: Row(**row) for name, row in state["rows"].items()}
            before = state["record"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / STATE}: damaged ({error}); delete {self.path}, or choose another "
                            "--out") from None  # fmt: skip
        if changed := difference(before, self._record):
            raise UserError(f"{self.path}: holds another leaderboard ({changed}); leave it as it was, delete it, or "
                            "choose another --out")  # fmt: skip

    def used(self) -> float:
        return self._before + time.monotonic() - self._begin

    @property
    def resumed(self) -> bool:
        return self._before > 0

    def save(self) -> None:
        self._saved = time.monotonic()
        write_sealed(self.path / STATE, {
            "record": self._record, "seconds": round(self.used(), 3), "finished": self.finished,
            "baselines": self.baselines, "trials": [asdict(one) for one in self.trials],
            "rows": {name: asdict(row) for name, row in self.rows.items()}, "notes": self.notes,
        })  # fmt: skip

    def beat(self) -> None:
        """Note the time, now and then."""
        if time.monotonic() - self._saved > HEARTBEAT:
            self.save()

    def finish(self, row: Row, kept: np.ndarray) -> None:
        """Keep a row, with float32[seeds, n] of its queries."""
        file = self._file(row.name)
        file.parent.mkdir(exist_ok=True)
        with written(file) as part, open(part, "wb") as stream:
            np.save(stream, np.asarray(kept, np.float32))
        self.rows[row.name] = row
        self.save()

    def kept(self, name: str) -> np.ndarray:
        """float32[seeds, n] of a finished row."""
        file = self._file(name)
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: missing or damaged ({error}); delete {self.path} and begin again") from None

    def _file(self, name: str) -> Path:
        return self.path / "rows" / f"{name}.npy"


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yields a list that holds, after the block, the peak of the process's memory within it, in MiB. Where the system
    cannot set the peak back (no Linux) it is that since the process began."""
    found: list[float] = []
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    try:
        yield found
    finally:
        found.append(_peak())


def _peak() -> float:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
