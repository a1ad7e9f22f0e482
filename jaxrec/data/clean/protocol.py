"""What the cleaning pipeline is given: the choices of preprocessing, and what a source has read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from jaxrec.errors import UserError, shown

DAY = 24 * 60 * 60 * 1000  # ms
UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY}
LEAVE_ONE_OUT = "leave_one_out"  # --split
OPTIONAL = ("drop_duplicates", "session_gap")  # data sets of earlier versions do not name these
SHORTEST = 3  # events of a user of whom two are held out


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


def duration(text: str) -> int:
    """The milliseconds of ``30m``."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    if match is None or not float(match[1]):
        raise UserError(f"--session-gap {shown(text)}: expected a time such as 30m, with one of s, m, h, d")
    return round(float(match[1]) * UNITS[match[2]])
