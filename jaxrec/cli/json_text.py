"""JSON that users write, and what Python's reader does without a word refused: a key twice in one object."""

from __future__ import annotations

import json
from typing import Any

from jaxrec.errors import UserError, shown


def parse_json(text: str, source: str, advice: str = "mend it") -> Any:
    """The value that a JSON text holds; ``source`` begins a message, and ``advice`` ends it."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            twice = next(name for i, (name, _) in enumerate(items) if name in dict(items[:i]))
            raise UserError(f"{source}: {shown(twice)} stands twice in one object; leave one out")
        return values

    def whole(digits: str) -> int:
        if len(digits) > 300:  # all others are finite as floats
            raise UserError(f"{source}: a number of {len(digits):,} digits, more than 300; {advice}")
        return int(digits)

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_int=whole)
    except json.JSONDecodeError as error:
        place = f"{source}, line {error.lineno}, column {error.colno}"
        raise UserError(f"{place}: not JSON ({error.msg}); {advice}") from None
    except RecursionError:
        raise UserError(f"{source}: not JSON that can be read (lists within lists too deep); {advice}") from None
