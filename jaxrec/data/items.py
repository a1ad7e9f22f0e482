"""The items of a run: raw ids to indices and back, what is known of them, when they can be had, which of them may be
recommended, and those that were added since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.filters import matching
from jaxrec.data.ids import Ids, bare, check_single, listing, plain, read_list, whole
from jaxrec.data.store import checked
from jaxrec.errors import UserError, shown

LIVE = ("listed", "sold")  # attributes that say when a listing is live, in ms since 1970
LAST = 253_402_300_800_000  # ms: the year 10000
FAR = 2**31 - 1  # seconds


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
        try:
            table = pq.read_table(file, columns=["item", "count"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: missing or damaged ({str(error).splitlines()[0]}); prepare again") from None
        return cls(table["item"], counts=table["count"].to_numpy())

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, raw: Iterable[Any]) -> np.ndarray:
        """int32[n] indices of raw ids; -1 for one that is unknown. See ``jaxrec.data.ids``."""
        return self.ids.encode(raw)

    def decode(self, indices: np.ndarray) -> list[Any]:
        """Raw ids of int[n] indices, as plain Python values."""
        return self.ids.decode(indices)

    def index(self, item: Any) -> int:
        """The index of the one item that is asked about, which has to be there."""
        check_single("item", item)
        index = self.ids.find(item)
        if index < 0:
            raise UserError(f"item {bare(item)}: unknown{self.ids.nearest(item)}; name one of {len(self):,}")
        return index

    def places(self, what: str, raw: Any) -> tuple[np.ndarray, list[str]]:
        """int32[m] indices of those of some ids that are known, and a note of the others."""
        values = [] if raw is None else read_list(what, raw)
        for value in values:
            check_single(what, value)
        places = self.ids.encode(values)
        lost = [values[at] for at in np.flatnonzero(places < 0)]
        return places[places >= 0], note_left_out(lost, what, self.ids.nearest(lost[0]) if len(lost) == 1 else "")

    def chosen(self, only: Any) -> tuple[np.ndarray, list[str]]:
        """int64[m] indices, m >= 1, ascending, of raw ids that alone may be recommended, and a note of the others."""
        places, notes = self.places("only", only)
        if not len(places):
            raise UserError(f"only: none of them is known to the run ({'; '.join(notes) or 'none'}); name others")
        return np.unique(places).astype(np.int64), notes

    def known(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """What is shown of items; of those that were added what was given."""
        places = np.asarray(indices, np.int64)
        shown = self._shown and self._shown.take(pa.array(np.minimum(places, self._old - 1))).to_pylist()
        rows = shown or [{} for _ in places]
        return [dict(self._known[place - self._old]) if place >= self._old else row
                for place, row in zip(places.tolist(), rows, strict=True)]  # fmt: skip

    @property
    def shown_names(self) -> list[str]:
        return [] if self._shown is None else list(self._shown.column_names)

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
            rows, lost = matching(table.slice(self.first), only)
            mask, notes = np.isin(every, rows + self.first), [f"where: {note}" for note in lost]
        elif only is not None:
            places, notes = self.chosen(only)
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
        added = self.attributes.slice(self._old)
        listed, sold = (self.seconds(added[name].fill_null(end)) for name, end in zip(LIVE, (-LAST, LAST), strict=True))
        return np.append(self.spans.listed, listed), np.append(self.spans.sold, sold)

    def live(self, time: int) -> np.ndarray:
        """bool[first + n]: the items that can be had at a time, ms since 1970."""
        seconds, (listed, sold) = self.seconds(time), self.ends
        return np.asarray((listed <= seconds) & (seconds < sold))

    def period(self) -> tuple[int, int]:
        """ms since 1970: when the first is there, and when the last one goes."""
        origin = (self.spans or ALWAYS).origin
        return origin + 1000 * int(self.ends[0].min()), origin + 1000 * int(self.ends[1].max())

    def new_ids(self, place: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The ids of new items, field ``name`` of their rows, which must not be there yet; ``place`` begins errors."""
        taken = dict[str, Any]()
        for number, row in enumerate(rows, 1):
            value = plain(row.get(name))
            value = value.strip() or None if isinstance(value, str) else value
            number_of = whole(value) if self.ids.integers or not isinstance(value, str) else None
            one = value if number_of is None else number_of
            if one is None:
                raise UserError(f"{place} {number}: no '{name}', which identifies it; give one")
            if not isinstance(one, int | str) or isinstance(one, bool):
                raise UserError(f"{place} {number}: {name}: found {shown(one)}, expected an id, a whole number or text")
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
    """A value as a column of some type can hold it, or else as text, or else None; a text is no list of letters."""
    value = [value] if pa.types.is_list(kind) and isinstance(value, str) else value
    for one in (value, None if pa.types.is_list(kind) else str(value)):
        try:
            return pa.scalar(one, kind).as_py()
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return None


def note_left_out(lost: Sequence[Any], what: str = "", hint: str = "") -> list[str]:
    """The note of unknown ids that are left out, none without any; ``what`` is the argument in which they stood."""
    if not lost:
        return []
    many = f"{len(lost):,} unknown items" if len(lost) > 1 else "1 unknown item"
    return [f"{what + ': ' if what else ''}{many} left out: {listing(lost)}{hint}"]


def read_spans(folder: Path, manifest: dict[str, Any]) -> Spans | None:
    """When the listings of a data set are live; None where it does not say."""
    if not manifest.get("live"):
        return None
    listed, sold = (column.to_numpy() for column in read_attributes(folder, manifest, LIVE).columns)
    spans = Spans(listed, sold, int(listed.min()))
    return Spans(spans.seconds(listed), spans.seconds(sold), spans.origin)


def read_attributes(folder: Path, manifest: dict[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of ``attributes.parquet``, all where none are named."""
    return pq.read_table(checked(folder, "attributes.parquet", manifest), columns=columns and list(columns))


def attribute_names(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The names of the attributes."""
    return list(pq.read_schema(checked(folder, "attributes.parquet", manifest)).names)
