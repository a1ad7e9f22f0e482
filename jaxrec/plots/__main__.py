"""Pictures: the learning curve that training leaves in a run; python -m jaxrec.plots, several runs in one picture or in
a table (jaxrec/tasks/results_table.py), or the customers of a two-tower run (jaxrec/personas/pictures.py)."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, tell
from jaxrec.data.dataset import SPLITS
from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import check_picture, legible, save_picture
from jaxrec.run import Run, open_run
from jaxrec.tasks.results_table import DESCRIPTION as TABLE
from jaxrec.tasks.results_table import add_table, show_table
from jaxrec.training.telemetry import read_log

COLUMNS = 3  # panels side by side
PANEL = (5.0, 3.6)  # inches
MARKERS = "os^Dv"
LABEL_WIDTH = 60  # characters of a line in the legend

DESCRIPTION = """\
Draw the validation metrics of one or several runs by epoch, a panel for each metric; a ring marks the highest value.

  python -m jaxrec.plots curves checkpoints/a checkpoints/b --out curves.png

The runs must have been validated (train with --data.validation_fraction), on the same clicks: the same data set, the
same validation_fraction and the same evaluation.ties. A run that is still training is drawn as far as it is.
"""

PERSONAS = """\
Draw the customers of a two-tower run by persona, or by anything else that is known of them:

  python -m jaxrec.plots personas checkpoints/two_tower_amore --out plots/

  persona_distribution.png   how many customers each persona has
  results_by_persona.png     hit rates of each with 95 % bootstrap intervals, beside chance
  embedding_space.png        customers and products in two dimensions
  loss_curve.png             the training loss
"""


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
    from matplotlib.ticker import MaxNLocator

    epochs = [line for line in lines if line["kind"] == "epoch"]
    validation = [line for line in lines if line["kind"] == "validation"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["epoch"] for line in epochs], [line["loss"] for line in epochs], "o-", color="C0")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="C0")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # one epoch has one tick
    if validation:
        right = axes.twinx()
        # Open squares, larger than the dots: after one epoch both stand in the middle.
        values = [line[metric] for line in validation]
        right.plot([line["epoch"] for line in validation], values, "s-", color="C1", markersize=9, fillstyle="none")
        right.set_ylabel(f"validation {metric}", color="C1")
    legible(name, "").on(axes.set_title(""))
    return figure


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
    run = open_run(path)
    file = path / "metrics.jsonl"
    try:
        log = read_log(path) if file.exists() else []
        lines = [line for line in log if line["kind"] == "validation"]
        numbers = [{name: value for name, value in line.items() if isinstance(value, (int, float))} for line in lines]
        epochs = [int(line.pop("epoch")) for line in numbers]
        found = [name for name in (numbers[0] if numbers else ()) if name != "step" and all(name in n for n in numbers)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: damaged; copy it again, or train the run again") from None
    if not any(line["kind"] == "epoch" for line in log):
        raise UserError(f"{path}: no finished epoch yet; wait for the first, or train on with --resume")
    if not lines and not _validates(run):
        raise UserError(
            f"{path}: trained without validation, so there is no {metrics[0]} by epoch; train another run with "
            "--data.validation_fraction 0.05 (learning_curve.png in the run shows its training loss)"
        )
    if not lines:
        raise UserError(f"{path}: its first validation is not finished; wait for it, or train on with --resume")
    for metric in metrics:
        if metric not in found:
            raise UserError(f"--metrics: no '{metric}' in {file}{nearest(metric, found)}; it has {', '.join(found)}")
    return Curves(run, epochs, {name: [line[name] for line in numbers] for name in metrics})


def _validates(run: Run) -> bool:
    """Whether the run cuts a validation split, or its data set brings one."""
    return bool(run.config.data.validation_fraction or run.manifest["counts"].get("validation", {}).get("targets"))


def check_comparable(runs: Sequence[Run]) -> None:
    """Metrics say something side by side only where they were taken in the same way on the same clicks."""
    first = runs[0]
    for run in runs[1:]:
        both = f"{first.path} and {run.path}: not comparable,"
        if run.manifest["content_hash"] != first.manifest["content_hash"]:
            raise UserError(f"{both} they were trained on different data sets; draw them in pictures of their own")
        for field, one, other in (
            ("data.validation_fraction", first.config.data.validation_fraction, run.config.data.validation_fraction),
            ("evaluation.ties", *(getattr(one.config.evaluation, "ties", "conservative") for one in (first, run))),
        ):
            if one != other:
                raise UserError(f"{both} {field} is {one} in the one and {other} in the other; draw them apart")


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
    from matplotlib.ticker import MaxNLocator

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
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
    marker = MARKERS[number % len(MARKERS)]
    color = f"C{number % 10}"
    every = max(1, len(curve.epochs) // 20)
    (line,) = panel.plot(
        curve.epochs, curve.metrics[metric], style, marker=marker, markersize=4, markevery=every, color=color
    )
    epoch, value = curve.best(metric)
    panel.plot([epoch], [value], "o", markersize=10, markerfacecolor="none", color=color)
    return line


# ---- the command -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.plots``."""
    parser = Parser(prog="python -m jaxrec.plots", description="Pictures and tables of runs.")
    commands = parser.add_subparsers(required=True, metavar="PICTURE", parser_class=Parser)
    curves = commands.add_parser("curves", help="validation metrics by epoch, of several runs", description=DESCRIPTION)
    curves.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, checkpoints/...")
    curves.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture: .png, .pdf or .svg")
    curves.add_argument(
        "--metrics",
        nargs="+",
        default=["recall@20", "mrr@20"],
        metavar="M",
        help="a panel each, of those in the runs' metrics.jsonl (default: recall@20 mrr@20)",
    )
    curves.set_defaults(draw=_curves)
    table = commands.add_parser("table", help="the evaluations of several runs side by side", description=TABLE)
    add_table(table)
    table.set_defaults(draw=lambda options: show_table(options, labels(options.runs)))
    _add_personas(commands.add_parser("personas", help="customers of a two-tower run by persona", description=PERSONAS))
    options = parser.parse_args(argv)
    options.draw(options)


