"""The items that a run of events can recommend: those of its data, and listings that were added since."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.cli.command import progress
from jaxrec.data.filters import matching
from jaxrec.data.given import LIVE, check_id, check_value, item_rows
from jaxrec.data.ids import Places, bare, plain, whole
from jaxrec.data.items import Catalogue, read_attributes
from jaxrec.data.store import checked
from jaxrec.data.text.encoding import encoded, find_model
from jaxrec.data.text.vectors import NAMES
from jaxrec.errors import UserError, nearest, shown
from jaxrec.run import Run
from jaxrec.tasks.answers import shown_time

SHOWN = ("name", "price", "c0_name", "c1_name", "c2_name", "brand_name", "item_condition_name")
"""Attributes that are given with an item."""
LAST = 253_402_300_800_000  # ms: the year 10000
FAR = 2**31 - 1  # seconds


class Listings:
    """All items by index: first those of the run's catalogue, then those that were added.

    Args:
        run: of events.
        catalogue: the run's.
        text_model: where the text model of the run's name vectors is now; None: where it was.

    Attributes:
        attributes: one row an item.
    """

    def __init__(self, run: Run, catalogue: Catalogue, text_model: str | None = None) -> None:
        folder = run.path / "dataset"
        self._folder, self._manifest = folder, run.manifest
        self._catalogue, self._text_model = catalogue, text_model
        self.vocabulary = run.vocabulary()
        self.attributes = read_attributes(
            folder, run.manifest
        ).combine_chunks()  # few rows of one chunk are found at once
        self._further = run.manifest.get("options", {}).get("attributes", ())
        self._spans = catalogue.spans
        self._origin = 0 if self._spans is None else self._spans.origin
        self._newest = int(np.max(run.kept("example_times"), initial=0))
        self._added = Places(())
        self._ids: list[Any] = []
        self._vectors = np.zeros((0, catalogue.dim), np.float16)  # of what was added
        self._codes = np.zeros((0, len(catalogue.fields)), np.int32)

    def __len__(self) -> int:
        return len(self.vocabulary) + len(self._ids)

    @property
    def live(self) -> bool:
        """Whether the data say when listings are live."""
        return self._spans is not None

    # ---- ids ---------------------------------------------------------------------------------------------------------

    def find(self, raw: Iterable[Any]) -> np.ndarray:
        """int64[n]: the index of each raw id; -1 for one that is not there."""
        values = list(raw)
        found = self.vocabulary.encode(values).astype(np.int64)
        if len(self._added):
            added = np.array([self._added.find(value) for value in values], np.int64)
            found = np.where(found < 0, added, found)
        return found

    def raw(self, index: int) -> Any:
        """The raw id of an item."""
        old = len(self.vocabulary)
        return self._ids[index - old] if index >= old else self.vocabulary.decode(np.array([index]))[0]

    def raws(self, items: np.ndarray) -> list[Any]:
        """The raw ids of items, int64[n]."""
        if not self._ids:
            return list(self.vocabulary.decode(items))
        return [self.raw(int(item)) for item in items]

    def known(self, items: np.ndarray) -> list[dict[str, Any]]:
        """``SHOWN`` of items, int64[n], None where the data do not have it, and further attributes of people's own."""
        names = [name for name in (*SHOWN, *self._further) if name in self.attributes.column_names]
        rows: list[dict[str, Any]] = self.attributes.select(names).take(pa.array(items)).to_pylist()
        return [dict.fromkeys(SHOWN) | row for row in rows]

    @property
    def _integers(self) -> bool:
        return bool(self.vocabulary.ids.dtype == np.int64)

    # ---- what models read --------------------------------------------------------------------------------------------

    def vectors(self, items: np.ndarray) -> np.ndarray:
        """float16[n, dim]: the name vectors of items, int64[n]; zeros for one without a name."""
        old = len(self.vocabulary)
        rows = np.where(items < old, self._catalogue.name_of[np.minimum(items, old - 1)], -1)
        found = np.where((rows >= 0)[:, None], self._catalogue.vectors[rows], np.float16(0))
        found[items >= old] = self._vectors[items[items >= old] - old]
        return found

    def codes(self, items: np.ndarray) -> np.ndarray:
        """int32[n, F]: as of ``Catalogue.codes``."""
        old = len(self.vocabulary)
        found = self._catalogue.codes[np.minimum(items, old - 1)]
        found[items >= old] = self._codes[items[items >= old] - old]
        return found

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """int32[n, F]: the codes of attributes that are given."""
        return self._catalogue.encode(self._table(rows))

    def name_vectors(self, names: Sequence[str]) -> np.ndarray:
        """float16[n, dim]: of names that are not empty. Those of the run's data are there already; for others the run's
        text model is asked.
        """
        column = pq.read_table(checked(self._folder, NAMES, self._manifest))["name"]
        places = pc.index_in(pa.array(names, column.type), value_set=column).fill_null(-1).to_numpy()
        vectors = np.array(self._catalogue.vectors[places])
        missing = np.flatnonzero(places < 0)
        if len(missing):
            vectors[missing] = self._embed([names[int(at)] for at in missing])
        return vectors

    def _embed(self, names: Sequence[str]) -> np.ndarray:
        meta = self._catalogue.meta
        if not meta:
            raise UserError(f"name {bare(names[0])}: the run's items have no names; give items by their ids")
        model = self._text_model or meta["model"]
        with progress("encode names", len(names)) as update:
            try:
                _, identity = find_model(model, update)
            except UserError as error:
                where = "" if self._text_model or "--model" in str(error) else "; or say with --model where it is now"
                raise UserError(f"the run's text model: {error}{where}") from None
            if identity != meta["identity"]:
                raise UserError(f"{model}: another text model than the run's: {identity}, the run has "
                                f"{meta['identity']}; name that one with --model")  # fmt: skip
            with encoded(names, model, update=update) as result:
                return np.asarray(result.vectors[result.rows])

    # ---- who can be recommended --------------------------------------------------------------------------------------

    def matching(self, text: str) -> tuple[np.ndarray, list[str]]:
        """bool[items]: the items that a filter leaves, and notes of what no item has; see ``jaxrec.data.filters``."""
        # Until when a listing will be live nobody knows at the time.
        known = self.attributes.select([name for name in self.attributes.column_names if name not in LIVE])
        rows, notes = matching(known, text)
        chosen = np.zeros(len(self), bool)
        chosen[rows] = True
        return chosen, [f"only: {note}" for note in notes]

    def time(self, at: Any) -> int:
        """ms since 1970 of a time: such as ``2023-05-31``, with hours and minutes or without, a datetime (both in UTC
        where they name no zone), ms since 1970; None: of the newest event in the sequences that the run keeps.
        """
        if isinstance(at, np.datetime64) and not np.isnat(at):
            at = int(at.astype("datetime64[ms]").astype(np.int64))
        at = plain(at)
        if at is None:
            return self._newest
        if not self.live:
            raise UserError("at: the run's data do not say when listings are live; leave it out")
        if isinstance(at, str) and at.isdecimal() and len("20230531") < len(at) < len(str(LAST)):
            at = int(at)  # as our own answers give it; fromisoformat would find a year in it
        if isinstance(at, int) and not isinstance(at, bool) and abs(at) < LAST:
            return at
        try:
            moment = datetime.datetime.fromisoformat(at.isoformat() if isinstance(at, datetime.date) else at)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
            return round(moment.timestamp() * 1000)
        except (ValueError, TypeError, OverflowError):
            raise UserError(f"at {bare(at)}: no time; give one such as 2023-05-31 or '2023-05-31 18:30', which is "
                            "UTC") from None  # fmt: skip

    def seconds(self, times: np.ndarray) -> np.ndarray:
        """int32[n]: times in ms since 1970 as ``spans`` count them."""
        return np.clip((times - self._origin) // 1000, -FAR, FAR - 1).astype(np.int32)

    @cached_property
    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """int32[items] each: when items are listed and sold; what was added is live unless it says otherwise."""
        if self._spans is None:
            return np.full(len(self), -FAR, np.int32), np.full(len(self), FAR, np.int32)
        added = self.attributes.slice(len(self.vocabulary))
        ends = [
            self.seconds(added[name].fill_null(otherwise).to_numpy()) if len(added) else np.zeros(0, np.int32)
            for name, otherwise in zip(LIVE, (-LAST, LAST), strict=True)
        ]
        return np.append(self._spans.listed, ends[0]), np.append(self._spans.sold, ends[1])

    def live_at(self, time: int) -> np.ndarray:
        """bool[items]: the items that are live at a time, ms since 1970."""
        seconds, (listed, sold) = self.seconds(np.array(time)), self.spans
        mask: np.ndarray = (listed <= seconds) & (seconds < sold)
        return mask

    def check_live(self, chosen: np.ndarray, time: int) -> None:
        """Refuse a time at which nothing is live, or none of bool[items]."""
        if not (live := self.live_at(time)).any():
            first, last = (self._origin + 1000 * int(one) for one in (self.spans[0].min(), self.spans[1].max()))
            raise UserError(f"at: no listing is live at {shown_time(time)}; the data have some from "
                            f"{shown_time(first)} to {shown_time(last)}")  # fmt: skip
        if not (live & chosen).any():
            raise UserError(f"only: leaves {chosen.sum():,} items, none of them live at {shown_time(time)}; ask for "
                            "less, or for another time")  # fmt: skip

    # ---- adding ------------------------------------------------------------------------------------------------------

    def add(self, items: str | Path | Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Add listings; all or none.

        Args:
            items: mappings of ``item`` (or ``item_id``), ``name`` and other attributes, a table, or a Parquet, CSV or
                JSON file with such columns.

        Returns:
            int64[n], their indices.
        """
        named = isinstance(items, (str, Path))
        called = f"{items}: row" if named else "new item"
        texts = [field.name for field in self.attributes.schema if pa.types.is_string(field.type)]
        given = item_rows(items, ["item", "item_id", *texts])
        csv = named and str(items).endswith(".csv")
        found = [self._new(f"{called} {number}", row, csv) for number, row in enumerate(given, 1)]
        if not found:
            raise UserError(f"{items}: no listings in it; give some" if named else "new items: none are given")
        ids, rows = [one for one, _ in found], [values for _, values in found]
        taken: set[str] = set()
        for number, (one, place) in enumerate(zip(ids, self.find(ids), strict=True), 1):
            if place >= 0 or str(one) in taken:
                raise UserError(
                    f"{called} {number}: item {bare(one)} is there already; leave it out, or give it another id"
                )
            taken.add(str(one))
        self._check_columns(given)
        vectors, table = self.name_vectors([row["name"] for row in rows]), self._table(rows)
        first = len(self)
        self._vectors = np.concatenate([self._vectors, vectors])
        self._codes = np.concatenate([self._codes, self._catalogue.encode(table)])
        self.attributes = pa.concat_tables([self.attributes, table]).combine_chunks()
        self._ids = self._ids + ids
        self.__dict__.pop("spans", None)
        self._added = Places(map(str, self._ids) if not self._integers else self._ids, first=len(self.vocabulary))
        return np.arange(first, len(self))

    def _new(self, place: str, row: Mapping[str, Any], csv: bool) -> tuple[Any, dict[str, Any]]:
        """The id and the attributes of a new listing."""
        found = row.get("item") if plain(row.get("item")) is not None else row.get("item_id")
        if plain(found) is None:
            raise UserError(f"{place}: no 'item', which identifies it; give one")
        one = check_id(place, found)
        if self._integers:
            number = whole(one)
            if number is None:
                raise UserError(f"{place}: item: found '{bare(one)}', expected a whole number, as the run's ids are")
            one = number
        values = {}
        for field in self.attributes.schema:
            value = row.get(field.name)
            if csv and pa.types.is_string(field.type):
                value = None if value in (None, "") else str(value)  # nothing is said of types: a size of 10 is text
            values[field.name] = check_value(f"{place}: {field.name}", value, field.type)
        values["name"] = (values["name"] or "").strip()
        if not values["name"]:
            raise UserError(f"{place}: no 'name', by which it would be ranked; give one")
        return one, values

    def _check_columns(self, rows: Sequence[Mapping[str, Any]]) -> None:
        there = ["item", "item_id", *self.attributes.schema.names]
        for column in dict.fromkeys(column for row in rows for column in row if column not in there):
            raise UserError(f"new items: no attribute {shown(column)}{nearest(str(column), there)}; there are "
                            f"{', '.join(there)}")  # fmt: skip

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=self.attributes.schema)
