"""From settings to finished rows: baselines are chosen on validation and fitted on all of training; the best settings
of each model are trained once more on all of training, where that fits the budget. The test is read once a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrec.cli.command import tell
from jaxrec.config import Config
from jaxrec.leaderboard.kinds import Kind
from jaxrec.leaderboard.search import Search, drop_programs, trained
from jaxrec.leaderboard.work import Row, Trial, Work, peak_memory
from jaxrec.metrics.clicks import higher_is_better

BASELINES_SHARE = 0.15  # of the budget, after which a baseline's further settings are not tried
AGAIN_SHARE = 0.3  # of the budget that is kept for last trainings, at most; the best models come first
LEAST = 0.9  # of the budget: where baselines took more, no model begins
MARGIN = 1.15  # how much longer than estimated what comes after the search may take
ALL, PART = "all of training", "without validation"


@dataclass
class Finals:
    """What comes after the search, for the models of it; ``seeds`` of each model's last training."""

    kind: Kind
    work: Work
    search: Search
    seeds: Sequence[int]

    # ---- baselines ---------------------------------------------------------------------------------------------------

    def baselines(self) -> None:
        """Each baseline: a few settings on validation, then the test."""
        for name, texts in self.kind.baselines().items():
            if name not in self.work.rows:
                self._baseline(name, texts)

    def _baseline(self, name: str, texts: list[str]) -> None:
        values = self.work.baselines.setdefault(name, {})
        for text in texts:
            late = self.work.used() > BASELINES_SHARE * self.work.budget
            if text not in values and not late:
                kept, _, _ = self.kind.baseline(text, "validation")
                values[text] = self._value(kept, "validation")
                self.work.save()
        sign = 1.0 if higher_is_better(self.kind.metric) else -1.0
        best = max(values, key=lambda text: sign * values[text], default=texts[0])
        with peak_memory() as memory:
            kept, fit, evaluate = self.kind.baseline(best, "test")
        row = Row(name, best, ALL if self.kind.refits else PART, values.get(best), fit, evaluate, memory[0],
                  trials=len(values))  # fmt: skip
        self.work.finish(row, kept[None])
        tell(f"{self.work.used():.0f} s: {best}: fitted in {fit:.1f} s, of {max(1, len(values))} settings")

    def _value(self, kept: np.ndarray, split: str) -> float:
        return self.kind.metrics(kept[None], split)[self.kind.metric]

    # ---- models ------------------------------------------------------------------------------------------------------

    def reserve(self, begun: bool = False) -> float:
        """Seconds that the last training of each model, the test and the table take; ``begun``: the test alone, of the
        models that have begun."""
        missing = [name for name in self.search.names if name not in self.work.rows]
        if begun:
            return MARGIN * sum(map(self.test_cost, missing)) + self.page_cost()
        have = [name for name in missing if self.search.best(name) is not None]
        more = 1 + sum(not self.search.trials(name) for name in missing) / max(1, len(have))  # as those that have begun
        again = min(more * sum(map(self.cost, have)), AGAIN_SHARE * self.work.budget)
        return MARGIN * (again + more * sum(map(self.test_cost, have))) + self.page_cost()

    def page_cost(self) -> float:
        return min(15.0, 1.0 + 0.03 * self.work.budget)

    def cost(self, name: str) -> float:
        """Seconds of the last trainings of a model."""
        best = self.search.best(name)
        if best is None:
            return 0.0
        again = len(self.seeds) if self.kind.refits else len(self.seeds) - 1
        return again * (best.fixed_seconds + self.search.epoch(best) * 1.1 * best.epoch_seconds)

    def test_cost(self, name: str) -> float:
        best = self.search.best(name)
        return 0.0 if best is None else len(self.seeds) * self.search.test_cost(best)

    def models(self, later: float) -> None:
        """Rows of the models, the best by validation first; ``later``: seconds of what comes after them."""
        order = [name for name in self.search.ranked() if name not in self.work.rows]
        for place, name in enumerate(order):
            after = sum(self.test_cost(one) for one in order[place:]) * MARGIN + self.page_cost()
            drop_programs()
            self._model(name, self.work.budget - after - later)

    def _model(self, name: str, end: float) -> None:
        """A model's row: trained again until ``end``, or as the search left it where that does not fit."""
        best = self.search.best(name)
        assert best is not None
        runs, seeds, fit, whole = [best.name], [self.search.seed], best.seconds, False
        with peak_memory() as memory:
            if len(self.seeds) > 1 or self.kind.refits:
                found, used = self._again(best, end)
                if found:
                    runs, seeds, fit, whole = [*found.values()], [*found], used / len(found), self.kind.refits
            answers = [self.kind.run(self.work.path / run) for run in runs]
        evaluate = float(np.mean([seconds for _, seconds in answers]))
        settings = described(best, self.search.epoch(best))
        row = Row(name, settings, ALL if whole else PART, self.search.value(best), fit, evaluate, memory[0], seeds,
                  len(self.search.trials(name)), runs[0])  # fmt: skip
        self.work.finish(row, np.stack([kept for kept, _ in answers]))
        value = self.kind.metrics(self.work.kept(name))[self.kind.metric]
        tell(f"{self.work.used():.0f} s: {name}: test {self.kind.metric} {value:.4f}, trained {row.trained_on}")

    def _again(self, best: Trial, end: float) -> tuple[dict[int, str], float]:
        """Runs by seed of a model's best settings, as many as end before ``end``; and the seconds of all."""
        found, begin, cost = dict[int, str](), self.work.used(), self.cost(best.model) / max(1, len(self.seeds))
        for seed in self.seeds:
            if not self.kind.refits and seed == self.search.seed:
                found[seed] = best.name
                continue
            name = f"{best.model}_final_{seed}"
            if self.work.used() + cost > end:
                break

            def over() -> bool:
                self.work.beat()
                return self.work.used() > end

            if trained(self.last_config(best, seed), self.work.path / name, over):
                break
            found[seed] = name
        return found, self.work.used() - begin + (0.0 if self.kind.refits else best.seconds)

    def last_config(self, best: Trial, seed: int) -> Config:
        """The best settings on all of training, for the epochs that were best: a rate that falls goes the same way."""
        changes = best.changes | {"training.seed": seed}
        if not self.kind.refits:
            return self.kind.config(best.model, changes)
        config = self.kind.config(best.model, changes, everything=True)
        epochs, planned, optimizer = self.search.epoch(best), config.training.epochs, config.optimizer
        if optimizer.schedule == "linear" and epochs < planned:
            left = 1 - epochs / planned
            end = optimizer.final_fraction + (1 - optimizer.final_fraction) * left
            optimizer = optimizer.model_copy(update={"final_fraction": round(end, 6)})
        training = config.training.model_copy(update={"epochs": epochs})
        return config.model_copy(update={"training": training, "optimizer": optimizer})

    # ---- what is not there -------------------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        """What the budget did not suffice for, and models that failed."""
        found = []
        for name in self.search.names:
            trials = self.search.trials(name)
            if not trials:
                found.append(f"{name}: not begun, its first epoch would not have ended within the budget")
            elif self.search.best(name) is None:
                reasons = [one.reason for one in trials if one.reason]
                spent = sum(one.seconds for one in trials)
                found.append(f"{name}: {reasons[0] if reasons else f'no epoch ended within {spent:.0f} s'}")
            elif name in self.work.rows and self.kind.refits and self.work.rows[name].trained_on == PART:
                found.append(f"{name}: not trained again on all of training, the rest of the budget was too short")
        return found


def described(trial: Trial, epochs: int) -> str:
    """A trial's settings in words: what differs from where the search began."""
    changes = {name.partition(".")[2]: value for name, value in trial.changes.items() if name != "training.epochs"}
    words = [f"{name} {json.dumps(value)}" for name, value in changes.items()] or ["as it begins"]
    planned = f" of {trial.epochs}" if epochs != trial.epochs else ""
    return ", ".join([*words, f"{epochs}{planned} epochs"])
