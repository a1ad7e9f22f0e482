"""A raw file, or several of the same columns, as one relation of DuckDB."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from jaxrec.data.reading.duck import fetch_number, fetch_row, quoted
from jaxrec.data.reading.lines import Lines
from jaxrec.data.reading.rows import input_rows
from jaxrec.errors import UserError, nearest

TEXT = "VARCHAR"
NESTED = ("STRUCT", "MAP", "UNION", "BLOB", "BIT")


@dataclass(frozen=True)
class Table:
    """A raw file that has been opened: what it holds, and how DuckDB reads it. Or several, one after the other.

    Attributes:
        path: the file, the first of several, as the user named it.
        place: where its bytes lie: there, or in a copy.
        function: the table function that reads it, and ``settings``, its further arguments in SQL.
        columns: column name to (SQL expression, SQL type).
        names: the names of all columns in their order, also those that several have.
        header: whether the first line with something in it names the columns.
        quote: the character around fields with delimiters in them; empty: there is none.
        several_lines: whether fields in quotes may hold line ends.
        lines: those of a text file; None of Parquet.
        parts: of several files these, each as a table of its own.
    """

    path: Path
    place: Path
    function: str
    settings: str
    columns: dict[str, tuple[str, str]]
    names: tuple[str, ...] = ()
    header: bool = True
    quote: str = '"'
    several_lines: bool = False
    lines: Lines | None = None
    parts: tuple[Table, ...] = field(default=(), repr=False)

    @property
    def files(self) -> tuple[Table, ...]:
        """Each file as a table of its own."""
        return self.parts or (self,)

    @property
    def called(self) -> str:
        """What messages about the whole call it."""
        return called([table.path for table in self.files])

    @property
    def relation(self) -> str:
        """SQL: the rows of the file, or of all files in their order."""
        groups = [list(group) for _, group in groupby(self.files, key=_signature)]
        if len(groups) == 1:
            return together(groups[0])
        return f"({' UNION ALL '.join(self._selected(group) for group in groups)})"

    def _selected(self, group: Sequence[Table]) -> str:
        """SQL: the rows of files that are alike, with the columns as the whole has them."""
        columns = []
        for name, (alias, kind) in self.columns.items():
            sql, found = group[0].columns[name]
            columns.append(f"{sql if found == kind else value_text(sql, found)} AS {alias}")
        return f"SELECT {', '.join(columns)} FROM {together(group)}"

    def column(self, name: str, hint: str = "") -> tuple[str, str]:
        """The SQL expression and type of the column ``name``."""
        if self.names.count(name) > 1:
            raise UserError(f"{self.path}: more than one column '{name}'; rename the others")
        if name not in self.columns:
            alike = [other for other in self.names if other.strip().casefold() == name.strip().casefold()]
            what = f", but {_listed(alike)}; the case of a name and the spaces around it count" if alike else (
                f"{nearest(name, self.columns)}; it has {', '.join(list(self.columns)[:12])}{hint}")  # fmt: skip
            raise UserError(f"{self.path}: no column '{name}'{what}")
        return self.columns[name]

    def row_place(self, connection: Any, row: int) -> str:
        """``day2.csv: row 1,234`` of the row of ``raw`` with the rowid ``row``."""
        return row_place(connection, self.files, _input_row(connection, row))

    def value(self, connection: Any, column: str, row: int) -> tuple[str, Any]:
        """Where the row of ``raw`` with the rowid ``row`` stands, and what its file holds there in a column."""
        at = _input_row(connection, row)
        sql = f"SELECT {self.columns[column][0]} FROM {self.relation} LIMIT 1 OFFSET {at}"
        return row_place(connection, self.files, at), fetch_row(connection, sql)[0]


def _input_row(connection: Any, row: int) -> int:
    return fetch_number(connection, f"SELECT {input_rows(connection)} FROM raw WHERE rowid = {row}")


def called(paths: Sequence[Path]) -> str:
    """What messages call several files."""
    return f"{paths[0]} and {len(paths) - 1:,} more" if len(paths) > 1 else str(paths[0])


def row_place(connection: Any, files: Sequence[Table], row: int) -> str:
    """``day2.csv: row 1,234`` of a row from 0 over all files."""
    for table in files[:-1]:
        rows = fetch_number(connection, f"SELECT count(*) FROM {table.relation}")
        if row < rows:
            return f"{table.path}: row {row + 1:,}"
        row -= rows
    return f"{files[-1].path}: row {row + 1:,}"


def _signature(table: Table) -> tuple[Any, ...]:
    """What files that DuckDB reads together have in common; of CSV the order of the columns too."""
    return table.function, table.settings, tuple(sorted(table.columns.items()))


def together(tables: Sequence[Table]) -> str:
    """SQL: the rows of several files one after the other, which are read alike: of the same settings and columns."""
    return f"{tables[0].function}([{', '.join(literal(table.place) for table in tables)}]{tables[0].settings})"


def literal(path: Path) -> str:
    """SQL: a file's name; DuckDB would expand * ? [ in it."""
    return quoted(glob.escape(str(path.resolve())))


def value_text(sql: str, kind: str) -> str:
    """SQL: the text of a value; of a whole number without exponent; NULL where there is none."""
    text = f"CAST({sql} AS {TEXT})"
    if kind in ("FLOAT", "DOUBLE"):  # pandas writes nan where there is nothing; 1e20 is no whole number of 64 bits
        whole = f"CAST(TRY_CAST({sql} AS BIGINT) AS {TEXT}) || '.0'"
        return f"CASE WHEN NOT isnan({sql}) THEN coalesce(CASE WHEN {sql} = trunc({sql}) THEN {whole} END, {text}) END"
    return text


def merged(tables: Sequence[Table]) -> Table:
    """Several files as one table: columns by name, and as text where the files have other types for them."""
    first, *others = tables
    if not others:
        return first
    for table in others:
        _check_columns(first, table)
    columns = {}
    for name, (sql, kind) in first.columns.items():
        kinds = {table.columns[name][1]: table.path for table in tables}
        if len(kinds) > 1 and any(found.startswith(NESTED) or found.endswith("]") for found in kinds):
            *_, (other, path) = kinds.items()
            raise UserError(f"{path}: column '{name}' is {other}, and in {first.path} of type {kind}; write the files "
                            "alike")  # fmt: skip
        columns[name] = (sql, kind if len(kinds) == 1 else TEXT)
    whole = replace(first, columns=columns, parts=tuple(tables))
    if len({_signature(table) for table in tables}) == 1:
        return whole
    # Names of ours: to DuckDB names that differ in their case only are the same.
    return replace(whole, columns={name: (f"c{i}", kind) for i, (name, (_, kind)) in enumerate(columns.items())})


def _check_columns(first: Table, other: Table) -> None:
    if sorted(first.names) == sorted(other.names):
        return
    missing = [name for name in first.names if name not in other.names]
    added = [name for name in other.names if name not in first.names]
    what = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(added)}"] * bool(added)
    raise UserError(f"{other.path}: {' and '.join(what or ['has a column twice'])}, unlike {first.path}; files that "
                    "are read together need the same columns")  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:6]) + (", ..." if len(names) > 6 else "")
