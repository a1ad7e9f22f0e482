"""The column of times in people's own logs: what it holds is found out, checked, and said.

A column holds one kind of time: dates with hours as ISO 8601 writes them, a number of s, ms, us or ns since 1970, the
digits of a calendar (20231114, 20231114222230), or what ``--time-format`` describes. The kind is that under which most
of the first 100 values lie between 1980 and the end of next year. Every other value has to lie there too, so that a
column of two kinds, or a wrong unit, is refused with its first row that does not fit.
"""

from __future__ import annotations

import datetime
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from jaxrec.data.reading.duck import NUMBERS, TEXT, integer, number, quoted, timestamp, undotted, value_text
from jaxrec.data.reading.table import Field, Table, reading
from jaxrec.errors import UserError, shown

UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # ms per unit
CALENDARS = {"yyyymmdd": "%Y%m%d", "yyyymmddhh": "%Y%m%d%H", "yyyymmddhhmm": "%Y%m%d%H%M",
             "yyyymmddhhmmss": "%Y%m%d%H%M%S"}  # fmt: skip
ORDER = "order"
FIRST_YEAR = 1980
HEAD = 100  # values that are looked at to find the unit


def plausible_range() -> tuple[int, int]:
    """ms since 1970: the begin of 1980, and the end of next year."""
    years = FIRST_YEAR, datetime.datetime.now(datetime.UTC).year + 2
    first, end = (int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000) for year in years)
    return first, end


def read_times(connection: Any, table: Table, column: str, arguments: Namespace) -> tuple[str, Field]:
    """The unit of a column of times (iso, one of UNITS or CALENDARS, order, or format), and the column ``time`` of
    ``raw``, ms since 1970 (of order the counter); ``arguments`` have the options about it.
    """
    sql, kind = table.column(column)
    place, moments = f"{table.path}: column '{column}'", kind.startswith("TIMESTAMP") or kind == "DATE"
    time_format: str | None = arguments.time_format
    unit = arguments.time_unit if time_format is None else "format"
    if moments and unit not in ("auto", "iso"):
        raise UserError(f"{place} is of type {kind}, not a number or text; leave out --time-unit and --time-format")
    if kind.endswith("]") or not (moments or kind.startswith((TEXT, "ENUM", *NUMBERS))):
        raise UserError(f"{place} is of type {kind}; expected times, numbers or text")

    def text(value: str) -> str:  # of a number 20231114.0 is 20231114
        bare = f"trim({value_text(value, kind)})"
        return undotted(bare) if kind.startswith(("FLOAT", "DOUBLE", "DECIMAL")) else bare

    def moment(unit: str, value: str) -> str:
        """SQL: ms since 1970, NULL where a value is not of the unit or not plausible."""
        digits = undotted(text(value))
        if unit == "format":
            time = f"epoch_ms(try_strptime({text(value)}, {quoted(time_format or '')}))"
        elif unit in UNITS:
            time = f"TRY_CAST(round(({number(value)}) * {UNITS[unit]!r}) AS BIGINT)"
        elif unit in CALENDARS:
            time = (f"CASE WHEN regexp_full_match({digits}, '[0-9]{{{len(unit)}}}') "
                    f"THEN epoch_ms(try_strptime({digits}, '{CALENDARS[unit]}')) END")  # fmt: skip
        else:
            time = f"epoch_ms(CAST({value} AS TIMESTAMPTZ))" if moments else timestamp(text(value))
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
    units = ("iso", *UNITS, *CALENDARS)
    fits = ", ".join(f"({moment(unit, sql)}) IS NOT NULL" for unit in units)
    query = f"SELECT {text(sql)}, {fits} FROM {table.relation} WHERE coalesce({text(sql)}, '') <> '' LIMIT {HEAD}"
    with reading(table):
        rows = connection.execute(query).fetchall()
    fitting = [unit for _, *row in rows for unit, fit in zip(units, row, strict=True) if fit]
    if rows and not fitting:
        raise UserError(f"{place}: found {shown(rows[0][0])}, no time after {FIRST_YEAR} as ISO 8601, a number since "
                        "1970 or digits of the calendar; say with --time-format how it is written, such as '%d/%m/%Y "
                        "%H:%M', or with --time-unit what the numbers are (order: they only order)")  # fmt: skip
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
