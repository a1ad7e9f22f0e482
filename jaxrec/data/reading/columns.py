"""The columns of people's own files: ids, keys, categories, numbers, labels, types of event, times and bags.

Spaces around a value do not count; what is empty then is nothing. Ids are int64 where all are whole numbers, also
written with .0, as pandas does once one is missing; a leading zero, a plus or more than 64 bits make all of them text.
Texts that other programs write for nothing (``MARKERS``) are refused as ids, and are nothing as numbers, unless
``--na`` says which texts are nothing. A label is a number, or true or false as DuckDB reads it: 1 or 0.

A column holds one kind of time: dates with hours as ISO 8601 writes them, a number of s, ms, us or ns since 1970, or
what ``--time-format`` describes. The kind is that under which most of the first 100 values lie between 1980 and the end
of next year, and every other value has to lie there too.

Bags hold several values a row: as text with a separator between, or as lists of Parquet.
"""

from __future__ import annotations

import datetime
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from jaxrec.data.given import MARKERS
from jaxrec.data.reading import duck
from jaxrec.data.reading.duck import TEXT, fetch_row, integer, listed, number, quoted, trimmed, undotted, value_text
from jaxrec.data.reading.table import Field, Table, reading
from jaxrec.errors import UserError, nearest, shown

FRACTIONAL = ("FLOAT", "DOUBLE", "DECIMAL")
KINDS = (TEXT, *duck.NUMBERS, "UUID", "DATE", "BOOLEAN", "ENUM")
LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
MOST_TYPES = 256  # of events: one byte each
NO_ID = "an id, of numbers a whole one; nan, null, NA, None and \\N are none (--na says otherwise)"
UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # ms per unit
ORDER = "order"
FIRST_YEAR = 1980
HEAD = 100  # values that are looked at to find the unit
BETWEEN = chr(31)  # between the values of a Parquet list, once it is read: ASCII's unit separator


def _kind(table: Table, column: str, kinds: tuple[str, ...] = KINDS, expected: str = "integers or text") -> str:
    _, kind = table.column(column)
    if kind.endswith("]") or not kind.startswith(kinds):
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected {expected}; convert the column")
    return kind


def id_field(table: Table, name: str, column: str, na: Sequence[str] | None, optional: bool = False) -> Field:
    """A column of ids as text, NULL where it cannot be one; ``whole_column`` cuts their spaces off.

    ``na`` is that of ``--na``, None where it is not given; ``optional``: nothing is allowed, and becomes ''.
    """
    kind = _kind(table, column)

    def parse(sql: str) -> str:
        text = usable = nothing_as_null(value_text(sql, kind), na)
        if kind.startswith(FRACTIONAL):
            usable = f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) AND {sql} = trunc({sql}) THEN {text} END"
        elif na is None:
            usable = f"CASE WHEN lower({text}) NOT IN ({listed(MARKERS)}) THEN {text} END"
        return f"CASE WHEN {text} IS NULL THEN '' ELSE {usable} END" if optional else usable

    return Field(name, column, parse, NO_ID)


def nothing_as_null(text: str, na: Sequence[str] | None) -> str:
    """SQL: the text as it stands, or NULL where it is empty or, without the spaces around it, one of ``na``."""
    return f"CASE WHEN {trimmed(text)} NOT IN ({_empty(na)}) THEN {text} END"


def _empty(na: Sequence[str] | None) -> str:
    return listed(("", *(one.strip() for one in na or ())))


def whole_column(connection: Any, name: str, called: str, text_ids: bool = False) -> list[str]:
    """``read_ids``; notes for the user, who knows the column as ``called``, about what was changed."""
    return id_notes(called, *read_ids(connection, name, text_ids))


def read_ids(connection: Any, name: str, text_ids: bool = False) -> tuple[int, int]:
    """Cut the spaces of a text column of ``raw`` off, and make it int64 where that loses nothing, unless they are to
    stay ``text_ids``; '' becomes NULL. Returns of how many values spaces were cut off, and how many were .0 as well.
    """
    text = f"nullif({trimmed(name)}, '')"
    digits = undotted(text)
    spaced, empty, dotted, whole = fetch_row(
        connection,
        f"SELECT count(*) FILTER ({name} <> {trimmed(name)}), count(*) FILTER ({name} = ''), "
        f"count(*) FILTER ({digits} <> {text}), "
        f"coalesce(bool_and(({integer(digits)}) IS NOT NULL OR {text} IS NULL), true) FROM raw",
    )
    whole = whole and not text_ids
    # TRY_CAST, as the rows that were left out are still looked at.
    kind, value = ("BIGINT", f"TRY_CAST({digits} AS BIGINT)") if whole else (TEXT, text)
    if whole or spaced or empty:
        connection.execute(f"ALTER TABLE raw ALTER {name} TYPE {kind} USING {value}")
    return spaced, dotted if whole else 0


