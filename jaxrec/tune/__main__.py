"""python -m jaxrec.tune: search a space of configurations by the validation metric, with Optuna.

What a trial draws is a function of the seed, its number and the trials before it, and a run resumes bit for bit: a
search that was killed ends as if it had not been.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import jax
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, ranged, tell
from jaxrec.cli.lock import owned
from jaxrec.cli.text import check_path, read_yaml
from jaxrec.config import Config, files
from jaxrec.data.dataset import open_dataset
from jaxrec.errors import UserError, explained, nearest
from jaxrec.metrics.clicks import higher_is_better
from jaxrec.ops.parallel import make_mesh
from jaxrec.plots.pictures import save_picture
from jaxrec.run import difference, write_text
from jaxrec.tasks.base import fit_cutoffs, make_task
from jaxrec.train import train
from jaxrec.training.telemetry import read_log

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

STARTUP = 10  # trials that draw at random; until so many are complete none is pruned
DATABASE = "study.db"  # of Optuna: the trials, and what is searched from which configuration

EXAMPLE = "'optimizer.learning_rate: {low: 0.001, high: 0.1, log: true}' or 'model.embedding_dim: {choices: [16, 32]}'"
SAME_FOR_ALL = (
    "data.path", "data.validation_fraction", "data.protocol", "data.split_seed", "data.test_fraction",
    "training.metric",
)  # fmt: skip
"""Fields that say what the value of a trial is measured on, and how: with several of them values mean nothing."""
COMBINATIONS = 2000  # at most so many are validated before the search

DESCRIPTION = """\
Search the values of a configuration's fields that do best on the validation split; the test split is not read.

  python -m jaxrec.tune --config configs/autoint_plus_ml1m.yaml --space configs/tune_autoint.yaml --trials 40

The space is a YAML file of fields with their choices or ranges:

  model.embedding_dim: {choices: [16, 32, 64]}
  optimizer.learning_rate: {low: 0.0001, high: 0.01, log: true}
  model.dropout_hidden: {low: 0.0, high: 0.5, step: 0.1}
  data.validation_fraction: {choices: [0.1]}      # a single choice holds for all trials

training.metric says what is compared; a trial counts with its best epoch. Ten trials draw at random; later ones are
ended early (pruned) where they stay below the median of the others at the same epoch. Killed or stopped, the same
command goes on; a larger --trials adds to a search. --section.field value overrides the configuration, as in
python -m jaxrec.train.
"""


# ---- what is searched ------------------------------------------------------------------------------------------------


class Parameter(BaseModel):
    """A field of the configuration that is searched: ``choices``, or the range from ``low`` to ``high``, both
    included, of integers where both are, by its logarithm (``log``) or in steps (``step``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.choices is None) == (self.low is None) or (self.low is None) != (self.high is None):
            raise ValueError("give choices, or low and high")
        try:
            _ = self.distribution  # Optuna's own refuses what is no range
        except ArithmeticError as error:  # of a number that is none in float64
            raise ValueError(str(error)) from None
        return self

    @property
    def labels(self) -> list[Any]:
        """The choices as Optuna stores them: lists as text."""
        plain = (str, int, float, type(None))
        return [one if isinstance(one, plain) else json.dumps(one, default=str) for one in self.choices or ()]

    @property
    def distribution(self) -> Any:
        """Optuna's, which trials draw from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.labels)
        if isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step or 1, int):
            return IntDistribution(self.low, self.high, self.log, int(self.step or 1))
        return FloatDistribution(float(self.low or 0), float(self.high or 0), self.log, self.step)

    def value(self, stored: Any) -> Any:
        """The configuration's value of what Optuna stores."""
        return self.choices[self.labels.index(stored)] if self.choices else stored

    def probes(self) -> list[Any]:
        """Values that stand for all of them: every choice, or the ends of a range."""
        return self.choices or list(dict.fromkeys((self.low, self.high)))


