"""What counts as seen: of exposures the positives, of ratings and purchases all rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.tasks.history import History


@pytest.mark.parametrize(("labels", "threshold", "items"), [
    ([0, 1, 1, 0], 1, [3]), ([0.1, 0.7, 0.1, 0.7], 0.7, [5]), ([2, 5, 4, 2], 4, [5, 3, 5]), ([1] * 4, 1, [5, 3, 5]),
])  # fmt: skip
def test_what_is_seen(labels: list[float], threshold: float, items: list[int]) -> None:
    """User 1 has the items 5, 0 (unknown), 3 and 5 again, in this order; user 2 has none."""
    arrays = {"history_offsets": np.array([0, 0, 4, 4]), "history_items": np.array([5, 0, 3, 5], np.int32),
              "history_ratings": np.array(labels, np.float32)}  # fmt: skip
    manifest = {"user": "u", "label": {"threshold": threshold, "low": min(labels), "high": max(labels)}}
    history = History(SimpleNamespace(manifest=manifest, kept=arrays.__getitem__))  # type: ignore[arg-type]
    found, own = history.seen(1)
    assert found.tolist() == items and len(own) == len(found) and not any(len(history.seen(one)[0]) for one in (0, 2))
    liked = [sum(label >= threshold for label, item in zip(labels, (5, 0, 3, 5), strict=True) if item == one)
             for one in (3, 4, 5)]  # fmt: skip
    assert history.counts(6)[3:].tolist() == liked
