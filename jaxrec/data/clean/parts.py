"""Reading in parts: several Ray tasks read raw files, each some of them, and deal their events to shards.

What depends on all files is agreed on: the unit of times is that of the first part, and where the item ids of one part
are text, those of all are. So the events are those that one process would have read.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.clean.pipeline import added
from jaxrec.data.clean.protocol import Raw
from jaxrec.data.clean.shards import Machine, deal, part_place
from jaxrec.data.reading.duck import TEXT, fetch_row
from jaxrec.data.work import finished, scratch
from jaxrec.errors import UserError

LEAST = 64 << 20  # bytes of the files of a part, so that small files are read together
MOST_PARTS = 256
COUNTS = ("rows", "files", "blank_lines", "lines_in_quotes")  # of what was read, as the manifest has them
Reader = Callable[[Any, Namespace], Raw]


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
) -> tuple[Raw, list[int]]:  # fmt: skip
    """Read and deal ``files``, each with its bytes; returns what was read, and where the rows of each part begin."""
    groups = [[files[number][0] for number in numbers] for numbers in group([size for _, size in files])]
    parts = [_arguments(arguments, names) for names in groups]

    def deal_parts(numbers: Sequence[int]) -> list[dict[str, Any]]:
        calls = {f"part {n + 1} of {len(parts)}": (read, parts[n], shards, work, n, machine) for n in numbers}
        results = dict[str, Any]()
        for name, result in machine.cluster.each(read_part, calls, UserError, machine.threads):
            results[name] = result
            update(0.3 / len(parts))
        return [results[name] for name in calls]

    found = deal_parts([0])
    for part in parts[1:]:
        if "time_unit" in part and part.time_format is None:
            part.time_unit = found[0]["raw"]["options"]["time_unit"]
    found += deal_parts(range(1, len(parts)))
    if any(one["item"] == TEXT for one in found):
        again = [number for number, one in enumerate(found) if one["item"] != TEXT]
        for number in again:
            parts[number].text_ids = True
        for number, result in zip(again, deal_parts(again), strict=True):
            found[number] = result
    raws = [Raw(**one["raw"]) for one in found]
    return _together(raws, len(files)), [0, *np.cumsum([one["rows"] for one in found])[:-1].tolist()]


def _arguments(arguments: Namespace, names: Sequence[str]) -> Namespace:
    part = copy.copy(arguments)
    part.raw, part.text_ids = list(names), False
    return part


def _together(raws: Sequence[Raw], files: int) -> Raw:
    """What the parts are as one."""
    counts = [one.read or {} for one in raws]
    totals = {name: sum(one.get(name, 0) for one in counts) for name in COUNTS}
    read = {name: count for name, count in totals.items() if any(name in one for one in counts)}
    first = raws[0].name.partition(" and ")[0] if files > 1 else raws[0].name
    name = f"{first} and {files - 1:,} more" if files > 1 else first
    notes = [f"{one.name}: {note}" if len(raws) > 1 else note for one in raws for note in one.notes]
    return replace(raws[0], name=name, read=read, notes=notes, dropped=added([one.dropped for one in raws]))


def read_part(
    read: Reader, arguments: Namespace, shards: int, work: Path, part: int, machine: Machine
) -> dict[str, Any]:
    """A task: read a part of the files and deal its events."""
    place, name = part_place(work, part), "text" if arguments.text_ids else "read"
    if (found := finished(place, name)) is not None:
        return dict(found)
    with scratch(place) as made, machine.connect(place / made.name / "spill") as connection:
        raw = read(connection, arguments)
        (kind,) = fetch_row(connection, "SELECT any_value(typeof(item)) FROM raw")
        about = {"raw": asdict(raw), "item": kind, "rows": raw.read["rows"] if raw.read else 0}
        deal(connection, raw, shards, work, part, name, about)
    return about