@dataclass(frozen=True)
class Space:
    """What the file ``source`` says by field (``entries``): fields with several values, and with a single one."""

    source: str
    entries: dict[str, Any]
    parameters: dict[str, Parameter]
    fixed: dict[str, Any]

    def config(self, base: Config, stored: Mapping[str, Any]) -> Config:
        """The configuration of a trial: ``base`` with Optuna's ``stored`` value of each parameter."""
        return self._with(base, {name: one.value(stored[name]) for name, one in self.parameters.items()})

    def check(self, base: Config) -> Config:
        """Validate the values, all combinations of them where they are not too many; returns one configuration."""
        probes = [one.probes() for one in self.parameters.values()]
        every = [tuple(one[i % len(one)] for one in probes) for i in range(max(map(len, probes)))]  # each value once
        every += itertools.islice(itertools.product(*probes), COMBINATIONS)
        configs = [self._with(base, dict(zip(self.parameters, values, strict=True))) for values in every]
        for batch in {config.training.batch_size for config in configs}:
            make_mesh(base.mesh.data, batch)  # a trial in the middle of the search is late to be told
        return configs[0]

    def _with(self, base: Config, values: dict[str, Any]) -> Config:
        # Only what was set: another model or loss has fields and defaults of its own.
        sections = base.model_dump(mode="json", exclude_unset=True)
        for name, value in (self.fixed | values).items():
            section, _, field = name.partition(".")
            sections.setdefault(section, {})[field] = value
        return configuration.parse(sections, source=self.source)


def load_space(file: str | Path, base: Config | None = None) -> Space:
    """Read a tuning space, of the fields that jaxrec or the configuration ``base`` has."""
    entries = read_yaml(files.find(file, "tuning space"), "the tuning space") or {}
    known = configuration.fields() | (configuration.fields(type(base)) if base is not None else {})
    parameters: dict[str, Parameter] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if name not in known:
            raise UserError(f"{file}: {name}: no such field{nearest(str(name), known)}; write such as {EXAMPLE}")
        try:
            parameters[name] = Parameter.model_validate(entry)
        except ValidationError as error:
            there = f"; there are {', '.join(Parameter.model_fields)}"
            raise UserError(f"{file}: {name}: {explained(error, there)}") from None
    fixed = {name: one.probes()[0] for name, one in parameters.items() if len(one.probes()) == 1}
    parameters = {name: one for name, one in parameters.items() if name not in fixed}
    if not parameters:
        raise UserError(f"{file}: an empty tuning space: no field has several values; add one, such as {EXAMPLE}")
    if several := [name for name in SAME_FOR_ALL if name in parameters]:
        raise UserError(f"{file}: {several[0]}: several values make the trials' results incomparable; give a single "
                        "choice or leave it to the configuration")  # fmt: skip
    return Space(str(file), entries, parameters, fixed)


# ---- the search ------------------------------------------------------------------------------------------------------


def tune(base: Config, space: Space, out: Path, trials: int, *, seed: int = 42) -> None:
    """Search until there are ``trials`` trials in ``out``, those of earlier calls included; write what was found."""
    dataset = open_dataset(space.check(base).data.path)
    first = space.check(base := fit_cutoffs(base, dataset))
    metric = first.training.metric
    record = {
        "config": base.model_dump(mode="json"), "space": space.entries, "seed": seed,
        "data": {"content_hash": dataset.manifest["content_hash"]},
    }  # fmt: skip
    with owned(out, "is tuning here", "choose another --out"):
        if not (out / DATABASE).exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UserError(f"{out}: exists and holds no study (no {DATABASE}); choose another --out")
            if make_task(first, dataset).judge is None:
                found = first.data.validation_fraction
                raise UserError(f"data.validation_fraction: found {found}, which holds nothing out to compare trials "
                                "on; set it above 0, such as 0.1")  # fmt: skip
            out.mkdir(exist_ok=True)
        with _open_study(out / DATABASE, metric) as study:
            _check_same(study, record, out)
            if done := sum(trial.state.is_finished() for trial in study.trials):
                tell(f"{out}: going on after {done} of {max(trials, done)} trials")
            for _ in range(trials - done):
                trial = _next(study, space, seed)
                _run(study, trial, space.config(base, trial.params), out, metric)
                tell(trial_text(study.trials[trial.number], metric))
                write_tables(study, base, space, out, metric)
            write_tables(study, base, space, out, metric)
            if (best := best_trial(study)) is None:
                raise UserError(f"{out}: none of {len(study.trials)} trials is complete, see trials.csv there; choose "
                                "lower learning rates in --space and another --out")  # fmt: skip
            write_pictures(study, space, out, metric)
            tell(f"{out}: best of {len(study.trials)} is {trial_text(best, metric)}; wrote best.yaml, "
                 "trials.csv, history.png and parameters.png")  # fmt: skip


