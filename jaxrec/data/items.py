"""Items: raw ids to indices and back, and the items of event data as models see them.

A model of events sees the vectors of names, and attributes as codes: the place of a value among those of the items that
the training split holds, as it was prepared, from 1 on; 0 is any other value, or none. The price is a bucket: two to
each doubling of 1 + price.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.data.ids import Places, plain, whole
from jaxrec.data.store import checked, map_array
from jaxrec.data.text.vectors import META, TEXT, VECTORS, NameVectors, open_name_vectors
from jaxrec.errors import UserError

FIELDS = {
    "c0": "c0_id", "c1": "c1_id", "c2": "c2_id", "brand": "brand_id", "condition": "item_condition_id",
    "price": "price",
}  # fmt: skip
"""The fields of an item that a model can read, and the attributes that they come from."""
PRICE_BUCKETS = 40
NO_NAMES = np.zeros((1, 1), np.float16)  # in place of vectors where no item has a name


class Spans(NamedTuple):
    """When listings are live: int32[V] seconds after ``origin`` (ms since 1970), ``listed`` <= t < ``sold``."""

    listed: np.ndarray
    sold: np.ndarray
    origin: int

    def seconds(self, times: np.ndarray) -> np.ndarray:
        """int32[n] from int64[n] ms since 1970."""
        return ((np.asarray(times) - self.origin) // 1000).astype(np.int32)


@dataclass(frozen=True)
class Catalogue:
    """The items of a data set or a run.

    Attributes:
        vectors: float16[U, dim], of the distinct names; mapped.
        meta: which text model made them.
        name_of: int32[V], the name of each item; -1 for none.
        codes: int32[V, F] of ``fields``.
        fields: names of the fields that are read.
        values: of each field the values that have codes; empty for the price.
        spans: when the items are live; None where the data do not say.
    """

    vectors: np.ndarray
    meta: dict[str, Any]
    name_of: np.ndarray
    codes: np.ndarray
    fields: tuple[str, ...]
    values: tuple[pa.Array, ...]
    spans: Spans | None = None

    @property
    def n_items(self) -> int:
        return len(self.name_of)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def vector_files(self) -> tuple[str, ...]:
        """The files that hold the name vectors, within the data set."""
        return () if not self.meta else tuple(f"{TEXT}/{self.meta['identity']}/{name}" for name in (VECTORS, META))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each field, 0 included."""
        return tuple(
            PRICE_BUCKETS + 1 if name == "price" else len(values) + 1
            for name, values in zip(self.fields, self.values, strict=True)
        )

    @property
    def first_codes(self) -> np.ndarray:
        """int32[F]: where each field begins in one table of the values of all."""
        return np.cumsum([0, *self.sizes])[:-1].astype(np.int32)

    def encode(self, attributes: pa.Table) -> np.ndarray:
        """int32[n, F]: the codes of other items; a column that is not there counts as missing."""
        return field_codes(attributes, self.fields, self.values)


def open_catalogue(
    folder: Path, manifest: dict[str, Any], fields: Sequence[str], embeddings: str | None = None
) -> Catalogue:
    """Open the catalogue of a dataset directory, or of a run's ``dataset`` folder.

    Args:
        fields: of ``FIELDS``.
        embeddings: which name vectors, where there are those of several text models.
    """
    if "event_types" not in manifest:
        raise UserError(f"{folder}: holds no events with item names; prepare some with python -m jaxrec.prepare merrec")
    vectors, meta = NO_NAMES, {}
    if manifest["counts"].get("names", 1):
        names: NameVectors = open_name_vectors(folder, manifest, embeddings)
        vectors, meta = names.vectors, names.meta
    name_of = map_array(folder, "item_names.npy", manifest)
    attributes = _read_fields(folder, manifest, fields) if fields else pa.table({})
    trained = manifest["counts"]["trained"]
    values = tuple(_values(attributes, name, trained) for name in fields)
    codes = field_codes(attributes, fields, values) if fields else np.zeros((len(name_of), 0), np.int32)
    spans = read_spans(folder, manifest)
    return Catalogue(vectors, meta, np.asarray(name_of), codes, tuple(fields), values, spans)


def read_spans(folder: Path, manifest: dict[str, Any]) -> Spans | None:
    """When the listings of a data set are live; None where it does not say, and every item can be recommended."""
    if not manifest.get("live"):
        return None
    table = read_attributes(folder, manifest, ["listed", "sold"])
    listed, sold = table["listed"].to_numpy(), table["sold"].to_numpy()
    spans = Spans(listed, sold, int(listed.min()))
    return Spans(spans.seconds(listed), spans.seconds(sold), spans.origin)


