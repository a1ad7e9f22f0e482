"""Options that several commands take."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from jaxrec.errors import UserError, listed, nearest, shown


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """``["gender=F", "age=25"]`` by name."""
    values: dict[str, str] = {}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not name or not sign:
            raise UserError(f"{option} {word}: expected FIELD=VALUE, such as gender=F")
        if name in values:
            raise UserError(f"{option}: {shown(name)} is given twice; leave one out")
        values[name] = value
    return values


def parse_baselines(names: Sequence[str], known: Iterable[str], those: str) -> list[str]:
    """Names of baselines of one kind (``those``, such as ``of rows``), each once; ``all``, or none, is every one."""
    known = list(known)
    wanted = known if "all" in names or not names else list(dict.fromkeys(names))
    if wrong := [name for name in wanted if name not in known]:
        raise UserError(f"--baselines {wrong[0]}: none {those}{nearest(wrong[0], known)}; there are "
                        f"{', '.join(known)}, or all")  # fmt: skip
    return wanted


def no_such_option(name: str, options: Iterable[str] = (), fields: Iterable[str] = ()) -> str:
    """What a message says of an option that does not exist: the name, and which ones may have been meant.

    Args:
        name: as given, without its value: ``--confg``.
        options: that the command has, with their dashes.
        fields: ``section.field`` of the configuration, where the command takes those as options too.
    """
    fields, called = list(fields), shown(name)[1:-1]
    stem = name.lstrip("-").replace("-", "_")
    if within := [field for field in fields if field.startswith(f"{stem}.")]:
        return f"{called}: a section of the configuration; give one of its fields, such as --{within[0]}"
    known = {option.lstrip("-").replace("-", "_"): option for option in options} | {one: f"--{one}" for one in fields}
    meant = [f"--{field}" for field in fields if field.partition(".")[2] == stem]  # the section was left out
    meant = meant or [option for other, option in known.items() if other.startswith(stem) and len(stem) > 1][:4]
    meant = meant or [known[one] for one in difflib.get_close_matches(stem[:200], known, n=1)]
    hint = f" (did you mean {listed(meant, 'or')}?)" if meant else ""
    return f"{called}: no such {'field' if '.' in name else 'option'}{hint}"


def positive(option: str, least: int = 1) -> Callable[[str], int]:
    """What reads an option's whole number from ``least``."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise UserError(f"{option} {text}: expected a whole number from {least}")
        return int(text)

    return read


def read_folds(text: str) -> int:
    """The value of ``--folds``."""
    return 0 if text == "0" else positive("--folds", 2)(text)


def read_fraction(text: str) -> float:
    """The value of ``--validation-fraction``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise UserError(f"--validation-fraction {text}: expected a number between 0 and 1, such as 0.05")
    return value
