"""What a search leaves for the reader: a line a trial, trials.csv, best.yaml, and two pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrec import config as configuration
from jaxrec.cli.command import tell
from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.metrics.clicks import higher_is_better
from jaxrec.plots.pictures import save_picture
from jaxrec.run import write_text
from jaxrec.tune.search_space import Parameter, Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
COLUMNS = 3  # panels side by side
PANEL = (4.0, 3.2)  # inches
LETTERS = 13  # in an inch of a tick's label
LABEL = 60  # characters of a choice under its place
TICKS = 5  # at most on a logarithmic axis
STEPS = (1, 2, 2.5, 5, 10)  # between the ticks of a linear axis, times a power of ten


def best_epoch(trial: FrozenTrial, higher: bool) -> int | None:
    """The epoch of a trial's best value, the first where several share it; None without a value."""
    values = {epoch: value for epoch, value in trial.intermediate_values.items() if not math.isnan(value)}
    return min(values, key=lambda epoch: (-values[epoch] if higher else values[epoch], epoch), default=None)


def best_trial(trials: Sequence[FrozenTrial], higher: bool) -> FrozenTrial | None:
    """The best of the complete trials, the first where several share the value; None without any."""
    values = {trial.number: _value(trial, higher) for trial in trials if trial.state.name == "COMPLETE"}
    best = min(values, key=lambda number: (-values[number] if higher else values[number], number), default=None)
    return None if best is None else next(trial for trial in trials if trial.number == best)


def _value(trial: FrozenTrial, higher: bool) -> float:
    """A trial's value at its best epoch, also that of a pruned one; not a number without any."""
    epoch = best_epoch(trial, higher)
    return math.nan if epoch is None else trial.intermediate_values[epoch]


