"""What every user has in the data of a run, and what of it counts as seen: not to be recommended again.

    ratings      labels of more than two values: all that a user has rated is seen, also what was not liked
    exposures    labels of two values, such as 0 and 1 for shown and clicked: only the positives are seen, and what was
                 shown and passed over may be recommended
    positives    all labels are positive, such as purchases: all is seen

``seen`` asks for one or the other: ``positives`` or ``rows``.
"""

from __future__ import annotations

import numpy as np

from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError, shown
from jaxrec.run import Run

SEEN = ("positives", "rows")


def history(dataset: RowsDataset) -> dict[str, np.ndarray]:
    """What a run keeps of what its users have, in all of the data: ``history_offsets`` int64[users + 1],
    ``history_items`` int32[n] and ``history_ratings`` float32[n] in the order of time; and ``last_time`` int64[1], of
    the last row, seconds since 1970.
    """
    schema, rows = dataset.schema, dataset.rows()
    last = {"last_time": np.array([dataset.last_second(rows.times)], np.int64)}
    if schema.user is None or schema.item is None:
        return last
    items = rows.columns[:, schema.columns((schema.item,))[0]]
    order = np.lexsort((rows.times, rows.users))
    counts = np.bincount(rows.users, minlength=schema.size(schema.user))
    return {
        "history_offsets": np.concatenate([[0], np.cumsum(counts)]),
        "history_items": items[order].astype(np.int32),
        "history_ratings": rows.ratings[order],
        **last,
    }


class History:
    """What the users of a run have, by their indices."""

    def __init__(self, run: Run) -> None:
        label = run.manifest["label"]
        self._threshold, low, high = (np.float32(label[name]) for name in ("threshold", "low", "high"))
        kept = run.kept if run.manifest["user"] is not None else lambda name: np.zeros(0, np.int64)
        self._offsets, self._items, self._labels = (kept(f"history_{name}") for name in ("offsets", "items", "ratings"))
        self._exposures = bool(np.isin(self._labels, (low, high)).all())  # labels have two values at most

    def seen(self, user: int, seen: bool | str = False) -> tuple[np.ndarray, np.ndarray]:
        """int32[n] known items that a user has seen, in the order of time, and their float32[n] labels.

        Args:
            user: 0, an unknown one, has seen nothing.
            seen: True: nothing counts as seen. One of ``SEEN`` says what does, False leaves it to the data (see above).
        """
        if not isinstance(seen, bool | np.bool_) and seen not in SEEN:
            raise UserError(f"seen: found {shown(seen)}, expected {' or '.join(SEEN)}, or True or False")
        if not user or seen is True:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        part = slice(*self._offsets[user : user + 2])
        items, labels = self._items[part], self._labels[part]
        only = seen == "positives" or (seen is False and self._exposures)
        kept = (items > 0) & ((labels >= self._threshold) | (not only))
        return items[kept], labels[kept]

    def popular(self, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k of some items that users like most often, int64[at most k], and how often, float32."""
        counts = np.bincount(self._items[self._labels >= self._threshold], minlength=items.max(initial=0) + 1)[items]
        order = np.argsort(-counts, kind="stable")[:k]
        return items[order], counts[order].astype(np.float32)

    def word(self, seen: bool | str = False) -> str:
        """What the user has done with what is seen: ``rated``, ``clicked`` or ``seen``."""
        if np.all(self._labels >= self._threshold) or (seen == "rows" and self._exposures):
            return "seen"
        return "clicked" if np.isin(self._labels, (0, 1)).all() else "rated"
