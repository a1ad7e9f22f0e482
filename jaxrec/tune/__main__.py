"""python -m jaxrec.tune: search a space of configurations by the validation metric, with Optuna.

    tune_<name>/study.yaml          what is searched, from which configuration; a changed one is refused
    tune_<name>/study.db            Optuna's study: trials, their parameters and values by epoch
    tune_<name>/trial_0000/ ...     a run each; only that of the best trial keeps its checkpoints
    tune_<name>/trials.csv  best.yaml  history.png  parameters.png

What a trial draws is a function of the seed, its number and the trials before it, and a run resumes bit for bit: a
search that was killed ends as if it had not been. Only one process at a time works on a study.
"""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import yaml

from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, tell
from jaxrec.cli.lock import owned
from jaxrec.cli.paths import check_path
from jaxrec.cli.yaml_text import read_yaml
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.errors import UserError
from jaxrec.metrics.clicks import higher_is_better
from jaxrec.run import difference, write_text
from jaxrec.tasks.base import make_task
from jaxrec.tasks.cutoffs import fit_cutoffs
from jaxrec.train import train
from jaxrec.training.telemetry import read_log
from jaxrec.tune import report
from jaxrec.tune.search_space import Space, load_space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

RECORD, DATABASE = "study.yaml", "study.db"
NAME = "tune"  # of the study within the database
DIVERGED = "the loss is not finite"  # how telemetry.Meter begins
NO_MEMORY = "RESOURCE_EXHAUSTED"  # what XLA says

DESCRIPTION = """\
Search the values of a configuration's fields that do best on the validation split; the test split is not read.

  python -m jaxrec.tune --config configs/autoint_plus_ml1m.yaml --space configs/tune_autoint.yaml --trials 40

The space is a YAML file of fields with their choices or ranges:

  model.embedding_dim: {choices: [16, 32, 64]}
  optimizer.learning_rate: {low: 0.0001, high: 0.01, log: true}
  model.dropout_hidden: {low: 0.0, high: 0.5, step: 0.1}
  data.validation_fraction: {choices: [0.1]}      # a single choice holds for all trials

training.metric says what is compared; a trial counts with its best epoch, and is ended early (pruned) where it stays
below the median of the others at the same epoch. Killed or stopped, the same command goes on; a larger --trials adds
to a search. --section.field value overrides the configuration, as in python -m jaxrec.train.
"""


@dataclass(frozen=True)
class Options:
    """How a space is searched.

    Attributes:
        seed: what trials draw is a function of it.
        startup_trials: so many trials draw at random; until so many are complete none is pruned.
        warmup_epochs: a trial is never pruned within them.
    """

    seed: int = 42
    startup_trials: int = 10
    warmup_epochs: int = 1


