"""Who asks a run of rows, and what every user has in its data and does not get again, which is called seen.

Of ratings, labels of more than two values, and where all labels are positive, such as purchases, all rows are seen. Of
exposures, labels of two values, such as 0 and 1 for shown and clicked, only the positives: what was shown and passed
over may be recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.data.codes import Columns, Entities, FieldCodes
from jaxrec.data.dataset import Field, RowsDataset
from jaxrec.data.given import bare, plain
from jaxrec.errors import UserError, nearest
from jaxrec.run import Run
from jaxrec.tasks.query import Inputs, Query


def history(dataset: RowsDataset) -> dict[str, np.ndarray]:
    """What a run keeps of all of the data: ``history_offsets`` int64[users + 1], ``history_items`` int32[n] and
    ``history_ratings`` float32[n] in the order of time; ``last_time`` int64[1], seconds since 1970, of the last row."""
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

    def seen(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """int32[n] known items that a user has seen, in the order of time, and their float32[n] labels."""
        part = slice(*self._offsets[user : user + 2]) if user else slice(0)
        items, labels = self._items[part], self._labels[part]
        kept = (items > 0) & ((labels >= self._threshold) | (not self._exposures))
        return items[kept], labels[kept]

    def counts(self, n: int) -> np.ndarray:
        """float32[at least n]: how often users like each item."""
        return np.bincount(self._items[self._labels >= self._threshold], minlength=n).astype(np.float32)


class People:
    """Who asks: ``users`` of the data (None where it has none), or somebody new, with fields of a profile (None: all of
    the user); ``goods`` are the items, ``past`` is what users have."""

    def __init__(self, run: Run, fields: Sequence[Field] | None = None) -> None:
        self.codes, self.past = FieldCodes(run), History(run)
        self.goods = Entities(run, "item", self.codes)
        self.users = Entities(run, "user", self.codes) if run.manifest["user"] is not None else None
        own = self.users.fields if self.users is not None and fields is None else fields or ()
        self._fields = {field.name: field for field in own if self.users is None or field.name != self.users.name}

    def index(self, user: Any) -> int:
        """The index of a user; 0 for an unknown one."""
        return 0 if self.users is None else max(0, self.users.items.ids.find(user))

    def read(self, query: Query, seen: bool, usual: Columns, notes: list[str]) -> Inputs:
        """``Columns`` of one who asks: what a profile says, or else is known of the user, or else is ``usual``."""
        has, unknown = self.goods.items.places("items", query.items)
        notes += unknown
        columns, user = dict(usual), self.index(query.user)
        if user and self.users is not None:
            columns |= self.users.values(user)
        elif self.users is not None and plain(query.user) is not None:
            notes.append(f"user {bare(query.user)} is unknown to this run and counts as somebody new")
        for name, value in query.profile.items():
            if name not in self._fields:
                raise UserError(f"field '{bare(name)}': not one of a profile{nearest(str(name), self._fields)}; those "
                                f"are {', '.join(self._fields)}")  # fmt: skip
            columns[name] = self.codes.encode(self._fields[name], value, notes)
        gone = np.append(has, self.past.seen(user)[0])
        return Inputs(columns, gone[:0] if seen else gone, notes)
