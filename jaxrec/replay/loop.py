"""A replay, day by day: the data set of the days before, the run of each policy, and the ranks of the day's targets."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cli.command import tell
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.data.items import Items
from jaxrec.errors import UserError
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.replay.days import Day, DayLog, date_of
from jaxrec.replay.policies import BASE, FROZEN, SCRATCH, Continuing, rank, trained
from jaxrec.replay.withheld import AMONG_OLD, PARTIAL, REJOINED, withheld_items
from jaxrec.replay.work import Work
from jaxrec.run import open_run


@dataclass(frozen=True)
class Replay:
    """The last ``n_days`` of a log under ``policies``; ``k`` is the cut-off of what is told meanwhile."""

    config: Config
    continuing: Continuing
    log: DayLog
    work: Work
    n_days: int
    policies: tuple[str, ...]
    k: int
    withhold: float = 0.0  # share of the items that is withheld from the run ``partial``; see ``replay.withheld``

    def last_days(self) -> list[int]:
        """The days that are replayed, since 1970, ascending."""
        every = self.log.days()
        if len(every) <= self.n_days:
            raise UserError(f"--days {self.n_days}: the log has {len(every)} days with a target, and some are for the "
                            "first training; take fewer")  # fmt: skip
        return every[-self.n_days :]

    def run(self, days: Sequence[int]) -> None:
        """All that is not done yet."""
        if self.work.results:
            tell(f"{self.work.path}: going on")
        before = ""
        for day in days:
            date = date_of(day)
            if not all(self.work.has(policy, date) for policy in self.policies):
                self._answer(day, before)
            if before:  # what the next day starts from is there
                former = [self.work.run(f"{policy}-{before}") for policy in self.policies]
                for place in (self.work.data(before), self.work.data(PARTIAL), *former):
                    shutil.rmtree(place, ignore_errors=True)
            before = date

    def _answer(self, day: int, before: str) -> None:
        """Answer a day by all policies; ``before`` is the date of the day before, empty on the first."""
        date, events = date_of(day), self.log.day(day)
        targets = self._open(day, before, events)
        for policy in self.policies:
            if not self.work.has(policy, date):
                run, about = self._train(policy, date, before)
                ranks, seconds = rank(self.work.run(run), events)
                if policy == REJOINED:
                    old = open_run(self.work.run(PARTIAL)).vocabulary().ids
                    self.work.keep(AMONG_OLD, date, rank(self.work.run(run), events, old)[0][targets])
                self.work.finish(policy, date, ranks[targets], about | {"seconds_rank": round(seconds, 3)})
                values = ranking_metrics(ranks[targets], [self.k])
                told = ", ".join(f"{name} {values[name]:.4f}" for name in (f"recall@{self.k}", f"mrr@{self.k}"))
                seconds = about.get("seconds_train", 0.0)
                tell(f"{date} {policy}: {told}" + (f", trained {seconds:.1f} s" if seconds else ""))

    def _open(self, day: int, before: str, events: Day) -> np.ndarray:
        """Make the data set of the days before one; int64[m], the numbers of the day's targets that it knows."""
        date, begin, work = date_of(day), time.perf_counter(), self.work
        if not work.data(date).exists():
            work.data(date).parent.mkdir(exist_ok=True)
            self.log.write_before(day, work.data(date), work.data(before) if before else None)
        manifest = open_dataset(work.data(date)).manifest
        targets = events.encode(Items.read(work.data(date) / "items.parquet").ids).targets
        items, new = manifest["counts"]["items"], manifest.get("vocabulary_of", {}).get("new", 0)
        if self.k > items:
            raise UserError(f"--k {self.k}: more than the {items} items of the days before {date}; give a smaller one")
        if not len(targets):
            raise UserError(f"{self.log.file}: no target of {date} is an item that the days before hold; give "
                            "a lower --min-item-support or fewer --days, and --overwrite")  # fmt: skip
        counts = {"items": items, "new_items": new, "trained_on": manifest["counts"]["train"],
                  "targets": len(targets), "left_out": events.targets - len(targets)}  # fmt: skip
        work.days[date] = {"seconds_prepare": round(time.perf_counter() - begin, 3)} | work.days.get(date, {}) | counts
        work.save()
        return targets

    def _train(self, policy: str, date: str, before: str) -> tuple[str, dict[str, Any]]:
        """The name of the run that answers a day, trained, and what is to be said of its training."""
        work = self.work
        base, name, data = PARTIAL if policy in (PARTIAL, REJOINED) else BASE, f"{policy}-{date}", work.data(date)
        if policy in (FROZEN, PARTIAL) or not before:  # one run for all of them
            if base not in work.bases:
                data = self._without(data) if base == PARTIAL else data
                work.bases[base] = trained(self.config, data, work.run(base))
                work.save()
            return base, {}
        if policy == SCRATCH:
            return name, trained(self.config, data, work.run(name))
        first = before == min(work.days)
        source = work.run(base if first else f"{policy}-{before}")
        return name, trained(self.continuing.config(self.config), data, work.run(name), source)

    def _without(self, data: Path) -> Path:
        """The data set of the first day, made again without the withheld items."""
        out = self.work.data(PARTIAL)
        if not out.exists():
            day = int(np.datetime64(data.name).astype(int))
            self.log.write_before(day, out, None, withheld_items(data, self.withhold, self.config.training.seed))
        return out
