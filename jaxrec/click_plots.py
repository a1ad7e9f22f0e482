"""The reliability picture of a click model: observed against predicted click rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrec.click_metrics import Calibration


def reliability(calibration: Calibration, file: Path, title: str) -> None:
    """Draw the mean label of each bin over its mean probability, and the rows of each bin beneath.

    Args:
        calibration: of ``click_metrics.calibration``.
        file: where the picture goes; its suffix (.png, .pdf or .svg) says what kind.
        title: what is drawn; the calibration error is added to it.
    """
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    edges, rows, predicted, observed, error = (np.asarray(part) for part in calibration)
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], "--", color="0.6", label="perfect")
    full = rows > 0
    upper.plot(predicted[full], observed[full], "o-", markersize=5, label="this model", clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed click rate (mean label)")
    upper.legend(loc="upper left", frameon=False)
    text = upper.set_title(f"{title}\nECE {float(error):.4f}, {rows.sum():,} rows", fontsize=11)
    text.set_parse_math(False)  # a run may be called $x$
    lower.bar(edges[:-1], rows, width=np.diff(edges), align="edge", color="C0", edgecolor="white")
    lower.set_yscale("symlog", linthresh=1)  # clicks are rare: bins differ by orders of magnitude, and some are empty
    lower.set(ylabel="rows", xlabel="predicted click rate (mean probability)", ylim=(0, None))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    part = file.with_name(f".{file.name}.part")
    try:  # there whole or not at all
        figure.savefig(part, format=file.suffix[1:].lower(), dpi=120)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
