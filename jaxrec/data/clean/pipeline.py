"""The one cleaning pipeline: click events in a DuckDB table to the arrays of a dataset directory.

The protocol is that of NARM and SR-GNN (github.com/CRIPAC-DIG/SR-GNN, datasets/preprocess.py):

1. on request, of events that say the same the first is kept, sessions are cut where more than ``session_gap`` lies
   between two events, and a click on the item of the click before it, in the same session, is dropped;
2. sessions with fewer than ``min_session_length`` events are dropped (and those with more than
   ``max_session_length``), then items with fewer than ``min_item_support`` events, then again sessions that have become
   too short;
3. the date of a session is that of its last event, also where step 2 has dropped that event; the split date lies
   ``test_days`` before the last one. Training sessions are dated strictly before it and test sessions strictly after
   it, so where dates are whole days the sessions of the split day itself are in neither;
4. the vocabulary is that of the training sessions, most frequent first, then by id; other items are dropped from the
   test sessions, then test sessions that have become too short;
5. the last ``validation_days`` before the split date are set apart, and of what is left only the last ``fraction`` of
   the targets is kept: the last sessions, and of the one where it starts the first clicks.

Where events have types (``Raw.event_types``, as of MerRec), step 1 drops a row that says the same as an earlier one,
step 3 may draw the test sessions at random, and step 4 keeps what training has not seen, behind what it has.

With ``Raw.leave_one_out`` a session is all that a user did, and step 3 cuts it: the last event is the test target, the
one before it the validation target. The vocabulary is then that of all events but the test targets, most frequent among
the training events first; test targets outside it are dropped with their session, and counted.

Sessions stand in the order (split, date, first input row) and their events in the order (time, input row). That is a
total order, so the result does not depend on the number of threads; among sessions of one date it is that of the file,
as in the published code, which decides what ``fraction`` keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jaxrec.data.clean.choices import DAY, Cleaning, Drawn, Ledger, Raw, duration
from jaxrec.data.dataset import SPLITS, split_counts
from jaxrec.data.reading.duck import fetch_number, fetch_row, fetch_sums
from jaxrec.data.reading.times import iso, plausible_range, span
from jaxrec.data.store import array_file, file_entry
from jaxrec.errors import UserError

CHUNK = 1 << 20  # events fetched from DuckDB at a time
SHORTEST = 3  # events of a user of whom two are held out


def prepare(
    connection: Any, raw: Raw, cleaning: Cleaning, path: Path, update: Callable[..., None]
) -> dict[str, dict[str, Any]]:
    """Clean the table ``raw`` and write the arrays and the vocabulary into the empty directory ``path``.

    Args:
        connection: DuckDB, with the table ``raw``.
        update: called as ``update(advance, note=...)``; the advances sum to 1.

    Returns:
        The manifest's ``counts``, ``dropped``, ``times`` and ``files``, and ``scored`` where not every target is.
    """
    ledger = Ledger(raw.name, dict(raw.dropped))
    entries: dict[str, Any] = {} if raw.counters else _time_span(connection, raw)
    entries = _make_clicks(connection, raw, cleaning, ledger) | entries
    update(0.1, note="filter")
    _filter(connection, cleaning, ledger)
    update(0.2, note="split and match")
    relation, order = _split(connection, raw, cleaning, ledger)
    update(0.1, note="order")
    connection.execute(
        "CREATE TEMP TABLE ranked AS SELECT session, split, events, "
        "row_number() OVER (ORDER BY split, date, first) - 1 AS rank FROM sessions"
    )
    table = connection.execute("SELECT split, events FROM ranked ORDER BY rank").fetchnumpy()
    lengths = {name: table["events"][table["split"] == index] for index, name in enumerate(SPLITS)}
    first, lengths["train"], gap = _last_fraction(lengths["train"], cleaning.fraction, ledger)
    update(0.2, note="sort and write")
    typed, events = bool(raw.event_types), sum(int(n.sum()) for n in lengths.values())
    chunks = _encoded(connection, relation, order, first, gap, typed)
    files = _write_splits(path, lengths, chunks, lambda n: update(0.4 * n / events), typed)
    vocabulary = connection.sql("SELECT item, count FROM vocabulary ORDER BY index").to_arrow_table()
    pq.write_table(vocabulary, path / "items.parquet")
    files["items.parquet"] = file_entry(path / "items.parquet")
    scored = {"validation": "last", "test": "last"} if raw.leave_one_out else {}
    counts: dict[str, Any] = {"items": vocabulary.num_rows}
    counts |= {name: split_counts(n, name in scored) for name, n in lengths.items()}
    if typed:
        found = dict(connection.execute("SELECT event, count(*) FROM clicks SEMI JOIN vocabulary USING (item) "
                                        "SEMI JOIN ranked USING (session) GROUP BY event").fetchall())  # fmt: skip
        counts["trained"] = fetch_number(connection, "SELECT count(*) FROM vocabulary WHERE count > 0")
        counts["events"] = {name: found.get(index, 0) for index, name in enumerate(raw.event_types)}
    if raw.attributes:
        update(0, note="item attributes")
        further, more = raw.attributes(path)
        files |= further
        counts |= more
    entries |= {"scored": scored} if scored else {}
    return {"counts": counts, "dropped": ledger.dropped, **entries, "files": files}


# ---- step 1 ----------------------------------------------------------------------------------------------------------


def _time_span(connection: Any, raw: Raw) -> dict[str, Any]:
    """First and last time of all events, which have to be plausible."""
    first, last = plausible_range()
    found = fetch_row(connection, f"SELECT min({raw.time}), max({raw.time}) FROM raw")
    for moment in found:
        if moment is not None and not first <= moment < last:
            row = fetch_number(connection, f"SELECT min(rowid) FROM raw WHERE {raw.time} = {moment}")
            place = raw.place(row) if raw.place else f"{raw.name}: row {row + 1:,}"
            raise UserError(f"{place}: its time is {iso(moment)}, expected one from {iso(first)} to {iso(last)}; mend "
                            "or remove it")  # fmt: skip
    return {"times": {} if found[0] is None else span(*found)}


def _make_clicks(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger) -> dict[str, Any]:
    """The view ``clicks`` (session, item, time, date, what ``raw`` orders by, row; of typed events ``event``).

    Returns:
        Further entries of the manifest.
    """
    columns = ["session", "item", f"{raw.time} AS time", f"{raw.date} AS date", *raw.order, *raw.further]
    columns += ["event"] * bool(raw.event_types)
    source, entries = f"(SELECT {', '.join(columns)}, rowid AS row FROM raw)", {}
    window = f"PARTITION BY session ORDER BY {raw.event_order}"

    def make(table: str, query: str, filter: str | None = None) -> str:
        connection.execute(f"CREATE TABLE {table} AS {query}")
        if filter:
            fewer = f"SELECT (SELECT count(*) FROM {source}) - (SELECT count(*) FROM {table})"
            ledger.dropped[filter] = {"events": fetch_number(connection, fewer)}
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
        sessions = [fetch_number(connection, f"SELECT count(DISTINCT session) FROM {one}") for one in (source, cut)]
        entries, source = {"cut": {"sessions": sessions[0], "pieces": sessions[1]}}, cut
    if cleaning.drop_repeats:
        source = make("moving_clicks", f"SELECT * EXCLUDE before FROM (SELECT *, lag(item) OVER ({window}) AS before "
                      f"FROM {source}) WHERE before IS DISTINCT FROM item", "repeats")  # fmt: skip
    connection.execute(f"CREATE VIEW clicks AS SELECT * FROM {source}")
    return entries


# ---- steps 2 to 4 ----------------------------------------------------------------------------------------------------


def _filter(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """Step 2: the tables ``supported`` (item) and ``dated`` (session, date in ms, first row, events)."""
    length = cleaning.min_session_length
    connection.execute(
        "CREATE TEMP TABLE long AS SELECT session, max(date) AS date, min(row) AS first, count(*) AS events "
        "FROM clicks GROUP BY session"
    )
    kept = ledger.drop(connection, "long", f"events < {length}", "short sessions")
    if cleaning.max_session_length is not None:
        kept = ledger.drop(connection, "long", f"events > {cleaning.max_session_length}", "long sessions")
    connection.execute(
        "CREATE TEMP TABLE supported AS SELECT item, count(*) AS events FROM clicks SEMI JOIN long USING (session) "
        "GROUP BY item"
    )
    popular = ledger.drop(connection, "supported", f"events < {cleaning.min_item_support}", "rare items", "items")
    connection.execute(
        "CREATE TEMP TABLE dated AS SELECT session, date, first, popular.events FROM long JOIN ("
        "SELECT session, count(*) AS events FROM clicks SEMI JOIN long USING (session) "
        f"SEMI JOIN supported USING (item) GROUP BY session HAVING count(*) >= {length}) AS popular USING (session)"
    )
    left = fetch_sums(connection, "dated")
    ledger.dropped["short sessions after rare items"] = {
        "sessions": kept[0] - left[0], "events": popular[1] - left[1]
    }  # fmt: skip
    ledger.require(left[1], "events")


def _split(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger) -> tuple[str, str]:
    """Steps 3 and 4: the tables ``sessions`` (as ``dated``, and split as an index into SPLITS) and ``vocabulary``.

    Returns:
        The table or view of the sessions' events, and what these are ordered by.
    """
    relation, order = "clicks", raw.event_order
    if raw.leave_one_out:
        relation, order = "parts", "row"
        _leave_one_out(connection, raw.event_order)
    elif raw.drawn:
        _split_at_random(connection, raw.drawn, cleaning.validation_days)
    else:
        _split_by_time(connection, cleaning, ledger)
    needed = (True, cleaning.validation_days, cleaning.test_days or raw.drawn or raw.leave_one_out)
    for index, (name, wanted) in enumerate(zip(SPLITS, needed, strict=True)):
        if wanted:
            found = fetch_number(connection, f"SELECT count(*) FROM sessions WHERE split = {index}")
            ledger.require(found, f"{name} sessions")
    # Of events with types also the items that only the other splits hold, with the count 0.
    splits, counted = (3 if raw.event_types else 2), (1 if raw.event_types or raw.leave_one_out else 2)
    connection.execute(
        "CREATE TEMP TABLE vocabulary AS "
        "SELECT *, (row_number() OVER (ORDER BY count DESC, item) - 1)::INTEGER AS index FROM ("
        f"SELECT item, count(*) FILTER (split < {counted}) AS count FROM {relation} SEMI JOIN supported USING (item) "
        f"JOIN (SELECT session, split FROM sessions WHERE split < {splits}) USING (session) GROUP BY item)"
    )
    if raw.leave_one_out:
        _drop_unseen_targets(connection, ledger)
    elif not raw.event_types and cleaning.test_days:
        _match_test(connection, cleaning, ledger)
    return relation, order


def _split_by_time(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """The last ``test_days`` are the test split, the ``validation_days`` before them the validation split."""
    last = fetch_number(connection, "SELECT max(date) FROM dated")
    # Without test days the split date lies after every session.
    test = last - cleaning.test_days * DAY if cleaning.test_days else last + 1
    validation = test - cleaning.validation_days * DAY
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT session, date, first, events, CASE WHEN date < "
        f"{validation} THEN 0 WHEN date < {test} THEN 1 WHEN date > {test} THEN 2 END AS split FROM dated"
    )
    ledger.drop(connection, "sessions", "split IS NULL", "split date")
    first = fetch_number(connection, "SELECT min(date) FROM dated")
    if first >= validation:
        raise UserError(f"{ledger.name}: no session is left for training before the {cleaning.test_days} test and "
                        f"{cleaning.validation_days} validation days; all sessions end within "
                        f"{(last - first) / DAY:.1f} days: give fewer --test-days or --validation-days or, where a "
                        "session is all that a user did, cut it with --session-gap 30m")  # fmt: skip


def _split_at_random(connection: Any, drawn: Drawn, validation_days: int) -> None:
    """The test split is drawn; the validation days are the last ones of the sessions not drawn."""
    sessions, last = fetch_row(connection, "SELECT count(*), max(date) FROM dated")
    tests, validation = math.ceil(sessions * drawn.fraction), last + 1 - validation_days * DAY
    # The digests of the sessions' numbers in their order, which is that of their dates and input rows, put them into
    # an order that is random, yet the same on every machine.
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT session, date, first, events, "
        f"CASE WHEN row_number() OVER (ORDER BY md5('{drawn.seed} ' || number), number) <= {tests} THEN 2 "
        f"WHEN date < {validation} THEN 0 ELSE 1 END AS split "
        "FROM (SELECT *, row_number() OVER (ORDER BY date, first) AS number FROM dated)"
    )


def _leave_one_out(connection: Any, order: str) -> None:
    """Of each session, that of a user, the last event is the test target and the one before it the validation target.

    The protocol of SASRec (Kang and McAuley 2018, section IV) and BERT4Rec. The test split holds whole sessions, the
    validation split all but their last event, and of both only the last event is scored; training holds all but the
    last two. Sessions of fewer than three events are for training. Makes the view ``parts`` (session, item, time, row)
    of the sessions of all splits, whose numbers are new; its rows are places in the session, from 1.
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


