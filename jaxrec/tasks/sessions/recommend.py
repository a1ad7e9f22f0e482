"""What is recommended of a run of sessions: the items that most likely come next; see ``jaxrec.recommend``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.given import read_time
from jaxrec.data.items import Items
from jaxrec.feeds.base import LaneBlock
from jaxrec.models.base import SessionModel
from jaxrec.ops.rows import DealtRows, Table, of_rows, rows_at, whole
from jaxrec.ops.topk import CHUNK
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.query import Answer, Inputs, Query, most_similar
from jaxrec.tasks.vectors import BATCH, Waiting, batches, filled, in_batches, nearest, padded, steps, unit, vector_table

MOST = 2**31  # clicks of a session
PROGRAMS: dict[str, tuple[Any, Any]] = {}  # of models, by configuration and number of items
MOST_PROGRAMS = 8
STEPS = 16  # clicks of a session that are followed at once


class State(NamedTuple):
    """All that a recurrent model keeps of a session: what it carries on, and float32[Q], the query after its last
    click. Among ``Inputs`` it stands in the place of the clicks."""

    carry: list[np.ndarray]  # float32[H] of each layer
    query: np.ndarray


class Recommender:
    """See ``jaxrec.tasks.query.Kind``; the items of the session are ``gone``. Of a recurrent model sessions can be
    followed, a step a click."""

    can = frozenset({"similar", "vectors"})

    def __init__(self, loaded: Loaded) -> None:
        self.follows = loaded.model.carries_lanes
        self.reads = ("items", "times") if loaded.model.reads_times else ("items",)
        self._model, self._memory = loaded.model, loaded.run.config.evaluation.memory
        self._params, self._tables = loaded.weights["params"], loaded.weights["tables"]
        self.items = loaded.run.vocabulary()
        self.counts, vectors = self.items.counts.astype(np.float32), self._model.items(self._tables)
        if isinstance(vectors, DealtRows):
            self._items: Table = vectors
        else:
            self._items = jnp.pad(vectors, ((0, -len(vectors) % CHUNK), (0, 0)))
        self._encode, self._advance, self.compiled = programs_of(loaded)

    def read(self, queries: Sequence[Query], seen: bool) -> list[Inputs]:
        return read_sessions(self.items, queries, seen, self._model.reads_times)

    def best(
        self, inputs: Sequence[Inputs], k: int, mask: np.ndarray, rules: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Shorter sessions first, as a batch is padded to its longest."""
        order = sorted(range(len(inputs)), key=lambda at: len(inputs[at].what))

        def dispatch(part: slice, rows: int) -> Waiting:
            chosen = [inputs[at] for at in order[part]]
            queries = self._queries([one.what for one in chosen], rows)
            return nearest(queries, self._items, mask, [one.gone for one in chosen], k, self._memory)

        found = dict(zip(order, in_batches(len(inputs), dispatch), strict=True))
        return [found[at] for at in range(len(inputs))]

    def _queries(self, sessions: Sequence[Any], rows: int) -> Array:
        """float32[rows, Q], of clicks, or of states; a batch holds only one of both."""
        if isinstance(sessions[0], State):
            return filled(np.stack([one.query for one in sessions]), rows)
        return encoded_last(self._model, self._encode, self._params, self._tables, sessions, rows)

    def follow(self, states: Sequence[State | None], clicks: Sequence[Sequence[int]]) -> list[State]:
        """The state of each session after further clicks, places of items; None: before the first click."""
        query = np.zeros(self._items.shape[1:], np.float32)
        nothing = State([np.asarray(layer[0]) for layer in self._model.carry(1)], query)
        now, taken = [nothing if one is None else one for one in states], [0] * len(states)
        while live := [at for at, places in enumerate(clicks) if taken[at] < len(places)]:
            # Many clicks at once where a session has them, one of each otherwise: few programs are compiled.
            far = [at for at in live if taken[at] + STEPS <= len(clicks[at])]
            live, n = (far, STEPS) if far else (live, 1)
            for part, rows in batches(len(live)):
                moved = live[part]
                layers = zip(*(now[at].carry for at in moved), strict=True)
                carry = tuple(filled(np.stack(layer), rows) for layer in layers)
                places = np.array([clicks[at][taken[at] : taken[at] + n] for at in moved], np.int32)
                item = filled(places, rows).T
                none = jnp.zeros_like(item)
                block = LaneBlock(item, none, none.astype(bool), none.astype(jnp.float32))
                carry, queries = self._advance(self._params, self._tables, carry, block)
                after, found = [np.asarray(layer) for layer in carry], np.asarray(queries[-1])
                for row, at in enumerate(moved):  # copies, as a row would keep the whole batch
                    now[at] = State([layer[row].copy() for layer in after], found[row].copy())
                    taken[at] += n
        return now

    def similar(self, item: Any, k: int) -> Answer:
        """The items whose vectors have the highest cosine similarity to that of ``item``."""
        index, vectors = self.items.index(item), of_rows(self._model.vectors(self._tables), unit)
        query = rows_at(vectors, jnp.asarray([index]))
        return most_similar(self.items, query, vectors, [index], k, self._memory)

    def vectors(self) -> pa.Table:
        """``id``, ``count`` (events in training) and ``vector``: what queries are multiplied with to rank."""
        ids = self.items.ids.values()
        return vector_table(ids, whole(self._items)[: len(ids)], pa.table({"count": self.items.counts}))


