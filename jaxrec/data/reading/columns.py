"""The columns of ids, keys, categories, numbers, labels and kinds of event in people's own files.

- Spaces around a value do not count; what is empty then is nothing.
- A column of ids is int64 where all its values are whole numbers, also where they are written with .0, as pandas does
  once a value is missing. A leading zero, a plus or a number beyond 64 bits makes all of it text.
- Texts that other programs write for nothing (``MARKERS``) are refused as ids, and are nothing as numbers; ``--na``
  says which texts are nothing.
- A label is a number, or one of ``TRUE`` and ``FALSE`` in any case: 1 and 0, as of a column of booleans.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from jaxrec.data.ids import MARKERS
from jaxrec.data.reading import duck
from jaxrec.data.reading.duck import TEXT, fetch_row, listed, trimmed, undotted, value_text
from jaxrec.data.reading.table import Field, Table
from jaxrec.errors import UserError, nearest, shown

KINDS = (TEXT, *duck.INTEGERS, "UBIGINT", "HUGEINT", "UHUGEINT", "UUID", "DATE", "BOOLEAN", "FLOAT", "DOUBLE")
LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
TRUE = ("true", "t", "yes", "y")
FALSE = ("false", "f", "no", "n")
MOST_LISTED = 12  # kinds of event in a message


def add_na_argument(parser: ArgumentParser) -> None:
    """Add ``--na``."""
    parser.add_argument(
        "--na", nargs="*", metavar="TEXT",
        help="texts that stand for nothing, such as NA \\N; --na alone: none does, NA is a value (default: as ids nan, "
        "null, NA, None, \\N and the like are refused; as numbers they always are nothing)",
    )  # fmt: skip


# ---- ids and categories ----------------------------------------------------------------------------------------------


def id_field(table: Table, name: str, column: str, na: Sequence[str] | None, optional: bool = False) -> Field:
    """A column of ids as text, NULL where it cannot be one; ``whole_column`` cuts their spaces off.

    Args:
        name: of the column of ``raw``.
        column: of the file.
        na: of ``--na``; None where it is not given.
        optional: nothing is allowed, and becomes the empty text.
    """
    kind = _id_kind(table, column)
    expected = "an id, a whole number" if _fractional(kind) else "an id"
    if na is None and not _fractional(kind):
        expected += "; nan, null, NA, None or \\N is none (--na NA: it stands for nothing; --na alone: it is an id)"

    def parse(sql: str) -> str:
        text = usable = nothing_as_null(value_text(sql, kind), na)
        if _fractional(kind):
            usable = f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) AND {sql} = trunc({sql}) THEN {text} END"
        elif na is None:
            usable = f"CASE WHEN lower({text}) NOT IN ({listed(MARKERS)}) THEN {text} END"
        return f"CASE WHEN {text} IS NULL THEN '' ELSE {usable} END" if optional else usable

    return Field(name, column, parse, expected)


def _id_kind(table: Table, column: str) -> str:
    """The type of a column, of which ids or categories can be."""
    _, kind = table.column(column)
    if kind.endswith("]") or (kind not in KINDS and not kind.startswith(("DECIMAL", "ENUM"))):
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected integers or text; convert the "
                        "column")  # fmt: skip
    return kind


def _fractional(kind: str) -> bool:
    return kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL")


def nothing_as_null(text: str, na: Sequence[str] | None) -> str:
    """SQL: the text as it stands, or NULL where it is empty or, without the spaces around it, one of ``na``."""
    return f"CASE WHEN {trimmed(text)} NOT IN ({listed(('', *(one.strip() for one in na or ())))}) THEN {text} END"


def whole_column(connection: Any, name: str, called: str) -> list[str]:
    """Cut the spaces of a text column of ``raw`` off, and make it int64 where that loses nothing; '' becomes NULL.

    Returns:
        Notes for the user, who knows the column as ``called``, about what was changed.
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
        text = id_field(table, column, column, na).parse(table.column(column)[0])
        text = undotted(trimmed(text))
        parts.append(f"length({text}) || ':' || {text}")  # (1, 23) is not (12, 3)
    expected = id_field(table, "session", columns[0], na).expected
    expected += f" in each of {', '.join(columns)}" if len(columns) > 1 else ""
    return Field("session", columns[0], lambda _: f"md5_number({' || '.join(parts)})", expected)


# ---- numbers and labels ----------------------------------------------------------------------------------------------


