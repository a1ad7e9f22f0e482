"""From columns of raw values to the arrays and vocabularies of a rows directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.dataset import Field, Schema
from jaxrec.data.reading.columns import span, times_line
from jaxrec.data.store import file_entry, write_file


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
    shown: dict[str, pa.Table] = field(default_factory=dict)
    calendar: dict[str, str] = field(default_factory=dict)  # fields that are the year, month or decade of the row, UTC
    options: dict[str, Any] = field(default_factory=dict)  # the source's choices, for the manifest
    min_count: int = 1  # values of fewer rows are unknown
    extras: dict[str, Any] = field(default_factory=dict)  # more entries of the manifest
    write: Callable[[Path], list[str]] | None = None  # writes more files into a folder, and returns their names
    time_unit: str = "s"  # s or ms since 1970, or order: counters
    notes: list[str] = field(default_factory=list)  # what the user should know of how the files were read
    read: dict[str, int] | None = None  # how many rows and files were read, for the manifest; None where nothing was


def write_rows(raw: RawRows, out: Path) -> dict[str, Any]:
    """Encode and write; returns the manifest's entries."""
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
    arrays: dict[str, np.ndarray] = {
        "columns": np.concatenate(columns, axis=1),
        "numbers": np.concatenate(numbers, axis=1),
        "ratings": np.asarray(raw.ratings, np.float32),
        "times": np.asarray(raw.times, np.int64),
    }
    files = dict[str, dict[str, Any]]()
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
        "counts": {"rows": n, "positive": positive, "values": values_of},
        **times,
        **raw.extras,
        "files": files,
    }


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
    return [f"{counts['rows']:,} rows, {share}; values:", *fields, *times_line(manifest)]
