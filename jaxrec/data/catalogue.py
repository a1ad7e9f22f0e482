"""The items of event data as models see them: vectors of names, and attributes as codes.

A code is the place of a value among those of the items that the training split holds, as it was prepared, from 1 on; 0
is any other value, or none. The price is a bucket: two to each doubling of 1 + price.
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
from jaxrec.data.text.vectors import META, TEXT, VECTORS, open_name_vectors
from jaxrec.errors import UserError

FIELDS = {
    "c0": "c0_id", "c1": "c1_id", "c2": "c2_id", "brand": "brand_id", "condition": "item_condition_id",
    "price": "price",
}  # fmt: skip
"""The fields of an item that a model can read, and the attributes that they come from."""
PRICE_BUCKETS = 40


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


def open_catalogue(
    folder: Path, manifest: dict[str, Any], fields: Sequence[str], embeddings: str | None = None
) -> Catalogue:
    """The catalogue of a dataset directory, or of a run's ``dataset`` folder, with fields of ``FIELDS`` and the name
    vectors ``embeddings``, where there are those of several text models.
    """
    if "event_types" not in manifest:
        raise UserError(f"{folder}: holds no events with item names; prepare some with python -m jaxrec.prepare merrec")
    vectors, meta = np.zeros((1, 1), np.float16), dict[str, Any]()
    if manifest["counts"].get("names", 1):
        vectors, meta = open_name_vectors(folder, manifest, embeddings)
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
