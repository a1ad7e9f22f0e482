"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxrec.errors import UserError, nearest, shown


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """``["gender=F", "age=25"]`` by name.

    Raises:
        UserError: one is no FIELD=VALUE, or a field is there twice.
    """
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

    Raises:
        UserError: no such baseline.
    """
    known = list(known)
    wanted = known if "all" in names or not names else list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise UserError(f"--baselines {name}: none {those}{nearest(name, known)}; there are {', '.join(known)}, or "
                            "all")  # fmt: skip
    return wanted
