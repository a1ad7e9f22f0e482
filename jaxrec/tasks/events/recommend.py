"""What is recommended of a run of merrec: listings of its data, and new ones by name; see ``jaxrec.recommend``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import Array

from jaxrec.data.catalogue import Catalogue
from jaxrec.data.given import Entry, check_events
from jaxrec.data.ids import bare
from jaxrec.data.items import Added, note_left_out
from jaxrec.errors import UserError
from jaxrec.models.merrec import NAMES_AT_ONCE, MERRec
from jaxrec.ops.topk import Live
from jaxrec.run import Run
from jaxrec.sources.merrec import BOUGHT
from jaxrec.tasks.base import load
from jaxrec.tasks.events.listings import Listings
from jaxrec.tasks.query import Answer, Item, Query
from jaxrec.tasks.vectors import (
    BATCH,
    NOTHING_LEFT,
    POPULAR,
    Best,
    batches,
    capacity,
    one_ahead,
    padded,
    ranked,
    room,
    steps,
    vector_table,
)


class Sequences(NamedTuple):
    """A sequence as the model reads it, without what is unknown.

    Attributes:
        names: bfloat16[n, dim], vectors of the items' names.
        codes: int32[n, F].
        events: int32[n].
        bought: int64[m], items of purchases.
        lost: ids that are unknown and have no name.
    """

    names: np.ndarray
    codes: np.ndarray
    events: np.ndarray
    bought: np.ndarray
    lost: list[Any]


class EventRecommender:
    """The next items of sequences of events.

    Attributes:
        listings: the items.
        types: of events.
        bought: the one that is a purchase; None: none is.
    """

    reads = ("events", "at")
    can = frozenset({"similar", "add", "vectors", "example", "filter", "names"})

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
    def load(cls, run: Run, text_model: str | None = None) -> EventRecommender:
        loaded = load(run, "events")
        return cls(run, loaded.model, loaded.model.catalogue, loaded.weights, text_model)

    @property
    def n_items(self) -> int:
        return len(self.listings)

    def recommend(
        self, queries: Sequence[Query], k: int, *, exclude: Any = (), only: Any = None, seen: bool = False,
        rules: bool = True,
    ) -> list[Answer]:  # fmt: skip
        """The items with which most likely something is done next, of those live at the query's time; what was bought
        is ``seen``. The model reads the last ``model.window`` events."""
        schema = self.listings.items.attributes.schema
        entries = [check_events(query.events, self.types, schema) for query in queries]
        given = read_sequences(self.listings, self.types, self.bought, entries)
        times = [self.listings.time(query.at) for query in queries]
        chosen, notes = self.listings.items.allowed(only)
        chosen = chosen if self._model.has_text else chosen & self._trained
        gone, more = self.listings.items.places("exclude", exclude)
        allowed = chosen.copy()
        allowed[gone] = False
        best = self._ranked(given, times, k, allowed, seen)
        shown, answers = iter(self._shown(*(np.concatenate(part) for part in zip(*best, strict=True)))), []
        for one, row, time in zip(given, best, times, strict=True):
            items = list(islice(shown, len(row.items)))
            if not items:
                self.listings.check_live(chosen, time)
            said = [*notes, *more, *note_left_out(one.lost, "events without a name")]
            said += [*([] if len(one.events) else [POPULAR]), *([] if items else [NOTHING_LEFT])]
            at = time if self.listings.live else None
            answers.append(Answer(items, said, not len(one.events), one.lost, at))
        return answers

    def similar(self, item: Any, k: int) -> Answer:
        """The items most like one, whether live or not: by the cosine of their names in the space of the text head, or
        without one by that of their vectors in the item head. With a text head ``item`` may be any name."""
        index = self.listings.items.ids.find(item)
        cosines = self._by_name(item, index) if self._model.has_text else self._by_row(item, index)
        if index >= 0:
            cosines[index] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[:k]
        nearest = nearest[cosines[nearest] > -np.inf]
        return Answer(self._shown(nearest, cosines[nearest]))

    def add(self, items: Any) -> Added:
        """Let new listings be recommended by their names; see ``Listings.add``."""
        if not self._model.has_text:
            raise UserError(f"{self.run.path}: model.head items ranks nothing but what it was trained on; to add items "
                            "train with model.head text or both")  # fmt: skip
        first, added = len(self.listings), self.listings.add(items)
        old, n = self.listings.old, len(self.listings)
        new = np.arange(first, n)
        table = np.zeros((capacity(old, n - old), self._items.shape[1]), np.float32)  # room for more is padding
        table[: len(self._trained)] = np.asarray(self._items)[: len(self._trained)]
        table[len(self._trained) : n] = self._new_vectors(self.listings.vectors(new))
        self._items = jnp.asarray(table)
        self._trained = np.append(self._trained, np.zeros(len(new), bool))
        self._counts = np.append(self._counts, np.zeros(len(new), self._counts.dtype))
        return added

    def vectors(self) -> pa.Table:
        """``id``, ``vector``, whose product with a query ranks, and the attributes."""
        ids = self.listings.items.ids.values()
        return vector_table(ids, np.asarray(self._items)[: len(ids)], self.listings.items.attributes)

    def example(self, seed: int | None = None) -> list[dict[str, Any]]:
        """The events of one of the sequences that the run keeps, with what is known of their items."""
        offsets = self.run.kept("example_offsets")
        if len(offsets) < 2:
            raise UserError(f"{self.run.path}: keeps no example sequences; give events with --events")
        number = int(np.random.default_rng(seed).integers(len(offsets) - 1))
        part = slice(int(offsets[number]), int(offsets[number + 1]))
        items, events, times = (self.run.kept(f"example_{name}")[part] for name in ("items", "events", "times"))
        known = self.listings.known(items.astype(np.int64))
        return [
            {"item": item, "event": self.types[event], "time": int(time)} | what
            for item, event, time, what in zip(self.listings.items.decode(items), events, times, known, strict=True)
        ]

    # ---- ranking -----------------------------------------------------------------------------------------------------

    def _ranked(
        self, given: Sequence[Sequences], times: Sequence[int], k: int, allowed: np.ndarray, seen: bool
    ) -> list[Best]:
        """The best items of each sequence at its time; of one of which nothing is known the most popular."""
        more = (0, len(self._items) - len(allowed))
        listed, sold = (jnp.asarray(np.pad(one, more)) for one in self.listings.items.ends)
        mask, bought = jnp.asarray(np.pad(allowed, more)), [one.bought[:0] if seen else one.bought for one in given]

        def dispatched() -> Iterator[Any]:
            for part, rows in batches(len(given), self._rows()):
                at = np.zeros(rows, np.int32)
                at[: len(times[part])] = self.listings.items.seconds(times[part])
                kernel = partial(_best, items=self._items, allowed=mask, live=Live(listed, sold, jnp.asarray(at)))

                def best(queries: Array, ban: Array, k: int, kernel: Any = kernel) -> tuple[Array, Array]:
                    found: tuple[Array, Array] = kernel(queries, banned=ban, k=k)
                    return found

                yield ranked(best, self._queries(given[part], rows), len(self._items), bought[part], k)

        rows = (Best(*row) for best in one_ahead(dispatched()) for row in best.rows())
        return [
            row if len(one.events) else self._popular(k, allowed & self.listings.items.live(time), gone)
            for row, one, time, gone in zip(rows, given, times, bought, strict=True)
        ]

    def _rows(self) -> int:
        """Sequences that are ranked in one go: a power of two, so that their scores keep to ``evaluation.memory``."""
        cells = self.run.config.evaluation.memory * 2**18
        return max(1, min(BATCH, room(cells // len(self.listings) + 1) // 2))

    def _popular(self, k: int, allowed: np.ndarray, bought: np.ndarray) -> Best:
        left = np.setdiff1d(np.flatnonzero(allowed), bought)
        items = left[np.argsort(-self._counts[left], kind="stable")[:k]]
        return Best(items, self._counts[items].astype(np.float32))

    def _queries(self, given: Sequence[Sequences], rows: int) -> Array:
        """float32[rows, Q]; sequences are padded as well, so that few shapes are compiled."""
        window = self._model.window
        lengths = [min(len(one.events), window) for one in given]
        n = min(steps(max(lengths), 16, 4), window)
        names = np.zeros((rows, n, self._catalogue.dim), jnp.bfloat16)
        codes = np.zeros((rows, n, len(self._catalogue.fields)), np.int32)
        for row, (one, size) in enumerate(zip(given, lengths, strict=True)):
            last = slice(len(one.events) - size, None)
            names[row, :size], codes[row, :size] = one.names[last], one.codes[last]
        events = padded(
            [one.events[len(one.events) - size :] for one, size in zip(given, lengths, strict=True)], rows, n
        )
        length = np.pad(np.array(lengths, np.int32), (0, rows - len(lengths)))
        return self._encode(self._weights, *map(jnp.asarray, (names, codes, events, length)))

    def _shown(self, items: np.ndarray, scores: np.ndarray) -> list[Item]:
        """Items with their attributes, each of which is looked up once."""
        distinct, place = np.unique(items, return_inverse=True)
        ids, known = self.listings.items.decode(distinct), self.listings.known(distinct)
        return [Item(ids[at], score, known[at]) for at, score in zip(place, scores.tolist(), strict=True)]

    # ---- similar items -----------------------------------------------------------------------------------------------

    def _by_name(self, item: Any, index: int) -> np.ndarray:
        """float32[items], cosines of names; -inf where there is none."""
        if index >= 0:
            own = self.listings.vectors(np.array([index]))
            if not own.any():
                raise UserError(f"item {bare(item)}: has no name, so none is like it; ask for another")
        else:
            integers = self.listings.items.ids.integers
            if not isinstance(item, str) or not item.strip() or (integers and item.strip().isdecimal()):
                raise UserError(f"item {bare(item)}: none of the run's {len(self.listings):,}; give one of them, or a "
                                "name")  # fmt: skip
            own = self.listings.name_vectors([item.strip()])
        (query,) = self._directions(own)
        old, added = self._catalogue.name_of, np.arange(len(self._catalogue.name_of), len(self.listings))
        of_names = np.append(self._name_directions @ query, -np.inf)  # the last one for no name
        of_added = self._directions(self.listings.vectors(added)) @ query
        return np.concatenate([of_names[old], of_added]).astype(np.float32)

    def _by_row(self, item: Any, index: int) -> np.ndarray:
        """float32[items], cosines of the item head's vectors; -inf where training has not seen the item."""
        if index < 0 or not self._trained[index]:
            what = "unknown to the run" if index < 0 else "not in training"
            raise UserError(f"item {bare(item)}: {what}, and model.head items compares what it was trained on; ask for "
                            "another")  # fmt: skip
        cosines = np.asarray(_cosines(self._weights["tables"]["item"][:, :-1], index))
        return np.where(self._trained, cosines, -np.inf)

    def _directions(self, vectors: np.ndarray) -> np.ndarray:
        """float32[n, T] of length 1: name vectors, float16[n, dim], in the space of the text head."""
        n = steps(len(vectors), 16, 16)
        padded_vectors = jnp.asarray(np.pad(vectors, ((0, n - len(vectors)), (0, 0))))
        found = np.asarray(self._project(self._weights, padded_vectors))[: len(vectors)]
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
        padded_names = jnp.asarray(np.pad(names, ((0, n - len(names)), (0, 0))))
        rows = jnp.zeros((n, self._weights["tables"]["item"].shape[1])) if self._model.has_items else None
        return np.asarray(self._rankable(self._weights, rows, jnp.zeros(n, bool), padded_names))[: len(names)]


