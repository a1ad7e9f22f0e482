"""python -m jaxrec.text: fills the cache of sentence embeddings, for instance while no training uses the device.

  python -m jaxrec.text --texts items.parquet --column name --model sentence-transformers/all-MiniLM-L6-v2
  python -m jaxrec.text --data data/merrec

of which the second also puts the vectors of a data set's item names beside it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from jaxrec.cli.command import Parser, command, progress
from jaxrec.cli.lock import owned
from jaxrec.data.dataset import open_dataset
from jaxrec.data.reading.duck import TEXT, connect
from jaxrec.data.reading.files import open_table
from jaxrec.data.reading.table import reading
from jaxrec.data.store import checked
from jaxrec.data.text import vectors
from jaxrec.data.text.encoding import DEFAULT, Encoded, encoded, find_model
from jaxrec.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m jaxrec.text", description="Encode texts, and keep the vectors.")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--texts", type=Path, metavar="FILE", help=".parquet, .csv, or .txt (a text a line)")
    given.add_argument("--data", type=Path, metavar="DIR", help="a data set whose items have names: encode those, and "
                       "write them to DIR/text")  # fmt: skip
    parser.add_argument("--column", metavar="NAME", help="of .parquet and .csv: the column that holds the texts")
    parser.add_argument("--model", default=DEFAULT, metavar="M", help="a name on the hub, or a folder (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the vectors of --texts there too: "
                        "float16[texts, dim], .npy")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.data is not None:
        if arguments.column or arguments.out:
            raise UserError("--column, --out: not with --data, which reads and writes in its directory; leave them out")
        with owned(arguments.data / vectors.TEXT, "embeds the names of this data set", "end it"):
            _encode_names(arguments.data, arguments.model)
        return
    result = _encode(read_texts(arguments.texts, arguments.column), arguments.model)
    if arguments.out:
        with open(arguments.out, "wb") as stream:
            np.save(stream, result.vectors[result.rows], allow_pickle=False)
        print(f"wrote {arguments.out}")


def _encode(texts: list[str], model: str) -> Encoded:
    with progress("encode texts", total=len(texts)) as update:
        result = encoded(texts, model, update=update)
    speed = f", {result.new / result.seconds:,.0f} texts/s" if result.new and result.seconds else ""
    counts = f"{len(texts):,} texts, {result.unique:,} unique, {result.new:,} encoded now{speed}"
    print(f"{counts}; {result.vectors.shape[1]} dimensions")
    return result


def _encode_names(data: Path, model: str) -> None:
    """Put the vectors of a data set's names beside it, unless they are there."""
    manifest = open_dataset(data).manifest
    vectors.names_key(data, manifest)  # which refuses a data set without names
    if not manifest["counts"]["names"]:
        raise UserError(f"{data}: none of its {manifest['counts']['items']:,} items has a name; nothing to encode")
    with progress("find the model") as update:
        _, identity = find_model(model, update)
    with suppress(UserError):  # missing, damaged or of names that the data set had before: all are mended below
        there = vectors.open_name_vectors(data, manifest, identity)
        print(f"{there.folder}: there already, of {manifest['counts']['names']:,} names; nothing to do")
        return
    result = _encode(read_texts(checked(data, vectors.NAMES, manifest), "name"), model)
    print(f"wrote {vectors.write_name_vectors(data, manifest, model, result.identity, result.vectors, result.rows)}")


def read_texts(file: Path, column: str | None = None) -> list[str]:
    """The lines of a .txt file, or a column of a Parquet or CSV file, in their order; None where there is no text."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; check --texts")
    if file.suffix.lower() == ".txt":
        try:
            return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n") if file.stat().st_size else []
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 at byte {error.start}; convert it") from None
    with tempfile.TemporaryDirectory() as spill, connect(Path(spill)) as connection:
        table = open_table(connection, file, quote='"')
        if column is None:
            raise UserError(f"{file}: which column? Give --column, one of: {', '.join(table.names)}")
        sql, kind = table.column(column)
        if kind != TEXT and not kind.startswith("ENUM"):
            raise UserError(f"{file}: column '{column}' is of type {kind}; expected text")
        with reading(table):
            rows = connection.execute(f"SELECT CAST({sql} AS {TEXT}) FROM {table.relation}").fetchall()
    return [text for (text,) in rows]


if __name__ == "__main__":
    sys.exit(command(main))
