"""What counts as seen: of exposures the positives, of ratings and purchases all rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxrec.errors import UserError
from jaxrec.tasks.history import History


@pytest.mark.parametrize(("labels", "threshold", "seen", "items", "word"), [
    ([0, 1, 1, 0], 1, False, [3], "clicked"),
    ([0, 1, 1, 0], 1, True, [], "clicked"),
    ([0, 1, 1, 0], 1, "rows", [5, 3, 5], "seen"),
    ([0.1, 0.7, 0.1, 0.7], 0.7, False, [5], "rated"),
    ([2, 5, 4, 2], 4, "positives", [3], "rated"),
    ([1, 1, 1, 1], 1, False, [5, 3, 5], "seen"),
])  # fmt: skip
def test_what_is_seen(labels: list[float], threshold: float, seen: Any, items: list[int], word: str) -> None:
    """User 1 has the items 5, 0 (unknown), 3 and 5 again, in this order; user 2 has none."""
    arrays = {"history_offsets": np.array([0, 0, 4, 4]), "history_items": np.array([5, 0, 3, 5], np.int32),
              "history_ratings": np.array(labels, np.float32)}  # fmt: skip
    manifest = {"user": "u", "label": {"threshold": threshold, "low": min(labels), "high": max(labels)}}
    history = History(SimpleNamespace(manifest=manifest, kept=arrays.__getitem__))  # type: ignore[arg-type]
    found, own = history.seen(1, seen)
    assert found.tolist() == items and len(own) == len(found) and history.word(seen) == word
    assert [len(history.seen(nobody, seen)[0]) for nobody in (0, 2)] == [0, 0]
    liked = [(one == 3) * (labels[2] >= threshold) + (one == 5) * sum(labels[at] >= threshold for at in (0, 3))
             for one in (3, 4, 5)]  # fmt: skip
    assert history.counts(6)[3:].tolist() == liked
    with pytest.raises(UserError, match=r"^seen: found 'row', expected positives or rows, or True or False$"):
        history.seen(1, "row")