def id_notes(called: str, spaced: int, dotted: int) -> list[str]:
    """Notes about as many values as ``read_ids`` returns."""
    notes = [f"{called}: spaces around {spaced:,} values are cut off"] if spaced else []
    dots = f"{called}: whole numbers written with .0 in {dotted:,} rows are read as integers"
    return [*notes, dots] if dotted else notes


def session_field(table: Table, columns: Sequence[str], na: Sequence[str] | None) -> Field:
    """The column ``session`` of ``raw``, a number that is equal where all ``columns`` are the same ids."""
    parts = []
    for column in columns:
        text = undotted(trimmed(id_field(table, column, column, na).parse(table.column(column)[0])))
        parts.append(f"length({text}) || ':' || {text}")  # (1, 23) is not (12, 3)
    expected = f"in each of {', '.join(columns)} {NO_ID}"
    return Field("session", columns[0], lambda _: f"md5_number({' || '.join(parts)})", expected)


def number_field(table: Table, name: str, column: str, na: Sequence[str] | None, label: bool = False) -> Field:
    """A column of numbers, NaN where there is nothing, NULL where there is something else; ``na`` as of ``--na``.

    ``label``: of labels, which may be words such as true and no, and NULL where there is nothing.
    """
    kind = _kind(table, column, (TEXT, "BOOLEAN", *duck.NUMBERS), "numbers")
    missing, expected = "CAST('nan' AS DOUBLE)", "nothing (as NA, NaN, NULL, None and \\N; --na names others)"
    if label:
        missing, expected = "NULL", "one of true, false, t, f, yes, no, y, n"

    def parse(sql: str) -> str:
        text = trimmed(f"CAST({sql} AS {TEXT})")
        value = number(trimmed(sql)) if kind == TEXT else f"TRY_CAST({sql} AS DOUBLE)"
        nothing = (f"coalesce(lower({text}), '') IN ({listed(('', *MARKERS))}) OR {text} IN ({_empty(na)}) "
                   f"OR coalesce(isnan({value}), false)")  # fmt: skip
        word = f"CAST(TRY_CAST({text} AS BOOLEAN) AS DOUBLE)" if label else "NULL"
        return f"CASE WHEN {nothing} THEN {missing} WHEN abs({value}) <= {LARGEST} THEN {value} ELSE {word} END"

    return Field(name, column, parse, f"a number of at most {LARGEST:g}, or {expected}")


def type_field(table: Table, column: str, na: Sequence[str] | None) -> Field:
    """The column ``event`` of ``raw``, types of event as text, NULL where there is none; see ``choose_types``."""
    parse = id_field(table, "event", column, na).parse
    return Field("event", column, lambda sql: trimmed(parse(sql)), "the type of an event")


def choose_types(connection: Any, table: Table, column: str, wanted: Sequence[str] | None) -> tuple[list[str], int]:
    """The names of the types of event, and how many events are of no type or of another and were left out; the column
    ``event`` of ``raw``, the file's ``column``, becomes an index into the names.

    ``wanted`` are those of ``--events``; None: all, the most frequent first.
    """
    types_of_all = "SELECT event, count(*) FROM raw WHERE event IS NOT NULL GROUP BY event"
    counts: dict[str, int] = dict(connection.execute(types_of_all).fetchall())
    often = sorted(counts, key=lambda name: (-counts[name], name))
    types = often if wanted is None else list(wanted)
    for name in types:
        if name not in counts or types.count(name) > 1:
            raise UserError(f"--events {shown(name)}: twice, or none of column '{column}'{nearest(name, often)}; those "
                            f"are {', '.join(often[:12])}; give each once")  # fmt: skip
    if len(types) > MOST_TYPES:
        raise UserError(f"{table.called}: column '{column}': {len(types):,} types of events, at most {MOST_TYPES} are "
                        "allowed; choose with --events, or name another column")  # fmt: skip
    others = duck.leave_out(connection, f"coalesce(event NOT IN ({listed(types)}), true)")
    pairs = " ".join(f"WHEN {quoted(name)} THEN {number}" for number, name in enumerate(types))
    connection.execute(f"ALTER TABLE raw ALTER event TYPE UTINYINT USING CASE event {pairs} END")
    return types, others


def plausible_range() -> tuple[int, int]:
    """ms since 1970: the begin of 1980, and the end of next year."""
    years = FIRST_YEAR, datetime.datetime.now(datetime.UTC).year + 2
    first, end = (int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000) for year in years)
    return first, end


