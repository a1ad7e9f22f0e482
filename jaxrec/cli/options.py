"""Options that several commands take."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from jaxrec.cli.wording import listed
from jaxrec.errors import UserError, nearest, shown


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """``["gender=F", "age=25"]`` by name."""
    found: dict[str, str] = {}
    for word in words or ():
        name, given, value = word.partition("=")
        if not name or not given:
            raise UserError(f"{option} {word}: expected FIELD=VALUE, such as gender=F")
        if name in found:
            both = f"{shown(found[name])} and {shown(value)}"
            raise UserError(f"{option}: {shown(name)} is given twice, as {both}; leave one out")
        found[name] = value
    return found


def parse_baselines(names: Sequence[str], known: Iterable[str], those: str) -> list[str]:
    """Names of baselines of one kind, each once; ``all``, or none, stands for every one.

    Args:
        known: that there are.
        those: the kind, for the message: ``of rows``.
    """
    known = list(known)
    wanted = known if "all" in names or not names else list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise UserError(f"--baselines {name}: none {those}{nearest(name, known)}; there are {', '.join(known)}, or "
                            "all")  # fmt: skip
    return wanted


def no_such_option(name: str, options: Iterable[str] = (), fields: Iterable[str] = ()) -> str:
    """What a message says of an option that there is not: the name, and which ones may have been meant.

    Args:
        name: as given, without its value: ``--confg``.
        options: that the command has, with their dashes.
        fields: ``section.field`` of the configuration, where the command takes those as options too.
    """
    options, fields = list(options), list(fields)
    stem = "--" + name.lstrip("-").replace("-", "_")
    field = "." in name
    called = f"{shown(name)[1:-1]}: no such {'field' if field else 'option'}"
    sections = dict.fromkeys(f"--{one.partition('.')[0]}" for one in fields)
    if stem in sections:
        first = next(one for one in fields if one.startswith(stem[2:] + "."))
        return f"{shown(name)[1:-1]}: a section of the configuration; give one of its fields, such as --{first}"
    known = {one.replace("-", "_"): one for one in (*options, *(f"--{one}" for one in fields))}  # by their stems
    bare = [one for one in fields if "--" + one.partition(".")[2] == stem]  # the section was left out
    key = "__" + stem[2:]
    begun = [one for other, one in known.items() if other.startswith(key)] if len(key) > 3 or key in known else []
    if bare:
        return called + _meant([f"--{one}" for one in bare])
    if 0 < len(begun) <= 4:
        return called + _meant(begun)
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6) if 3 < len(key) < 200 else []
    return called + _meant([known[one] for one in close])


def _meant(names: Sequence[str]) -> str:
    """`` (did you mean --a, --b or --c?)``; nothing without names."""
    return f" (did you mean {listed(names, 'or')}?)" if names else ""


def positive(option: str) -> Callable[[str], int]:
    """What reads an option's whole number from 1."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise UserError(f"{option} {text}: expected a whole number from 1")
        return int(text)

    return read


def read_folds(text: str) -> int:
    """The value of ``--folds``."""
    if not text.isascii() or not text.isdigit() or int(text) == 1:
        raise UserError(f"--folds {text}: expected a whole number from 2, or 0 for none")
    return int(text)


def read_fraction(text: str) -> float:
    """The value of ``--validation-fraction``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise UserError(f"--validation-fraction {text}: expected a number between 0 and 1, such as 0.05")
    return value
