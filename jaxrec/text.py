"""python -m jaxrec.text: puts sentence embeddings of a data set's item names beside it, for instance while no training
uses the device.

  python -m jaxrec.text --data data/merrec
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from jaxrec.cli.command import Parser, command, progress
from jaxrec.cli.lock import owned
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import checked
from jaxrec.data.text import vectors
from jaxrec.data.text.encoding import DEFAULT, encoded, find_model
from jaxrec.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m jaxrec.text", description="Encode the names of a data set's items.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a data set whose items have names; "
                        "their vectors are written to DIR/text")  # fmt: skip
    parser.add_argument("--model", default=DEFAULT, metavar="M", help="a name on the hub, or a folder (%(default)s)")
    arguments = parser.parse_args(argv)
    with owned(arguments.data / vectors.TEXT, "embeds the names of this data set", "end it"):
        _encode_names(arguments.data, arguments.model)


def _encode_names(data: Path, model: str) -> None:
    """Put the vectors of a data set's names beside it, unless they are there."""
    manifest = open_dataset(data).manifest
    vectors.names_key(data, manifest)  # which refuses a data set without names
    count, identity = manifest["counts"]["names"], find_model(model)[1]
    if not count:
        raise UserError(f"{data}: none of its {manifest['counts']['items']:,} items has a name; nothing to encode")
    with suppress(UserError):  # missing, damaged or of names that the data set had before: all are mended below
        vectors.open_name_vectors(data, manifest, identity)
        print(f"{data / vectors.TEXT / identity}: there already, of {count:,} names; nothing to do")
        return
    names = pq.read_table(checked(data, vectors.NAMES, manifest))["name"].to_pylist()
    with progress("encode names", total=count) as update:
        result = encoded(names, model, update)
    place = vectors.write_name_vectors(data, manifest, model, result.identity, result.vectors)
    print(f"wrote {place}: {count:,} names, {result.new:,} encoded now; {result.vectors.shape[1]} dimensions")


if __name__ == "__main__":
    sys.exit(command(main))
