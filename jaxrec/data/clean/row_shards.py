"""Rows on Ray: those that were read lie in Parquet files, and each shard is a range of them, which a task encodes.

All that tasks leave are files of the directory of the work (jaxrec/data/work.py):

    part-0/rows.parquet        the rows of a part of the input, with raw values: rating, time, field0 …
    shard-3/counts0.parquet …  how many of the shard's rows hold each value of a field
            columns.npy …      its rows, encoded
            shown-user.parquet what is shown of the users whose last row is there
    codes0.parquet …           what is decided for all rows, for the shards to read
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.clean.encoding import Found, Plan, bare_fields, block_of, encode_rows, rows_of, undotted
from jaxrec.data.clean.parts import check_parts, cut, read_together, run_parts, with_one_unit
from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.data.clean.shards import Machine, part_place, run_shards, shard_place
from jaxrec.data.dataset import ARRAYS
from jaxrec.data.store import GROUP, write_parquet
from jaxrec.data.work import finish, finished, scratch

ROWS = "rows.parquet"
OF_PARTS = (
    "threshold", "low", "high", "user", "item", "options", "min_count", "time_unit", "notes", "read", "columns",
    "found",
)  # fmt: skip
"""What of ``RawRows`` a part says; besides its fields."""


@dataclass(frozen=True)
class Dealt:
    """Rows that were read, in order, in the files of parts."""

    fields: list[RawField]  # without values
    sizes: list[int]  # rows of each part
    shards: int

    def bounds(self, shard: int) -> tuple[int, int]:
        """The rows of a shard, from the first one to the one behind the last one."""
        total = sum(self.sizes)
        return total * shard // self.shards, total * (shard + 1) // self.shards


class RowShards:
    """The ``encoding.Pieces`` of a Ray."""

    def __init__(self, dealt: Dealt, work: Path, machine: Machine, update: Callable[..., None]) -> None:
        self.dealt, self.work, self.machine, self.update = dealt, work, machine, update

    def run(self, name: str, step: Callable[..., Found], arguments: Sequence[Sequence[Any]] | None = None) -> list[Any]:
        given = arguments or [()] * self.dealt.shards
        return self._each(name, [partial(_take_step, step, name, one) for one in given])

    def _each(self, name: str, makes: Sequence[Callable[..., Any]]) -> list[Any]:
        calls = [(self.dealt, self.machine.threads, name, make) for make in makes]
        return run_shards(make_piece, name, calls, self.work, self.machine, self.update)

    def counts(self, place: int) -> pa.Table:
        every = [pq.read_table(shard_place(self.work, shard) / f"counts{place}.parquet")
                 for shard in range(self.dealt.shards)]  # fmt: skip
        sums = pa.concat_tables(every).group_by("value", use_threads=False).aggregate([("count", "sum")])
        return pa.table({"value": sums["value"], "count": sums["count_sum"]})

    def encode(self, plan: Plan) -> Iterator[tuple[np.ndarray, ...]]:
        for place, codes in enumerate(plan.codes):
            if codes is not None:
                self._share(f"codes{place}.parquet", partial(pq.write_table, codes))
        light = replace(plan, codes=[None] * len(plan.codes))
        self._each("encode", [partial(_encode, light)] * self.dealt.shards)
        for shard in range(self.dealt.shards):
            yield tuple(np.load(shard_place(self.work, shard) / f"{name}.npy", mmap_mode="r") for name in ARRAYS)

    def shown(self, plan: Plan, side: str, rows: np.ndarray) -> pa.Table | None:
        places = [place for place, field in enumerate(plan.fields) if field.side == side]
        if len(places) < 2:  # nothing but the raw id
            return None
        self._share(f"last-{side}.npy", lambda file: np.save(file, np.sort(rows)))
        self._each(f"shown {side}", [partial(_look_up, side, places)] * self.dealt.shards)
        every = [pq.read_table(shard_place(self.work, shard) / f"shown-{side}.parquet")
                 for shard in range(self.dealt.shards)]  # fmt: skip
        found = pa.concat_tables(every).combine_chunks()
        columns = {}
        for place in places:
            field, values = self.dealt.fields[place], found[f"field{place}"].combine_chunks()
            columns[field.name] = _final(field, values, field.name in plan.whole)
        return pa.table(columns)

    def _share(self, name: str, write: Callable[[Path], object]) -> None:
        """Give the shards a file."""
        with scratch(self.work) as made:
            write(made / name)
            (made / name).replace(self.work / name)


def _final(field: RawField, values: pa.Array, whole: bool) -> pa.Array:
    """Raw values as one process would have read them."""
    if field.kind == "bag":  # lists of another name of what they hold than Parquet's
        held = values.flatten()
        return pa.ListArray.from_arrays(values.offsets, held.cast(pa.int64()) if whole else held)
    return undotted(field, values).cast(pa.int64()) if whole else values


# ---- tasks -----------------------------------------------------------------------------------------------------------


def make_piece(
    work: Path, shard: int, dealt: Dealt, threads: int, name: str, make: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """A task: ``make(work, shard, dealt, folder)`` a piece of a shard, whose files it puts into the folder."""
    pa.set_cpu_count(threads)
    place = shard_place(work, shard)
    with scratch(place) as made:
        result = make(work, shard, dealt, made)
        finish(place, name, made, result)
    return result


def _take_step(
    step: Callable[..., Found], name: str, arguments: Sequence[Any], work: Path, shard: int, dealt: Dealt, folder: Path
) -> dict[str, Any]:
    numerical = [place for place, field in enumerate(dealt.fields) if field.kind == "numerical"]
    places = range(len(dealt.fields)) if name == "count" else numerical
    numbers, tables = step(read_shard(work, shard, dealt, places), *arguments)
    for table, content in tables.items():
        pq.write_table(content, folder / f"{table}.parquet")
    return numbers


def _encode(plan: Plan, work: Path, shard: int, dealt: Dealt, folder: Path) -> dict[str, Any]:
    codes = [None if field.kind == "numerical" else pq.read_table(work / f"codes{place}.parquet")
             for place, field in enumerate(dealt.fields)]  # fmt: skip
    block = block_of(read_shard(work, shard, dealt, range(len(dealt.fields))), replace(plan, codes=codes))
    for name, array in zip(ARRAYS, block, strict=True):
        np.save(folder / f"{name}.npy", array)
    return {}


def _look_up(side: str, places: Sequence[int], work: Path, shard: int, dealt: Dealt, folder: Path) -> dict[str, Any]:
    last, (first, end) = np.load(work / f"last-{side}.npy", mmap_mode="r"), dealt.bounds(shard)
    here = np.asarray(last[slice(*np.searchsorted(last, (first, end)))]) - first
    table = read_range(work, dealt, first, end, [f"field{place}" for place in places])
    pq.write_table(table.take(pa.array(here)), folder / f"shown-{side}.parquet")
    return {}


def read_shard(work: Path, shard: int, dealt: Dealt, places: Sequence[int]) -> RawRows:
    """The rows of a shard, with the fields of ``dealt`` at some places."""
    first, end = dealt.bounds(shard)
    table = read_range(work, dealt, first, end, ["rating", "time", *(f"field{place}" for place in places)])
    return rows_of(table, [dealt.fields[place] for place in places])


def read_range(work: Path, dealt: Dealt, first: int, end: int, columns: Sequence[str]) -> pa.Table:
    """The rows from ``first`` to ``end`` (exclusive), of all parts."""
    pieces, start = list[pa.Table](), 0
    for part, size in enumerate(dealt.sizes):
        low, high = max(first - start, 0), min(end - start, size)
        if low < high or not part:  # the first part also tells the types of no rows
            groups = range(low // GROUP, -(-high // GROUP))
            with pq.ParquetFile(part_place(work, part) / ROWS) as file:
                found = file.read_row_groups(list(groups), columns=list(columns))
            pieces.append(found.slice(low - groups.start * GROUP, max(0, high - low)))
        start += size
    return pa.concat_tables(pieces)


# ---- reading ---------------------------------------------------------------------------------------------------------


def deal_rows(raw: RawRows, work: Path, part: int, name: str, result: dict[str, Any]) -> None:
    """Write the rows of a part, as its piece ``name``, of which ``result`` is told."""
    tables = iter(_tables(raw) if raw.streamed is None else raw.streamed.tables())
    first = next(tables)
    batches = (batch for table in chain([first], tables) for batch in table.to_batches())
    with scratch(part_place(work, part)) as made:
        write_parquet(batches, first.schema, made / ROWS)
        finish(part_place(work, part), name, made, result)


def _tables(raw: RawRows) -> Iterator[pa.Table]:
    """The rows of ``raw`` as ``Streamed.tables`` has them."""
    for start in range(0, len(raw.ratings), GROUP):
        rows = slice(start, start + GROUP)
        columns = {"rating": pa.array(raw.ratings[rows]), "time": pa.array(raw.times[rows])}
        yield pa.table(columns | {f"field{place}": _values(field, rows) for place, field in enumerate(raw.fields)})


def _values(field: RawField, rows: slice) -> pa.Array:
    if field.by is not None:
        return field.values.take(pa.array(field.by[rows]))
    return field.values.slice(rows.start, rows.stop - rows.start)


def encode_dealt(
    raw: RawRows, sizes: Sequence[int], shards: int, work: Path, machine: Machine, update: Callable[..., None]
) -> RawRows:
    """``raw`` with its rows, of which the parts have ``sizes``, encoded by shards."""
    dealt = Dealt(bare_fields(raw.fields if raw.streamed is None else raw.streamed.fields), list(sizes), shards)
    return encode_rows(raw, RowShards(dealt, work, machine, update))


def encode_once(
    raw: RawRows, connection: Any, shards: int, work: Path, machine: Machine, update: Callable[..., None]
) -> RawRows:
    """``raw``, which one process has read, with its rows encoded by shards; neither it nor DuckDB's table is kept."""
    update(0.3)
    if finished(part_place(work, 0), "dealt") is None:
        deal_rows(raw, work, 0, "dealt", {})
    connection.execute("DROP TABLE IF EXISTS raw")
    rows = len(raw.ratings) if raw.streamed is None else raw.streamed.rows
    raw = replace(raw, fields=bare_fields(raw.fields), ratings=np.zeros(0), times=np.zeros(0, np.int64))
    return encode_dealt(raw, [rows], shards, work, machine, update)


