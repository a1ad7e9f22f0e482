"""python -m jaxrec: lists the commands, or runs one: ``python -m jaxrec train …`` is ``python -m jaxrec.train …``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from jaxrec import __version__
from jaxrec.cli import startup

LISTING = """jaxrec: recommenders in JAX. The commands:

{commands}

Beside them, in the folder of jaxrec:

  python scripts/benchmark.py    training throughput
  streamlit run scripts/demo.py -- --run RUN    recommendations in the browser

Each says more with --help: python -m jaxrec.train --help
Without any data, begin with: python -m jaxrec.prepare synthetic --out data/synthetic"""


def main(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names, or list all; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help", "help", "--version"):
        commands = "\n".join(f"  python -m jaxrec.{name:<9}  {text}" for name, text in startup.COMMANDS.items())
        print(f"jaxrec {__version__}" if argv and argv[0] == "--version" else LISTING.format(commands=commands))
        return 0
    name = argv[0].removeprefix("jaxrec.")
    if name not in startup.COMMANDS:
        print(f"jaxrec: error: {startup.no_such_command(name, f'python -m jaxrec {name}')}", file=sys.stderr)
        return 2
    startup.check(["python", "-m", f"jaxrec.{name}"])
    from jaxrec.cli.command import command  # here: the packages that it needs are there now

    return command(importlib.import_module(startup.module_of(name)).main, argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
