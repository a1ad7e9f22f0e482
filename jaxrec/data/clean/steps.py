"""The steps of the cleaning pipeline on one DuckDB connection, with all sessions or with a shard of them.

A step leaves tables for the next ones and returns numbers, as JSON has them, that are added up over shards
(``pipeline.added``). What has to be decided for all sessions at once, such as the vocabulary, is decided between steps
(``pipeline.prepare``). The column ``row`` is the number of the input row, also in a shard.
"""

from __future__ import annotations

from typing import Any

from jaxrec.data.clean.protocol import DAY, SHORTEST, Cleaning, Raw, duration
from jaxrec.data.reading.duck import fetch_row

ORDER = "time, row"  # of the events of a session
Numbers = dict[str, Any]


def sums(connection: Any, table: str) -> tuple[int, int]:
    """Rows of a table, and the sum of its column ``events``."""
    rows, events = fetch_row(connection, f"SELECT count(*), coalesce(sum(events), 0) FROM {table}")
    return rows, int(events)


def drop(connection: Any, table: str, condition: str, unit: str = "sessions") -> dict[str, int]:
    """Delete what an SQL condition names from a table with a row a ``unit``; returns how much went."""
    before = sums(connection, table)
    connection.execute(f"DELETE FROM {table} WHERE {condition}")
    left = sums(connection, table)
    return {unit: before[0] - left[0], "events": before[1] - left[1]}


def make_events(connection: Any, raw: Raw) -> None:
    """The view ``events`` of the table ``raw``, with the columns of ``clicks``."""
    connection.execute(f"CREATE VIEW events AS SELECT {', '.join(_columns(raw))}, rowid AS row FROM raw")


def _columns(raw: Raw) -> list[str]:
    typed = ["event"] * bool(raw.event_types)
    return ["session", "item", f"{raw.time} AS time", f"{raw.date} AS date", *raw.further, *typed]


def make_clicks(connection: Any, raw: Raw, cleaning: Cleaning) -> Numbers:
    """The view ``clicks`` (session, item, time, date, row; of typed events ``event``) of what is left of ``events``."""
    source, numbers, dropped = "events", Numbers(), Numbers()
    window = f"PARTITION BY session ORDER BY {ORDER}"

    def make(table: str, query: str, filter: str | None = None) -> str:
        connection.execute(f"CREATE TABLE {table} AS {query}")
        if filter:
            fewer = f"SELECT (SELECT count(*) FROM {source}) - (SELECT count(*) FROM {table})"
            dropped[filter] = {"events": fetch_row(connection, fewer)[0]}
        return table

    if raw.event_types or cleaning.drop_duplicates:
        same = ", ".join(column.split()[-1] for column in _columns(raw))
        query = f"SELECT {same}, min(row) AS row FROM {source} GROUP BY {same}"
        source = make("distinct_clicks", query, "duplicate events")
    if cleaning.session_gap is not None:  # what becomes the session is the input row of its first event
        gap = duration(cleaning.session_gap)
        start = f"CASE WHEN coalesce(time - lag(time) OVER ({window}) > {gap}, true) THEN row END"
        cut = make("cut_clicks", "SELECT * EXCLUDE start REPLACE (last_value(start IGNORE NULLS) OVER "
                   f"({window}) AS session) FROM (SELECT *, {start} AS start FROM {source})")  # fmt: skip
        sessions = [fetch_row(connection, f"SELECT count(DISTINCT session) FROM {one}")[0] for one in (source, cut)]
        numbers["cut"], source = {"sessions": sessions[0], "pieces": sessions[1]}, cut
    if cleaning.drop_repeats:
        source = make("moving_clicks", f"SELECT * EXCLUDE before FROM (SELECT *, lag(item) OVER ({window}) AS before "
                      f"FROM {source}) WHERE before IS DISTINCT FROM item", "repeats")  # fmt: skip
    connection.execute(f"CREATE VIEW clicks AS SELECT * FROM {source}")
    return {**numbers, "dropped": dropped}


def count_items(connection: Any, raw: Raw, cleaning: Cleaning) -> Numbers:
    """``make_clicks``, and the tables ``long`` (session, date in ms, first row, events) of the sessions that are long
    enough and ``item_counts`` (item, events) of these."""
    first, last = fetch_row(connection, "SELECT min(time), max(time) FROM events")
    numbers = make_clicks(connection, raw, cleaning)
    connection.execute(
        "CREATE TEMP TABLE long AS SELECT session, max(date) AS date, min(row) AS first, count(*) AS events "
        "FROM clicks GROUP BY session"
    )
    numbers["dropped"]["short sessions"] = drop(connection, "long", f"events < {cleaning.min_session_length}")
    connection.execute(
        "CREATE TEMP TABLE item_counts AS SELECT item, count(*) AS events FROM clicks SEMI JOIN long USING (session) "
        "GROUP BY item"
    )
    return {**numbers, "least": {"time": first}, "most": {"time": last}, "sessions": sums(connection, "long")[0]}


