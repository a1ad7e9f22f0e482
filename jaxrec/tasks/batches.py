"""Files of queries and rows: read in chunks, written in chunks, and there whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.cli.command import as_json, progress, say
from jaxrec.cli.text import parse_json
from jaxrec.errors import UserError, listed, nearest, shown
from jaxrec.run import check_out, written
from jaxrec.tasks.query import FIELDS, Answer

CHUNK = 4096  # queries of a chunk
WORKERS = 2  # chunks that are worked on at once: one on the device while the other is read, or made into answers
PARQUET, LINES = ".parquet", ".jsonl"
ID = "id"  # a field of a line or row that is copied to its answer
Answered = list[tuple[Any, Answer]]  # with the ``id`` of each


def answer_file(
    ask: Callable[[list[Any]], list[Answer]], source: Path, out: Path, overwrite: bool = False, skip_bad: bool = False
) -> dict[str, int]:
    """Answer the queries of a file, JSON lines or Parquet, into another, whose rows have ``id``, if the source has one,
    ``items``, ``scores``, ``notes`` and ``popular``; returns how many: ``answered``, ``bad``. ``ask`` answers mappings
    of a query's fields, from several threads; ``skip_bad`` leaves out what is no query, instead of refusing the file.
    """
    check_out(source, (PARQUET, LINES))
    check_out(out, (PARQUET, LINES), overwrite)
    rows, id_type, entries = _open(source)
    sample = ask([{}])[0].ids  # refuses a bad filter before anything is read
    schema = pa.schema([*([] if id_type is None else [(ID, id_type)]),
                        ("items", pa.list_(pa.array(sample[:1] or [""]).type)), ("scores", pa.list_(pa.float32())),
                        ("notes", pa.list_(pa.string())), ("popular", pa.bool_())])  # fmt: skip
    answered, bad, waiting = 0, list[int](), deque[Future[Answered]]()

    def answers(chunk: list[tuple[int, Any]]) -> Answered:
        try:
            values = [_parsed(value) for _, value in chunk]
            names = [value.pop(ID, None) if isinstance(value, dict) else None for value in values]
            return list(zip(names, ask(values), strict=True))
        except UserError as error:
            if half := len(chunk) // 2:  # which one is it?
                return answers(chunk[:half]) + answers(chunk[half:])
            message = f"{source}: {'line' if source.suffix == LINES else 'row'} {chunk[0][0]:,}: {error}"
            if not skip_bad:
                raise UserError(message) from None
            if not bad:
                say("note", f"{message}; left out, as is every other bad one")
            bad.append(chunk[0][0])
            return []

    with (
        written(out) as part, _writer(part, out, schema) as write, ThreadPoolExecutor(WORKERS) as workers,
        progress(f"recommend: {source.name}", rows) as update,
    ):  # fmt: skip
        while True:
            if chunk := list(islice(entries, CHUNK)):
                waiting.append(workers.submit(answers, chunk))
            if not waiting:
                return {"answered": answered, "bad": len(bad)}
            if len(waiting) > WORKERS or not chunk:
                found = waiting.popleft().result()
                write(_table(found, schema))
                answered += len(found)
                update(len(found))


def score_file(score: Callable[[Any], np.ndarray], source: Path, out: Path, overwrite: bool = False) -> int:
    """The rows of a Parquet file with one column more, ``probability``; returns how many."""
    check_out(out, (PARQUET,), overwrite)
    with reading(source):
        file, start = pq.ParquetFile(source), 0
    schema, rows = file.schema_arrow.append(pa.field("probability", pa.float32())), file.metadata.num_rows
    if schema.names.count("probability") > 1:
        raise UserError(f"{source}: has a column 'probability' already; rename it")
    with (
        written(out) as part, pq.ParquetWriter(part, schema) as writer, reading(source),
        progress(f"score: {source.name}", rows) as update,
    ):  # fmt: skip
        for batch in file.iter_batches(CHUNK):
            table = pa.Table.from_batches([batch])
            try:
                found = score(table)
            except UserError as error:
                raise UserError(f"{source}: in rows {start + 1:,} to {start + len(batch):,}: {error}") from None
            writer.write_table(table.append_column("probability", pa.array(found, pa.float32())).cast(schema))
            start += len(batch)
            update(len(batch))
    return start


# ---- reading ---------------------------------------------------------------------------------------------------------


def _open(source: Path) -> tuple[int, pa.DataType | None, Iterator[tuple[int, Any]]]:
    """How many queries a file has, the type of their ids (None: they have none), and the queries with their numbers."""
    entries = _entries(source)
    if source.suffix == PARQUET:
        with reading(source):
            file = pq.ParquetFile(source)
        types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
        for name in types.keys() - {ID, *FIELDS}:
            raise UserError(f"{source}: column {shown(name)} is no field of a query{nearest(name, FIELDS)}; there "
                            f"are {listed(FIELDS)}, and {ID}")  # fmt: skip
        return file.metadata.num_rows, types.get(ID), entries
    rows, first = sum(1 for _ in _entries(source)), next(_entries(source), (0, b"{}"))[1]
    try:
        name = _parsed(first)[ID]
    except (KeyError, TypeError, UserError):
        return rows, None, entries
    return rows, pa.int64() if type(name) is int else pa.string(), entries


def _entries(source: Path) -> Iterator[tuple[int, Any]]:
    with reading(source):
        if source.suffix == PARQUET:
            file = pq.ParquetFile(source)
            rows = (row for part in file.iter_batches(CHUNK) for row in zip(*map(_values, part.columns), strict=True))
            names = file.schema_arrow.names
            yield from enumerate((dict(zip(names, row, strict=True)) for row in rows), 1)
        else:
            with open(source, "rb") as stream:
                yield from ((number, line) for number, line in enumerate(stream, 1) if line.strip())


def _values(column: pa.Array) -> list[Any]:
    """A column's values; lists of integers by way of NumPy, as Arrow's own takes ten times as long."""
    whole = pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type)
    if not whole or column.null_count or column.flatten().null_count:
        return list(column.to_pylist())
    numbers, ends = column.flatten().to_numpy().tolist(), column.offsets.to_numpy()
    return [numbers[start:end] for start, end in pairwise((ends - ends[0]).tolist())]


def _parsed(value: Any) -> Any:
    """What stands in a line, or a row; a profile, which is a struct or a map there, is without what is null."""
    try:
        if isinstance(value, bytes):
            return parse_json(value.decode("utf-8-sig"), "query", "give an object with the fields of a query")
    except UnicodeDecodeError:
        raise UserError("not UTF-8; write it again as UTF-8") from None
    if value.get("profile") is not None:
        value["profile"] = {name: one for name, one in dict(value["profile"]).items() if one is not None}
    return value


@contextmanager
def reading(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: cannot be read ({reason}); check its name, or write it again") from None


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def _writer(part: Path, out: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:
    """What writes tables as Parquet or JSON lines."""
    if out.suffix == PARQUET:
        with pq.ParquetWriter(part, schema) as writer:
            yield writer.write_table
    else:
        with open(part, "w", encoding="utf-8") as stream:
            yield lambda table: stream.writelines(f"{as_json(row)}\n" for row in table.to_pylist())


def _table(answered: Answered, schema: pa.Schema) -> pa.Table:
    """Columns of answers; ids are looked up for all of them at once."""
    names, answers = [name for name, _ in answered], [answer for _, answer in answered]
    if ID in schema.names and pa.types.is_string(schema.field(ID).type):
        names = [name if name is None or isinstance(name, str) else as_json(name) for name in names]
    places, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    places += [one.places for one in answers]
    scores += [one.scores for one in answers]
    ends, ids = pa.array(np.cumsum([len(part) for part in places]), pa.int32()), list[Any]()
    if answers:
        ids = answers[0].source.ids.decode(np.concatenate(places))
        ids = list(map(str, ids)) if pa.types.is_string(schema.field("items").type.value_type) else ids  # added ones
    values = {"items": ids, "scores": np.concatenate(scores).astype(np.float32)}
    columns = {ID: names, "notes": [one.notes for one in answers], "popular": [one.popular for one in answers]}
    try:
        lists = {name: pa.ListArray.from_arrays(ends, pa.array(flat, schema.field(name).type.value_type))
                 for name, flat in values.items()}  # fmt: skip
        return pa.table({field.name: lists[field.name] if field.name in lists else
                         pa.array(columns[field.name], field.type) for field in schema}, schema)  # fmt: skip
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(f"id: {str(error).splitlines()[0]}; give ids of one type, that of the first") from None
