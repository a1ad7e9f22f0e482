"""The listings that come next after some events: python load.py 1578308:item_view 99:item_like"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.tasks.programs import Programs, best, filled, show


def recommend(
    programs: Programs, sequences: Sequence[Sequence[tuple[Any, str]]], at_ms: int | None = None
) -> list[list[tuple[Any, float]]]:
    """For each sequence of raw ids with types of events, oldest first, the best listings that are live at a time (ms
    since 1970; None: at the newest event of the run), without those that were bought; none where no item is known."""
    manifest = programs.manifest
    window, types, live = manifest["window"], manifest["events"], manifest["live"]
    if strange := [what for one in sequences for _, what in one if what not in types]:
        raise ValueError(f"no event '{strange[0]}'; there are {', '.join(types)}")
    known = [[(programs.position(raw), types.index(what)) for raw, what in one] for one in sequences]
    known = [[pair for pair in one if pair[0] >= 0] for one in known]
    bought = types.index(manifest["bought"]) if manifest["bought"] else -1
    gone = [np.unique([item for item, what in one if what == bought]) for one in known]
    pairs = [np.array(one[-window:], np.int32).reshape(-1, 2) for one in known]
    lengths = np.array([len(one) for one in pairs], np.int32)
    (queries,) = programs("encode", *(filled([one[:, part] for one in pairs], window) for part in (0, 1)), lengths)
    times = []
    if live:
        at = ((live["newest_ms"] if at_ms is None else at_ms) - live["origin_ms"]) // 1000
        times = [np.full(len(known), at, np.int32)]
    items, scores = programs("rank", queries, filled(gone, max(64, *map(len, gone)), -1), *times)
    return [best(programs.ids, *row[1:]) if row[0] else [] for row in zip(known, items, scores, strict=True)]


if __name__ == "__main__":
    asked = [(raw, what) for raw, _, what in (word.rpartition(":") for word in sys.argv[1:])]
    show(lambda: recommend(Programs(), [asked])[0])