def tune(
    base: Config | str | Path, space: Space | str | Path, out: str | Path, trials: int, options: Options | None = None
) -> None:
    """Search until there are ``trials`` trials, those of earlier calls included, and write what was found.

    Args:
        base: the configuration, or its file.
        space: the tuning space, or its file.
        out: the directory of the search.
    """
    base = configuration.load(base) if isinstance(base, (str, Path)) else base
    space = load_space(space, base) if isinstance(space, (str, Path)) else space
    out, options = Path(check_path("the directory of the search", str(out))), options or Options()
    first = space.check(base)
    dataset = open_dataset(first.data.path)
    base = fit_cutoffs(base, dataset)
    record = {
        "config": base.model_dump(mode="json"), "space": space.entries, "options": asdict(options),
        "data": {"content_hash": dataset.manifest["content_hash"]},
    }  # fmt: skip
    with owned(out, "is tuning here", "choose another --out"):
        if not _known(out, record):
            if make_task(first, dataset).judge is None:
                found = first.data.validation_fraction
                raise UserError(f"data.validation_fraction: found {found}, which holds nothing out to compare trials "
                                "on; set it above 0, such as 0.1")  # fmt: skip
            out.mkdir(exist_ok=True)
            # written last of what a study needs: with it the study exists
            write_text(out / RECORD, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
        with _open_study(out / DATABASE, first.training.metric, options) as (study, storage):
            Search(base, space, out, options, first.training.metric, study, storage).go_on(trials)


@dataclass(frozen=True)
class Search:
    """A study at work; see ``tune``."""

    base: Config
    space: Space
    out: Path
    options: Options
    metric: str
    study: Study
    storage: RDBStorage

    @property
    def trials(self) -> list[FrozenTrial]:
        """Of the study, by number."""
        return self.study.get_trials(deepcopy=False)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(trial.state.is_finished() for trial in self.trials)

    def go_on(self, trials: int) -> None:
        """Finish the trial that was begun, run what is missing, and write the results."""
        if self.trials:
            tell(f"{self.out}: going on after {self.done} of {max(trials, self.done)} trials")
        while self.done < trials:
            self._clean()
            trial = self._next()
            self._run(trial)
            print(report.trial_line(self.study, trial.number, self.metric), flush=True)
            report.write_tables(self.study, self.base, self.space, self.out, self.metric)
        self._clean()
        report.write_tables(self.study, self.base, self.space, self.out, self.metric)
        best = report.best_trial(self.study)
        if best is None:
            raise UserError(f"{self.out}: none of {self.done} trials is complete, see trials.csv there; choose lower "
                            "learning rates in --space and another --out")  # fmt: skip
        report.write_pictures(self.study, self.space, self.out, self.metric)
        counts = Counter(report.STATES[trial.state.name] for trial in self.trials)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        best_text = f"trial {best.number}, {report.value_text(self.study, best, self.metric)}"
        tell(f"{self.out}: {self.done} trials ({states}); best: {best_text}")
        tell(f"wrote best.yaml, trials.csv, history.png and parameters.png to {self.out}")

    def _next(self) -> Trial:
        """The trial that was running when the search was killed, or a new one, with a value for each parameter.

        Optuna's own retry would wait for a heartbeat, and give the trial another number, and so other draws.
        """
        from optuna.trial import Trial, TrialState

        begun = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if begun:
            study_id = self.storage.get_study_id_from_name(NAME)
            number = self.storage.get_trial_id_from_study_id_trial_number(study_id, begun[0].number)
            trial = Trial(self.study, number)
        else:
            trial = self.study.ask()
        for place, (field, parameter) in enumerate(self.space.parameters.items()):
            # Killed between two parameters, the rest are drawn as they would have been.
            self.study.sampler = _sampler(self.options, trial.number, place)
            parameter.suggest(trial, field)
        return trial

    def _run(self, trial: Trial) -> None:
        """Train a trial, and tell the study how it ended."""
        from optuna.trial import TrialState

        path, since = trial_path(self.out, trial.number), time.perf_counter()
        reported = set(self.trials[trial.number].intermediate_values)

        def heard(epoch: int, metrics: dict[str, float]) -> bool:
            if epoch not in reported and not math.isnan(metrics[self.metric]):  # or killed before the checkpoint
                trial.report(metrics[self.metric], epoch)
            return bool(trial.should_prune())  # NumPy's bool is no JSON

        def failed(reason: str, seconds: float) -> None:
            trial.set_user_attr("seconds", seconds)
            trial.set_user_attr("failure", reason)
            self.study.tell(trial, state=TrialState.FAIL)

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a line a trial; the epochs are in its metrics.jsonl
                train(self.space.config(self.base, trial.params), path, resume=True, report=heard)
        except SystemExit:
            tell(f"{self.out}: stopped in trial {trial.number}; the same command goes on from there")
            raise
        except (UserError, jax.errors.JaxRuntimeError) as error:
            if (reason := _failure(error)) is None:
                raise
            return failed(reason, time.perf_counter() - since)
        end = [line for line in read_log(path) if line["kind"] == "end"][-1]
        seconds = sum(end[name] for name in end if name.startswith("seconds_"))
        ended = self.trials[trial.number]
        if report.best_epoch(self.study, ended) is None:
            return failed(f"validation {self.metric} is not a number", seconds)
        trial.set_user_attr("seconds", seconds)
        if end["reason"] == "stopped":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, report.best_value(self.study, ended))
        return None

    def _clean(self) -> None:
        """Of the finished trials only the best keeps its checkpoints."""
        best = report.best_trial(self.study)
        for trial in self.trials:
            if trial.state.is_finished() and (best is None or trial.number != best.number):
                shutil.rmtree(trial_path(self.out, trial.number) / "state", ignore_errors=True)


def trial_path(out: Path, number: int) -> Path:
    """The run directory of a trial."""
    return out / f"trial_{number:04d}"


def _failure(error: Exception) -> str | None:
    """Why a trial alone failed; None where the search cannot go on."""
    text = str(error)
    if isinstance(error, UserError):
        return text.partition(";")[0] if text.startswith(DIVERGED) else None
    return "out of the device's memory" if NO_MEMORY in text else None


