"""What a search leaves for the reader: a line a trial, trials.csv, best.yaml, and Optuna's pictures of the study."""

from __future__ import annotations

import csv
import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.plots.pictures import save_picture
from jaxrec.run import write_text
from jaxrec.tune.search_space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def best_epoch(study: Study, trial: FrozenTrial) -> int | None:
    """The epoch of a trial's best value, the first where several share it; None without a value."""
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    values = {epoch: value for epoch, value in trial.intermediate_values.items() if not math.isnan(value)}
    return min(values, key=lambda epoch: (sign * values[epoch], epoch), default=None)


def best_value(study: Study, trial: FrozenTrial) -> float:
    """A trial's value at its best epoch, also that of a pruned one; not a number without any."""
    return trial.intermediate_values.get(best_epoch(study, trial) or 0, math.nan)


def best_trial(study: Study) -> FrozenTrial | None:
    """The best of the complete trials, the first where several share the value; None without any."""
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return min(complete, key=lambda trial: (sign * best_value(study, trial), trial.number), default=None)


def trial_text(study: Study, trial: FrozenTrial, metric: str) -> str:
    """A finished trial in words: ``trial 3: complete, recall@20 0.1234 (epoch 3), 12.1 s; …``."""
    drawn = ", ".join(f"{name} {f'{one:.4g}' if isinstance(one, float) else one}" for name, one in trial.params.items())
    outcome = f"{STATES[trial.state.name]}, {metric} {best_value(study, trial):.4f} (epoch {best_epoch(study, trial)})"
    if trial.state.name == "FAIL":
        outcome = f"failed ({trial.user_attrs.get('failure')})"
    return f"trial {trial.number}: {outcome}, {trial.user_attrs['seconds']:.1f} s; {drawn}"


def write_tables(study: Study, base: Config, space: Space, out: Path, metric: str) -> None:
    """``trials.csv``, and ``best.yaml`` where a trial is complete."""
    trials, best, stream = study.get_trials(deepcopy=False), best_trial(study), io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["number", "state", "value", "best_epoch", "seconds", *space.parameters])
    for trial in trials:
        epoch, seconds = best_epoch(study, trial), trial.user_attrs.get("seconds")
        found = ("", "") if epoch is None else (best_value(study, trial), epoch)
        drawn = (trial.params.get(name, "") for name in space.parameters)
        table.writerow([trial.number, STATES[trial.state.name], *found, "" if seconds is None else f"{seconds:.2f}",
                        *("null" if value is None else value for value in drawn)])  # fmt: skip
    write_text(out / "trials.csv", stream.getvalue())
    if best is not None:
        head = (
            f"# validation {metric} {best_value(study, best):.6g} after epoch {best_epoch(study, best)}: "
            f"trial {best.number}, the best of {len(trials)} of python -m jaxrec.tune\n"
            f"# its run: {out / f'trial_{best.number:04d}'}\n"
            f"# python -m jaxrec.train --config {out / 'best.yaml'}\n"
        )
        write_text(out / "best.yaml", head + configuration.dump(space.config(base, best.params)))


def write_pictures(study: Study, space: Space, out: Path, metric: str) -> None:
    """``history.png``, values by trial, and ``parameters.png``, values by what trials drew."""
    import numpy as np
    from matplotlib import pyplot, rc_context
    from optuna.visualization import matplotlib as plots

    with warnings.catch_warnings(), rc_context({"savefig.bbox": "tight"}):
        warnings.simplefilter("ignore")  # Optuna says of each that it is experimental
        history: Any = plots.plot_optimization_history(study, target_name=f"validation {metric}")
        slices: Any = plots.plot_slice(study, list(space.parameters), target_name=f"validation {metric}")
        panels = np.ravel(slices)
        for panel in panels:
            panel.tick_params(axis="x", which="both", labelrotation=45)
        panels[0].figure.set_figwidth(4 + 3 * len(panels))
        for axes, name in ((history, "history.png"), (panels[0], "parameters.png")):
            save_picture(axes.figure, out / name)
            pyplot.close(axes.figure)
