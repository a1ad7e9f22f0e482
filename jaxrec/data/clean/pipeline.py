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
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.clean.vocabulary import Former, keep_indices
from jaxrec.data.dataset import SPLITS, split_counts
from jaxrec.data.reading.columns import span
from jaxrec.data.reading.duck import fetch_row
from jaxrec.data.store import array_file, file_entry, write_file
from jaxrec.errors import UserError, shown

DAY = 24 * 60 * 60 * 1000  # ms
UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY}
LEAVE_ONE_OUT = "leave_one_out"  # --split
OPTIONAL = ("drop_duplicates", "session_gap")  # data sets of earlier versions do not name these
CHUNK = 1 << 20  # events fetched from DuckDB at a time
SHORTEST = 3  # events of a user of whom two are held out
ARRAYS = {"items.npy": "<i4", "times.npy": "<i8", "events.npy": "|u1"}


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
    read: dict[str, int] | None = None  # how many rows and files were read, for the manifest; None where nothing was
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)  # what was left out, as the manifest has it


def duration(text: str) -> int:
    """The milliseconds of ``30m``."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    if match is None or not float(match[1]):
        raise UserError(f"--session-gap {shown(text)}: expected a time such as 30m, with one of s, m, h, d")
    return round(float(match[1]) * UNITS[match[2]])


class Ledger:
    """What each filter took from the data called ``name``; ``dropped`` is for the manifest."""

    def __init__(self, connection: Any, raw: Raw) -> None:
        self.connection, self.name, self.dropped = connection, raw.name, dict(raw.dropped)

    def sums(self, table: str) -> tuple[int, int]:
        """Rows of a table, and the sum of its column ``events``."""
        rows, events = fetch_row(self.connection, f"SELECT count(*), coalesce(sum(events), 0) FROM {table}")
        return rows, events

    def drop(self, table: str, condition: str, name: str, unit: str = "sessions") -> tuple[int, int]:
        """Delete what an SQL condition names from a table with a row a ``unit``; how many rows and events are left."""
        rows, events = self.sums(table)
        self.connection.execute(f"DELETE FROM {table} WHERE {condition}")
        left = self.sums(table)
        self.dropped[name] = {unit: rows - left[0], "events": events - left[1]}
        return left

    def require(self, left: int, what: str) -> None:
        """Stop where nothing is left."""
        if not left:
            took = [f"{name} took {' and '.join(f'{amount:,} {unit}' for unit, amount in amounts.items())}"
                    for name, amounts in self.dropped.items() if any(amounts.values())]  # fmt: skip
            raise UserError(f"{self.name}: no {what} left: {'; '.join(took) or 'no filter took any'}; loosen a filter, "
                            "hold out fewer days or give more data")  # fmt: skip


def prepare(
    connection: Any, raw: Raw, cleaning: Cleaning, path: Path, update: Callable[..., None],
    former: Former | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Clean DuckDB's table ``raw`` and write the arrays and the vocabulary into the empty directory ``path``. Indices
    go on from those of ``former``.

    Returns the manifest's ``counts``, ``dropped``, ``times`` and ``files``, and ``scored`` where not every target is.
    ``update(advance, note=...)`` is told of advances that sum to 1.
    """
    ledger, typed, order = Ledger(connection, raw), bool(raw.event_types), "time, row"
    entries = make_clicks(connection, raw, cleaning, ledger, order)
    if not raw.counters:
        entries["times"] = span(*fetch_row(connection, f"SELECT min({raw.time}), max({raw.time}) FROM raw"))
    update(0.1, note="filter")
    _filter(connection, cleaning, ledger)
    update(0.2, note="split and match")
    relation, order = _split(connection, raw, cleaning, ledger, order)
    every_item = "vocabulary"
    if former is not None:
        entries |= keep_indices(connection, former)
        every_item = "(FROM vocabulary UNION ALL FROM gone)"
    update(0.1, note="order")
    connection.execute(
        "CREATE TEMP TABLE ranked AS SELECT session, split, events, "
        "row_number() OVER (ORDER BY split, date, first) - 1 AS rank FROM sessions"
    )
    table = connection.execute("SELECT split, events FROM ranked ORDER BY rank").fetchnumpy()
    lengths = {name: table["events"][table["split"] == index] for index, name in enumerate(SPLITS)}
    first, lengths["train"], gap = _last_fraction(lengths["train"], cleaning.fraction, ledger)
    update(0.2, note="sort and write")
    events, files = sum(int(sizes.sum()) for sizes in lengths.values()), dict[str, Any]()
    for index, (name, sizes) in enumerate(lengths.items()):
        query = (
            f"SELECT {'index, time, event' if typed else 'index, time'} FROM {relation} JOIN (SELECT session, rank "
            f"FROM ranked WHERE split = {index} AND rank >= {first}) USING (session) JOIN vocabulary USING (item) "
            f"ORDER BY rank, {order}"
        )
        _write_split(connection, query, path / name, sizes, (0, 0) if index else gap)
        update(0.4 * sizes.sum() / events)
        names = [f"{name}/{array}" for array in (*list(ARRAYS)[: 2 + typed], "offsets.npy")]
        files |= {array: file_entry(path / array) for array in names}
    vocabulary = connection.sql(f"SELECT item, count FROM {every_item} ORDER BY index").to_arrow_table()
    files |= write_file(path, "items.parquet", vocabulary)
    scored = {"validation": "last", "test": "last"} if raw.leave_one_out else {}
    counts: dict[str, Any] = {"items": vocabulary.num_rows}
    counts |= {name: split_counts(sizes, name in scored) for name, sizes in lengths.items()}
    if typed:
        found = dict(connection.execute("SELECT event, count(*) FROM clicks SEMI JOIN vocabulary USING (item) "
                                        "SEMI JOIN ranked USING (session) GROUP BY event").fetchall())  # fmt: skip
        counts["trained"] = fetch_row(connection, "SELECT count(*) FROM vocabulary WHERE count > 0")[0]
        counts["events"] = {name: found.get(index, 0) for index, name in enumerate(raw.event_types)}
    if raw.extras:
        update(0, note="items")
        more, further, about = raw.extras(path)
        files, counts, entries = files | more, counts | further, entries | about
    entries |= {"scored": scored} if scored else {}
    return {"counts": counts, "dropped": ledger.dropped, **entries, "files": files}


