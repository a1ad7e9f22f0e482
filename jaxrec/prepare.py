"""python -m jaxrec.prepare: from raw data to a dataset directory.

Every source of sessions goes through the same cleaning (jaxrec/data/clean/pipeline.py); the results are described in
jaxrec/data/dataset.py.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb

from jaxrec import __version__
from jaxrec.cli.command import Parser, command, progress, ranged, say
from jaxrec.data.clean.parts import read_parts
from jaxrec.data.clean.pipeline import Engine, OneConnection, prepare
from jaxrec.data.clean.protocol import LEAVE_ONE_OUT, Cleaning, Raw, duration
from jaxrec.data.clean.shards import MOST_SHARDS, Machine, Shards, deal_once
from jaxrec.data.clean.vocabulary import Former, read_former
from jaxrec.data.cluster import MOST_WORKERS, cluster
from jaxrec.data.codes import RawRows, rows_summary, write_rows
from jaxrec.data.dataset import SPLITS
from jaxrec.data.reading.columns import times_line
from jaxrec.data.reading.duck import connect
from jaxrec.data.reading.table import file_state, find_files, read_line
from jaxrec.data.store import staging, write_manifest
from jaxrec.data.work import work_beside
from jaxrec.errors import UserError, one_line
from jaxrec.sources import find_sources
from jaxrec.sources.market.world import optimum_lines
from jaxrec.sources.shared import fraction
from jaxrec.sources.synthetic import optimum_metrics

OF_TIME = {"test_days": 0, "validation_days": 0, "fraction": Fraction(1)}  # options, and what leaves each out
MOST = 2**31 - 1  # of whole numbers
SHARDS = 16
MACHINE = ("out", "overwrite", "engine", "workers", "memory_limit", "threads")  # options the result does not depend on

DESCRIPTION = """\
Turn raw data into a dataset directory for training.

Of sessions of events, sessions and items with too few events are dropped, the last days become the test split,
and item ids are replaced by numbers. Rows with ratings or clicks are kept all, and split at training time.
Start without any data:

  python -m jaxrec.prepare synthetic --out data/synthetic
