"""The sweep: which rows the command line asks for, their measurement in turns, and the table for people."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxrec.benchmarks.case import Case, Prepared, Round
from jaxrec.benchmarks.machine import ceilings
from jaxrec.benchmarks.sizes import SIZES, prepare
from jaxrec.cli.command import progress

MODELS = tuple(SIZES)
STEPS = 200  # a repetition
REPETITIONS, LEAST_REPETITIONS, ENOUGH_SECONDS = 7, 3, 20.0


class Job(NamedTuple):
    """A row that is asked for: its model, and the options with its own values of those that give several."""

    model: str
    options: argparse.Namespace

    def prepare(self) -> Prepared:
        """The model with its feed."""
        return prepare(self.model, self.options)


def jobs(options: Any) -> list[Job]:
    """The rows by model, in the order in which the models are named."""
    on_cpu, found = jax.default_backend() == "cpu", []
    for model in options.models:
        size = SIZES[model]
        steps = options.steps or (on_cpu and size.cpu_steps) or STEPS
        choices = [getattr(options, name, None) or default for name, default in size.rows.items()]
        for values in itertools.product(*choices):
            own = dict(zip(size.rows, values, strict=True)) | {"steps": steps}
            found.append(Job(model, argparse.Namespace(**vars(options) | own)))
    return found


def compile_cases(options: Any) -> list[Case]:
    """All rows of the sweep, compiled, and run once: that warms caches and does not count."""
    asked, cases = jobs(options), []
    with progress("compiling", len(asked)) as advance:
        for job in asked:
            cases.append(Case(job.prepare()))
            _once(cases[-1], options)
            advance()
    return cases


def measure(cases: Sequence[Case], options: Any) -> list[dict[str, Any]]:
    """The rows. Repetitions go round over them, so that a drift of the machine meets all alike.

    Unless their number is given, a row that has taken ``ENOUGH_SECONDS`` stops after ``LEAST_REPETITIONS``.
    """
    tops = ceilings()
    rounds: list[list[Round]] = [[] for _ in cases]
    repetitions = options.repetitions or REPETITIONS
    with progress("measuring", repetitions * len(cases)) as advance:
        for turn in range(repetitions):
            for case, found in zip(cases, rounds, strict=True):
                enough = turn >= LEAST_REPETITIONS and sum(one.seconds for one in found) > ENOUGH_SECONDS
                if options.repetitions or not enough:
                    found.append(_once(case, options))
                advance()
    if options.profile:
        with jax.profiler.trace(options.profile):
            for case in cases:
                _once(case, options)
    return [_row(case, found, tops) for case, found in zip(cases, rounds, strict=True)]


def _once(case: Case, options: Any) -> Round:
    steps = options.steps or case.prepared.config.training.steps_per_block
    return case.streamed(steps) if options.streamed else case.cut(steps)


def _row(case: Case, rounds: list[Round], tops: dict[str, float]) -> dict[str, Any]:
    prepared, rates = case.prepared, [one.rate for one in rounds]
    rate, waits = statistics.median(rates), [one.waited for one in rounds if one.waited is not None]
    # Of a whole epoch some lanes end before others do.
    targets = prepared.feed.pairs / prepared.feed.shape.used if waits else prepared.targets
    return {
        "model": prepared.config.model.name,
        "loss": prepared.config.loss.name,
        "batch": prepared.config.training.batch_size,
        "items": prepared.items,
        **prepared.shown,
        "streamed": bool(waits),
        "devices": case.devices,
        "steps_per_block": prepared.feed.shape.steps,
        "steps_per_s": round(rate, 2),
        "steps_per_s_min": round(min(rates), 2),
        "steps_per_s_max": round(max(rates), 2),
        "repetitions": len(rates),
        "targets_per_step": round(targets, 1),
        "events_per_s": round(rate * targets, 1),
        **({"input_wait_share": round(statistics.median(waits), 4)} if waits else {}),
        "flop_per_step": prepared.work.flop,
        "bytes_per_step": prepared.work.bytes,
        "gflop_per_s": round(prepared.work.flop * rate / 1e9, 2),
        "matmul_share": round(prepared.work.flop * rate / 1e9 / tops["matmul_gflop_per_s"] / case.devices, 4),
        "copy_share": round(prepared.work.bytes * rate / 1e9 / tops["copy_gb_per_s"] / case.devices, 4),
        "compile_s": round(case.compile_seconds, 2),
        "step_memory_mb": round(case.step_memory / 1e6, 3),
        "peak_memory_mb": round(case.peak_memory / 1e6, 3),
        **{f"ceiling_{name}": round(value, 2) for name, value in tops.items()},
    }


def label(row: dict[str, Any]) -> str:
    """What tells a row from others of its model: the loss with its hard negatives, and what ranks."""
    return row["loss"] + (" + hard" if row.get("hard") else "") + (f" {row['head']}" if "head" in row else "")


def table(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows for people; ``sent`` are the bytes that a step exchanges at eight devices."""
    head = f"{machine['device']} ({machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores), "
    lines = [head + f"jax {machine['jax']}, Python {machine['python']}"]
    lines.append(f"ceilings: {rows[0]['ceiling_matmul_gflop_per_s']:,.0f} GFLOP/s matrix product, "
                 f"{rows[0]['ceiling_copy_gb_per_s']:,.1f} GB/s copy")  # fmt: skip
    lines.append(f"{'model':10}{'loss':22}{'batch':>6}{'items':>10}{'steps/s':>10}{'(min - max)':>18}{'events/s':>12}"
                 f"{'MFLOP/step':>12}{'of matmul':>10}{'of copy':>9}{'compile':>9}{'peak MB':>10}"
                 f"{'sent':>10}{'waits' if rows[0]['streamed'] else '':>7}")  # fmt: skip
    for row in rows:
        spread = f"({row['steps_per_s_min']:,.0f} - {row['steps_per_s_max']:,.0f})"
        peak, sent = row["peak_memory_mb"], row.get("exchanged_per_step")
        exchanged = "-" if sent is None else f"{sum(sent.values()) / 1e3:,.1f}k"
        waits = f"{row['input_wait_share']:7.1%}" if row["streamed"] else ""
        lines.append(
            f"{row['model']:10}{label(row):22}{row['batch']:6}{row['items']:10,}{row['steps_per_s']:10,.0f}{spread:>18}"
            f"{row['events_per_s']:12,.0f}{row['flop_per_step'] / 1e6:12,.0f}{row['matmul_share']:10.1%}"
            f"{row['copy_share']:9.1%}{row['compile_s']:8.1f}s{peak:10,.{0 if peak >= 10 else 2}f}"
            f"{exchanged:>10}{waits}"
        )
    return "\n".join(line.rstrip() for line in lines)
