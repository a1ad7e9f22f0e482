"""Files of queries, rows and vectors: read in chunks, written in chunks, and there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.cli.command import as_json, progress, say
from jaxrec.cli.json_text import parse_json
from jaxrec.errors import UserError, listed, nearest, shown
from jaxrec.tasks.query import FIELDS, Answer, Query

CHUNK = 4096  # queries that are in memory at a time, three times over: read, answered, written
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
ID = "id"  # a field of a line or row that is copied to its answer
Ask = Callable[[list[Query]], list[Answer]]


class Line(NamedTuple):
    """One query of a file."""

    number: int  # from 1
    id: Any
    query: Query


def answer_file(
    ask: Ask, read: Callable[[Any], Query], source: Path, out: Path, overwrite: bool = False, skip_bad: bool = False
) -> dict[str, int]:
    """Answer the queries of a file, JSON lines or Parquet, into another.

    While the device works on one chunk, the chunk before is written and the next one read.

    Args:
        ask: answers for queries.
        read: a query from what stands in a line.
        out: a row for each query in the same order: ``id`` where the source has one, ``items``, ``scores``, ``notes``
            and ``popular``.
        skip_bad: leave out what is no query, instead of refusing the file.

    Returns:
        How many were ``answered``, and ``bad``.
    """
    counts = {"answered": 0, "bad": 0}
    unit = "line" if source.suffix in LINES else "row"

    def bad(number: int, error: UserError) -> None:
        if not skip_bad:
            raise UserError(f"{source}: {unit} {number:,}: {error}")
        if not counts["bad"]:
            say("note", f"{source}: {unit} {number:,}: {error}; left out, as is every other bad one")
        counts["bad"] += 1

    check_kind("--queries", source, (*PARQUET, *LINES))
    check_kind("--out", out, (*PARQUET, *LINES))
    file = _open(source)
    sample = ask([Query()])[0].items  # refuses a bad filter before anything is read
    schema = _schema(file.id_type, pa.array([one.id for one in sample[:1]] or [""]).type)
    write_as = _write_lines if out.suffix in LINES else _write_rows
    waiting: Future[list[tuple[Line, Answer]]] | None = None
    with (
        written(out, overwrite) as part, write_as(part, schema) as write, ThreadPoolExecutor(1) as worker,
        progress(f"recommend: {source.name}", file.rows, file.rows, "queries") as update,
    ):  # fmt: skip
        try:
            for chunk in _chunks(file.entries, read, bad):
                following = worker.submit(_answered, ask, chunk, bad)
                if waiting is not None:
                    counts["answered"] += write(waiting.result())
                waiting = following
                update(len(chunk))
        except UserError:
            if waiting is not None:
                waiting.result()  # has the first bad line where both have one
            raise
        if waiting is not None:
            counts["answered"] += write(waiting.result())
    return counts


def _answered(ask: Ask, chunk: list[Line], bad: Callable[[int, UserError], None]) -> list[tuple[Line, Answer]]:
    try:
        return list(zip(chunk, ask([line.query for line in chunk]), strict=True))
    except UserError:  # of one query, most likely: which one?
        found = []
        for line in chunk:
            try:
                found.append((line, ask([line.query])[0]))
            except UserError as error:
                bad(line.number, error)
        return found


# ---- reading ---------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A file of queries.

    Attributes:
        rows: how many there are.
        id_type: of the ids; None where it has none.
        entries: what gives the value of each row.
    """

    rows: int
    id_type: pa.DataType | None
    entries: Iterator[Callable[[], Any]]


def _open(source: Path) -> Source:
    if source.suffix in LINES:
        with open_file(source) as stream:
            first = next((line for line in stream if line.strip()), b"")
            stream.seek(0)
            lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(2**20), b""))
        return Source(lines, _id_type(first), _lines(source))
    file = open_parquet(source)
    schema = file.schema_arrow
    for name in schema.names:
        if name not in (ID, *FIELDS):
            raise UserError(f"{source}: column {shown(name)} is no field of a query{nearest(name, FIELDS)}; there are "
                            f"{listed(FIELDS)}, and {ID}")  # fmt: skip
    return Source(file.metadata.num_rows, schema.field(ID).type if ID in schema.names else None, _rows(source, file))


def _chunks(
    entries: Iterable[Callable[[], Any]], read: Callable[[Any], Query], bad: Callable[[int, UserError], None]
) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    for number, entry in enumerate(entries, 1):
        try:
            given = entry()
            if given is not None:
                name = given.pop(ID, None) if isinstance(given, dict) else None
                chunk.append(Line(number, name, read(given)))
        except UserError as error:
            bad(number, error)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _lines(source: Path) -> Iterator[Callable[[], Any]]:
    with open_file(source) as stream:
        for line in stream:
            yield partial(_value, line)


