"""python -m jaxrec: lists the commands, or runs one: ``python -m jaxrec train …`` is ``python -m jaxrec.train …``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from jaxrec import __version__
from jaxrec.cli.startup import COMMANDS, module_of
from jaxrec.errors import nearest

LISTING = """jaxrec: recommenders in JAX. The commands:

{commands}

Beside them, in the folder of jaxrec:

  python scripts/benchmark.py    training throughput
  streamlit run scripts/demo.py -- --run RUN    recommendations in the browser

Each says more with --help: python -m jaxrec.train --help
Without any data, begin with: python -m jaxrec.prepare synthetic --out data/synthetic"""


def main(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names, or list all; returns the exit status."""
    name = argv[0].removeprefix("jaxrec.") if argv else "help"
    if name in ("-h", "--help", "help", "--version"):
        commands = "\n".join(f"  python -m jaxrec.{name:<9}  {text}" for name, text in COMMANDS.items())
        print(f"jaxrec {__version__}" if name == "--version" else LISTING.format(commands=commands))
        return 0
    if name not in COMMANDS:
        print(f"jaxrec: error: {name}: no such command{nearest(name, COMMANDS)}; 'python -m jaxrec' lists them",
              file=sys.stderr)  # fmt: skip
        return 2
    from jaxrec.cli.command import command

    return command(importlib.import_module(module_of(name)).main, argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
