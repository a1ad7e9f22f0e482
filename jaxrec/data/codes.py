"""Raw values of fields to indices and back: of whole columns, as prepare writes a rows directory, and of what a run of
rows is asked with; its users and items.

Of a run a field that is not there is an error; a value, a user or an item that is not there counts as unknown or is
left out, with a note behind a list that the caller brings. How ids and values are compared: see ``jaxrec.data.given``.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.data.dataset import Field, Schema, known
from jaxrec.data.given import MARKERS, Ids, bare, check_single, is_list, plain, read_list
from jaxrec.data.items import Items
from jaxrec.data.reading.columns import span, times_line
from jaxrec.data.store import array_file, checked, file_entry, map_array, write_file
from jaxrec.errors import UserError

FARTHEST = 1e4  # deviations of a number from the mean: beyond it float32 says nothing any more
Columns = Mapping[str, np.ndarray]
"""By field int32[..., width] of a categorical value or a bag, or float32[...] of a number."""


# ---- prepare ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawField:
    """A field as a source finds it; ``name``, ``kind``, ``side`` and ``logarithm`` as in ``rows.Field``."""

    name: str
    kind: str
    side: str
    values: pa.Array  # integers or text (categorical), lists of text (bag), numbers (numerical); None is unknown
    by: np.ndarray | None = None  # int[n], which of the values each row has; None: there is one a row
    logarithm: bool = False


@dataclass(frozen=True)
class Coded:
    """Rows that a source encodes itself, block by block, as they may not fit in memory; without times."""

    fields: list[Field]
    vocabularies: dict[str, pa.Table]  # by coded field, as in the dataset directory
    rows: int
    blocks: Iterable[tuple[np.ndarray, ...]]  # columns, numbers and ratings of the next rows


@dataclass(frozen=True)
class RawRows:
    """What a source of rows has read; ``threshold``, ``low`` and ``high`` as in ``rows.Schema``."""

    fields: list[RawField]  # in the order of the columns to be
    ratings: np.ndarray  # float[n]
    times: np.ndarray  # int64[n], in time_unit; all 0 where there are none
    threshold: float
    low: float
    high: float
    user: str | None = None  # the names of the fields that identify them
    item: str | None = None
    # For user and item: a table whose column of that field's name holds the raw id, with what is to be shown of it.
    shown: dict[str, pa.Table] = dataclasses.field(default_factory=dict)
    calendar: dict[str, str] = dataclasses.field(default_factory=dict)  # fields of a row's year, month or decade, UTC
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # the source's choices, for the manifest
    min_count: int = 1  # values of fewer rows are unknown
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)  # more entries of the manifest
    write: Callable[[Path], list[str]] | None = None  # writes more files into a folder, and returns their names
    time_unit: str = "s"  # s or ms since 1970, or order: counters
    notes: list[str] = dataclasses.field(default_factory=list)  # what the user should know of how the files were read
    read: dict[str, int] | None = None  # how many rows and files were read, for the manifest; None where nothing was
    coded: Coded | None = None  # in the place of fields, ratings and times


def write_rows(raw: RawRows, out: Path) -> dict[str, Any]:
    """Encode and write; returns the manifest's entries."""
    if raw.coded is not None:
        fields, vocabularies, (arrays, files) = raw.coded.fields, raw.coded.vocabularies, _write_blocks(raw.coded, out)
    else:
        fields, vocabularies, arrays = _encode_rows(raw)
        files = {}
        for name, array in arrays.items():
            files |= write_file(out, f"rows/{name}.npy", array)
    for name, vocabulary in vocabularies.items():
        files |= write_file(out, f"vocabulary/{name}.parquet", vocabulary)
    schema = Schema(tuple(fields), raw.user, raw.item, raw.threshold, raw.low, raw.high)
    for side, entity in (("user", raw.user), ("item", raw.item)):
        if entity is not None:
            files |= _write_entities(side, entity, schema, arrays, raw.shown.get(side), vocabularies[entity], out)
    if raw.write is not None:
        files |= {name: file_entry(out / name) for name in raw.write(out)}
    times = {}
    if raw.times.any():
        scale = {"s": 1000, "ms": 1}.get(raw.time_unit, 0)
        ends = span(int(raw.times.min()) * scale, int(raw.times.max()) * scale) if scale else {}
        times = {"times": {"unit": raw.time_unit, **ends}}
    positive = int((arrays["ratings"] >= raw.threshold).sum())
    values_of = {name: len(vocabulary) for name, vocabulary in vocabularies.items()}
    return {
        "fields": [asdict(one) for one in fields],
        "user": raw.user,
        "item": raw.item,
        "calendar": raw.calendar,
        "label": {"threshold": raw.threshold, "low": raw.low, "high": raw.high},
        "counts": {"rows": len(arrays["ratings"]), "positive": positive, "values": values_of},
        **times,
        **raw.extras,
        "files": files,
    }


