"""``Recommender`` of sessions: raw ids in, raw ids out, from a run directory alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.ids import bare, listing, read_ids, read_sessions
from jaxrec.data.items import Vocabulary
from jaxrec.errors import UserError
from jaxrec.models.base import SessionModel
from jaxrec.ops.topk import BlockSize, block_size, top_items
from jaxrec.tasks.base import load
from jaxrec.tasks.serving import UnknownItems, batches, best, check_k, steps

Ids = list[int] | list[str]
MOST = 2**31  # clicks of a session


class Recommender:
    """Recommends from a trained run.

    >>> Recommender.load("checkpoints/gru4rec_diginetica").recommend([81766, 31331], k=20)  # doctest: +SKIP
    """

    def __init__(
        self, model: SessionModel, parameters: dict[str, Any], vocabulary: Vocabulary, memory: int = 64
    ) -> None:
        self._model, self._params, self._tables = model, parameters["params"], parameters["tables"]
        self.vocabulary = vocabulary
        self._size = block_size(len(vocabulary), memory)
        self._items = model.items(self._tables)
        self._encode = jax.jit(model.last_query)

    @classmethod
    def load(cls, run: str | Path) -> Recommender:
        """Load a run directory."""
        opened, model, weights, _ = load(run, "sessions")
        return cls(model, weights, opened.vocabulary(), opened.config.evaluation.memory)

    def recommend(
        self,
        items: Any,
        k: int | None = None,
        exclude_seen: bool = True,
        exclude: Iterable[Any] = (),
        candidates: Iterable[Any] | None = None,
    ) -> tuple[Any, Any]:
        """The k items that most likely come next.

        Args:
            items: a session, raw ids in order of time: a list, tuple, array, Series or generator of them; or several
                sessions, a list of such or an array of two dimensions.
            k: how many, at most the number of items; None: 20, or all where there are fewer.
            exclude_seen: leave out the session's own items.
            exclude: leave these out as well.
            candidates: recommend only from these; None for the whole catalogue.

        Returns:
            For one session a list of raw ids and float32[n] scores, best first; for several a list of each. n is k, or
            less where exclusions leave fewer. Unknown items, also of ``exclude`` and ``candidates``, are left out with
            one ``UnknownItems`` warning for all sessions. A session without any known item gets the most popular items,
            scored by their number of events; so does an empty one among several.
        """
        sessions, several = read_sessions(items)
        if not several and not sessions[0]:
            raise UserError("an empty session: give at least one item that was clicked")
        k = check_k(k, len(self.vocabulary))
        known = [self.vocabulary.encode(session) for session in sessions]
        self._note_left_out(sessions, known, several)
        banned, pool = self._known("exclude", exclude), self._pool(candidates)
        ids: list[Ids] = []
        scores: list[np.ndarray] = []
        for part, rows in batches(len(known)):
            clicks = [indices[indices >= 0] for indices in known[part]]
            for index, score in self._rank(clicks, rows, k, exclude_seen, banned, pool):
                ids.append(self.vocabulary.decode(index))
                scores.append(score)
        return (ids, scores) if several else (ids[0], scores[0])

    def similar_items(self, item: Any, k: int | None = None) -> tuple[Ids, np.ndarray]:
        """The k items whose vectors have the highest cosine similarity to that of ``item``; k as in ``recommend``.

        Returns:
            k raw ids (fewer in a catalogue of k items or less), and float32[k] similarities.
        """
        index = int(self.vocabulary.encode([item])[0])
        if index < 0:
            raise UserError(f"item {bare(item)}: unknown to this run's vocabulary of {len(self.vocabulary)} items"
                            f"{self.vocabulary.nearest(item)}")  # fmt: skip
        k = check_k(k, len(self.vocabulary))
        vectors = self._model.vectors(self._tables)
        query = _unit(jax.lax.dynamic_slice_in_dim(vectors, index, 1))

        def kernel(query: Any, ban: Any, k: int) -> Any:
            return _nearest(query, vectors, ban, k, self._size)

        ((found, scores),) = best(kernel, query, len(self.vocabulary), [np.array([index])], k)
        return self.vocabulary.decode(found), scores

    def unknown(self, items: Iterable[Any]) -> list[Any]:
        """Those of the raw ids that the vocabulary does not hold."""
        values = list(items)
        return [value for value, index in zip(values, self.vocabulary.encode(values), strict=True) if index < 0]

    # ---- what is unknown ---------------------------------------------------------------------------------------------

    def _note_left_out(self, sessions: list[list[Any]], known: list[np.ndarray], several: bool) -> None:
        """One warning for all sessions."""
        lost = [value for session, indices in zip(sessions, known, strict=True)
                for value, index in zip(session, indices, strict=True) if index < 0]  # fmt: skip
        notes = []
        if lost:
            where = f" in {sum(bool((indices < 0).any()) for indices in known)} of {len(known)} sessions"
            notes.append(f"{_count(lost)}{where if several else ''} left out: {listing(lost)}"
                         f"{self.vocabulary.nearest(lost[0]) if len(lost) == 1 else ''}")  # fmt: skip
        instead = "so the most popular items are recommended"
        if not several and not (known[0] >= 0).any():
            notes.append(f"none is known, {instead}")
        of = f"of {len(sessions)}"
        if empty := [number for number, session in enumerate(sessions, 1) if not session and several]:
            notes.append(f"{_sessions(empty)} {of} {'are' if len(empty) > 1 else 'is'} empty, {instead}")
        strange = [number for number, session in enumerate(sessions, 1)
                   if several and session and not (known[number - 1] >= 0).any()]  # fmt: skip
        if strange:
            notes.append(
                f"{_sessions(strange)} {of} {'hold' if len(strange) > 1 else 'holds'} no known item, {instead}"
            )
        if notes:
            warnings.warn("; ".join(notes), UnknownItems, stacklevel=3)

    def _known(self, what: str, raw: Any) -> np.ndarray:
        """The indices of those of a list of ids that are known; the others are noted."""
        values = read_ids(what, raw)
        indices = self.vocabulary.encode(values)
        if lost := [value for value, index in zip(values, indices, strict=True) if index < 0]:
            warnings.warn(f"{what}: {_count(lost)} ignored: {listing(lost)}", UnknownItems, stacklevel=4)
        return indices[indices >= 0]

    def _pool(self, candidates: Any) -> np.ndarray | None:
        if candidates is None:
            return None
        values = read_ids("candidates", candidates)
        if not (self.vocabulary.encode(values) >= 0).any():
            found = f" (found {listing(values)})" if values else ""
            raise UserError(f"candidates: none of them is in this run's vocabulary{found}")
        return np.unique(self._known("candidates", values))

    # ---- ranking -----------------------------------------------------------------------------------------------------

    def _rank(
        self,
        sessions: list[np.ndarray],
        rows: int,
        k: int,
        exclude_seen: bool,
        exclude: np.ndarray,
        pool: np.ndarray | None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Indices and scores for each session, best first."""
        n_items = len(self.vocabulary)
        banned = [np.concatenate([exclude, session]) if exclude_seen else exclude for session in sessions]
        items, size, count = self._items, n_items, n_items
        if pool is not None:
            # Ranked within the pool: positions in it take the place of item indices.
            size, count = min(steps(len(pool), 256, 16), n_items), len(pool)
            banned = [np.flatnonzero(np.isin(pool, one)) for one in banned]
            items = items[jnp.asarray(np.pad(pool, (0, size - count)))]

        def kernel(queries: Any, ban: Any, k: int) -> Any:
            return top_items(queries, items, ban, k, self._size, count)

        ranked = best(kernel, self._queries(sessions, rows), size, banned, k)
        if pool is not None:
            ranked = [(pool[place], score) for place, score in ranked]
        return [
            one if len(session) else self._popular(k, exclude, pool)
            for one, session in zip(ranked, sessions, strict=True)
        ]

    def _popular(self, k: int, exclude: np.ndarray, pool: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(len(self.vocabulary)) if pool is None else pool  # both in order of popularity
        index = index[~np.isin(index, exclude)][:k]
        return index, self.vocabulary.counts[index].astype(np.float32)

    def _queries(self, sessions: list[np.ndarray], rows: int) -> Any:
        """float32[rows, Q]; sessions are padded as well, so that few shapes are compiled."""
        window = self._model.window
        sessions = [session[-window:] if window else session for session in sessions]
        length = min(steps(max(map(len, sessions)), 16, 4), window or MOST)
        inputs = np.zeros((rows, length), np.int32)
        for row, session in enumerate(sessions):
            inputs[row, : len(session)] = session
        lengths = np.zeros(rows, np.int32)
        lengths[: len(sessions)] = [len(session) for session in sessions]
        return self._encode(self._params, self._tables, jnp.asarray(inputs), jnp.asarray(lengths))


def _unit(vectors: Any) -> Any:
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("k", "size"))
def _nearest(query: Any, vectors: Any, banned: Any, k: int, size: BlockSize) -> Any:
    return top_items(query, _unit(vectors), banned, k, size)


def _count(values: Sequence[Any]) -> str:
    return f"{len(values):,} unknown item{'s' if len(values) > 1 else ''}"


def _sessions(numbers: Sequence[int]) -> str:
    return f"session{'s' if len(numbers) > 1 else ''} {listing(numbers)}"
