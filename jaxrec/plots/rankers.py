"""A picture of a leaderboard: the figures of rankers with their intervals, a panel for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrec.metrics.bootstrap import Interval
from jaxrec.plots.pictures import save_picture, write_ticks


def draw_rankers(
    names: Sequence[str], figures: Mapping[str, Sequence[Interval]], lines: Mapping[str, Mapping[str, float]],
    file: Path,
) -> None:  # fmt: skip
    """Of each metric the figures of the rankers ``names``, the first at the top; ``lines`` by title, such as chance,
    the figures that are drawn across, by metric."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    figure = Figure(figsize=(1.6 + 3.6 * len(figures), 1.4 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(figures), squeeze=False, sharey=True)[0]
    places, drawn = range(len(names)), {}
    for panel, (metric, values) in zip(panels, figures.items(), strict=True):
        below, above = ([max(0.0, one.value - one.low) for one in values],
                        [max(0.0, one.high - one.value) for one in values])  # fmt: skip
        panel.errorbar([one.value for one in values], places, xerr=[below, above], fmt="o", capsize=3, color="C0")
        for number, (title, line) in enumerate(lines.items()):
            if metric in line:
                drawn[title] = panel.axvline(line[metric], linestyle=("--", ":")[number % 2], color=f"C{number + 1}")
        panel.set_title(f"test {metric}", fontsize=11)
        panel.grid(axis="x", color="0.9")
    write_ticks(panels[0].yaxis, names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False)
    save_picture(figure, file)
