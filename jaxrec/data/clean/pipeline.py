"""The one cleaning pipeline: click events in a DuckDB table to the arrays of a dataset directory.

The protocol is that of NARM and SR-GNN (github.com/CRIPAC-DIG/SR-GNN, datasets/preprocess.py):

1. on request, of events that say the same the first is kept (always of events with types), sessions are cut where more
   than ``session_gap`` lies between two events, and a click on the item of the one before is dropped;
2. sessions with fewer than ``min_session_length`` events are dropped, then items with fewer than ``min_item_support``
   events, then again sessions that have become too short;
3. the date of a session is that of its last event, also where step 2 has dropped that; the split date lies
   ``test_days`` before the last one. Training sessions are dated strictly before it and test sessions strictly after,
   so where dates are whole days the sessions of the split day are in neither;
4. the vocabulary is that of the training sessions, most frequent first, then by id; other items are dropped from the
   test sessions, then test sessions that have become too short. Of events with types unseen items stay, behind others;
5. the last ``validation_days`` before the split date are set apart, and of what is left only the last ``fraction`` of
   the targets is kept: the last sessions, and of the one where it starts the first clicks.

With ``Raw.leave_one_out`` a session is all that a user did: the last event is the test target, the one before it the
validation target. The vocabulary is that of all events but the test targets, most frequent in training first; test
targets outside it are dropped with their session. With ``Raw.whole_catalogue`` it is that of all events, and none is
dropped, as in the published protocol. Sessions stand in the order (split, date, first input row), which
decides what ``fraction`` keeps, their events in the order (time, input row): the result depends on no threads.

An *engine* holds the sessions: all on one DuckDB connection, or dealt to shards (``shards``). The steps on
them are those of ``steps``; here is what has to be decided for all of them at once. So engines write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxrec.data.clean import steps
from jaxrec.data.clean.protocol import Cleaning, Raw
from jaxrec.data.clean.steps import Numbers, sums
from jaxrec.data.clean.vocabulary import Former, keep_indices
from jaxrec.data.dataset import SPLITS, split_counts
from jaxrec.data.reading.columns import span
from jaxrec.data.reading.duck import fetch_row
from jaxrec.data.store import array_file, file_entry, write_file
from jaxrec.errors import UserError

CHUNK = 1 << 20  # events fetched from DuckDB at a time
ARRAYS = {"items.npy": "<i4", "times.npy": "<i8", "events.npy": "|u1"}


class Engine(Protocol):
    """Where the sessions are, and what runs the steps on them."""

    connection: Any  # DuckDB, which holds the tables of all sessions together

    def each(self, step: Callable[..., Numbers], *arguments: Any) -> list[Numbers]:
        """Run a step on each shard."""

    def merge(self, table: str, into: str, amount: str) -> None:
        """Make the table ``into`` (item, ``amount``) of ``connection``, the sums of the shards' ``table``."""

    def share(self, table: str) -> None:
        """Give the shards a table of ``connection``."""

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """The splits and the events, int[sessions], of all sessions in the order (split, date, first row)."""

    def events(self, raw: Raw, firsts: Sequence[int]) -> Iterator[Iterable[Sequence[np.ndarray]]]:
        """For each split its events in their order, from its session ``first`` on: pieces of the columns of ARRAYS."""


class OneConnection:
    """The engine ``duckdb``: all sessions on one connection."""

    def __init__(self, connection: Any, raw: Raw) -> None:
        self.connection = connection
        steps.make_events(connection, raw)

    def each(self, step: Callable[..., Numbers], *arguments: Any) -> list[Numbers]:
        return [step(self.connection, *arguments)]

    def merge(self, table: str, into: str, amount: str) -> None:
        self.connection.execute(f"ALTER TABLE {table} RENAME TO {into}")

    def share(self, table: str) -> None:
        pass

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        table = self.connection.execute("SELECT split, events FROM ranked ORDER BY rank").fetchnumpy()
        return table["split"], table["events"]

    def events(self, raw: Raw, firsts: Sequence[int]) -> Iterator[Iterable[Sequence[np.ndarray]]]:
        return split_streams(self.connection, raw, firsts)


def split_streams(connection: Any, raw: Raw, firsts: Sequence[int]) -> Iterator[Iterable[Sequence[np.ndarray]]]:
    """``Engine.events`` of one connection."""
    for split, first in enumerate(firsts):
        with connection.sql(steps.split_events(raw, split, first)).to_arrow_reader(CHUNK) as stream:
            yield ([column.to_numpy() for column in batch.columns] for batch in stream)


