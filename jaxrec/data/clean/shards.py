"""The engine ``ray`` of the cleaning pipeline: sessions are dealt to shards by a hash, a Ray task runs a step on one.

All that tasks leave are files of the directory of the work (jaxrec/data/work.py):

    part-0/shard=3/*.parquet   the events of a part of the input, dealt; ``row`` counts from the part's first row
    shard-3/long.parquet …     the tables of a shard, by the steps that leave them
            train/items.npy …  the shard's events of each split, in order
    supported.parquet …        what is decided for all sessions, for the shards to read

The shards' events of a split are runs in one order, (date, first row), and sessions are whole: merging them is reading
from the shard that a session is of, as long as the session is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from jaxrec.data.clean import steps
from jaxrec.data.clean.pipeline import ARRAYS, CHUNK, split_streams, write_events
from jaxrec.data.clean.protocol import Raw
from jaxrec.data.clean.steps import Numbers
from jaxrec.data.cluster import Cluster
from jaxrec.data.dataset import SPLITS
from jaxrec.data.reading.duck import connect, quoted
from jaxrec.data.work import finish, finished, scratch
from jaxrec.errors import UserError

MOST_SHARDS = 4096
BUFFERED = 1 << 15  # rows of each shard that are dealt at a time
OF_ALL = ("supported", "vocabulary")
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "count_items": ((), ("clicks", "long", "item_counts")),
    "date_sessions": (("clicks", "long", "supported"), ("dated",)),
    "split_sessions": (("clicks", "dated", "supported"), ("sessions", "counted", "placed")),
    "rank_sessions": (("clicks", "sessions", "placed", "vocabulary"), ("ranked",)),
    "write_runs": (("clicks", "sessions", "placed", "ranked", "vocabulary"), ()),
    "count_types": (("clicks", "ranked", "vocabulary"), ()),
    "latest_items": ((), ("latest_rows",)),
}
"""What each step reads, and what it leaves; ``placed`` is there where the last event is left out alone."""


@dataclass(frozen=True)
class Machine:
    """What a task may use."""

    cluster: Cluster
    memory_limit: str | None
    threads: int

    @contextmanager
    def connect(self, spill: Path) -> Iterator[Any]:
        limit = self.memory_limit or self.cluster.memory_limit(self.threads)
        with connect(spill, limit, self.threads) as connection:
            yield connection


def part_place(work: Path, part: int | str) -> Path:
    """Where the events of a part are; of the part ``*``, of all."""
    return work / f"part-{part}"


def shard_place(work: Path, shard: int | str) -> Path:
    """Where the tables of a shard are; of the shard ``*``, of all."""
    return work / f"shard-{shard}"


def deal(connection: Any, raw: Raw, shards: int, work: Path, part: int, name: str, result: Any) -> None:
    """Deal the events of the table ``raw`` to shards, as the piece ``name`` of a part, of which ``result`` is told."""
    place = part_place(work, part)
    with scratch(place) as made:
        _deal(connection, raw, shards, part, made)
        for old in place.glob("shard=*"):  # of an attempt that was killed, which may have left more files
            shutil.rmtree(old)
        finish(place, name, made, result)


def _deal(connection: Any, raw: Raw, shards: int, part: int, made: Path) -> None:
    steps.make_events(connection, raw)
    connection.execute(f"SET partitioned_write_flush_threshold = {BUFFERED}")
    connection.execute(
        f"COPY (SELECT *, {part} AS part, hash(session) % {shards} AS shard FROM events) "
        f"TO {quoted(str(made))} (FORMAT parquet, PARTITION_BY (shard), OVERWRITE_OR_IGNORE)"
    )
    for shard in range(shards):
        if not (folder := made / f"shard={shard}").is_dir():  # no session was dealt to it
            folder.mkdir()
            connection.execute(f"COPY (SELECT *, {part} AS part FROM events LIMIT 0) TO "
                               f"{quoted(str(folder / 'data_0.parquet'))} (FORMAT parquet)")  # fmt: skip
    connection.execute("DROP VIEW events")


def deal_once(connection: Any, raw: Raw, shards: int, work: Path) -> None:
    """Deal all events as one part, where that is not done."""
    if finished(part_place(work, 0), "dealt") is None:
        deal(connection, raw, shards, work, 0, "dealt", {})
    if raw.extras is None:
        connection.execute("DROP TABLE raw")


def run_step(
    work: Path, shard: int, offsets: Sequence[int], machine: Machine, step: Callable[..., Numbers],
    arguments: Sequence[Any],
) -> Numbers:  # fmt: skip
    """A task: a step on a shard, whose numbers and tables become files; ``offsets`` are those of the parts' rows."""
    place, (reads, leaves) = shard_place(work, shard), TABLES[step.__name__]
    with scratch(place) as made, machine.connect(place / made.name / "spill") as connection:
        try:
            _open(connection, work, shard, offsets, reads)
            if step is write_runs:
                arguments = (*arguments, made / "kept")
            numbers = step(connection, *arguments)
            (made / "kept").mkdir(exist_ok=True)
            for table in leaves:
                if _left(connection, table):
                    file = quoted(str(made / "kept" / f"{table}.parquet"))
                    connection.execute(f"COPY (SELECT *, {shard}::USMALLINT AS shard FROM {table}) TO {file} "
                                       "(FORMAT parquet)")  # fmt: skip
        except duckdb.Error as error:
            raise UserError(f"{place}: {str(error).splitlines()[0]}") from None
        finish(place, step.__name__, made / "kept", numbers)
    return numbers


