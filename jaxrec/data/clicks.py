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
    """Step 1: the view or table ``clicks`` (session, item, time, date, row, and ``event`` where events have types)."""
    columns = f"session, item, {raw.time} AS time, {raw.date} AS date, rowid AS row"
    if raw.event_types:
        _distinct_clicks(connection, f"{columns}, event", ledger)
        return
    if not cleaning.drop_repeats:
        connection.execute(f"CREATE VIEW clicks AS SELECT {columns} FROM raw")
        return
    before = "lag(item) OVER (PARTITION BY session ORDER BY time, row)"
    connection.execute(
        f"CREATE TABLE clicks AS SELECT * EXCLUDE before FROM (SELECT *, {before} AS before FROM "
        f"(SELECT {columns} FROM raw)) WHERE before IS DISTINCT FROM item"
    )
    ledger.took("repeats", events=_fewer_clicks(connection))


def _distinct_clicks(connection: Any, columns: str, ledger: Ledger) -> None:
    """Step 1 where events have types: of rows that say the same the first."""
    connection.execute(
        "CREATE TABLE clicks AS SELECT session, item, time, date, event, min(row) AS row "
        f"FROM (SELECT {columns} FROM raw) GROUP BY session, item, time, date, event"
    )
    ledger.took("duplicate events", events=_fewer_clicks(connection))


def _fewer_clicks(connection: Any) -> int:
    """How many rows step 1 took."""
    return fetch_number(connection, "SELECT (SELECT count(*) FROM raw) - (SELECT count(*) FROM clicks)")
