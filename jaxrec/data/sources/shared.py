"""What sources share: numbers and parts as options, and the options of any file of rows."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from fractions import Fraction

from jaxrec.data.id_columns import add_na_argument
from jaxrec.data.times import add_time_arguments


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
    """Add the options of time, ``--na`` and ``--delimiter``."""
    add_time_arguments(parser)
    add_na_argument(parser)
    parser.add_argument(
        "--delimiter", type=_delimiter, default=",", metavar="C", help="between CSV fields; \\t is a tab (default ,)"
    )


def _delimiter(text: str) -> str:
    character = "\t" if text == "\\t" else text
    if len(character) != 1 or character in '"\r\n' or not character.isascii():
        raise ArgumentTypeError(f"'{text}': expected one character, such as , or ; or \\t")
    return character
