"""Which rows of the DuckDB table ``raw`` stay, and where in the files they came from.

``raw`` is filled in the order of the files, so that its rowid is the input row. Once rows have been left out it has a
further column ``input_row`` for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxrec.data.reading.duck import fetch_number

INPUT_ROW = "input_row"


def leave_out(connection: Any, condition: str) -> int:
    """Take the rows of which an SQL condition is true out of ``raw``; returns how many."""
    return _keep(connection, f"({condition}) IS NOT TRUE")


def leave_out_repeated(connection: Any, columns: Sequence[str]) -> int:
    """Of rows of ``raw`` that say the same in all ``columns`` keep the first; returns how many are left out."""
    first = f"SELECT min(rowid) FROM raw GROUP BY {', '.join(columns)}"
    return _keep(connection, f"rowid IN ({first}) ORDER BY rowid")  # a join does not keep the order of the rows


def _keep(connection: Any, clauses: str) -> int:
    """Keep the rows of ``raw`` that a WHERE clause, and what stands behind it, selects; returns how many go."""
    rows = fetch_number(connection, "SELECT count(*) FROM raw")
    numbers = "" if _has_input_rows(connection) else f", rowid AS {INPUT_ROW}"
    connection.execute(f"CREATE TABLE kept AS SELECT *{numbers} FROM raw WHERE {clauses}")
    connection.execute("DROP TABLE raw")
    connection.execute("ALTER TABLE kept RENAME TO raw")
    return rows - fetch_number(connection, "SELECT count(*) FROM raw")


def input_rows(connection: Any) -> str:
    """SQL: the row in all files, from 0, of each row of ``raw``."""
    return f"raw.{INPUT_ROW}" if _has_input_rows(connection) else "raw.rowid"


def _has_input_rows(connection: Any) -> bool:
    return INPUT_ROW in [column[0] for column in connection.execute("SELECT * FROM raw LIMIT 0").description]


def note_repeated(connection: Any, columns: Sequence[str]) -> list[str]:
    """A note about the rows of ``raw`` that say in all ``columns`` the same as an earlier row; none without any."""
    # By a hash of 64 bits, which takes 0.6 of the time: of 50 million rows two share one with a chance of 1 in 15,000.
    hashed = f"count(DISTINCT hash({', '.join(columns)}))"
    count = fetch_number(connection, f"SELECT count(*) - {hashed} FROM raw")
    what = "1 row says" if count == 1 else f"{count:,} rows say"
    return [f"{what} the same as an earlier one; --drop-duplicates leaves such rows out"] if count else []