def programs_of(loaded: Loaded) -> tuple[Any, Any, bool]:
    """The compiled ``last_query`` and ``encode`` of a run's model: the same ones for every version of a run, as what is
    compiled takes seconds and is never freed; and whether they had been made before."""
    config = loaded.run.config
    parts = (config.model, config.loss, config.training)
    key = json.dumps([*(part.model_dump(mode="json") for part in parts), loaded.run.n_items])
    if not (made := key in PROGRAMS):
        if len(PROGRAMS) >= MOST_PROGRAMS:
            PROGRAMS.pop(next(iter(PROGRAMS)))
        PROGRAMS[key] = jax.jit(loaded.model.last_query), jax.jit(loaded.model.encode)
    return (*PROGRAMS[key], made)


def read_sessions(items: Items, queries: Sequence[Query], seen: bool, times: bool) -> list[Inputs]:
    """The clicks of each query, int64[n] places of items, or with ``times`` [n, 2], beside seconds."""
    raw = [value for query in queries for value in query.items]
    codes, inputs = items.ids.encode(raw), list[Inputs]()
    places, all_known = codes.astype(np.int64), bool((codes >= 0).all())
    ends = np.cumsum([0, *(len(query.items) for query in queries)]).tolist()
    for query, (start, end) in zip(queries, pairwise(ends), strict=True):
        session, lost, notes = places[start:end], list[Any](), list[str]()
        what = np.column_stack([session, _seconds(query)]) if times else session
        if not all_known and (session < 0).any():
            lost, what = [raw[start + at] for at in np.flatnonzero(session < 0)], what[session >= 0]
            session, notes = items.places("items", raw[start:end])
        inputs.append(Inputs(what, session[:0] if seen else session, notes, len(session) > 0, lost))
    return inputs


def encoded_last(
    model: SessionModel, encode: Any, params: Any, tables: dict[str, Array], sessions: Sequence[np.ndarray], rows: int
) -> Array:
    """float32[rows, Q], what the compiled ``last_query`` of a model says of int64[n] items, or of [n, 2] items and
    seconds. Sessions are padded as well, so that few shapes are compiled."""
    window = model.window
    sessions = [session[-window:] if window else session for session in sessions]
    fine = (2, 2) if rows == BATCH else (16, 4)  # a full batch is worth a program for its length
    length = min(steps(max(map(len, sessions)), *fine), window or MOST)
    lengths = filled(np.array([len(session) for session in sessions], np.int32), rows)
    table = padded(sessions, rows, length)
    items, *seconds = [table] if table.ndim == 2 else map(np.ascontiguousarray, np.moveaxis(table, 2, 0))
    more = map(jnp.asarray, seconds) if model.reads_times else ()
    queries: Array = encode(params, tables, jnp.asarray(items), lengths, *more)
    return queries


def _seconds(query: Query) -> np.ndarray:
    """int64[n]: when each of the items was, since the first of them; -1 where it is unknown."""
    times = [read_time(one, "times") for one in query.times] or [None] * len(query.items)
    seconds = [None if time is None else time // 1000 for time in times]
    first = min((one for one in seconds if one is not None), default=0)
    return np.array([-1 if one is None else min(one - first, 2**31 - 1) for one in seconds], np.int64)