def _add_personas(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, such as checkpoints/two_tower_amore")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go; made if missing")
    parser.add_argument("--by", metavar="FIELD", help="what to group customers by, a column of the data set's "
                        "users.parquet (default: persona)")  # fmt: skip
    parser.add_argument("--method", choices=("pca", "tsne"), default="pca", help="of two dimensions (default: pca)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose hit rates (default: test)")
    parser.add_argument("--k", type=int, metavar="K", help="cut-off (default: the configuration's first)")
    parser.add_argument("--data", metavar="DIR", help="dataset directory, where it has moved since training")
    parser.set_defaults(draw=_personas)


def _personas(options: argparse.Namespace) -> None:
    from jaxrec.personas.pictures import draw_personas  # here: training imports this module, and needs none of that

    runtime.start()
    for file in draw_personas(
        options.run, options.out, options.by, options.method, options.split, options.k, options.data
    ):
        tell(f"wrote {file}")


def _curves(options: argparse.Namespace) -> None:
    check_picture(options.out)
    metrics = list(dict.fromkeys(options.metrics))
    names = labels(options.runs)
    curves = [read_curves(path, metrics) for path in options.runs]
    check_comparable([curve.run for curve in curves])
    save_picture(draw_curves(curves, names, metrics), options.out, dpi=150)
    for name, curve in zip(names, curves, strict=True):
        best = [(metric, *curve.best(metric)) for metric in metrics]
        highest = ", ".join(f"{metric} {value:.4f} (epoch {epoch})" for metric, epoch, value in best)
        print(f"{name}: highest of {len(curve.epochs)} epochs: {highest}")
    tell(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(command(main))
