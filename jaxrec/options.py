"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Sequence

from jaxrec.errors import UserError


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """``["gender=F", "age=25"]`` by name.

    Raises:
        UserError: one is no FIELD=VALUE.
    """
    found = {}
    for word in words or ():
        name, given, value = word.partition("=")
        if not name or not given:
            raise UserError(f"{option} {word}: expected FIELD=VALUE, such as gender=F")
        found[name] = value
    return found
