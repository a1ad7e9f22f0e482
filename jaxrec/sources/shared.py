"""What sources share: draws, and the options of numbers and of files."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np

from jaxrec.cli.command import ranged
from jaxrec.data.clean.protocol import Raw
from jaxrec.data.reading.columns import ORDER, UNITS
from jaxrec.data.reading.table import NO_QUOTE, Field, Table, find_files, load, open_tables

Numbers = dict[str, tuple[type, float, float, float, str]]  # options: the kind, from, to, the default, and the help


def add_numbers(parser: ArgumentParser, numbers: Numbers) -> None:
    """Add an option for each of ``numbers``."""
    for name, (kind, least, most, default, what) in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=ranged(kind, least, most), default=default, metavar="N",
                            help=f"{what} (default {default})")  # fmt: skip


def add_columns(parser: Any, columns: dict[str, str], several: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
    """Add an option for each of ``columns``, names of columns in the files; help by option."""
    for name, what in columns.items():
        settings: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []} if name in several else {}
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="COL", required=name in needed,
                            help=f"column{'s' * (name in several)}: {what}", **settings)  # fmt: skip


def draw(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Indices distributed as ``probabilities``, from numbers uniform in [0, 1) of any shape."""
    edges = np.cumsum(probabilities)
    return np.searchsorted(edges[:-1] / edges[-1], uniform, side="right")


def fraction(text: str) -> Fraction:
    """The type of an option: a part, more than 0 and at most 1."""
    with suppress(ValueError, ZeroDivisionError):
        if 0 < (value := Fraction(text)) <= 1:
            return value
    raise ArgumentTypeError(f"'{text}': expected more than 0 and at most 1, such as 1/64 or 0.25")


def _character(text: str) -> str:
    character = "\t" if text == "\\t" else text
    if len(character) != 1 or character in '\r\n"' or not character.isascii():
        raise ArgumentTypeError(f"'{text}': expected one character, such as , or ; or \\t")
    return character


def add_raw_arguments(parser: ArgumentParser, what: str = "the file of the data set") -> None:
    """Add ``--raw``, of any number of files, and ``--quote``; ``what`` the files are."""
    parser.add_argument(
        "--raw", nargs="+", action="extend", default=[], required=True, metavar="PATH", help=f"{what}: files (CSV, "
        "also in .gz, .zst or .zip, or Parquet), folders, quoted patterns such as 'logs/*.csv', any of these in a "
        "store ('s3://bucket/logs/*'), or - for standard input. Several need the same columns in one order; their rows "
        "count in the order given, or of the names",
    )  # fmt: skip
    parser.add_argument(
        "--quote", choices=(NO_QUOTE, '"'), help="none: quotes in CSV files are part of the text; '\"' given here: "
        "quoted fields may hold line ends (default \", and a quoted field with a line end is refused)",
    )  # fmt: skip


def add_file_arguments(parser: ArgumentParser) -> None:
    """Add the options of files whose columns the user names."""
    times = parser.add_mutually_exclusive_group()
    times.add_argument(
        "--time-unit", choices=("auto", "iso", *UNITS, ORDER), default="auto", metavar="UNIT",
        help="iso: like 2014-04-07T08:51:09Z, UTC where no zone is given; s, ms, us, ns: a number since 1970; order: "
        "whole numbers that only order (default: found out; times before 1980 or after next year are refused)",
    )  # fmt: skip
    times.add_argument("--time-format", metavar="FORMAT", help="how other times are written, as strptime has it: "
                        "'%%d/%%m/%%Y %%H:%%M' reads 14/11/2023 22:22, %%Y%%m%%d 20231114")  # fmt: skip
    parser.add_argument(
        "--na", nargs="*", metavar="TEXT",
        help="texts that stand for nothing, such as NA \\N; --na alone: none does, NA is a value (default: as ids nan, "
        "null, NA, None, \\N and the like are refused; as numbers they always are nothing)",
    )  # fmt: skip
    parser.add_argument("--delimiter", type=_character, default=",", metavar="C", help="between CSV fields; \\t is a "
                        "tab (default ,)")  # fmt: skip
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="the names of the columns, in their order, of a "
                        "CSV file without a header line")  # fmt: skip
    parser.add_argument("--drop-invalid", action="store_true", help="leave out and count rows with unusable values, "
                        "such as one without an id or a time (default: they are refused)")  # fmt: skip
    parser.add_argument("--drop-duplicates", action="store_true", help="of rows that say the same in all named columns "
                        "keep the first (default: all stay, and are counted)")  # fmt: skip


def given_options(arguments: Namespace) -> dict[str, Any]:
    """The manifest's options of files that it names only where they are given."""
    given = {name: vars(arguments).get(name) for name in ("quote", "columns", "drop_invalid", "drop_duplicates")}
    return {name: value for name, value in given.items() if value}


def open_raw(connection: Any, arguments: Namespace, needed: Sequence[str] = (), **options: Any) -> Table:
    """The files of ``--raw`` as one table with the columns ``needed``; ``options`` of ``open_table`` are those of the
    command line beside these."""
    given = {name: vars(arguments)[name] for name in ("quote", "delimiter", "columns") if name in arguments}
    table = open_tables(connection, find_files(arguments.raw), **given | options)
    for column in needed:
        table.column(column)
    return table


def read_published(
    connection: Any, arguments: Namespace, fields: Sequence[Field], time: str, date: str, **options: Any
) -> Raw:
    """Fill the table ``raw`` from files of ``--raw`` whose columns are known; see ``protocol.Raw``."""
    table = open_raw(connection, arguments, **options)
    read, _, _ = load(connection, table, fields)
    return Raw(table.called, given_options(arguments), time, date, read=read, columns=table.columns)
