"""Curves: the learning curve that training leaves in a run, and the validation metrics of several runs by epoch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import legible
from jaxrec.run import Run, open_run
from jaxrec.training.telemetry import read_log

COLUMNS = 3  # panels side by side
PANEL = (5.0, 3.6)  # inches
MARKERS = "os^Dv"
LABEL_WIDTH = 60  # characters of a line in the legend


def learning_curve(lines: list[dict[str, Any]], metric: str, file: Path) -> None:
    """Draw the training loss, and the validation metric where there is one, over epochs.

    Args:
        lines: of ``metrics.jsonl``.
        metric: such as ``recall@20``.
        file: where the PNG goes.
    """
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


@dataclass(frozen=True)
class Curves:
    """What a run tells by epoch.

    Attributes:
        run: the run.
        epochs: 1, 2, ...
        metrics: name to values, one for each of ``epochs``.
    """

    run: Run
    epochs: list[int]
    metrics: dict[str, list[float]]

    def best(self, metric: str) -> tuple[int, float]:
        """The highest value and its epoch, the first where several share it."""
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


def check_comparable(runs: Sequence[Run]) -> None:
    """Metrics say something side by side only where they were taken in the same way on the same clicks."""
    for run in runs[1:]:
        for name, value in ways_of(run).items():
            if value != ways_of(runs[0])[name]:
                raise UserError(f"{runs[0].path} and {run.path}: not comparable, they differ in {name} "
                                f"({ways_of(runs[0])[name]}, {value}); draw them apart")  # fmt: skip


def ways_of(run: Run) -> dict[str, Any]:
    """What has to be the same of runs whose validation metrics stand side by side."""
    return {
        "the data set": run.manifest["content_hash"],
        "data.validation_fraction": run.config.data.validation_fraction,
        "evaluation.ties": getattr(run.config.evaluation, "ties", "conservative"),
    }


def labels(paths: Sequence[Path]) -> list[str]:
    """The names of the runs; where some are equal, with as many parents as tell them apart.

    >>> labels([Path("/a/x"), Path("/b/x"), Path("/a/y")])
    ['a/x', 'b/x', 'y']
    """
    parts = [path.resolve().parts for path in paths]
    result = []
    for path, own in zip(paths, parts, strict=True):
        if parts.count(own) > 1:
            raise UserError(f"{path}: given twice; name each run once")
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        result.append("/".join(own[-length:]))
    return result


def draw_curves(curves: Sequence[Curves], names: Sequence[str], metrics: Sequence[str]) -> Any:
    """A matplotlib figure with a panel for each metric and a line for each run."""
    from matplotlib.figure import Figure

    columns = min(len(metrics), COLUMNS)
    rows = math.ceil(len(metrics) / columns)
    texts = ["\n".join(textwrap.wrap(name, LABEL_WIDTH)) for name in names]
    longest = min(max(map(len, names)), LABEL_WIDTH)
    across = max(1, min(len(texts), int(columns * PANEL[0] * 10) // (longest + 8)))  # about ten letters an inch
    below = 0.25 * math.ceil(len(texts) / across) + 0.1
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
    legend = figure.legend(lines, [""] * len(lines), loc="outside lower center", ncols=across, frameon=False)
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_parse_math(False)  # a run may be called $x$, or begin with the underscore that hides a label
        entry.set_text(text)
    return figure


def _draw(panel: Any, number: int, curve: Curves, metric: str) -> Any:
    """Draw one run into a panel; returns its line."""
    style = ("-", "--", ":")[number // 10 % 3]  # colours repeat after ten
    marker, color, every = MARKERS[number % len(MARKERS)], f"C{number % 10}", max(1, len(curve.epochs) // 20)
    (line,) = panel.plot(
        curve.epochs, curve.metrics[metric], style, marker=marker, markersize=4, markevery=every, color=color
    )
    epoch, value = curve.best(metric)
    panel.plot([epoch], [value], "o", markersize=10, markerfacecolor="none", color=color)
    return line
