"""Tuning within the budget: a first training of each model within its share of the time, then one change at a time to
the best so far, where the model that has had the least time goes next; what still fits is planned by what was measured.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxrec.cli.command import tell
from jaxrec.cli.quiet import quiet
from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.leaderboard import settings
from jaxrec.leaderboard.kinds import Kind
from jaxrec.leaderboard.work import Trial, Work
from jaxrec.metrics.clicks import higher_is_better
from jaxrec.train import train
from jaxrec.training.telemetry import read_log

OUT_OF_TIME = 128 + signal.SIGALRM  # the status of a training whose time was out
FIRST = 12.0  # seconds that a first epoch may take with compiling, before any is known
LOOSE = 1.25  # how much longer than planned a trial may take
WARM = 10  # trials between two times that compiled programs are dropped


class Search:
    """The trials of the models ``names``, kept in ``work``; ``reserve`` of seconds for what comes after it."""

    def __init__(self, kind: Kind, work: Work, names: list[str], seed: int) -> None:
        self.kind, self.work, self.names, self.seed = kind, work, names, seed
        self.up = higher_is_better(kind.metric)
        self.reserve: Callable[..., float] = lambda begun=False: 0.0
        self._trained = 0

    # ---- what is known -----------------------------------------------------------------------------------------------

    def trials(self, model: str) -> list[Trial]:
        return [one for one in self.work.trials if one.model == model]

    def best(self, model: str) -> Trial | None:
        """The trial with the best value; None without any."""
        return max((one for one in self.trials(model) if self.value(one) is not None), default=None,
                   key=lambda one: self._score(self.value(one)))  # fmt: skip

    def value(self, trial: Trial) -> float | None:
        """The best value of a trial's epochs."""
        values = [value for value in trial.values.values() if not math.isnan(value)]
        return max(values, key=self._score, default=None) if trial.state != "failed" else None

    def epoch(self, trial: Trial) -> int:
        """The epoch of the best value."""
        return next((int(epoch) for epoch, value in trial.values.items() if value == self.value(trial)), 0)

    def _score(self, value: float | None) -> float:
        return -math.inf if value is None else value if self.up else -value

    def ranked(self) -> list[str]:
        """The models with a result, the best first."""
        have = [name for name in self.names if self.best(name) is not None]
        return sorted(have, key=lambda name: self._score(self.value(self._best(name))), reverse=True)

    def _best(self, model: str) -> Trial:
        found = self.best(model)
        assert found is not None
        return found

    def config(self, trial: Trial) -> Config:
        return self.kind.config(trial.model, trial.changes | {"training.seed": self.seed})

    # ---- the search --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until nothing fits any more before ``reserve``."""
        for trial in [one for one in self.work.trials if one.state == "running"]:
            self._train(trial, self._end())  # killed in it
        for place, model in enumerate(self.names):
            if not self.trials(model):
                if self.work.used() + self._least() + self.reserve(begun=True) > self.work.budget:
                    continue
                share = (self._end() - self.work.used()) / (2 * (len(self.names) - place))
                self._train(self._make(model, {}), self.work.used() + max(share, self._least()))
            while self.trials(model)[-1].state == "replanned":
                self._again(self.trials(model)[-1])
        resting = {name for name in self.names if not self.trials(name)}
        while (name := self._next(resting)) is not None:
            if self._goes_on(best := self._best(name)):
                before = len(best.values)
                self._train(best, min(self._end(), self.work.used() + 2 * best.seconds))
                if len(best.values) > before:
                    continue
            changes = next(self._untried(name), None)
            estimate = self._estimate(name, changes or {})
            if changes is None or self.work.used() + estimate > self._end():
                resting.add(name)
                continue
            trial = self._make(name, changes)
            self._train(trial, min(self._end(), self.work.used() + LOOSE * estimate))

    def _goes_on(self, best: Trial) -> bool:
        """Whether a model's best trial was ended by the time while it still rose, and may go on as it was."""
        rising = best.state == "cut" and self.epoch(best) == len(best.values) < best.epochs
        again = min(best.fixed_seconds, FIRST) + best.epoch_seconds + best.judge_seconds
        return rising and self.work.used() + again < self._end()

    def _end(self) -> float:
        return self.work.budget - self.reserve()

    def _least(self) -> float:
        """Seconds that a model's first epoch and its test may take, most of it compiling: as those before it."""
        begun = [one.fixed_seconds + one.epoch_seconds + one.first_judge + self.test_cost(one)
                 for one in self.work.trials if one.values]  # fmt: skip
        return LOOSE * max(begun, default=FIRST)

    def test_cost(self, trial: Trial) -> float:
        """Seconds that the test of a trial's run takes; compiling is as it was for validation."""
        ratio = self.kind.queries("test") / max(1, self.kind.queries("validation"))
        return 1.0 + trial.first_judge + ratio * trial.judge_seconds

    def _again(self, trial: Trial) -> None:
        """A training that was too long, with the epochs that fit: its rate falls to the end."""
        epochs = max(1, int(trial.reason))
        trial.state, share = "cut", 2 * (trial.fixed_seconds + epochs * (trial.epoch_seconds + trial.judge_seconds))
        again = self._make(trial.model, trial.changes | {"training.epochs": epochs})
        self._train(again, min(self._end(), self.work.used() + share))

    def _next(self, resting: set[str]) -> str | None:
        """Of the models that are not resting the one with the least seconds; those far behind count double and more."""
        ranked = self.ranked()
        top = self._score(self.value(self._best(ranked[0]))) if ranked else 0.0

        def spent(name: str) -> float:
            behind = (top - self._score(self.value(self._best(name)))) / max(abs(top), 1e-9)
            weight = 1.0 if behind < 0.03 else 2.0 if behind < 0.15 else 4.0
            return weight * sum(one.seconds for one in self.trials(name))

        return min((name for name in ranked if name not in resting), key=spent, default=None)

    def _untried(self, name: str) -> Iterator[dict[str, Any]]:
        """Changes that no trial has had, from the best so far; its number of epochs comes behind its rate."""
        best = self._best(name)
        sections = self.config(best).model_dump(mode="json")
        seen = {json.dumps(self.config(one).model_dump(mode="json"), sort_keys=True) for one in self.trials(name)}
        epochs, at = best.epochs, self.epoch(best)
        moves = list(settings.neighbours(name, self.kind.task, sections))
        if at == epochs and best.state == "done":
            moves.insert(2, {"training.epochs": round(1.5 * epochs)})
        elif sections["optimizer"]["schedule"] != "constant" and at <= 0.6 * epochs:
            moves.insert(2, {"training.epochs": max(2, at)})
        for move in moves:
            changes = best.changes | move
            try:
                config = self.kind.config(name, changes | {"training.seed": self.seed})
            except UserError:  # values that do not go together
                continue
            if json.dumps(config.model_dump(mode="json"), sort_keys=True) not in seen:
                yield changes

    def _estimate(self, name: str, changes: dict[str, Any]) -> float:
        """Seconds that a trial may take."""
        best = self._best(name)
        epochs = int(changes.get("training.epochs", best.epochs))
        ran = max(len(best.values), min(epochs, best.epochs))
        ran = epochs if epochs > best.epochs else ran
        return best.fixed_seconds + ran * (best.epoch_seconds + best.judge_seconds)

    def _make(self, model: str, changes: dict[str, Any]) -> Trial:
        number = len(self.trials(model))
        trial = Trial(model, f"{model}_{number:02d}", changes, self.kind.config(model, changes).training.epochs)
        self.work.trials.append(trial)
        self.work.save()
        return trial

    # ---- a training --------------------------------------------------------------------------------------------------

    def _train(self, trial: Trial, end: float) -> None:
        """Train a trial until ``end`` of the budget's seconds at most."""
        config, path, before = self.config(trial), self.work.path / trial.name, trial.seconds
        begin, asked = self.work.used(), [self.work.used()]
        falling = config.optimizer.schedule != "constant"

        def over() -> bool:
            asked[0] = self.work.used()
            trial.seconds = before + asked[0] - begin
            self.work.beat()
            return asked[0] > end

        def heard(epoch: int, metrics: dict[str, float]) -> bool:
            now = self.work.used()
            trial.values[str(epoch)], trial.seconds = metrics[self.kind.metric], before + now - begin
            lines = [one for one in read_log(path) if one["kind"] == "epoch"]
            trial.epoch_seconds = lines[-1]["step"] / lines[-1]["epoch"] / lines[-1]["steps_per_s"]
            trial.judge_seconds = min(now - asked[0], trial.judge_seconds or math.inf)
            trial.first_judge = trial.first_judge or now - asked[0]
            self.work.save()
            cost = trial.epoch_seconds + trial.judge_seconds
            if falling and epoch == 1 and not trial.changes and now + (trial.epochs - 1) * cost > end:
                trial.state, trial.reason = "replanned", str(int((end - now) / cost))
                return True
            if self._hopeless(trial, epoch):
                trial.state = "pruned"
                return True
            return False

        trial.state = "running"
        status = trained(config, path, over, heard)
        trial.seconds = before + self.work.used() - begin
        if trial.state == "running":
            trial.state = "done" if not status else "cut" if status == "time" else "failed"
            trial.reason = status if trial.state == "failed" else ""
        if trial.state == "replanned" and int(trial.reason) < 1:
            trial.state = "cut"
        self._forget(trial)
        self.work.save()
        tell(self._line(trial))

    def _hopeless(self, trial: Trial, epoch: int) -> bool:
        """Whether a trial is over an epoch behind the model's best one."""
        best = self.best(trial.model)
        if best is None or best is trial or epoch < 3 or math.isnan(trial.values[str(epoch)]):
            return False
        before = best.values.get(str(epoch - 1))
        return before is not None and self._score(trial.values[str(epoch)]) < self._score(before)

    def _forget(self, trial: Trial) -> None:
        """Of each model the best run alone keeps its checkpoints."""
        for one in self.trials(trial.model):
            if one is not self.best(trial.model) and one.state != "running":
                shutil.rmtree(self.work.path / one.name / "state", ignore_errors=True)
        self._trained += 1
        if self._trained % WARM == 0:
            drop_programs()

    def _line(self, trial: Trial) -> str:
        value = self.value(trial)
        found = "no epoch ended" if value is None else f"{self.kind.metric} {value:.4f} (epoch {self.epoch(trial)})"
        changed = ", ".join(f"{name.partition('.')[2]} {one}" for name, one in trial.changes.items()) or "as it begins"
        why = f" ({trial.reason})" if trial.state == "failed" else ""
        return f"{self.work.used():.0f} s: {trial.name}: {trial.state}{why}, {found}, {trial.seconds:.0f} s; {changed}"


def trained(
    config: Config, path: Any, over: Callable[[], bool], heard: Callable[[int, dict[str, float]], bool] | None = None
) -> str:
    """Train a run to its end, from where it stands; empty, or ``time`` where that was out, or why it failed."""
    try:
        with quiet():
            train(config, path, resume=True, report=heard, over=over)
    except SystemExit as stop:
        if stop.code != OUT_OF_TIME:
            tell(f"stopped in {path}; the same command goes on from there")
            raise
        return "time"
    except (UserError, jax.errors.JaxRuntimeError) as error:
        return str(error).partition(";")[0][:200]
    return ""


def drop_programs() -> None:
    """Forget compiled programs, which would add up over a hundred trainings."""
    jax.clear_caches()
    gc.collect()
