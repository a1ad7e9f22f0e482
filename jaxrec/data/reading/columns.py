"""The columns of ids, keys, categories, numbers, labels and kinds of event in people's own files.

Spaces around a value do not count; what is empty then is nothing. Ids are int64 where all are whole numbers, also
written with .0, as pandas does once one is missing; a leading zero, a plus or more than 64 bits make all of them text.
Texts that other programs write for nothing (``MARKERS``) are refused as ids, and are nothing as numbers, unless
``--na`` says which texts are nothing. A label is a number, or one of ``TRUE`` and ``FALSE`` in any case: 1 and 0.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from typing import Any

from jaxrec.data.ids import MARKERS
from jaxrec.data.reading import duck
from jaxrec.data.reading.duck import TEXT, fetch_row, listed, trimmed, undotted, value_text
from jaxrec.data.reading.table import Field, Table
from jaxrec.errors import UserError, nearest, shown

FRACTIONAL = ("FLOAT", "DOUBLE", "DECIMAL")
KINDS = (TEXT, *duck.NUMBERS, "UUID", "DATE", "BOOLEAN", "ENUM")
LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
TRUE = ("true", "t", "yes", "y")
FALSE = ("false", "f", "no", "n")
MOST_LISTED = 12  # kinds of event in a message
NO_ID = "an id, of numbers a whole one; nan, null, NA, None and \\N are none (--na says otherwise)"


def add_na_argument(parser: ArgumentParser) -> None:
    """Add ``--na``."""
    parser.add_argument(
        "--na", nargs="*", metavar="TEXT",
        help="texts that stand for nothing, such as NA \\N; --na alone: none does, NA is a value (default: as ids nan, "
        "null, NA, None, \\N and the like are refused; as numbers they always are nothing)",
    )  # fmt: skip


def _kind(table: Table, column: str, kinds: tuple[str, ...] = KINDS, expected: str = "integers or text") -> str:
    _, kind = table.column(column)
    if kind.endswith("]") or not kind.startswith(kinds):
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected {expected}; convert the column")
    return kind


def id_field(table: Table, name: str, column: str, na: Sequence[str] | None, optional: bool = False) -> Field:
    """A column of ids as text, NULL where it cannot be one; ``whole_column`` cuts their spaces off.

    ``na`` is that of ``--na``, None where it is not given; ``optional``: nothing is allowed, and becomes ''.
    """
    kind = _kind(table, column)

    def parse(sql: str) -> str:
        text = usable = nothing_as_null(value_text(sql, kind), na)
        if kind.startswith(FRACTIONAL):
            usable = f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) AND {sql} = trunc({sql}) THEN {text} END"
        elif na is None:
            usable = f"CASE WHEN lower({text}) NOT IN ({listed(MARKERS)}) THEN {text} END"
        return f"CASE WHEN {text} IS NULL THEN '' ELSE {usable} END" if optional else usable

    return Field(name, column, parse, NO_ID)


def nothing_as_null(text: str, na: Sequence[str] | None) -> str:
    """SQL: the text as it stands, or NULL where it is empty or, without the spaces around it, one of ``na``."""
    return f"CASE WHEN {trimmed(text)} NOT IN ({_empty(na)}) THEN {text} END"


def _empty(na: Sequence[str] | None) -> str:
    return listed(("", *(one.strip() for one in na or ())))


def whole_column(connection: Any, name: str, called: str) -> list[str]:
    """Cut the spaces of a text column of ``raw`` off, and make it int64 where that loses nothing; '' becomes NULL.

    Returns notes for the user, who knows the column as ``called``, about what was changed.
    """
    text = f"nullif({trimmed(name)}, '')"
    digits = undotted(text)
    lossless = f"CAST(TRY_CAST({digits} AS BIGINT) AS {TEXT}) = {digits}"
    spaced, empty, dotted, whole = fetch_row(
        connection,
        f"SELECT count(*) FILTER ({name} <> {trimmed(name)}), count(*) FILTER ({name} = ''), "
        f"count(*) FILTER ({digits} <> {text}), "
        f"coalesce(bool_and(coalesce({lossless}, {text} IS NULL)), true) FROM raw",
    )
    notes = [f"{called}: spaces around {spaced:,} values are cut off"] if spaced else []
    if whole and dotted:
        notes.append(f"{called}: whole numbers written with .0 in {dotted:,} rows are read as integers")
    kind, value = ("BIGINT", f"CAST({digits} AS BIGINT)") if whole else (TEXT, text)
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


def session_field(table: Table, columns: Sequence[str], na: Sequence[str] | None) -> Field:
    """The column ``session`` of ``raw``, a number that is equal where all ``columns`` are the same ids."""
    parts = []
    for column in columns:
        text = undotted(trimmed(id_field(table, column, column, na).parse(table.column(column)[0])))
        parts.append(f"length({text}) || ':' || {text}")  # (1, 23) is not (12, 3)
    expected = f"in each of {', '.join(columns)} {NO_ID}"
    return Field("session", columns[0], lambda _: f"md5_number({' || '.join(parts)})", expected)


def number_field(table: Table, name: str, column: str, na: Sequence[str] | None) -> Field:
    """A column of numbers, NaN where there is nothing, NULL where there is something else; ``na`` as of ``--na``."""
    expected = " or nothing (so are NA, NaN, NULL, None and \\N; --na names other texts)"
    return _numbers(table, name, column, na, "CAST('nan' AS DOUBLE)", {}, expected)


def label_field(table: Table, name: str, column: str, na: Sequence[str] | None) -> Field:
    """A column of labels, NULL where there is nothing or something else."""
    return _numbers(table, name, column, na, "NULL", {1.0: TRUE, 0.0: FALSE}, f", or one of {', '.join(TRUE + FALSE)}")


def _numbers(
    table: Table, name: str, column: str, na: Sequence[str] | None, missing: str, words: dict[float, Sequence[str]],
    expected: str,
) -> Field:  # fmt: skip
    kind = _kind(table, column, (TEXT, "BOOLEAN", *duck.NUMBERS), "numbers")

    def parse(sql: str) -> str:
        text = trimmed(f"CAST({sql} AS {TEXT})")
        value = duck.number(trimmed(sql)) if kind == TEXT else f"TRY_CAST({sql} AS DOUBLE)"
        nothing = (f"coalesce(lower({text}), '') IN ({listed(('', *MARKERS))}) OR {text} IN ({_empty(na)}) "
                   f"OR coalesce(isnan({value}), false)")  # fmt: skip
        named = " ".join(f"WHEN lower({text}) IN ({listed(texts)}) THEN {one}" for one, texts in words.items())
        return f"CASE WHEN {nothing} THEN {missing} {named} WHEN abs({value}) <= {LARGEST} THEN {value} END"

    return Field(name, column, parse, f"a number of at most {LARGEST:g}{expected}")


def order_field(table: Table, name: str, column: str) -> Field:
    """A column of numbers as text, NULL where a value is none; see ``order_numbers``."""
    _kind(table, column)

    def parse(sql: str) -> str:
        text = trimmed(f"CAST({sql} AS {TEXT})")
        return f"CASE WHEN isfinite({duck.number(text)}) THEN {text} END"

    return Field(name, column, parse, "a number that orders events of equal time")


def order_numbers(connection: Any, names: Sequence[str]) -> None:
    """Make columns of ``raw`` that ``order_field`` read BIGINT where all their values are whole, otherwise DOUBLE."""
    for name in names:
        whole = f"regexp_full_match({name}, '[+-]?[0-9]+') AND TRY_CAST({name} AS BIGINT) IS NOT NULL"
        kind = "BIGINT" if fetch_row(connection, f"SELECT bool_and({whole}) FROM raw")[0] else "DOUBLE"
        connection.execute(f"ALTER TABLE raw ALTER {name} TYPE {kind} USING CAST({name} AS {kind})")


def event_field(table: Table, name: str, column: str) -> Field:
    """A column of kinds of event as text without spaces around it; empty where there is none."""
    kind = _kind(table, column)

    def parse(sql: str) -> str:
        text = f"coalesce({trimmed(value_text(sql, kind))}, '')"
        return undotted(text) if kind.startswith(FRACTIONAL) else text

    return Field(name, column, parse, "a kind of event")


def keep_events(connection: Any, table: Table, column: str, kinds: Sequence[str] | None, notes: list[str]) -> int:
    """Leave out the rows of ``raw`` whose ``event``, the file's ``column``, is none of ``kinds`` (``--events``).

    Returns how many; ``notes`` gets one about what was kept and left out.
    """
    query = "SELECT event, count(*) FROM raw GROUP BY event ORDER BY count(*) DESC, event"
    counts: dict[str, int] = dict(connection.execute(query).fetchall())

    def counted(names: Iterable[str]) -> str:
        parts = [f"{kind[:40] or 'nothing'} {counts[kind]:,}" for kind in names]
        return ", ".join(parts[:MOST_LISTED] + ["..."] * (len(parts) > MOST_LISTED))

    if kinds is None:
        raise UserError(f"{table.called}: column '{column}' holds {counted(counts)}; say with --events which to keep")
    for kind in kinds:
        if kind not in counts:
            raise UserError(f"--events {shown(kind)}: no such event in column '{column}'{nearest(kind, counts)}; "
                            f"it holds {counted(counts)}")  # fmt: skip
    others = [kind for kind in counts if kind not in kinds]
    if not others:
        return 0
    kept = [kind for kind in counts if kind in kinds]
    notes.append(f"column '{column}': kept {counted(kept)}; left out {counted(others)}")
    return duck.leave_out(connection, f"event NOT IN ({listed(kinds)})")
