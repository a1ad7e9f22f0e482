"""``EventRecommender``: the next items of event sequences, also those that no training has seen; see recommend.py."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.data.given import SUCH_AS, check_events, read_sequences
from jaxrec.data.ids import bare, listing, read_ids
from jaxrec.data.items import Catalogue
from jaxrec.errors import UserError
from jaxrec.models.merrec import NAMES_AT_ONCE, MERRec
from jaxrec.run import Run
from jaxrec.sources.merrec import BOUGHT
from jaxrec.tasks.base import load
from jaxrec.tasks.events.listings import Listings, Time
from jaxrec.tasks.events.sequences import Given, note_of_unknown, read_given
from jaxrec.tasks.vectors import BATCH, UnknownItems, batches, best, capacity, check_k, room, steps


class Suggestion(NamedTuple):
    """An item.

    Attributes:
        item: raw id.
        score: the higher the better; of similar items the cosine.
        known: ``listings.SHOWN`` of its attributes.
    """

    item: Any
    score: float
    known: dict[str, Any]


class Happening(NamedTuple):
    """An event of the run's data: raw id and type, ms since 1970, and ``listings.SHOWN`` of the item."""

    item: Any
    event: str
    time: int
    known: dict[str, Any]


class EventRecommender:
    """Recommends from a run of merrec.

    >>> market = EventRecommender.load("checkpoints/merrec")  # doctest: +SKIP
    >>> market.recommend([{"item": 238357102, "event": "item_view"}], where="price <= 50")  # doctest: +SKIP
    """

    def __init__(
        self, run: Run, model: MERRec, catalogue: Catalogue, weights: dict[str, Any], text_model: str | None = None
    ) -> None:
        self.run, self.types = run, tuple(run.manifest["event_types"])
        self.bought = run.manifest.get("bought", BOUGHT)
        self.listings = Listings(run, catalogue, text_model)
        self._model, self._catalogue, self._weights = model, catalogue, weights
        self._counts = np.asarray(run.kept("item_counts"))
        self._trained = self._counts > 0
        self._items = model.catalogue_vectors(weights, self._trained)
        self._encode, self._project = jax.jit(model.last_query), jax.jit(model.texts)

        def rankable(weights: Any, rows: Any, trained: Any, names: Any) -> Array:
            return model.vectors(weights, rows, trained, model.texts(weights, names))

        self._rankable = jax.jit(rankable)

    @classmethod
    def load(cls, run: str | Path, text_model: str | None = None) -> EventRecommender:
        """Load a run directory.

        Args:
            text_model: where the text model of the run's name vectors is now, if not where it was.
        """
        opened, model, weights, _ = load(run, "events")
        return cls(opened, model, model.catalogue, weights, text_model)

    # ---- to recommend ------------------------------------------------------------------------------------------------

    def recommend(
        self,
        events: Any,
        k: int | None = None,
        where: str | None = None,
        exclude: Iterable[Any] = (),
        exclude_bought: bool = True,
        at: Time = None,
    ) -> Any:
        """The k items with which most likely something is done next.

        Args:
            events: a sequence, oldest first, or a list of sequences (or other forms of a list). An event is a mapping
                of ``event`` (its type) and ``item`` (raw id), or ``name`` for an item that the run does
                not know; such a one may have attributes as well (``price``, ``c0_id``, ...). The model reads the last
                ``model.window`` of them.
            k: how many, at most the number of items; None: 20, or all where there are fewer.
            where: only items that this filter leaves, such as ``price <= 50 and c0_name = 'Beauty'``; see
                ``jaxrec.data.filters``.
            exclude: raw ids of items to leave out.
            exclude_bought: leave out what the sequence says was bought.
            at: where the data say when listings are live, only those that are live at this time are recommended; see
                ``Listings.time``. Default: the time of the newest event in the sequences that the run keeps.

        Returns:
            For one sequence a list of ``Suggestion``, best first; for several a list of each. k, or less where there
            are no more. Unknown items without a name are left out with one ``UnknownItems`` warning for all sequences;
            a sequence of which nothing is left gets the most popular items, scored by their number of events in
            training, and so does an empty one among several.
        """
        read, several = read_sequences(events)
        if not several and not read[0]:
            raise UserError(f"events: empty; give at least one, oldest first, such as {SUCH_AS}")
        schema, of = self.listings.attributes.schema, "sequence {}: " if several else ""
        sequences = [check_events(one, self.types, schema, of.format(n)) for n, one in enumerate(read, 1)]
        k = self._check_k(k)
        allowed = self._allowed(where, exclude, at)
        given, lost = read_given(self.listings, self.types, self.bought, sequences)
        if note := note_of_unknown(lost, [len(one.events) for one in given]):
            warnings.warn(note, UnknownItems, stacklevel=2)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for part, rows in batches(len(given), self._rows()):
            found += self._rank(given[part], rows, k, allowed, exclude_bought)
        answers = [self._suggestions(*one) for one in found]
        return answers if several else answers[0]

    def similar_items(self, item: Any, k: int | None = None) -> list[Suggestion]:
        """The k items that are most like one, whether live or not: by the cosine of their names in the space of the
        text head, or without one by that of their vectors in the item head.

        Args:
            item: raw id, or with a text head the name of any item.

        Returns:
            Best first. Items without a name have no similarity to others, nor without a text head those that training
            has not seen.
        """
        k = self._check_k(k)
        index = int(self.listings.find([item])[0])
        cosines = self._by_name(item, index) if self._model.has_text else self._by_row(item, index)
        if index >= 0:
            cosines[index] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[:k]
        return self._suggestions(nearest, cosines[nearest])

    def add_items(self, items: str | Path | Sequence[Mapping[str, Any]]) -> list[Any]:
        """Let new listings be recommended, without training, by their names.

        Args:
            items: see ``Listings.add``.

        Returns:
            Their raw ids.
        """
        if not self._model.has_text:
            raise UserError(f"{self.run.path}: model.head items ranks nothing but what it was trained on; to add items "
                            "train with model.head text or both")  # fmt: skip
        new = self.listings.add(items)
        old, n = len(self.listings.vocabulary), len(self.listings)
        table = np.zeros((capacity(old, n - old), self._items.shape[1]), np.float32)  # room for more is padding
        table[: len(self._trained)] = np.asarray(self._items)[: len(self._trained)]
        table[len(self._trained) : n] = self._new_vectors(self.listings.vectors(new))
        self._items = jnp.asarray(table)
        self._trained = np.append(self._trained, np.zeros(len(new), bool))
        self._counts = np.append(self._counts, np.zeros(len(new), self._counts.dtype))
        return [self.listings.raw(index) for index in new]

    def unknown(self, events: Any) -> list[Any]:
        """The raw ids of a sequence that the run does not know, and that have no name: what is left out of it."""
        one = events if isinstance(events, list) else read_sequences(events)[0][0]
        entries = check_events(one, self.types, self.listings.attributes.schema)
        return [entry.item for entry in entries if not entry.name and self.listings.find([entry.item])[0] < 0]

    def example(self, seed: int | None = None) -> list[Happening]:
        """One of the sequences that the run keeps, drawn at random.

        Args:
            seed: draws the same one again.
        """
        offsets = self.run.kept("example_offsets")
        if len(offsets) < 2:
            raise UserError(f"{self.run.path}: keeps no example sequences; give events with --events")
        number = int(np.random.default_rng(seed).integers(len(offsets) - 1))
        part = slice(int(offsets[number]), int(offsets[number + 1]))
        items, events, times = (self.run.kept(f"example_{name}")[part] for name in ("items", "events", "times"))
        known = self.listings.known(items.astype(np.int64))
        return [
            Happening(self.listings.raw(int(item)), self.types[event], int(time), what)
            for item, event, time, what in zip(items, events, times, known, strict=True)
        ]

    # ---- ranking -----------------------------------------------------------------------------------------------------

    def _check_k(self, k: int | None) -> int:
        return check_k(k, len(self.listings))

    def _allowed(self, where: str | None, exclude: Iterable[Any], at: Time) -> np.ndarray:
        mask = self.listings.allowed(where, at)
        if not self._model.has_text:
            mask &= self._trained
        ids = read_ids("exclude", exclude)
        gone = self.listings.find(ids)
        if lost := [one for one, place in zip(ids, gone, strict=True) if place < 0]:
            many = f"{len(lost):,} unknown items" if len(lost) > 1 else "1 unknown item"
            warnings.warn(f"exclude: {many} ignored: {listing(lost)}", UnknownItems, stacklevel=3)
        mask[gone[gone >= 0]] = False
        if not mask.any():
            raise UserError("nothing is left to recommend: what is live and the filter leaves is excluded, or "
                            "model.head items was not trained on it; ask for less")  # fmt: skip
        return mask

    def _rows(self) -> int:
        """Sequences that are ranked in one go: a power of two, so that their scores keep to ``evaluation.memory``."""
        cells = self.run.config.evaluation.memory * 2**18
        return max(1, min(BATCH, room(cells // len(self.listings) + 1) // 2))

    def _rank(
        self, given: Sequence[Given], rows: int, k: int, allowed: np.ndarray, exclude_bought: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The items of each sequence, int64[at most k], and float32 scores of them."""
        mask = np.pad(allowed, (0, len(self._items) - len(allowed)))
        bought = [one.bought if exclude_bought else one.bought[:0] for one in given]

        def kernel(queries: Array, ban: Array, k: int) -> tuple[Array, Array]:
            return _best(queries, self._items, jnp.asarray(mask), ban, k)

        ranked = best(kernel, self._queries(given, rows), len(self._items), bought, k)
        return [
            one if len(of.events) else self._popular(k, allowed, own)
            for one, of, own in zip(ranked, given, bought, strict=True)
        ]

    def _popular(self, k: int, allowed: np.ndarray, bought: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left = np.setdiff1d(np.flatnonzero(allowed), bought)
        items = left[np.argsort(-self._counts[left], kind="stable")[:k]]
        return items, self._counts[items].astype(np.float32)

    def _queries(self, given: Sequence[Given], rows: int) -> Array:
        """float32[rows, Q]; sequences are padded as well, so that few shapes are compiled."""
        window = self._model.window
        lengths = [min(len(one.events), window) for one in given]
        n = min(steps(max(lengths), 16, 4), window)
        names = np.zeros((rows, n, self._catalogue.dim), jnp.bfloat16)
        codes = np.zeros((rows, n, len(self._catalogue.fields)), np.int32)
        events, length = np.zeros((rows, n), np.int32), np.zeros(rows, np.int32)
        for row, (one, size) in enumerate(zip(given, lengths, strict=True)):
            last = slice(len(one.events) - size, None)
            names[row, :size], codes[row, :size], events[row, :size] = (
                one.names[last],
                one.codes[last],
                one.events[last],
            )
            length[row] = size
        return self._encode(self._weights, *map(jnp.asarray, (names, codes, events, length)))

    def _suggestions(self, items: np.ndarray, scores: np.ndarray) -> list[Suggestion]:
        some = scores > -np.inf
        rows = zip(items[some], scores[some], self.listings.known(items[some]), strict=True)
        return [Suggestion(self.listings.raw(int(item)), float(score), known) for item, score, known in rows]

    # ---- similar items -----------------------------------------------------------------------------------------------

    def _by_name(self, item: Any, index: int) -> np.ndarray:
        """float32[items], cosines of names; -inf where there is none."""
        if index >= 0:
            own = self.listings.vectors(np.array([index]))
            if not own.any():
                raise UserError(f"item {bare(item)}: has no name, so none is like it; ask for another")
        else:
            self._check_name(item)
            own = self.listings.name_vectors([item.strip()])
        (query,) = self._directions(own)
        old, added = self._catalogue.name_of, np.arange(len(self._catalogue.name_of), len(self.listings))
        of_names = np.append(self._name_directions @ query, -np.inf)  # the last one for no name
        of_added = self._directions(self.listings.vectors(added)) @ query
        return np.concatenate([of_names[old], of_added]).astype(np.float32)

    def _check_name(self, name: Any) -> None:
        ids = self.listings.vocabulary.ids
        if not isinstance(name, str) or not name.strip() or (ids.dtype == np.int64 and name.strip().isdecimal()):
            raise UserError(f"item {bare(name)}: none of the run's {len(self.listings):,}; give one of them, or a name")

    def _by_row(self, item: Any, index: int) -> np.ndarray:
        """float32[items], cosines of the item head's vectors; -inf where training has not seen the item."""
        if index < 0 or not self._trained[index]:
            what = "unknown to the run" if index < 0 else "not in training"
            raise UserError(
                f"item {bare(item)}: {what}, and model.head items compares what it was trained on; ask for another"
            )
        cosines = np.asarray(_cosines(self._weights["tables"]["item"][:, :-1], index))
        return np.where(self._trained, cosines, -np.inf)

    def _directions(self, vectors: np.ndarray) -> np.ndarray:
        """float32[n, T] of length 1: name vectors, float16[n, dim], in the space of the text head."""
        n = steps(len(vectors), 16, 16)
        padded = jnp.asarray(np.pad(vectors, ((0, n - len(vectors)), (0, 0))))
        found = np.asarray(self._project(self._weights, padded))[: len(vectors)]
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    @cached_property
    def _name_directions(self) -> np.ndarray:
        """float32[U, T], ``_directions`` of the names of the run's data."""
        names = self._catalogue.vectors
        parts = [self._directions(np.asarray(names[start : start + NAMES_AT_ONCE]))
                 for start in range(0, len(names), NAMES_AT_ONCE)]  # fmt: skip
        return np.concatenate(parts)

    def _new_vectors(self, names: np.ndarray) -> np.ndarray:
        """float32[n, Q]: what ranks items that training has not seen, from float16[n, dim] vectors of their names."""
        n = steps(len(names), 16, 16)
        padded = jnp.asarray(np.pad(names, ((0, n - len(names)), (0, 0))))
        rows = jnp.zeros((n, self._weights["tables"]["item"].shape[1])) if self._model.has_items else None
        return np.asarray(self._rankable(self._weights, rows, jnp.zeros(n, bool), padded))[: len(names)]


@jax.jit
def _cosines(vectors: Array, index: Array) -> Array:
    """float32[n]: of the vector of one item with all."""
    product = vectors @ vectors[index]
    return product / jnp.maximum(jnp.linalg.norm(vectors, axis=1) * jnp.linalg.norm(vectors[index]), 1e-12)


@partial(jax.jit, static_argnames="k")
def _best(queries: Array, items: Array, allowed: Array, banned: Array, k: int) -> tuple[Array, Array]:
    """The k best items of each query, and their scores; -inf where fewer are allowed.

    Unlike ``topk.top_items``, which works through the catalogue in parts, this reads the vectors where they lie: for
    a query or a few that is ten times as fast in a catalogue of a million items.

    Args:
        queries: float32[q, Q].
        items: float32[V, Q].
        allowed: bool[V].
        banned: int32[q, N], items that a query must not get; V for none.

    Returns:
        int32[q, k] and float32[q, k].
    """
    scores = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(allowed & ~jnp.isnan(scores), scores, -jnp.inf)
    scores = scores.at[jnp.arange(len(queries))[:, None], banned].set(-jnp.inf, mode="drop")
    values, found = jax.lax.top_k(scores, k)
    return found, values