def _next(study: Study, space: Space, seed: int) -> Trial:
    """The trial that was running when the search was killed, or a new one, with a value for each parameter (Optuna's
    own retry would give the trial another number, and so other draws)."""
    from optuna.samplers import TPESampler
    from optuna.trial import Trial, TrialState

    begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    trial = Trial(study, begun[0]._trial_id) if begun else study.ask()
    for place, (field, parameter) in enumerate(space.parameters.items()):
        # Killed between two parameters, the rest are drawn as they would have been.
        own = int(np.random.SeedSequence([seed, trial.number, place]).generate_state(1)[0])
        # Said explicitly: the defaults of the last two differ between versions of Optuna.
        study.sampler = TPESampler(seed=own, n_startup_trials=STARTUP, multivariate=False, constant_liar=False)
        trial._suggest(field, parameter.distribution)
    return trial


def _run(study: Study, trial: Trial, config: Config, out: Path, metric: str) -> None:
    """Train a trial, and tell the study how it ended."""
    from optuna.trial import TrialState

    path, failure, reason = out / f"trial_{trial.number:04d}", "", ""
    reported = set(study.trials[trial.number].intermediate_values)

    def heard(epoch: int, metrics: dict[str, float]) -> bool:
        if epoch not in reported and not math.isnan(metrics[metric]):  # or killed before the checkpoint
            trial.report(metrics[metric], epoch)
        return bool(trial.should_prune())  # NumPy's bool is no JSON

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a line a trial; the epochs are in its metrics.jsonl
            train(config, path, resume=True, report=heard)
        reason = next(line["reason"] for line in reversed(read_log(path)) if line["kind"] == "end")
    except SystemExit:
        tell(f"{out}: stopped in trial {trial.number}; the same command goes on from there")
        raise
    except (UserError, jax.errors.JaxRuntimeError) as error:
        failure = str(error).partition(";")[0]  # telemetry.Meter says so where a loss diverged
        if not failure.startswith(("the loss is not finite", "RESOURCE_EXHAUSTED")):
            raise
    best = best_epoch(study.trials[trial.number], metric)
    if failure or best is None:
        trial.set_user_attr("failure", failure or f"validation {metric} is not a number")
        study.tell(trial, state=TrialState.FAIL)
    elif reason == "stopped":
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, best[1])


def _check_same(study: Study, record: dict[str, Any], out: Path) -> None:
    """Note in a new study what it searches; refuse another one than was searched so far."""
    known = study.user_attrs.get("record")
    if known is None:
        return study.set_user_attr("record", record)
    # fields that the configuration has got since have their defaults; the data may lie elsewhere now
    known["config"] = configuration.parse(known["config"], former=True).model_dump(mode="json")
    known["config"]["data"]["path"] = record["config"]["data"]["path"]
    if changed := difference(known, record):
        raise UserError(f"{out}: holds another study ({changed}); leave it as it was, or choose another --out")
    return None


