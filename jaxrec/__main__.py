"""python -m jaxrec: lists the commands."""

from __future__ import annotations

from jaxrec import __version__
from jaxrec.cli.startup import COMMANDS

LISTING = """jaxrec {version}: recommenders in JAX. The commands:

{commands}

Beside them, in the folder of jaxrec:

  python scripts/benchmark.py    training throughput
  streamlit run scripts/demo.py -- --run RUN    recommendations in the browser

Each says more with --help: python -m jaxrec.train --help
Without any data, begin with: python -m jaxrec.prepare synthetic --out data/synthetic"""

if __name__ == "__main__":
    commands = "\n".join(f"  python -m jaxrec.{name:<11}  {text}" for name, text in COMMANDS.items())
    print(LISTING.format(version=__version__, commands=commands))
