"""JSON that users write, and what Python's reader does without a word refused: a key twice in one object."""

from __future__ import annotations

import json
from typing import Any

from jaxrec.errors import UserError, shown

LONGEST_NUMBER = 300  # digits: every such number is finite as a float


def parse_json(text: str, source: str, advice: str = "mend it") -> Any:
    """The value that a JSON text holds.

    Args:
        source: begins a message.
        advice: ends it.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in items:
            if name in values:
                raise UserError(f"{source}: {shown(name)} stands twice in one object; leave one out")
            values[name] = value
        return values

    def whole(digits: str) -> int:
        if len(digits) > LONGEST_NUMBER:
            raise UserError(f"{source}: a number of {len(digits):,} digits, more than {LONGEST_NUMBER}; {advice}")
        return int(digits)

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_int=whole)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); {advice}"
        ) from None
    except RecursionError:
        raise UserError(f"{source}: not JSON that can be read (lists within lists too deep); {advice}") from None
