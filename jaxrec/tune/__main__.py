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
import shutil
import sys
import time
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
from jaxrec.run import write_text
from jaxrec.tasks.base import make_task
from jaxrec.tasks.cutoffs import fit_cutoffs
from jaxrec.train import train
from jaxrec.training.telemetry import read_log
from jaxrec.tune import report as tune_report
from jaxrec.tune.report import best_epoch, best_trial
from jaxrec.tune.search_space import Space, load_space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import Trial

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
    dataset = open_dataset(space.check(base).data.path)
    base = fit_cutoffs(base, dataset)
    record = {
        "config": base.model_dump(mode="json"), "space": space.entries, "options": asdict(options),
        "data": {"content_hash": dataset.manifest["content_hash"]},
    }  # fmt: skip
    with owned(out, "is tuning here", "choose another --out"):
        _tune(base, space, out, trials, options, record)


def _tune(base: Config, space: Space, out: Path, trials: int, options: Options, record: dict[str, Any]) -> None:
    """``tune`` of a folder that is ours; ``record`` is what the study has to be of."""
    first = space.check(base)
    if not _known(out, record):
        if make_task(first, open_dataset(first.data.path)).validation is None:
            found = first.data.validation_fraction
            raise UserError(f"data.validation_fraction: found {found}, which holds nothing out to compare trials on; "
                            "set it above 0, such as 0.1")  # fmt: skip
        _create(out, record)
    metric = first.training.metric
    search = Search(base, space, out, options, metric)
    with _storage(out / DATABASE) as storage:
        search.go_on(_open_study(storage, metric, options), storage, trials)


@dataclass(frozen=True)
class Search:
    """A study at work; see ``tune``."""

    base: Config
    space: Space
    out: Path
    options: Options
    metric: str

    def go_on(self, study: Study, storage: RDBStorage, trials: int) -> None:
        """Finish the trial that was begun, run what is missing, and write the results."""
        result = tune_report.Result(self.base, self.space, self.out, self.metric)
        known = study.get_trials(deepcopy=False)
        if known:
            done = sum(trial.state.is_finished() for trial in known)
            tell(f"{self.out}: going on after {done} of {max(trials, done)} trials")
        while sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) < trials:
            self._clean(study)
            trial = self._next(study, storage)
            self._run(study, trial)
            print(result.line(study.get_trials(deepcopy=False), trial.number), flush=True)
            result.write_tables(study.get_trials(deepcopy=False))
        self._clean(study)
        result.write(study.get_trials(deepcopy=False))

    def _next(self, study: Study, storage: RDBStorage) -> Trial:
        """The trial that was running when the search was killed, or a new one, with a value for each parameter."""
        from optuna.trial import Trial, TrialState

        begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if begun:
            study_id = storage.get_study_id_from_name(NAME)
            trial = Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, begun[0].number))
        else:
            trial = study.ask()
        for place, parameter in enumerate(self.space.parameters):
            # Killed between two parameters, the rest are drawn as they would have been.
            study.sampler = _sampler(self.options, trial.number, place)
            parameter.suggest(trial)
        return trial

    def _run(self, study: Study, trial: Trial) -> None:
        """Train a trial, and tell the study how it ended."""
        from optuna.trial import TrialState

        path, since = trial_path(self.out, trial.number), time.perf_counter()
        reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def report(epoch: int, metrics: dict[str, float]) -> bool:
            if epoch not in reported:  # or killed between this and the checkpoint
                trial.report(metrics[self.metric], epoch)
            return bool(trial.should_prune())  # NumPy's bool is no JSON

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a line a trial; the epochs are in its metrics.jsonl
                train(self.space.config(self.base, trial.params), path, resume=True, report=report)
        except SystemExit:
            tell(f"{self.out}: stopped in trial {trial.number}; the same command goes on from there")
            raise
        except (UserError, jax.errors.JaxRuntimeError) as error:
            if (reason := _failure(error)) is None:
                raise
            trial.set_user_attr("seconds", time.perf_counter() - since)
            trial.set_user_attr("failure", reason)
            study.tell(trial, state=TrialState.FAIL)
            return
        end = [line for line in read_log(path) if line["kind"] == "end"][-1]
        trial.set_user_attr("seconds", sum(end[name] for name in end if name.startswith("seconds_")))
        now = study.get_trials(deepcopy=False)[trial.number]
        epoch = best_epoch(now, higher_is_better(self.metric))
        if epoch is None:
            trial.set_user_attr("failure", f"validation {self.metric} is not a number")
            study.tell(trial, state=TrialState.FAIL)
        elif end["reason"] == "stopped":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, now.intermediate_values[epoch])

    def _clean(self, study: Study) -> None:
        """Of the finished trials only the best keeps its checkpoints."""
        trials = study.get_trials(deepcopy=False)
        best = best_trial(trials, higher_is_better(self.metric))
        for trial in trials:
            if trial.state.is_finished() and trial is not best:
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
        found = read_yaml(file, "the study")
        # fields that the configuration has got since have their defaults
        found["config"] = configuration.parse(found["config"], former=True).model_dump(mode="json")
        before = {f"{part} {name}": value for part, values in found.items() for name, value in _flat(values)}
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: damaged; restore it, or choose another --out") from None
    now = {f"{part} {name}": value for part, values in record.items() for name, value in _flat(values)}
    if before["data content_hash"] != now["data content_hash"]:
        raise UserError(f"{record['config']['data']['path']}: not the data set that {out} was tuned on; choose another "
                        "--out")  # fmt: skip
    for name in before | now:
        if name != "config data.path" and before.get(name) != now.get(name):
            was, new = (str(side[name]) if name in side else "not there" for side in (before, now))
            raise UserError(f"{out}: holds another study ({name}: was {was}, now {new}); leave it as it was, or choose "
                            "another --out")  # fmt: skip
    return True


def _flat(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """``section.field`` of a configuration's sections; other tables as they are."""
    sections = set(values) <= set(Config.model_fields)
    if not sections:
        return list(values.items())
    return [(f"{section}.{field}", value) for section, part in values.items() for field, value in part.items()]


def _create(out: Path, record: dict[str, Any]) -> None:
    """``study.yaml`` is written last of what a study needs: with it the study exists."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a parent of it is a file; choose another --out") from None
    write_text(out / RECORD, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


@contextlib.contextmanager
def _storage(file: Path) -> Iterator[RDBStorage]:
    """The study's database."""
    import sqlite3

    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    if not file.exists() and any(file.parent.glob("trial_*")):
        raise UserError(f"{file}: missing, but there are trials beside it; restore it, or choose another --out")

    def connect() -> sqlite3.Connection:  # as an address a path would have to be quoted
        return sqlite3.connect(file, check_same_thread=False)

    storage = None
    try:
        storage = RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})
        yield storage
    except (SQLAlchemyError, OptunaError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{file}: unusable ({reason}); free space, restore it, or choose another --out") from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _open_study(storage: RDBStorage, metric: str, options: Options) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is ours
    return optuna.create_study(
        storage=storage,
        study_name=NAME,
        direction="maximize" if higher_is_better(metric) else "minimize",
        # Optuna may prune from this epoch on, we say up to which it must not
        pruner=optuna.pruners.MedianPruner(options.startup_trials, options.warmup_epochs + 1),
        load_if_exists=True,
    )


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