class Ledger:
    """What each filter took from the data called ``name``; ``dropped`` is for the manifest."""

    def __init__(self, raw: Raw) -> None:
        self.name, self.dropped = raw.name, dict(raw.dropped)

    def require(self, left: int, what: str) -> None:
        """Stop where nothing is left."""
        if not left:
            took = [f"{name} took {' and '.join(f'{amount:,} {unit}' for unit, amount in amounts.items())}"
                    for name, amounts in self.dropped.items() if any(amounts.values())]  # fmt: skip
            raise UserError(f"{self.name}: no {what} left: {'; '.join(took) or 'no filter took any'}; loosen a filter, "
                            "hold out fewer days or give more data")  # fmt: skip


def added(shards: Sequence[Numbers]) -> Numbers:
    """The numbers of a step's shards added up; those under ``least`` and ``most`` are the least and the largest."""
    ends = {"least": min, "most": max}
    total: Numbers = {}
    for name, value in shards[0].items():
        values = [shard[name] for shard in shards]
        if name in ends:
            known = {end: [one[end] for one in values if one[end] is not None] for end in value}
            total[name] = {end: ends[name](one, default=None) for end, one in known.items()}
        else:
            total[name] = added(values) if isinstance(value, dict) else sum(values)
    return total


def prepare(
    engine: Engine, raw: Raw, cleaning: Cleaning, path: Path, update: Callable[..., None], former: Former | None = None
) -> dict[str, dict[str, Any]]:
    """Clean the events of ``raw`` and write the arrays and the vocabulary into the empty directory ``path``. Indices go
    on from those of ``former``.

    Returns the manifest's ``counts``, ``dropped``, ``times`` and ``files``, and ``scored`` where not every target is.
    ``update(advance, note=...)`` is told of advances that sum to 1.
    """
    connection, ledger, typed = engine.connection, Ledger(raw), bool(raw.event_types)
    entries, last = _filter(engine, raw, cleaning, ledger, update)
    update(0.2, note="split and match")
    every_item, more = _split(engine, raw, cleaning, ledger, last, former)
    entries |= more
    update(0.1, note="order")
    splits, events = engine.lengths()
    lengths = {name: events[splits == index] for index, name in enumerate(SPLITS)}
    first, lengths["train"], gap = _last_fraction(lengths["train"], cleaning.fraction, ledger)
    update(0.2, note="sort and write")
    total, files = sum(int(sizes.sum()) for sizes in lengths.values()), dict[str, Any]()
    streams = engine.events(raw, (first, 0, 0))
    for index, ((name, sizes), stream) in enumerate(zip(lengths.items(), streams, strict=True)):
        arrays = list(ARRAYS)[: 2 + typed]
        write_events(stream, path / name, arrays, int(sizes.sum()), (0, 0) if index else gap)
        np.save(path / name / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        update(0.4 * sizes.sum() / total)
        names = [f"{name}/{array}" for array in (*arrays, "offsets.npy")]
        files |= {array: file_entry(path / array) for array in names}
    vocabulary = connection.sql(f"SELECT item, count FROM {every_item} ORDER BY index").to_arrow_table()
    files |= write_file(path, "items.parquet", vocabulary)
    scored = {"validation": "last", "test": "last"} if raw.leave_one_out else {}
    counts: dict[str, Any] = {"items": vocabulary.num_rows}
    counts |= {name: split_counts(sizes, name in scored) for name, sizes in lengths.items()}
    if typed:
        counts["trained"] = fetch_row(connection, "SELECT count(*) FROM vocabulary WHERE count > 0")[0]
        counts["events"] = added(engine.each(steps.count_types, raw))
    if raw.extras:
        update(0, note="items")
        more, further, about = raw.extras(path)
        files, counts, entries = files | more, counts | further, entries | about
    entries |= {"scored": scored} if scored else {}
    return {"counts": counts, "dropped": ledger.dropped, **entries, "files": files}


def _filter(
    engine: Engine, raw: Raw, cleaning: Cleaning, ledger: Ledger, update: Callable[..., None]
) -> tuple[dict[str, Any], int]:
    """The shards' tables ``dated``; returns entries of the manifest, and the last date in ms."""
    found = added(engine.each(steps.count_items, raw, cleaning))
    ledger.dropped |= found["dropped"]
    entries: dict[str, Any] = {"cut": found["cut"]} if "cut" in found else {}
    if not raw.counters:
        entries["times"] = span(found["least"]["time"], found["most"]["time"])
    update(0.1, note="filter")
    engine.merge("item_counts", "supported", "events")
    rare = f"events < {cleaning.min_item_support}"
    ledger.dropped["rare items"] = steps.drop(engine.connection, "supported", rare, "items")
    engine.share("supported")
    popular = sums(engine.connection, "supported")[1]
    left = added(engine.each(steps.date_sessions, cleaning))
    ledger.dropped["short sessions after rare items"] = {
        "sessions": found["sessions"] - left["sessions"], "events": popular - left["events"],
    }  # fmt: skip
    ledger.require(left["events"], "events")
    return entries, left["most"]["date"]


def _split(
    engine: Engine, raw: Raw, cleaning: Cleaning, ledger: Ledger, last: int, former: Former | None
) -> tuple[str, dict[str, Any]]:
    """The shards' tables ``ranked`` and the table ``vocabulary`` (item, count, index) of all. Returns the relation that
    has the items that only ``former`` knows as well, and entries of the manifest."""
    connection, every_item, entries = engine.connection, "vocabulary", dict[str, Any]()
    found = added(engine.each(steps.split_sessions, raw, cleaning, last))
    ledger.dropped |= found["dropped"]
    needed = (True, cleaning.validation_days, cleaning.test_days or raw.leave_one_out)
    for index, (name, wanted) in enumerate(zip(SPLITS, needed, strict=True)):
        if wanted:
            ledger.require(found[f"split {index}"], f"{name} sessions")
    engine.merge("counted", "counted_items", "count")
    connection.execute("CREATE TEMP TABLE vocabulary AS SELECT *, (row_number() OVER (ORDER BY count DESC, item) - 1)"
                       "::INTEGER AS index FROM counted_items")  # fmt: skip
    if former is not None:
        entries = keep_indices(connection, former)
        every_item = "(FROM vocabulary UNION ALL FROM gone)"
    engine.share("vocabulary")
    left = added(engine.each(steps.rank_sessions, raw, cleaning))
    ledger.dropped |= left["dropped"]
    if "test targets unseen before" in ledger.dropped:
        ledger.require(left["tests"], "test targets")
    elif "short test sessions" in ledger.dropped:
        ledger.require(left["test events"], "test events")
    return every_item, entries


def _last_fraction(train: np.ndarray, fraction: Fraction, ledger: Ledger) -> tuple[int, np.ndarray, tuple[int, int]]:
    """The last ``fraction`` of the training targets, of int64[sessions] lengths.

    Returns the rank of the first session kept; the lengths that are left; and the positions ``[start, stop)`` in the
    stream of events from that session on that are left out, the tail of the session that was cut.
    """
    first, gap = 0, (0, 0)
    if fraction < 1:
        before, targets = split_counts(train), train - 1
        keep = int(targets.sum()) * fraction.numerator // fraction.denominator
        after = np.cumsum(targets[::-1])[::-1]  # targets from this session to the end
        first = int(np.count_nonzero(after >= keep)) - 1 if keep else len(train)
        train = train[first:].copy()
        if keep:
            surplus = int(after[first]) - keep
            gap = (int(train[0]) - surplus, int(train[0]))
            train[0] -= surplus
        left = split_counts(train)
        ledger.dropped["fraction"] = {unit: before[unit] - left[unit] for unit in ("sessions", "events")}
    ledger.require(split_counts(train)["targets"], "training targets")
    return first, train, gap


def write_events(
    stream: Iterable[Sequence[np.ndarray]], folder: Path, names: Sequence[str], total: int,
    gap: tuple[int, int] = (0, 0),
) -> None:  # fmt: skip
    """Write the events of a stream into the arrays ``names``, of length ``total``, without the positions in ``gap``."""
    position = 0
    with ExitStack() as stack:
        arrays = [stack.enter_context(array_file(folder / name, ARRAYS[name], total)) for name in names]
        for columns in stream:
            low, high = (int(np.clip(edge - position, 0, len(columns[0]))) for edge in gap)
            for append, column in zip(arrays, columns, strict=True):
                append(np.delete(column, np.s_[low:high]))
            position += len(columns[0])
    if position != total + gap[1] - gap[0]:
        raise AssertionError("other events than the sessions' lengths add up to")