def read_sequences(
    listings: Listings, types: Sequence[str], bought: str | None, sequences: Sequence[Sequence[Entry]]
) -> list[Sequences]:
    """What the model reads of each sequence; all with one look-up."""
    purchase = -1 if bought is None else types.index(bought)
    flat = [entry for sequence in sequences for entry in sequence]
    items = listings.items.encode([-1 if entry.item is None else entry.item for entry in flat])
    items = np.where(np.array([entry.item is None for entry in flat], bool), -1, items)
    named = np.array([bool(entry.name) for entry in flat], bool) & (items < 0)
    names, codes = listings.vectors(np.maximum(items, 0)), listings.codes(np.maximum(items, 0))
    if named.any():
        entries = [flat[at] for at in np.flatnonzero(named)]
        names[named] = listings.name_vectors([entry.name for entry in entries])
        codes[named] = listings.encode([entry.attributes for entry in entries])
    names, events = names.astype(jnp.bfloat16), np.array([entry.event for entry in flat], np.int32)
    given, start = [], 0
    for sequence in sequences:
        rows = np.arange(start, start + len(sequence))
        is_used = (items[rows] >= 0) | named[rows]
        used = rows[is_used]
        gone = np.unique(items[used][(events[used] == purchase) & (items[used] >= 0)])
        lost = [flat[row].item for row in rows[~is_used]]
        given.append(Sequences(names[used], codes[used], events[used], gone, lost))
        start += len(sequence)
    return given


