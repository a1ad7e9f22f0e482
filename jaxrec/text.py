"""python -m jaxrec.text: puts sentence embeddings of a data set's item names beside it, for instance while no training
uses the device.

  python -m jaxrec.text --data data/merrec
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq

from jaxrec.cli.command import Parser, command, progress, ranged
from jaxrec.data.cluster import MOST_WORKERS, cluster
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import checked
from jaxrec.data.text import encoding
from jaxrec.data.work import scratch
from jaxrec.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m jaxrec.text", description="Encode the names of a data set's items.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a data set whose items have names; "
                        "their vectors are written to DIR/text, in place of what is there")  # fmt: skip
    parser.add_argument(
        "--model", default=encoding.DEFAULT, metavar="M", help="a name on the hub, or a folder (%(default)s)"
    )
    parser.add_argument("--engine", choices=("process", "ray"), default="process", help="ray: any number of processes, "
                        "each with a model of its own, here or where RAY_ADDRESS says (%(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=ranged(int, 1, MOST_WORKERS), metavar="M", help="of --engine ray: processes "
                        "at a time (default: one per processor)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.engine != "ray":
        raise UserError("--workers: belongs to --engine ray; add that or leave this out")
    data, model, manifest = arguments.data, arguments.model, open_dataset(arguments.data).manifest
    encoding.names_key(data, manifest)  # which refuses a data set without names
    names = pq.read_table(checked(data, encoding.NAMES, manifest))["name"].to_pylist()
    with (
        cluster(arguments.workers) if arguments.engine == "ray" else nullcontext() as ray,
        progress("encode names", total=len(names)) as update,
        scratch(data) as mapped,
    ):
        found = encoding.embed(names, model, update, ray, mapped / encoding.VECTORS)
        place = encoding.write_name_vectors(data, manifest, model, encoding.find_model(model)[1], found)
    print(f"wrote {place}: {len(names):,} names, {found.shape[1]} dimensions")


if __name__ == "__main__":
    sys.exit(command(main))