def number_field(table: Table, name: str, column: str, na: Sequence[str] | None) -> Field:
    """A column of numbers, NaN where there is nothing, NULL where there is something else; ``na`` as of ``--na``."""
    kind = _number_kind(table, column)

    def parse(sql: str) -> str:
        value = _number(sql, kind)
        missing = f"{_nothing(sql, na)} OR coalesce(isnan({value}), false)"
        return f"CASE WHEN {missing} THEN CAST('nan' AS DOUBLE) WHEN abs({value}) <= {LARGEST} THEN {value} END"

    return Field(name, column, parse, f"a number of at most {LARGEST:g} or nothing (so are NA, NaN, NULL, None and "
                                      "\\N; --na names other texts)")  # fmt: skip


def label_field(table: Table, name: str, column: str, na: Sequence[str] | None) -> Field:
    """A column of labels, NULL where there is nothing or something else."""
    kind = _number_kind(table, column)

    def parse(sql: str) -> str:
        word, value = _word(sql), _number(sql, kind)
        words = f"WHEN {word} IN ({listed(TRUE)}) THEN 1.0 WHEN {word} IN ({listed(FALSE)}) THEN 0.0"
        return f"CASE WHEN {_nothing(sql, na)} THEN NULL {words} WHEN abs({value}) <= {LARGEST} THEN {value} END"

    return Field(name, column, parse, f"a number of at most {LARGEST:g}, or one of {', '.join((*TRUE, *FALSE))}")


def _number_kind(table: Table, column: str) -> str:
    _, kind = table.column(column)
    if kind not in (TEXT, "BOOLEAN", *duck.NUMBERS) and not kind.startswith("DECIMAL"):
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected numbers")
    return kind


def _word(sql: str) -> str:
    return f"lower({trimmed(f'CAST({sql} AS {TEXT})')})"


def _nothing(sql: str, na: Sequence[str] | None) -> str:
    """SQL: whether there is no value, or a text that stands for none."""
    found = f"coalesce({_word(sql)}, '') IN ({listed(('', *MARKERS))})"
    texts = listed(one.strip() for one in na or ())
    return f"({found} OR {trimmed(f'CAST({sql} AS {TEXT})')} IN ({texts}))" if texts else found


def _number(sql: str, kind: str) -> str:
    """SQL: the number, NULL where it is none."""
    return duck.number(trimmed(sql)) if kind == TEXT else f"TRY_CAST({sql} AS DOUBLE)"


# ---- only in logs of events ------------------------------------------------------------------------------------------


def order_field(table: Table, name: str, column: str) -> Field:
    """A column of numbers as text, NULL where a value is none; see ``order_numbers``."""
    _id_kind(table, column)

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
    kind = _id_kind(table, column)

    def parse(sql: str) -> str:
        text = f"coalesce({trimmed(value_text(sql, kind))}, '')"
        return undotted(text) if _fractional(kind) else text

    return Field(name, column, parse, "a kind of event")


def keep_events(connection: Any, table: Table, column: str, kinds: Sequence[str] | None, notes: list[str]) -> int:
    """Leave out the rows of ``raw`` whose ``event`` is none of ``kinds`` (``--events``); returns how many.

    Args:
        column: the file's column of the kinds.
        notes: gets one about what was kept and left out.
    """
    counts = dict(connection.execute(
        "SELECT event, count(*) FROM raw GROUP BY event ORDER BY count(*) DESC, event"
    ).fetchall())  # fmt: skip
    if kinds is None:
        raise UserError(f"{table.called}: column '{column}' holds {_counted(counts)}; say with --events which to keep")
    for kind in kinds:
        if kind not in counts:
            raise UserError(f"--events {shown(kind)}: no such event in column '{column}'{nearest(kind, counts)}; "
                            f"it holds {_counted(counts)}")  # fmt: skip
    others = {kind: count for kind, count in counts.items() if kind not in kinds}
    if not others:
        return 0
    kept = {kind: count for kind, count in counts.items() if kind in kinds}
    notes.append(f"column '{column}': kept {_counted(kept)}; left out {_counted(others)}")
    return duck.leave_out(connection, f"event NOT IN ({listed(kinds)})")


def _counted(counts: dict[str, int]) -> str:
    """``view 1,200, cart 35`` of numbers by kind."""
    parts = [f"{kind[:40] or 'nothing'} {count:,}" for kind, count in list(counts.items())[:MOST_LISTED]]
    return ", ".join(parts) + (", ..." if len(counts) > MOST_LISTED else "")
