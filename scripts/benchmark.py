"""Training throughput on synthetic data, beside what the machine could do.

    python scripts/benchmark.py all --json throughput.json               # every model with its defaults: a few minutes
    python scripts/benchmark.py gru4rec --batch 32 128 512 --json out.json
    python scripts/benchmark.py narm sasrec
    python scripts/benchmark.py autoint --batch 2048 65536
    python scripts/benchmark.py two_tower --loss infonce
    python scripts/benchmark.py merrec --items 1000000 --head text both
    python scripts/benchmark.py programs --target tpu-v5e h100  # what accelerators would run, without one: see --help
    python scripts/benchmark.py gru4rec --peer CHECKOUT  # beside the authors' PyTorch code, which you have cloned

Each row is the training loop's own compiled block on blocks of its own feed, cut beforehand: the median of several
repetitions, without compilation. FLOP a step are those of its matrix products, counted from the shapes of the block's
program; AutoInt's attention, which is none, is left out. matmul_share is that of a large product measured before.
Memory is that of one device for the compiled block: state, constants, a block of data and what the step takes beside
them.

On a CPU a repetition has 20 steps of narm and sasrec, 40 of autoint and two_tower, 50 of merrec and 200 otherwise.

A peer runs in a process of its own, round by round in turn with ours. Let the machine be at rest: other work on its
cores slows Torch far more than JAX.

Bytes that a step exchanges at 8 devices are read from programs compiled for 8 virtual CPU devices, after the
measurement, in a process of its own. What is printed is Markdown.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec import config as configuration
from jaxrec.benchmarks import exchange, peers, programs
from jaxrec.benchmarks.sizes import FIELDS, INTERACTIONS, SIZES
from jaxrec.benchmarks.sweep import REPETITIONS, STEPS, compile_cases, measure, section
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, ranged
from jaxrec.run import write_text


def _parser() -> Parser:
    parser = Parser(prog="python scripts/benchmark.py", description=__doc__)
    parser.add_argument("models", nargs="+", choices=[*SIZES, "all"], metavar="MODEL",
                        help=f"of {', '.join(SIZES)}; all: these")  # fmt: skip

    def number(name: str, text: str, least: int = 0, **more: Any) -> None:
        parser.add_argument(name, type=ranged(int, least), help=text, **more)

    # ---- what is measured --------------------------------------------------------------------------------------------
    number("--batch", "lanes, targets or rows a step (default: 32 128 512; narm, sasrec, merrec: 512; autoint: 2048; "
           "two_tower: 4096)", 1, nargs="+", default=[])  # fmt: skip
    parser.add_argument("--loss", nargs="+", choices=list(configuration.losses()), default=[],
                        help="losses (default: cross_entropy bpr_max; narm, sasrec: softmax; two_tower: triplet "
                        "infonce; merrec: cross_entropy)")  # fmt: skip
    number("--items", "catalogue sizes (default: 40000; narm, sasrec: 43097, Diginetica's; two_tower: 10000, one; "
           "merrec: 10000 100000 1000000)", 1, nargs="+", default=[])  # fmt: skip
    number("--units", "GRU units; gru4rec: item vectors too (default: 100)", 1, default=100)
    number("--dim", "narm, sasrec: width of item vectors (default: 50); autoint: of values and layers (default: 32)",
           default=0)  # fmt: skip
    number("--fields", "autoint: of a row (default: 10)", 1, default=FIELDS)
    number("--interactions", f"two_tower: generated purchases (default: {INTERACTIONS})", 1, default=INTERACTIONS)
    parser.add_argument("--head", nargs="+", default=[], help="merrec: what ranks (default: both)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32",
                        help="of matrix products (default: float32)")  # fmt: skip
    number("--n-sample", "drawn negatives (default: 2048)", default=2048)
    number("--devices", "that share each step (default: 0, all of this machine)", default=0)
    parser.add_argument("--peer", metavar="DIR", help="a checkout of the authors' code, measured beside gru4rec, on "
                        f"the same data and in turn: git clone {peers.REPOSITORY}")  # fmt: skip
    parser.add_argument("--peer-python", metavar="PYTHON", default=sys.executable,
                        help="interpreter that has torch (default: this one)")  # fmt: skip
    # ---- how ---------------------------------------------------------------------------------------------------------
    number("--steps", f"steps a repetition, and at most a block (default: {STEPS}; less for the slower models on a "
           "CPU, see above)", 1)  # fmt: skip
    number("--repetitions", f"of which the median counts (default: {REPETITIONS})", 1)
    parser.add_argument("--no-collectives", action="store_true",
                        help=f"do not compile for {exchange.DEVICES} devices to see what they exchange")  # fmt: skip
    parser.add_argument(exchange.OPTION, action="store_true", dest="collectives",
                        help="only compile, and print the bytes that each row exchanges; for a process that the "
                        "benchmark starts")  # fmt: skip
    # ---- what is written ---------------------------------------------------------------------------------------------
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    return parser


def parse(argv: Sequence[str]) -> Any:
    """The options, or what is wrong with them in one line; ``all`` becomes every model."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such directory; make it first")
    named = [model for name in options.models for model in (SIZES if name == "all" else [name])]
    options.models = list(dict.fromkeys(named))
    return options


def main(argv: Sequence[str]) -> None:
    """The command line."""
    if argv[:1] == ["programs"]:
        return programs.main(argv[1:])
    options = parse(argv)
    runtime.start()
    if options.collectives:
        return print(json.dumps(exchange.compile_all(options)))
    result: dict[str, Any] = {
        "machine": runtime.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "scripts/benchmark.py", *argv]),
    }
    peer = peers.find_peer(options.peer, options.peer_python) if options.peer else None
    cases = compile_cases(options)
    if peer:  # first: what may fail in it would take the rows along
        result["peers"] = peers.measure_peers(peer, cases, options.repetitions or REPETITIONS)
    result["rows"] = measure(cases, options)
    del cases  # their memory is wanted for those of eight devices
    if not options.no_collectives:
        exchange.add_exchanged(result["rows"], Path(__file__), argv)
    print(section(result))
    if options.json:
        write_text(Path(options.json), json.dumps(result, indent=2) + "\n")
    return None


if __name__ == "__main__":
    sys.exit(command(main))
