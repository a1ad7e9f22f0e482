"""The items that a run of events can recommend, as its model reads them: of its data, and listings added since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.cli.command import progress
from jaxrec.data.catalogue import Catalogue
from jaxrec.data.given import Id, item_rows, read_time, rows_of, type_of
from jaxrec.data.ids import bare
from jaxrec.data.items import Added, Items, read_attributes
from jaxrec.data.store import checked
from jaxrec.data.text.encoding import encoded, find_model
from jaxrec.data.text.vectors import NAMES
from jaxrec.errors import UserError, nearest, shown
from jaxrec.run import Run
from jaxrec.tasks.answers import shown_time

SHOWN = ("name", "price", "c0_name", "c1_name", "c2_name", "brand_name", "item_condition_name")
"""Attributes that are given with an item."""


class Listings:
    """All items by index: first those of the run's catalogue, then those that were added.

    Args:
        run: of events.
        catalogue: the run's.
        text_model: where the text model of the run's name vectors is now; None: where it was.

    Attributes:
        items: their ids, attributes and spans.
        old: how many are of the run's data.
    """

    def __init__(self, run: Run, catalogue: Catalogue, text_model: str | None = None) -> None:
        self._folder, self._manifest = run.path / "dataset", run.manifest
        self._catalogue, self._text_model = catalogue, text_model
        table = read_attributes(self._folder, run.manifest).combine_chunks()
        further = run.manifest.get("options", {}).get("attributes", ())
        shown = table.select([name for name in (*SHOWN, *further) if name in table.column_names])
        vocabulary = run.vocabulary()
        self.items = Items(vocabulary.ids, shown, lambda: table, catalogue.spans, vocabulary.counts)
        self._schema, self.old = table.schema, len(vocabulary)
        self._newest = int(np.max(run.kept("example_times"), initial=0))
        self._vectors = np.zeros((0, catalogue.dim), np.float16)  # of what was added
        self._codes = np.zeros((0, len(catalogue.fields)), np.int32)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def live(self) -> bool:
        """Whether the data say when listings are live."""
        return self.items.spans is not None

    def known(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """``SHOWN`` of items, None where the data do not have it, and further attributes of people's own."""
        return [dict.fromkeys(SHOWN) | one for one in self.items.known(indices)]

    # ---- what models read --------------------------------------------------------------------------------------------

    def vectors(self, items: np.ndarray) -> np.ndarray:
        """float16[n, dim]: the name vectors of items, int64[n]; zeros for one without a name."""
        old = self.old
        rows = np.where(items < old, self._catalogue.name_of[np.minimum(items, old - 1)], -1)
        found = np.where((rows >= 0)[:, None], self._catalogue.vectors[rows], np.float16(0))
        found[items >= old] = self._vectors[items[items >= old] - old]
        return found

    def codes(self, items: np.ndarray) -> np.ndarray:
        """int32[n, F]: as of ``Catalogue.codes``."""
        old = self.old
        found = self._catalogue.codes[np.minimum(items, old - 1)]
        found[items >= old] = self._codes[items[items >= old] - old]
        return found

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """int32[n, F]: the codes of attributes that are given."""
        return self._catalogue.encode(pa.Table.from_pylist([dict(row) for row in rows], schema=self._schema))

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
            result = encoded(names, model, update=update)
            return result.vectors[result.rows]

    # ---- when they are live ------------------------------------------------------------------------------------------

    def time(self, at: Any) -> int:
        """ms since 1970 of a moment (see ``given.read_time``); None: of the newest event that the run keeps."""
        time = read_time(at)
        if time is not None and not self.live:
            raise UserError("at: the run's data do not say when listings are live; leave it out")
        return self._newest if time is None else time

    def check_live(self, chosen: np.ndarray, time: int) -> None:
        """Refuse a time at which nothing is live, or none of bool[items]."""
        if not (live := self.items.live(time)).any():
            first, last = (shown_time(int(one)) for one in self.items.period())
            raise UserError(f"at: no listing is live at {shown_time(time)}; the data have some from {first} to {last}")
        if not (live & chosen).any():
            raise UserError(f"only: leaves {chosen.sum():,} items, none of them live at {shown_time(time)}; ask for "
                            "less, or for another time")  # fmt: skip

    # ---- adding ------------------------------------------------------------------------------------------------------

    def add(self, items: Any) -> Added:
        """Add listings; all or none.

        Args:
            items: mappings of ``item`` (or ``item_id``), ``name`` and other attributes, a table, or a Parquet, CSV or
                JSON file with such columns.
        """
        named = isinstance(items, (str, Path))
        place = f"{items}: row" if named else "new item"
        texts = [field.name for field in self._schema if pa.types.is_string(field.type)]
        given = item_rows(items, ["item", "item_id", *texts])
        if not given:
            raise UserError(f"{items}: no listings in it; give some" if named else "new items: none are given")
        if named and str(items).endswith(".csv"):
            given = [row | {name: row[name] or None for name in texts if name in row} for row in given]
        types = {field.name: type_of(field.type) for field in self._schema}
        rows = rows_of({"item": Id, "item_id": Id} | types, {}, True, '{"item": 1, "name": "red dress"}')(place, given)
        for number, row in enumerate(rows, 1):
            own = row.pop("item_id")
            row["item"], row["name"] = own if row["item"] is None else row["item"], (row["name"] or "").strip()
            if not row["name"]:
                raise UserError(f"{place} {number}: no 'name', by which it would be ranked; give one")
        ids = self.items.new_ids(place, "item", rows)
        for number, one in enumerate(ids, 1):
            if self.items.ids.integers and not isinstance(one, int):
                raise UserError(f"{place} {number}: item: found '{bare(one)}', expected a whole number, as the run's "
                                "ids are")  # fmt: skip
        self._check_columns(given)
        vectors = self.name_vectors([row["name"] for row in rows])
        self._vectors = np.concatenate([self._vectors, vectors])
        self._codes = np.concatenate([self._codes, self.encode([{**row, "item": None} for row in rows])])
        shown = self.items.shown_names
        self.items.add(ids, rows, [{name: row[name] for name in shown} for row in rows])
        return Added(ids)

    def _check_columns(self, rows: Sequence[Mapping[str, Any]]) -> None:
        there = ["item", "item_id", *self._schema.names]
        for column in dict.fromkeys(column for row in rows for column in row if column not in there):
            raise UserError(f"new items: no attribute {shown(column)}{nearest(str(column), there)}; there are "
                            f"{', '.join(there)}")  # fmt: skip
