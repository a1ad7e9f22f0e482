"""The programs of the benchmark's models for accelerators that need not be here: what a step executes, never how fast.

    python scripts/benchmark.py programs --target tpu-v5e h100 --json programs.json
    python scripts/benchmark.py programs gru4rec merrec --target tpu-v6e:2x2

Every model at the first of its sizes, two_tower also with --hard 4, compiled as jaxrec.compile does it. Kernels are the
fusions, custom calls, copies, sorts and scatters of a step, those of inner loops times their turns. What is printed is
Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec.benchmarks.sizes import FIELDS, INTERACTIONS, SIZES
from jaxrec.benchmarks.sweep import table
from jaxrec.cli.command import Parser, progress, ranged
from jaxrec.errors import nearest
from jaxrec.programs import targets, worker
from jaxrec.run import write_text

STEPS = 20  # of a block
SHARED = {"precision": "float32", "n_sample": 2048, "units": 100, "dim": 0, "fields": FIELDS,
          "interactions": INTERACTIONS // 10}  # fmt: skip
KEYS = ("model", "loss", "batch", "items", "hard", "head", "target", "devices", "steps_per_block", "kernels_per_step",
        "kernels_per_block", "copies", "temp_bytes", "argument_bytes", "making_bytes", "flop_per_step",
        "bytes_per_step", "collective_bytes_per_step", "float_atomics", "host_transfers", "estimated_cycles",
        "compile_s")  # fmt: skip
COLUMNS = ("model", "loss", "hard", "batch", "items", "target", "kernels_per_step", "copied_mb_per_step",
           "copied_mb_per_block", "temp_mb", "argument_mb", "mflop_per_step", "exchanged_mb_per_step", "float_atomics",
           "estimated_cycles", "compile_s")  # fmt: skip


def jobs(models: Sequence[str], steps: int, devices: int) -> list[worker.Job]:
    """What a process for a target is asked: each model at its first row."""
    found = []
    for model in models:
        first = {name: values[0] for name, values in SIZES[model].rows.items()}
        for more in ({}, {"hard": 4}) if "hard" in first else ({},):
            options = SHARED | {"items": None} | first | more | {"steps": steps, "devices": devices}
            found.append({"does": "benchmark", "model": model, "options": options})
    return found


def main(argv: Sequence[str]) -> None:
    """``scripts/benchmark.py programs``."""
    parser = Parser(prog="python scripts/benchmark.py programs", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SIZES)} (default: all)")
    parser.add_argument("--target", nargs="+", required=True, metavar="TARGET", help="such as tpu-v5e h100:8")
    parser.add_argument("--steps", type=ranged(int, 1), default=STEPS, help=f"of a block (default: {STEPS})")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    options = parser.parse_args(argv)
    for name in options.models:
        if name not in SIZES:
            parser.error(f"MODEL {name}: no such model{nearest(name, SIZES)}; there are {', '.join(SIZES)}")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such directory; make it first")
    chosen = [targets.parse(name) for name in dict.fromkeys(options.target)]
    for target in chosen:
        worker.check(target)
    rows = list[dict[str, Any]]()
    for target in chosen:
        asked = jobs(options.models or list(SIZES), options.steps, target.devices)
        with progress(f"compiling for {target.name}", len(asked)) as advance:
            for found in worker.run(target, asked):
                rows.append({key: found[key] for key in KEYS if key in found})
                advance()
    print(table([_shown(row) for row in rows], COLUMNS))
    if options.json:
        write_text(Path(options.json), json.dumps(rows, indent=2) + "\n")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what its columns show of it."""

    def copied(per: str) -> float:
        return sum(one["bytes"] * one["times"] for one in row["copies"] if one["per"] == per) / 1e6

    exchanged = sum(number for kinds in row["collective_bytes_per_step"].values() for number in kinds.values())
    return row | {
        "copied_mb_per_step": copied("step"), "copied_mb_per_block": copied("block"),
        "temp_mb": row["temp_bytes"] / 1e6, "argument_mb": row["argument_bytes"] / 1e6,
        "mflop_per_step": row["flop_per_step"] / 1e6,
        "exchanged_mb_per_step": exchanged / 1e6 if row["devices"] > 1 else None,
        "float_atomics": row["float_atomics"] if not row["target"].startswith("tpu") else None,
        "estimated_cycles": row["estimated_cycles"] or None,
    }  # fmt: skip