def _encode_rows(raw: RawRows) -> tuple[list[Field], dict[str, pa.Table], dict[str, np.ndarray]]:
    """Fields, vocabularies and the arrays of ``rows/``."""
    n, fields, vocabularies = len(raw.ratings), list[Field](), dict[str, pa.Table]()
    columns, numbers = [np.zeros((n, 0), np.int32)], [np.zeros((n, 0), np.float32)]
    for part in raw.fields:
        if part.kind == "numerical":
            one, values = _standardise(part)
            numbers.append(values)
        else:
            one, values, vocabularies[part.name] = _encode(part, raw.min_count)
            columns.append(values)
        fields.append(one)
    arrays = {"columns": np.concatenate(columns, axis=1), "numbers": np.concatenate(numbers, axis=1)}
    arrays |= {"ratings": np.asarray(raw.ratings, np.float32), "times": np.asarray(raw.times, np.int64)}
    return fields, vocabularies, arrays


def _write_blocks(coded: Coded, out: Path) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Write the arrays of ``rows/`` block by block; they are mapped, and their lines of the manifest."""
    n, numbers = coded.rows, sum(field.kind == "numerical" for field in coded.fields)
    shapes = {"columns": ("<i4", (n, sum(field.width for field in coded.fields))), "numbers": ("<f4", (n, numbers)),
              "ratings": ("<f4", (n,)), "times": ("<i8", (n,))}  # fmt: skip
    files = {name: out / "rows" / f"{name}.npy" for name in shapes}
    with ExitStack() as stack:
        writes = [stack.enter_context(array_file(files[name], *shape)) for name, shape in shapes.items()]
        for block in coded.blocks:
            for write, part in zip(writes, (*block, np.zeros(len(block[0]), np.int64)), strict=True):
                write(part)
    arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
    return arrays, {f"rows/{name}.npy": file_entry(file) for name, file in files.items()}


def _encode(raw: RawField, min_count: int) -> tuple[Field, np.ndarray, pa.Table]:
    """The field, its columns int32[n, width] and its vocabulary."""
    entities = len(raw.values)
    weight = np.ones(entities, np.int64) if raw.by is None else np.bincount(raw.by, minlength=entities)
    flat = raw.values.flatten() if raw.kind == "bag" else raw.values
    codes = flat.dictionary_encode()
    values, index = codes.dictionary, codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    held = index
    if raw.kind == "bag":
        lengths = raw.values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        # A value that one bag holds twice counts once.
        pairs = np.unique(np.repeat(np.arange(entities), lengths) * (len(values) + 1) + index + 1)
        held, weight = pairs % (len(values) + 1) - 1, weight[pairs // (len(values) + 1)]
    seen = np.bincount(held[held >= 0], weights=weight[held >= 0], minlength=len(values)).astype(np.int64)
    # In the order of the values, and only those that are frequent enough.
    order = pc.array_sort_indices(values).to_numpy() if len(values) else np.zeros(0, np.int64)
    order = order[seen[order] >= min_count]
    place = np.zeros(len(values) + 1, np.int32)  # the last: for what is missing
    place[order] = np.arange(1, len(order) + 1)
    table = place[index][:, None]
    if raw.kind == "bag":  # -1 behind a bag's last value; the unknown value of an unknown bag
        most = max(1, int(lengths.max(initial=1)))
        table = np.full((entities, most), -1, np.int32)
        table[np.arange(most) < lengths[:, None]] = place[index]
        table[raw.values.is_null().to_numpy(zero_copy_only=False), 0] = 0
    table = table if raw.by is None else table[raw.by]
    vocabulary = pa.table({"value": values.take(pa.array(order)), "count": pa.array(seen[order])})
    return Field(raw.name, raw.kind, raw.side, len(order) + 1, table.shape[1]), table, vocabulary


def _standardise(raw: RawField) -> tuple[Field, np.ndarray]:
    """The field, and its numbers float32[n, 1]; 0 where they are missing."""
    values = raw.values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # an id may exceed 2^53
    values = values if raw.by is None else values[raw.by]
    if raw.logarithm:
        values = np.sign(values) * np.log1p(np.abs(values))
    known = np.isfinite(values)
    some = values[known] if known.any() else np.zeros(1)
    mean, deviation = float(some.mean()), float(some.std())
    if some.min() == some.max() or deviation == 0:  # the deviation of equal numbers may be a rounding error
        mean, deviation = float(some[0]), 1.0
    numbers = np.zeros((len(values), 1), np.float32)
    numbers[known, 0] = (values[known] - mean) / deviation
    return Field(raw.name, raw.kind, raw.side, 1, 0, mean, deviation, raw.logarithm), numbers


def _write_entities(
    side: str, name: str, schema: Schema, arrays: dict[str, np.ndarray], shown: pa.Table | None, vocabulary: pa.Table,
    out: Path,
) -> dict[str, Any]:  # fmt: skip
    """Columns and numbers of one side by entity, as they last stood in the rows, and what is to be shown of each."""
    own = arrays["columns"][:, schema.columns((name,))[0]]
    entities, behind = np.unique(own[::-1], return_index=True)
    last = len(own) - 1 - behind  # the row of each; NumPy does not say which of several assignments wins
    files = dict[str, dict[str, Any]]()
    for kind, places in zip(("columns", "numbers"), schema.places(schema.side(side)), strict=True):
        table = np.zeros((len(vocabulary) + 1, len(places)), arrays[kind].dtype)
        table[entities] = arrays[kind][last][:, places]
        table[0] = 0
        files |= write_file(out, f"{side}s{'_numbers' if kind == 'numbers' else ''}.npy", table)
    ids = pa.table({name: vocabulary["value"]})
    if shown is not None:
        order = pc.index_in(vocabulary["value"], shown[name])
        ids = shown.take(order).set_column(shown.column_names.index(name), name, vocabulary["value"])
    unknown = pa.table({column: pa.nulls(1, ids.schema.field(column).type) for column in ids.column_names})
    return files | write_file(out, f"{side}s.parquet", pa.concat_tables([unknown, ids]))


def rows_summary(manifest: dict[str, Any]) -> list[str]:
    """Lines for the reader of the terminal."""
    counts, threshold = manifest["counts"], manifest["label"]["threshold"]
    share = f"{counts['positive'] / counts['rows']:.1%} positive (at least {threshold:g})"
    fields = [f"  {one['name']:<16} {one['kind']:<12} {one['side']:<8} {counts['values'].get(one['name'], 'numbers')}"
              for one in manifest["fields"]]  # fmt: skip
    splits = [f"split {name}: {size:,} rows" for name, size in manifest.get("splits", {}).items()]
    return [f"{counts['rows']:,} rows, {share}; values:", *fields, *splits, *times_line(manifest)]


# ---- a run -----------------------------------------------------------------------------------------------------------


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
