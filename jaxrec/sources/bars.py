"""The click data sets of BARS (Zhu et al. 2022, arXiv:2205.09626; openbenchmark.github.io/BARS) with their splits.

The files are those of huggingface.co/reczoo, preprocessed as BARS's ``dataset_config.yaml`` says. criteo_x1 holds
numbers that AFN (Cheng et al. 2020) has scaled already, which BARS reads as they are; criteo_x4 holds counts, which
BARS puts into buckets. Vocabularies are of the training rows; rarer and unseen values are unknown.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.cli.command import ranged
from jaxrec.data import dataset
from jaxrec.data.clean.protocol import RawRows, Streamed
from jaxrec.data.reading import table
from jaxrec.data.reading.duck import fetch_row, identifier, number, undotted
from jaxrec.data.reading.table import Field
from jaxrec.errors import UserError

HELP = "click data of the open benchmark BARS: MovieLensLatest_x1, Criteo_x1, Criteo_x4, with their splits"
KIND = "rows"

FILES = ("train.csv", "valid.csv", "test.csv")
BLOCK = 1 << 20  # rows that are encoded at a time
COUNTS, CODES = (tuple(f"{letter}{n}" for n in range(1, most + 1)) for letter, most in (("I", 13), ("C", 26)))


@dataclass(frozen=True)
class Layout:
    """The columns of a data set, in the order of its header."""

    label: str
    kinds: dict[str, str]  # by column a key of KINDS
    rows: tuple[int, int, int]  # published number of training, validation and test rows
    min_count: int = 1  # values of fewer training rows are unknown
    user: str | None = None
    item: str | None = None


SETS = {
    "movielenslatest_x1": Layout("label", dict.fromkeys(("user_id", "item_id", "tag_id"), "id"),
                                 (1_404_801, 401_372, 200_686), user="user_id", item="item_id"),
    "criteo_x1": Layout("label", dict.fromkeys(COUNTS, "number") | dict.fromkeys(CODES, "id"),
                        (33_003_326, 8_250_124, 4_587_167)),
    "criteo_x4": Layout("Label", dict.fromkeys(COUNTS, "bucket") | dict.fromkeys(CODES, "text"),
                        (36_672_493, 4_584_062, 4_584_062), 10),
}  # fmt: skip


def bucket(value: str) -> str:
    """SQL: the bucket of a count as BARS has it: floor(ln(x)^2) above 2, x itself below; 0 where there is none."""
    return f"CAST(CASE WHEN {value} > 2 THEN floor(pow(ln({value}), 2)) ELSE trunc({value}) END AS INTEGER)"


def whole(text: str) -> str:
    """SQL: a text as a whole number of 0 or more, -1 where there is none, NULL where it is something else."""
    value = f"TRY_CAST({undotted(text)} AS INTEGER)"
    return f"CASE WHEN {text} IS NULL THEN -1 WHEN {value} >= 0 THEN {value} END"


KINDS = {
    "id": (whole, "a whole number below 2^31, or nothing", -1),
    "number": (lambda sql: f"CASE WHEN {sql} IS NULL THEN 0 ELSE {number(sql, 'FLOAT')} END", "a number or nothing", 0),
    "bucket": (lambda sql: f"CASE WHEN {sql} IS NULL THEN 0 ELSE {bucket(number(sql))} END", "a number or nothing", 0),
    "text": ("coalesce({0}, '')".format, "a text", ""),
}
"""How a column is read, what it has to hold, and the value that stands for nothing, which is unknown."""
LABEL = "CASE WHEN {0} IN ('0', '1', '0.0', '1.0') THEN CAST({0} AS FLOAT) END".format, "0 or 1"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--set", choices=tuple(SETS), required=True, help="which of the data sets it is")
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR",
                        help="folder with train.csv, valid.csv and test.csv, also as .gz")  # fmt: skip
    parser.add_argument("--min-count", type=ranged(int, 1, 2**31 - 1), metavar="N", help="values of fewer training "
                        "rows are unknown (default: as published, 10 of criteo_x4, otherwise 1)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> RawRows:
    """The rows of the three files, one after the other."""
    layout = SETS[arguments.set]
    least = arguments.min_count or layout.min_count
    files = table.open_tables(connection, [_published_file(connection, arguments, name) for name in FILES])
    columns = [Field("label", layout.label, *LABEL)]
    columns += [Field(identifier(name), name, *KINDS[kind][:2]) for name, kind in layout.kinds.items()]
    found, _, _ = table.load(connection, files, columns)
    held = [fetch_row(connection, f"SELECT count(*) FROM {file.relation}")[0] for file in files.files[1:]]
    sizes = (found["rows"] - sum(held), *held)
    if 0 in sizes:
        raise UserError(f"{arguments.raw / FILES[sizes.index(0)]}: no rows; fetch the published file again")
    notes = [f"{name}: {size:,} rows, and the published file has {published:,}"
             for name, size, published in zip(FILES, sizes, layout.rows, strict=True) if size != published]  # fmt: skip
    vocabularies = {name: _vocabulary(connection, name, kind, sizes[0], least)
                    for name, kind in layout.kinds.items() if kind != "number"}  # fmt: skip
    sides = {layout.user: "user", layout.item: "item"}
    fields = [dataset.Field(name, "numerical", "context", 1, 0) if kind == "number"  # kept as it is
              else dataset.Field(name, "categorical", sides.get(name, "context"), len(vocabularies[name]) + 1)
              for name, kind in layout.kinds.items()]  # fmt: skip
    streamed = Streamed(fields, vocabularies, found["rows"], lambda: _tables(connection, layout))
    return RawRows(
        [], np.zeros(0), np.zeros(0), 1.0, 0.0, 1.0, layout.user, layout.item, streamed=streamed, notes=notes,
        options={"raw": str(arguments.raw), "set": arguments.set, "min_count": least}, read=found,
        extras={"splits": dict(zip(dataset.SPLITS, sizes, strict=True))},
    )  # fmt: skip


def _published_file(connection: Any, arguments: Namespace, name: str) -> Path:
    """Where one of FILES lies; its columns are those of the data set, in their order."""
    folder, of = arguments.raw, arguments.set
    places = [folder / f"{name}{packed}" for packed in ("", ".gz")]
    if (path := next((place for place in places if place.is_file()), None)) is None:
        raise UserError(f"{folder}: no {name} in it, also not as {name}.gz; unpack the published archive there")
    found, meant = table.open_table(connection, path).names, (SETS[of].label, *SETS[of].kinds)
    for n, (one, other) in enumerate(zip(found, meant, strict=False), 1):
        if one != other:
            raise UserError(
                f"{path}: column {n} is '{one[:40]}', and {of} has '{other}' there; check --set and the header"
            )
    if len(found) != len(meant):
        raise UserError(f"{path}: {len(found)} columns, and {of} has {len(meant)}; check --set and the header")
    return path


def _vocabulary(connection: Any, name: str, kind: str, train: int, least: int) -> pa.Table:
    """Ascending values with at least this many of the first rows, and how many each has."""
    found = connection.sql(
        f"SELECT {identifier(name)} AS value, count(*) AS count FROM raw WHERE rowid < {train} AND value <> ? "
        f"GROUP BY value HAVING count(*) >= {least} ORDER BY value", params=[KINDS[kind][2]]
    ).to_arrow_table()  # fmt: skip
    value = found["value"].combine_chunks()
    return pa.table({"value": value if kind == "text" else value.cast(pa.int64()), "count": found["count"]})


def _tables(connection: Any, layout: Layout) -> Iterator[pa.Table]:
    """``Streamed.tables`` of the table ``raw``."""
    columns = ["label AS rating", "0::BIGINT AS time"]
    for place, (name, kind) in enumerate(layout.kinds.items()):
        value = identifier(name) if kind == "number" else f"nullif({identifier(name)}, {KINDS[kind][2]!r})"
        columns.append(f"{value if kind in ('number', 'text') else f'{value}::BIGINT'} AS field{place}")
    for batch in connection.sql(f"SELECT {', '.join(columns)} FROM raw").to_arrow_reader(BLOCK):
        yield pa.Table.from_batches([batch])
