"""python -m jaxrec.plots: curves of several runs, or the customers of a two-tower run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, tell
from jaxrec.plots.pictures import check_picture, draw_curves, labels, read_curves, save_picture
from jaxrec.run import check_comparable

CURVES = """\
Draw the validation metrics of one or several runs by epoch, a panel for each metric.

  python -m jaxrec.plots curves checkpoints/a checkpoints/b --out curves.png

The runs must have been validated (train with --data.validation_fraction), on the same clicks. A run that is still
training is drawn as far as it is.
"""

PERSONAS = """\
Draw the customers of a two-tower run by persona, or by anything else that it has been evaluated by (evaluate --groups):

  python -m jaxrec.plots personas checkpoints/two_tower_amore --out plots/

  results_by_persona.png   hit rates of each with 95 % bootstrap intervals, beside chance
  embedding_space.png      customers and products in two dimensions
"""


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.plots``."""
    parser = Parser(prog="python -m jaxrec.plots", description="Pictures of runs.")
    commands = parser.add_subparsers(required=True, metavar="PICTURE", parser_class=Parser)
    curves = commands.add_parser("curves", help="validation metrics by epoch, of several runs", description=CURVES)
    curves.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, checkpoints/...")
    curves.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture: .png, .pdf or .svg")
    curves.add_argument(
        "--metrics", nargs="+", default=["recall@20", "mrr@20"], metavar="M",
        help="a panel each, of those in the runs' metrics.jsonl (default: recall@20 mrr@20)",
    )  # fmt: skip
    curves.set_defaults(draw=_curves)
    personas = commands.add_parser("personas", help="customers of a two-tower run by persona", description=PERSONAS)
    personas.add_argument("run", type=Path, metavar="RUN", help="run directory, such as checkpoints/two_tower_amore")
    personas.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go; made if "
                          "missing")  # fmt: skip
    personas.add_argument("--by", metavar="FIELD", default="persona", help="what to group customers by, a column of "
                          "the data set's users.parquet (default: persona)")  # fmt: skip
    personas.set_defaults(draw=_personas)
    options = parser.parse_args(argv)
    options.draw(options)


def _personas(options: argparse.Namespace) -> None:
    from jaxrec.personas.pictures import draw_personas  # here: the other pictures need no JAX

    runtime.start()
    for file in draw_personas(options.run, options.out, options.by):
        tell(f"wrote {file}")


def _curves(options: argparse.Namespace) -> None:
    check_picture(options.out)
    metrics = list(dict.fromkeys(options.metrics))
    curves = [read_curves(path, metrics) for path in options.runs]
    check_comparable([curve.run for curve in curves])
    save_picture(draw_curves(curves, labels(options.runs), metrics), options.out, dpi=150)
    tell(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(command(main))