def _value(line: bytes) -> Any:
    """What a line holds; None for an empty one."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("not UTF-8; write it again as UTF-8") from None
    return parse_json(text, "query", "give an object with the fields of a query") if text.strip() else None


def _id_type(line: bytes) -> pa.DataType | None:
    """Integers or text, as the first line has it."""
    try:
        first = _value(line)
    except UserError:
        return pa.string()
    if not isinstance(first, dict) or ID not in first:
        return None
    return pa.int64() if type(first[ID]) is int else pa.string()


def _rows(source: Path, file: pq.ParquetFile) -> Iterator[Callable[[], Any]]:
    for batch in record_batches(source, file):
        for row in batch.to_pylist():
            yield partial(_without_nulls, row)


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose profile, a struct or a map, and events have no field that is null."""
    if row.get("profile") is not None:
        row["profile"] = {name: value for name, value in dict(row["profile"]).items() if value is not None}
    if row.get("events"):
        row["events"] = [{name: value for name, value in dict(one or ()).items() if value is not None}
                         for one in row["events"]]  # fmt: skip
    return row


def record_batches(source: Path, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=CHUNK)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{source}: cannot be read ({str(error).splitlines()[0]}); write it again") from None


def open_parquet(source: Path) -> pq.ParquetFile:
    open_file(source).close()
    try:
        return pq.ParquetFile(source)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{source}: no Parquet file that can be read ({str(error).splitlines()[0]})") from None


def open_file(source: Path) -> Any:
    try:
        return open(source, "rb")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check its name") from None


def check_kind(option: str, file: Path, endings: Iterable[str]) -> None:
    endings = tuple(endings)
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
def _write_lines(part: Path, schema: pa.Schema) -> Iterator[Callable[[list[tuple[Line, Answer]]], int]]:
    """What writes answers as JSON lines, and returns how many."""
    named = ID in schema.names
    with open(part, "w", encoding="utf-8") as stream:

        def write(answered: list[tuple[Line, Answer]]) -> int:
            for line, answer in answered:
                row = {"items": [one.id for one in answer.items], "scores": [one.score for one in answer.items],
                       "notes": answer.notes, "popular": answer.popular}  # fmt: skip
                stream.write(as_json(({ID: line.id} if named else {}) | row) + "\n")
            return len(answered)

        yield write


@contextmanager
def _write_rows(part: Path, schema: pa.Schema) -> Iterator[Callable[[list[tuple[Line, Answer]]], int]]:
    """What writes answers as Parquet, and returns how many."""
    with pq.ParquetWriter(part, schema) as writer:

        def write(answered: list[tuple[Line, Answer]]) -> int:
            writer.write_table(_table(answered, schema))
            return len(answered)

        yield write


def _schema(id_type: pa.DataType | None, item_type: pa.DataType) -> pa.Schema:
    named = [] if id_type is None else [(ID, id_type)]
    return pa.schema([*named, ("items", pa.list_(item_type)), ("scores", pa.list_(pa.float32())),
                      ("notes", pa.list_(pa.string())), ("popular", pa.bool_())])  # fmt: skip


def _table(answered: list[tuple[Line, Answer]], schema: pa.Schema) -> pa.Table:
    items = [answer.items for _, answer in answered]
    ends = pa.array(np.cumsum([0, *map(len, items)]), pa.int32())
    ids = pa.array([one.id for row in items for one in row], schema.field("items").type.value_type)
    scores = pa.array([one.score for row in items for one in row], pa.float32())
    columns = [
        pa.ListArray.from_arrays(ends, ids),
        pa.ListArray.from_arrays(ends, scores),
        pa.array([answer.notes for _, answer in answered], pa.list_(pa.string())),
        pa.array([answer.popular for _, answer in answered]),
    ]
    return pa.table([*_ids(answered, schema), *columns], schema)


def _ids(answered: list[tuple[Line, Answer]], schema: pa.Schema) -> list[pa.Array]:
    if ID not in schema.names:
        return []
    kind, ids = schema.field(ID).type, [line.id for line, _ in answered]
    if pa.types.is_string(kind):
        ids = [one if one is None or isinstance(one, str) else as_json(one) for one in ids]
    try:
        return [pa.array(ids, kind)]
    except (pa.ArrowException, OverflowError):
        strange = next(line for line, _ in answered if line.id is not None and type(line.id) is not int)
        raise UserError(f"line {strange.number:,}: id: found {shown(strange.id)}, and the first is a whole number; "
                        "give ids of one type") from None  # fmt: skip


# ---- scores and vectors ----------------------------------------------------------------------------------------------


def score_file(score: Callable[[Any], np.ndarray], source: Path, out: Path, overwrite: bool = False) -> int:
    """The rows of a Parquet file with one column more, ``probability``; returns how many."""
    check_kind("--score", source, PARQUET)
    check_kind("--out", out, PARQUET)
    file = open_parquet(source)
    if "probability" in file.schema_arrow.names:
        raise UserError(f"{source}: has a column 'probability' already; rename it")
    schema = file.schema_arrow.append(pa.field("probability", pa.float32()))
    start, rows = 0, file.metadata.num_rows
    with (
        written(out, overwrite) as part, pq.ParquetWriter(part, schema) as writer,
        progress(f"score: {source.name}", rows, rows, "rows") as update,
    ):  # fmt: skip
        for batch in record_batches(source, file):
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
    check_kind("--vectors", out, PARQUET)
    with written(out, overwrite) as part:
        pq.write_table(table, part)
    return len(table)
