"""What is recommended of a run of sessions; see ``jaxrec.recommend``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.ids import check_single
from jaxrec.data.items import Items, note_left_out
from jaxrec.models.base import SessionModel
from jaxrec.ops.topk import CHUNK, BlockSize, best_items, block_size, top_items
from jaxrec.run import Run
from jaxrec.tasks.base import load
from jaxrec.tasks.query import Answer, Query, Ranked
from jaxrec.tasks.vectors import (
    NOTHING_LEFT,
    POPULAR,
    Best,
    batches,
    best,
    one_ahead,
    padded,
    ranked,
    steps,
    vector_table,
    within,
)

MOST = 2**31  # clicks of a session


class SessionRecommender:
    """The next items of sessions.

    Attributes:
        vocabulary: the items, most popular first.
    """

    reads = ("items",)
    can = frozenset({"similar", "vectors"})

    def __init__(self, model: SessionModel, weights: dict[str, Any], vocabulary: Items, memory: int = 64) -> None:
        self._model, self._params, self._tables = model, weights["params"], weights["tables"]
        self.vocabulary = vocabulary
        items = model.items(self._tables)
        self._items = jnp.pad(items, ((0, -len(items) % CHUNK), (0, 0)))
        self._size = block_size(len(self._items), memory)
        self._encode = jax.jit(model.last_query)

    @classmethod
    def load(cls, run: Run) -> SessionRecommender:
        loaded = load(run, "sessions")
        return cls(loaded.model, loaded.weights, run.vocabulary(), run.config.evaluation.memory)

    @property
    def n_items(self) -> int:
        return len(self.vocabulary)

    def recommend(
        self, queries: Sequence[Query], k: int, *, exclude: Any = (), only: Any = None, seen: bool = False,
        rules: bool = True,
    ) -> list[Answer]:  # fmt: skip
        """The items that most likely come next; those of the session are ``seen``."""
        raw = [value for query in queries for value in query.items]
        codes = self.vocabulary.encode(raw)
        for at in np.flatnonzero(codes < 0):
            check_single("items", raw[at])
        ends = np.cumsum([0, *(len(query.items) for query in queries)])
        known = np.cumsum(np.append(0, codes >= 0))[ends].tolist()  # where each query ends among the known ids
        codes_known = codes[codes >= 0]
        sessions = [codes_known[start:end] for start, end in pairwise(known)]
        banned, notes = self.vocabulary.places("exclude", exclude)
        pool = None
        if only is not None:
            pool, more = self.vocabulary.chosen(only)
            notes += more
        found = self._ranked(sessions, k, banned, pool, seen)
        left = np.isfinite(found.scores)
        ids, scores = self.vocabulary.decode(found.items[left]), found.scores[left]
        cuts = np.cumsum(np.append(0, left.sum(axis=1))).tolist()
        index = np.arange(self.n_items) if pool is None else pool  # both in order of popularity
        popular = index[~np.isin(index, banned)][:k] if any(not len(one) for one in sessions) else index[:0]
        most_popular = Ranked(self.vocabulary.decode(popular), self.vocabulary.counts[popular].astype(np.float32))
        has_unknown, answers = np.diff(ends) > np.diff(known), list[Answer]()
        for query, (start, end) in enumerate(pairwise(cuts)):
            said, lost = list(notes), list[Any]()
            if has_unknown[query]:
                lost = [raw[at] for at in range(ends[query], ends[query + 1]) if codes[at] < 0]
                said += note_left_out(lost, hint=self.vocabulary.ids.nearest(lost[0]) if len(lost) == 1 else "")
            nothing_known = not len(sessions[query])
            items = most_popular if nothing_known else Ranked(ids[start:end], scores[start:end])
            said += [POPULAR] * nothing_known + [NOTHING_LEFT] * (not len(items))
            answers.append(Answer(items, said, nothing_known, lost))
        return answers

    def similar(self, item: Any, k: int) -> Answer:
        """The items whose vectors have the highest cosine similarity to that of ``item``."""
        index = self.vocabulary.index(item)
        vectors = self._model.vectors(self._tables)
        query = _unit(jax.lax.dynamic_slice_in_dim(vectors, index, 1))

        def kernel(query: Array, ban: Array, k: int) -> tuple[Array, Array]:
            return _nearest(query, vectors, ban, k, self._size)

        ((found, scores),) = best(kernel, query, self.n_items, [np.array([index])], k)
        return Answer(Ranked(self.vocabulary.decode(found), scores))

    def vectors(self) -> pa.Table:
        """``id``, ``count`` (events in training) and ``vector``: what queries are multiplied with to rank."""
        ids, counts = self.vocabulary.ids.values(), self.vocabulary.counts
        return vector_table(ids, np.asarray(self._items)[: len(ids)], {"count": counts})

    # ---- ranking -----------------------------------------------------------------------------------------------------

    def _ranked(
        self, sessions: list[np.ndarray], k: int, exclude: np.ndarray, pool: np.ndarray | None, seen: bool
    ) -> Best:
        """The best items of each session, shorter sessions first on the device: a batch is padded to its longest."""
        order = np.argsort([len(session) for session in sessions], kind="stable")
        found = Best(np.zeros((len(sessions), k), np.int64), np.full((len(sessions), k), -np.inf, np.float32))

        def dispatched() -> Iterator[Any]:
            for part, rows in batches(len(sessions)):
                chosen = [sessions[place] for place in order[part]]
                banned = [exclude if seen else np.concatenate([exclude, session]) for session in chosen]
                yield self._dispatch(self._queries(chosen, rows), k, banned, pool)

        start = 0
        for one in one_ahead(dispatched()):
            places = order[start : start + len(one.items)]
            found.items[places, : one.items.shape[1]], found.scores[places, : one.scores.shape[1]] = one
            start += len(one.items)
        return found if pool is None else Best(pool[np.minimum(found.items, len(pool) - 1)], found.scores)

    def _dispatch(self, queries: Array, k: int, banned: list[np.ndarray], pool: np.ndarray | None) -> Any:
        items, count = self._items, self.n_items
        if pool is not None:
            items, count, banned = within(items, pool, banned)

        def kernel(queries: Array, ban: Array, k: int) -> tuple[Array, Array]:
            if pool is None and self._size.items == len(items) and len(items) > 2 * k * CHUNK:
                return best_items(queries, items, ban, k, count)
            return top_items(queries, items, ban, k, self._size, count)

        return ranked(kernel, queries, len(items), banned, k)

    def _queries(self, sessions: list[np.ndarray], rows: int) -> Array:
        """float32[rows, Q]; sessions are padded as well, so that few shapes are compiled."""
        window = self._model.window
        sessions = [session[-window:] if window else session for session in sessions]
        length = min(steps(max(map(len, sessions)), 16, 4), window or MOST)
        lengths = np.zeros(rows, np.int32)
        lengths[: len(sessions)] = [len(session) for session in sessions]
        inputs = padded(sessions, rows, length)
        return self._encode(self._params, self._tables, jnp.asarray(inputs), jnp.asarray(lengths))


def _unit(vectors: Array) -> Array:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("k", "size"))
def _nearest(query: Array, vectors: Array, banned: Array, k: int, size: BlockSize) -> tuple[Array, Array]:
    return top_items(query, _unit(vectors), banned, k, size)


Recommender = SessionRecommender
