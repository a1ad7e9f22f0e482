"""A raw log by days. It is read once, into a Parquet file; each day's data set holds the sessions of the days before,
and its vocabulary says what is tested on the day. The day of a session is that of its last event, in UTC."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxrec.data.clean.pipeline import OneConnection, prepare
from jaxrec.data.clean.protocol import DAY, Cleaning, Raw
from jaxrec.data.clean.steps import make_clicks, make_events
from jaxrec.data.clean.vocabulary import read_former
from jaxrec.data.dataset import Sessions
from jaxrec.data.given import Ids
from jaxrec.data.reading.duck import connect, fetch_row, literal
from jaxrec.data.store import staging, write_manifest, written
from jaxrec.errors import UserError

BY_DAY = ("min_session_length", "min_item_support")  # of Cleaning, applied to each data set; the others to the log


def date_of(day: int) -> str:
    """A day, counted since 1970, as ``2016-05-26``."""
    return str(np.datetime64(day, "D"))


class Encoded(NamedTuple):
    """A day's sessions as a vocabulary knows them."""

    sessions: Sessions
    targets: np.ndarray  # int64[targets]: the number of each target among the day's events


@dataclass(frozen=True)
class Day:
    """The events of a day, session by session, in the order of time."""

    items: list[Any]  # raw ids
    times: np.ndarray  # int64[n], ms since 1970
    session: np.ndarray  # int64[n], ascending

    @property
    def targets(self) -> int:
        """Events with one before them in their session."""
        return len(self.session) - len(np.unique(self.session))

    def encode(self, ids: Ids) -> Encoded:
        """Without the events of unknown items, and then without sessions of a single event, which hold no target."""
        codes = ids.encode(self.items)
        _, number, lengths = np.unique(self.session[codes >= 0], return_inverse=True, return_counts=True)
        places = np.flatnonzero(codes >= 0)[lengths[number] > 1]
        offsets = np.concatenate([[0], np.cumsum(lengths[lengths > 1])]).astype(np.int64)
        sessions = Sessions(codes[places].astype(np.int32), self.times[places], offsets)
        return Encoded(sessions, places[sessions.target_positions])


@dataclass(frozen=True)
class DayLog:
    """The clicks of a raw log with their session's day, in the order of the input; ``cleaning`` says how they become a
    data set."""

    file: Path
    cleaning: Cleaning
    machine: dict[str, Any]  # memory_limit and threads of DuckDB

    def write(self, source: Any, arguments: Namespace) -> list[str]:
        """Read a source into the file; returns notes for the user."""
        with self._connect() as connection:
            raw = source.read(connection, arguments)
            if raw.leave_one_out or raw.counters:
                why = "--split leave_one_out has no days" if raw.leave_one_out else "its times are counters"
                raise UserError(f"{raw.name}: {why}; replay needs sessions with times")
            make_events(connection, raw)
            make_clicks(connection, raw, self.cleaning)
            with written(self.file) as part:
                connection.execute(
                    "COPY (SELECT session, item, time, date, row, "
                    f"max(date) OVER (PARTITION BY session) // {DAY} AS day FROM clicks ORDER BY row) "
                    f"TO {literal(part)} (FORMAT parquet)"
                )
        return list(raw.notes)

    def days(self) -> list[int]:
        """The days, since 1970, on which a session has a target, ascending."""
        with self._connect() as connection:
            query = f"SELECT day FROM {self._table} GROUP BY day HAVING count(*) > count(DISTINCT session) ORDER BY day"
            return [day for (day,) in connection.execute(query).fetchall()]

    def day(self, number: int) -> Day:
        """The events of a day."""
        with self._connect() as connection:
            query = (
                "SELECT item, time, dense_rank() OVER (ORDER BY first) AS session FROM ("
                f"SELECT *, min(row) OVER (PARTITION BY session) AS first FROM {self._table} WHERE day = {number}"
                ") ORDER BY first, time, row"
            )
            table = connection.sql(query).to_arrow_table()
        return Day(table["item"].to_pylist(), table["time"].to_numpy(), table["session"].to_numpy())

    def write_before(self, day: int, out: Path, former: Path | None, without: pa.ChunkedArray | None = None) -> None:
        """Make the data set of the days before one, whose indices go on from those of the data set ``former``;
        ``without`` raw ids of items."""
        kept = None if former is None else read_former(former, "sessions")
        with staging(out, overwrite=True) as stage, self._connect() as connection:
            connection.execute(
                f"CREATE TABLE raw AS SELECT * FROM (SELECT session, item, time, date FROM {self._table} "
                f"WHERE day < {day} ORDER BY row)"
            )
            if without is not None:
                connection.register("withheld", pa.table({"item": without}))
                connection.execute("DELETE FROM raw WHERE item IN (FROM withheld)")
            if not fetch_row(connection, "SELECT count(*) FROM raw")[0]:
                raise UserError(f"{self.file}: no sessions before {date_of(day)}, its first day; take fewer --days")
            raw = Raw(f"{self.file} before {date_of(day)}", date="date")
            cleaning = Cleaning(test_days=0, **{name: getattr(self.cleaning, name) for name in BY_DAY})
            result: dict[str, Any] = prepare(
                OneConnection(connection, raw), raw, cleaning, stage, lambda *_, **__: None, kept
            )
            files = result.pop("files")
            write_manifest(stage, files, source="replay", options=self.cleaning.options(), **result)

    @property
    def _table(self) -> str:
        return f"read_parquet({literal(self.file)})"

    def _connect(self) -> Any:
        return connect(self.file.with_name("spill"), **self.machine)