def _drop_unseen_targets(connection: Any, ledger: Ledger) -> None:
    """Drop the test sessions of ``leave_one_out`` whose target is not in the table ``vocabulary``."""
    before = fetch_sums(connection, "sessions WHERE split = 2")[0]
    connection.execute(
        "DELETE FROM sessions WHERE split = 2 AND owner IN (SELECT placed.owner FROM placed "
        "JOIN (SELECT owner, events FROM sessions WHERE split = 2) AS tests "
        "ON placed.owner = tests.owner AND place = tests.events ANTI JOIN vocabulary USING (item))"
    )
    left = fetch_sums(connection, "sessions WHERE split = 2")[0]
    ledger.dropped["test targets unseen before"] = {"targets": before - left}
    ledger.require(left, "test targets")


def _match_test(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """Step 4: drop from the test sessions what training has not seen."""
    before = fetch_sums(connection, "sessions WHERE split = 2")
    connection.execute(
        "CREATE TEMP TABLE matched AS SELECT session, count(*) AS events FROM clicks "
        "SEMI JOIN vocabulary USING (item) SEMI JOIN (SELECT session FROM sessions WHERE split = 2) USING (session) "
        "GROUP BY session"
    )
    seen = fetch_sums(connection, "matched")
    ledger.dropped["test items unseen in training"] = {"events": before[1] - seen[1]}
    connection.execute(f"DELETE FROM matched WHERE events < {cleaning.min_session_length}")
    left = fetch_sums(connection, "matched")  # a session of which nothing is matched had no row
    ledger.dropped["short test sessions"] = {"sessions": before[0] - left[0], "events": seen[1] - left[1]}
    ledger.require(left[1], "test events")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sessions AS SELECT session, date, first, split, "
        "coalesce(matched.events, sessions.events) AS events FROM sessions LEFT JOIN matched USING (session) "
        "WHERE split < 2 OR matched.events IS NOT NULL"
    )


