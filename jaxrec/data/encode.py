"""From columns of raw values to the arrays and vocabularies of a rows directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.data.reading.times import span, times_line
from jaxrec.data.rows import Field, Schema
from jaxrec.data.store import file_entry, write_array


@dataclass(frozen=True)
class RawField:
    """A field as a source finds it.

    Attributes:
        name, kind, side: as in ``rows.Field``.
        values: of each row: integers or text (categorical), lists of text (bag), numbers (numerical). None is unknown.
        logarithm: of a number: see ``rows.Field``.
        by: values are those of distinct entities, and ``by`` is int[n], the entity of each row; None: one value a row.
    """

    name: str
    kind: str
    side: str
    values: pa.Array
    by: np.ndarray | None = None
    logarithm: bool = False


@dataclass(frozen=True)
class RawRows:
    """What a source of rows has read.

    Attributes:
        fields: in the order of the columns to be.
        ratings: float[n].
        times: int64[n], in ``time_unit``; all 0 where there are none.
        threshold, low, high: see ``rows.Schema``.
        user, item: names of the fields that identify them.
        shown: for ``user`` and ``item``: a table whose column of that field's name holds the raw id, with what else is
            known of each entity, to be shown.
        calendar: fields that are the ``year``, ``month`` or ``decade`` of the row's time, UTC.
        options: the source's choices, for the manifest.
        min_count: values of fewer rows are unknown.
        extras: more entries of the manifest.
        write: writes more files into the folder it is given, which exists, and returns their names.
        time_unit: ``s`` or ``ms`` since 1970, or ``order``: counters.
        notes: what the user should know of how the files were read.
        read: how many rows and files were read, for the manifest; None where nothing was.
    """

    fields: list[RawField]
    ratings: np.ndarray
    times: np.ndarray
    threshold: float
    low: float
    high: float
    user: str | None = None
    item: str | None = None
    shown: dict[str, pa.Table] = field(default_factory=dict)
    calendar: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    min_count: int = 1
    extras: dict[str, Any] = field(default_factory=dict)
    write: Callable[[Path], list[str]] | None = None
    time_unit: str = "s"
    notes: list[str] = field(default_factory=list)
    read: dict[str, int] | None = None


@dataclass
class Coded:
    """A field after encoding: int32[n, width] columns, or float32[n] numbers, and the vocabulary."""

    field: Field
    columns: np.ndarray
    vocabulary: pa.Table | None


def write_rows(raw: RawRows, out: Path) -> dict[str, Any]:
    """Encode and write; returns the manifest's entries."""
    coded = [_encode(part, raw.min_count) for part in raw.fields]
    n = len(raw.ratings)
    columns = [np.zeros((n, 0), np.int32), *(c.columns for c in coded if c.field.kind != "numerical")]
    numbers = [c.columns for c in coded if c.field.kind == "numerical"]
    arrays = {
        "columns": np.concatenate(columns, axis=1),
        "numbers": np.stack(numbers, axis=1) if numbers else np.zeros((n, 0), np.float32),
        "ratings": np.asarray(raw.ratings, np.float32),
        "times": np.asarray(raw.times, np.int64),
    }
    files: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        files |= write_array(out, f"rows/{name}.npy", array)
    (out / "vocabulary").mkdir()
    for part in coded:
        if part.vocabulary is not None:
            files |= _write_table(out, f"vocabulary/{part.field.name}.parquet", part.vocabulary)
    for side, entity in (("user", raw.user), ("item", raw.item)):
        if entity is not None:
            files |= _write_entities(side, entity, coded, arrays, raw.shown.get(side), out)
    if raw.write is not None:
        files |= {name: file_entry(out / name) for name in raw.write(out)}
    positive = int((arrays["ratings"] >= raw.threshold).sum())
    sizes = {c.field.name: c.field.size - 1 for c in coded if c.vocabulary is not None}
    return {
        "fields": [c.field.as_json() for c in coded],
        "user": raw.user,
        "item": raw.item,
        "calendar": raw.calendar,
        "label": {"threshold": raw.threshold, "low": raw.low, "high": raw.high},
        "counts": {"rows": n, "positive": positive, "values": sizes},
        **_times(raw, arrays["times"]),
        **raw.extras,
        "files": files,
    }


def _times(raw: RawRows, times: np.ndarray) -> dict[str, Any]:
    """The manifest's ``times``: the unit, and the first and the last one where they are times."""
    if not times.any():
        return {}
    scale = {"s": 1000, "ms": 1}.get(raw.time_unit)
    ends = {} if scale is None else span(int(times.min()) * scale, int(times.max()) * scale)
    return {"times": {"unit": raw.time_unit, **ends}}


def _encode(raw: RawField, min_count: int) -> Coded:
    if raw.kind == "numerical":
        return _standardise(raw)
    flat = raw.values.flatten() if raw.kind == "bag" else raw.values
    codes = flat.dictionary_encode()
    values, index = codes.dictionary, codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    seen = _occurrences(raw, index, len(values))
    # In the order of the values, and only those that are frequent enough.
    order = pc.array_sort_indices(values).to_numpy() if len(values) else np.zeros(0, np.int64)
    order = order[seen[order] >= min_count]
    place = np.zeros(len(values) + 1, np.int32)  # the last: for what is missing
    place[order] = np.arange(1, len(order) + 1)
    entities = place[index]
    if raw.kind == "bag":
        table = _fold(entities, raw.values)
        if raw.by is not None:
            table = table[raw.by]
    else:
        table = (entities if raw.by is None else entities[raw.by])[:, None]
    vocabulary = pa.table({"value": values.take(pa.array(order)), "count": pa.array(seen[order])})
    return Coded(Field(raw.name, raw.kind, raw.side, len(order) + 1, table.shape[1]), table, vocabulary)


