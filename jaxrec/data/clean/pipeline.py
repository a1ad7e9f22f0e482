"""The one cleaning pipeline: click events in a DuckDB table to the arrays of a dataset directory.

The protocol is that of NARM and SR-GNN (github.com/CRIPAC-DIG/SR-GNN, datasets/preprocess.py):

1. on request, of events that say the same the first is kept, sessions are cut where more than ``session_gap`` lies
   between two events, and a click on the item of the click before it, in the same session, is dropped;
2. sessions with fewer than ``min_session_length`` events are dropped (and those with more than
   ``max_session_length``), then items with fewer than
   ``min_item_support`` events, then again sessions that have become too short;
3. the date of a session is that of its last event, also where step 2 has dropped that event; the split date lies
   ``test_days`` before the last one. Training sessions are dated strictly before it and test sessions strictly after
   it, so where dates are whole days the sessions of the split day itself are in neither;
4. the vocabulary is that of the training sessions, most frequent first, then by id; other items are dropped from the
   test sessions, then test sessions that have become too short;
5. the last ``validation_days`` before the split date are set apart, and of what is left only the last ``fraction`` of
   the targets is kept: the last sessions, and of the one where it starts the first clicks.

Data whose events have types (``Raw.event_types``) depart from it in three places, as of MerRec: in step 1 a row that
says the same as an earlier one (session, time, item, event) is dropped; in step 3 the test sessions may be drawn at
random instead; and in step 4 what training has not seen is kept, with indices behind those of training.

With ``Raw.leave_one_out`` a session is all that a user did, and step 3 cuts it by ``splits.leave_one_out``: the last
event is the test target, the one before it the validation target. The vocabulary is then that of all events but the
test targets, most frequent among the training events first; test targets outside it are dropped with their session,
and counted. The published protocol keeps them, each a miss of any model.

Sessions stand in the order (split, date, first input row) and their events in the order (time, input row). That is a
total order, so the result does not depend on the number of threads; among sessions of one date it is that of the file,
as in the published code, which decides what ``fraction`` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.clean.choices import Cleaning, Raw
from jaxrec.data.clean.clicks import event_order, make_clicks, time_span
from jaxrec.data.clean.ledger import Ledger
from jaxrec.data.clean.splits import drop_unseen_targets, leave_one_out, split_at_random, split_by_time
from jaxrec.data.clean.writing import write_splits, write_vocabulary
from jaxrec.data.dataset import SPLITS, split_counts
from jaxrec.data.reading.duck import fetch_number, fetch_sums

CHUNK = 1 << 20  # events fetched from DuckDB at a time


def prepare(
    connection: Any, raw: Raw, cleaning: Cleaning, path: Path, update: Callable[..., None]
) -> dict[str, dict[str, Any]]:
    """Clean the table ``raw`` and write the arrays and the vocabulary into the directory ``path``.

    Args:
        connection: DuckDB, with the table ``raw``.
        raw: the rest of what is to know about it.
        cleaning: the preprocessing choices.
        path: an existing empty directory.
        update: called as ``update(advance, note=...)``; the advances sum to 1.

    Returns:
        The manifest's ``counts``, ``dropped``, ``times`` and ``files``, and ``scored`` where not every target is.
    """
    ledger = Ledger(raw.name, dict(raw.dropped))
    times = {} if raw.counters else {"times": time_span(connection, raw)}
    cut = make_clicks(connection, raw, cleaning, ledger)
    update(0.1, note="filter")
    _filter(connection, cleaning, ledger)
    update(0.2, note="split and match")
    relation, order = _split(connection, raw, cleaning, ledger)
    update(0.1, note="order")
    lengths = _order(connection)
    first, lengths, gap = _last_fraction(lengths, cleaning.fraction, ledger)
    update(0.2, note="sort and write")
    events = sum(int(n.sum()) for n in lengths.values())
    chunks = _encoded(connection, relation, order, first, gap, bool(raw.event_types))
    files = write_splits(path, lengths, chunks, lambda n: update(0.4 * n / events), bool(raw.event_types))
    files["items.parquet"], items = write_vocabulary(connection, path / "items.parquet")
    scored = {"validation": "last", "test": "last"} if raw.leave_one_out else {}
    counts: dict[str, Any] = {"items": items, **{name: split_counts(n, name in scored) for name, n in lengths.items()}}
    if raw.event_types:
        counts |= _typed_counts(connection, raw.event_types)
    if raw.attributes:
        update(0, note="item attributes")
        further, more = raw.attributes(path)
        files |= further
        counts |= more
    entries = cut | times | ({"scored": scored} if scored else {})
    return {"counts": counts, "dropped": ledger.dropped, **entries, "files": files}


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
    ledger.took("short sessions after rare items", sessions=kept[0] - left[0], events=popular[1] - left[1])
    ledger.require(left[1], "events")


def _split(connection: Any, raw: Raw, cleaning: Cleaning, ledger: Ledger) -> tuple[str, str]:
    """Steps 3 and 4: the tables ``sessions`` and ``vocabulary``.

    Returns:
        The table or view of the sessions' events, and what these are ordered by.
    """
    if raw.leave_one_out:
        leave_one_out(connection, event_order(raw), ledger)
        _vocabulary(connection, "parts", splits="split < 2", counted="split = 0")
        drop_unseen_targets(connection, ledger)
        return "parts", "row"
    if raw.drawn:
        split_at_random(connection, raw.drawn, cleaning.validation_days, ledger)
    else:
        split_by_time(connection, cleaning.test_days, cleaning.validation_days, ledger)
    if raw.event_types:  # also the items that only the other splits hold, with the count 0
        _vocabulary(connection, "clicks", splits="split < 3", counted="split = 0")
    else:
        _vocabulary(connection, "clicks", splits="split < 2", counted="split < 2")
        _match_test(connection, cleaning, ledger)
    return "clicks", event_order(raw)


def _vocabulary(connection: Any, relation: str, splits: str, counted: str) -> None:
    """Step 4: the table ``vocabulary`` (item, count, index).

    Args:
        relation: the table or view of the events.
        splits: SQL, of which splits the items are.
        counted: SQL, of which splits the events are counted.
    """
    connection.execute(
        "CREATE TEMP TABLE vocabulary AS "
        "SELECT *, (row_number() OVER (ORDER BY count DESC, item) - 1)::INTEGER AS index FROM ("
        f"SELECT item, count(*) FILTER ({counted}) AS count FROM {relation} SEMI JOIN supported USING (item) "
        f"JOIN (SELECT session, split FROM sessions WHERE {splits}) USING (session) GROUP BY item)"
    )


def _match_test(connection: Any, cleaning: Cleaning, ledger: Ledger) -> None:
    """Step 4: drop from the test sessions what training has not seen."""
    if not cleaning.test_days:
        return
    before = fetch_sums(connection, "sessions WHERE split = 2")
    connection.execute(
        "CREATE TEMP TABLE matched AS SELECT session, count(*) AS events FROM clicks "
        "SEMI JOIN vocabulary USING (item) SEMI JOIN (SELECT session FROM sessions WHERE split = 2) USING (session) "
        "GROUP BY session"
    )
    seen = fetch_sums(connection, "matched")
    ledger.took("test items unseen in training", events=before[1] - seen[1])
    ledger.require(seen[1], "test events")
    connection.execute(f"DELETE FROM matched WHERE events < {cleaning.min_session_length}")
    left = fetch_sums(connection, "matched")  # a session of which nothing is matched had no row
    ledger.took("short test sessions", sessions=before[0] - left[0], events=seen[1] - left[1])
    ledger.require(left[1], "test events")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sessions AS SELECT session, date, first, split, "
        "coalesce(matched.events, sessions.events) AS events FROM sessions LEFT JOIN matched USING (session) "
        "WHERE split < 2 OR matched.events IS NOT NULL"
    )


def _order(connection: Any) -> dict[str, np.ndarray]:
    """Number the sessions: the table ``ranked`` (session, rank); returns the lengths per split, int64[sessions]."""
    connection.execute(
        "CREATE TEMP TABLE ranked AS SELECT session, split, events, "
        "row_number() OVER (ORDER BY split, date, first) - 1 AS rank FROM sessions"
    )
    table = connection.execute("SELECT split, events FROM ranked ORDER BY rank").fetchnumpy()
    return {name: table["events"][table["split"] == index] for index, name in enumerate(SPLITS)}


def _last_fraction(
    lengths: dict[str, np.ndarray], fraction: Fraction, ledger: Ledger
) -> tuple[int, dict[str, np.ndarray], tuple[int, int]]:
    """Step 5: the last ``fraction`` of the training targets.

    Returns:
        The rank of the first session kept; the lengths that are left; and the positions ``[start, stop)`` in the
        stream of events from that session on that are left out, the tail of the session that was cut.
    """
    train, first, gap = lengths["train"], 0, (0, 0)
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
        ledger.took("fraction", **{unit: before[unit] - left[unit] for unit in ("sessions", "events")})
    ledger.require(split_counts(train)["targets"], "training targets")
    return first, lengths | {"train": train}, gap


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
    start, stop = gap
    position = 0
    with stream.to_arrow_reader(CHUNK) as reader:
        for batch in reader:
            low, high = (int(np.clip(edge - position, 0, len(batch))) for edge in (start, stop))
            position += len(batch)
            arrays = tuple(column.to_numpy() for column in batch.columns)
            yield tuple(np.delete(array, np.s_[low:high]) for array in arrays) if low < high else arrays


def _typed_counts(connection: Any, types: tuple[str, ...]) -> dict[str, Any]:
    """The items that training holds, and all events by their type."""
    found = dict(connection.execute(
        "SELECT event, count(*) FROM clicks SEMI JOIN vocabulary USING (item) SEMI JOIN ranked USING (session) "
        "GROUP BY event"
    ).fetchall())  # fmt: skip
    trained = fetch_number(connection, "SELECT count(*) FROM vocabulary WHERE count > 0")
    return {"trained": trained, "events": {name: found.get(index, 0) for index, name in enumerate(types)}}