# ---- step 5, and what is written -------------------------------------------------------------------------------------


def _last_fraction(train: np.ndarray, fraction: Fraction, ledger: Ledger) -> tuple[int, np.ndarray, tuple[int, int]]:
    """The last ``fraction`` of the training targets, of int64[sessions] lengths.

    Returns:
        The rank of the first session kept; the lengths that are left; and the positions ``[start, stop)`` in the
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


def _encoded(
    connection: Any, relation: str, order: str, first: int, gap: tuple[int, int], typed: bool
) -> Iterator[tuple[np.ndarray, ...]]:
    """The events of the sessions from rank ``first`` on, in their final order, without the positions in ``gap``.

    Yields:
        Item indices int32[n], times int64[n] (ms) and, of events with types, these uint8[n].
    """
    columns = "index, time, event" if typed else "index, time"
    stream = connection.sql(
        f"SELECT {columns} FROM {relation} JOIN (SELECT session, rank FROM ranked WHERE rank >= {first}) "
        f"USING (session) JOIN vocabulary USING (item) ORDER BY rank, {order}"
    )
    position = 0
    with stream.to_arrow_reader(CHUNK) as reader:
        for batch in reader:
            low, high = (int(np.clip(edge - position, 0, len(batch))) for edge in gap)
            position += len(batch)
            yield tuple(np.delete(column.to_numpy(), np.s_[low:high]) for column in batch.columns)


def _write_splits(
    path: Path,
    lengths: dict[str, np.ndarray],
    chunks: Iterator[tuple[np.ndarray, ...]],
    written: Callable[[int], None],
    typed: bool,
) -> dict[str, dict[str, Any]]:
    """Cut the stream of events into the splits, by int64[sessions] lengths; returns the files' manifest entries."""
    kinds = (("items.npy", "<i4"), ("times.npy", "<i8"), ("events.npy", "|u1"))[: 2 + typed]
    rest: tuple[np.ndarray, ...] = (np.empty(0),)
    for split, sizes in lengths.items():
        total = left = int(sizes.sum())
        with ExitStack() as stack:
            columns = [stack.enter_context(array_file(path / split / name, dtype, total)) for name, dtype in kinds]
            while left:
                if not len(rest[0]):
                    rest = next(chunks)
                take = min(left, len(rest[0]))
                for append, values in zip(columns, rest, strict=True):
                    append(values[:take])
                rest = tuple(values[take:] for values in rest)
                left -= take
                written(take)
        np.save(path / split / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    if len(rest[0]) or next(chunks, None) is not None:
        raise AssertionError("more events than the sessions' lengths add up to")
    names = [f"{split}/{name}" for split in lengths for name in (*dict(kinds), "offsets.npy")]
    return {name: file_entry(path / name) for name in names}
