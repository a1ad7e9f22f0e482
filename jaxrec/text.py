"""python -m jaxrec.text: fills the cache of sentence embeddings, for instance while no training uses the device.

  python -m jaxrec.text --texts items.parquet --column name --model sentence-transformers/all-MiniLM-L6-v2
  python -m jaxrec.text --data data/merrec

of which the second also puts the vectors of a data set's item names beside it (jaxrec/data/text/vectors.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.cli.command import Parser, command, progress
from jaxrec.cli.lock import owned
from jaxrec.data.dataset import open_dataset
from jaxrec.data.store import checksum
from jaxrec.data.text.encoding import DEFAULT, Encoded, encoded, find_model
from jaxrec.data.text.vectors import NAMES, TEXT, names_key, open_name_vectors, write_name_vectors
from jaxrec.errors import UserError, nearest


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
    if arguments.data is None:
        _encode_texts(arguments.texts, arguments.column, arguments.model, arguments.out)
        return
    for option in ("column", "out"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option}: not with --data, which reads and writes in its directory; leave it out")
    with owned(arguments.data / TEXT, "embeds the names of this data set", "end it"):
        _encode_names(arguments.data, arguments.model)


def _encode_texts(file: Path, column: str | None, model: str, out: Path | None) -> None:
    texts = read_texts(file, column)
    with progress("encode texts", total=len(texts)) as update, encoded(texts, model, update=update) as result:
        print(f"{len(texts):,} texts, {_summary(result)}")
        if out:
            _write(out, result)
            print(f"wrote {out}")


def _summary(result: Encoded) -> str:
    speed = f", {result.new / result.seconds:,.0f} names/s" if result.new and result.seconds else ""
    return f"{result.unique:,} unique, {result.new:,} encoded now{speed}; {result.vectors.shape[1]} dimensions"


def _encode_names(data: Path, model: str) -> None:
    """Put the vectors of a data set's names beside it, unless they are there."""
    manifest = open_dataset(data).manifest
    key, counts = names_key(data, manifest), manifest["counts"]
    if not counts["names"]:
        raise UserError(f"{data}: none of its {counts['items']:,} items has a name; there is nothing to encode")
    with progress("encode names", total=counts["names"]) as update:
        _, identity = find_model(model, update)
        try:
            there = open_name_vectors(data, manifest, identity)
        except UserError:  # missing, damaged or of names that the data set had before: all are mended below
            pass
        else:
            print(f"{there.folder}: there already, of {counts['names']:,} names; nothing to do")
            return
        file = data / NAMES
        if not file.is_file() or checksum(file) != key:
            raise UserError(f"{file}: damaged or missing (checksum differs); prepare the data set again")
        with encoded(read_texts(file, "name"), model, update=update) as result:
            named = counts["items"] - counts["unnamed"]
            print(f"{named:,} items with names, {_summary(result)}")
            if counts["unnamed"]:
                print(f"{counts['unnamed']:,} items without a name: their vectors are all zeros")
            print(f"wrote {write_name_vectors(data, manifest, model, result.identity, result.vectors, result.rows)}")


def _write(out: Path, result: Encoded) -> None:
    try:
        with open(out, "wb") as stream:
            np.save(stream, result.vectors[result.rows], allow_pickle=False)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None


def read_texts(file: Path, column: str | None = None) -> list[str]:
    """The lines of a .txt file, or a column of a .parquet or .csv file, in their order; a missing value is None."""
    kind = file.suffix.lower()
    if kind not in (".parquet", ".csv", ".txt"):
        raise UserError(f"{file}: of an unknown kind; --texts takes .parquet, .csv or .txt")
    if not file.is_file():
        raise UserError(f"{file}: no such file; check --texts")
    if kind == ".txt":
        if column is not None:
            raise UserError(f"{file}: a .txt file has no columns; leave out --column")
        try:
            return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n") if file.stat().st_size else []
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 at byte {error.start}; convert it") from None
    return _read_column(file, column, kind)


def _read_column(file: Path, column: str | None, kind: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if kind == ".parquet":
            names = pq.read_schema(file).names
        else:
            with pa.csv.open_csv(file) as reader:
                names = reader.schema.names
        if column is None:
            raise UserError(f"{file}: which column? Give --column, one of: {', '.join(names)}")
        if names.count(column) != 1:
            found = "twice" if column in names else "not there"
            raise UserError(f"{file}: column '{column}' is {found}{nearest(column, names)}; it has: {', '.join(names)}")
        if kind == ".parquet":
            values = pq.read_table(file, columns=[column]).column(0)
        else:
            options = pa.csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()})
            parsing = pa.csv.ParseOptions(newlines_in_values=True)
            values = pa.csv.read_csv(file, parse_options=parsing, convert_options=options).column(0)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: damaged, or not {kind} ({str(error).splitlines()[0]}); write it again") from None
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise UserError(f"{file}: column '{column}' is of type {values.type}; expected text")
    return values.to_pylist()


if __name__ == "__main__":
    sys.exit(command(main))