@contextlib.contextmanager
def _open_study(file: Path, metric: str) -> Iterator[Study]:
    """The study in its database, which may be new."""
    import optuna
    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is ours
    # as an address a path would have to be quoted
    creator: Any = lambda: sqlite3.connect(file, check_same_thread=False)  # noqa: E731
    with contextlib.ExitStack() as stack:
        try:
            storage = RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": creator})
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            direction: Any = "maximize" if higher_is_better(metric) else "minimize"
            pruner = optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=2)  # from the second epoch on
            yield optuna.create_study(storage=storage, study_name="tune", direction=direction, pruner=pruner,
                                      load_if_exists=True)  # fmt: skip
        except (SQLAlchemyError, OptunaError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{file}: unusable ({reason}); free space, restore it, or choose another --out") from None


# ---- what is found ---------------------------------------------------------------------------------------------------


def best_epoch(trial: FrozenTrial, metric: str) -> tuple[int, float] | None:
    """The epoch of a trial's best value, the first where several share it, and the value; None without one."""
    values = [(epoch, value) for epoch, value in sorted(trial.intermediate_values.items()) if not math.isnan(value)]
    return (max if higher_is_better(metric) else min)(values, key=lambda pair: pair[1], default=None)


def best_trial(study: Study) -> FrozenTrial | None:
    """The best of the complete trials; None without any."""
    return study.best_trial if any(trial.state.name == "COMPLETE" for trial in study.trials) else None


def trial_text(trial: FrozenTrial, metric: str) -> str:
    """A finished trial in words: ``trial 3: complete, recall@20 0.1234 (epoch 3); …``."""
    drawn = ", ".join(f"{name} {f'{one:.4g}' if isinstance(one, float) else one}" for name, one in trial.params.items())
    epoch, value = best_epoch(trial, metric) or (0, math.nan)
    outcome = f"{trial.state.name.lower()}, {metric} {value:.4f} (epoch {epoch})"
    if trial.state.name == "FAIL":
        outcome = f"failed ({trial.user_attrs.get('failure')})"
    return f"trial {trial.number}: {outcome}; {drawn}"


def write_tables(study: Study, base: Config, space: Space, out: Path, metric: str) -> None:
    """``trials.csv``, and ``best.yaml`` where a trial is complete; the best one's checkpoints alone are kept."""
    trials, best, stream = study.get_trials(deepcopy=False), best_trial(study), io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["number", "state", "value", "best_epoch", *space.parameters])
    for trial in trials:
        epoch, value = best_epoch(trial, metric) or ("", "")
        drawn = (trial.params.get(name, "") for name in space.parameters)
        row = [trial.number, trial.state.name.lower(), value, epoch]
        table.writerow([*row, *("null" if one is None else one for one in drawn)])
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            shutil.rmtree(out / f"trial_{trial.number:04d}" / "state", ignore_errors=True)
    write_text(out / "trials.csv", stream.getvalue())
    if best is not None:
        head = (
            f"# {trial_text(best, metric)}: the best of {len(trials)} of python -m jaxrec.tune, on validation\n"
            f"# its run: {out / f'trial_{best.number:04d}'}\n"
            f"# python -m jaxrec.train --config {out / 'best.yaml'}\n"
        )
        write_text(out / "best.yaml", head + configuration.dump(space.config(base, best.params)))


def write_pictures(study: Study, space: Space, out: Path, metric: str) -> None:
    """``history.png``, values by trial, and ``parameters.png``, values by what trials drew."""
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna says of each that it is experimental
        history: Any = plots.plot_optimization_history(study, target_name=f"validation {metric}")
        slices: Any = plots.plot_slice(study, list(space.parameters), target_name=f"validation {metric}")
        for axes, name in ((history, "history.png"), (np.ravel(slices)[0], "parameters.png")):
            save_picture(axes.figure, out / name)
            pyplot.close(axes.figure)


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.tune``."""
    parser = Parser(prog="python -m jaxrec.tune", description=DESCRIPTION)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, the fields not in the space")
    parser.add_argument("--space", required=True, metavar="FILE", help="YAML file, such as configs/tune_autoint.yaml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: checkpoints/tune_ and the name of --config")
    parser.add_argument("--trials", type=ranged(int, 1), required=True, metavar="N",
                        help="in all, with those of earlier calls")  # fmt: skip
    parser.add_argument("--seed", type=ranged(int, 0), default=42, metavar="N",
                        help="of the search; training has its own (default: 42)")  # fmt: skip
    given, overrides = parser.parse_known_args(argv)
    config = configuration.load(given.config, overrides)
    space = load_space(given.space, config)
    import optuna  # noqa: F401  # where it is missing, that is told now

    runtime.start()
    file = Path(given.config).absolute()
    name = file.parent.name if file.name == "config.yaml" else file.stem  # the former is that of a run
    out = given.out or Path(check_path("--config", f"checkpoints/tune_{name}"))
    tune(config, space, out, given.trials, seed=given.seed)


if __name__ == "__main__":
    sys.exit(command(main))