def _open(connection: Any, work: Path, shard: int, offsets: Sequence[int], tables: Sequence[str]) -> None:
    """What a step reads. ``sessions`` is a table, since a step takes rows out of it; all else stays in its files."""
    dealt = parquet_rows(part_place(work, "*") / f"shard={shard}" / "*.parquet")
    connection.execute("CREATE VIEW events AS SELECT * EXCLUDE part REPLACE "
                       f"(row + ({list(offsets)})[part + 1] AS row) FROM {dealt}")  # fmt: skip
    for table in tables:
        file = (work if table in OF_ALL else shard_place(work, shard)) / f"{table}.parquet"
        if file.is_file():
            kind = "TABLE" if table == "sessions" else "VIEW"
            connection.execute(f"CREATE TEMP {kind} {table} AS SELECT * FROM {parquet_rows(file)}")
        elif table == "clicks":  # nothing was taken from the events
            connection.execute("CREATE VIEW clicks AS SELECT * FROM events")


def _left(connection: Any, table: str) -> bool:
    """Whether a step left a table: of ``clicks``, whether it is more than a view of the events."""
    names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
    return any(name.endswith("_clicks") for name in names) if table == "clicks" else table in names


def parquet_rows(files: Path) -> str:
    """SQL of the rows of Parquet files, and of no columns that their directories may name."""
    return f"read_parquet({quoted(str(files))}, hive_partitioning = false)"


def write_runs(connection: Any, raw: Raw, firsts: Sequence[int], folder: Path) -> Numbers:
    """Write the arrays of the shard's events of each split, from its session ``first`` on, into a directory."""
    if raw.leave_one_out:
        steps.make_parts(connection)
    names = list(ARRAYS)[: 2 + bool(raw.event_types)]
    totals = [steps.sums(connection, f"ranked WHERE split = {split} AND rank >= {first}")[1]
              for split, first in enumerate(firsts)]  # fmt: skip
    folder.mkdir()
    for name, stream, total in zip(SPLITS, split_streams(connection, raw, firsts), totals, strict=True):
        write_events(stream, folder / name, names, total)
    return {}


def run_shards(
    task: Callable[..., Any], name: str, calls: Sequence[Sequence[Any]], work: Path, machine: Machine,
    update: Callable[..., None],
) -> list[Any]:  # fmt: skip
    """The results of the piece ``name`` of each shard, which a task makes from the directory of the work, the shard's
    number and its call; finished ones are not made again. ``update`` is that of jaxrec.cli.command.progress."""
    results, shards = [finished(shard_place(work, shard), name) for shard in range(len(calls))], len(calls)
    missing = {f"shard {shard} of {shards}": shard for shard, result in enumerate(results) if result is None}
    given = {called: (work, shard, *calls[shard]) for called, shard in missing.items()}
    answers = machine.cluster.each(task, given, cpus=machine.threads)
    for left, (called, result) in enumerate(answers, 1 - len(missing)):
        results[missing[called]] = result
        update(0, note=f"{name.replace('_', ' ')}, {shards + left} of {shards} shards")
    return results


