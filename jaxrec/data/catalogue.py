"""The items of event data as models see them.

A model of events sees the vectors of names, and attributes as codes: the place of a value among those of the items that
the training split holds, as it was prepared, from 1 on; 0 is any other value, or none. The price is a bucket: two to
each doubling of 1 + price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.items import Spans, attribute_names, read_attributes, read_spans
from jaxrec.data.store import map_array
from jaxrec.data.text.vectors import META, TEXT, VECTORS, NameVectors, open_name_vectors
from jaxrec.errors import UserError

FIELDS = {
    "c0": "c0_id", "c1": "c1_id", "c2": "c2_id", "brand": "brand_id", "condition": "item_condition_id",
    "price": "price",
}  # fmt: skip
"""The fields of an item that a model can read, and the attributes that they come from."""
PRICE_BUCKETS = 40
NO_NAMES = np.zeros((1, 1), np.float16)  # in place of vectors where no item has a name


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


def _read_fields(folder: Path, manifest: dict[str, Any], fields: Sequence[str]) -> pa.Table:
    """The attributes that fields of items come from."""
    there = attribute_names(folder, manifest)
    for name in fields:
        if not source_of(name, there):
            known = [one for one in FIELDS if source_of(one, there)]
            raise UserError(f"model.item_fields: {folder} has no {name} of its items; leave it out"
                            + (f" (there are {', '.join(known)})" if known else ""))  # fmt: skip
    return read_attributes(folder, manifest, [source_of(name, there) for name in fields])


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
