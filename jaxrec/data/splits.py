"""Step 3 of the cleaning: which sessions are for training, validation and test.

Each function reads the table ``dated`` (session, date in ms since 1970, first row, events) and makes the table
``sessions`` (the same columns, and split as an index into SPLITS).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from jaxrec.data.dataset import SPLITS
from jaxrec.data.duck import fetch_number, fetch_row, fetch_sums
from jaxrec.data.ledger import Ledger
from jaxrec.errors import UserError

DAY = 24 * 60 * 60 * 1000  # ms


@dataclass(frozen=True)
class Drawn:
    """Test sessions drawn at random: this part of all sessions, by this seed."""

    fraction: Fraction
    seed: int


def split_by_time(connection: Any, test_days: int, validation_days: int, ledger: Ledger) -> None:
    """The last ``test_days`` are the test split, the ``validation_days`` before them the validation split."""
    last = fetch_number(connection, "SELECT max(date) FROM dated")
    # Without test days the split date lies after every session.
    test = last - test_days * DAY if test_days else last + 1
    validation = test - validation_days * DAY
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT session, date, first, events, CASE WHEN date < "
        f"{validation} THEN 0 WHEN date < {test} THEN 1 WHEN date > {test} THEN 2 END AS split FROM dated"
    )
    sessions, events = fetch_sums(connection, "sessions WHERE split IS NULL")
    ledger.took("split date", sessions=sessions, events=events)
    connection.execute("DELETE FROM sessions WHERE split IS NULL")
    found = [fetch_sums(connection, f"sessions WHERE split = {index}")[0] for index in range(len(SPLITS))]
    if not found[0]:
        first = fetch_number(connection, "SELECT min(date) FROM dated")
        raise UserError(
            f"{ledger.name}: no session is left for training before the {test_days} test and "
            f"{validation_days} validation days; all sessions lie within {(last - first) / DAY:.1f} days, "
            "give fewer --test-days or --validation-days"
        )
    for index, days in ((1, validation_days), (2, test_days)):
        if days:
            ledger.require(found[index], f"{SPLITS[index]} sessions")


def split_at_random(connection: Any, drawn: Drawn, validation_days: int, ledger: Ledger) -> None:
    """The test split is drawn; the validation days are the last ones of the sessions not drawn."""
    sessions, last = fetch_row(connection, "SELECT count(*), max(date) FROM dated")
    tests = math.ceil(sessions * drawn.fraction)
    validation = last + 1 - validation_days * DAY
    # The digests of the sessions' numbers in their order, which is that of their dates and input rows, put them into
    # an order that is random, yet the same on every machine.
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT session, date, first, events, "
        f"CASE WHEN row_number() OVER (ORDER BY md5('{drawn.seed} ' || number), number) <= {tests} THEN 2 "
        f"WHEN date < {validation} THEN 0 ELSE 1 END AS split "
        "FROM (SELECT *, row_number() OVER (ORDER BY date, first) AS number FROM dated)"
    )
    for index, wanted in enumerate((1, validation_days, 1)):
        if wanted:
            found = fetch_number(connection, f"SELECT count(*) FROM sessions WHERE split = {index}")
            ledger.require(found, f"{SPLITS[index]} sessions")
