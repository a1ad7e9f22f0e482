"""The columns of the DuckDB table ``raw``: how their values are read, and the rows with one that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxrec.data.reading.duck import fetch_number, fetch_row
from jaxrec.data.reading.rows import leave_out
from jaxrec.data.reading.table import Table
from jaxrec.errors import UserError, shown

MOST_NAMED = 4  # columns with unusable values of which a message shows the first one
LONGEST_VALUE = 60  # characters of a value in a message


@dataclass(frozen=True)
class Field:
    """One column of the table ``raw``, read from one column of a file.

    Attributes:
        name: its name in ``raw``.
        column: its name in the file.
        parse: from the column's SQL expression to one that is NULL where the value cannot be used.
        expected: what the value must be, for the error message.
    """

    name: str
    column: str
    parse: Callable[[str], str]
    expected: str


def check_values(
    connection: Any, table: Table, fields: Sequence[Field], drop_invalid: bool | None
) -> tuple[int, list[str]]:
    """Refuse or leave out the rows of ``raw`` with a value that cannot be used.

    Args:
        connection: DuckDB, with the table ``raw``.
        table: where it was read from.
        fields: its columns.
        drop_invalid: of ``--drop-invalid``; None where the command has no such option.

    Returns:
        How many rows were left out, and notes about them.
    """
    rows, *usable = fetch_row(connection, f"SELECT count(*), {', '.join(f'count({f.name})' for f in fields)} FROM raw")
    bad = [(field, rows - count) for field, count in zip(fields, usable, strict=True) if count < rows]
    if not bad:
        return 0, []
    unusable = " OR ".join(f"{field.name} IS NULL" for field, _ in bad)
    invalid = fetch_number(connection, f"SELECT count(*) FROM raw WHERE {unusable}")
    what = "; ".join(_first_value(connection, table, field, count) for field, count in bad[:MOST_NAMED])
    if drop_invalid and invalid == rows:
        raise UserError(f"{table.called}: --drop-invalid leaves nothing of {rows:,} rows: {what}; are these the right "
                        "columns?")  # fmt: skip
    if drop_invalid:
        leave_out(connection, unusable)
        return invalid, [f"left out {invalid:,} of {rows:,} rows with a value that cannot be used: {what}"]
    ways = "" if drop_invalid is None else ", or leave such rows out with --drop-invalid"
    raise UserError(f"{what}; mend or remove {invalid:,} of {rows:,} rows{ways}")


def _first_value(connection: Any, table: Table, field: Field, count: int) -> str:
    """Where the first unusable value of a column stands, what it is, and what was expected."""
    row = fetch_number(connection, f"SELECT min(rowid) FROM raw WHERE {field.name} IS NULL")
    place, value = table.value(connection, field.column, row)
    text = "nothing" if value is None else f"'{value}'"
    text = text if len(text) <= LONGEST_VALUE else shown(str(value), LONGEST_VALUE)
    many = f" ({count:,} such rows)" if count > 1 else ""
    return f"{place}, column '{field.column}': found {text}{many}, expected {field.expected}"
