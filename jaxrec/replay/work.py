"""What a replay keeps while it works: the days, and of each policy on each day the ranks of its targets and the seconds
of its training. A process that was killed loses the training that it was in, from its last checkpoint on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.store import read_sealed, write_sealed
from jaxrec.errors import UserError
from jaxrec.run import difference, written

STATE = "state.json"
OWN = (STATE, "log.parquet", "spill", "data", "runs", "ranks", "replay.json", "replay.md", "replay.png")
BEGUN = ("log.parquet", "log.parquet.part", "spill")  # what a process killed before its first day leaves


class Work:
    """The directory of a replay; ``record`` is what must not change while it goes on."""

    def __init__(self, path: Path, record: dict[str, Any], overwrite: bool) -> None:
        self.path, self._record = path, record
        self.days: dict[str, dict[str, Any]] = {}  # by date: counts
        self.bases: dict[str, dict[str, float]] = {}  # by name: seconds of the runs that others start from
        self.results: dict[str, dict[str, dict[str, Any]]] = {}  # by policy and date: seconds
        self._doomed = path.with_name(f".{path.name}.deleted")  # what --overwrite replaces, until there is something
        self._check()
        if overwrite or not (path / STATE).exists():
            if path.exists():
                shutil.rmtree(self._doomed, ignore_errors=True)
                path.rename(self._doomed)
            path.mkdir(parents=True)
        else:
            self._read()

    def _check(self) -> None:
        """Refuse a place that is no replay's."""
        if not self.path.exists():
            return
        own = [*OWN, *(f"{name}.part" for name in OWN)] if (self.path / STATE).exists() else BEGUN
        strange = [one.name for one in self.path.iterdir() if one.name not in own] if self.path.is_dir() else [""]
        if strange:
            what = f"holds {strange[0]}, which is not of a replay" if strange[0] else "exists and is no replay"
            raise UserError(f"{self.path}: {what}; choose another --run")

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Inside, the first is done of a replay that has done nothing yet; where that fails, nothing stays."""
        try:
            yield
            self.save()
        finally:
            if not (self.path / STATE).exists():
                shutil.rmtree(self.path)
                if self._doomed.exists():
                    self._doomed.rename(self.path)
            shutil.rmtree(self._doomed, ignore_errors=True)

    def _read(self) -> None:
        try:
            state = read_sealed(self.path / STATE)
            before, self.days, self.results = state["record"], state["days"], state["results"]
            self.bases = state["bases"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path / STATE}: damaged ({error}); give --overwrite, or choose another --run"
            ) from None
        if changed := difference(before, self._record):
            raise UserError(f"{self.path}: holds another replay ({changed}); leave it as it was, give --overwrite, or "
                            "choose another --run")  # fmt: skip

    def save(self) -> None:
        write_sealed(self.path / STATE, {
            "record": self._record, "days": self.days, "bases": self.bases, "results": self.results,
        })  # fmt: skip

    def has(self, policy: str, date: str) -> bool:
        return date in self.results.get(policy, {})

    def keep(self, name: str, date: str, ranks: np.ndarray) -> None:
        """Keep float32[targets] ranks of a day."""
        file = self._file(name, date)
        file.parent.mkdir(exist_ok=True)
        with written(file) as part, open(part, "wb") as stream:
            np.save(stream, ranks.astype(np.float32))

    def finish(self, policy: str, date: str, ranks: np.ndarray, about: dict[str, Any]) -> None:
        """Keep the ranks of a policy's day, and what is to be said of it."""
        self.keep(policy, date, ranks)
        self.results.setdefault(policy, {})[date] = about
        self.save()

    def ranks(self, policy: str, date: str) -> np.ndarray:
        """float32[targets]; infinite where the policy cannot know the target."""
        file = self._file(policy, date)
        try:
            ranks = np.load(file, allow_pickle=False)
            if len(ranks) == self.days[date]["targets"]:
                return np.asarray(ranks)
            error: object = f"{len(ranks)} ranks"
        except (OSError, ValueError) as caught:
            error = caught
        raise UserError(f"{file}: missing or damaged ({error}); give --overwrite")

    def run(self, name: str) -> Path:
        """The directory of a run: ``base``, or that of a policy for a day, such as ``scratch-2016-05-26``."""
        return self.path / "runs" / name

    def data(self, date: str) -> Path:
        """The data set of the days before one."""
        return self.path / "data" / date

    def _file(self, policy: str, date: str) -> Path:
        return self.path / "ranks" / f"{policy}-{date}.npy"