def make_clicks(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger, order: str) -> dict[str, Any]:
    """The view ``clicks`` (session, item, time, date, row; of typed events ``event``) of DuckDB's table ``raw``.

    Returns further entries of the manifest.
    """
    columns = ["session", "item", f"{raw.time} AS time", f"{raw.date} AS date", *raw.further]
    columns += ["event"] * bool(raw.event_types)
    source, entries = f"(SELECT {', '.join(columns)}, rowid AS row FROM raw)", {}
    window = f"PARTITION BY session ORDER BY {order}"

    def make(table: str, query: str, filter: str | None = None) -> str:
        connection.execute(f"CREATE TABLE {table} AS {query}")
        if filter:
            fewer = f"SELECT (SELECT count(*) FROM {source}) - (SELECT count(*) FROM {table})"
            ledger.dropped[filter] = {"events": fetch_row(connection, fewer)[0]}
        return table

    if raw.event_types or cleaning.drop_duplicates:
        same = ", ".join(column.split()[-1] for column in columns)
        query = f"SELECT {same}, min(row) AS row FROM {source} GROUP BY {same}"
        source = make("distinct_clicks", query, "duplicate events")
    if cleaning.session_gap is not None:  # what becomes the session is the input row of its first event
        gap = duration(cleaning.session_gap)
        start = f"CASE WHEN coalesce(time - lag(time) OVER ({window}) > {gap}, true) THEN row END"
        cut = make("cut_clicks", "SELECT * EXCLUDE start REPLACE (last_value(start IGNORE NULLS) OVER "
                   f"({window}) AS session) FROM (SELECT *, {start} AS start FROM {source})")  # fmt: skip
        sessions = [fetch_row(connection, f"SELECT count(DISTINCT session) FROM {one}")[0] for one in (source, cut)]
        entries, source = {"cut": {"sessions": sessions[0], "pieces": sessions[1]}}, cut
    if cleaning.drop_repeats:
        source = make("moving_clicks", f"SELECT * EXCLUDE before FROM (SELECT *, lag(item) OVER ({window}) AS before "
                      f"FROM {source}) WHERE before IS DISTINCT FROM item", "repeats")  # fmt: skip
    connection.execute(f"CREATE VIEW clicks AS SELECT * FROM {source}")
    return entries


