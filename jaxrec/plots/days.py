"""A picture of a replay: metrics by day, a line for each policy of retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrec.plots.pictures import save_picture, write_ticks

MOST = 15  # days whose dates are written
STYLES = ("o-", "s--", "^:", "v-.", "D-")  # by policy; the points of the first day lie on each other


def draw_days(dates: Sequence[str], figures: Mapping[str, Mapping[str, Sequence[float]]], file: Path) -> None:
    """Of each metric a panel, and in it of each policy a line over ``dates``; ``figures`` by policy and metric."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    metrics = list(next(iter(figures.values())))
    figure = Figure(figsize=(5 * len(metrics), 3.8), layout="constrained")
    for panel, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for number, (policy, values) in enumerate(figures.items()):
            style = STYLES[number % len(STYLES)]
            panel.plot(range(len(dates)), values[metric], style, markersize=5, fillstyle="none", label=policy)
        every = -(-len(dates) // MOST)
        write_ticks(panel.xaxis, [date if place % every == 0 else "" for place, date in enumerate(dates)], rotation=60)
        panel.set_title(f"{metric} of each day's targets", fontsize=11)
        panel.grid(axis="y", color="0.9")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save_picture(figure, file)
