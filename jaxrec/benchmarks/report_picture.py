"""The report's picture: a bar for each row, a panel for each model, a column for each machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.benchmarks.results import Results
from jaxrec.benchmarks.sweep import label
from jaxrec.pictures import legible, save_picture

WIDTH, BAR, MARGIN = 8.5, 0.3, 0.75  # inches: a column, a bar with its gap, a panel's title and axis
NAMED = ("model", "loss", "batch", "items")
PEER_COLOUR = "0.75"


class Bar(NamedTuple):
    """Events or samples a second with how far repetitions fell short of it and went beyond, and words beside it."""

    name: str
    value: float
    spread: tuple[float, float]
    text: str
    colour: str


def draw(machines: Sequence[list[Results]], file: Path) -> None:
    """Draw the rates of every row.

    Args:
        machines: the files of each. Their columns have scales of their own, as they must not be compared.
        file: where the picture goes; its suffix says what kind.
    """
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    models = list(dict.fromkeys(row["model"] for files in machines for one in files for row in one.rows))
    bars = [[_bars(model, files) for files in machines] for model in models]
    tallest = [max(len(panel) for panel in line) for line in bars]
    heights = [count * BAR + MARGIN for count in tallest]
    figure = Figure(figsize=(WIDTH * len(machines), sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(models), len(machines), squeeze=False, height_ratios=heights)
    for model, panels, line, most in zip(models, grid, bars, tallest, strict=True):
        for axes, found in zip(panels, line, strict=True):
            _panel(axes, model, found, most)
    for number, (files, axes) in enumerate(zip(machines, grid[0], strict=True)):
        machine = files[0].machine
        what = f"{machine['device']}\n{machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores, "
        what += f"jax {machine['jax']}, {', '.join(dict.fromkeys(one.date for one in files))}"
        if len(machines) > 1:
            what = f"{chr(ord('A') + number % 26)}{number // 26 or ''}: {what} (not to be compared)"
        legible(f"{what}\n", what.encode("ascii", "replace").decode()).on(axes.set_title("", fontsize=10))
    save_picture(figure, file)


def _bars(model: str, files: Sequence[Results]) -> list[Bar]:
    """The rows of a model, each followed by its peers."""
    rows = [row for one in files for row in one.rows if row["model"] == model]
    peers = [peer for one in files for peer in one.peers if peer["model"] == model]
    losses, found = list(dict.fromkeys(label(row) for row in rows)), []
    catalogues = len({row["items"] for row in rows}) > 1
    for row in rows:
        scale = row["events_per_s"] / row["steps_per_s"] if row["steps_per_s"] else 0.0
        name = f"{label(row)}, {row['batch']:,}" + (f", {row['items']:,} items" if catalogues else "")
        name += ", streamed" if row.get("streamed") else ""
        short, beyond = (scale * abs(row[f"steps_per_s_{end}"] - row["steps_per_s"]) for end in ("min", "max"))
        text = f"{_rate(row['steps_per_s'])} steps/s, {row['matmul_share']:.0%} of matrix product"
        colour = f"C{losses.index(label(row)) % 10}"
        found.append(Bar(name, row["events_per_s"], (short, beyond), text, colour))
        found += [_peer(peer) for peer in peers if all(peer[key] == row[key] for key in NAMED)]
        peers = [peer for peer in peers if any(peer[key] != row[key] for key in NAMED)]
    return found + [_peer(peer) for peer in peers]


def _peer(peer: dict[str, Any]) -> Bar:
    ratio = f", jaxrec {statistics.median(peer['ratios']):.1f} times" if peer["ratios"] else ""
    name = f"{peer['peer']}: {peer['loss']}, {peer['batch']:,}"
    return Bar(name, peer["events_per_s"], (0.0, 0.0), f"{_rate(peer['steps_per_s'])} steps/s{ratio}", PEER_COLOUR)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _panel(axes: Any, model: str, bars: Sequence[Bar], most: int) -> None:
    """A panel of one model on one machine.

    Args:
        most: bars of the fullest panel beside it, so that bars have the same width in all.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not bars:
        return axes.set_axis_off()
    axes.set_title(model, loc="left", fontsize=10, fontweight="bold")
    places = range(len(bars))
    values = [bar.value for bar in bars]
    spread = [[bar.spread[end] for bar in bars] for end in (0, 1)]
    axes.barh(places, values, xerr=spread, color=[bar.colour for bar in bars], ecolor="0.3", capsize=2, height=0.75)
    for place, bar in zip(places, bars, strict=True):
        text = axes.annotate(bar.text, (bar.value + bar.spread[1], place), (5, 0), textcoords="offset points",
                             va="center", fontsize=8)  # fmt: skip
        text.set_parse_math(False)
    names = [legible(bar.name, bar.name.encode("ascii", "replace").decode()) for bar in bars]
    axes.set_yticks(places, [name.text for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_parse_math(False)
        tick.set_fontfamily(name.family)
    longest = max(bar.value + bar.spread[1] for bar in bars) or 1.0
    axes.set(ylim=(most - 0.5, -0.5), xlim=(0, 1.6 * longest))  # room for the words
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("samples/s" if model in ("autoint", "two_tower") else "events/s", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return None
