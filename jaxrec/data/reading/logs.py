"""Columns that only logs of events have: keys of several columns, numbers that order, and kinds of event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxrec.data.reading.duck import fetch_row, listed
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.ids import check_kind, fractional, id_field, trimmed
from jaxrec.data.reading.rows import leave_out
from jaxrec.data.reading.table import TEXT, Table, value_text
from jaxrec.errors import UserError, nearest, shown

MOST_LISTED = 12  # kinds of event in a message


def session_field(table: Table, columns: Sequence[str], na: Sequence[str] | None) -> Field:
    """The column ``session`` of ``raw``, a number that is equal where all ``columns`` are; see ``id_field``.

    The parts are compared as ids are: without the spaces around them, and 7.0 is 7.
    """
    parts = []
    for column in columns:
        text = id_field(table, column, column, na).parse(table.column(column)[0])
        text = f"regexp_replace({trimmed(text)}, '\\.0+$', '')"
        parts.append(f"length({text}) || ':' || {text}")  # (1, 23) is not (12, 3)
    expected = id_field(table, "session", columns[0], na).expected
    expected += f" in each of {', '.join(columns)}" if len(columns) > 1 else ""
    return Field("session", columns[0], lambda _: f"md5_number({' || '.join(parts)})", expected)


def order_field(table: Table, name: str, column: str) -> Field:
    """A column of numbers as text, NULL where a value is none; see ``order_numbers``."""
    check_kind(table, column, table.column(column)[1])

    def parse(sql: str) -> str:
        text = trimmed(f"CAST({sql} AS {TEXT})")
        return f"CASE WHEN isfinite(TRY_CAST({text} AS DOUBLE)) THEN {text} END"

    return Field(name, column, parse, "a number that orders events of equal time")


def order_numbers(connection: Any, names: Sequence[str]) -> None:
    """Make columns of ``raw`` that ``order_field`` read BIGINT where all their values are whole, otherwise DOUBLE."""
    for name in names:
        whole = f"regexp_full_match({name}, '[+-]?[0-9]+') AND TRY_CAST({name} AS BIGINT) IS NOT NULL"
        kind = "BIGINT" if fetch_row(connection, f"SELECT bool_and({whole}) FROM raw")[0] else "DOUBLE"
        connection.execute(f"ALTER TABLE raw ALTER {name} TYPE {kind} USING CAST({name} AS {kind})")


def event_field(table: Table, name: str, column: str) -> Field:
    """A column of kinds of event as text without spaces around it; empty where there is none."""
    _, kind = table.column(column)
    check_kind(table, column, kind)

    def parse(sql: str) -> str:
        text = f"coalesce({trimmed(value_text(sql, kind))}, '')"
        return f"regexp_replace({text}, '\\.0+$', '')" if fractional(kind) else text

    return Field(name, column, parse, "a kind of event")


def keep_events(connection: Any, table: Table, column: str, kinds: Sequence[str] | None, notes: list[str]) -> int:
    """Leave out the rows of ``raw`` whose ``event`` is none of ``kinds``; returns how many.

    Args:
        connection: DuckDB, with the table ``raw``.
        table: where it was read from.
        column: the file's column of the kinds.
        kinds: of ``--events``; None where it is not given.
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
    return leave_out(connection, f"event NOT IN ({listed(kinds)})")


def _counted(counts: dict[str, int]) -> str:
    """``view 1,200, cart 35`` of numbers by kind."""
    parts = [f"{kind[:40] if kind else 'nothing'} {count:,}" for kind, count in list(counts.items())[:MOST_LISTED]]
    return ", ".join(parts) + (f" and {len(counts) - MOST_LISTED:,} more" if len(counts) > MOST_LISTED else "")
