"""The columns of ids and of categories in people's own files, as they become int64 or text.

One rule for all of them, after which the values can be found again however they are given (``raw_ids``):

- Spaces around a value do not count; what is empty then is nothing.
- A column is int64 where all its values are whole numbers, also where they are written with .0, as pandas does once a
  value is missing. A leading zero, a plus or a number beyond 64 bits makes all of it text.
- Texts that other programs write for nothing (``MARKERS``) are refused as ids; ``--na`` says which texts are nothing.
  Of numbers: see ``number_columns``.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from jaxrec.data.ids import MARKERS
from jaxrec.data.reading.duck import fetch_row, listed
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.table import TEXT, Table, value_text
from jaxrec.data.reading.times import INTEGERS
from jaxrec.errors import UserError, shown

SPACES = " || ".join(f"chr({code})" for code in (32, 9, 10, 11, 12, 13, 0xA0, 0x3000, 0xFEFF))
KINDS = (TEXT, *INTEGERS, "UBIGINT", "HUGEINT", "UHUGEINT", "UUID", "DATE", "BOOLEAN", "FLOAT", "DOUBLE")


def add_na_argument(parser: ArgumentParser) -> None:
    """Add ``--na``."""
    parser.add_argument(
        "--na",
        nargs="*",
        metavar="TEXT",
        help="texts that stand for nothing, such as NA \\N; --na alone: none does, NA is a value (default: as ids nan, "
        "null, NA, None, \\N and the like are refused; as numbers they always are nothing)",
    )


def id_field(table: Table, name: str, column: str, na: Sequence[str] | None, optional: bool = False) -> Field:
    """A column of ids as text, NULL where it cannot be one.

    Args:
        table: the file.
        name: of the column of ``raw``.
        column: of the file.
        na: of ``--na``; None where it is not given.
        optional: nothing is allowed, and becomes the empty text.
    """
    _, kind = table.column(column)
    check_kind(table, column, kind)
    expected = "an id, a whole number" if fractional(kind) else "an id"
    if na is None and not fractional(kind):
        expected += "; nan, null, NA, None or \\N is none (--na NA: it stands for nothing; --na alone: it is an id)"

    def parse(sql: str) -> str:
        text = usable = nothing_as_null(value_text(sql, kind), na)
        if fractional(kind):
            usable = f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) AND {sql} = trunc({sql}) THEN {text} END"
        elif na is None:
            usable = f"CASE WHEN lower({text}) NOT IN ({listed(MARKERS)}) THEN {text} END"
        # Spaces are counted and cut off in ``whole_column``.
        return f"CASE WHEN {text} IS NULL THEN '' ELSE {usable} END" if optional else usable

    return Field(name, column, parse, expected)


def check_kind(table: Table, column: str, kind: str) -> None:
    """Refuse the types of which nothing can be an id or a category."""
    if kind.endswith("]") or (kind not in KINDS and not kind.startswith(("DECIMAL", "ENUM"))):
        what = "holds no value" if kind == '"NULL"' else f"is of type {kind}"
        raise UserError(f"{table.path}: column '{column}' {what}; expected integers or text; convert the column")


def fractional(kind: str) -> bool:
    """Whether a type has numbers that are not whole."""
    return kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL")


def trimmed(text: str) -> str:
    """SQL: a text without the spaces around it."""
    return f"trim({text}, {SPACES})"


def nothing_as_null(text: str, na: Sequence[str] | None) -> str:
    """SQL: the text as it stands, or NULL where it is empty or, without the spaces around it, one of ``na``."""
    return f"CASE WHEN {trimmed(text)} NOT IN ({listed(('', *(one.strip() for one in na or ())))}) THEN {text} END"


def whole_column(connection: Any, name: str, called: str) -> list[str]:
    """Cut the spaces of a text column of ``raw`` off, and make it int64 where that loses nothing; '' becomes NULL.

    Args:
        name: of the column of ``raw``.
        called: what notes call it.

    Returns:
        Notes for the user about what was changed.
    """
    text = f"nullif({trimmed(name)}, '')"
    number = f"regexp_replace({text}, '\\.0+$', '')"
    lossless = f"CAST(TRY_CAST({number} AS BIGINT) AS {TEXT}) = {number}"
    spaced, empty, dotted, whole = fetch_row(
        connection,
        f"SELECT count(*) FILTER ({name} <> {trimmed(name)}), count(*) FILTER ({name} = ''), "
        f"count(*) FILTER ({number} <> {text}), "
        f"coalesce(bool_and(coalesce({lossless}, {text} IS NULL)), true) FROM raw",
    )
    notes = [f"{called}: spaces around {spaced:,} values are cut off"] if spaced else []
    if whole and dotted:
        notes.append(f"{called}: whole numbers written with .0 in {dotted:,} rows are read as integers")
    kind, value = ("BIGINT", f"CAST({number} AS BIGINT)") if whole else (TEXT, text)
    if whole or spaced or empty:
        connection.execute(f"ALTER TABLE raw ALTER {name} TYPE {kind} USING {value}")
    return notes


def marker_notes(connection: Any, name: str, called: str) -> list[str]:
    """Notes about markers of nothing that a column of text categories has as values."""
    found = connection.execute(
        f"SELECT CAST({name} AS {TEXT}) AS value, count(*) FROM raw WHERE lower(value) IN ({listed(MARKERS)}) "
        "GROUP BY value ORDER BY count(*) DESC, value"
    ).fetchall()
    return [f"{called}: {shown(value)} stands in {count:,} rows and is taken as a value; if it means nothing, say --na "
            f"{value}" for value, count in found]  # fmt: skip
