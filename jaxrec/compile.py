"""python -m jaxrec.compile: what accelerators would run of a configuration, compiled on any machine.

    python -m jaxrec.compile --config configs/gru4rec_diginetica.yaml --target tpu-v5e:2x2 h100
    python -m jaxrec.compile --config configs/merrec.yaml --items 80000000 --target tpu-v6e:4x4
    python -m jaxrec.compile --config configs/sessions.yaml --items 1000000 --target cpu --measure

Sizes (--items) are given where there is no data set yet. It answers whether a run fits, by part of a device's memory,
what a step executes, and what devices exchange. It shows no speed: nothing is run, and the bound is that of vendors'
peaks. Targets: tpu-v5e, tpu-v6e, tpu-v5p with a topology (one chip without), h100, h200, a100, l4 with a number of
devices, cpu with a number of virtual devices.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec import config as configuration
from jaxrec.cli.command import Parser, command, progress, ranged
from jaxrec.programs import report, targets, worker, workload
from jaxrec.programs.plan import shape_of
from jaxrec.run import write_text

SIZES = ("items", "users", "names", "events")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxrec.compile", description=__doc__,
        usage="python -m jaxrec.compile --config FILE --target TARGET [TARGET ...] [--items N ...]\n"
        "                                [--measure] [--json FILE] [--section.field VALUE ...]",
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="YAML file, such as configs/gru4rec_diginetica.yaml")
    parser.add_argument("--target", nargs="+", metavar="TARGET", default=[], help="such as tpu-v5e:2x2 h100 cpu:8")

    def size(name: str, text: str) -> None:
        parser.add_argument(name, type=ranged(int, 1), metavar="N", help=text)

    size("--items", "in the catalogue, where there is no data set yet; what data would say beside is assumed, and told")
    size("--users", "of rows (default: as many as items)")
    size("--names", "distinct names of items (default: as many as items)")
    size("--events", "in training, or rows (default: unknown)")
    parser.add_argument("--measure", action="store_true", help="run a block on this machine as well, where a target is "
                        "one like it (cpu), and print the peak of memory beside the planned one")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write all of it there as well")
    return parser


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.compile``."""
    parser = _parser()
    options, overrides = parser.parse_known_args(argv)
    if not options.config or not options.target:
        parser.error(f"--{'target' if options.config else 'config'}: missing")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such directory; make it first")
    if options.json and Path(options.json).is_dir():
        parser.error(f"--json {options.json}: is a directory; name a file")
    sizes = {name: value for name in SIZES if (value := getattr(options, name)) is not None}
    chosen = [targets.parse(name) for name in dict.fromkeys(options.target)]
    for target in chosen:
        worker.check(target)
    config = configuration.load(options.config, overrides)
    workload.check(config, sizes)  # before a process is started
    for target in chosen:
        shape_of(target, config)
    job = {"file": options.config, "overrides": overrides, "sizes": sizes}
    plans = list[dict[str, Any]]()
    for target in chosen:
        with progress(f"compiling for {target.name}"):
            measured: dict[str, Any] = {}
            if options.measure:  # first: it may be refused
                (measured,) = worker.run(target, [{"does": "measure", **job}], here=True)
            (plan,) = worker.run(target, [{"does": "plan", **job}])
            plans.append(plan | measured)
    print(report.table(plans))
    if options.json:
        write_text(Path(options.json), json.dumps(plans, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(command(main))
