"""The first step of cleaning: the clicks that count, out of the events that a source has read."""

from __future__ import annotations

import re
from typing import Any

from jaxrec.data.clean.choices import Cleaning, Raw
from jaxrec.data.clean.ledger import Ledger
from jaxrec.data.reading.duck import fetch_number, fetch_row
from jaxrec.data.reading.times import iso, plausible_range, span
from jaxrec.errors import UserError

UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # ms


def time_span(connection: Any, raw: Raw) -> dict[str, str]:
    """First and last time of all events, which have to be plausible."""
    first, last = plausible_range()
    found = fetch_row(connection, f"SELECT min({raw.time}), max({raw.time}) FROM raw")
    for moment in found:
        if moment is not None and not first <= moment < last:
            row = fetch_number(connection, f"SELECT min(rowid) FROM raw WHERE {raw.time} = {moment}")
            place = raw.place(row) if raw.place else f"{raw.name}: row {row + 1:,}"
            raise UserError(f"{place}: its time is {iso(moment)}, expected one from {iso(first)} "
                            f"to {iso(last)}; mend or remove it")  # fmt: skip
    return {} if found[0] is None else span(*found)


def make_clicks(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger) -> dict[str, Any]:
    """Step 1: the view ``clicks`` (session, item, time, date, what ``raw`` orders by, row; of typed events ``event``).

    Returns:
        Further entries of the manifest.
    """
    columns = ["session", "item", f"{raw.time} AS time", f"{raw.date} AS date", *raw.order, *raw.further]
    columns += ["event"] * bool(raw.event_types)
    source, entries = f"(SELECT {', '.join(columns)}, rowid AS row FROM raw)", {}
    if raw.event_types or cleaning.drop_duplicates:
        same = ", ".join(column.split()[-1] for column in columns)
        made = _made(connection, "distinct_clicks", f"SELECT {same}, min(row) AS row FROM {source} GROUP BY {same}")
        ledger.took("duplicate events", events=_fewer(connection, source, made))
        source = made
    window = f"PARTITION BY session ORDER BY {event_order(raw)}"
    if cleaning.session_gap is not None:
        made = _made(connection, "cut_clicks", _cut(source, window, duration(cleaning.session_gap)))
        sessions = [fetch_number(connection, f"SELECT count(DISTINCT session) FROM {one}") for one in (source, made)]
        entries, source = {"cut": {"sessions": sessions[0], "pieces": sessions[1]}}, made
    if cleaning.drop_repeats:
        made = _made(connection, "moving_clicks", f"SELECT * EXCLUDE before FROM (SELECT *, lag(item) OVER ({window}) "
                     f"AS before FROM {source}) WHERE before IS DISTINCT FROM item")  # fmt: skip
        ledger.took("repeats", events=_fewer(connection, source, made))
        source = made
    connection.execute(f"CREATE VIEW clicks AS SELECT * FROM {source}")
    return entries


def event_order(raw: Raw) -> str:
    """SQL: what the events of a session are ordered by; a total order."""
    return ", ".join(("time", *raw.order, "row"))


def duration(text: str) -> int:
    """The milliseconds of ``30m``.

    Raises:
        ValueError: it is written otherwise.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    if match is None or not float(match[1]):
        raise ValueError(text)
    return round(float(match[1]) * UNITS[match[2]])


def _cut(source: str, window: str, gap: int) -> str:
    """SQL: the clicks of ``source`` with sessions cut where more than ``gap`` ms lie between two events.

    What becomes the session is the input row of its first event.
    """
    start = f"CASE WHEN coalesce(time - lag(time) OVER ({window}) > {gap}, true) THEN row END"
    return (f"SELECT * EXCLUDE start REPLACE (last_value(start IGNORE NULLS) OVER ({window}) AS session) "
            f"FROM (SELECT *, {start} AS start FROM {source})")  # fmt: skip


def _made(connection: Any, table: str, query: str) -> str:
    """Fill a new table from a query; returns its name."""
    connection.execute(f"CREATE TABLE {table} AS {query}")
    return table


def _fewer(connection: Any, before: str, after: str) -> int:
    """How many rows fewer the relation ``after`` has than ``before``."""
    return fetch_number(connection, f"SELECT (SELECT count(*) FROM {before}) - (SELECT count(*) FROM {after})")
