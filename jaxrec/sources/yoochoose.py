"""Yoochoose: clicks of the RecSys Challenge 2015, ``yoochoose-clicks.dat``; published splits compare whole seconds."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from jaxrec.data.clean.protocol import Raw
from jaxrec.data.reading.duck import integer, timestamp
from jaxrec.data.reading.table import Field
from jaxrec.sources.shared import add_raw_arguments, read_published

HELP = "clicks of the RecSys Challenge 2015 (yoochoose-clicks.dat)"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 1}
COLUMNS = ("session", "time", "item", "category")  # the file has no header
FIELDS = (
    Field("session", "session", integer, "an integer"),
    Field("item", "item", integer, "an integer"),
    Field("time", "time", timestamp, "a time like 2014-04-07T08:51:09.277Z"),
)
add_arguments = add_raw_arguments


def in_parts(arguments: Namespace) -> bool:
    return True


def read(connection: Any, arguments: Namespace) -> Raw:
    return read_published(connection, arguments, FIELDS, "time", "time // 1000 * 1000", columns=COLUMNS)
