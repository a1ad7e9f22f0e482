"""Diginetica: product views of the CIKM Cup 2016, ``train-item-views.csv``; published splits are by the day."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from jaxrec.data.clean.protocol import Raw
from jaxrec.data.reading.duck import integer
from jaxrec.data.reading.table import Field
from jaxrec.sources.shared import add_raw_arguments, read_published

HELP = "product views of the CIKM Cup 2016 (train-item-views.csv)"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 7}
TEN_YEARS = 315576000000  # ms, so that the sum with the date cannot overflow
DATE = "epoch_ms(CAST(try_strptime(CAST({0} AS VARCHAR), '%Y-%m-%d') AS TIMESTAMP))"  # also of a date of Parquet
FIELDS = (
    Field("session", "sessionId", integer, "an integer"),
    Field("item", "itemId", integer, "an integer"),
    Field("timeframe", "timeframe", lambda sql: f"CASE WHEN ({integer(sql)}) BETWEEN 0 AND {TEN_YEARS} THEN "
          f"TRY_CAST({sql} AS BIGINT) END", "milliseconds since the session's start, 0 or more"),
    Field("date", "eventdate", DATE.format, "a day like 2016-05-09"),
)  # fmt: skip
add_arguments = add_raw_arguments


def in_parts(arguments: Namespace) -> bool:
    return True


def read(connection: Any, arguments: Namespace) -> Raw:
    return read_published(connection, arguments, FIELDS, "date + timeframe", "date", delimiter=";")
