"""The table as Markdown, the same as JSON, and what the picture needs: metrics with intervals, differences to the best,
and which of them are more than noise."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import __version__
from jaxrec.errors import listed
from jaxrec.leaderboard.kinds import Kind
from jaxrec.leaderboard.work import Row, Work
from jaxrec.metrics.bootstrap import Interval, interval
from jaxrec.metrics.clicks import higher_is_better


@dataclass
class Line:
    """A row of the table."""

    row: Row
    metrics: dict[str, Interval]
    difference: dict[str, Interval]  # to the best ranker; empty for that one
    by_seed: dict[str, list[float]]


def lines_of(kind: Kind, work: Work) -> list[Line]:
    """The finished rows, the best by the metric of the settings first."""
    kept = {name: work.kept(name) for name in work.rows}
    values = {name: kind.metrics(one) for name, one in kept.items()}
    samples = kind.samples(kept)
    order = sorted(kept, key=lambda name: values[name][kind.metric], reverse=higher_is_better(kind.metric))
    best, lines = order[0], []
    for name in order:
        metrics = {metric: interval(values[name][metric], samples[name][metric]) for metric in kind.columns}
        difference = {metric: interval(values[name][metric] - values[best][metric],
                                       samples[name][metric] - samples[best][metric])
                      for metric in kind.columns if name != best}  # fmt: skip
        each = [kind.metrics(one[None]) for one in kept[name]]
        by_seed = {metric: [one[metric] for one in each] for metric in kind.columns} if len(each) > 1 else {}
        lines.append(Line(work.rows[name], metrics, difference, by_seed))
    return lines


def facts(kind: Kind, work: Work, command: str, budget: str, seeds: list[int]) -> dict[str, Any]:
    """What the head of the table says."""
    manifest = kind.dataset.manifest
    return {
        "command": command,
        "data": str(kind.dataset.path),
        "source": manifest.get("source"),
        "content_hash": manifest["content_hash"],
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "machine": f"{processor()}, {os.cpu_count()} cores; {jax.devices()[0].device_kind}; jax {jax.__version__}, "
                   f"jaxrec {__version__}",
        "kind": kind.task,
        "test_queries": kind.queries("test"),
        "validation": kind.validation,
        "metric": kind.metric,
        "seeds": seeds,
        "budget": budget,
        "seconds": round(work.used(), 1),
    }  # fmt: skip


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def verdict(kind: Kind, lines: list[Line]) -> str:
    """A sentence on which differences to the best are more than noise."""
    best, others = lines[0], lines[1:]
    if not others:
        return f"{best.row.name} is the only ranker."
    sure = [line.row.name for line in others if line.difference[kind.metric].excludes_zero]
    unsure = [line.row.name for line in others if not line.difference[kind.metric].excludes_zero]
    parts = [f"By {kind.metric}, {best.row.name} is the best."]
    if sure:
        parts.append(f"Its lead is more than noise over {listed(sure)}.")
    if unsure:
        parts.append(f"It is not told apart from {listed(unsure)}: the interval of the difference holds 0.")
    return " ".join(parts)


def markdown(kind: Kind, head: dict[str, Any], lines: list[Line], notes: list[str], picture: str) -> str:
    """The file."""
    refit = "Training is the training split of the data; validation is never trained on."
    if kind.refits:
        refit = "What is chosen is fitted once more on all of training, validation included, where the row says so."
    seeds = ", ".join(map(str, head["seeds"]))
    text = [
        f"# Leaderboard: {head['data']}", "",
        f"    {head['command']}", "",
        f"- Data: {head['source']}, content hash `{head['content_hash'][:16]}`; {head['test_queries']:,} test queries.",
        f"- Date, machine: {head['date']}; {head['machine']}.",
        f"- Budget: {head['budget']}; used {head['seconds']:,.0f} s, compiling and evaluating included.",
        f"- Protocol: settings are chosen by {kind.metric} on validation ({head['validation']}). {refit} The test is "
        "read once per row, at the end; ranks are conservative, over all items. Seeds of the last training: "
        f"{seeds}" + ("; figures are means over the seeds of a row." if len(head["seeds"]) > 1 else "."),
        "- Intervals: 95 %, bootstrap over "
        f"{'sessions' if kind.task == 'sessions' else 'users'} drawn as wholes; differences are paired. Each "
        "comparison stands alone: of twenty, one may mislead.", "",
        verdict(kind, lines), "",
        *table(kind, lines), "",
        f"![figures with intervals]({picture})",
    ]  # fmt: skip
    if notes:
        text += ["", "Not in the table, or not as planned:", "", *(f"- {note}" for note in notes)]
    return "\n".join(text) + "\n"


def table(kind: Kind, lines: list[Line]) -> list[str]:
    """Rows of rankers, of chance and of the optimum."""
    heads = ["ranker", *(f"{name} (95 %)" for name in kind.columns), f"{kind.metric} to the best (95 %)", "trained on",
             "fit s", "evaluate s", "memory MiB", "settings"]  # fmt: skip
    rows = [heads, ["---", *["---:"] * (len(kind.columns) + 1), "---", *["---:"] * 3, "---"]]
    blank = [""] * 6
    if best := kind.optimum():
        rows.append(["*best known ranking*", *(_cell(best.get(name)) for name in kind.columns), *blank])
    for line in lines:
        row = line.row
        difference = line.difference.get(kind.metric)
        seeds = f"; seeds {' '.join(map(str, row.seeds))}" if len(row.seeds) > 1 else ""
        tried = f"; {row.trials} tried" if row.trials > 1 else ""
        rows.append([
            row.name, *(span(line.metrics[name]) for name in kind.columns),
            "-" if difference is None else span(difference, "+"), row.trained_on, f"{row.seconds_fit:,.1f}",
            f"{row.seconds_evaluate:,.1f}", f"{row.memory_mib:,.0f}", f"{row.settings}{seeds}{tried}",
        ])  # fmt: skip
    chance = kind.chance()
    rows.append(["*chance*", *(_cell(chance.get(name)) for name in kind.columns), *blank])
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]


def span(one: Interval, sign: str = "") -> str:
    """A value with the ends of its interval: ``.3971 (.3922 to .4020)``."""
    value, low, high = (format(number, f"{sign}.4f").replace("0.", ".", 1) for number in one)
    return f"{value} ({low} to {high})"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".replace("0.", ".", 1)


def as_json(kind: Kind, head: dict[str, Any], lines: list[Line], notes: list[str], work: Work) -> str:
    """The same for machines, with every trial."""
    rows = [{
        **asdict(line.row), "metrics": {name: one._asdict() for name, one in line.metrics.items()},
        "difference_to_best": {name: {**one._asdict(), "more_than_noise": bool(one.excludes_zero)}
                               for name, one in line.difference.items()},
        "by_seed": line.by_seed,
    } for line in lines]  # fmt: skip
    whole = head | {"verdict": verdict(kind, lines), "rows": rows, "chance": kind.chance(), "optimum": kind.optimum(),
                    "baselines_on_validation": work.baselines, "trials": [asdict(one) for one in work.trials],
                    "notes": notes}  # fmt: skip
    return json.dumps(_plain(whole), indent=2) + "\n"


def _plain(value: Any) -> Any:
    """JSON's values: NumPy's numbers are Python's, a number that is none is null."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
