"""Files of queries, rows and vectors: read in chunks, written in chunks, and there whole or not at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.cli.command import as_json, progress, say
from jaxrec.cli.text import parse_json
from jaxrec.errors import UserError, listed, nearest, shown
from jaxrec.tasks.query import FIELDS, Answer, Query

CHUNK = 4096  # queries of a chunk
WORKERS = 2  # chunks that are worked on at once: one on the device while the other is read, or made into answers
LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
ID = "id"  # a field of a line or row that is copied to its answer
Ask = Callable[[list[Query]], list[Answer]]
Entry = tuple[int, Any]
"""The number of a line or row, from 1, and its value: an object, or the error that it is."""
Answered = list[tuple[Any, Answer]]
"""Answers with the ``id`` of each."""


def answer_file(
    ask: Ask, read: Callable[[Any], Query], source: Path, out: Path, overwrite: bool = False, skip_bad: bool = False
) -> dict[str, int]:
    """Answer the queries of a file, JSON lines or Parquet, into another; returns how many: ``answered``, ``bad``.

    Args:
        ask: answers for queries; it is called from several threads.
        read: a query from what stands in a line.
        out: a row for each query in the same order: ``id`` where the source has one, ``items``, ``scores``, ``notes``
            and ``popular``.
        skip_bad: leave out what is no query, instead of refusing the file.
    """
    check_kind("--queries", source, (PARQUET, *LINES))
    check_kind("--out", out, (PARQUET, *LINES))
    rows, id_type, entries = _open(source)
    sample = ask([Query()])[0].ids  # refuses a bad filter before anything is read
    schema = _schema(id_type, pa.array(sample[:1] or [""]).type)
    bad, answered, waiting = list[int](), 0, deque[Future[Answered]]()

    def refuse(number: int, error: UserError) -> None:
        message = f"{source}: {'line' if source.suffix in LINES else 'row'} {number:,}: {error}"
        if not skip_bad:
            raise UserError(message)
        if not bad:
            say("note", f"{message}; left out, as is every other bad one")
        bad.append(number)

    with (
        written(out, overwrite) as part, _writer(part, out.suffix, schema) as write,
        ThreadPoolExecutor(WORKERS) as workers, progress(f"recommend: {source.name}", rows, rows, "queries") as update,
    ):  # fmt: skip
        while True:
            if chunk := list(islice(entries, CHUNK)):
                waiting.append(workers.submit(_answered, ask, read, chunk, refuse))
            if not waiting:
                return {"answered": answered, "bad": len(bad)}
            if len(waiting) > WORKERS or not chunk:
                found = waiting.popleft().result()
                write(found)
                answered += len(found)
                update(len(found))


def _answered(
    ask: Ask, read: Callable[[Any], Query], chunk: list[Entry], refuse: Callable[[int, UserError], None]
) -> Answered:
    numbers, ids, queries = [], [], []
    for number, value in chunk:
        try:
            if isinstance(value, UserError):
                raise value
            name = value.pop(ID, None) if isinstance(value, dict) else None
            queries.append(read(value))
        except UserError as error:
            refuse(number, error)
            continue
        numbers.append(number)
        ids.append(name)
    try:
        return list(zip(ids, ask(queries), strict=True))
    except UserError:  # of one query, most likely: which one?
        found: Answered = []
        for number, name, query in zip(numbers, ids, queries, strict=True):
            try:
                found.append((name, ask([query])[0]))
            except UserError as error:
                refuse(number, error)
        return found


# ---- reading ---------------------------------------------------------------------------------------------------------


def _open(source: Path) -> tuple[int, pa.DataType | None, Iterator[Entry]]:
    """How many queries a file has, the type of their ids (None: they have none), and the queries."""
    if source.suffix == PARQUET:
        file = open_parquet(source)
        schema = file.schema_arrow
        for name in schema.names:
            if name not in (ID, *FIELDS):
                raise UserError(f"{source}: column {shown(name)} is no field of a query{nearest(name, FIELDS)}; there "
                                f"are {listed(FIELDS)}, and {ID}")  # fmt: skip
        return file.metadata.num_rows, schema.field(ID).type if ID in schema.names else None, _rows(source, file)
    with _reading(source), open(source, "rb") as stream:
        rows = sum(1 for line in stream if line.strip())
    entries = _lines(source)
    first = list(islice(entries, 1))
    has_id = first and isinstance(first[0][1], dict) and ID in first[0][1]
    id_type = None if not has_id else pa.int64() if type(first[0][1][ID]) is int else pa.string()
    return rows, id_type, chain(first, entries)


def _lines(source: Path) -> Iterator[Entry]:
    with open(source, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig").strip()
                if text:
                    yield number, parse_json(text, "query", "give an object with the fields of a query")
            except UnicodeDecodeError:
                yield number, UserError("not UTF-8; write it again as UTF-8")
            except UserError as error:
                yield number, error


def _rows(source: Path, file: pq.ParquetFile) -> Iterator[Entry]:
    """Without the fields of a profile, a struct or a map, and of events that are null."""

    def filled(value: Any) -> dict[str, Any]:
        return {name: one for name, one in dict(value or ()).items() if one is not None}

    with _reading(source):
        for number, row in enumerate((row for part in file.iter_batches(CHUNK) for row in part.to_pylist()), 1):
            if row.get("profile") is not None:
                row["profile"] = filled(row["profile"])
            if row.get("events"):
                row["events"] = list(map(filled, row["events"]))
            yield number, row


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{source}: cannot be read ({str(error).splitlines()[0]}); check its name, or write it again"
                        ) from None  # fmt: skip


def open_parquet(source: Path) -> pq.ParquetFile:
    with _reading(source):
        return pq.ParquetFile(source)


def check_kind(option: str, file: Path, endings: Sequence[str]) -> None:
    if file.suffix not in endings:
        raise UserError(f"{option} {file}: found {shown(file.suffix)}; end its name in {listed(endings, 'or')}")


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def written(out: Path, overwrite: bool) -> Iterator[Path]:
    """A file to write, which gets its name ``out`` at the end; where anything fails it is removed."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists already; --overwrite replaces it, or choose another name")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _writer(part: Path, suffix: str, schema: pa.Schema) -> Iterator[Callable[[Answered], None]]:
    """What writes answers as Parquet or JSON lines."""
    if suffix == PARQUET:
        with pq.ParquetWriter(part, schema) as writer:
            yield lambda answered: writer.write_table(_table(answered, schema))
        return
    with open(part, "w", encoding="utf-8") as stream:

        def write(answered: Answered) -> None:
            for name, answer in answered:
                row = {"items": answer.ids, "scores": list(map(float, answer.scores)), "notes": answer.notes,
                       "popular": answer.popular}  # fmt: skip
                stream.write(as_json(({ID: name} if ID in schema.names else {}) | row) + "\n")

        yield write


