"""python -m jaxrec.export: a run's programs for processes without jaxrec."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, make_callable, ranged, tell
from jaxrec.data.store import staging
from jaxrec.errors import UserError, listed, shown
from jaxrec.exporting import onnx, stablehlo
from jaxrec.exporting.directory import Writer, write_directory
from jaxrec.tasks.base import Loaded, load, part_of

DESCRIPTION = """\
Export what a run computes, with its weights, ids and item vectors, for processes that have no jaxrec:

  python -m jaxrec.export --run checkpoints/gru4rec --out exported/gru4rec
  python exported/gru4rec/load.py 81766 31331

Programs are StableHLO, which jax runs on CPUs, TPUs and GPUs (with numpy and flatbuffers beside it), or ONNX.
manifest.json says what goes into each and what comes out; weights are .npy files that all programs share.
"""
FORMATS = ("stablehlo", "onnx")
PLATFORMS = ("cpu", "tpu", "cuda", "rocm")
OURS = "programs.py"  # by which a directory of ours is known
MOST = 2**16  # rows of a program


def export(
    run: str | Path, out: str | Path, format: str = "stablehlo", platforms: Sequence[str] | None = None,
    batches: Sequence[int] | None = None, k: int | None = None, overwrite: bool = False,
) -> None:  # fmt: skip
    """Write a run's programs into a directory.

    Args:
        run: a run directory.
        out: the directory to make.
        format: ``stablehlo`` or ``onnx``.
        platforms: what StableHLO is for: cpu, tpu, cuda or rocm; None: the first three.
        batches: the numbers of rows that there is a program for; more rows are worked through in parts;
            None: 1, 16 and 256, or of clicks 1, 256 and 4,096.
        k: how many items are found; None: 20, or all where there are fewer.
        overwrite: whether an exported directory that is there already is replaced.
    """
    _check(format, platforms, batches)
    out, platforms = Path(out), list(dict.fromkeys(PLATFORMS[:3] if platforms is None else platforms))
    with staging(out, overwrite, OURS, "export") as stage:
        loaded = load(run, whole=True)
        exports = _part(loaded).exports(loaded, k)
        header: dict[str, Any] = {"run": loaded.run.path.name, "programs_format": format}
        if format == "onnx":
            writer: Writer = onnx.write
            header |= {"needs": onnx.NEEDS, "arguments": onnx.ARGUMENTS, "opset": onnx.OPSET}
            exports = replace(exports, padding={})
            onnx.check()
        else:
            writer = partial(stablehlo.write, platforms=platforms)
            header |= {"needs": stablehlo.NEEDS, "arguments": stablehlo.ARGUMENTS, "platforms": platforms}
            stablehlo.check()
        sizes = sorted(set(exports.batches if batches is None else batches))
        write_directory(stage, loaded, exports, writer, format, sizes, header)
    names = dict.fromkeys(program.name for program in exports.programs)
    tell(f"{out}: {', '.join(names)} for {', '.join(map(str, sizes))} rows; python {out / 'load.py'}")


def _check(format: str, platforms: Sequence[str] | None, batches: Sequence[int] | None) -> None:
    if format not in FORMATS:
        raise UserError(f"--format: found {shown(format)}; choose {listed(FORMATS, 'or')}")
    if strange := [one for one in platforms or () if one not in PLATFORMS]:
        raise UserError(f"--platforms: found {shown(strange[0])}; choose from {listed(PLATFORMS)}")
    if platforms is not None and (format == "onnx" or not platforms):
        raise UserError("--platforms: belongs to --format stablehlo, with one name or more; leave it out")
    if batches is not None and (not batches or not all(type(one) is int and 1 <= one <= MOST for one in batches)):
        raise UserError(f"--batch: found {shown(batches)}; give whole numbers from 1 to {MOST}")


def _part(loaded: Loaded) -> ModuleType:
    """What a run's kind of problem exports."""
    try:
        return part_of(loaded.run.config, "export")
    except ModuleNotFoundError as error:
        if not str(error.name).endswith(".export"):
            raise
        raise UserError(f"{loaded.run.path}: its kind of problem exports nothing: there is no module {error.name}; add "
                        "one as jaxrec/tasks/sessions/export.py is") from None  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.export``."""
    parser = Parser(prog="python -m jaxrec.export", description=DESCRIPTION)
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    add("--out", required=True, metavar="DIR", help="directory to make")
    add("--format", choices=FORMATS, default="stablehlo", help="of the programs (%(default)s)")
    add("--platforms", nargs="+", choices=PLATFORMS, metavar="NAME",
        help="of stablehlo: any of cpu, tpu, cuda and rocm (cpu tpu cuda)")  # fmt: skip
    add("--batch", nargs="+", type=ranged(int, 1, MOST), metavar="N",
        help="numbers of rows that a program is written for (1 16 256; of clicks 1 256 4096)")  # fmt: skip
    add("--k", type=int, help="how many items are found (default: 20; all where there are fewer)")
    add("--overwrite", action="store_true", help="replace what was exported to --out")
    options = parser.parse_args(argv)
    runtime.start()
    export(options.run, options.out, options.format, options.platforms, options.batch, options.k, options.overwrite)


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))
