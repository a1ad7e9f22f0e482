"""The columns of ids, keys, categories, numbers, labels and types of event in people's own files.

Spaces around a value do not count; what is empty then is nothing. Ids are int64 where all are whole numbers, also
written with .0, as pandas does once one is missing; a leading zero, a plus or more than 64 bits make all of them text.
Texts that other programs write for nothing (``MARKERS``) are refused as ids, and are nothing as numbers, unless
``--na`` says which texts are nothing. A label is a number, or true or false as DuckDB reads it: 1 or 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxrec.data.ids import MARKERS
from jaxrec.data.reading import duck
from jaxrec.data.reading.duck import TEXT, fetch_row, listed, quoted, trimmed, undotted, value_text
from jaxrec.data.reading.table import Field, Table
from jaxrec.errors import UserError, nearest, shown

FRACTIONAL = ("FLOAT", "DOUBLE", "DECIMAL")
KINDS = (TEXT, *duck.NUMBERS, "UUID", "DATE", "BOOLEAN", "ENUM")
LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
MOST_TYPES = 256  # of events: one byte each
NO_ID = "an id, of numbers a whole one; nan, null, NA, None and \\N are none (--na says otherwise)"


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
    spaced, empty, dotted, whole = fetch_row(
        connection,
        f"SELECT count(*) FILTER ({name} <> {trimmed(name)}), count(*) FILTER ({name} = ''), "
        f"count(*) FILTER ({digits} <> {text}), "
        f"coalesce(bool_and(({duck.integer(digits)}) IS NOT NULL OR {text} IS NULL), true) FROM raw",
    )
    notes = [f"{called}: spaces around {spaced:,} values are cut off"] if spaced else []
    if whole and dotted:
        notes.append(f"{called}: whole numbers written with .0 in {dotted:,} rows are read as integers")
    # TRY_CAST, as the rows that were left out are still looked at.
    kind, value = ("BIGINT", f"TRY_CAST({digits} AS BIGINT)") if whole else (TEXT, text)
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


def number_field(table: Table, name: str, column: str, na: Sequence[str] | None, label: bool = False) -> Field:
    """A column of numbers, NaN where there is nothing, NULL where there is something else; ``na`` as of ``--na``.

    ``label``: of labels, which may be words such as true and no, and NULL where there is nothing.
    """
    kind = _kind(table, column, (TEXT, "BOOLEAN", *duck.NUMBERS), "numbers")
    missing, expected = "CAST('nan' AS DOUBLE)", "nothing (as NA, NaN, NULL, None and \\N; --na names others)"
    if label:
        missing, expected = "NULL", "one of true, false, t, f, yes, no, y, n"

    def parse(sql: str) -> str:
        text = trimmed(f"CAST({sql} AS {TEXT})")
        value = duck.number(trimmed(sql)) if kind == TEXT else f"TRY_CAST({sql} AS DOUBLE)"
        nothing = (f"coalesce(lower({text}), '') IN ({listed(('', *MARKERS))}) OR {text} IN ({_empty(na)}) "
                   f"OR coalesce(isnan({value}), false)")  # fmt: skip
        word = f"CAST(TRY_CAST({text} AS BOOLEAN) AS DOUBLE)" if label else "NULL"
        return f"CASE WHEN {nothing} THEN {missing} WHEN abs({value}) <= {LARGEST} THEN {value} ELSE {word} END"

    return Field(name, column, parse, f"a number of at most {LARGEST:g}, or {expected}")


def order_field(table: Table, name: str, column: str) -> Field:
    """A column of numbers that order events of equal time, exact to nine digits behind the point."""
    _kind(table, column)
    parse = duck.number(trimmed(f"CAST({{0}} AS {TEXT})"), "DECIMAL(38, 9)").format
    return Field(name, column, parse, "a number that orders events of equal time")


def type_field(table: Table, column: str, na: Sequence[str] | None) -> Field:
    """The column ``event`` of ``raw``, types of event as text, NULL where there is none; see ``choose_types``."""
    parse = id_field(table, "event", column, na).parse
    return Field("event", column, lambda sql: trimmed(parse(sql)), "the type of an event")


def choose_types(connection: Any, table: Table, column: str, wanted: Sequence[str] | None) -> tuple[list[str], int]:
    """The names of the types of event, and how many events are of no type or of another and were left out; the column
    ``event`` of ``raw``, the file's ``column``, becomes an index into the names.

    ``wanted`` are those of ``--events``, each ``name`` or ``name=new``; None: all, the most frequent first.
    """
    types_of_all = "SELECT event, count(*) FROM raw WHERE event IS NOT NULL GROUP BY event"
    counts: dict[str, int] = dict(connection.execute(types_of_all).fetchall())
    often = sorted(counts, key=lambda name: (-counts[name], name))
    chosen: dict[str, str] = {}
    for word in often if wanted is None else wanted:
        name, _, new = (word, "", word) if word in counts else word.rpartition("=")
        if name not in counts or name in chosen or not new.strip():
            raise UserError(f"--events {shown(word)}: twice, or none of column '{column}'{nearest(name or word, often)}"
                            f"; those are {', '.join(often[:12])}; give each once, as view or view=new")  # fmt: skip
        chosen[name] = new.strip()
    types = list(dict.fromkeys(chosen.values()))
    if len(types) > MOST_TYPES:
        raise UserError(f"{table.called}: column '{column}': {len(types):,} types of events, at most {MOST_TYPES} are "
                        "allowed; choose with --events, or name another column")  # fmt: skip
    others = duck.leave_out(connection, f"coalesce(event NOT IN ({listed(chosen)}), true)")
    pairs = " ".join(f"WHEN {quoted(name)} THEN {types.index(new)}" for name, new in chosen.items())
    connection.execute(f"ALTER TABLE raw ALTER event TYPE UTINYINT USING CASE event {pairs} END")
    return types, others
