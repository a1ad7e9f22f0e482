"""python -m jaxrec and the console command jaxrec: list the commands, and run them: jaxrec train is python -m
jaxrec.train."""

from __future__ import annotations

import importlib
import sys

from jaxrec import __version__
from jaxrec.cli.startup import COMMANDS, module_of
from jaxrec.errors import nearest

LISTING = """jaxrec {version}: recommenders in JAX. The commands:

{commands}

jaxrec NAME does the same as python -m jaxrec.NAME. Beside them, in the folder of jaxrec:

  python scripts/benchmark.py    training throughput
  streamlit run scripts/demo.py -- --run RUN    recommendations in the browser

Each says more with --help: python -m jaxrec.train --help
Without any data, begin with: python -m jaxrec.prepare synthetic --out data/synthetic"""


def main() -> int:
    """Run the command that the first word names, or list them; returns the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        commands = "\n".join(f"  python -m jaxrec.{name:<11}  {text}" for name, text in COMMANDS.items())
        print(LISTING.format(version=__version__, commands=commands))
        return 0
    if name == "--version":
        print(f"jaxrec {__version__}")
        return 0
    if name not in COMMANDS:
        known = f"{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}"
        print(f"jaxrec: error: no command '{name}'{known}", file=sys.stderr)
        return 2
    from jaxrec.cli.command import command

    return command(importlib.import_module(module_of(name)).main, sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
