"""The data sets that ``prepare`` knows: one module each, which reads raw files and knows nothing of models.

A new data set is a new module with the members of ``Source``, and a line in ``SOURCES``; for rows with labels, of
``RowSource`` and in ``ROW_SOURCES``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any, Protocol

from jaxrec.data.clean.choices import Raw
from jaxrec.data.encode import RawRows
from jaxrec.personas import amore
from jaxrec.personas import synthetic as personas_synthetic
from jaxrec.sources import diginetica, merrec, merrec_synthetic, movielens, synthetic, synthetic_rows, yoochoose
from jaxrec.sources import events as table
from jaxrec.sources import rows as click_rows


class Source(Protocol):
    """What a module in this package provides."""

    HELP: str  # one line for --help
    DEFAULTS: dict[str, Any]  # of those fields of cleaning.Cleaning that differ for this data set

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options that only this source has."""

    def read(self, connection: Any, arguments: Namespace) -> Raw:
        """Fill the DuckDB table ``raw`` and say what it holds.

        Raises:
            UserError: a missing or damaged file, or a value that cannot be used.
        """


class RowSource(Protocol):
    """What a module provides whose data are rows (jaxrec/data/rows.py) rather than sessions."""

    HELP: str
    KIND: str  # "rows"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options that only this source has."""

    def read(self, connection: Any, arguments: Namespace) -> RawRows:
        """The fields, ratings and times.

        Raises:
            UserError: a missing or damaged file, or a value that cannot be used.
        """


SOURCES: dict[str, Source] = {
    "diginetica": diginetica,
    "yoochoose": yoochoose,
    "synthetic": synthetic,
    "events": table,
    "merrec": merrec,
    "merrec-synthetic": merrec_synthetic,
}
TYPED_SOURCES = frozenset({"merrec", "merrec-synthetic"})  # of these, those whose events have types

ROW_SOURCES: dict[str, RowSource] = {
    "movielens": movielens,
    "amore": amore,
    "rows": click_rows,
    "rows-synthetic": synthetic_rows,
    "personas-synthetic": personas_synthetic,
}
