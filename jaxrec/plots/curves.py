"""Curves: the learning curve that training leaves in a run, and the validation metrics of several runs by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import save_picture, write
from jaxrec.run import Run, open_run
from jaxrec.training.telemetry import read_log


def learning_curve(lines: list[dict[str, Any]], metric: str, file: Path) -> Any:
    """Draw the training loss, and the validation metric where there is one, over epochs, from ``metrics.jsonl`` into a
    file of the run; returns the matplotlib figure.
    """
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    epochs, validation = ([line for line in lines if line["kind"] == kind] for kind in ("epoch", "validation"))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["epoch"] for line in epochs], [line["loss"] for line in epochs], "o-", color="C0")
    axes.set_ylabel("training loss", color="C0")
    _by_epoch(axes)
    if validation:
        right = axes.twinx()
        # Open squares, larger than the dots: after one epoch both stand in the middle.
        values = [line[metric] for line in validation]
        right.plot([line["epoch"] for line in validation], values, "s-", color="C1", markersize=9, fillstyle="none")
        right.set_ylabel(f"validation {metric}", color="C1")
    write(axes.set_title(""), file.parent.name)
    save_picture(figure, file)
    return figure


def _by_epoch(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # one epoch has one tick


# ---- several runs ----------------------------------------------------------------------------------------------------


class Curves(NamedTuple):
    """What a run tells by epoch."""

    run: Run
    epochs: list[int]  # 1, 2, ...
    metrics: dict[str, list[float]]  # name to values, one for each of ``epochs``


def read_curves(path: Path, metrics: Sequence[str]) -> Curves:
    """The validation metrics of a run."""
    run, file = open_run(path), path / "metrics.jsonl"
    try:
        lines = [line for line in read_log(path) if line["kind"] == "validation"]
        known = [name for name in (lines[0] if lines else ()) if "@" in name or name in ("auc", "log_loss", "ece")]
        for metric in (one for one in metrics if one not in known):
            names = ", ".join(known) or "none so far; train with --data.validation_fraction 0.05"
            raise UserError(f"--metrics: no validation '{metric}' in {file}{nearest(metric, known)}; there are {names}")
        epochs = [int(line["epoch"]) for line in lines]
        return Curves(run, epochs, {name: [float(line[name]) for line in lines] for name in metrics})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: missing or damaged; copy it again, or train the run again") from None


def labels(paths: Sequence[Path]) -> list[str]:
    """The names of the runs; where some are equal, their paths."""
    names = [path.resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def draw_curves(curves: Sequence[Curves], names: Sequence[str], metrics: Sequence[str]) -> Any:
    """A matplotlib figure with a panel for each metric and a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(metrics), 3.6), layout="constrained")
    lines = list[Any]()
    for panel, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        lines = []
        for number, curve in enumerate(curves):
            color, style = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]  # colours repeat after ten
            lines += panel.plot(curve.epochs, curve.metrics[metric], style, marker="o", markersize=4, color=color)
        panel.set_title(f"validation {metric}", fontsize=11)
        _by_epoch(panel)
        panel.grid(axis="y", color="0.9")
    legend = figure.legend(lines, [""] * len(lines), loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False)
    for entry, name in zip(legend.get_texts(), names, strict=True):
        write(entry, name)  # which may begin with the underscore that hides a label
    return figure