@jax.jit
def _cosines(vectors: Array, index: Array) -> Array:
    """float32[n]: of the vector of one item with all."""
    product = vectors @ vectors[index]
    return product / jnp.maximum(jnp.linalg.norm(vectors, axis=1) * jnp.linalg.norm(vectors[index]), 1e-12)


@partial(jax.jit, static_argnames="k")
def _best(queries: Array, items: Array, allowed: Array, live: Live, banned: Array, k: int) -> tuple[Array, Array]:
    """The k best items of each query, and their scores; -inf where fewer are allowed.

    Unlike ``topk.top_items``, which works through the catalogue in parts, this reads the vectors where they lie: for
    a query or a few that is ten times as fast in a catalogue of a million items.

    Args:
        queries: float32[q, Q].
        items: float32[V, Q].
        allowed: bool[V].
        live: when items are live, and when each query is asked.
        banned: int32[q, N], items that a query must not get; V for none.

    Returns:
        int32[q, k] and float32[q, k].
    """
    scores = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    is_live = (live.listed <= live.at[:, None]) & (live.at[:, None] < live.sold)
    scores = jnp.where(is_live & allowed & ~jnp.isnan(scores), scores, -jnp.inf)
    scores = scores.at[jnp.arange(len(queries))[:, None], banned].set(-jnp.inf, mode="drop")
    values, found = jax.lax.top_k(scores, k)
    return found, values


Recommender = EventRecommender
