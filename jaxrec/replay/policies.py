"""The policies of a replay: how each makes the run that answers a day, and how that ranks the day's targets.

``frozen``: the base run, of all days before the first, answers every day. ``continue``: each day a run starts from the
one of the day before and trains few epochs on the last days. ``scratch``: each day a run is trained anew on all days
before. On the first day all are the base run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.cli.command import tell
from jaxrec.cli.quiet import quiet
from jaxrec.config import Config
from jaxrec.data.given import Ids
from jaxrec.replay.days import Day
from jaxrec.tasks.base import load
from jaxrec.tasks.sessions.task import in_order, session_judge
from jaxrec.train import train
from jaxrec.training.telemetry import PARTS, read_log

EPOCHS, DAYS = 2, 30  # of runs that continue others, unless others are asked for
BASE = "base"  # the run of all days before the first
FROZEN, CONTINUE, SCRATCH = POLICIES = ("frozen", "continue", "scratch")


@dataclass(frozen=True)
class Continuing:
    """How runs that start from others are trained; None: as configured."""

    epochs: int
    days: int | None  # the last so many are trained on; None: all
    learning_rate: float | None

    def config(self, config: Config) -> Config:
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        training = {"epochs": self.epochs, "average_epochs": min(self.epochs, config.training.average_epochs)}
        return with_fields(with_fields(with_fields(config, "data", last_days=self.days), "optimizer", **rate),
                           "training", **training)  # fmt: skip


def with_fields(config: Config, section: str, **fields: Any) -> Config:
    """The configuration with other values of a section's fields."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=fields)})


def trained(config: Config, data: Path, run: Path, start_from: Path | None = None) -> dict[str, float]:
    """Train a run on a data set to its end, from where it stands; the seconds of its parts."""
    try:
        with quiet():
            train(with_fields(config, "data", path=str(data)), run, resume=True, start_from=start_from)
    except SystemExit:
        tell(f"stopped in {run}; the same command goes on from there")
        raise
    jax.clear_caches()  # programs of catalogues that are no more
    end = read_log(run)[-1]
    return {f"seconds_{part}": round(end[f"seconds_{part}"], 3) for part in PARTS}


def rank(run: Path, day: Day, among: Ids | None = None) -> tuple[np.ndarray, float]:
    """float32[n], the rank of each of a day's events by a run, among all items or among these; infinite where the run
    does not know the item, or nothing before it in the session. And the seconds that it took."""
    begin, loaded = time.perf_counter(), load(run)
    ids, n_items = loaded.run.vocabulary().ids, loaded.run.n_items
    sessions, targets = day.encode(ids)
    ranks = np.full(len(day.items), np.inf, np.float32)
    if len(targets):
        barred = None if among is None else np.flatnonzero(among.encode(ids.values()) < 0)
        judge = session_judge(loaded.model, sessions, n_items, loaded.run.config.evaluation, barred)
        ranks[targets] = in_order(judge(loaded.weights, [1]).arrays["rank"], judge, sessions)
    return ranks, time.perf_counter() - begin
