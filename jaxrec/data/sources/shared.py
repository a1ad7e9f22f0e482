"""What sources share: numbers and parts as options, and the options of any file of rows: delimiter and unit of time."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from jaxrec.data.reading import TEXT, Table, reading, timestamp
from jaxrec.errors import UserError

UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # ms per unit
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
NUMBERS = (*INTEGERS, "UBIGINT", "HUGEINT", "FLOAT", "DOUBLE")


def ranged(kind: type, least: float, most: float) -> Callable[[str], float]:
    """The type of an option: a number of a kind, from ``least`` to ``most``."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            raise ArgumentTypeError(f"'{text}': expected {what} from {least} to {most}")
        return value

    return number


def add_number(
    parser: ArgumentParser, option: str, kind: type, least: float, most: float, default: float, help: str
) -> None:
    """Add ``--option N``, a number of a kind, from ``least`` to ``most``."""
    help = f"{help} (default {default})"
    parser.add_argument(f"--{option}", type=ranged(kind, least, most), default=default, metavar="N", help=help)


def fraction(text: str) -> Fraction:
    """The type of an option: a part, more than 0 and at most 1."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"'{text}': expected more than 0 and at most 1, such as 1/64 or 0.25")
    return value


def add_file_arguments(parser: ArgumentParser) -> None:
    """Add ``--time-unit`` and ``--delimiter``."""
    parser.add_argument(
        "--time-unit",
        choices=("auto", "iso", *UNITS),
        default="auto",
        help="iso: like 2014-04-07T08:51:09Z, UTC where no zone is given; others: a number since 1970 "
        "(default: what the first row looks like)",
    )
    parser.add_argument(
        "--delimiter", type=_delimiter, default=",", metavar="C", help="between CSV fields; \\t is a tab (default ,)"
    )


def _delimiter(text: str) -> str:
    character = "\t" if text == "\\t" else text
    if len(character) != 1 or character in '"\r\n' or not character.isascii():
        raise ArgumentTypeError(f"'{text}': expected one character, such as , or ; or \\t")
    return character


def time_parser(connection: Any, table: Table, column: str, unit: str) -> tuple[str, Callable[[str], str], str]:
    """The unit of the time column, how to read it as ms since 1970, and what a value must be."""
    sql, kind = table.column(column)
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        if unit not in ("auto", "iso"):
            raise UserError(f"{table.path}: column '{column}' is of type {kind}, not a number; leave out --time-unit")
        return "iso", lambda sql: f"epoch_ms(CAST({sql} AS TIMESTAMPTZ))", "a time"
    if kind != TEXT and kind not in NUMBERS:
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected times, numbers or text")
    if unit == "auto":
        unit = _guess_unit(connection, table, sql)
    if unit == "iso":
        return unit, lambda sql: timestamp(f"CAST({sql} AS VARCHAR)"), "a time like 2014-04-07T08:51:09Z"
    return unit, lambda sql: _number(sql, UNITS[unit]), f"a number of {unit} since 1970"


def _guess_unit(connection: Any, table: Table, sql: str) -> str:
    """By the first row: a date, or a number whose magnitude gives the unit (1e11 s is the year 5138, 1e11 ms 1973)."""
    with reading(table.path):
        row = connection.execute(f"SELECT abs(TRY_CAST({sql} AS DOUBLE)) FROM {table.relation} LIMIT 1").fetchone()
    if row is None or row[0] is None:
        return "iso"
    return next((unit for unit, most in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if row[0] < most), "ns")


def _number(sql: str, factor: float) -> str:
    # Up to the year 9999: what lies beyond is not a time but a wrong unit or column.
    value = f"TRY_CAST({sql} AS DOUBLE) * {factor!r}"
    # TRY_CAST, as DuckDB may evaluate the branch for rows that fail the condition.
    return f"CASE WHEN abs({value}) < 253402300800000 THEN TRY_CAST(round({value}) AS BIGINT) END"
