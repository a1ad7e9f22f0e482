"""The best items for a user of the data, python load.py 1017, or for somebody new: python load.py age=32 gender=F"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from jaxrec.tasks.programs import Programs, best, filled, show


def recommend(
    programs: Programs, user: Any = None, profile: Mapping[str, Any] | None = None
) -> list[tuple[Any, float]]:
    """The best items with their scores, without those that the user has: by raw id (None, or unknown: somebody new),
    and values of fields that win over what is known."""
    row, columns, numbers = programs.row(user, profile or {})
    (queries,) = programs("encode", columns[None], numbers[None])
    seen = programs.seen(row)
    items, scores = programs("rank", queries, filled([seen], max(64, len(seen)), -1))
    return best(programs.ids, items[0], scores[0])


if __name__ == "__main__":
    fields = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    who = next((word for word in sys.argv[1:] if "=" not in word), None)
    show(lambda: recommend(Programs(), who, fields))
