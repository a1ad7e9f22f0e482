"""Rows, encoded, to the files of a rows directory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxrec.data.clean.encoding import InMemory, encode_rows
from jaxrec.data.clean.protocol import Coded, RawRows
from jaxrec.data.dataset import Schema
from jaxrec.data.reading.columns import span, times_line
from jaxrec.data.store import array_file, file_entry, write_file

CHUNK = 1 << 20  # rows that are looked through at a time
Last = dict[str, np.ndarray]
"""Of user and item int64[entities + 1], the last row of each by its index; -1: none."""


def write_rows(raw: RawRows, out: Path) -> dict[str, Any]:
    """Encode what is not encoded, and write; returns the manifest's entries."""
    coded = raw.coded or encode_rows(raw, InMemory(raw)).coded
    assert coded is not None
    schema = Schema(tuple(coded.fields), raw.user, raw.item, raw.threshold, raw.low, raw.high)
    arrays, last, files = _write_blocks(coded, schema, out)
    for name, vocabulary in coded.vocabularies.items():
        files |= write_file(out, f"vocabulary/{name}.parquet", vocabulary)
    for side, rows in last.items():
        entity = str(getattr(schema, side))
        files |= _write_entities(side, schema, arrays, rows[1:], out)
        ids = pa.table({entity: coded.vocabularies[entity]["value"]})
        shown = raw.shown.get(side) if coded.shown is None else coded.shown(side, rows[1:])
        files |= _write_shown(side, ids, shown, out)
    if raw.write is not None:
        files |= {name: file_entry(out / name) for name in raw.write(out)}
    positive = int((arrays["ratings"] >= raw.threshold).sum())
    values_of = {name: len(vocabulary) for name, vocabulary in coded.vocabularies.items()}
    return {
        "fields": [asdict(one) for one in coded.fields],
        "user": raw.user,
        "item": raw.item,
        "calendar": raw.calendar,
        "label": {"threshold": raw.threshold, "low": raw.low, "high": raw.high},
        "counts": {"rows": coded.rows, "positive": positive, "values": values_of},
        **_times(arrays["times"], raw.time_unit),
        **raw.extras,
        "files": files,
    }


def _times(times: np.ndarray, unit: str) -> dict[str, Any]:
    """The manifest's ``times``; nothing where there are none."""
    first, last = int(times.min(initial=0)), int(times.max(initial=0))
    if not (first or last):
        return {}
    scale = {"s": 1000, "ms": 1}.get(unit, 0)
    return {"times": {"unit": unit, **(span(int(times.min()) * scale, last * scale) if scale else {})}}


def _write_blocks(coded: Coded, schema: Schema, out: Path) -> tuple[dict[str, np.ndarray], Last, dict[str, Any]]:
    """Write the arrays of ``rows/`` block by block; they are mapped, and their lines of the manifest."""
    n, numbers = coded.rows, len(schema.numerical)
    shapes = {"columns": ("<i4", (n, sum(field.width for field in coded.fields))), "numbers": ("<f4", (n, numbers)),
              "ratings": ("<f4", (n,)), "times": ("<i8", (n,))}  # fmt: skip
    sides = {side: schema.columns((name,))[0]
             for side, name in (("user", schema.user), ("item", schema.item)) if name is not None}  # fmt: skip
    last = {side: np.full(schema.size(getattr(schema, side)), -1) for side in sides}
    files, start = {name: out / "rows" / f"{name}.npy" for name in shapes}, 0
    with ExitStack() as stack:
        writes = [stack.enter_context(array_file(files[name], *shape)) for name, shape in shapes.items()]
        for block in coded.blocks:
            for write, part in zip(writes, block, strict=True):
                write(part)
            for low in range(0, len(block[0]), CHUNK):
                part = block[0][low : low + CHUNK]
                rows = np.arange(start, start := start + len(part))
                for side, place in sides.items():
                    np.maximum.at(last[side], part[:, place].astype(np.intp), rows)
    arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
    return arrays, last, {f"rows/{name}.npy": file_entry(file) for name, file in files.items()}


def _write_entities(
    side: str, schema: Schema, arrays: dict[str, np.ndarray], last: np.ndarray, out: Path
) -> dict[str, Any]:
    """Columns and numbers of one side by entity, as they stood in its last row."""
    files = dict[str, Any]()
    for kind, places in zip(("columns", "numbers"), schema.places(schema.side(side)), strict=True):
        table = np.zeros((len(last) + 1, len(places)), arrays[kind].dtype)
        table[1:] = arrays[kind][last][:, places]
        files |= write_file(out, f"{side}s{'_numbers' if kind == 'numbers' else ''}.npy", table)
    return files


def _write_shown(side: str, ids: pa.Table, shown: pa.Table | None, out: Path) -> dict[str, Any]:
    """What is to be shown of each entity; of the unknown one nothing."""
    (name,) = ids.column_names
    if shown is not None:
        order = pc.index_in(ids[name], shown[name])
        ids = shown.take(order).set_column(shown.column_names.index(name), name, ids[name])
    unknown = pa.table({column: pa.nulls(1, ids.schema.field(column).type) for column in ids.column_names})
    return write_file(out, f"{side}s.parquet", pa.concat_tables([unknown, ids]))


def rows_summary(manifest: dict[str, Any]) -> list[str]:
    """Lines for the reader of the terminal."""
    counts, threshold = manifest["counts"], manifest["label"]["threshold"]
    share = f"{counts['positive'] / counts['rows']:.1%} positive (at least {threshold:g})"
    fields = [f"  {one['name']:<16} {one['kind']:<12} {one['side']:<8} {counts['values'].get(one['name'], 'numbers')}"
              for one in manifest["fields"]]  # fmt: skip
    splits = [f"split {name}: {size:,} rows" for name, size in manifest.get("splits", {}).items()]
    return [f"{counts['rows']:,} rows, {share}; values:", *fields, *splits, *times_line(manifest)]
