"""What counts as seen: of exposures the positives, of ratings and purchases all rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from jaxrec.errors import UserError
from jaxrec.run import Run
from jaxrec.tasks.history import History


def past(labels: list[float], threshold: float) -> History:
    """User 1 has the items 5, 0 (unknown), 3 and 5 again, in this order; user 2 has none."""
    arrays = {"history_offsets": np.array([0, 0, 4, 4]), "history_items": np.array([5, 0, 3, 5], np.int32),
              "history_ratings": np.array(labels, np.float32)}  # fmt: skip
    manifest = {"user": "u", "label": {"threshold": threshold, "low": min(labels), "high": max(labels)}}
    return History(cast(Run, SimpleNamespace(manifest=manifest, kept=arrays.__getitem__)))


@pytest.mark.parametrize(("labels", "threshold", "seen", "items", "word"), [
    ([0, 1, 1, 0], 1, False, [3], "clicked"),
    ([0, 1, 1, 0], 1, True, [], "clicked"),
    ([0, 1, 1, 0], 1, "rows", [5, 3, 5], "seen"),
    ([0.1, 0.7, 0.1, 0.7], 0.7, False, [5], "rated"),
    ([2, 5, 4, 2], 4, False, [5, 3, 5], "rated"),
    ([2, 5, 4, 2], 4, "positives", [3], "rated"),
    ([1, 1, 1, 1], 1, False, [5, 3, 5], "seen"),
])  # fmt: skip
def test_what_is_seen(labels: list[float], threshold: float, seen: Any, items: list[int], word: str) -> None:
    history = past(labels, threshold)
    found, own = history.seen(1, seen)
    assert found.tolist() == items and len(own) == len(found) and history.word(seen) == word
    for nobody in (0, 2):
        assert [len(part) for part in history.seen(nobody, seen)] == [0, 0]


def test_the_most_liked_and_what_is_refused() -> None:
    history = past([2, 5, 4, 5], 4)
    items, counts = history.popular(np.array([3, 4, 5]), 2)
    assert items.tolist() == [3, 5] and counts.tolist() == [1, 1]
    with pytest.raises(UserError, match=r"^seen: found 'row', expected positives or rows, or True or False$"):
        history.seen(1, "row")
