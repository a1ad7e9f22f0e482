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
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.rows import RowsDataset
from jaxrec.data.store import FORMAT, MANIFEST, Stored, check_seal
from jaxrec.errors import UserError

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
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        if version == FORMAT:
            check_seal(manifest)
            _ = [manifest[name] for name in ("kind", "content_hash", "files", "counts")]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged manifest ({error!r}); prepare the data set again") from None
    if version != FORMAT:
        raise UserError(f"{file}: format version {version}, this jaxrec reads {FORMAT}; prepare the data set again")
    return manifest
