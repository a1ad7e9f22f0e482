"""What a source has read, sessions of events or rows, and the choices of preprocessing that sessions have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.data.dataset import Field
from jaxrec.errors import UserError, shown

DAY = 24 * 60 * 60 * 1000  # ms
UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY}
LEAVE_ONE_OUT = "leave_one_out"  # --split
OPTIONAL = ("drop_duplicates", "session_gap")  # data sets of earlier versions do not name these
SHORTEST = 3  # events of a user of whom two are held out


Columns = dict[str, tuple[str, str]]
"""SQL and type of each column of a raw file, by name; see ``reading.table.Table``."""


@dataclass(frozen=True)
class Cleaning:
    """The preprocessing choices that every source shares."""

    min_session_length: int = 2
    min_item_support: int = 5
    test_days: int = 7
    validation_days: int = 0
    fraction: Fraction = Fraction(1)
    drop_repeats: bool = False
    drop_duplicates: bool = False
    session_gap: str | None = None  # such as 30m; see duration

    def options(self) -> dict[str, Any]:
        """The choices as JSON values, for the manifest; of those in OPTIONAL what is given."""
        choices = asdict(self) | {"fraction": str(self.fraction)}
        return {name: value for name, value in choices.items() if value or name not in OPTIONAL}


Extras = tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]
"""What a source adds to the manifest: lines of files that it has written, further counts, and further entries."""


@dataclass(frozen=True)
class Raw:
    """What a source has put into the DuckDB table ``raw``: one row per event, in input order, no NULLs.

    ``raw`` has the columns ``session`` and ``item`` (BIGINT or VARCHAR) and what the expressions below refer to.
    """

    name: str  # what errors call it: the file
    options: dict[str, Any] = field(default_factory=dict)  # the source's own choices, for the manifest
    time: str = "time"  # SQL, the event's time in ms since 1970; orders the events of a session
    date: str = "time"  # the same, coarser where the published protocol has it so; decides on the split
    further: tuple[str, ...] = ()  # further columns; events that differ in one are no duplicates
    event_types: tuple[str, ...] = ()  # their names, where raw has the column event, UTINYINT, an index into them
    leave_one_out: bool = False  # of each session the last two events are held out instead
    whole_catalogue: bool = False  # with that, items that are test targets alone are in the vocabulary as well
    extras: Callable[[Path], Extras] | None = None  # called with the directory while raw and vocabulary still stand
    notes: Sequence[str] = ()  # what the user should know of how the files were read
    counters: bool = False  # times are counters that only order
    time_unit: str | None = None  # of the times in the files, where the user names their column
    read: dict[str, int] | None = None  # how many rows and files were read, for the manifest; None where nothing was
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)  # what was left out, as the manifest has it
    columns: Columns | None = None  # of the files, which are the same in all


def duration(text: str) -> int:
    """The milliseconds of ``30m``."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    if match is None or not float(match[1]):
        raise UserError(f"--session-gap {shown(text)}: expected a time such as 30m, with one of s, m, h, d")
    return round(float(match[1]) * UNITS[match[2]])


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawField:
    """A field as a source finds it; ``name``, ``kind``, ``side`` and ``logarithm`` as in ``dataset.Field``."""

    name: str
    kind: str
    side: str
    values: pa.Array  # integers or text (categorical), lists of text (bag), numbers (numerical); None is unknown
    by: np.ndarray | None = None  # int[n], which of the values each row has; None: there is one a row
    logarithm: bool = False


@dataclass(frozen=True)
class Streamed:
    """Rows that may not fit in memory, with vocabularies that the source has made."""

    fields: list[Field]
    vocabularies: dict[str, pa.Table]  # by coded field, as in the dataset directory
    rows: int
    # The next rows each: rating, time, and field0 … with raw values, those of coded fields of their vocabulary's type.
    tables: Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True)
class Coded:
    """Rows that are encoded, block by block."""

    fields: list[Field]
    vocabularies: dict[str, pa.Table]  # by coded field, as in the dataset directory
    rows: int
    blocks: Iterable[tuple[np.ndarray, ...]]  # columns, numbers, ratings and times of the next rows
    shown: Callable[[str, np.ndarray], pa.Table | None] | None = (
        None  # of a side, at int64[m] rows, in the place of RawRows'
    )


@dataclass(frozen=True)
class RawRows:
    """What a source of rows has read; ``threshold``, ``low`` and ``high`` as in ``dataset.Schema``."""

    fields: list[RawField]  # in the order of the columns to be
    ratings: np.ndarray  # float[n]
    times: np.ndarray  # int64[n], in time_unit; all 0 where there are none
    threshold: float
    low: float
    high: float
    user: str | None = None  # the names of the fields that identify them
    item: str | None = None
    # For user and item: a table whose column of that field's name holds the raw id, with what is to be shown of it.
    shown: dict[str, pa.Table] = field(default_factory=dict)
    calendar: dict[str, str] = field(default_factory=dict)  # fields of a row's year, month or decade, UTC
    options: dict[str, Any] = field(default_factory=dict)  # the source's choices, for the manifest
    min_count: int = 1  # values of fewer rows are unknown
    extras: dict[str, Any] = field(default_factory=dict)  # more entries of the manifest
    write: Callable[[Path], list[str]] | None = None  # writes more files into a folder, and returns their names
    time_unit: str = "s"  # s or ms since 1970, or order: counters
    notes: list[str] = field(default_factory=list)  # what the user should know of how the files were read
    read: dict[str, int] | None = None  # how many rows and files were read, for the manifest; None where nothing was
    columns: Columns | None = None  # of the files, which are the same in all
    streamed: Streamed | None = None  # in the place of fields, ratings and times
    coded: Coded | None = None  # once they are encoded
    found: dict[str, int] = field(default_factory=dict)  # of a part of the rows: counts that decide once added up
    part: bool = False  # of a part: text may be whole numbers yet, and ms whole seconds, as all parts together say
