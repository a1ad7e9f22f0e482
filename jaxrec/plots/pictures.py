"""Pictures: learning curves, those of several runs, reliability, attention; whole or not at all, without boxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.errors import UserError, nearest
from jaxrec.metrics.clicks import Calibration
from jaxrec.run import Run, check_out, open_run, written
from jaxrec.training.telemetry import read_log

BOXES = ("Last Resort", "LastResort", "Adobe Blank", "Adobe NotDef")  # fonts that have a box for every character
VALUE = 18  # characters of a value beside its field in a picture of attention


def check_picture(out: Path) -> None:
    """Refuse a place where no picture can go; before anything is worked out."""
    check_out(out, (".png", ".pdf", ".svg"))


def save_picture(figure: Any, file: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure with all that stands beside its panels; the suffix says in which format."""
    check_picture(file)
    with written(file) as part:
        figure.savefig(part, format=file.suffix[1:].lower(), dpi=dpi, bbox_inches="tight")


def write(artist: Any, text: str) -> None:
    """Let a matplotlib text show this letter by letter, in an installed font that has what the set one lacks."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    families = list(FontProperties().get_family())
    if missing := set(text) - {"\n"} - _glyphs(findfont(FontProperties())):
        fonts = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.name))
        names = [font.name for font in fonts if not font.name.startswith(BOXES) and missing <= _glyphs(font.fname)]
        families += names[:1]
        text = text if names else "".join("?" if letter in missing else letter for letter in text)
    artist.set(parse_math=False, fontfamily=families, text=text)


def write_ticks(axis: Any, texts: Sequence[str], **style: Any) -> None:
    """Label the places 0, 1, ... of a matplotlib axis; see ``write``."""
    axis.set_ticks(range(len(texts)), texts, **style)
    labels = axis.get_ticklabels()
    for label, text in zip(labels, texts, strict=True):
        write(label, text)
    axis.set_ticklabels([label.get_text() for label in labels])  # which the axis writes anew whenever it is asked


@cache
def _glyphs(file: Any) -> frozenset[str]:
    """The characters that a font file can draw; none of one that cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(chr(code) for code, glyph in get_font(file).get_charmap().items() if glyph)
    except (OSError, RuntimeError):
        return frozenset()


# ---- curves ----------------------------------------------------------------------------------------------------------


def learning_curve(lines: list[dict[str, Any]], metric: str, file: Path) -> Any:
    """Draw the training loss and the validation metric over epochs, from ``metrics.jsonl`` into a file of the run."""
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
    if not run.config.model.trained:
        raise UserError(
            f"{path}: a run of {run.config.model.name}, which is not trained and has no curves; leave it out"
        )
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


# ---- click models ----------------------------------------------------------------------------------------------------


def reliability(calibration: Calibration, file: Path, title: str) -> None:
    """Draw the mean label of each bin over its mean probability, dots by the number of rows; ``title`` says of what."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    _, rows, predicted, observed, error = calibration
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes, full = figure.subplots(), rows > 0
    axes.plot([0, 1], [0, 1], "--", color="0.6", label="perfect")
    axes.plot(predicted[full], observed[full], "-", color="C0", label="this model (dots: rows)", clip_on=False)
    axes.scatter(predicted[full], observed[full], 20 + 200 * rows[full] / rows.sum(), color="C0", clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted click rate (mean probability)",
             ylabel="observed click rate (mean label)")  # fmt: skip
    axes.legend(loc="upper left", frameon=False)
    write(axes.set_title("", fontsize=11), f"{title}\nECE {error:.4f}, {rows.sum():,} rows")
    save_picture(figure, file)


def attention_figure(fields: Sequence[str], values: Sequence[str], weights: Sequence[np.ndarray], title: str) -> Any:
    """What each of F fields, with the values in them, attended to in one prediction: a panel for each interacting
    layer, float32[heads, F, F], and head, in colours that reach at least twice the even share 1 / F, as weights that
    differ by little look alike."""
    from matplotlib.figure import Figure

    if not weights:
        raise UserError("this model has no interacting layers (model.blocks 0), so there is no attention to draw")
    layers, heads, size, even = len(weights), len(weights[0]), max(2.6, 0.27 * len(fields)), 1 / len(fields)
    figure = Figure(figsize=(heads * size + 3.2, layers * size + 1.4), layout="constrained")
    panels = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
    highest = max(2 * even, *(float(np.max(layer)) for layer in weights))  # of a dozen fields none comes near 1
    short = [value if len(value) <= VALUE else value[: VALUE - 1] + "…" for value in values]
    rows = [f"{name}: {value}" for name, value in zip(fields, short, strict=True)]
    for layer, head in np.ndindex(layers, heads):
        panel: Any = panels[layer, head]
        image = panel.imshow(weights[layer][head], vmin=0, vmax=highest, cmap="Blues")
        panel.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
    for panel in panels[:, 0]:
        write_ticks(panel.yaxis, rows, fontsize=7)
    for panel in panels[-1]:
        write_ticks(panel.xaxis, fields, fontsize=7, rotation=90)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, label=f"attention weight (dashed: even, 1/{len(fields)})")
    bar.ax.axhline(even, color="black", linestyle="--", linewidth=1)
    write(figure.suptitle("", fontsize=10), title)
    return figure
