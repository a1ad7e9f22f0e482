"""Curves: the learning curve that training leaves in a run, and the validation metrics of several runs by epoch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import legible
from jaxrec.run import Run, open_run
from jaxrec.training.telemetry import read_log

COLUMNS = 3  # panels side by side
PANEL = (5.0, 3.6)  # inches
MARKERS = "os^Dv"
LABEL_WIDTH = 60  # characters of a line in the legend


def learning_curve(lines: list[dict[str, Any]], metric: str, file: Path) -> None:
    """Draw the training loss, and the validation metric where there is one, over epochs, from ``metrics.jsonl``."""
    learning_curve_figure(lines, metric, file.parent.name).savefig(file, dpi=120)


def learning_curve_figure(lines: list[dict[str, Any]], metric: str, name: str) -> Any:
    """The matplotlib figure of ``learning_curve``; ``name`` is that of the run."""
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
    legible(name, "").on(axes.set_title(""))
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

    def best(self, metric: str) -> tuple[int, float]:
        """The first epoch with the highest value, and that."""
        value = max(self.metrics[metric])
        return self.epochs[self.metrics[metric].index(value)], value


def read_curves(path: Path, metrics: Sequence[str]) -> Curves:
    """The validation metrics of a run."""
    run, file = open_run(path), path / "metrics.jsonl"
    try:
        lines = [line for line in (read_log(path) if file.exists() else []) if line["kind"] == "validation"]
        epochs = [int(line["epoch"]) for line in lines]
        found = [name for name in (lines[0] if lines else ()) if "@" in name or name in ("auc", "log_loss", "ece")]
        values = {name: [float(line[name]) for line in lines] for name in metrics if name in found}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: damaged; copy it again, or train the run again") from None
    if not lines:
        raise UserError(f"{path}: no validation so far, so there is no {metrics[0]} by epoch; train with "
                        "--data.validation_fraction 0.05, or wait for the first epoch to end")  # fmt: skip
    for metric in metrics:
        if metric not in found:
            raise UserError(f"--metrics: no '{metric}' in {file}{nearest(metric, found)}; it has {', '.join(found)}")
    return Curves(run, epochs, values)


def labels(paths: Sequence[Path]) -> list[str]:
    """The names of the runs; where some are equal, their paths."""
    names = [path.resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def draw_curves(curves: Sequence[Curves], names: Sequence[str], metrics: Sequence[str]) -> Any:
    """A matplotlib figure with a panel for each metric and a line for each run."""
    from matplotlib.figure import Figure

    columns = min(len(metrics), COLUMNS)
    rows = math.ceil(len(metrics) / columns)
    texts = ["\n".join(textwrap.wrap(name, LABEL_WIDTH)) for name in names]
    below = 0.25 * sum(text.count("\n") + 1 for text in texts) + 0.1
    figure = Figure(figsize=(max(columns * PANEL[0], 6.0), rows * PANEL[1] + below), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, metric in zip(panels, metrics, strict=False):
        lines = [_draw(panel, number, curve, metric) for number, curve in enumerate(curves)]
        panel.set_title(f"validation {metric}", fontsize=11)
        _by_epoch(panel)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.9")
    for panel in panels[len(metrics) :]:
        panel.remove()
    legend = figure.legend(lines, [""] * len(lines), loc="outside lower center", frameon=False)
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_parse_math(False)  # a run may be called $x$, or begin with the underscore that hides a label
        entry.set_text(text)
    return figure


def _draw(panel: Any, number: int, curve: Curves, metric: str) -> Any:
    """Draw one run into a panel, a ring around its best epoch; returns its line."""
    color, style = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]  # colours repeat after ten
    (line,) = panel.plot(curve.epochs, curve.metrics[metric], style, marker=MARKERS[number % len(MARKERS)],
                         markersize=4, markevery=max(1, len(curve.epochs) // 20), color=color)  # fmt: skip
    epoch, value = curve.best(metric)
    panel.plot([epoch], [value], "o", markersize=10, markerfacecolor="none", color=color)
    return line