def date_sessions(connection: Any, cleaning: Cleaning) -> Numbers:
    """The table ``dated`` (session, date in ms, first row, events) of the sessions that are long enough also of the
    items in the table ``supported``."""
    connection.execute(
        "CREATE TEMP TABLE dated AS SELECT session, date, first, popular.events FROM long JOIN ("
        "SELECT session, count(*) AS events FROM clicks SEMI JOIN long USING (session) SEMI JOIN supported USING (item)"
        f" GROUP BY session HAVING count(*) >= {cleaning.min_session_length}) AS popular USING (session)"
    )
    sessions, events = sums(connection, "dated")
    (last,) = fetch_row(connection, "SELECT max(date) FROM dated")
    return {"sessions": sessions, "events": events, "most": {"date": last}}


def split_sessions(connection: Any, raw: Raw, cleaning: Cleaning, last: int) -> Numbers:
    """The tables ``sessions`` (as ``dated``, and split as an index into SPLITS) and ``counted`` (item, count), the
    events of the vocabulary's items; ``last`` is the latest date of all sessions."""
    dropped: Numbers = {}
    if raw.leave_one_out:
        _leave_one_out(connection)
    else:
        dropped["split date"] = _by_date(connection, cleaning, last)
    # Of events with types also the items that only the other splits hold, with the count 0.
    splits = 3 if raw.event_types or raw.whole_catalogue else 2
    counted = 1 if raw.event_types or raw.leave_one_out else 2
    connection.execute(
        f"CREATE TEMP TABLE counted AS SELECT item, count(*) FILTER (split < {counted}) AS count "
        f"FROM {session_events(raw)[0]} SEMI JOIN supported USING (item) "
        f"JOIN (SELECT session, split FROM sessions WHERE split < {splits}) USING (session) GROUP BY item"
    )
    sizes = {f"split {split}": sums(connection, f"sessions WHERE split = {split}")[0] for split in range(3)}
    return {"dropped": dropped, **sizes}


def session_events(raw: Raw) -> tuple[str, str]:
    """The table or view of the sessions' events, and what these are ordered by."""
    return ("parts", "row") if raw.leave_one_out else ("clicks", ORDER)


def _by_date(connection: Any, cleaning: Cleaning, last: int) -> Numbers:
    """The last ``test_days`` are the test split, the ``validation_days`` before them the validation split."""
    # Without test days the split date lies after every session.
    test = last - cleaning.test_days * DAY if cleaning.test_days else last + 1
    validation = test - cleaning.validation_days * DAY
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT session, date, first, events, CASE "
        f"WHEN date < {validation} THEN 0 WHEN date < {test} THEN 1 WHEN date > {test} THEN 2 END AS split FROM dated"
    )
    return drop(connection, "sessions", "split IS NULL")


def _leave_one_out(connection: Any) -> None:
    """The protocol of SASRec (Kang and McAuley 2018, section IV) and BERT4Rec: the last event is for the test.

    The test split holds whole sessions, the validation split all but their last event, training all but the last two;
    sessions of fewer than three events are for training. Makes the view ``parts`` (session, item, time, row) of the
    sessions of all splits, whose numbers are new; its rows are places in the session, from 1.
    """
    connection.execute(
        "CREATE TEMP TABLE placed AS SELECT session AS owner, item, time, date, "
        f"row_number() OVER (PARTITION BY session ORDER BY {ORDER}) AS place "
        "FROM clicks SEMI JOIN supported USING (item) SEMI JOIN dated USING (session)"
    )
    connection.execute(
        "CREATE TEMP TABLE sessions AS SELECT number * 3 + split AS session, owner, date, first, events, split FROM ("
        "SELECT session AS owner, first, split, row_number() OVER (ORDER BY first) AS number, "
        f"CASE WHEN events < {SHORTEST} THEN events ELSE events - 2 + split END AS events "
        f"FROM dated CROSS JOIN (VALUES (0), (1), (2)) AS splits(split) WHERE split = 0 OR events >= {SHORTEST}"
        ") JOIN (SELECT owner, place AS events, date FROM placed) USING (owner, events)"
    )
    make_parts(connection)


