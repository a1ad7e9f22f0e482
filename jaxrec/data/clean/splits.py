"""Step 3 of the cleaning: which sessions are for training, validation and test.

Each function reads the table ``dated`` (session, date in ms since 1970, first row, events) and makes the table
``sessions`` (the same columns, and split as an index into SPLITS). ``leave_one_out`` cuts the sessions of users into
further ones, which overlap, so it makes the view ``parts`` in the place of ``clicks`` as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from jaxrec.data.clean.ledger import Ledger
from jaxrec.data.dataset import SPLITS
from jaxrec.data.reading.duck import fetch_number, fetch_row, fetch_sums
from jaxrec.errors import UserError

DAY = 24 * 60 * 60 * 1000  # ms
LEAVE_ONE_OUT = "leave_one_out"  # --split
SHORTEST = 3  # events of a user of whom two are held out


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
    ledger.drop(connection, "sessions", "split IS NULL", "split date", need=None)
    found = [fetch_sums(connection, f"sessions WHERE split = {index}")[0] for index in range(len(SPLITS))]
    if not found[0]:
        first = fetch_number(connection, "SELECT min(date) FROM dated")
        raise UserError(
            f"{ledger.name}: no session is left for training before the {test_days} test and "
            f"{validation_days} validation days; all sessions end within {(last - first) / DAY:.1f} days: give fewer "
            "--test-days or --validation-days or, where a session is all that a user did, cut it with --session-gap 30m"
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


def leave_one_out(connection: Any, order: str, ledger: Ledger) -> None:
    """Of each session, that of a user, the last event is the test target and the one before it the validation target.

    The protocol of SASRec (Kang and McAuley 2018, section IV) and BERT4Rec. The test split holds whole sessions, the
    validation split all but their last event, and of both only the last event is scored; training holds all but the
    last two. Sessions of fewer than three events are for training.

    ``order`` is what the events of a session are ordered by. Makes the view ``parts`` (session, item, time, row) of the
    sessions of all splits, whose numbers are new; its rows are places in the session, from 1.
    """
    connection.execute(
        "CREATE TEMP TABLE placed AS SELECT session AS owner, item, time, date, "
        f"row_number() OVER (PARTITION BY session ORDER BY {order}) AS place "
        "FROM clicks SEMI JOIN supported USING (item) SEMI JOIN dated USING (session)"
    )
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT number * 3 + split AS session, owner, date, first, events, split FROM ("
        "SELECT session AS owner, first, split, row_number() OVER (ORDER BY first) AS number, "
        f"CASE WHEN events < {SHORTEST} THEN events ELSE events - 2 + split END AS events "
        f"FROM dated CROSS JOIN (VALUES (0), (1), (2)) AS splits(split) WHERE split = 0 OR events >= {SHORTEST}"
        ") JOIN (SELECT owner, place AS events, date FROM placed) USING (owner, events)"
    )
    connection.execute(
        "CREATE TEMP VIEW parts AS SELECT session, item, time, place AS row FROM placed "
        "JOIN (SELECT session, owner, events FROM sessions) AS cut ON placed.owner = cut.owner AND place <= cut.events"
    )
    held_out = fetch_sums(connection, "sessions WHERE split = 2")[0]
    ledger.require(held_out, f"sessions of at least {SHORTEST} events")


def drop_unseen_targets(connection: Any, ledger: Ledger) -> None:
    """Drop the test sessions of ``leave_one_out`` whose target is not in the table ``vocabulary``."""
    before = fetch_sums(connection, "sessions WHERE split = 2")[0]
    connection.execute(
        "DELETE FROM sessions WHERE split = 2 AND owner IN (SELECT placed.owner FROM placed "
        "JOIN (SELECT owner, events FROM sessions WHERE split = 2) AS tests "
        "ON placed.owner = tests.owner AND place = tests.events ANTI JOIN vocabulary USING (item))"
    )
    left = fetch_sums(connection, "sessions WHERE split = 2")[0]
    ledger.took("test targets unseen before", targets=before - left)
    ledger.require(left, "test targets")