@dataclass(frozen=True)
class Result:
    """What is written about a search.

    Attributes:
        base, space: what was searched.
        out: the study's directory.
        metric: of the validation split.
    """

    base: Config
    space: Space
    out: Path
    metric: str

    @property
    def higher(self) -> bool:
        return higher_is_better(self.metric)

    def line(self, trials: Sequence[FrozenTrial], number: int) -> str:
        """A finished trial in a line."""
        trial, best = trials[number], best_trial(trials, self.higher)
        drawn = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
        took = f"{trial.user_attrs['seconds']:.1f} s"
        epoch = best_epoch(trial, self.higher)
        if trial.state.name == "FAIL" or epoch is None:
            outcome = f"failed ({trial.user_attrs.get('failure', 'no value')}), {took}"
        else:
            value = f"{self.metric} {_value(trial, self.higher):.4f} (epoch {epoch}), {took}"
            outcome = f"{STATES[trial.state.name]}, {value}"
        leader = f"; best {_value(best, self.higher):.4f} (trial {best.number})" if best else ""
        return f"trial {number}: {outcome}; {drawn}{leader}"

    def write_tables(self, trials: Sequence[FrozenTrial]) -> None:
        """``trials.csv``, and ``best.yaml`` where a trial is complete."""
        names = [parameter.field for parameter in self.space.parameters]
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["number", "state", "value", "best_epoch", "seconds", *names])
        for trial in trials:
            epoch, seconds = best_epoch(trial, self.higher), trial.user_attrs.get("seconds")
            value = "" if epoch is None else repr(_value(trial, self.higher))
            numbers = [value, "" if epoch is None else epoch, "" if seconds is None else f"{seconds:.2f}"]
            row = [trial.number, STATES[trial.state.name], *numbers]
            drawn = (trial.params.get(name, "") for name in names)
            table.writerow([*row, *("null" if value is None else value for value in drawn)])
        write_text(self.out / "trials.csv", stream.getvalue())
        if (best := best_trial(trials, self.higher)) is None:
            return
        head = (
            f"# validation {self.metric} {_value(best, self.higher):.6g} after epoch {best_epoch(best, self.higher)}: "
            f"trial {best.number}, the best of {len(trials)} of python -m jaxrec.tune\n"
            f"# its run: {self.out / f'trial_{best.number:04d}'}\n"
            f"# python -m jaxrec.train --config {self.out / 'best.yaml'}\n"
        )
        config = self.space.config(self.base, best.params)
        write_text(self.out / "best.yaml", head + configuration.dump(config))

    def write(self, trials: Sequence[FrozenTrial]) -> None:
        """Tables and pictures, and a last word."""
        self.write_tables(trials)
        best = best_trial(trials, self.higher)
        if best is None:
            raise UserError(f"{self.out}: none of {len(trials)} trials is complete, see trials.csv there; choose lower "
                            "learning rates in --space and another --out")  # fmt: skip
        save_picture(draw_history(trials, self.metric), self.out / "history.png")
        save_picture(draw_parameters(trials, self.space.parameters, self.metric), self.out / "parameters.png")
        states = [STATES[trial.state.name] for trial in trials]
        counts = ", ".join(f"{states.count(one)} {one}" for one in STATES.values() if one in states)
        value = f"{self.metric} {_value(best, self.higher):.4f} (epoch {best_epoch(best, self.higher)})"
        tell(f"{self.out}: {len(trials)} trials ({counts}); best: trial {best.number}, {value}")
        tell(f"wrote best.yaml, trials.csv, history.png and parameters.png to {self.out}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)


# ---- pictures --------------------------------------------------------------------------------------------------------


def draw_history(trials: Sequence[FrozenTrial], metric: str) -> Figure:
    """Values by trial, and the best so far as a line; failed trials are crosses at the bottom."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state
    from matplotlib.ticker import MaxNLocator

    higher = higher_is_better(metric)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    _draw_values(axes, [(trial.number, trial) for trial in trials], higher)
    failed = [trial.number for trial in trials if trial.state.name == "FAIL"]
    if failed:
        axes.plot(failed, [0.03] * len(failed), "x", color="C3", transform=axes.get_xaxis_transform(), label="failed")
    leaders = [(trial.number, best_trial(trials[: place + 1], higher)) for place, trial in enumerate(trials)]
    line = [(number, _value(best, higher)) for number, best in leaders if best is not None]
    axes.step(*zip(*line, strict=True), where="post", color="C1", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False)
    return figure


def draw_parameters(trials: Sequence[FrozenTrial], parameters: Sequence[Parameter], metric: str) -> Figure:
    """A panel for each parameter: values by what trials drew, on a logarithmic axis where it was searched so."""
    from matplotlib.figure import Figure

    columns = min(len(parameters), COLUMNS)
    rows = math.ceil(len(parameters) / columns)
    figure = Figure(figsize=(max(columns * PANEL[0], 5.0), rows * PANEL[1]), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel, parameter in zip(panels, parameters, strict=False):
        drawn = [(trial.params[parameter.field], trial) for trial in trials if parameter.field in trial.params]
        if parameter.choices:
            labels = parameter.labels
            drawn = [(labels.index(label), trial) for label, trial in drawn]
            _mark_choices(panel, labels)
        else:
            _mark_range(panel, parameter)
        _draw_values(panel, drawn, higher_is_better(metric))
        panel.set_xlabel(parameter.field)
    for row in range(rows):
        panels[row * columns].set_ylabel(f"validation {metric}")
    for panel in panels[len(parameters) :]:
        panel.remove()
    return figure


def _mark_choices(panel: Axes, labels: Sequence[Any]) -> None:
    """A tick for each choice, called by its name: on several lines, upright where there is no room for that."""
    texts = [json.dumps(label) if isinstance(label, bool | None) else str(label) for label in labels]
    room = int(0.9 * PANEL[0] * LETTERS / len(texts)) - 1  # letters between two ticks
    upright = room < 6 and max(map(len, texts)) > room
    short = [text if len(text) <= LABEL else text[: LABEL - 1] + "…" for text in texts]
    lines = short if upright else [textwrap.fill(text, room) for text in short]
    panel.set_xticks(range(len(texts)), lines, fontsize=9, rotation=90 if upright else 0)
    for tick in panel.get_xticklabels():
        tick.set_parse_math(False)  # a choice may be called $x$
    panel.set_xlim(-0.5, len(texts) - 0.5)


def _mark_range(panel: Axes, parameter: Parameter) -> None:
    """An axis over all of a range, also where trials have drawn but a part of it, with plain numbers at its ticks."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    low, high, whole = float(parameter.low), float(parameter.high), isinstance(parameter.low, int)
    if parameter.log:
        panel.set_xscale("log")
        ticks = log_ticks(low, high, whole)
        panel.set_xticks(ticks, [plain(tick) for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        margin = (high / low) ** 0.05
        panel.set_xlim(low / margin, high * margin)
    else:
        panel.xaxis.set_major_formatter(lambda number, _: plain(number))
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=whole, min_n_ticks=1, steps=STEPS))
        margin = 0.05 * (high - low)
        panel.set_xlim(low - margin, high + margin)


def log_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """At most ``TICKS`` round numbers within a range: as many as a logarithmic axis has room for.

    >>> log_ticks(512, 4096), log_ticks(0.0003, 0.01), log_ticks(1e-7, 0.01)
    ([700.0, 1000.0, 2000.0, 3000.0], [0.0005, 0.001, 0.002, 0.005, 0.01], [1e-06, 0.0001, 0.01])
    """
    from matplotlib.ticker import MaxNLocator

    def within(tick: float) -> bool:
        return low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)

    exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    series: list[tuple[tuple[int, ...], int]] = [((1, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1)]
    series += [((1,), every) for every in range(1, len(exponents) + 1)]
    for digits, every in series:
        numbers = [float(f"{digit}e{exponent}") for exponent in exponents if exponent % every == 0 for digit in digits]
        ticks = [number for number in numbers if within(number)]
        if len(ticks) <= TICKS:
            break
    if len(ticks) < 2:  # a narrow range, which is as good as linear
        locator = MaxNLocator(4, integer=whole, min_n_ticks=1, steps=STEPS)
        ticks = [float(tick) for tick in locator.tick_values(low, high) if within(tick)]
    return ticks


def plain(number: float) -> str:
    """A number as people write it, with an exponent where there would be many zeros.

    >>> plain(2000.0), plain(0.0003), plain(2e-7), plain(3e6)
    ('2000', '0.0003', '2e-7', '3e6')
    """
    if number == 0 or 1e-4 <= abs(number) < 1e6:
        return f"{number:g}"
    digits, exponent = f"{number:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _draw_values(axes: Axes, drawn: Sequence[tuple[float, FrozenTrial]], higher: bool) -> None:
    """Complete trials as dots, pruned ones as rings at the best that they reached."""
    for state, color, face in (("COMPLETE", "C0", "C0"), ("PRUNED", "0.6", "none")):
        points = [(x, _value(trial, higher)) for x, trial in drawn if trial.state.name == state]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=color, markerfacecolor=face, label=STATES[state])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