def make_parts(connection: Any) -> None:
    """The view ``parts`` of the tables ``placed`` and ``sessions``."""
    connection.execute(
        "CREATE TEMP VIEW parts AS SELECT session, item, time, place AS row FROM placed "
        "JOIN (SELECT session, owner, events FROM sessions) AS cut ON placed.owner = cut.owner AND place <= cut.events"
    )


def rank_sessions(connection: Any, raw: Raw, cleaning: Cleaning) -> Numbers:
    """The table ``ranked`` (session, split, date, first, events, rank), in the order of the splits, of the sessions
    without what the vocabulary does not allow in a test."""
    dropped: Numbers = {}
    if raw.leave_one_out and not raw.whole_catalogue:
        unseen = (
            "SELECT placed.owner FROM placed JOIN (SELECT owner, events FROM sessions WHERE split = 2) AS tests "
            "ON placed.owner = tests.owner AND place = tests.events ANTI JOIN vocabulary USING (item)"
        )
        gone = drop(connection, "sessions", f"split = 2 AND owner IN ({unseen})", "targets")
        dropped["test targets unseen before"] = {"targets": gone["targets"]}
    elif not raw.event_types and not raw.leave_one_out and cleaning.test_days:
        dropped |= _match_test(connection, cleaning)
    connection.execute(
        "CREATE TEMP TABLE ranked AS SELECT session, split, date, first, events, "
        "row_number() OVER (ORDER BY split, date, first) - 1 AS rank FROM sessions"
    )
    return {
        "dropped": dropped,
        **dict(zip(("tests", "test events"), sums(connection, "sessions WHERE split = 2"), strict=True)),
    }


def _match_test(connection: Any, cleaning: Cleaning) -> Numbers:
    """Drop from the test sessions what training has not seen."""
    before = sums(connection, "sessions WHERE split = 2")
    connection.execute(
        "CREATE TEMP TABLE matched AS SELECT session, count(*) AS events FROM clicks "
        "SEMI JOIN vocabulary USING (item) SEMI JOIN (SELECT session FROM sessions WHERE split = 2) USING (session) "
        "GROUP BY session"
    )
    seen = sums(connection, "matched")
    short = drop(connection, "matched", f"events < {cleaning.min_session_length}")
    # a session of which nothing is matched has no row
    short["sessions"] += before[0] - seen[0]
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sessions AS SELECT session, date, first, split, "
        "coalesce(matched.events, sessions.events) AS events FROM sessions LEFT JOIN matched USING (session) "
        "WHERE split < 2 OR matched.events IS NOT NULL"
    )
    return {"test items unseen in training": {"events": before[1] - seen[1]}, "short test sessions": short}


def split_events(raw: Raw, split: int, first: int) -> str:
    """SQL of the events of a split in their order: index, time and, of typed events, event; of the sessions of
    ``ranked`` from the rank ``first`` on."""
    relation, order = session_events(raw)
    return (
        f"SELECT {'index, time, event' if raw.event_types else 'index, time'} FROM {relation} JOIN (SELECT session, "
        f"rank FROM ranked WHERE split = {split} AND rank >= {first}) USING (session) JOIN vocabulary USING (item) "
        f"ORDER BY rank, {order}"
    )


def count_types(connection: Any, raw: Raw) -> Numbers:
    """How many events there are of each type."""
    found = dict(connection.execute("SELECT event, count(*) FROM clicks SEMI JOIN vocabulary USING (item) "
                                    "SEMI JOIN ranked USING (session) GROUP BY event").fetchall())  # fmt: skip
    return {name: found.get(index, 0) for index, name in enumerate(raw.event_types)}


def latest_rows(events: str) -> str:
    """SQL of the last row of those of the latest time of each item: item, time, row; of a relation with these."""
    return (f"SELECT item, time, max(row) AS row FROM {events} JOIN (SELECT item, max(time) AS time FROM {events} "
            "GROUP BY item) USING (item, time) GROUP BY item, time")  # fmt: skip


def latest_items(connection: Any) -> Numbers:
    """The table ``latest_rows`` of the events, also of those that cleaning drops."""
    connection.execute(f"CREATE TEMP TABLE latest_rows AS {latest_rows('events')}")
    return {}


def make_latest(connection: Any, events: str) -> None:
    """The table ``latest`` (index, item, row) of the vocabulary, of all events or of the ``latest_rows`` of shards."""
    connection.execute(f"CREATE TEMP TABLE latest AS SELECT index, item, row FROM ({latest_rows(events)}) "
                       "JOIN vocabulary USING (item)")  # fmt: skip