def read_times(connection: Any, table: Table, column: str, arguments: Namespace) -> tuple[str, Field]:
    """The unit of a column of times (iso, one of UNITS, order, or format), and the column ``time`` of
    ``raw``, ms since 1970 (of order the counter); ``arguments`` have the options about it.
    """
    kind = _kind(table, column, ("TIMESTAMP", "DATE", TEXT, "ENUM", *duck.NUMBERS), "times, numbers or text")
    (sql, _), moments = table.column(column), kind.startswith(("TIMESTAMP", "DATE"))
    place = f"{table.path}: column '{column}'"
    time_format: str | None = arguments.time_format
    unit = arguments.time_unit if time_format is None else "format"
    if moments and unit not in ("auto", "iso"):
        raise UserError(f"{place} is of type {kind}, not a number or text; leave out --time-unit and --time-format")

    def text(value: str) -> str:  # of a number 20231114.0 is 20231114
        bare = f"trim({value_text(value, kind)})"
        return undotted(bare) if kind.startswith(FRACTIONAL) else bare

    def moment(unit: str, value: str) -> str:
        """SQL: ms since 1970, NULL where a value is not of the unit or not plausible."""
        if unit == "format":
            time = f"epoch_ms(try_strptime({text(value)}, {quoted(time_format or '')}))"
        elif unit in UNITS:
            time = f"TRY_CAST(round(({number(value)}) * {UNITS[unit]!r}) AS BIGINT)"
        else:
            time = f"epoch_ms(CAST({value} AS TIMESTAMPTZ))" if moments else duck.timestamp(text(value))
        first, end = plausible_range()
        return f"CASE WHEN {time} >= {first} AND {time} < {end} THEN {time} END"

    if unit == "auto":
        unit = "iso" if moments else _find_unit(connection, table, place, sql, text, moment)
    if unit == ORDER and any(vars(arguments).get(name) for name in ("test_days", "validation_days")):
        raise UserError("--time-unit order: counters have no days to split by; give --test-days 0, or where sessions "
                        "are users --split leave_one_out")  # fmt: skip
    if unit == ORDER:
        counter = "a whole number, as --time-unit order has it"
        return unit, Field("time", column, lambda value: integer(undotted(text(value))), counter)
    what = {"format": f"written {time_format}", "iso": "like 2014-04-07T08:51:09Z"}.get(unit, f"in {unit}")
    last = datetime.datetime.now(datetime.UTC).year + 1
    expected = (f"a time {what} between {FIRST_YEAR} and {last}, as the whole column has to be; --time-unit and "
                "--time-format say what else it is")  # fmt: skip
    return unit, Field("time", column, lambda value: moment(unit, value), expected)


def _find_unit(
    connection: Any, table: Table, place: str, sql: str, text: Callable[[str], str], moment: Callable[[str, str], str]
) -> str:
    """The unit under which most of the first values are plausible."""
    units = ("iso", *UNITS)
    fits = ", ".join(f"({moment(unit, sql)}) IS NOT NULL" for unit in units)
    query = f"SELECT {text(sql)}, {fits} FROM {table.relation} WHERE coalesce({text(sql)}, '') <> '' LIMIT {HEAD}"
    with reading(table):
        rows = connection.execute(query).fetchall()
    fitting = [unit for _, *row in rows for unit, fit in zip(units, row, strict=True) if fit]
    if rows and not fitting:
        raise UserError(f"{place}: found {shown(rows[0][0])}, no time after {FIRST_YEAR} as ISO 8601 or a number since "
                        "1970; say with --time-format how it is written, such as '%d/%m/%Y %H:%M' or %Y%m%d, or with "
                        "--time-unit what the numbers are (order: they only order)")  # fmt: skip
    # Of as many the first; without values the first row is refused for having none.
    return max(dict.fromkeys(fitting), key=fitting.count, default="iso")


def span(first: int, last: int) -> dict[str, str]:
    """The manifest's ``times``: ms since 1970 as ``2023-11-14T22:22:30Z``, with ms where there are any."""
    ends = {"first": first, "last": last}
    moments = {end: datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=ms) for end, ms in ends.items()}
    return {end: moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds") + "Z"
            for end, moment in moments.items()}  # fmt: skip


def times_line(manifest: dict[str, Any]) -> list[str]:
    """``times: 2023-11-01 08:00:00 to 2023-11-14 22:22:30 UTC`` of a manifest; nothing where it names none."""
    times = manifest.get("times", {})
    ends = [times[end].rstrip("Z").replace("T", " ") for end in ("first", "last") if end in times]
    return [f"times: {' to '.join(ends)} UTC"] if ends else []


def read_bags(texts: Sequence[str | None], separator: str, na: Sequence[str] | None) -> list[list[str | None]]:
    """The values of each distinct text of a column, ``separator`` between them; one None, the unknown value, where
    there are none."""
    nothing = {"", *(one.strip() for one in na or ())}
    split = ([one.strip() for one in (text or "").split(separator)] for text in texts)
    return [[one for one in values if one not in nothing] or [None] for values in split]


def bracketed(texts: Sequence[str | None], na: Sequence[str] | None) -> tuple[int, int]:
    """Of the distinct texts of a column of bags how many are something, and how many of these a list as Python writes
    it, such as ['a', 'b']: where all are, none of them is a bag."""
    nothing = {"", *(one.strip() for one in na or ())}
    filled = [text.strip() for text in texts if text and text.strip() not in nothing]
    return len(filled), sum(text[0] + text[-1] == "[]" for text in filled)
