"""The first step of cleaning: the clicks that count, out of the events that a source has read."""

from __future__ import annotations

from typing import Any

from jaxrec.data.cleaning import Cleaning, Raw
from jaxrec.data.duck import fetch_number, fetch_row
from jaxrec.data.ledger import Ledger
from jaxrec.data.times import iso, plausible_range, span
from jaxrec.errors import UserError


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


def make_clicks(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger) -> None:
    """Step 1: the view ``clicks`` (session, item, time, date, row, and ``event`` where events have types)."""
    names = ["session", "item", "time", "date"] + ["event"] * bool(raw.event_types)
    columns = f"session, item, {raw.time} AS time, {raw.date} AS date" + ", event" * bool(raw.event_types)
    source = f"(SELECT {columns}, rowid AS row FROM raw)"
    if raw.event_types or cleaning.drop_duplicates:
        same = ", ".join(names)
        made = _made(connection, "distinct_clicks", f"SELECT {same}, min(row) AS row FROM {source} GROUP BY {same}")
        ledger.took("duplicate events", events=_fewer(connection, source, made))
        source = made
    if cleaning.drop_repeats:
        before = "lag(item) OVER (PARTITION BY session ORDER BY time, row)"
        made = _made(connection, "moving_clicks", f"SELECT * EXCLUDE before FROM (SELECT *, {before} AS before FROM "
                     f"{source}) WHERE before IS DISTINCT FROM item")  # fmt: skip
        ledger.took("repeats", events=_fewer(connection, source, made))
        source = made
    connection.execute(f"CREATE VIEW clicks AS SELECT * FROM {source}")


def _made(connection: Any, table: str, query: str) -> str:
    """Fill a new table from a query; returns its name."""
    connection.execute(f"CREATE TABLE {table} AS {query}")
    return table


def _fewer(connection: Any, before: str, after: str) -> int:
    """How many rows fewer the relation ``after`` has than ``before``."""
    return fetch_number(connection, f"SELECT (SELECT count(*) FROM {before}) - (SELECT count(*) FROM {after})")
