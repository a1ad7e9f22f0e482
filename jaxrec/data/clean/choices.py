"""The choices of cleaning that all sources share, and what a source has read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from jaxrec.data.clean.splits import Drawn

# Choices that data sets of earlier versions do not name.
OPTIONAL = (
    "drop_duplicates",
    "session_gap",
    "max_session_length",
)


@dataclass(frozen=True)
class Cleaning:
    """The preprocessing choices that every source shares; see jaxrec/data/clean/pipeline.py."""

    min_session_length: int = 2
    min_item_support: int = 5
    test_days: int = 7
    validation_days: int = 0
    fraction: Fraction = Fraction(1)
    drop_repeats: bool = False
    drop_duplicates: bool = False
    session_gap: str | None = None  # such as 30m; see clicks.duration
    max_session_length: int | None = None

    def options(self) -> dict[str, Any]:
        """The choices as JSON values, for the manifest; of those in OPTIONAL what is given."""
        choices = asdict(self) | {"fraction": str(self.fraction)}
        return {name: value for name, value in choices.items() if value or name not in OPTIONAL}


@dataclass(frozen=True)
class Raw:
    """What a source has put into the DuckDB table ``raw``: one row per event, in input order, no NULLs.

    ``raw`` has the columns ``session`` and ``item`` (BIGINT or VARCHAR) and what the expressions below refer to.

    Attributes:
        name: what errors call it: the file.
        options: the source's own choices, for the manifest.
        time: SQL, the event's time in ms since 1970; orders the events of a session.
        date: SQL, the event's date in ms since 1970, which decides on the split; coarser than ``time`` where the
            published protocol of a data set has it so.
        order: further columns, numbers, that order events of equal time.
        further: further columns; events that differ in one are no duplicates.
        extras: from the finished directory and the number of items to further entries of the manifest.
        event_types: their names, where ``raw`` has the column ``event``, UTINYINT, an index into them.
        drawn: the test sessions are drawn so rather than taken from the last days.
        leave_one_out: of each session the last two events are held out, rather than the sessions of the last days.
        attributes: writes further files by item index (the tables ``raw`` and ``vocabulary`` still stand) into the
            directory; returns their manifest entries and further counts.
        notes: what the user should know of how the files were read.
        counters: times are counters that only order.
        read: how many rows and files were read, for the manifest; None where nothing was.
        dropped: what the source has left out, as ``dropped`` of the manifest has it.
        place: what errors call a row, from 0: its file and number there; by default ``name`` and its number.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    time: str = "time"
    date: str = "time"
    order: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    extras: Callable[[Path, int], dict[str, Any]] | None = None
    event_types: tuple[str, ...] = ()
    drawn: Drawn | None = None
    leave_one_out: bool = False
    attributes: Callable[[Path], tuple[dict[str, dict[str, Any]], dict[str, Any]]] | None = None
    notes: Sequence[str] = ()
    counters: bool = False
    read: dict[str, int] | None = None
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    place: Callable[[int], str] | None = None
