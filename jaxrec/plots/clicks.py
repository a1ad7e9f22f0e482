"""Pictures of click models: reliability (observed against predicted click rates) and attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.errors import UserError
from jaxrec.metrics.clicks import Calibration
from jaxrec.plots.pictures import save_picture, write, write_ticks

VALUE = 18  # characters of a value beside its field


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
