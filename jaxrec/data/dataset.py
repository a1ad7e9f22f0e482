"""The dataset directory: what ``prepare`` writes and everything else reads.

    manifest.json        format version, kind, source, every preprocessing choice, counts, sha256 of every file, and
                         ``checksum``, that of the manifest without this entry
    items.parquet        the vocabulary: column ``item`` (int64 or string, as in the raw data) and ``count`` (events in
                         the whole training split); the row number is the item's index
    train/  validation/  test/
                         items.npy int32[n], times.npy int64[n] (ms since 1970), offsets.npy int64[sessions + 1]

Where events have types, as those of MerRec, the manifest names them in ``event_types``, and there is more:

    items.parquet        behind the items of training those that only the other splits hold, with the count 0
    attributes.parquet   by item index: ``name`` ("" where it has none), ``price``, category levels, brand, condition,
                         size, colour, shipper and ``product_id``, as of its latest event; where the manifest says
                         ``live`` also ``listed`` and ``sold`` (ms since 1970; live at t when listed <= t < sold)
    names.parquet        column ``name``: every distinct one once, in the order of first use
    item_names.npy       int32[items], row of names.parquet by item index; -1: no name
    train/  validation/  test/
                         events.npy uint8[n], index into ``event_types``

Where the manifest says ``"scored": {"validation": "last", "test": "last"}`` (``prepare events --split leave_one_out``),
sessions of these splits hold their whole history, and only their last event is a target; ``count`` is of the training
events alone. Sessions stand in the order of their last event: the end of the training split is its most recent part.

Click and rating data are rows, for models that score one (user, item, context) at a time:

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

Rows stand in the order of the raw data. How they are split is decided at training time (jaxrec/data/splits.py); where
the data were published with splits, those stand one after the other, and the manifest has their rows under ``splits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jaxrec.data.store import FORMAT, MANIFEST, Stored, read_sealed
from jaxrec.errors import UserError, nearest

SPLITS = ("train", "validation", "test")
ITEM_FILES = ("attributes.parquet", "names.parquet", "item_names.npy")  # where events have types


@dataclass(frozen=True)
class Sessions:
    """Sessions in CSR form: session ``s`` is ``items[offsets[s]:offsets[s + 1]]``."""

    items: np.ndarray  # int32[n], item indices
    times: np.ndarray  # int64[n], milliseconds since 1970, ascending within a session
    offsets: np.ndarray  # int64[sessions + 1]
    events: np.ndarray | None = None  # uint8[n], types of the events; None where they have none
    last_only: bool = False  # only the last event of each session is a target, and those before it are its history

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> dict[str, int]:
        """``{sessions, events, targets}``; see ``target_positions``."""
        return split_counts(np.diff(self.offsets), self.last_only)

    @property
    def target_positions(self) -> np.ndarray:
        """int64[targets], where the targets stand: events with one before them in their session, or its last one."""
        offsets = np.asarray(self.offsets)
        lengths = np.diff(offsets)
        if self.last_only:
            return offsets[1:][lengths > 1] - 1
        is_target = np.ones(int(offsets[-1]), bool)
        is_target[offsets[:-1][lengths > 0]] = False
        return np.flatnonzero(is_target)

    def slice(self, start: int, stop: int) -> Sessions:
        """Sessions ``start`` to ``stop`` (exclusive), without copying events."""
        low, high = self.offsets[start], self.offsets[stop]
        return self._of(self.offsets[start : stop + 1] - low, slice(low, high))

    def pick(self, which: np.ndarray) -> Sessions:
        """The sessions numbered ``which``, int64[m], in this order; their events are copied."""
        first = np.asarray(self.offsets)[which]
        lengths = np.asarray(self.offsets)[which + 1] - first
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return self._of(offsets, np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths))

    def _of(self, offsets: np.ndarray, rows: Any) -> Sessions:
        events = None if self.events is None else self.events[rows]
        return Sessions(self.items[rows], self.times[rows], offsets, events, self.last_only)


def split_counts(lengths: np.ndarray, last_only: bool = False) -> dict[str, int]:
    """``{sessions, events, targets}`` of sessions of int64[sessions] ``lengths``; see ``Sessions``."""
    events = int(lengths.sum())
    targets = np.count_nonzero(lengths > 1) if last_only else events - len(lengths)
    return {"sessions": len(lengths), "events": events, "targets": int(targets)}


@dataclass(frozen=True)
class Dataset(Stored):
    """An opened dataset directory of sessions."""

    @property
    def run_files(self) -> tuple[str, ...]:
        """What a run keeps of the data set."""
        return ("items.parquet", *(ITEM_FILES if self.event_types else ()))

    @property
    def event_types(self) -> tuple[str, ...] | None:
        """What ``Sessions.events`` are indices into; None where events have no types."""
        types = self.manifest.get("event_types")
        return None if types is None else tuple(types)

    @property
    def n_items(self) -> int:
        return int(self.manifest["counts"]["items"])

    def split(self, name: str) -> Sessions:
        """The sessions of one of ``train``, ``validation``, ``test``."""
        columns = ("items", "times", "offsets", *(["events"] if self.event_types else []))
        arrays = {column: self.array(f"{name}/{column}.npy") for column in columns}
        return Sessions(**arrays, last_only=self.manifest.get("scored", {}).get(name) == "last")


# ---- rows ------------------------------------------------------------------------------------------------------------

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
    splits: tuple[int, ...] = ()  # rows of each of SPLITS, one after the other; none where the data bring no splits

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Schema:
        fields, splits = tuple(Field(**field) for field in manifest["fields"]), manifest.get("splits", {})
        threshold, low, high = (manifest["label"][name] for name in LABEL)
        sizes = tuple(splits[name] for name in SPLITS if splits)
        return cls(fields, manifest["user"], manifest["item"], threshold, low, high, sizes)

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


# ---- either ----------------------------------------------------------------------------------------------------------


def open_dataset(path: str | Path) -> Dataset | RowsDataset:
    """Open a dataset directory of either kind."""
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path}: no data set here (no manifest.json); make one with python -m jaxrec.prepare")
    manifest = read_manifest(path / MANIFEST)
    return RowsDataset(path, manifest) if manifest["kind"] == "rows" else Dataset(path, manifest)


def read_manifest(file: Path) -> dict[str, Any]:
    """Read and check a manifest."""
    try:
        manifest = read_sealed(file)
        version, *_ = [manifest[name] for name in ("format", "kind", "content_hash", "files", "counts")]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged manifest ({error!r}); prepare the data set again") from None
    if version != FORMAT:
        raise UserError(f"{file}: format version {version}, this jaxrec reads {FORMAT}; prepare the data set again")
    return manifest
