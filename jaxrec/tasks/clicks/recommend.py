"""What is recommended of a run of clicks: the items that a user, or somebody new, most likely likes; see
``jaxrec.recommend``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from jaxrec.data.codes import Columns, Entities, FieldCodes, Profiles
from jaxrec.data.given import columns_of, read_time
from jaxrec.errors import UserError, one_line
from jaxrec.models.base import ClickModel
from jaxrec.plots.clicks import attention
from jaxrec.run import Run
from jaxrec.tasks.base import load
from jaxrec.tasks.history import History
from jaxrec.tasks.query import Answer, Item, Query
from jaxrec.tasks.vectors import NOTHING_LEFT

CHUNK = 4096  # rows scored in one call


@dataclass(frozen=True)
class Explanation:
    """One prediction.

    Attributes:
        title: what is predicted.
        fields, values: names of the fields, F, and what stands in them, as text.
        weights: of each interacting layer float32[heads, F, F]: how much the row's field draws from the column's; rows
            sum to 1.
        probability: of a positive label.
        notes: what is unknown.
    """

    title: str
    fields: list[str]
    values: list[str]
    weights: list[np.ndarray]
    probability: float
    notes: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        weights = [layer.round(6).tolist() for layer in self.weights]
        return {"probability": self.probability, "fields": self.fields, "values": self.values, "weights": weights}

    def text(self) -> str:
        """The probability, and by layer what each field drew from most, on average over heads."""
        width = max(map(len, self.fields))
        lines = [f"probability {self.probability:.4f}"]
        for number, weights in enumerate(self.weights, 1):
            lines.append(f"layer {number}: each field, and the three it draws most from")
            for name, value, mean in zip(self.fields, self.values, weights.mean(axis=0), strict=True):
                most = ", ".join(f"{self.fields[j]} {mean[j]:.2f}" for j in np.argsort(-mean)[:3])
                lines.append(f"  {name:{width}} {value[:24]:24} {most}")
        return "\n".join(map(one_line, lines))

    def picture(self, file: Path) -> None:
        """Draw the weights."""
        title = f"{self.title}, probability {self.probability:.2f}"
        attention(self.fields, self.values, self.weights, file, title)


class ClickRecommender:
    """The items that a user, or somebody new, most likely likes.

    Attributes:
        items, users: of the data; ``users`` is None where it has none.
        past: what the users have seen.
    """

    reads = ("user", "profile", "at")
    can = frozenset({"explain", "score", "filter", "history"})
    score_name = "probability"

    def __init__(self, run: Run, model: ClickModel, weights: dict[str, Any]) -> None:
        self.run, self.schema = run, run.schema
        if self.schema.item is None:
            raise UserError(f"{run.path}: its data has no item field, so there is nothing to recommend")
        self._params, self._tables = weights["params"], weights["tables"]
        self._logits, self._attention = jax.jit(model.logits), jax.jit(model.attention)
        self.codes, self.past = FieldCodes(run), History(run)
        self.items = Entities(run, "item", self.codes)
        self.users = None if self.schema.user is None else Entities(run, "user", self.codes)
        asked = [field for field in self.schema.fields if field.side != "item"]
        self.profiles = Profiles(self.codes, asked, self.users)

    @classmethod
    def load(cls, run: Run) -> ClickRecommender:
        opened, model, weights, _ = load(run, "clicks")
        return cls(opened, model, weights)

    @property
    def n_items(self) -> int:
        return len(self.items.items)

    def recommend(
        self, queries: Sequence[Query], k: int, *, exclude: Any = (), only: Any = None, seen: bool | str = False,
        rules: bool = True,
    ) -> list[Answer]:  # fmt: skip
        """The items that are most likely liked. An unknown user counts as somebody new: the occasion is known."""
        mask, notes = self.items.items.allowed(only, exclude)
        asked, candidates, said = list[Columns](), list[np.ndarray](), list[list[str]]()
        for query in queries:
            said.append(list(notes))
            asked.append(self._asked(query, said[-1]))
            gone = self.past.seen(self.profiles.index(query.user), seen)[0]
            candidates.append(np.setdiff1d(np.flatnonzero(mask), gone))
        answers = []
        for items, logits, own in zip(candidates, self._scores(asked, candidates), said, strict=True):
            order = np.argsort(-logits, kind="stable")[:k]
            known = self.items.items.known(items[order])
            best = map(Item, self.items.items.decode(items[order]), expit(np.float64(logits[order])).tolist(), known)
            answers.append(Answer(list(best), list(dict.fromkeys([*own, *([] if len(order) else [NOTHING_LEFT])]))))
        return answers

    def explain(self, query: Query, item: Any) -> Explanation:
        """The prediction for one item, and what the interacting layers attended to."""
        index, notes = self.items.items.index(item), list[str]()
        columns, numbers = self._rows([self._asked(query, notes)], [np.array([index])])
        row = (self._params, self._tables, jnp.asarray(columns), jnp.asarray(numbers))
        who = "a new user" if query.user is None else f"user {query.user}"
        return Explanation(
            f"{self.run.path.name}: item {item} for {who}",
            [field.name for field in self.schema.fields],
            self.codes.texts(columns[0], numbers[0]),
            [np.asarray(weights[0]) for weights in self._attention(*row)],
            float(expit(np.float64(self._logits(*row)[0]))),
            list(dict.fromkeys(notes)),
        )

    def score(self, rows: Any) -> np.ndarray:
        """float32[n]: the probability of a positive label of rows of raw fields. A field that is not there is what is
        known of the row's user or item, or else unknown, or the usual one of the occasion.
        """
        given, n = columns_of(rows)
        fields = {field.name: field for field in self.schema.fields}
        if not fields.keys() & given.keys():
            raise UserError(f"rows: no column is a field of the run; those are {', '.join(fields)}")
        if not n:
            return np.zeros(0, np.float32)
        values = {name: np.repeat(value[None], n, axis=0) for name, value in self._usual(None, []).items()}
        for side in (self.users, self.items):
            if side is not None:  # nothing is known of unknown ones
                index, nothing = np.maximum(side.items.encode(given.get(side.name, [None] * n)), 0), side.nothing()
                for name, value in side.values(index).items():
                    known = (index > 0).reshape(-1, *[1] * (value.ndim - 1))
                    values[name] = np.where(known, value, nothing[name])
        values |= {name: self.codes.encode_all(fields[name], given[name]) for name in given if name in fields}
        return np.asarray(expit(np.float64(self._score(*self.codes.stacked(self.schema.fields, values)))), np.float32)

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _asked(self, query: Query, notes: list[str]) -> Columns:
        """The fields of the user and the occasion."""
        return self.profiles.read(query.user, query.profile, self._usual(query.at, notes), notes)

    def _usual(self, at: Any, notes: list[str]) -> dict[str, np.ndarray]:
        """Of somebody new at a time; None: at that of the data's last row."""
        time = read_time(at)
        seconds = int(self.run.kept("last_time")[0]) if time is None else time // 1000
        day = (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)).date()
        return self.codes.usual() | self.codes.calendar(day, notes)

    def _rows(self, asked: Sequence[Columns], items: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M]: a row for each item of each who asks."""
        counts, own = [len(one) for one in items], self.items.values(np.concatenate(items))
        values = {name: np.repeat(np.stack([one[name] for one in asked]), counts, axis=0) for name in asked[0]} | own
        return self.codes.stacked(self.schema.fields, values)

    def _scores(self, asked: Sequence[Columns], items: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """float32 logits of the items of each who asks; some are asked together, so that calls are full."""
        start, ends = 0, np.cumsum([0, *map(len, items)])
        while start < len(asked):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + CHUNK, side="right")) - 1)
            logits = self._score(*self._rows(asked[start:stop], items[start:stop]))
            yield from np.split(logits, ends[start + 1 : stop] - ends[start])
            start = stop

    def _score(self, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """float32[n] logits; in chunks of one shape, so that one program serves all."""
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(columns), CHUNK):
            part = [one[start : start + CHUNK] for one in (columns, numbers)]
            n = len(part[0])
            padded = [jnp.asarray(np.pad(one, ((0, CHUNK - n), (0, 0)), mode="edge")) for one in part]
            found.append(np.asarray(self._logits(self._params, self._tables, *padded))[:n])
        return np.concatenate(found)


Recommender = ClickRecommender