def _occurrences(raw: RawField, index: np.ndarray, n: int) -> np.ndarray:
    """int64[n]: the rows that hold each value."""
    entities = len(raw.values)
    weight = np.ones(entities, np.int64) if raw.by is None else np.bincount(raw.by, minlength=entities)
    if raw.kind == "bag":  # a value that one bag holds twice counts once
        pairs = np.unique(np.repeat(np.arange(entities), _lengths(raw.values)) * (n + 1) + index + 1)
        index, weight = pairs % (n + 1) - 1, weight[pairs // (n + 1)]
    return np.bincount(index[index >= 0], weights=weight[index >= 0], minlength=n).astype(np.int64)


def _lengths(lists: pa.Array) -> np.ndarray:
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _fold(codes: np.ndarray, lists: pa.Array) -> np.ndarray:
    """int32[entities, most]: the codes of each list; -1 behind its last one. Of an unknown list: the unknown value."""
    lengths = _lengths(lists)
    most = max(1, int(lengths.max(initial=1)))
    table = np.full((len(lengths), most), -1, np.int32)
    table[np.arange(most) < lengths[:, None]] = codes
    table[lists.is_null().to_numpy(zero_copy_only=False), 0] = 0
    return table


def _standardise(raw: RawField) -> Coded:
    values = raw.values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # an id may exceed 2^53
    values = values if raw.by is None else values[raw.by]
    if raw.logarithm:
        values = np.sign(values) * np.log1p(np.abs(values))
    known = np.isfinite(values)
    some = values[known] if known.any() else np.zeros(1)
    mean, deviation = float(some.mean()), float(some.std())
    if deviation == 0 and some.min() < some.max():  # squares of numbers below 1e-160 are 0
        scale = float(np.abs(some - mean).max())
        deviation = scale * float(((some - mean) / scale).std())
    if some.min() == some.max() or deviation == 0:  # the deviation of equal numbers may be a rounding error
        mean, deviation = float(some[0]), 1.0
    numbers = np.zeros(len(values), np.float32)
    numbers[known] = (values[known] - mean) / deviation
    return Coded(Field(raw.name, raw.kind, raw.side, 1, 0, mean, deviation, raw.logarithm), numbers, None)


def _write_entities(
    side: str, name: str, coded: list[Coded], arrays: dict[str, np.ndarray], shown: pa.Table | None, out: Path
) -> dict[str, Any]:
    """Columns and numbers of one side by entity, as they last stood in the rows, and what is to be shown of each."""
    schema = Schema(tuple(part.field for part in coded), None, None, 0.0, 0.0, 1.0)
    vocabulary = next(part.vocabulary for part in coded if part.field.name == name)
    assert vocabulary is not None
    own = arrays["columns"][:, schema.columns((name,))[0]]
    entities, behind = np.unique(own[::-1], return_index=True)
    last = len(own) - 1 - behind  # the row of each; NumPy does not say which of several assignments wins
    files: dict[str, dict[str, Any]] = {}
    for kind, places in (("", schema.columns(schema.of_side(side))), ("_numbers", schema.numbers_of_side(side))):
        source = arrays["columns" if not kind else "numbers"]
        table = np.zeros((len(vocabulary) + 1, len(places)), source.dtype)
        table[entities] = source[last][:, places]
        table[0] = 0
        files |= write_array(out, f"{side}s{kind}.npy", table)
    ids = pa.table({name: vocabulary["value"]})
    if shown is not None:
        order = pc.index_in(vocabulary["value"], shown[name])
        ids = shown.take(order).set_column(shown.column_names.index(name), name, vocabulary["value"])
    unknown = pa.table({column: pa.nulls(1, ids.schema.field(column).type) for column in ids.column_names})
    return files | _write_table(out, f"{side}s.parquet", pa.concat_tables([unknown, ids]))


def _write_table(out: Path, name: str, table: pa.Table) -> dict[str, dict[str, Any]]:
    """Write a Parquet file under the directory ``out``; its name and its line of the manifest."""
    pq.write_table(table, out / name)
    return {name: file_entry(out / name)}


def rows_summary(manifest: dict[str, Any]) -> str:
    """Lines for the reader of the terminal."""
    counts = manifest["counts"]
    whole = counts["positive"] == counts["rows"]
    share = "all" if whole else f"{counts['positive'] / max(1, counts['rows']):.1%}"
    labelled = manifest["options"].get("label", "") is not None  # otherwise each row is a positive
    labels = f" (at least {manifest['label']['threshold']:g})" if labelled else ": no labels"
    lines = [f"{counts['rows']:,} rows, {share} positive{labels}; values:"]
    for entry in manifest["fields"]:
        what = f"{entry['size'] - 1:,}" if entry["kind"] != "numerical" else (
            f"mean {entry['mean']:.4g}, deviation {entry['deviation']:.4g}")  # fmt: skip
        lines.append(f"  {entry['name']:<16} {entry['kind']:<12} {entry['side']:<8} {what}")
    return "\n".join([*lines, *times_line(manifest)])
