"""python -m jaxrec.text: puts sentence embeddings of a data set's item names beside it, for instance while no training
uses the device.

  python -m jaxrec.text --data data/merrec
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from jaxrec.cli.command import Parser, command, progress
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import checked
from jaxrec.data.text import encoding


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m jaxrec.text", description="Encode the names of a data set's items.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a data set whose items have names; "
                        "their vectors are written to DIR/text, in place of what is there")  # fmt: skip
    parser.add_argument(
        "--model", default=encoding.DEFAULT, metavar="M", help="a name on the hub, or a folder (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    data, model, manifest = arguments.data, arguments.model, open_dataset(arguments.data).manifest
    encoding.names_key(data, manifest)  # which refuses a data set without names
    names = pq.read_table(checked(data, encoding.NAMES, manifest))["name"].to_pylist()
    with progress("encode names", total=len(names)) as update:
        found = encoding.embed(names, model, update)
    place = encoding.write_name_vectors(data, manifest, model, encoding.find_model(model)[1], found)
    print(f"wrote {place}: {len(names):,} names, {found.shape[1]} dimensions")


if __name__ == "__main__":
    sys.exit(command(main))
