"""The files of MerRec: many, Parquet or CSV, with the columns of the published data set, read as one relation.

Each file's header is looked at first, so that what is wrong with one is said by its name. Columns are read by name;
files that are read alike go to DuckDB together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from jaxrec.data.reading.files import integer, open_table, reading, timestamp
from jaxrec.data.reading.table import TEXT, Table, together
from jaxrec.data.reading.times import INTEGERS, NUMBERS
from jaxrec.errors import UserError
from jaxrec.sources.merrec_columns import EVENT_TYPES, lacking_published

# The columns and what they hold. The 25th, sequence_length, is not read: it follows from the rows.
KINDS = {"user_id": "id", "stime": "time", "session_id": "text", "sequence_id": "text", "event_id": "event"}
KINDS |= {"item_id": "id", "product_id": "text", "name": "text", "price": "number"}
KINDS |= {f"c{level}_{what}": kind for level in range(3) for what, kind in (("name", "text"), ("id", "id"))}
KINDS |= {"brand_name": "text", "brand_id": "id", "item_condition_id": "id", "item_condition_name": "text"}
KINDS |= {"size_name": "text", "size_id": "id", "color": "text", "shipper_id": "id", "shipper_name": "text"}
EXPECTED = {
    "id": "an integer",
    "time": "a time like 2023-05-01 11:52:28",
    "text": "text",
    "event": f"one of {', '.join(EVENT_TYPES)}",
    "number": "a number",
}
NOTHING = '"NULL"'  # what DuckDB calls the type of a Parquet column without any value


@dataclass(frozen=True)
class Files:
    """Opened files that have the columns they need.

    Attributes:
        tables: the files in their order.
        empty: by file, the text columns that have a type of number because no row has a value.
    """

    tables: tuple[Table, ...]
    empty: dict[Path, frozenset[str]]

    def rows(self, columns: Sequence[str], bad: bool = False) -> str:
        """SQL: the rows of all files in their order, with these columns parsed, NULL where there is no value.

        With ``bad`` a column of this name says whether the row has a value, in any column, that cannot be used.
        """
        groups = []
        for _, group in groupby(self.tables, key=self._signature):
            alike = list(group)
            selected = [f"{self._parsed(alike[0], name)} AS {name}" for name in columns]
            if bad:
                selected += [f"{self._bad(alike[0])} AS bad"]
            groups.append(f"SELECT {', '.join(selected)} FROM {together(alike)}")
        return " UNION ALL ".join(groups)

    @contextmanager
    def reading(self, connection: Any) -> Iterator[None]:
        """Name the damaged file where DuckDB stumbles over one of all."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if isinstance(error, duckdb.OutOfMemoryException | duckdb.InterruptException):
                raise
            for table in self.tables:
                values = ", ".join(table.columns[name][0] for name in KINDS)
                with reading(table.path):  # a count alone would not look at the values
                    connection.execute(f"SELECT bit_xor(hash({values})) FROM {table.relation}").fetchall()
            raise

    def complaint(self, connection: Any, row: int, required: Sequence[str]) -> UserError:
        """The error about the row ``row`` (from 0, over all files), in which a value cannot be used."""
        for table in self.tables:
            (rows,) = connection.execute(f"SELECT count(*) FROM {table.relation}").fetchone()
            if row < rows:
                break
            row -= rows
        selected = ", ".join(f"{self._given(table, name)}, {self._parsed(table, name)}" for name in KINDS)
        values = connection.execute(f"SELECT {selected} FROM {table.relation} LIMIT 1 OFFSET {row}").fetchone()
        for name, given, parsed in zip(KINDS, values[::2], values[1::2], strict=True):
            if parsed is None and (given is not None or name in required):
                found = "nothing" if given is None else f"'{given}'"
                return UserError(
                    f"{table.path}: row {row + 1:,}, column '{name}': found {found}, expected {EXPECTED[KINDS[name]]}; "
                    "mend or remove it"
                )
        raise AssertionError(f"{table.path}: nothing is wrong with row {row + 1}")

    def _signature(self, table: Table) -> tuple[Any, ...]:
        """What files that DuckDB reads together have in common; of CSV the order of the columns too."""
        columns = tuple(table.columns[name] for name in KINDS)
        return table.function, table.settings, columns, self.empty[table.path]

    def _bad(self, table: Table) -> str:
        """SQL: whether a row has a value that cannot be used."""
        # Texts are never bad, and integers are not of a column that has that type.
        doubtful = [n for n, kind in KINDS.items() if kind != "text" and table.columns[n][1] not in INTEGERS]
        values = [f"(({self._given(table, n)}) IS NOT NULL AND ({self._parsed(table, n)}) IS NULL)" for n in doubtful]
        return " OR ".join(values)

    def _given(self, table: Table, name: str) -> str:
        """SQL: the value as it stands in the file, NULL where none is there."""
        sql, kind = table.columns[name]
        if kind == NOTHING or name in self.empty[table.path]:
            return f"CAST(NULL AS {TEXT})"
        if kind == TEXT:
            return f"nullif({sql}, '')"
        return f"CASE WHEN NOT isnan({sql}) THEN {sql} END" if kind in ("FLOAT", "DOUBLE") else sql

    def _parsed(self, table: Table, name: str) -> str:
        """SQL: the value as int64 (ids, and times as ms since 1970), float64, text or uint8 (events); else NULL."""
        sql, kind, given = *table.columns[name], self._given(table, name)
        match KINDS[name]:
            case "id":
                if kind == TEXT:  # CSV of pandas has 256.0 where the column has gaps
                    return integer(f"regexp_replace({given}, '\\.0+$', '')")
                return f"TRY_CAST(CASE WHEN ({given}) = trunc({sql}) THEN {sql} END AS BIGINT)"
            case "number":
                return f"CASE WHEN isfinite(TRY_CAST({given} AS DOUBLE)) THEN TRY_CAST({given} AS DOUBLE) END"
            case "time":
                return timestamp(given)
            case "event":
                names = ", ".join(f"'{event}'" for event in EVENT_TYPES)
                return f"CAST(list_position([{names}], {given}) - 1 AS UTINYINT)"
        return given