def read_attributes(folder: Path, manifest: dict[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of ``attributes.parquet``, all where none are named."""
    file = checked(folder, "attributes.parquet", manifest)
    try:
        return pq.read_table(file, columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: missing or damaged ({str(error).splitlines()[0]}); prepare again") from None


def _read_fields(folder: Path, manifest: dict[str, Any], fields: Sequence[str]) -> pa.Table:
    """The attributes that fields of items come from."""
    there = attribute_names(folder, manifest)
    for name in fields:
        if not source_of(name, there):
            known = [one for one in FIELDS if source_of(one, there)]
            raise UserError(f"model.item_fields: {folder} has no {name} of its items; leave it out"
                            + (f" (there are {', '.join(known)})" if known else ""))  # fmt: skip
    return read_attributes(folder, manifest, [source_of(name, there) for name in fields])


def attribute_names(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The names of the attributes."""
    file = checked(folder, "attributes.parquet", manifest)
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: missing or damaged ({str(error).splitlines()[0]}); prepare again") from None


def source_of(field: str, attributes: Sequence[str]) -> str:
    """The attribute that a field comes from: its number, or where there is none its name; empty where neither is."""
    number = FIELDS[field]
    return next((one for one in (number, number.replace("_id", "_name")) if one in attributes), "")


def field_codes(attributes: pa.Table, fields: Sequence[str], values: Sequence[pa.Array]) -> np.ndarray:
    """int32[n, F]: the codes of items with these attributes."""
    codes = np.zeros((attributes.num_rows, len(fields)), np.int32)
    for column, (name, known) in enumerate(zip(fields, values, strict=True)):
        source = source_of(name, attributes.column_names)
        if not source:
            continue
        found = attributes[source]
        if name == "price":
            codes[:, column] = price_buckets(found.cast(pa.float64()).to_numpy())
        else:
            places = pc.index_in(found.cast(known.type), value_set=known)
            codes[:, column] = pc.fill_null(pc.add(places, 1), 0).to_numpy()
    return codes


def price_buckets(prices: np.ndarray) -> np.ndarray:
    """int32[n]: 1 + floor(2 log2(1 + price)), at most ``PRICE_BUCKETS``; 0 for a missing or negative price."""
    usable = np.isfinite(prices) & (prices >= 0)
    bucket = 1 + np.floor(2 * np.log2(1 + np.where(usable, prices, 0.0))).astype(np.int32)
    return np.where(usable, np.minimum(bucket, PRICE_BUCKETS), 0)


def _values(attributes: pa.Table, name: str, trained: int) -> pa.Array:
    """The values that items of training have, ascending."""
    column = attributes[source_of(name, attributes.column_names)]
    if name == "price":
        return pa.array([], column.type)
    known = pc.drop_null(pc.unique(column.slice(0, trained)))
    return known.take(pc.sort_indices(known))


class Vocabulary:
    """The items of a data set; the row number is the item's index.

    Attributes:
        ids: int64[V] or StringDType[V], as in the raw data.
        counts: int64[V], events in the whole training split, descending.
    """

    def __init__(self, ids: np.ndarray, counts: np.ndarray) -> None:
        self.ids, self.counts = ids, counts

    @classmethod
    def read(cls, file: Path) -> Vocabulary:
        """Read ``items.parquet``."""
        try:
            table = pq.read_table(file, columns=["item", "count"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: missing or damaged ({str(error).splitlines()[0]}); prepare again") from None
        item = table["item"].combine_chunks()
        if pa.types.is_integer(item.type):
            ids = item.to_numpy().astype(np.int64)
        else:
            ids = np.array(item.to_pylist(), dtype=np.dtypes.StringDType())
        return cls(ids, table["count"].to_numpy())

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, raw: Iterable[Any]) -> np.ndarray:
        """int32[n] indices of raw ids; -1 for one that is not in the vocabulary. See ``jaxrec.data.ids``."""
        values = list(raw)
        if not values or not len(self.ids):
            return np.full(len(values), -1, np.int32)
        if self.ids.dtype != np.int64:
            return np.array([self._places.find(value) for value in values], np.int32)
        plainly = all(type(value) is int and abs(value) < 2**63 for value in values)
        numbers = values if plainly else [whole(plain(value)) for value in values]
        wanted = np.array([0 if number is None else number for number in numbers], np.int64)
        valid = np.array([number is not None for number in numbers])
        order, ordered = self._sorted
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(valid & (ordered[place] == wanted), order[place], -1).astype(np.int32)

    def nearest(self, value: Any) -> str:
        """`` (did you mean 'x'?)`` where an id is close, otherwise an empty string."""
        return "" if self.ids.dtype == np.int64 else self._places.nearest(value)

    def decode(self, indices: np.ndarray) -> list[int] | list[str]:
        """Raw ids of int[n] indices, as Python integers or strings."""
        found: list[int] | list[str] = self.ids[np.asarray(indices)].tolist()
        return found

    @cached_property
    def _places(self) -> Places:
        # Not searchsorted: NumPy's fails on two StringDType arrays that hold strings of more than 15 bytes.
        return Places(self.ids.tolist())

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.ids, kind="stable")
        return order, self.ids[order]
