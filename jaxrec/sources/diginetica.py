"""Diginetica: product views of the CIKM Cup 2016, file ``train-item-views.csv``.

Layout: ``;`` between fields, header ``sessionId;userId;itemId;timeframe;eventdate``; ``timeframe`` is in ms since the
session's first query, ``eventdate`` a day. The published protocol splits by the day.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from jaxrec.data.clean.choices import Raw
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.files import integer, load, open_tables
from jaxrec.data.reading.unpacked import find_files
from jaxrec.sources.shared import add_raw_arguments, quote_option

HELP = "product views of the CIKM Cup 2016 (train-item-views.csv)"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 7}


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "train-item-views.csv")


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``."""
    fields = [
        Field("session", "sessionId", integer, "an integer"),
        Field("item", "itemId", integer, "an integer"),
        Field("timeframe", "timeframe", _timeframe, "milliseconds since the session's start, 0 or more"),
        Field("date", "eventdate", _day, "a day like 2016-05-09"),
    ]
    paths, notes = find_files(arguments.raw)
    table = open_tables(connection, paths, delimiter=";", quote=arguments.quote)
    loaded = load(connection, table, fields)
    return Raw(
        table.called,
        options=quote_option(arguments),
        time="date + timeframe",
        date="date",
        notes=notes,
        read=loaded.read,
        place=lambda row: table.row_place(connection, row),
    )


def _timeframe(text: str) -> str:
    # Ten years at most, so that the sum with the date cannot overflow.
    return f"CASE WHEN ({integer(text)}) BETWEEN 0 AND 315576000000 THEN TRY_CAST({text} AS BIGINT) END"


def _day(text: str) -> str:
    # A typed column of Parquet as text: a date is written like this.
    return f"epoch_ms(CAST(try_strptime(CAST({text} AS VARCHAR), '%Y-%m-%d') AS TIMESTAMP))"
