"""Pictures of click models: reliability (observed against predicted click rates) and attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.errors import UserError
from jaxrec.metrics.clicks import Calibration
from jaxrec.plots.pictures import check_picture, save_picture

VALUE = 18  # characters of a value beside its field


def reliability(calibration: Calibration, file: Path, title: str) -> None:
    """Draw the mean label of each bin over its mean probability, and the rows of each bin beneath.

    Args:
        title: what is drawn; the calibration error is added to it.
    """
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    edges, rows, predicted, observed, error = calibration
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], "--", color="0.6", label="perfect")
    full = rows > 0
    upper.plot(predicted[full], observed[full], "o-", markersize=5, label="this model", clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed click rate (mean label)")
    upper.legend(loc="upper left", frameon=False)
    text = upper.set_title(f"{title}\nECE {error:.4f}, {rows.sum():,} rows", fontsize=11)
    text.set_parse_math(False)  # a run may be called $x$
    lower.bar(edges[:-1], rows, width=np.diff(edges), align="edge", color="C0", edgecolor="white")
    lower.set_yscale("symlog", linthresh=1)  # clicks are rare: bins differ by orders of magnitude, and some are empty
    lower.set(ylabel="rows", xlabel="predicted click rate (mean probability)", ylim=(0, None))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    save_picture(figure, file)


def attention(
    fields: Sequence[str], values: Sequence[str], weights: Sequence[np.ndarray], file: Path, title: str
) -> None:
    """Write the picture of ``attention_figure``: .png, .pdf or .svg."""
    check_picture(file)
    save_picture(attention_figure(fields, values, weights, title), file)


def attention_figure(fields: Sequence[str], values: Sequence[str], weights: Sequence[np.ndarray], title: str) -> Any:
    """What each field attended to in one prediction: a panel for each interacting layer and head.

    The colours begin at 0 and reach at least twice the even share 1 / F: weights that differ by little look alike.

    Args:
        fields: names, F.
        values: what stands in them.
        weights: of each layer float32[heads, F, F]; a row's field draws from a column's.
    """
    from matplotlib.figure import Figure

    if not weights:
        raise UserError("this model has no interacting layers (model.blocks 0), so there is no attention to draw")
    layers, heads, size, even = len(weights), len(weights[0]), max(2.6, 0.27 * len(fields)), 1 / len(fields)
    figure = Figure(figsize=(heads * size + 3.2, layers * size + 1.4), layout="constrained")
    panels = figure.subplots(layers, heads, squeeze=False)
    highest = max(2 * even, *(float(np.max(layer)) for layer in weights))  # of a dozen fields none comes near 1
    short = [value if len(value) <= VALUE else value[: VALUE - 1] + "…" for value in values]
    rows = [f"{name}: {value}" for name, value in zip(fields, short, strict=True)]
    for layer, head in np.ndindex(layers, heads):
        panel: Any = panels[layer, head]
        image = panel.imshow(weights[layer][head], vmin=0, vmax=highest, cmap="Blues")
        panel.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        panel.set_yticks(range(len(fields)), rows if head == 0 else [""] * len(fields), fontsize=7)
        names = fields if layer == layers - 1 else [""] * len(fields)
        panel.set_xticks(range(len(fields)), names, fontsize=7, rotation=90)
        for label in (*panel.get_yticklabels(), *panel.get_xticklabels()):
            label.set_parse_math(False)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, label=f"attention weight (dashed: even, 1/{len(fields)})")
    bar.ax.axhline(even, color="black", linestyle="--", linewidth=1)
    figure.suptitle(title, fontsize=10).set_parse_math(False)
    return figure
