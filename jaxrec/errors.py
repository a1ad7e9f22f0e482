"""The one exception that a user may see, and how its line is put into words. Only the standard library is imported."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

LONGEST = 1_000  # characters of a message; what is longer is cut in its middle, as the end says what to do


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: the file, row or field; what was found; what is allowed; what to do.
    Commands print it as ``jaxrec: error: …`` and exit with status 2 (see ``jaxrec.cli.command``).
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, most: int = LONGEST) -> str:
    """``text`` with control characters, line ends and halves of characters escaped, cut to ``most`` characters."""
    for _ in range(2):  # what is escaped is longer
        if len(text) > most:
            text = f"{text[: most - most // 3 - 3]} … {text[-(most // 3) :]}"
        if not text.isprintable():  # wide spaces are text
            text = "".join(
                one if one.isprintable() or unicodedata.category(one) == "Zs" else repr(one)[1:-1] for one in text
            )
    return text


def shown(value: Any, most: int = 60) -> str:
    """A user's value as a message shows it: as Python writes it, on one line, cut to ``most`` characters."""
    value = value.item() if getattr(value, "shape", None) == () else value  # a number of NumPy's
    value = str(value) if isinstance(value, PurePath) else value
    quoted = isinstance(value, (str, bytes))
    try:
        text = repr(value[: 2 * most] if quoted else value)
    except ValueError:  # of an int
        return "a number of thousands of digits"
    if len(text) > most:
        text = f"{text[: most - 2]}…{text[-1]}" if quoted else f"{text[: most - 1]}…"
    return one_line(text)


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in a row: ``a``, ``a and b``, ``a, b and c``."""
    return f" {last} ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where one of ``allowed`` is close to ``name``, otherwise an empty string."""
    # comparing takes as long as both are
    close = difflib.get_close_matches(name, list(allowed), n=3) if len(name) <= 200 else []
    if not close:
        return ""
    # Of equally close ones that with the same first letter: "itmes" is "items" rather than "times".
    best = max(close, key=lambda one: (difflib.SequenceMatcher(None, one, name).ratio(), one[:1] == name[:1]))
    return f" (did you mean {shown(best)}?)"


def explained(error: ValidationError, beside: str = "", within: int = 0) -> str:
    """The first problem that pydantic found, in one line: ``section.field: found 0; input should be …``; ``beside`` is
    added where a field is not known, and the first parts of its place, which lie ``within``, are left out."""
    problem = error.errors()[0]
    # "str", "int" and "float" are branches of a union, not what the user wrote
    place = ".".join(str(part)[:100] for part in problem["loc"][within:] if part not in ("str", "int", "float"))
    kind, value, message = problem["type"], problem["input"], problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "extra_forbidden":
        message = f"no such field{beside}"
    elif kind == "missing":
        message = "missing; it has no default"
    elif kind != "value_error":
        message = f"found {shown(value)}; {message}"
    return f"{place}: {message}" if place else message
