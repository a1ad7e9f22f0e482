"""What is recommended of a run of merrec: listings of its data, and new ones by name; see ``jaxrec.recommend``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jax import Array
from pydantic import StringConstraints

from jaxrec.cli.command import progress
from jaxrec.data.given import Id, bare, check_events, check_rows, item_rows, read_time, row_types, type_of
from jaxrec.data.items import Added, Items, attribute_schema, note_left_out, read_attributes
from jaxrec.data.store import checked
from jaxrec.data.text.encoding import NAMES, embed, find_model
from jaxrec.errors import UserError
from jaxrec.sources.merrec import BOUGHT
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.events.ranking import listings
from jaxrec.tasks.query import Answer, Inputs, Query
from jaxrec.tasks.vectors import BATCH, Waiting, filled, in_batches, padded, ranked, steps, vector_table

SHOWN = ("name", "price", "c0_name", "c1_name", "c2_name", "brand_name", "item_condition_name")
"""Attributes that are given with an item."""


class Recommender:
    """See ``jaxrec.tasks.query.Kind``; what was bought is ``gone``. The model reads the last ``window`` events, of some
    ``types``; ``live`` is whether the data say when listings are. Items are by index first those of the run's
    catalogue, then those that were added.
    """

    reads = ("events", "at")
    id_field = "item"  # of the rows of new items
    can = frozenset({"similar", "add", "vectors", "example", "filter"})

    def __init__(self, loaded: Loaded) -> None:
        run, model, weights, _ = loaded
        catalogue, self.run, self.types = model.catalogue, run, tuple(run.manifest["event_types"])
        bought = run.manifest.get("bought", BOUGHT)
        self.bought, self._purchase = bought, -1 if bought is None else self.types.index(bought)
        attributes, vocabulary = partial(read_attributes, run.path / "dataset", run.manifest), run.vocabulary()
        self._schema = attribute_schema(run.path / "dataset", run.manifest)
        further = [name for name in run.manifest.get("options", {}).get("attributes", ()) if name in self._schema.names]
        table = attributes([name for name in (*SHOWN, *further) if name in self._schema.names], coded=True)
        none = pa.nulls(len(vocabulary), pa.string())
        shown = pa.table({name: table[name] if name in table.column_names else none for name in (*SHOWN, *further)})
        self.items = Items(vocabulary.ids, shown, attributes, catalogue.spans, vocabulary.counts)
        self.counts, self.live = np.asarray(run.kept("item_counts")).astype(np.float32), catalogue.spans is not None
        self._old, self._shown = len(vocabulary), shown.column_names
        self._model, self._catalogue, self._weights, self._codes = model, catalogue, weights, catalogue.codes
        vectors, self._memory = model.catalogue_vectors(weights, self.counts > 0), run.config.evaluation.memory
        self._items = self._of_run = listings(vectors, self._memory)
        self._names = np.zeros((0, catalogue.dim), np.float16)  # name vectors of what was added
        self._encode = jax.jit(model.last_query)
        self._rankable = jax.jit(lambda weights, rows, trained, names: model.vectors(
            weights, rows, trained, model.texts(weights, names)))  # fmt: skip

    def read(self, queries: Sequence[Query], seen: bool) -> list[Inputs]:
        """All sequences with one look-up."""
        sequences = [check_events(query.events, self.types, self._schema) for query in queries]
        flat = [entry for sequence in sequences for entry in sequence]
        items = self.items.ids.encode([-1 if entry.item is None else entry.item for entry in flat])
        items = np.where([entry.item is not None for entry in flat], items, -1)
        named = np.array([bool(entry.name) for entry in flat], bool) & (items < 0)
        names, codes = self._names_of(np.maximum(items, 0)), self._codes[np.maximum(items, 0)]
        if named.any():
            entries = [flat[at] for at in np.flatnonzero(named)]
            names[named] = self.name_vectors([entry.name for entry in entries])
            given = pa.Table.from_pylist([entry.attributes for entry in entries], self._schema)
            codes[named] = self._catalogue.encode(given)
        names, events = names.astype(jnp.bfloat16), np.array([entry.event for entry in flat], np.int32)
        inputs, start = list[Inputs](), 0
        for query, sequence in zip(queries, sequences, strict=True):
            rows = np.arange(start, start := start + len(sequence))
            used = rows[(items[rows] >= 0) | named[rows]]
            gone = items[used][(events[used] == self._purchase) & (items[used] >= 0) & (not seen)]
            lost, time = [flat[row].item for row in rows if row not in used], self.time(query.at)
            what, notes = (names[used], codes[used], events[used]), note_left_out(lost, "events without a name")
            inputs.append(Inputs(what, np.unique(gone), notes, len(used) > 0, lost, time if self.live else None))
        return inputs

    def best(self, inputs: Sequence[Inputs], k: int, mask: np.ndarray, rules: bool) -> Iterator[Any]:
        """The best items of each sequence that are live at its time."""
        table, times = self._items, np.array([one.at or 0 for one in inputs], np.int64)
        kernel_at = table.kernel(mask if self._model.has_text else mask & (self.counts > 0), self.items.ends)

        def dispatch(part: slice, rows: int) -> Waiting:
            kernel = kernel_at(filled(self.items.seconds(times[part]), rows))
            queries = self._queries([one.what for one in inputs[part]], rows)
            return ranked(kernel, queries, len(table), [one.gone for one in inputs[part]], k)

        fit = self._memory * 2**18 // len(self.items)  # sequences whose scores keep to the memory
        return in_batches(len(inputs), dispatch, min(BATCH, 1 << max(1, fit).bit_length() - 1))

    def similar(self, item: Any, k: int) -> Answer:
        """The items most like one, whether live or not: by the cosine of their names in the space of the text head, or
        without one by that of their vectors in the item head."""
        index, has_text = self.items.index(item), self._model.has_text
        part = slice(-self._weights["params"]["match"].shape[1], None) if has_text else slice(-1)
        alike, has = self._items.compared(part, has_text)
        if not has[index]:
            raise UserError(f"item {bare(item)}: none is like it: it has no name, or was not in training (model.head "
                            "items); give another")  # fmt: skip
        kernel = alike.kernel(has, None)(None)
        ((places, scores),) = ranked(kernel, alike.row(index), len(alike), [np.array([index])], k)()
        return Answer(self.items, places, scores)

    def add(self, items: Any) -> Added:
        """Let new listings be recommended by their names, all or none: mappings of ``item``, ``name`` and other
        attributes, a table, or a Parquet, CSV or JSON file with such columns."""
        if not self._model.has_text:
            raise UserError(f"{self.run.path}: model.head items ranks nothing but what it was trained on; to add items "
                            "train with model.head text or both")  # fmt: skip
        place = f"{items}: row" if isinstance(items, (str, Path)) else "new item"
        types = {"item": Id} | {field.name: type_of(field.type) for field in self._schema}
        required = {"name": Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]}
        rows = check_rows(place, item_rows(items), row_types(types, required))
        ids = self.items.new_ids(place, "item", rows)
        self._names = np.append(self._names, self.name_vectors([row["name"] for row in rows]), 0)
        self._codes = np.append(self._codes, self._catalogue.encode(pa.Table.from_pylist(rows, self._schema)), 0)
        self.items.add(ids, rows, [{name: row.get(name) for name in self._shown} for row in rows])
        self._items = self._of_run.extended(self._unseen(self._names))
        self.counts = np.pad(self.counts, (0, len(ids)))
        return Added(ids)

    def vectors(self) -> pa.Table:
        """``id``, ``vector``, whose product with a query ranks, and the attributes."""
        ids = self.items.ids.values()
        return vector_table(ids, self._items.whole()[: len(ids)], self.items.attributes)

    def example(self, seed: int | None = None) -> list[dict[str, Any]]:
        """The events of one of the sequences that the run keeps, with what is known of their items."""
        offsets = self.run.kept("example_offsets")
        number = int(np.random.default_rng(seed).integers(len(offsets) - 1))
        part = slice(int(offsets[number]), int(offsets[number + 1]))
        items, events, times = (self.run.kept(f"example_{name}")[part] for name in ("items", "events", "times"))
        return [{"item": item, "event": self.types[event], "time": int(time)} | known for item, event, time, known in
                zip(self.items.ids.decode(items), events, times, self.items.known(items), strict=True)]  # fmt: skip

    # ---- what the model reads ----------------------------------------------------------------------------------------

    def time(self, at: Any) -> int:
        """ms since 1970 of a moment (see ``given.read_time``), at which listings can be live; None: of the newest event
        that the run keeps."""
        time = read_time(at)
        if time is None:
            return int(np.max(self.run.kept("example_times"), initial=0))
        if not self.live:
            raise UserError("at: the run's data do not say when listings are live; leave it out")
        return time

    def _names_of(self, items: np.ndarray) -> np.ndarray:
        """float16[n, dim]: the name vectors of items, int64[n]; zeros for one without a name."""
        old = self._old
        rows = np.where(items < old, self._catalogue.name_of[np.minimum(items, old - 1)], -1)
        found = np.where((rows >= 0)[:, None], self._catalogue.vectors[rows], np.float16(0))
        found[items >= old] = self._names[items[items >= old] - old]
        return found

    def _unseen(self, names: np.ndarray) -> np.ndarray:
        """float32[n, Q]: what ranks items of such names, float16[n, dim], that training has not seen."""
        n = steps(len(names), 16, 16)
        own = jnp.zeros((n, self._model.tables["item"].width)) if self._model.has_items else None
        return np.asarray(self._rankable(self._weights, own, jnp.zeros(n, bool), filled(names, n)))[: len(names)]

    def name_vectors(self, names: Sequence[str]) -> np.ndarray:
        """float16[n, dim]: of names that are not empty. Those of the run's data are there already; for others the run's
        text model is asked."""
        column = pq.read_table(checked(self.run.path / "dataset", NAMES, self.run.manifest))["name"]
        places = pc.index_in(pa.array(names, column.type), value_set=column).fill_null(-1).to_numpy()
        vectors, meta = np.array(self._catalogue.vectors[places]), self._catalogue.meta
        missing = [names[int(at)] for at in np.flatnonzero(places < 0)]
        if not missing:
            return vectors
        if not meta:
            raise UserError(f"name {bare(missing[0])}: the run's items have no names; give items by their ids")
        if (identity := find_model(meta["model"])[1]) != meta["identity"]:
            raise UserError(f"{meta['model']}: another text model than the run's: {identity}, the run has "
                            f"{meta['identity']}; put that one back")  # fmt: skip
        with progress("encode names", len(missing)) as update:
            vectors[places < 0] = embed(missing, meta["model"], update)
        return vectors

    def _queries(self, sequences: Sequence[Any], rows: int) -> Array:
        """float32[rows, Q], of sequences of bfloat16[n, dim] vectors of items' names, int32[n, F] codes and int32[n]
        event types; they are padded as well, so that few shapes are compiled."""
        last = [[part[-self._model.window :] for part in one] for one in sequences]
        lengths = np.array([len(events) for *_, events in last], np.int32)
        n = min(steps(int(lengths.max()), 16, 4), self._model.window)
        parts = (jnp.asarray(padded(part, rows, n, dtype=part[0].dtype)) for part in zip(*last, strict=True))
        return self._encode(self._weights, *parts, filled(lengths, rows))