def _filter(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """The tables ``supported`` (item) and ``dated`` (session, date in ms, first row, events)."""
    length = cleaning.min_session_length
    connection.execute(
        "CREATE TEMP TABLE long AS SELECT session, max(date) AS date, min(row) AS first, count(*) AS events "
        "FROM clicks GROUP BY session"
    )
    kept = ledger.drop("long", f"events < {length}", "short sessions")
    connection.execute(
        "CREATE TEMP TABLE supported AS SELECT item, count(*) AS events FROM clicks SEMI JOIN long USING (session) "
        "GROUP BY item"
    )
    popular = ledger.drop("supported", f"events < {cleaning.min_item_support}", "rare items", "items")
    connection.execute(
        "CREATE TEMP TABLE dated AS SELECT session, date, first, popular.events FROM long JOIN ("
        "SELECT session, count(*) AS events FROM clicks SEMI JOIN long USING (session) "
        f"SEMI JOIN supported USING (item) GROUP BY session HAVING count(*) >= {length}) AS popular USING (session)"
    )
    left = ledger.sums("dated")
    name = "short sessions after rare items"
    ledger.dropped[name] = {"sessions": kept[0] - left[0], "events": popular[1] - left[1]}
    ledger.require(left[1], "events")


def _split(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger, order: str) -> tuple[str, str]:
    """The tables ``sessions`` (as ``dated``, and split as an index into SPLITS) and ``vocabulary``.

    Returns the table or view of the sessions' events, and what these are ordered by.
    """
    relation = "clicks"
    if raw.leave_one_out:
        _leave_one_out(connection, order)
        relation, order = "parts", "row"
    else:
        _by_date(connection, cleaning, ledger)
    needed = (True, cleaning.validation_days, cleaning.test_days or raw.leave_one_out)
    for index, (name, wanted) in enumerate(zip(SPLITS, needed, strict=True)):
        if wanted:
            ledger.require(ledger.sums(f"sessions WHERE split = {index}")[0], f"{name} sessions")
    # Of events with types also the items that only the other splits hold, with the count 0.
    splits = 3 if raw.event_types or raw.whole_catalogue else 2
    counted = 1 if raw.event_types or raw.leave_one_out else 2
    connection.execute(
        "CREATE TEMP TABLE vocabulary AS "
        "SELECT *, (row_number() OVER (ORDER BY count DESC, item) - 1)::INTEGER AS index FROM ("
        f"SELECT item, count(*) FILTER (split < {counted}) AS count FROM {relation} SEMI JOIN supported USING (item) "
        f"JOIN (SELECT session, split FROM sessions WHERE split < {splits}) USING (session) GROUP BY item)"
    )
    if raw.leave_one_out and not raw.whole_catalogue:
        unseen = (
            "SELECT placed.owner FROM placed JOIN (SELECT owner, events FROM sessions WHERE split = 2) AS tests "
            "ON placed.owner = tests.owner AND place = tests.events ANTI JOIN vocabulary USING (item)"
        )
        before = ledger.sums("sessions WHERE split = 2")[0]
        connection.execute(f"DELETE FROM sessions WHERE split = 2 AND owner IN ({unseen})")
        left = ledger.sums("sessions WHERE split = 2")[0]
        ledger.dropped["test targets unseen before"] = {"targets": before - left}
        ledger.require(left, "test targets")
    elif not raw.event_types and not raw.leave_one_out and cleaning.test_days:
        _match_test(connection, cleaning, ledger)
    return relation, order


def _by_date(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """The last ``test_days`` are the test split, the ``validation_days`` before them the validation split."""
    (last,) = fetch_row(connection, "SELECT max(date) FROM dated")
    # Without test days the split date lies after every session.
    test = last - cleaning.test_days * DAY if cleaning.test_days else last + 1
    validation = test - cleaning.validation_days * DAY
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT session, date, first, events, CASE "
        f"WHEN date < {validation} THEN 0 WHEN date < {test} THEN 1 WHEN date > {test} THEN 2 END AS split FROM dated"
    )
    ledger.drop("sessions", "split IS NULL", "split date")


def _leave_one_out(connection: Any, order: str) -> None:
    """The protocol of SASRec (Kang and McAuley 2018, section IV) and BERT4Rec: the last event is for the test.

    The test split holds whole sessions, the validation split all but their last event, training all but the last two;
    sessions of fewer than three events are for training. Makes the view ``parts`` (session, item, time, row) of the
    sessions of all splits, whose numbers are new; its rows are places in the session, from 1.
    """
    connection.execute(
        "CREATE TEMP TABLE placed AS SELECT session AS owner, item, time, date, "
        f"row_number() OVER (PARTITION BY session ORDER BY {order}) AS place "
        "FROM clicks SEMI JOIN supported USING (item) SEMI JOIN dated USING (session)"
    )
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT number * 3 + split AS session, owner, date, first, events, split FROM ("
        "SELECT session AS owner, first, split, row_number() OVER (ORDER BY first) AS number, "
        f"CASE WHEN events < {SHORTEST} THEN events ELSE events - 2 + split END AS events "
        f"FROM dated CROSS JOIN (VALUES (0), (1), (2)) AS splits(split) WHERE split = 0 OR events >= {SHORTEST}"
        ") JOIN (SELECT owner, place AS events, date FROM placed) USING (owner, events)"
    )
    connection.execute(
        "CREATE TEMP VIEW parts AS SELECT session, item, time, place AS row FROM placed "
        "JOIN (SELECT session, owner, events FROM sessions) AS cut ON placed.owner = cut.owner AND place <= cut.events"
    )


def _match_test(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """Drop from the test sessions what training has not seen."""
    before = ledger.sums("sessions WHERE split = 2")
    connection.execute(
        "CREATE TEMP TABLE matched AS SELECT session, count(*) AS events FROM clicks "
        "SEMI JOIN vocabulary USING (item) SEMI JOIN (SELECT session FROM sessions WHERE split = 2) USING (session) "
        "GROUP BY session"
    )
    seen = ledger.sums("matched")
    ledger.dropped["test items unseen in training"] = {"events": before[1] - seen[1]}
    left = ledger.drop("matched", f"events < {cleaning.min_session_length}", "short test sessions")
    # a session of which nothing is matched has no row
    ledger.dropped["short test sessions"]["sessions"] = before[0] - left[0]
    ledger.require(left[1], "test events")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sessions AS SELECT session, date, first, split, "
        "coalesce(matched.events, sessions.events) AS events FROM sessions LEFT JOIN matched USING (session) "
        "WHERE split < 2 OR matched.events IS NOT NULL"
    )


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


def _write_split(connection: Any, query: str, folder: Path, sizes: np.ndarray, gap: tuple[int, int]) -> None:
    """Write the events that a query gives in their order, without the positions in ``gap``, and the offsets of
    sessions of int64[sessions] ``sizes``."""
    total, position = int(sizes.sum()), 0
    with ExitStack() as stack:
        stream = stack.enter_context(connection.sql(query).to_arrow_reader(CHUNK))
        arrays = [stack.enter_context(array_file(folder / name, dtype, total))
                  for name, dtype in list(ARRAYS.items())[: len(stream.schema)]]  # fmt: skip
        for batch in stream:
            low, high = (int(np.clip(edge - position, 0, len(batch))) for edge in gap)
            for append, column in zip(arrays, batch.columns, strict=True):
                append(np.delete(column.to_numpy(), np.s_[low:high]))
            position += len(batch)
    if position != total + gap[1] - gap[0]:
        raise AssertionError("other events than the sessions' lengths add up to")
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
