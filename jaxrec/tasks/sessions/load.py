"""The items that most likely come next in a session, by raw ids: python load.py 81766 31331"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.tasks.programs import Programs, best, filled, show


def recommend(programs: Programs, sessions: Sequence[Sequence[Any]]) -> list[list[tuple[Any, float]]]:
    """For each session of raw ids, oldest first, the best items with their scores, without those of the session;
    none where none of its ids is known."""
    places, window = [programs.positions(one) for one in sessions], programs.manifest["window"]
    clicks = [one[-window:] if window else one for one in places]
    lengths = np.array([len(one) for one in clicks], np.int32)
    inputs = [filled(clicks, window or max(16, *lengths)), lengths]
    if programs.manifest["reads_times"]:  # seconds of each click from any moment on; -1: unknown
        inputs.append(np.full(inputs[0].shape, -1, np.int32))
    (queries,) = programs("encode", *inputs)
    items, scores = programs("rank", queries, filled(places, max(64, *map(len, places)), -1))
    return [best(programs.ids, *row[1:]) if len(row[0]) else [] for row in zip(places, items, scores, strict=True)]


if __name__ == "__main__":
    show(lambda: recommend(Programs(), [sys.argv[1:]])[0])
