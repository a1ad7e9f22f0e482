"""Yoochoose: clicks of the RecSys Challenge 2015, file ``yoochoose-clicks.dat``.

Layout: ``,`` between fields, no header: session, time like ``2014-04-07T08:51:09.277Z``, item, category. The
published splits compare times in whole seconds.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from jaxrec.data.events import Raw
from jaxrec.data.reading import Field, integer, load, open_table, timestamp

HELP = "clicks of the RecSys Challenge 2015 (yoochoose-clicks.dat, also .gz)"
DEFAULTS = {"min_item_support": 5, "test_days": 1}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, metavar="FILE", help="yoochoose-clicks.dat or .dat.gz")


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``events.Raw``."""
    fields = [
        Field("session", "session", integer, "an integer"),
        Field("item", "item", integer, "an integer"),
        Field("time", "time", timestamp, "a time like 2014-04-07T08:51:09.277Z"),
    ]
    columns = ("session", "time", "item", "category")
    load(connection, open_table(connection, arguments.raw, columns=columns), fields)
    return Raw(str(arguments.raw), date="time // 1000 * 1000")