def open_files(connection: Any, paths: Iterable[Path], quote: str | None = None) -> Files:
    """Look at every file."""
    tables = tuple(open_table(connection, path, quote=quote) for path in paths)
    empty = {table.path: _check(connection, table) for table in tables}
    return Files(tables, empty)


def _check(connection: Any, table: Table) -> frozenset[str]:
    """Check a file's columns and that it has rows; returns its text columns that hold numbers, but no value."""
    if missing := [name for name in KINDS if name not in table.names]:
        raise lacking_published(table, missing)
    for name in KINDS:
        table.column(name)  # which refuses one that is there twice
    with reading(table.path):
        if connection.execute(f"SELECT 1 FROM {table.relation} LIMIT 1").fetchone() is None:
            raise UserError(f"{table.path}: no events; expected one a row, remove the file or write it again")
    empty = set()
    for name, kind in KINDS.items():
        sql, found = table.columns[name]
        if _fits(kind, found):
            continue
        # pandas writes a text column without any value as one of numbers.
        if kind == "text" and found in NUMBERS:
            with reading(table.path):
                query = f"SELECT count(*) FROM {table.relation} WHERE {sql} IS NOT NULL AND NOT isnan({sql}::DOUBLE)"
                (values,) = connection.execute(query).fetchone()
            if values == 0:
                empty.add(name)
                continue
        raise UserError(
            f"{table.path}: column '{name}' is of type {found}; expected {EXPECTED[kind]}; convert the column"
        )
    return frozenset(empty)


def _fits(kind: str, found: str) -> bool:
    """Whether values of a column of the SQL type ``found`` can be of this kind."""
    if found in (TEXT, NOTHING):
        return True
    if kind == "time":
        return found == "DATE" or (found.startswith("TIMESTAMP") and not found.endswith("]"))
    return kind in ("id", "number") and (found in NUMBERS or (found.startswith("DECIMAL") and not found.endswith("]")))
