"""Training throughput on synthetic sessions, beside what the machine could do.

    python scripts/benchmark.py gru4rec --batch 32 128 512 --json out.json
    python scripts/benchmark.py narm sasrec
    python scripts/benchmark.py autoint --batch 2048 65536
    python scripts/benchmark.py two_tower --loss infonce
    python scripts/benchmark.py merrec --items 1000000 --head text both
    python scripts/benchmark.py softmax                  # the output layer alone, beside the plain formula

Each row is the training loop's own compiled block on blocks of its own feed, cut beforehand: the median of several
repetitions, without compilation. FLOP and bytes a step are counted from the shapes: those that the algorithm needs,
not those that happen to be executed. Shares are of a matrix-product and a copy ceiling measured just before.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import config as configuration
from jaxrec import runtime
from jaxrec.benchmarks import click_models, event_models, session_models, tower_models
from jaxrec.benchmarks.case import Case
from jaxrec.benchmarks.machine import ceilings
from jaxrec.benchmarks.output_layer import output_layer, output_table
from jaxrec.benchmarks.session_models import SIZES
from jaxrec.cli import Parser, command, progress
from jaxrec.rundir import write_text


def measure(options: Any) -> list[dict[str, Any]]:
    """All rows of the sweep. Repetitions go round over the rows, so that a drift of the machine meets all alike."""
    tops = ceilings()
    sweep = [
        (model, *rest)
        for model in options.models
        if model in SIZES
        for rest in itertools.product(
            options.items or [SIZES[model].items],
            options.loss or SIZES[model].loss,
            options.batch or SIZES[model].batch,
        )
    ]
    rows = options.batch or [click_models.BATCH] if "autoint" in options.models else []
    towers = itertools.product(
        options.loss or tower_models.LOSSES, options.batch or [tower_models.BATCH], tower_models.HARD
    )
    pairs = list(towers) if "two_tower" in options.models else []
    events = itertools.product(
        options.items or event_models.ITEMS, options.loss or [event_models.LOSS], options.batch or [event_models.BATCH],
        options.head,
    )  # fmt: skip
    named = list(events) if "merrec" in options.models else []
    cases = []
    with progress("compiling", len(sweep) + len(rows) + len(pairs) + len(named)) as advance:
        for prepared in itertools.chain(
            (session_models.prepare(options, *one) for one in sweep),
            (click_models.prepare(options, batch) for batch in rows),
            (tower_models.prepare(options, *one) for one in pairs),
            (event_models.prepare(options, *one) for one in named),
        ):
            cases.append(Case(prepared))
            cases[-1].steps_per_second(options.steps)  # the first run warms caches and does not count
            advance()
    rates: list[list[float]] = [[] for _ in cases]
    with progress("measuring", options.repetitions * len(cases)) as advance:
        for _ in range(options.repetitions):
            for case, found in zip(cases, rates, strict=True):
                found.append(case.steps_per_second(options.steps))
                advance()
    if options.profile:
        with jax.profiler.trace(options.profile):
            for case in cases:
                case.steps_per_second(options.steps)
    return [_row(case, found, tops) for case, found in zip(cases, rates, strict=True)]


def _row(case: Case, rates: list[float], tops: dict[str, float]) -> dict[str, Any]:
    prepared, rate = case.prepared, statistics.median(rates)
    return {
        "model": prepared.config.model.name,
        "loss": prepared.config.loss.name,
        "batch": prepared.config.training.batch_size,
        "items": prepared.items,
        **prepared.shown,
        "steps_per_s": round(rate, 2),
        "steps_per_s_min": round(min(rates), 2),
        "steps_per_s_max": round(max(rates), 2),
        "targets_per_step": round(prepared.targets, 1),
        "events_per_s": round(rate * prepared.targets, 1),
        "flop_per_step": prepared.flop,
        "bytes_per_step": prepared.size,
        "gflop_per_s": round(prepared.flop * rate / 1e9, 2),
        "matmul_share": round(prepared.flop * rate / 1e9 / tops["matmul_gflop_per_s"], 4),
        "copy_share": round(prepared.size * rate / 1e9 / tops["copy_gb_per_s"], 4),
        "compile_s": round(case.compile_seconds, 2),
        "step_memory_mb": round(case.step_memory / 1e6, 3),
        **{f"ceiling_{name}": round(value, 2) for name, value in tops.items()},
    }


def table(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows for people."""
    head = f"{machine['device']} ({machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores), "
    lines = [head + f"jax {machine['jax']}, Python {machine['python']}"]
    lines.append(f"ceilings: {rows[0]['ceiling_matmul_gflop_per_s']:,.0f} GFLOP/s matrix product, "
                 f"{rows[0]['ceiling_copy_gb_per_s']:,.1f} GB/s copy")  # fmt: skip
    lines.append(f"{'model':10}{'loss':22}{'batch':>6}{'items':>10}{'steps/s':>10}{'(min - max)':>18}{'events/s':>12}"
                 f"{'MFLOP/step':>12}{'of matmul':>10}{'of copy':>9}{'compile':>9}")  # fmt: skip
    for row in rows:
        spread = f"({row['steps_per_s_min']:,.0f} - {row['steps_per_s_max']:,.0f})"
        loss = row["loss"] + (" + hard" if row.get("hard") else "") + (f" {row['head']}" if "head" in row else "")
        lines.append(
            f"{row['model']:10}{loss:22}{row['batch']:6}{row['items']:10,}{row['steps_per_s']:10,.0f}{spread:>18}"
            f"{row['events_per_s']:12,.0f}{row['flop_per_step'] / 1e6:12,.0f}{row['matmul_share']:10.1%}"
            f"{row['copy_share']:9.1%}{row['compile_s']:8.1f}s"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = Parser(prog="python scripts/benchmark.py", description=__doc__)
    models = [*SIZES, "autoint", "two_tower", "merrec"]
    parser.add_argument("models", nargs="+", choices=[*models, "softmax"], metavar="MODEL",
                        help=f"of {', '.join(models)}; softmax: the output layer alone")  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", default=[],
                        help="lanes, targets or rows a step (default: 32 128 512; narm, sasrec, merrec: "
                        "512; autoint: 2048; two_tower: 4096)")  # fmt: skip
    parser.add_argument("--loss", nargs="+", choices=configuration.choices("loss.name"), default=[],
                        help="losses (default: cross_entropy bpr_max; narm, sasrec: softmax; two_tower: triplet "
                        "infonce; merrec: cross_entropy)")  # fmt: skip
    parser.add_argument("--items", type=int, nargs="+", default=[],
                        help="catalogue sizes (default: 40000; narm, sasrec: 43097, Diginetica's; two_tower: "
                        "10000, one; merrec: 10000 100000 1000000)")  # fmt: skip
    parser.add_argument("--units", type=int, default=100, help="GRU units; gru4rec: item vectors too (default: 100)")
    parser.add_argument("--dim", type=int, default=0, help="narm, sasrec: width of item vectors (default: 50); "
                        "autoint: of values and layers (default: 32)")  # fmt: skip
    parser.add_argument("--fields", type=int, default=click_models.FIELDS, help="autoint: of a row (default: 10)")
    parser.add_argument("--interactions", type=int, default=tower_models.INTERACTIONS,
                        help=f"two_tower: generated purchases (default: {tower_models.INTERACTIONS})")  # fmt: skip
    parser.add_argument("--head", nargs="+", choices=configuration.choices("model.head"), default=event_models.HEADS,
                        help="merrec: what ranks (default: both)")  # fmt: skip
    parser.add_argument("--precision", choices=configuration.choices("loss.precision"), default="float32",
                        help="of the products of a full softmax (default: float32)")  # fmt: skip
    parser.add_argument("--n-sample", type=int, default=2048, help="drawn negatives (default: 2048)")
    parser.add_argument("--steps", type=int, default=200, help="steps a repetition, and at most a block (default: 200)")
    parser.add_argument("--repetitions", type=int, default=7, help="of which the median counts (default: 7)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    parser.add_argument("--profile", metavar="DIR", help="write a jax.profiler trace of one repetition there")
    options = parser.parse_args(argv)
    for name in ("batch", "items", "units", "steps", "repetitions", "fields", "interactions"):
        if np.min(getattr(options, name), initial=1) < 1:
            parser.error(f"--{name} {np.min(getattr(options, name))}: expected whole numbers from 1")
    if options.dim < 0:
        parser.error(f"--dim {options.dim}: expected a whole number from 1")
    if options.n_sample < 0:
        parser.error(f"--n-sample {options.n_sample}: expected a whole number from 0")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such directory; make it first")
    runtime.start()
    result: dict[str, Any] = {"machine": runtime.machine()}
    alone = "softmax" in options.models
    options.models = [model for model in options.models if model != "softmax"]
    if options.models:
        result["rows"] = measure(options)
        print(table(result["machine"], result["rows"]))
    if alone:
        result["softmax"] = output_layer(options)
        print(output_table(result["softmax"]))
    if options.json:
        write_text(Path(options.json), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(command(main))
