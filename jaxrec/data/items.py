"""The items of a run: raw ids to indices and back, what is known of them, when they can be had, which of them may be
recommended, and those that were added since. And as models of events see them: vectors of names, attributes as codes.

A code is the place of a value among those of the items that the training split holds, as it was prepared, from 1 on; 0
is any other value, or none. The price is a bucket: two to each doubling of 1 + price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.data.filters import matching
from jaxrec.data.given import LIVE, Ids, bare, check_single, listing, plain, read_list, whole
from jaxrec.data.store import checked, map_array
from jaxrec.data.text.encoding import META, TEXT, VECTORS, open_name_vectors
from jaxrec.errors import UserError, shown

LAST = 253_402_300_800_000  # ms: the year 10000
FAR = 2**31 - 1  # seconds
FIELDS = {
    "c0": "c0_id", "c1": "c1_id", "c2": "c2_id", "brand": "brand_id", "condition": "item_condition_id",
    "price": "price",
}  # fmt: skip
"""The fields of an item that a model can read, and the attributes that they come from."""
PRICE_BUCKETS = 40


class Spans(NamedTuple):
    """When listings are live: int32[V] seconds after ``origin`` (ms since 1970), ``listed`` <= t < ``sold``."""

    listed: np.ndarray
    sold: np.ndarray
    origin: int

    def seconds(self, times: Any) -> np.ndarray:
        """int32[n] from int64[n] ms since 1970."""
        return np.clip((np.asarray(times) - self.origin) // 1000, -FAR, FAR - 1).astype(np.int32)


ALWAYS = Spans(np.zeros(0), np.zeros(0), 0)


class Added(list[Any]):
    """Raw ids of items that were added, and what is to be said of them: ``notes``."""

    def __init__(self, ids: Iterable[Any], notes: Iterable[str] = ()) -> None:
        super().__init__(ids)
        self.notes = list(dict.fromkeys(notes))


class Items:
    """Items, or the users of a run, by index, which begins with ``first``: those before it stand for unknown ones.

    Args:
        ids: raw ids, or ``Ids``, which become the attribute ``ids``.
        shown, attributes: what is given with an item, and what makes the table that filters can name, a row an index.
        spans: when items can be had; None: always.
        counts: int64[V], events of each in training, descending, where that is the order of the items.
    """

    def __init__(
        self, ids: Any, shown: pa.Table | None = None, attributes: Callable[[], pa.Table] | None = None,
        spans: Spans | None = None, counts: np.ndarray | None = None, first: int = 0,
    ) -> None:  # fmt: skip
        self.ids = ids if isinstance(ids, Ids) else Ids(ids, first)
        self.first, self.spans, self.counts = first, spans, np.zeros(0) if counts is None else counts
        self._attributes, self._rows, self._known = attributes, list[Mapping[str, Any]](), list[dict[str, Any]]()
        self._shown = shown.combine_chunks() if shown and shown.column_names else None  # one chunk: rows found at once
        self._old = first + len(self)

    @classmethod
    def read(cls, file: Path) -> Items:
        """From the ``items.parquet`` of sessions or events."""
        table = pq.read_table(file, columns=["item", "count"])
        return cls(table["item"], counts=table["count"].to_numpy())

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, item: Any) -> int:
        """The index of the one item that is asked about, which has to be there."""
        check_single("item", item)
        index = self.ids.find(item)
        if index < 0:
            raise UserError(f"item {bare(item)}: unknown; name one of {len(self):,}")
        return index

    def places(self, what: str, raw: Any) -> tuple[np.ndarray, list[str]]:
        """int32[m] indices of those of some ids that are known, and a note of the others."""
        values = [] if raw is None else read_list(what, raw)
        for value in values:
            check_single(what, value)
        places = self.ids.encode(values)
        return places[places >= 0], note_left_out([values[at] for at in np.flatnonzero(places < 0)], what)

    def known(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """What is shown of items; of those that were added what was given."""
        places = np.asarray(indices, np.int64)
        shown = self._shown and self._shown.take(pa.array(np.minimum(places, self._old - 1))).to_pylist()
        rows = shown or [{} for _ in places]
        return [dict(self._known[place - self._old]) if place >= self._old else row
                for place, row in zip(places.tolist(), rows, strict=True)]  # fmt: skip

    @cached_property
    def attributes(self) -> pa.Table:
        """A row an index."""
        if self._attributes is None:
            raise UserError("where: the run's items have no attributes to filter by; name items by their ids")
        table = self._attributes()
        rows = [{field.name: _fitting(row.get(field.name), field.type) for field in table.schema} for row in self._rows]
        return pa.concat_tables([table, pa.Table.from_pylist(rows, table.schema)]).combine_chunks()

    def allowed(self, only: Any = None, exclude: Any = ()) -> tuple[np.ndarray, list[str]]:
        """bool[first + n]: the items that can be recommended, if they are live, of a filter (see ``data.filters``) or
        raw ids ``only``, without the raw ids ``exclude``; and notes.
        """
        every, notes = np.arange(self.first + len(self)), list[str]()
        mask = every >= self.first
        if isinstance(only, str):
            # Until when a listing will be live nobody knows at the time.
            table = self.attributes.drop_columns([name for name in LIVE if name in self.attributes.column_names])
            mask = np.isin(every, matching(table.slice(self.first), only) + self.first)
        elif only is not None:
            places, notes = self.places("only", only)
            if not len(places):
                raise UserError(f"only: none of them is known to the run ({'; '.join(notes) or 'none'}); name others")
            mask = np.isin(every, places)
        gone, more = self.places("exclude", exclude)
        mask[gone] = False
        return mask, notes + more

    def seconds(self, times: Any) -> np.ndarray:
        """int32[n]: times in ms since 1970 as ``ends`` count them."""
        return (self.spans or ALWAYS).seconds(times)

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """int32[items] each: when items are listed and sold; what was added is live unless it says otherwise."""
        if self.spans is None:
            n = self.first + len(self)
            return np.full(n, -FAR, np.int32), np.full(n, FAR, np.int32)
        times = ([_fitting(row.get(name), pa.int64()) for row in self._rows] for name in LIVE)
        listed, sold = ([end if time is None else time for time in column]
                        for column, end in zip(times, (-LAST, LAST), strict=True))  # fmt: skip
        return np.append(self.spans.listed, self.seconds(listed)), np.append(self.spans.sold, self.seconds(sold))

    def live(self, time: int) -> np.ndarray:
        """bool[first + n]: the items that can be had at a time, ms since 1970."""
        seconds, (listed, sold) = self.seconds(time), self.ends
        return np.asarray((listed <= seconds) & (seconds < sold))

    def new_ids(self, place: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The ids of new items, field ``name`` of their rows, which must not be there yet; ``place`` begins errors."""
        taken = dict[str, Any]()
        for number, row in enumerate(rows, 1):
            value = plain(row.get(name))
            one: Any = value.strip() if isinstance(value, str) else whole(value)
            if one in (None, ""):
                raise UserError(f"{place} {number}: no '{name}', which identifies it (found {shown(value)}); give a "
                                "whole number or text")  # fmt: skip
            number_of = whole(one) if self.ids.integers else None
            one = one if number_of is None else number_of
            if self.ids.find(one) >= 0 or str(one) in taken:
                raise UserError(f"{place} {number}: '{bare(one)}' is there already; give it another id")
            taken[str(one)] = one
        return list(taken.values())

    def add(self, ids: Sequence[Any], rows: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> None:
        """Put items behind the others; ``rows`` are their attributes, for filters, and ``known`` is what is shown."""
        for name in ("attributes", "ends"):
            self.__dict__.pop(name, None)
        self.ids = self.ids.extended(ids)  # whoever reads meanwhile keeps the former ones
        self._rows, self._known = [*self._rows, *rows], [*self._known, *map(dict, known)]


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of some type can hold it, or else what its text says, or else None; a text is no list of
    letters.
    """
    value = [value] if pa.types.is_list(kind) and isinstance(value, str) else value
    for scalar in (lambda: pa.scalar(value, kind), lambda: pa.scalar(str(value)).cast(kind)):
        try:
            return scalar().as_py()
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return None


def note_left_out(lost: Sequence[Any], what: str) -> list[str]:
    """The note of unknown ids that are left out, none without any; ``what`` is the argument in which they stood."""
    if not lost:
        return []
    many = f"{len(lost):,} unknown items" if len(lost) > 1 else "1 unknown item"
    return [f"{what}: {many} left out: {listing(lost)}"]


def read_spans(folder: Path, manifest: dict[str, Any]) -> Spans | None:
    """When the listings of a data set are live; None where it does not say."""
    if not manifest.get("live"):
        return None
    listed, sold = (column.to_numpy() for column in read_attributes(folder, manifest, LIVE).columns)
    spans = Spans(listed, sold, int(listed.min()))
    return Spans(spans.seconds(listed), spans.seconds(sold), spans.origin)


def read_attributes(
    folder: Path, manifest: dict[str, Any], columns: Sequence[str] | None = None, coded: bool = False
) -> pa.Table:
    """Columns of ``attributes.parquet``, all where none are named; ``coded``: each distinct text once, as a dictionary,
    since a catalogue of millions repeats few."""
    texts = [field.name for field in attribute_schema(folder, manifest) if pa.types.is_string(field.type)]
    file = checked(folder, "attributes.parquet", manifest)
    return pq.read_table(file, columns=columns and list(columns), read_dictionary=texts if coded else None)


def attribute_schema(folder: Path, manifest: dict[str, Any]) -> pa.Schema:
    """The names and types of the attributes."""
    return pq.read_schema(checked(folder, "attributes.parquet", manifest))


def attribute_names(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The names of the attributes."""
    return list(attribute_schema(folder, manifest).names)


@dataclass(frozen=True)
class Catalogue:
    """The items of a data set or a run."""

    vectors: np.ndarray  # float16[U, dim], of the distinct names; mapped
    meta: dict[str, Any]  # which text model made them; empty where no item has a name
    name_of: np.ndarray  # int32[V], the name of each item; -1 for none
    codes: np.ndarray  # int32[V, F] of ``fields``
    fields: tuple[str, ...]  # names of the fields that are read
    values: tuple[pa.Array, ...]  # of each field the values that have codes; empty for the price
    spans: Spans | None = None  # when the items are live; None where the data do not say

    @property
    def n_items(self) -> int:
        return len(self.name_of)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def vector_files(self) -> tuple[str, ...]:
        """The files that hold the name vectors, within the data set."""
        return tuple(f"{TEXT}/{self.meta['identity']}/{name}" for name in (VECTORS, META) if self.meta)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each field, 0 included."""
        own = zip(self.fields, self.values, strict=True)
        return tuple(1 + (PRICE_BUCKETS if name == "price" else len(values)) for name, values in own)

    @property
    def first_codes(self) -> np.ndarray:
        """int32[F]: where each field begins in one table of the values of all."""
        return np.cumsum([0, *self.sizes])[:-1].astype(np.int32)

    def encode(self, attributes: pa.Table) -> np.ndarray:
        """int32[n, F]: the codes of other items; a column that is not there counts as missing."""
        return field_codes(attributes, self.fields, self.values)


def open_catalogue(folder: Path, manifest: dict[str, Any], fields: Sequence[str]) -> Catalogue:
    """The catalogue of a dataset directory, or of a run's ``dataset`` folder, with fields of ``FIELDS``."""
    if "event_types" not in manifest:
        raise UserError(f"{folder}: holds no events with item names; prepare some with python -m jaxrec.prepare merrec")
    vectors, meta = np.zeros((1, 1), np.float16), dict[str, Any]()
    if manifest["counts"].get("names", 1):
        vectors, meta = open_name_vectors(folder, manifest)
    name_of = np.asarray(map_array(folder, "item_names.npy", manifest))
    there = attribute_names(folder, manifest) if fields else []
    if lost := [name for name in fields if not source_of(name, there)]:
        known = ", ".join(one for one in FIELDS if source_of(one, there)) or "none"
        raise UserError(f"model.item_fields: {folder} has no {lost[0]} of its items; leave it out; there are {known}")
    sources = [source_of(name, there) for name in fields]
    attributes = read_attributes(folder, manifest, sources) if fields else pa.table({"": name_of})
    values = []
    for name, source in zip(fields, sources, strict=True):
        trained = attributes[source].slice(0, 0 if name == "price" else manifest["counts"]["trained"])
        distinct = pc.drop_null(pc.unique(trained))
        values.append(distinct.take(pc.sort_indices(distinct)))
    codes = field_codes(attributes, fields, values)
    return Catalogue(vectors, meta, name_of, codes, tuple(fields), tuple(values), read_spans(folder, manifest))


def source_of(field: str, attributes: Sequence[str]) -> str:
    """The attribute that a field comes from: its number, or where there is none its name; empty where neither is."""
    number = FIELDS[field]
    return next((one for one in (number, number.replace("_id", "_name")) if one in attributes), "")


def field_codes(attributes: pa.Table, fields: Sequence[str], values: Sequence[pa.Array]) -> np.ndarray:
    """int32[n, F]: the codes of items with these attributes."""
    codes = np.zeros((attributes.num_rows, len(fields)), np.int32)
    for column, (name, known) in enumerate(zip(fields, values, strict=True)):
        source = source_of(name, attributes.column_names)
        if source and name == "price":
            prices = attributes[source].cast(pa.float64()).to_numpy()
            usable = np.isfinite(prices) & (prices >= 0)
            bucket = 1 + np.floor(2 * np.log2(1 + np.where(usable, prices, 0.0))).astype(np.int32)
            codes[:, column] = np.where(usable, np.minimum(bucket, PRICE_BUCKETS), 0)
        elif source:
            places = pc.index_in(attributes[source].cast(known.type), value_set=known)
            codes[:, column] = pc.fill_null(pc.add(places, 1), 0).to_numpy()
    return codes
