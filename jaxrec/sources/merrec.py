"""MerRec: what users of a marketplace did with which listing (arXiv:2402.14230), as Parquet or CSV.

A session is a sequence of the data set: the rows of one (user_id, session_id, sequence_id). Each row has the time as
text, one of six event types, the item, and what the item was called and was like then.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from jaxrec.data.clean.choices import Raw
from jaxrec.data.clean.splits import Drawn
from jaxrec.data.reading.duck import quoted
from jaxrec.data.reading.files import account
from jaxrec.data.reading.table import called, row_place
from jaxrec.data.reading.unpacked import find_files
from jaxrec.errors import UserError
from jaxrec.sources.merrec_attributes import write_attributes
from jaxrec.sources.merrec_columns import EVENT_TYPES, add_column_arguments, is_own
from jaxrec.sources.merrec_files import KINDS, Files, open_files
from jaxrec.sources.merrec_own import read_own
from jaxrec.sources.shared import add_raw_arguments, fraction, quote_option, ranged

HELP = "events on the listings of a marketplace (MerRec), in Parquet or CSV files"
KIND = "events"
DEFAULTS = {"min_session_length": 3, "min_item_support": 1, "test_days": 3}

NARROW = ("user_id", "session_id", "sequence_id", "stime", "event_id")  # of every row, with the item or the product
# Of the latest row of each item alone.
WIDE = (*(name for name in KINDS if name not in (*NARROW, "item_id", "product_id")), "product_id")
SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip() takes


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "the events")
    add_column_arguments(parser)
    add_protocol_arguments(parser)


def add_protocol_arguments(parser: ArgumentParser) -> None:
    """Add ``--target``, ``--split``, ``--test-fraction`` and ``--split-seed``, which ``read_files`` asks for."""
    parser.add_argument(
        "--target",
        choices=("item", "product"),
        default="item",
        help="what the vocabulary holds: the listing (item_id) or its brand and category (product_id) (default item)",
    )
    parser.add_argument(
        "--split",
        choices=("time", "random"),
        default="time",
        help="test on the sequences of the last --test-days, with items that training has not seen, or on "
        "sequences drawn at random (default time)",
    )
    parser.add_argument(
        "--test-fraction",
        type=fraction,
        metavar="F",
        help="with --split random: the part of the sequences to test on (default 0.2)",
    )
    parser.add_argument(
        "--split-seed",
        type=ranged(int, 0, 2**32),
        metavar="N",
        help="with --split random: another seed draws others (default 0)",
    )


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``."""
    if is_own(arguments):
        return read_own(connection, arguments, *_split(arguments))
    paths, notes = find_files(arguments.raw)
    raw = read_files(connection, paths, arguments, called(paths), quote=arguments.quote)
    return replace(raw, notes=notes, options=raw.options | quote_option(arguments))


def read_files(
    connection: Any,
    paths: Sequence[Path],
    arguments: Namespace,
    name: str,
    listings: Path | None = None,
    quote: str | None = None,
) -> Raw:
    """Fill the table ``raw`` from files with the columns of MerRec.

    Args:
        connection: DuckDB.
        paths: the files; rows count in this order.
        arguments: those of ``add_protocol_arguments``.
        name: what errors call the whole.
        listings: a Parquet file with ``item_id``, ``listed`` and ``sold`` (ms since 1970) of every item, which are
            added to its attributes; without effect for the target product, of which there are several.
        quote: of ``--quote``.
    """
    drawn, split = _split(arguments)
    files = open_files(connection, paths, quote)
    listings = listings if arguments.target == "item" else None
    target = f"{arguments.target}_id"
    _read_narrow(connection, files, target)
    (rows,) = connection.execute("SELECT count(*) FROM raw").fetchone()
    read = account(connection, files.tables, rows)
    options = {"target": arguments.target, **split}
    entries = {"event_types": list(EVENT_TYPES), "target": arguments.target, "live": listings is not None}
    return Raw(
        name,
        options,
        extras=lambda path, n_items: entries,
        event_types=EVENT_TYPES,
        drawn=drawn,
        read=read,
        place=lambda row: row_place(connection, files.tables, row),
        attributes=lambda path: _write_attributes(connection, files, target, listings, path),
    )


def _split(arguments: Namespace) -> tuple[Drawn | None, dict[str, Any]]:
    """What ``--split random`` asks for, None of a split by time; and the split for the manifest."""
    given = {"--test-fraction": arguments.test_fraction, "--split-seed": arguments.split_seed}
    if arguments.split == "random":
        drawn = Drawn(arguments.test_fraction or Fraction(1, 5), arguments.split_seed or 0)
        return drawn, {"split": "random", "test_fraction": str(drawn.fraction), "split_seed": drawn.seed}
    for option, value in given.items():
        if value is not None:
            raise UserError(f"{option} {value}: the split is by time; add --split random or leave the option out")
    return None, {"split": arguments.split}


def _read_narrow(connection: Any, files: Files, target: str) -> None:
    """The table ``raw`` (session, item, time, event, bad); the last says that a value of the row cannot be used."""
    columns = (*NARROW, "item_id") if target == "item_id" else (*NARROW, "item_id", target)
    with files.reading(connection):
        connection.execute(
            "CREATE TABLE raw AS SELECT md5_number(user_id || chr(31) || session_id || chr(31) || sequence_id) "
            f"AS session, {target} AS item, stime AS time, event_id AS event, bad OR item_id IS NULL AS bad "
            f"FROM ({files.rows(columns, bad=True)})"
        )
    bad = "bad OR session IS NULL OR item IS NULL OR time IS NULL OR event IS NULL"
    (row,) = connection.execute(f"SELECT min(rowid) FROM raw WHERE {bad}").fetchone()
    if row is not None:
        raise files.complaint(connection, row, columns)


def _write_attributes(
    connection: Any, files: Files, target: str, listings: Path | None, path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write the files of the items; see ``write_attributes``."""
    name = f"trim(name, {quoted(SPACES)}) AS name"
    rows = f"SELECT * REPLACE ({name}) FROM ({files.rows(('item_id', *WIDE))})"
    with files.reading(connection):
        return write_attributes(connection, rows, path, "item_id", target, listings)