"""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    started = time.perf_counter()
    sources = find_sources([word for word in argv[:1] if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", word)])
    arguments = _parser(sources).parse_args(argv)
    source, given = sources[arguments.source], vars(arguments)
    by_time = given.get("split", getattr(source, "SPLIT", None)) != LEAVE_ONE_OUT
    default = Cleaning(**getattr(source, "DEFAULTS", {}))
    for name, nothing in OF_TIME.items() if source.KIND != "rows" else ():
        if given.get(name) is None:
            given[name] = getattr(default, name) if by_time else nothing
        elif not by_time:
            raise UserError(f"--{name.replace('_', '-')}: belongs to --split time; leave it out with --split "
                            f"{LEAVE_ONE_OUT}")  # fmt: skip
    _check_engine(arguments, sources)
    former = None if arguments.vocabulary_of is None else read_former(arguments.vocabulary_of, source.KIND)
    with ExitStack() as stack:
        out = stack.enter_context(staging(arguments.out, arguments.overwrite))
        read = stack.enter_context(_reader(arguments, former)) if arguments.engine == "ray" else _read
        place = out.with_name("spill")
        connection = stack.enter_context(connect(place, arguments.memory_limit, arguments.threads))
        update = stack.enter_context(progress(f"prepare {arguments.source}", total=1.3))
        update(0, note="read")
        raw, engine = read(connection, arguments, source, update)
        for note in raw.notes:
            say("note", note)
        if isinstance(raw, RawRows):
            update(0, note="encode")
            options, hashed = raw.options, ["fields", "user", "item", "label"]
            result = {"kind": "rows"} | write_rows(raw, out)
            hashed += ["splits"] if "splits" in result else []
        else:
            update(0, note="clean")
            cleaning = Cleaning(**{one.name: given[one.name] for one in fields(Cleaning) if one.name in given})
            options = raw.options | cleaning.options()
            result = prepare(engine, raw, cleaning, out, update, former)
            hashed = ["scored"] if "scored" in result else []
        rows = {} if raw.read is None else {"read": raw.read}
        files = result.pop("files")
        manifest = write_manifest(out, files, hashed, source=arguments.source, options=options, **rows, **result)
    lines = [read_line(manifest["read"])] if "read" in manifest else []
    lines += rows_summary(manifest) if source.KIND == "rows" else _summary(manifest)
    print("\n".join(map(one_line, [*lines, f"wrote {arguments.out} in {time.perf_counter() - started:.1f} s"])))


def _check_engine(arguments: argparse.Namespace, sources: dict[str, Any]) -> None:
    """Refuse options of another engine, and what Ray cannot prepare."""
    if arguments.engine == "duckdb":
        for name in ("shards", "workers"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name}: belongs to --engine ray; add that or leave this out")
        return
    if sources[arguments.source].KIND == "rows":
        able = ", ".join(name for name, source in sources.items() if source.KIND != "rows")
        raise UserError(f"--engine ray: {arguments.source} is a source of rows; leave it out, or choose a source of "
                        f"sessions: {able}")  # fmt: skip
    if stream := next((name for name in getattr(arguments, "raw", []) if Path(name).is_fifo() or name == "-"), None):
        raise UserError(f"--raw {stream}: --engine ray reads files, as what is killed may read them again; write them "
                        "to a file, or leave --engine out")  # fmt: skip
    arguments.shards = arguments.shards or SHARDS


def _read(
    connection: Any, arguments: argparse.Namespace, source: Any, update: Callable[..., None]
) -> tuple[Raw | RawRows, Any]:
    """What a source reads, and of sessions the engine that cleans it."""
    raw = source.read(connection, arguments)
    update(0.3)
    return raw, None if isinstance(raw, RawRows) else OneConnection(connection, raw)


@contextmanager
def _reader(arguments: argparse.Namespace, former: Former | None) -> Iterator[Callable[..., tuple[Raw, Engine]]]:
    """``_read`` of the engine ``ray``, which runs as long as this; what it finishes lies beside the output until that
    is whole."""
    named = find_files(getattr(arguments, "raw", []))
    states = [file_state(file) for file in named]
    files = [(file if isinstance(file, str) else str(file.absolute()), size)
             for file, (size, _) in zip(named, states, strict=True)]  # fmt: skip
    choices = {name: value for name, value in vars(arguments).items() if name not in MACHINE}
    about = {"choices": choices, "files": states, "folder": os.getcwd(), "versions": [__version__, duckdb.__version__],
             "former": former and former.content_hash}  # fmt: skip
    with work_beside(arguments.out, about) as work, cluster(arguments.workers) as ray:
        machine, shards = Machine(ray, arguments.memory_limit, arguments.threads or 1), arguments.shards

        def read(
            connection: Any, arguments: argparse.Namespace, source: Any, update: Callable[..., None]
        ) -> tuple[Raw, Engine]:
            if files and hasattr(source, "in_parts") and source.in_parts(arguments):
                raw, parts = read_parts(source.read, arguments, files, shards, work, machine, update)
                engine = Shards(connection, work, shards, parts.offsets, machine, update)
                extras = source.extras_of_parts(parts, engine) if hasattr(source, "extras_of_parts") else None
                return replace(raw, extras=extras), engine
            raw = source.read(connection, arguments)
            update(0.3)
            deal_once(connection, raw, shards, work)
            return raw, Shards(connection, work, shards, [0], machine, update)

        yield read


def _summary(manifest: dict[str, Any]) -> list[str]:
    """A few lines for the reader of the terminal: what the filters took and what is left."""

    def line(name: str, amounts: dict[str, int]) -> str:
        return f"  {name:<32} {', '.join(f'{n:,} {unit}' for unit, n in amounts.items() if n) or 'nothing'}"

    counts, typed = manifest["counts"], "event_types" in manifest
    lines = ["dropped:", *(line(name, amounts) for name, amounts in manifest["dropped"].items())]
    if "cut" in manifest:
        lines.append(line(f"cut at pauses over {manifest['options']['session_gap']}", manifest["cut"]))
    lines += ["kept:", *(line(split, counts[split]) for split in SPLITS if counts[split]["sessions"])]
    sizes = {"items": counts["items"]}
    if typed:
        sizes |= {"unseen in training": counts["items"] - counts["trained"], "names": counts["names"]}
        lines.append(line("by type", counts["events"]))
    if former := manifest.get("vocabulary_of"):
        sizes |= {"new": former["new"], "gone": former["gone"]}
    lines.append(line("vocabulary", sizes))
    lines += times_line(manifest)
    if best := optimum_metrics(manifest, [20]):
        lines.append("best reachable on test: " + ", ".join(f"{name} {value:.4f}" for name, value in best.items()))
    return lines + (optimum_lines(manifest.get("optimum"), [20]) if typed else [])


def _parser(sources: dict[str, Any]) -> argparse.ArgumentParser:
    parser = Parser(prog="python -m jaxrec.prepare", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE", parser_class=Parser)
    for name, source in sources.items():
        sub = commands.add_parser(name, help=source.HELP, description=source.HELP[0].upper() + source.HELP[1:] + ".")
        source.add_arguments(sub)
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset directory to make")
        sub.add_argument("--overwrite", action="store_true", help="replace an existing dataset directory at --out")
        sub.add_argument("--vocabulary-of", type=Path, metavar="DIR", help="of sessions: item indices go on from those "
                         "of this data set; its ids keep their places, new ids follow")  # fmt: skip
        if source.KIND != "rows":
            timed = getattr(source, "SPLIT", None) != LEAVE_ONE_OUT
            add_cleaning(sub, Cleaning(**getattr(source, "DEFAULTS", {})), source.KIND == "events", timed)
        machine = sub.add_argument_group("machine (the result does not depend on these)")
        machine.add_argument("--memory-limit", metavar="SIZE", help="of DuckDB, such as 2GB; with --engine ray "
                             "of each task's (default: half the machine's memory, of all tasks together)")  # fmt: skip
        machine.add_argument("--engine", choices=("duckdb", "ray"), default="duckdb", help="ray: sessions are dealt to "
                             "shards, which Ray's tasks clean; what is killed goes on where it stopped (default duckdb)"
                             )  # fmt: skip
        machine.add_argument("--shards", type=ranged(int, 1, MOST_SHARDS), metavar="N", help="of "
                             f"--engine ray: parts of the sessions, one for each task (default {SHARDS})")  # fmt: skip
        machine.add_argument("--workers", type=ranged(int, 1, MOST_WORKERS), metavar="M", help="of --engine "
                             "ray: tasks at a time (default: one per processor)")  # fmt: skip
        machine.add_argument("--threads", type=ranged(int, 1, MOST), metavar="N", help="of DuckDB (default: one per "
                             "processor; with --engine ray 1 of each task's)")  # fmt: skip
    return parser


def add_cleaning(
    parser: argparse.ArgumentParser, default: Cleaning, typed: bool, timed: bool, split: bool = True
) -> None:
    """The options of ``Cleaning``; of events with types, without times, or without splits, those that make sense."""
    add = parser.add_argument_group("cleaning").add_argument
    for name, least, help in (
        ("min_session_length", 2, "drop sessions with fewer events"),
        ("min_item_support", 1, "drop items with fewer events"),
        ("test_days", 0, "sessions that end in the last N days are the test split; 0: none"),
        ("validation_days", 0, "the N days before those are a validation split; 0: none, training can cut its own"),
    ):
        if name in OF_TIME and not (timed and split):
            continue
        value = getattr(default, name)
        add(f"--{name.replace('_', '-')}", type=ranged(int, least, MOST), metavar="N",
            default=None if name in OF_TIME else value, help=f"{help} (default {value})")  # fmt: skip
    if timed:
        add("--session-gap", type=lambda text: duration(text) and text, metavar="TIME",
            help="cut a session where more than this lies between two of its events, such as 30m (s, m, h or d); each "
            "piece is a session with a date of its own")  # fmt: skip
    if not typed and timed and split:  # unseen is what all of training has not seen
        add("--fraction", type=fraction, metavar="F",
            help="train on this last part of the training targets only, such as 1/64 or 0.25 (default 1)")  # fmt: skip
    if not typed:  # a like after the view of an item is no repeat
        add("--drop-repeats", action="store_true",
            help="drop a click on the item of the click before it in the session")  # fmt: skip


if __name__ == "__main__":
    sys.exit(command(main))
