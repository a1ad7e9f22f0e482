"""Yoochoose: clicks of the RecSys Challenge 2015, file ``yoochoose-clicks.dat``.

Layout: ``,`` between fields, no header: session, time like ``2014-04-07T08:51:09.277Z``, item, category. The
published splits compare times in whole seconds.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from jaxrec.data.clean.choices import Raw
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.files import integer, load, open_tables, timestamp
from jaxrec.data.reading.unpacked import find_files
from jaxrec.sources.shared import add_raw_arguments, quote_option

HELP = "clicks of the RecSys Challenge 2015 (yoochoose-clicks.dat)"
KIND = "sessions"
DEFAULTS = {"min_item_support": 5, "test_days": 1}


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "yoochoose-clicks.dat")


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``."""
    fields = [
        Field("session", "session", integer, "an integer"),
        Field("item", "item", integer, "an integer"),
        Field("time", "time", timestamp, "a time like 2014-04-07T08:51:09.277Z"),
    ]
    columns = ("session", "time", "item", "category")
    paths, notes = find_files(arguments.raw)
    table = open_tables(connection, paths, columns=columns, quote=arguments.quote)
    loaded = load(connection, table, fields)
    return Raw(
        table.called,
        options=quote_option(arguments),
        date="time // 1000 * 1000",
        notes=notes,
        read=loaded.read,
        place=lambda row: table.row_place(connection, row),
    )
