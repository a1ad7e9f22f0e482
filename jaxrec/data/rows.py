"""The rows directory: click and rating data for models that score one (user, item, context) row at a time.

    manifest.json        kind ``rows``: the fields, which of them are user and item, the label's threshold, counts
    vocabulary/<field>.parquet
                         columns ``value`` (as in the raw data) and ``count`` (rows); row r is index r + 1, and index 0
                         of every field is the unknown value
    rows/                columns.npy int32[n, C], numbers.npy float32[n, M], ratings.npy float32[n], times.npy int64[n]
                         (in the unit of the manifest's ``times``: s or ms since 1970, or order, counters)
    users.npy  items.npy int32[entities, C'], the columns of the user's and the item's side by the entity's index
    users_numbers.npy  items_numbers.npy float32[entities, M'], likewise
    users.parquet  items.parquet
                         what is known of each, to be shown; row r is index r

Rows stand in the order of the raw data. How they are split is decided at training time (jaxrec/data/splits.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jaxrec.data.store import Stored
from jaxrec.errors import UserError, nearest

ARRAYS = ("columns", "numbers", "ratings", "times")
LABEL = ("threshold", "low", "high")


@dataclass(frozen=True)
class Field:
    """One field of a row."""

    name: str  # of the column in the raw data
    kind: str  # ``categorical``: one value; ``bag``: any number of values; ``numerical``: a number
    side: str  # what it describes: the user, the item, or the occasion (context)
    size: int  # values and the unknown one; 1 for a number
    width: int = 1  # columns of ``columns.npy`` that it takes: 1, or the most values of a bag; 0 for a number
    mean: float = 0.0  # of a number, over all rows: what is stored is standardised with mean
    deviation: float = 1.0  # and deviation
    logarithm: bool = False  # whether sign(x) log(1 + |x|) takes a number's place before that

    def standardised(self, values: Any) -> Any:
        """The numbers that are stored for raw ones."""
        values = np.sign(values) * np.log1p(np.abs(values)) if self.logarithm else values
        return (values - self.mean) / self.deviation

    def raw(self, values: Any) -> Any:
        """The raw numbers of stored ones."""
        values = values * self.deviation + self.mean
        return np.sign(values) * np.expm1(np.abs(values)) if self.logarithm else values


@dataclass(frozen=True)
class Schema:
    """The fields of a data set, or those of them that a model reads."""

    fields: tuple[Field, ...]  # in the order of their columns
    user: str | None  # names of the fields that identify them; None where the data has none
    item: str | None
    threshold: float  # a rating of at least this is a positive label
    low: float  # of the ratings, to scale them to 0..1
    high: float

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Schema:
        fields = tuple(Field(**field) for field in manifest["fields"])
        return cls(fields, manifest["user"], manifest["item"], *(manifest["label"][name] for name in LABEL))

    def select(self, names: tuple[str, ...] | None) -> Schema:
        """The schema of the named fields, in their order; None for all."""
        if names is None:
            return self
        known = {field.name: field for field in self.fields}
        for place, name in enumerate(names):
            if name not in known or name in names[:place]:
                what = "twice" if name in known else f"no such field{nearest(name, known)}; there are"
                raise UserError(f"data.fields: '{name}': {what} {', '.join(known)}")
        return replace(self, fields=tuple(known[name] for name in names))

    def side(self, *sides: str) -> Schema:
        """The schema of the fields of some sides."""
        return replace(self, fields=tuple(field for field in self.fields if field.side in sides))

    def size(self, name: str | None) -> int:
        """Values of a field, the unknown one included; 1 where there is no such field."""
        return next((field.size for field in self.fields if field.name == name), 1)

    @property
    def coded(self) -> tuple[Field, ...]:
        """The categorical fields and bags."""
        return tuple(field for field in self.fields if field.kind != "numerical")

    @property
    def numerical(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.kind == "numerical")

    def columns(self, names: tuple[str, ...] | None = None) -> np.ndarray:
        """int64[C']: which columns the named fields (None: all coded ones) take, field after field."""
        place = self.slices()
        wanted = [place[name] for name in (place if names is None else names) if name in place]
        return np.r_[np.zeros(0, np.int64), *wanted].astype(np.int64)

    def slices(self) -> dict[str, slice]:
        """The columns of each coded field, in order."""
        ends = np.cumsum([field.width for field in self.coded], dtype=np.int64).tolist()
        return {field.name: slice(end - field.width, end) for field, end in zip(self.coded, ends, strict=True)}

    def apart(self, stacked: np.ndarray) -> dict[str, np.ndarray]:
        """Of each coded field its part of an array that has an entry for every value, field after field."""
        parts = np.split(stacked, np.cumsum([field.size for field in self.coded], dtype=np.int64))
        return {field.name: part for field, part in zip(self.coded, parts, strict=False)}

    def places(self, part: Schema) -> tuple[np.ndarray, np.ndarray]:
        """int64[C'] and int64[M']: which columns and which numbers the fields of a part of the schema take."""
        numbers = [field.name for field in self.numerical]
        own = np.array([numbers.index(field.name) for field in part.numerical], np.int64)
        return self.columns(tuple(part.slices())), own


def value_counts(schema: Schema, columns: np.ndarray) -> np.ndarray:
    """int64[values of all coded fields, field after field]: how many of int32[n, C] rows hold each."""
    parts, place = [np.zeros(0, np.int64)], schema.slices()
    for coded in schema.coded:
        values = columns[:, place[coded.name]].reshape(-1)
        parts.append(np.bincount(values[values >= 0], minlength=coded.size))
    return np.concatenate(parts)


def known(schema: Schema, columns: np.ndarray, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """int32[n, C] with values whose count, by field, is 0 replaced by the unknown one."""
    columns = np.array(columns, np.int32)
    for name, place in schema.slices().items():
        part = columns[:, place]
        part[(part >= 0) & (counts[name][np.maximum(part, 0)] == 0)] = 0
    return columns


@dataclass(frozen=True)
class Rows:
    """Rows with their labels."""

    columns: np.ndarray  # int32[n, C], the index of each value in its field, 0: unknown; -1 behind a bag's last value
    numbers: np.ndarray  # float32[n, M], standardised
    labels: np.ndarray  # float32[n], 0 or 1
    ratings: np.ndarray  # float32[n], as in the raw data
    times: np.ndarray  # int64[n], ascending with time; 0 where the data has none (see ``RowsDataset.last_second``)
    users: np.ndarray  # int32[n], the index in the user's field; 0 for all where there is none

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class RowsDataset(Stored):
    """An opened rows directory."""

    @cached_property
    def schema(self) -> Schema:
        return Schema.from_manifest(self.manifest)

    @property
    def run_files(self) -> tuple[str, ...]:
        """What a run keeps of the data set."""
        return tuple(name for name in self.manifest["files"] if not name.startswith("rows/"))

    def last_second(self, times: np.ndarray) -> int:
        """The latest of ``Rows.times`` in whole seconds since 1970; of counters, which are no times, 0."""
        unit = self.manifest.get("times", {}).get("unit", "s")
        return 0 if unit == "order" else int(times.max(initial=0)) // (1000 if unit == "ms" else 1)

    def rows(self) -> Rows:
        """All rows, mapped."""
        arrays, schema = {name: self.array(f"rows/{name}.npy") for name in ARRAYS}, self.schema
        if any(len(array) != self.manifest["counts"]["rows"] for array in arrays.values()):
            raise UserError(f"{self.path / 'rows'}: does not hold the rows of the manifest; prepare it again")
        ratings, users = np.asarray(arrays["ratings"]), np.zeros(len(arrays["ratings"]), np.int32)
        if schema.user is not None:
            users = arrays["columns"][:, schema.columns((schema.user,))[0]]
        labels = (ratings >= schema.threshold).astype(np.float32)
        return Rows(arrays["columns"], arrays["numbers"], labels, ratings, arrays["times"], users)

    def values(self, name: str) -> list[Any]:
        """The raw values of a coded field; the r-th has index r + 1."""
        return list(pq.read_table(self.path / "vocabulary" / f"{name}.parquet")["value"].to_pylist())