def _schema(id_type: pa.DataType | None, item_type: pa.DataType) -> pa.Schema:
    named = [] if id_type is None else [(ID, id_type)]
    return pa.schema([*named, ("items", pa.list_(item_type)), ("scores", pa.list_(pa.float32())),
                      ("notes", pa.list_(pa.string())), ("popular", pa.bool_())])  # fmt: skip


def _table(answered: Answered, schema: pa.Schema) -> pa.Table:
    ends = pa.array(np.cumsum([0, *(len(answer.items) for _, answer in answered)]), pa.int32())
    ids = list(chain.from_iterable(answer.ids for _, answer in answered))
    scores = np.concatenate([np.zeros(0, np.float32), *(answer.scores for _, answer in answered)])
    columns = [
        pa.ListArray.from_arrays(ends, pa.array(ids, schema.field("items").type.value_type)),
        pa.ListArray.from_arrays(ends, pa.array(scores, pa.float32())),
        pa.array([answer.notes for _, answer in answered], pa.list_(pa.string())),
        pa.array([answer.popular for _, answer in answered], pa.bool_()),
    ]
    if ID not in schema.names:
        return pa.table(columns, schema)
    kind, names = schema.field(ID).type, [name for name, _ in answered]
    if pa.types.is_string(kind):
        names = [name if name is None or isinstance(name, str) else as_json(name) for name in names]
    try:
        return pa.table([pa.array(names, kind), *columns], schema)
    except (pa.ArrowException, OverflowError):
        strange = next(name for name in names if name is not None and type(name) is not int)
        raise UserError(f"id: found {shown(strange)}, and the first is a whole number; give ids of one type") from None


# ---- scores and vectors ----------------------------------------------------------------------------------------------


def score_file(score: Callable[[Any], np.ndarray], source: Path, out: Path, overwrite: bool = False) -> int:
    """The rows of a Parquet file with one column more, ``probability``; returns how many."""
    check_kind("--score", source, (PARQUET,))
    check_kind("--out", out, (PARQUET,))
    file = open_parquet(source)
    if "probability" in file.schema_arrow.names:
        raise UserError(f"{source}: has a column 'probability' already; rename it")
    schema = file.schema_arrow.append(pa.field("probability", pa.float32()))
    start, rows = 0, file.metadata.num_rows
    with (
        written(out, overwrite) as part, pq.ParquetWriter(part, schema) as writer, _reading(source),
        progress(f"score: {source.name}", rows, rows, "rows") as update,
    ):  # fmt: skip
        for batch in file.iter_batches(CHUNK):
            try:
                found = score(pa.Table.from_batches([batch]))
            except UserError as error:
                raise UserError(f"{source}: in rows {start + 1:,} to {start + len(batch):,}: {error}") from None
            table = pa.Table.from_batches([batch]).append_column("probability", pa.array(found, pa.float32()))
            writer.write_table(table.cast(schema))
            start += len(batch)
            update(len(batch))
    return rows


def vectors_file(table: pa.Table, out: Path, overwrite: bool = False) -> int:
    """Write vectors; returns how many."""
    check_kind("--vectors", out, (PARQUET,))
    with written(out, overwrite) as part:
        pq.write_table(table, part)
    return len(table)
