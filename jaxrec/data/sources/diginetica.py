"""Diginetica: product views of the CIKM Cup 2016, file ``train-item-views.csv``.

Layout: ``;`` between fields, header ``sessionId;userId;itemId;timeframe;eventdate``; ``timeframe`` is in ms since the
session's first query, ``eventdate`` a day. The published protocol splits by the day.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from jaxrec.data.events import Raw
from jaxrec.data.reading import Field, integer, load, open_table

HELP = "product views of the CIKM Cup 2016 (train-item-views.csv, also .gz)"
DEFAULTS = {"min_item_support": 5, "test_days": 7}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, metavar="FILE", help="train-item-views.csv or .csv.gz")


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``events.Raw``."""
    fields = [
        Field("session", "sessionId", integer, "an integer"),
        Field("item", "itemId", integer, "an integer"),
        Field("timeframe", "timeframe", _timeframe, "milliseconds since the session's start, 0 or more"),
        Field("date", "eventdate", _day, "a day like 2016-05-09"),
    ]
    load(connection, open_table(connection, arguments.raw, delimiter=";"), fields)
    return Raw(str(arguments.raw), time="date + timeframe", date="date")


def _timeframe(text: str) -> str:
    # Ten years at most, so that the sum with the date cannot overflow.
    return f"CASE WHEN ({integer(text)}) BETWEEN 0 AND 315576000000 THEN TRY_CAST({text} AS BIGINT) END"


def _day(text: str) -> str:
    # A typed column of Parquet as text: a date is written like this.
    return f"epoch_ms(CAST(try_strptime(CAST({text} AS VARCHAR), '%Y-%m-%d') AS TIMESTAMP))"
