"""What is recommended of a run of clicks: the items that a user, or somebody new, most likely likes; see
``jaxrec.recommend``."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from jaxrec.data.codes import Columns
from jaxrec.data.given import item_rows, read_time
from jaxrec.errors import UserError, one_line
from jaxrec.plots.pictures import attention_figure, save_picture
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.history import People
from jaxrec.tasks.query import Inputs, Query
from jaxrec.tasks.vectors import filled

CHUNK = 4096  # rows scored in one call


@dataclass(frozen=True)
class Explanation:
    """One prediction: the probability of a positive label, what is unknown, and what the model attended to: of each
    interacting layer float32[heads, F, F], how much the row's field draws from the column's; rows sum to 1."""

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
        width, lines = max(map(len, self.fields)), [f"probability {self.probability:.4f}"]
        for number, weights in enumerate(self.weights, 1):
            lines.append(f"layer {number}: each field, and the three it draws most from")
            for name, value, mean in zip(self.fields, self.values, weights.mean(axis=0), strict=True):
                most = ", ".join(f"{self.fields[j]} {mean[j]:.2f}" for j in np.argsort(-mean)[:3])
                lines.append(f"  {name:{width}} {value[:24]:24} {most}")
        return "\n".join(map(one_line, lines))

    def picture(self, file: Path) -> None:
        """Draw the weights: .png, .pdf or .svg."""
        title = f"{self.title}, probability {self.probability:.2f}"
        save_picture(attention_figure(self.fields, self.values, self.weights, title), file)


class Recommender:
    """See ``jaxrec.tasks.query.Kind``; what ``people.past`` counts as seen is ``gone``. An unknown user counts as
    somebody new, of whom the occasion is known."""

    reads = ("user", "profile", "at")
    can = frozenset({"explain", "score", "filter"})
    score_name = "probability"

    def __init__(self, loaded: Loaded) -> None:
        run, model, weights, _ = loaded
        self.run, self.schema = run, run.schema
        if self.schema.item is None:
            raise UserError(f"{run.path}: its data has no item field, so there is nothing to recommend")
        self._params, self._tables = weights["params"], weights["tables"]
        self._logits, self._attention = jax.jit(model.logits), jax.jit(model.attention)
        self.people = People(run, [field for field in self.schema.fields if field.side != "item"])
        self.codes, self.items, self.counts = self.people.codes, self.people.goods.items, np.zeros(0)

    def read(self, queries: Sequence[Query], seen: bool) -> list[Inputs]:
        pairs = [(query, list[str]()) for query in queries]  # with its notes
        return [self.people.read(query, seen, self.usual(query.at, notes), notes) for query, notes in pairs]

    def best(self, inputs: Sequence[Inputs], k: int, mask: np.ndarray, rules: bool) -> Iterator[Any]:
        every = np.flatnonzero(mask)
        step = max(1, CHUNK // max(1, len(every)))  # some are asked together, so that calls are full
        for part in (inputs[start : start + step] for start in range(0, len(inputs), step)):
            items = [np.setdiff1d(every, one.gone) for one in part]
            logits = self._score(*self._rows([one.what for one in part], items))
            for own, values in zip(items, np.split(logits, np.cumsum([*map(len, items)])[:-1]), strict=True):
                order = np.argsort(-values, kind="stable")[:k]
                yield own[order], expit(np.float64(values[order]))

    def explain(self, query: Query, item: Any) -> Explanation:
        """The prediction for one item, and what the interacting layers attended to."""
        index, (one,) = self.items.index(item), self.read([query], True)
        columns, numbers = self._rows([one.what], [np.array([index])])
        row = (self._params, self._tables, jnp.asarray(columns), jnp.asarray(numbers))
        who = "a new user" if query.user is None else f"user {query.user}"
        return Explanation(
            f"{self.run.path.name}: item {item} for {who}",
            [field.name for field in self.schema.fields],
            self.codes.texts(columns[0], numbers[0]),
            [np.asarray(weights[0]) for weights in self._attention(*row)],
            float(expit(np.float64(self._logits(*row)[0]))),
            list(dict.fromkeys(one.notes)),
        )

    def score(self, rows: Any) -> np.ndarray:
        """float32[n]: the probability of a positive label of rows of raw fields. A field that is not there is what is
        known of the row's user or item, or else unknown, or the usual one of the occasion."""
        if not (n := len(rows := item_rows(rows))):
            return np.zeros(0, np.float32)
        given = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
        fields = {field.name: field for field in self.schema.fields}
        if not fields.keys() & given.keys():
            raise UserError(f"rows: no column is a field of the run; those are {', '.join(fields)}")
        values = {name: np.repeat(value[None], n, axis=0) for name, value in self.usual(None, []).items()}
        for side in filter(None, (self.people.users, self.people.goods)):  # nothing is known of unknown ones
            index, nothing = np.maximum(side.items.ids.encode(given.get(side.name, [None] * n)), 0), side.nothing()
            for name, value in side.values(index).items():
                known = (index > 0).reshape(-1, *[1] * (value.ndim - 1))
                values[name] = np.where(known, value, nothing[name])
        values |= {name: self.codes.encode_all(fields[name], given[name]) for name in given if name in fields}
        return np.asarray(expit(np.float64(self._score(*self.codes.stacked(self.schema.fields, values)))), np.float32)

    def usual(self, at: Any, notes: list[str]) -> dict[str, np.ndarray]:
        """The fields of somebody new at a time; None: at that of the data's last row."""
        time = read_time(at)
        seconds = self._last_time if time is None else time // 1000
        day = (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)).date()
        return self.codes.usual() | self.codes.calendar(day, notes)

    @cached_property
    def _last_time(self) -> int:
        return int(self.run.kept("last_time")[0])

    def _rows(self, asked: Sequence[Columns], items: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M]: a row for each item of each who asks."""
        counts, own = [len(one) for one in items], self.people.goods.values(np.concatenate(items))
        names = [field.name for field in self.schema.fields if field.side != "item"]
        values = {name: np.repeat(np.stack([one[name] for one in asked]), counts, axis=0) for name in names} | own
        return self.codes.stacked(self.schema.fields, values)

    def _score(self, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """float32[n] logits; in chunks of one shape, so that one program serves all."""
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(columns), CHUNK):
            part = [one[start : start + CHUNK] for one in (columns, numbers)]
            logits = self._logits(self._params, self._tables, *(filled(one, CHUNK) for one in part))
            found.append(np.asarray(logits)[: len(part[0])])
        return np.concatenate(found)
