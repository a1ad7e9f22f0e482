"""Reading in parts: several Ray tasks read raw files, each some of them, and deal their events to shards. Rows are read
in such parts as well, see ``row_shards``.

What depends on all files is agreed on: the unit of times is that of the first part, and where the item ids of one part
are text, those of all are. So the events are those that one process would have read.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.clean.pipeline import added
from jaxrec.data.clean.protocol import Raw, RawRows
from jaxrec.data.clean.shards import Machine, Shards, deal, parquet_rows, part_place
from jaxrec.data.clean.steps import latest_items, make_latest
from jaxrec.data.reading.duck import TEXT, fetch_row, quoted
from jaxrec.data.reading.table import check_columns
from jaxrec.data.work import finish, finished, scratch
from jaxrec.errors import UserError

LEAST = 64 << 20  # bytes of the files of a part, so that small files are read together
MOST_PARTS = 256
DESCRIBED = "described.parquet"
COUNTS = ("rows", "files", "blank_lines", "lines_in_quotes")  # of what was read, as the manifest has them
Reader = Callable[[Any, Namespace], Raw]


class Parts(NamedTuple):
    """Raw files that were read apart."""

    arguments: tuple[Namespace, ...]  # of the command, each with the files of a part
    offsets: tuple[int, ...]  # in the rows of all files, where those of each part begin


def group(sizes: Sequence[int]) -> list[list[int]]:
    """The numbers of files of ``sizes`` bytes, in groups of neighbours that are about equally large."""
    goal = max(LEAST, sum(sizes) // MOST_PARTS)
    groups: list[list[int]] = [[]]
    for number, size in enumerate(sizes):
        if groups[-1] and sum(sizes[one] for one in groups[-1]) + size > goal:
            groups.append([])
        groups[-1].append(number)
    return groups


def read_parts(
    read: Reader, arguments: Namespace, files: Sequence[tuple[str, int]], shards: int, work: Path, machine: Machine,
    update: Callable[..., None],
) -> tuple[Raw, Parts]:  # fmt: skip
    """Read and deal ``files``, each with its bytes."""
    parts = cut(arguments, files)

    def deal_parts(numbers: Sequence[int]) -> list[dict[str, Any]]:
        return run_parts(read_part, parts, numbers, (read, shards, work, machine), machine, update)

    found = with_one_unit(deal_parts, parts)
    if any(one["item"] == TEXT for one in found):
        again = [number for number, one in enumerate(found) if one["item"] != TEXT]
        for number in again:
            parts[number].text_ids = True
        for number, result in zip(again, deal_parts(again), strict=True):
            found[number] = result
    raws = [Raw(**one["raw"]) for one in found]
    check_parts(parts, raws)
    ends = np.cumsum([one["rows"] for one in found]).tolist()
    return _together(raws, len(files)), Parts(tuple(parts), (0, *ends[:-1]))


def cut(arguments: Namespace, files: Sequence[tuple[str, int]], text_ids: bool = False) -> list[Namespace]:
    """The arguments of each part of ``files``, each with its bytes."""
    parts = []
    for numbers in group([size for _, size in files]):
        parts.append(copy.copy(arguments))
        parts[-1].raw, parts[-1].text_ids = [files[number][0] for number in numbers], text_ids
    return parts


def check_parts(parts: Sequence[Namespace], raws: Sequence[Raw | RawRows]) -> None:
    """Refuse files with other columns than those of the first part; within a part they are the same."""
    (first, expected), *others = [({name: tuple(one) for name, one in (raw.columns or {}).items()}, part.raw[0])
                                  for part, raw in zip(parts, raws, strict=True)]  # fmt: skip
    for columns, file in others:
        check_columns(file, columns, expected, first)


def run_parts(
    task: Callable[..., dict[str, Any]], parts: Sequence[Namespace], numbers: Sequence[int], given: Sequence[Any],
    machine: Machine, update: Callable[..., None],
) -> list[dict[str, Any]]:  # fmt: skip
    """What a task finds in the parts ``numbers``; its arguments are those of a part, its number, and what is given."""
    calls = {f"part {number + 1} of {len(parts)}": (parts[number], number, *given) for number in numbers}
    results = dict[str, Any]()
    for name, result in machine.cluster.each(task, calls, UserError, machine.threads):
        results[name] = result
        update(0.3 / len(parts))
    return [results[name] for name in calls]


def with_one_unit(
    run: Callable[[Sequence[int]], list[dict[str, Any]]], parts: Sequence[Namespace]
) -> list[dict[str, Any]]:
    """What ``run`` finds in all parts, those behind the first one with the ``unit`` of times that this has found."""
    found = run([0])
    for part in parts[1:]:
        if (unit := found[0]["unit"]) is not None and part.time_format is None:
            part.time_unit = unit
    return found + run(range(1, len(parts)))


def _together(raws: Sequence[Raw], files: int) -> Raw:
    """What the parts are as one."""
    read = read_together([one.read or {} for one in raws])
    first = raws[0].name.partition(" and ")[0] if files > 1 else raws[0].name
    name = f"{first} and {files - 1:,} more" if files > 1 else first
    notes = [f"{one.name}: {note}" if len(raws) > 1 else note for one in raws for note in one.notes]
    return replace(raws[0], name=name, read=read, notes=notes, dropped=added([one.dropped for one in raws]))


def read_together(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    """What was read of all parts, as the manifest has it."""
    totals = {name: sum(one.get(name, 0) for one in counts) for name in COUNTS}
    return {name: count for name, count in totals.items() if any(name in one for one in counts)}


def read_part(
    arguments: Namespace, part: int, read: Reader, shards: int, work: Path, machine: Machine
) -> dict[str, Any]:
    """A task: read a part of the files and deal its events."""
    place, name = part_place(work, part), "text" if arguments.text_ids else "read"
    if (found := finished(place, name)) is not None:
        return dict(found)
    with scratch(place) as made, machine.connect(place / made.name / "spill") as connection:
        raw = read(connection, arguments)
        (kind,) = fetch_row(connection, "SELECT any_value(typeof(item)) FROM raw")
        about = {"raw": asdict(replace(raw, extras=None)), "item": kind, "unit": raw.time_unit,
                 "rows": raw.read["rows"] if raw.read else 0}  # fmt: skip
        deal(connection, raw, shards, work, part, name, about)
    return about


def describe_parts(describe: Callable[[Any, Namespace], str], parts: Parts, shards: Shards) -> str:
    """SQL of what the raw files say of the rows in the table ``latest`` of all shards; ``describe`` makes SQL of a
    part, of its files and a table ``latest`` (index, row) of its rows. Its columns have to be those of every part."""
    shards.each(latest_items)
    make_latest(shards.connection, shards.rows("latest_rows"))
    shards.share("latest")
    bounds = zip(parts.offsets, (*parts.offsets[1:], None), strict=True)
    calls = {
        f"part {part + 1} of {len(parts.offsets)}": (describe, arguments, shards.work, part, rows, shards.machine)
        for part, (arguments, rows) in enumerate(zip(parts.arguments, bounds, strict=True))
    }
    dict(shards.machine.cluster.each(describe_part, calls, UserError, shards.machine.threads))
    return f"SELECT * FROM {parquet_rows(part_place(shards.work, '*') / DESCRIBED)}"


def describe_part(
    describe: Callable[[Any, Namespace], str], arguments: Namespace, work: Path, part: int,
    rows: tuple[int, int | None], machine: Machine,
) -> None:  # fmt: skip
    """A task: what the files of a part say of the latest rows of items; ``rows`` are those of the part."""
    place, (first, end) = part_place(work, part), rows
    if finished(place, "described") is not None:
        return
    with scratch(place) as made, machine.connect(work / made.name / "spill") as connection:
        here = f"row >= {first}" + (f" AND row < {end}" if end is not None else "")
        connection.execute(f"CREATE VIEW latest AS SELECT index, item, row - {first} AS row FROM "
                           f"{parquet_rows(work / 'latest.parquet')} WHERE {here}")  # fmt: skip
        query = describe(connection, arguments)
        (made / "kept").mkdir()
        connection.execute(f"COPY ({query}) TO {quoted(str(made / 'kept' / DESCRIBED))} (FORMAT parquet)")
        finish(place, "described", made / "kept", {})
