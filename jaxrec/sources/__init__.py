"""The data sets that ``prepare`` knows: a module each, found by its name: ``my_source.py`` is ``prepare my-source``.

A module of the user's is named with its dots: ``prepare mypackage.mymodule``. A module without ``HELP`` is a part of a
source.
"""

from __future__ import annotations

import importlib
import pkgutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any, Protocol

from jaxrec.data.clean.choices import Raw
from jaxrec.data.encode import RawRows
from jaxrec.errors import UserError, one_line


class Source(Protocol):
    """What a module of sessions, events or rows provides."""

    HELP: str  # one line for --help
    KIND: str  # "sessions", "events" (sessions whose events have types) or "rows"
    DEFAULTS: dict[str, Any]  # of those fields of choices.Cleaning that differ for this data set; not of rows

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options that only this source has."""

    def read(self, connection: Any, arguments: Namespace) -> Raw | RawRows:
        """Fill the DuckDB table ``raw`` and say what it holds; of rows the fields, ratings and times."""


def find_sources(others: Iterable[str] = ()) -> dict[str, Any]:
    """Every ``Source`` by the name that ``prepare`` knows it by; ``others``: dotted names of the user's modules."""
    sources: dict[str, Any] = {}
    for folder in ("jaxrec.sources", "jaxrec.personas"):
        for info in pkgutil.iter_modules(importlib.import_module(folder).__path__):
            module = importlib.import_module(f"{folder}.{info.name}")
            if hasattr(module, "HELP"):
                sources[info.name.replace("_", "-")] = module
    for name in others:
        try:
            sources[name] = module = importlib.import_module(name)
        except Exception as error:  # whatever the user's code raises
            raise UserError(f"{name}: no source can be imported there ({one_line(str(error))}); install its package or "
                            "put its folder on PYTHONPATH") from None  # fmt: skip
        needed = ["HELP", "KIND", "add_arguments", "read", *["DEFAULTS"] * (getattr(module, "KIND", None) != "rows")]
        if missing := [one for one in needed if not hasattr(module, one)]:
            raise UserError(f"{name}: no source: it has no {', '.join(missing)}; see jaxrec/sources/__init__.py")
    return sources
