"""The column of times in people's own logs: what it holds is found out, checked, and said.

A column holds one kind of time: dates with hours as ISO 8601 writes them, a number of s, ms, us or ns since 1970, the
digits of a calendar (20231114, 20231114222230), or what ``--time-format`` describes. The kind is that under which most
of the first 100 values lie between 1980 and the end of next year. Every other value has to lie there too, so that a
column of two kinds, or a wrong unit, is refused with its first row that does not fit.
"""

from __future__ import annotations

import datetime
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NamedTuple

import duckdb

from jaxrec.data.reading.duck import NUMBERS, TEXT, number, quoted, timestamp, undotted
from jaxrec.data.reading.table import Table, reading
from jaxrec.errors import UserError, shown

UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # ms per unit
CALENDARS = {"yyyymmdd": 8, "yyyymmddhh": 10, "yyyymmddhhmm": 12, "yyyymmddhhmmss": 14}  # digits
ORDER = "order"
FIRST_YEAR = 1980
HEAD = 100  # values that are looked at to find the unit
YEAR_10000 = 253402300800000  # ms: what lies beyond is not a time but a wrong unit or column
FAR = 2**53  # of a counter: beyond it a double is no longer exact
Parse = Callable[[str], str]  # from SQL to SQL


class Times(NamedTuple):
    """How a column of times is read."""

    unit: str  # iso, one of UNITS or CALENDARS, order, or format
    parse: Parse  # from SQL to BIGINT ms since 1970 (of order the counter), NULL where that cannot be
    expected: str  # what a value must be, for the error message


def add_time_arguments(parser: ArgumentParser) -> None:
    """Add ``--time-unit`` and ``--time-format``."""
    parser.add_argument(
        "--time-unit", choices=("auto", "iso", *UNITS, *CALENDARS, ORDER), default="auto",
        help="iso: like 2014-04-07T08:51:09Z, UTC where no zone is given; s, ms, us, ns: a number since 1970; "
        "yyyymmdd and longer: digits of the calendar, UTC; order: whole numbers that only order and are no times "
        "(default: found out; times before 1980 or after next year are refused)",
    )  # fmt: skip
    parser.add_argument("--time-format", metavar="FORMAT", help="how other times are written, as strptime has it: "
                        "'%%d/%%m/%%Y %%H:%%M' reads 14/11/2023 22:22")  # fmt: skip


def plausible_range() -> tuple[int, int]:
    """ms since 1970: the begin of 1980, and the end of next year."""
    years = FIRST_YEAR, datetime.datetime.now(datetime.UTC).year + 2
    first, end = (int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000) for year in years)
    return first, end


def read_times(connection: Any, table: Table, column: str, unit: str, time_format: str | None) -> Times:
    """Find out how to read a column of times; ``unit`` and ``time_format`` are those of the options."""
    sql, kind = table.column(column)
    place = f"{table.path}: column '{column}'"
    if time_format is not None and unit != "auto":
        raise UserError("--time-format: says what --time-unit would; leave one of the two out")
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        if unit not in ("auto", "iso") or time_format is not None:
            raise UserError(f"{place} is of type {kind}, not a number or text; leave out --time-unit and --time-format")
        return _times("iso", lambda value: f"epoch_ms(CAST({value} AS TIMESTAMPTZ))", "a time")
    if kind.endswith("]") or not kind.startswith((TEXT, "ENUM", *NUMBERS)):
        raise UserError(f"{place} is of type {kind}; expected times, numbers or text")

    def text(value: str) -> str:  # of a number 20231114.0 is 20231114
        bare = f"trim(CAST({value} AS VARCHAR))"
        return undotted(bare) if kind.startswith(("FLOAT", "DOUBLE", "DECIMAL")) else bare

    if time_format is not None:
        try:
            connection.execute(f"SELECT try_strptime('', {quoted(time_format)})")
        except duckdb.Error:
            raise UserError(f"--time-format {shown(time_format)}: cannot be read; give one such as '%d/%m/%Y %H:%M'"
                            ) from None  # fmt: skip
        return _times("format", lambda value: f"epoch_ms(try_strptime({text(value)}, {quoted(time_format)}))",
                      f"a time written {time_format}")  # fmt: skip
    if unit == "auto":
        unit = _find_unit(connection, table, place, sql, text)
    if unit == ORDER:
        return Times(unit, _counter, "a whole number, as --time-unit order has it")
    what = f"digits {unit}" if unit in CALENDARS else f"a number of {unit} since 1970"
    return _times(unit, _reader(unit, text), "a time like 2014-04-07T08:51:09Z" if unit == "iso" else what)


