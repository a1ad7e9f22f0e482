"""``EventRecommender``: the next items of event sequences, also those that no training has seen; see recommend.py."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.data.catalogue import Catalogue
from jaxrec.data.event_types import BOUGHT
from jaxrec.data.given_events import Entry, check_events
from jaxrec.errors import UserError
from jaxrec.listings import Listings
from jaxrec.models.merrec import NAMES_AT_ONCE, MERRec
from jaxrec.recommend import BATCH, UnknownItems, room
from jaxrec.rundir import Run, load_event_model, open_run

Time = str | datetime.datetime | int | None


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


class Given(NamedTuple):
    """A sequence as the model reads it, without what is unknown.

    Attributes:
        names: bfloat16[n, dim], vectors of the items' names.
        codes: int32[n, F].
        events: int32[n].
        bought: int64[m], items of purchases.
    """

    names: np.ndarray
    codes: np.ndarray
    events: np.ndarray
    bought: np.ndarray


class EventRecommender:
    """Recommends from a run of merrec.

    >>> market = EventRecommender.load("checkpoints/merrec")  # doctest: +SKIP
    >>> market.recommend([{"item": 238357102, "event": "item_view"}], where="price <= 50")  # doctest: +SKIP
    """

    def __init__(
        self, run: Run, model: MERRec, catalogue: Catalogue, weights: dict[str, Any], text_model: str | None = None
    ) -> None:
        self.run, self.types = run, tuple(run.manifest["event_types"])
        self.listings = Listings(run, catalogue, text_model)
        self._model, self._catalogue, self._weights = model, catalogue, weights
        self._counts = np.asarray(run.kept("item_counts"))
        self._trained = self._counts > 0
        self._items = model.catalogue_vectors(weights, self._trained)
        self._encode, self._project = jax.jit(model.last_query), jax.jit(model.texts)

    @classmethod
    def load(cls, run: str | Path, text_model: str | None = None) -> EventRecommender:
        """Load a run directory.

        Args:
            text_model: where the text model of the run's name vectors is now, if not where it was.

        Raises:
            UserError: it is no run of merrec, or has no checkpoint.
        """
        opened = open_run(run)
        model, catalogue, weights, _ = load_event_model(opened)
        return cls(opened, model, catalogue, weights, text_model)

    # ---- to recommend ------------------------------------------------------------------------------------------------

    def recommend(
        self,
        events: Any,
        k: int = 20,
        where: str | None = None,
        exclude: Iterable[Any] = (),
        exclude_bought: bool = True,
        at: Time = None,
    ) -> Any:
        """The k items with which most likely something is done next.

        Args:
            events: a sequence, oldest first, or a list of sequences. An event is a mapping of ``event`` (its type) and
                ``item`` (raw id), or ``name`` for an item that the run does not know; such a one may have attributes as
                well (``price``, ``c0_id``, ...). The model reads the last ``model.window`` of them.
            k: how many, at most the number of items.
            where: only items that this filter leaves, such as ``price <= 50 and c0_name = 'Beauty'``; see
                ``jaxrec.where``.
            exclude: raw ids of items to leave out; unknown ones are ignored.
            exclude_bought: leave out what the sequence says was bought.
            at: where the data say when listings are live, only those that are live at this time are recommended; see
                ``Listings.time``. Default: the time of the newest event in the sequences that the run keeps.

        Returns:
            For one sequence a list of ``Suggestion``, best first; for several a list of each. k, or less where there
            are no more. Unknown items without a name are left out with an ``UnknownItems`` warning; a sequence of which
            nothing is left gets the most popular items, scored by their number of events in training.

        Raises:
            UserError: a bad event or filter, k out of range, a name that needs a text model that cannot be had, or
                nothing is left to recommend.
        """
        several = isinstance(events, (list, tuple)) and len(events) > 0 and isinstance(events[0], (list, tuple))
        schema = self.listings.attributes.schema
        sequences = [check_events(one, self.types, schema) for one in (events if several else [events])]
        self._check_k(k)
        allowed = self._allowed(where, exclude, at)
        found = []
        given = self._read(sequences)
        rows = self._rows()
        for start in range(0, len(given), rows):
            found += self._rank(given[start : start + rows], k, allowed, exclude_bought)
        answers = [self._suggestions(*one) for one in found]
        return answers if several else answers[0]

    def similar_items(self, item: Any, k: int = 20) -> list[Suggestion]:
        """The k items that are most like one, whether live or not: by the cosine of their names in the space of the
        text head, or without one by that of their vectors in the item head.

        Args:
            item: raw id, or with a text head the name of any item.

        Returns:
            Best first. Items without a name have no similarity to others, nor without a text head those that training
            has not seen.

        Raises:
            UserError: k out of range, an unknown item, one that is like no other, or a text model that cannot be had.
        """
        self._check_k(k)
        index = int(self.listings.find([item])[0])
        cosines = self._by_name(item, index) if self._model.has_text else self._by_row(item, index)
        if index >= 0:
            cosines[index] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:k]
        return self._suggestions(best, cosines[best])

    def add_items(self, items: str | Path | Sequence[Mapping[str, Any]]) -> list[Any]:
        """Let new listings be recommended, without training, by their names.

        Args:
            items: see ``Listings.add``.

        Returns:
            Their raw ids.

        Raises:
            UserError: the run has no text head; see also ``Listings.add``.
        """
        if not self._model.has_text:
            raise UserError(f"{self.run.path}: model.head items ranks nothing but what it was trained on; to add items "
                            "train with model.head text or both")  # fmt: skip
        new = self.listings.add(items)
        rows = jnp.zeros((len(new), self._weights["tables"]["item"].shape[1])) if self._model.has_items else None
        texts = self._project(self._weights, jnp.asarray(self.listings.vectors(new)))
        vectors = self._model.vectors(self._weights, rows, jnp.zeros(len(new), bool), texts)
        self._items = jnp.concatenate([self._items, vectors])
        self._trained = np.append(self._trained, np.zeros(len(new), bool))
        self._counts = np.append(self._counts, np.zeros(len(new), self._counts.dtype))
        return [self.listings.raw(index) for index in new]

    def unknown(self, events: Any) -> list[Any]:
        """The raw ids of a sequence that the run does not know, and that have no name: what is left out of it."""
        entries = check_events(events, self.types, self.listings.attributes.schema)
        return [entry.item for entry in entries if not entry.name and self.listings.find([entry.item])[0] < 0]

    def example(self, seed: int | None = None) -> list[Happening]:
        """One of the sequences that the run keeps, drawn at random.

        Args:
            seed: draws the same one again.

        Raises:
            UserError: the run keeps none.
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

    def _check_k(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.listings):
            raise UserError(f"k = {k}: expected 1 to {len(self.listings)}, the number of items in the catalogue")

    def _allowed(self, where: str | None, exclude: Iterable[Any], at: Time) -> np.ndarray:
        mask = self.listings.allowed(where, at)
        if not self._model.has_text:
            mask &= self._trained
        gone = self.listings.find(exclude)
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
        self, given: Sequence[Given], k: int, allowed: np.ndarray, exclude_bought: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The items of each sequence, int64[at most k], and float32 scores of them."""
        n, rows = len(self.listings), room(len(given))
        bought = [one.bought if exclude_bought else one.bought[:0] for one in given]
        banned = np.full((rows, room(max(map(len, bought)))), n, np.int32)
        for row, items in enumerate(bought):
            banned[row, : len(items)] = items
        found, scores = _best(self._queries(given, rows), self._items, jnp.asarray(allowed), jnp.asarray(banned), k)
        answers = []
        for row, one in enumerate(given):
            items, values = np.asarray(found[row]).astype(np.int64), np.asarray(scores[row])
            if not len(one.events):
                items, values = self._popular(k, allowed, bought[row])
            answers.append((items[values > -np.inf], values[values > -np.inf]))
        return answers

    def _popular(self, k: int, allowed: np.ndarray, bought: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left = np.setdiff1d(np.flatnonzero(allowed), bought)
        items = left[np.argsort(-self._counts[left], kind="stable")[:k]]
        return items, self._counts[items].astype(np.float32)

    def _queries(self, given: Sequence[Given], rows: int) -> Array:
        """float32[rows, Q]; sequences and rows are padded to powers of two, so that few shapes are compiled."""
        window = self._model.window
        lengths = [min(len(one.events), window) for one in given]
        n = min(room(max(lengths)), window)
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

    # ---- reading events ----------------------------------------------------------------------------------------------

    def _read(self, sequences: Sequence[Sequence[Entry]]) -> list[Given]:
        """What the model reads, of all sequences with one look-up."""
        flat = [entry for sequence in sequences for entry in sequence]
        items = self.listings.find([-1 if entry.item is None else entry.item for entry in flat])
        items = np.where([entry.item is None for entry in flat], -1, items)
        named = np.array([bool(entry.name) for entry in flat]) & (items < 0)
        names, codes = self.listings.vectors(np.maximum(items, 0)), self.listings.codes(np.maximum(items, 0))
        if named.any():
            entries = [flat[at] for at in np.flatnonzero(named)]
            names[named] = self.listings.name_vectors([entry.name for entry in entries])
            codes[named] = self.listings.encode([entry.attributes for entry in entries])
        names, events = names.astype(jnp.bfloat16), np.array([entry.event for entry in flat], np.int32)
        given, start = [], 0
        for sequence in sequences:
            rows = np.arange(start, start + len(sequence))
            used = rows[(items[rows] >= 0) | named[rows]]
            self._note_unknown([flat[row].item for row in np.setdiff1d(rows, used)], len(used))
            bought = np.unique(items[used][(events[used] == self.types.index(BOUGHT)) & (items[used] >= 0)])
            given.append(Given(names[used], codes[used], events[used], bought))
            start += len(sequence)
        return given

    def _note_unknown(self, unknown: Sequence[Any], known: int) -> None:
        if not unknown:
            return
        shown = ", ".join(str(item)[:40] for item in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        instead = "" if known else "; nothing else is there, so the most popular items are recommended"
        many = f"{len(unknown)} unknown items" if len(unknown) > 1 else "unknown item"
        warnings.warn(f"{many} without a 'name' left out: {shown}{instead}", UnknownItems, stacklevel=4)

    # ---- similar items -----------------------------------------------------------------------------------------------

    def _by_name(self, item: Any, index: int) -> np.ndarray:
        """float32[items], cosines of names; -inf where there is none."""
        if index >= 0:
            own = self.listings.vectors(np.array([index]))
            if not own.any():
                raise UserError(f"item {item}: has no name, so none is like it; ask for another")
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
            raise UserError(f"item {name}: none of the run's {len(self.listings):,}; give one of them, or a name")

    def _by_row(self, item: Any, index: int) -> np.ndarray:
        """float32[items], cosines of the item head's vectors; -inf where training has not seen the item."""
        if index < 0 or not self._trained[index]:
            what = "unknown to the run" if index < 0 else "not in training"
            raise UserError(
                f"item {item}: {what}, and model.head items compares what it was trained on; ask for another"
            )
        vectors = self._weights["tables"]["item"][:, :-1]
        cosines = (vectors @ vectors[index]) / jnp.maximum(
            jnp.linalg.norm(vectors, axis=1) * jnp.linalg.norm(vectors[index]), 1e-12
        )
        return np.where(self._trained, np.asarray(cosines), -np.inf)

    def _directions(self, vectors: np.ndarray) -> np.ndarray:
        """float32[n, T] of length 1: name vectors, float16[n, dim], in the space of the text head."""
        found = np.asarray(self._project(self._weights, jnp.asarray(vectors)))
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    @cached_property
    def _name_directions(self) -> np.ndarray:
        """float32[U, T], ``_directions`` of the names of the run's data."""
        names = self._catalogue.vectors
        parts = [self._directions(np.asarray(names[start : start + NAMES_AT_ONCE]))
                 for start in range(0, len(names), NAMES_AT_ONCE)]  # fmt: skip
        return np.concatenate(parts)


@partial(jax.jit, static_argnames="k")
def _best(queries: Array, items: Array, allowed: Array, banned: Array, k: int) -> tuple[Array, Array]:
    """The k best items of each query, and their scores; -inf where fewer are allowed.

    Unlike ``ranking.top_items``, which works through the catalogue in parts, this reads the vectors where they lie: for
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
