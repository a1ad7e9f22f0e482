"""The data sets that ``prepare`` knows: a module each, found by its name: ``my_source.py`` is ``prepare my-source``.

A module of the user's is named with its dots: ``prepare mypackage.mymodule``. A module without ``HELP`` is a part of a
source.
"""

from __future__ import annotations

import importlib
import pkgutil
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from jaxrec.config import find_module
from jaxrec.data.clean.parts import Parts
from jaxrec.data.clean.protocol import Extras, Raw, RawRows
from jaxrec.data.clean.shards import Shards


class Source(Protocol):
    """What a module of sessions, events or rows provides."""

    HELP: str  # one line for --help
    KIND: str  # "sessions", "events" (sessions whose events have types) or "rows"
    DEFAULTS: dict[str, Any]  # may be missing: fields of protocol.Cleaning that differ for this data set
    SPLIT: str  # may be missing: "leave_one_out" where nothing else can be, as there are no times

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options that only this source has."""

    def read(self, connection: Any, arguments: Namespace) -> Raw | RawRows:
        """Fill the DuckDB table ``raw`` and say what it holds; of rows the fields, ratings and times."""

    def in_parts(self, arguments: Namespace) -> bool:
        """May be missing: whether ``read`` may be given the files of ``--raw`` in parts, a process each. It then obeys
        ``arguments.text_ids``: the ids of items stay text, since in another part they are. Of rows all texts then do,
        and times stay ms: where all parts allow it they become whole numbers and seconds later."""

    def extras_of_parts(self, parts: Parts, shards: Shards) -> Callable[[Path], Extras]:
        """With ``in_parts``, where ``read`` gives ``Raw.extras``: what takes its place."""

    def checked(self, arguments: Namespace, raw: RawRows, called: str) -> RawRows:
        """With ``in_parts``, of rows: refuse or note what all parts, ``called`` so, together have ``RawRows.found``."""


def find_sources(others: Iterable[str] = ()) -> dict[str, Any]:
    """Every ``Source`` by the name that ``prepare`` knows it by; ``others``: dotted names of the user's modules."""
    sources: dict[str, Any] = {}
    for folder in ("jaxrec.sources", "jaxrec.personas"):
        for info in pkgutil.iter_modules(importlib.import_module(folder).__path__):
            module = importlib.import_module(f"{folder}.{info.name}")
            if hasattr(module, "HELP"):
                sources[info.name.replace("_", "-")] = module
    for name in others:
        sources[name] = find_module("prepare", name, dict.fromkeys(("HELP", "KIND", "add_arguments", "read")))
    return sources
