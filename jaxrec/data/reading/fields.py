"""The columns of the DuckDB table ``raw``: how their values are read, and the rows with one that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxrec.data.reading.duck import fetch_number, fetch_row
from jaxrec.data.reading.rows import input_row, leave_out
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
    values = _first_values(connection, table, bad)
    several = "" if len(bad) == 1 else f"; {invalid:,} of {rows:,} rows in all"
    if not drop_invalid:
        what = "; ".join(map(_refused, bad, values)) + several
        them = "it" if invalid == 1 else "them"
        ways = "" if drop_invalid is None else f", or leave {them} out with --drop-invalid"
        raise UserError(f"{what}; mend or remove {them}{ways}")
    if invalid == rows:
        raise UserError(f"{table.called}: --drop-invalid leaves nothing of {rows:,} rows: "
                        f"{'; '.join(map(_refused, bad, values))}; are these the right columns?")  # fmt: skip
    leave_out(connection, unusable)
    counts = [f"column '{field.column}' in {count:,}{f' ({value.place}: {value.text})' if value else ''}"
              for (field, count), value in zip(bad, values, strict=True)]  # fmt: skip
    return invalid, [f"left out {invalid:,} of {rows:,} rows with a value that cannot be used: {', '.join(counts)}"]


class _Value(NamedTuple):
    """A value that cannot be used: where it stands, and its text."""

    place: str
    text: str


def _first_values(connection: Any, table: Table, bad: Sequence[tuple[Field, int]]) -> list[_Value | None]:
    """The first unusable value of each column; None behind the first MOST_NAMED columns."""
    first = fetch_row(
        connection, f"SELECT {', '.join(f'min(rowid) FILTER ({f.name} IS NULL)' for f, _ in bad)} FROM raw"
    )
    values: list[_Value | None] = []
    last = ""  # the file that was named last
    for (field, _), row in zip(bad[:MOST_NAMED], first[:MOST_NAMED], strict=True):
        sql, _ = table.column(field.column)
        at = input_row(connection, row)
        (value,) = connection.execute(f"SELECT {sql} FROM {table.relation} LIMIT 1 OFFSET {at}").fetchone()
        text = "nothing" if value is None else f"'{value}'"
        place = table.row_place(connection, row)
        file = place.rpartition(": row ")[0]
        place, last = place.removeprefix(f"{file}: ") if file == last else place, file
        values.append(_Value(place, text if len(text) <= LONGEST_VALUE else shown(str(value), LONGEST_VALUE)))
    return values + [None] * len(bad[MOST_NAMED:])


def _refused(bad: tuple[Field, int], value: _Value | None) -> str:
    """What an error says about a column."""
    field, count = bad
    if value is None:
        return f"column '{field.column}' in {count:,} rows"
    many = f" ({count:,} such rows)" if count > 1 else ""
    return f"{value.place}, column '{field.column}': found {value.text}{many}, expected {field.expected}"