def _sampler(options: Options, number: int, place: int) -> Any:
    """What draws one parameter of one trial."""
    from optuna.samplers import TPESampler

    seed = int(np.random.SeedSequence([options.seed, number, place]).generate_state(1)[0])
    # Said explicitly: the defaults of these two differ between versions of Optuna.
    return TPESampler(seed=seed, n_startup_trials=options.startup_trials, multivariate=False, constant_liar=False)


# ---- the study's directory -------------------------------------------------------------------------------------------


def _known(out: Path, record: dict[str, Any]) -> bool:
    """Whether a study of this record lies there; False where there is nothing yet."""
    file = out / RECORD
    if not file.is_file():
        if out.exists() and (not out.is_dir() or any(entry.name != f"{RECORD}.part" for entry in out.iterdir())):
            raise UserError(f"{out}: exists and holds no study (no {RECORD}); choose another --out")
        return False
    try:
        known = read_yaml(file, "the study")
        # fields that the configuration has got since have their defaults
        known["config"] = configuration.parse(known["config"], former=True).model_dump(mode="json")
        known["config"]["data"]["path"] = record["config"]["data"]["path"]
        changed = difference({name: known[name] for name in record}, record)
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: damaged; restore it, or choose another --out") from None
    if changed:
        raise UserError(f"{out}: holds another study ({changed}); leave it as it was, or choose another --out")
    return True


@contextlib.contextmanager
def _open_study(file: Path, metric: str, options: Options) -> Iterator[tuple[Study, RDBStorage]]:
    """The study in its database, which may be new."""
    import sqlite3

    import optuna
    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage
    from optuna.study import StudyDirection
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is ours
    if not file.exists() and any(file.parent.glob("trial_*")):
        raise UserError(f"{file}: missing, but there are trials beside it; restore it, or choose another --out")

    def connect() -> sqlite3.Connection:  # as an address a path would have to be quoted
        return sqlite3.connect(file, check_same_thread=False)

    with contextlib.ExitStack() as stack:
        try:
            storage = RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            direction = StudyDirection.MAXIMIZE if higher_is_better(metric) else StudyDirection.MINIMIZE
            # Optuna may prune from this epoch on, we say up to which it must not
            pruner = optuna.pruners.MedianPruner(options.startup_trials, options.warmup_epochs + 1)
            yield optuna.create_study(storage=storage, study_name=NAME, direction=direction, pruner=pruner,
                                      load_if_exists=True), storage  # fmt: skip
        except (SQLAlchemyError, OptunaError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{file}: unusable ({reason}); free space, restore it, or choose another --out") from None


# ---- the command -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.tune``."""
    parser = Parser(prog="python -m jaxrec.tune", description=DESCRIPTION, fields=configuration.fields)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, the fields not in the space")
    parser.add_argument("--space", required=True, metavar="FILE", help="YAML file, such as configs/tune_autoint.yaml")
    parser.add_argument("--trials", required=True, type=int, metavar="N", help="in all, with those of earlier calls")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: checkpoints/tune_ and the name of --config")
    parser.add_argument("--seed", type=int, default=42, help="of the search; training has its own (default: 42)")
    parser.add_argument("--startup-trials", type=int, default=10, metavar="N",
                        help="draw so many at random; prune none until so many are complete (10)")  # fmt: skip
    parser.add_argument("--warmup-epochs", type=int, default=1, metavar="N",
                        help="never prune a trial within its first N epochs (default: 1)")  # fmt: skip
    given, overrides = parser.parse_known_args(argv)
    for name, least in (("trials", 1), ("seed", 0), ("startup_trials", 1), ("warmup_epochs", 0)):
        if (value := getattr(given, name)) < least:
            raise UserError(f"--{name.replace('_', '-')}: found {value}; at least {least} is needed")
    config = configuration.load(given.config, overrides)
    space = load_space(given.space, config)
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("python -m jaxrec.tune needs Optuna; pip install 'jaxrec[tune]'") from None
    runtime.start()
    file = Path(given.config).absolute()
    name = file.parent.name if file.name == "config.yaml" else file.stem  # the former is that of a run
    out = given.out or Path("checkpoints") / f"tune_{name}"
    tune(config, space, out, given.trials, Options(given.seed, given.startup_trials, given.warmup_epochs))


if __name__ == "__main__":
    sys.exit(command(main))