class Shards:
    """The engine ``ray``."""

    def __init__(
        self, connection: Any, work: Path, shards: int, offsets: Sequence[int], machine: Machine,
        update: Callable[..., None],
    ) -> None:  # fmt: skip
        self.connection, self.work, self.shards, self.offsets = connection, work, shards, offsets
        self.machine, self.update = machine, update
        self.owners = self.split_of = self.sizes = np.zeros(0, np.int64)

    def each(self, step: Callable[..., Numbers], *arguments: Any) -> list[Numbers]:
        # What a source adds to the manifest is none of the shards' business, and may not travel.
        given = [replace(one, extras=None) if isinstance(one, Raw) else one for one in arguments]
        return self.run(step, [given] * self.shards)

    def run(self, step: Callable[..., Numbers], arguments: Sequence[Sequence[Any]]) -> list[Numbers]:
        """Run a step on each shard with arguments of its own; finished ones are not run again."""
        calls = [(self.offsets, self.machine, step, one) for one in arguments]
        return run_shards(run_step, step.__name__, calls, self.work, self.machine, self.update)

    def merge(self, table: str, into: str, amount: str) -> None:
        self.connection.execute(
            f"CREATE TEMP TABLE {into} AS SELECT item, sum({amount})::BIGINT AS {amount} FROM "
            f"{self.rows(table)} GROUP BY item"
        )

    def rows(self, table: str) -> str:
        """SQL of a table of all shards together."""
        return parquet_rows(shard_place(self.work, "*") / f"{table}.parquet")

    def share(self, table: str) -> None:
        with scratch(self.work) as made:
            file = made / f"{table}.parquet"
            self.connection.execute(f"COPY {table} TO {quoted(str(file))} (FORMAT parquet)")
            file.replace(self.work / file.name)

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        table = self.connection.execute(f"SELECT split::UTINYINT AS split, events, shard FROM {self.rows('ranked')} "
                                        "ORDER BY split, date, first").fetchnumpy()  # fmt: skip
        self.split_of, self.sizes, self.owners = table["split"], table["events"], table["shard"]
        return self.split_of, self.sizes

    def events(self, raw: Raw, firsts: Sequence[int]) -> Iterator[Iterable[Sequence[np.ndarray]]]:
        counts = []  # of the sessions that each shard leaves out of each split
        for split, first in enumerate(firsts):
            left_out = self.owners[self.split_of == split][:first]
            counts.append(np.bincount(left_out, minlength=self.shards))
        ours = [[int(count[shard]) for count in counts] for shard in range(self.shards)]
        self.run(write_runs, [(replace(raw, extras=None), one) for one in ours])
        for split, first in enumerate(firsts):
            chosen = self.split_of == split
            names = list(ARRAYS)[: 2 + bool(raw.event_types)]
            runs = [[np.load(shard_place(self.work, shard) / SPLITS[split] / name, mmap_mode="r") for name in names]
                    for shard in range(self.shards)]  # fmt: skip
            yield merged(runs, self.owners[chosen][first:], self.sizes[chosen][first:])


def merged(
    runs: Sequence[Sequence[np.ndarray]], owners: np.ndarray, sizes: np.ndarray
) -> Iterator[Sequence[np.ndarray]]:
    """The columns of sessions that stand one after the other in runs, in pieces of about ``CHUNK`` events.

    Args:
        runs: of each shard its columns, [n].
        owners: int[sessions], the shard of each session, in their order.
        sizes: int64[sessions], their events.
    """
    ends, read = np.cumsum(sizes), np.zeros(len(runs), np.int64)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, side="right")))
        owner = np.repeat(owners[start:stop], sizes[start:stop])
        order, counts = np.argsort(owner, kind="stable"), np.bincount(owner, minlength=len(runs))
        columns = []
        for column in range(len(runs[0])):
            values = np.concatenate([run[column][low : low + count]
                                     for run, low, count in zip(runs, read, counts, strict=True)])  # fmt: skip
            columns.append(np.empty_like(values))
            columns[-1][order] = values
        yield columns
        read, start = read + counts, stop
