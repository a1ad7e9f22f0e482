"""Raw values of fields to indices and back, of what a run of rows is asked with; its users and items.

A field that is not there is an error; a value, a user or an item that is not there counts as unknown or is left out,
with a note behind a list that the caller brings. How ids and values are compared: see ``jaxrec.data.given``.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.dataset import Field, Schema, known
from jaxrec.data.given import MARKERS, Ids, bare, check_single, is_list, plain, read_list
from jaxrec.data.items import Items
from jaxrec.data.store import checked, map_array
from jaxrec.errors import UserError

FARTHEST = 1e4  # deviations of a number from the mean: beyond it float32 says nothing any more
Columns = Mapping[str, np.ndarray]
"""By field int32[..., width] of a categorical value or a bag, or float32[...] of a number."""


def read_table(run: Any, name: str) -> pa.Table:
    """A table that a run keeps."""
    return pq.read_table(checked(run.path / "dataset", name, run.manifest))


class FieldCodes:
    """The fields that the model of a ``Run`` reads, with their vocabularies and how often training saw each value."""

    def __init__(self, run: Any) -> None:
        self._schema, self._calendar = run.schema, run.manifest.get("calendar", {})
        self.counts = self._schema.apart(run.kept("value_counts"))
        # The raw values of a coded field, from index 1 on.
        self.vocabulary = cache(lambda name: Ids(read_table(run, f"vocabulary/{name}.parquet")["value"], first=1))
        options = run.manifest.get("options", {})
        self.separator = str(options.get("bag_separator", "|"))
        self._na = {text.strip() for text in options.get("na") or ()}  # texts that stand for nothing

    def encode(self, field: Field, value: Any, notes: list[str]) -> np.ndarray:
        """int32[width] of a categorical value or a bag, or float32[] of a number; None is the unknown value, the mean.
        A value that training has not seen counts as unknown, and more values than a bag of the data has are left out;
        each with a note.
        """
        values = self.members(field, value)
        if field.kind == "numerical":
            return self._number(field, values[0]) if values else nothing_of(field)
        if len(values) > field.width:
            notes.append(f"field '{field.name}': of {len(values)} values the first {field.width} are read")
        codes = [self._code(field, one, notes) for one in values[: field.width]] or [0]
        return np.array(codes + [-1] * (field.width - len(codes)), np.int32)

    def encode_all(self, field: Field, values: Sequence[Any]) -> np.ndarray:
        """int32[n, width] or float32[n]: ``encode`` of many values, each once."""
        codes: dict[Any, np.ndarray] = {}
        keys = [(type(one), one if isinstance(one, str | int | float) else repr(one)) for one in values]
        for row, (key, value) in enumerate(zip(keys, values, strict=True), 1):
            if key not in codes:
                try:
                    codes[key] = self.encode(field, value, [])
                except UserError as error:
                    raise UserError(f"row {row}: {error}") from None
        return np.stack([codes[key] for key in keys])

    def members(self, field: Field, value: Any) -> list[Any]:
        """The values of a field that do not stand for nothing: of a bag any number, otherwise one at most. A bag is a
        list, or text with the separator that ``prepare`` was given between its values."""
        name, value, values = f"field '{field.name}'", plain(value), [value]
        if field.kind == "bag" and isinstance(value, str):
            values = value.split(self.separator)
        elif field.kind == "bag" and (is_list(value) or isinstance(value, set | frozenset)):
            values = read_list(name, value)
        for one in values:
            check_single(name, one)
        return [one for one in map(plain, values) if not self._is_nothing(field, one)]

    def _is_nothing(self, field: Field, value: Any) -> bool:
        nothing, text = ("", *MARKERS) if field.kind == "numerical" else ("",), str(value).strip()
        return value is None or (isinstance(value, str) and (text.lower() in nothing or text in self._na))

    def _code(self, field: Field, value: Any, notes: list[str]) -> int:
        """The index of one value; 0 with a note for one that training has not seen."""
        code, counts = max(0, self.vocabulary(field.name).find(value)), self.counts.get(field.name)
        if code and (counts is None or counts[code]):  # a field that only filters has none
            return code
        notes.append(f"field '{field.name}': training has not seen '{bare(value)}'; it counts as unknown")
        return 0

    def _number(self, field: Field, value: Any) -> np.ndarray:
        """float32[]: the number that the model reads."""
        try:
            number = math.nan if isinstance(value, bool) else field.standardised(float(value))
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= FARTHEST:
            raise UserError(f"field '{field.name}': found '{bare(value)}', expected a number such as those of the data "
                            f"(mean {field.raw(0.0):.4g}, one deviation more {field.raw(1.0):.4g})")  # fmt: skip
        return np.array(number, np.float32)

    def usual(self) -> dict[str, np.ndarray]:
        """What stands for a field of which nothing is known: of the occasion the most frequent value, or unknown."""
        often = {one.name: int(np.argmax(self.counts[one.name])) for one in self._schema.side("context").coded}
        fields = self._schema.side("user", "context").fields
        return {field.name: nothing_of(field, often.get(field.name, 0)) for field in fields}

    def calendar(self, day: datetime.date, notes: list[str]) -> dict[str, np.ndarray]:
        """The fields that are the year, month or decade of a day."""
        parts = {"year": day.year, "month": day.month, "decade": day.year // 10 * 10}
        fields = [one for one in self._schema.fields if one.side == "context" and one.name in self._calendar]
        return {field.name: self.encode(field, parts[self._calendar[field.name]], notes) for field in fields}

    def stacked(self, fields: Sequence[Field], values: Columns) -> tuple[np.ndarray, np.ndarray]:
        """int32[n, C] and float32[n, M] of fields, n rows of each; what training has not seen is unknown."""
        schema, n = replace(self._schema, fields=tuple(fields)), len(next(iter(values.values()), ()))
        columns = [np.zeros((n, 0), np.int32), *(values[field.name] for field in schema.coded)]
        numbers = [np.zeros((n, 0)), *(values[field.name].reshape(n, 1) for field in schema.numerical)]
        return known(schema, np.concatenate(columns, 1), self.counts), np.concatenate(numbers, 1).astype(np.float32)

    def texts(self, columns: np.ndarray, numbers: np.ndarray) -> list[str]:
        """What stands in each field of one row, int32[C] and float32[M], to be shown."""
        place, values = self._schema.slices(), iter(numbers.tolist())
        texts = []
        for field in self._schema.fields:
            if field.kind == "numerical":
                texts.append(f"{field.raw(next(values)):.4g}")
            else:
                raw, codes = ["unknown", *self.vocabulary(field.name).values()], columns[place[field.name]]
                texts.append(", ".join(bare(raw[code]) for code in codes[codes >= 0]))
        return texts


def nothing_of(field: Field, first: int = 0) -> np.ndarray:
    """int32[width] or float32[]: the unknown value of a field, or the mean."""
    if field.kind == "numerical":
        return np.zeros((), np.float32)
    return np.array([first] + [-1] * (field.width - 1), np.int32)


class Entities:
    """The users or the items of a run, by index; 0 is the unknown one. ``fields`` are those of their side, also those
    that the model does not read, and ``name`` the one that identifies them.
    """

    def __init__(self, run: Any, side: str, codes: FieldCodes) -> None:
        schema = Schema.from_manifest(run.manifest)
        self.fields, self.name, self._codes = schema.side(side).fields, str(getattr(schema, side)), codes
        self._place = schema.side(side).slices()
        self._columns = map_array(run.path / "dataset", f"{side}s.npy", run.manifest)
        self._numbers = map_array(run.path / "dataset", f"{side}s_numbers.npy", run.manifest)
        table = read_table(run, f"{side}s.parquet")
        shown = table.drop_columns([self.name])
        self.items = Items(table[self.name].slice(1), shown, partial(self._attributes, table), first=1)

    def __len__(self) -> int:
        return len(self._columns)

    def values(self, index: Any) -> dict[str, np.ndarray]:
        """``Columns`` of entities; of the unknown one, 0, what stands for nothing."""
        number = iter(range(len(self.fields)))
        return {
            field.name: self._numbers[index, next(number)] if field.kind == "numerical"
            else self._columns[index, self._place[field.name]]
            for field in self.fields
        }  # fmt: skip

    def nothing(self) -> dict[str, np.ndarray]:
        """``Columns`` of one of whom nothing is known."""
        return {field.name: nothing_of(field) for field in self.fields}

    def _attributes(self, table: pa.Table) -> pa.Table:
        """What filters can name: what is shown, and fields by their values, bags as lists of them."""
        columns, values = {name: table[name] for name in table.column_names}, self.values(slice(None))
        for field in self.fields:
            value = values[field.name]
            if field.kind == "numerical" and field.name not in columns:  # of float32 six digits are sure
                raw = [None, *(float(f"{one:.6g}") for one in field.raw(value[1:].astype(np.float64)))]
                columns[field.name] = pa.array(raw, pa.float64())
            elif field.kind != "numerical" and field.name != self.name:
                raw = pa.array(self._codes.vocabulary(field.name).values())
                columns[field.name] = raw.take(pa.array(value[:, 0] - 1, mask=value[:, 0] < 1))
                if field.kind == "bag":
                    ends = pa.array(np.cumsum([0, *(value > 0).sum(axis=1)]), pa.int32())
                    columns[field.name] = pa.ListArray.from_arrays(ends, raw.take(pa.array(value[value > 0] - 1)))
        return pa.table(columns)
