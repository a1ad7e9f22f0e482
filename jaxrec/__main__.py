"""python -m jaxrec: lists the commands, or runs one: ``python -m jaxrec train …`` is ``python -m jaxrec.train …``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from jaxrec import __version__
from jaxrec.cli import startup

ALSO = {
    "python scripts/benchmark.py": "training throughput",
    "streamlit run scripts/demo.py -- --run RUN": "recommendations in the browser",
}


def listing() -> str:
    """The commands, one a line."""
    names = {f"python -m jaxrec.{name}": text for name, text in startup.COMMANDS.items()}
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {text}" for name, text in names.items()]
    lines += ["", "Beside them, in the folder of jaxrec:", "", *(f"  {name}    {text}" for name, text in ALSO.items())]
    return "\n".join(
        ["jaxrec: recommenders in JAX. The commands:", "", *lines, "",
         "Each says more with --help: python -m jaxrec.train --help",
         "Without any data, begin with: python -m jaxrec.prepare synthetic --out data/synthetic"]
    )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names, or list all; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _print(listing())
    if argv[0] == "--version":
        return _print(f"jaxrec {__version__}")
    name = argv[0].removeprefix("jaxrec.")
    if name not in startup.COMMANDS:
        print(f"jaxrec: error: {startup.no_such_command(name, f'python -m jaxrec {name}')}", file=sys.stderr)
        return 2
    startup.check(["python", "-m", f"jaxrec.{name}"])
    from jaxrec.cli.command import command  # here: the packages that it needs are there now

    return command(importlib.import_module(startup.module_of(name)).main, argv[1:])


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has gone, as in "… | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