def read_rows_in_parts(
    source: Any, arguments: Namespace, files: Sequence[tuple[str, int]], shards: int, work: Path, machine: Machine,
    update: Callable[..., None],
) -> RawRows:  # fmt: skip
    """The rows of ``files``, each with its bytes, read and encoded by tasks; of a ``Source`` with ``checked``."""
    parts = cut(arguments, files, text_ids=True)

    def run(numbers: Sequence[int]) -> list[dict[str, Any]]:
        return run_parts(read_row_part, parts, numbers, (source.read, work, machine), machine, update)

    found = with_one_unit(run, parts)
    names = [f"{part.raw[0]} and {len(part.raw) - 1:,} more" if len(part.raw) > 1 else part.raw[0] for part in parts]
    raws = [RawRows([RawField(**field, values=pa.nulls(0)) for field in one["fields"]], np.zeros(0),
                    np.zeros(0, np.int64), **one["raw"]) for one in found]  # fmt: skip
    check_parts(parts, raws)
    notes = [f"{name}: {note}" if len(raws) > 1 else note
             for name, one in zip(names, raws, strict=True) for note in one.notes]  # fmt: skip
    raw = replace(
        raws[0], low=min(one.low for one in raws), high=max(one.high for one in raws), notes=notes, part=True,
        read=read_together([one.read or {} for one in raws]),
        found={name: sum(one.found.get(name, 0) for one in raws) for name in raws[0].found},
    )  # fmt: skip
    called = f"{files[0][0]} and {len(files) - 1:,} more" if len(files) > 1 else files[0][0]
    raw = source.checked(arguments, raw, called)
    return encode_dealt(raw, [one["rows"] for one in found], shards, work, machine, update)


def read_row_part(
    arguments: Namespace, part: int, read: Callable[[Any, Namespace], RawRows], work: Path, machine: Machine
) -> dict[str, Any]:
    """A task: read a part of the files."""
    place = part_place(work, part)
    if (known := finished(place, "read")) is not None:
        return dict(known)
    with scratch(place) as made, machine.connect(place / made.name / "spill") as connection:
        raw = read(connection, arguments)
        about = {
            "raw": {name: getattr(raw, name) for name in OF_PARTS},
            "fields": [{name: getattr(field, name) for name in ("name", "kind", "side", "logarithm")}
                       for field in raw.fields],
            "rows": len(raw.ratings), "unit": raw.options["time_unit"],
        }  # fmt: skip
        deal_rows(raw, work, part, "read", about)
    return about