def _find_unit(connection: Any, table: Table, place: str, sql: str, text: Parse) -> str:
    """The unit under which most of the first values are plausible."""
    units = ("iso", *UNITS, *CALENDARS)
    readings = ", ".join(f"({_plausible(_reader(unit, text))(sql)}) IS NOT NULL" for unit in units)
    query = f"SELECT {text(sql)}, {readings} FROM {table.relation} WHERE coalesce({text(sql)}, '') <> '' LIMIT {HEAD}"
    with reading(table):
        rows = connection.execute(query).fetchall()
    fitting = [unit for _, *fits in rows for unit, fit in zip(units, fits, strict=True) if fit]
    if rows and not fitting:
        raise UserError(f"{place}: found {shown(rows[0][0])}, no time after {FIRST_YEAR} as ISO 8601, a number since "
                        "1970 or digits of the calendar; say with --time-format how it is written, such as '%d/%m/%Y "
                        "%H:%M', or with --time-unit what the numbers are (order: they only order)")  # fmt: skip
    # Of as many the first; without values the first row is refused for having none.
    return max(dict.fromkeys(fitting), key=fitting.count, default="iso")


def _times(unit: str, parse: Parse, what: str) -> Times:
    last = datetime.datetime.now(datetime.UTC).year + 1
    return Times(unit, _plausible(parse), f"{what} between {FIRST_YEAR} and {last}, as the whole column has to be; "
                                          "--time-unit and --time-format say what else it is")  # fmt: skip


def _plausible(parse: Parse) -> Parse:
    first, end = plausible_range()
    return lambda sql: f"CASE WHEN {parse(sql)} >= {first} AND {parse(sql)} < {end} THEN {parse(sql)} END"


def _reader(unit: str, text: Parse) -> Parse:
    """From a column's SQL to ms since 1970, NULL where it is not of the unit."""

    def since_1970(sql: str) -> str:
        value = f"({number(sql)}) * {UNITS[unit]!r}"
        # TRY_CAST, as DuckDB may evaluate the branch for rows that fail the condition.
        return f"CASE WHEN abs({value}) < {YEAR_10000} THEN TRY_CAST(round({value}) AS BIGINT) END"

    def calendar(sql: str) -> str:
        digits, pattern = undotted(f"trim(CAST({sql} AS VARCHAR))"), "%Y%m%d%H%M%S"[: CALENDARS[unit] - 2]
        return (f"CASE WHEN regexp_full_match({digits}, '[0-9]{{{CALENDARS[unit]}}}') "
                f"THEN epoch_ms(try_strptime({digits}, '{pattern}')) END")  # fmt: skip

    return since_1970 if unit in UNITS else calendar if unit in CALENDARS else lambda sql: timestamp(text(sql))


def _counter(sql: str) -> str:
    value = f"({number(sql)})"
    return f"CASE WHEN {value} = trunc({value}) AND abs({value}) < {FAR} THEN TRY_CAST({sql} AS BIGINT) END"


def span(first: int, last: int) -> dict[str, str]:
    """The manifest's ``times``, UTC, of ms since 1970."""
    return {"first": iso(first), "last": iso(last)}


def iso(time: int) -> str:
    """``2023-11-14T22:22:30Z`` of ms since 1970, with ms where there are any."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=time)
    return moment.isoformat(timespec="milliseconds" if time % 1000 else "seconds") + "Z"


def times_line(manifest: dict[str, Any]) -> list[str]:
    """``times: 2023-11-01 08:00:00 to 2023-11-14 22:22:30 UTC`` of a manifest; nothing where it names none."""
    times = manifest.get("times", {})
    ends = [times[end].rstrip("Z").replace("T", " ") for end in ("first", "last") if end in times]
    return [f"times: {' to '.join(ends)} UTC"] if ends else []
