"""Writing what sessions become in a dataset directory: their arrays, the vocabulary and further tables by item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxrec.data.store import ArrayFile, file_entry

GROUP = 1 << 16  # rows of a row group of a Parquet file that is written piece by piece


def write_splits(
    path: Path,
    lengths: dict[str, np.ndarray],
    chunks: Iterator[tuple[np.ndarray, ...]],
    written: Callable[[int], None],
    typed: bool,
) -> dict[str, dict[str, Any]]:
    """Cut the stream of events into the splits and write all array files.

    Args:
        path: the directory.
        lengths: by split, int64[sessions].
        chunks: items int32[n], times int64[n] and, if ``typed``, event types uint8[n].
        written: called with the number of events, piece by piece.
        typed: also write ``events.npy``.

    Returns:
        The files' manifest entries.
    """
    files: dict[str, dict[str, Any]] = {}
    rest: tuple[np.ndarray, ...] = (np.empty(0),)
    for split, sizes in lengths.items():
        total = int(sizes.sum())
        with ExitStack() as stack:
            columns = [
                stack.enter_context(ArrayFile(path / split / name, dtype, total))
                for name, dtype in (("items.npy", "<i4"), ("times.npy", "<i8"), ("events.npy", "|u1"))[: 2 + typed]
            ]
            offsets = stack.enter_context(ArrayFile(path / split / "offsets.npy", "<i8", len(sizes) + 1))
            offsets.append(np.concatenate([[0], np.cumsum(sizes)]))
            left = total
            while left:
                if not len(rest[0]):
                    rest = next(chunks)
                take = min(left, len(rest[0]))
                for column, values in zip(columns, rest, strict=True):
                    column.append(values[:take])
                rest = tuple(values[take:] for values in rest)
                left -= take
                written(take)
        files |= {f"{split}/{file.path.name}": file.entry for file in (*columns, offsets)}
    if len(rest[0]) or next(chunks, None) is not None:
        raise AssertionError("more events than the sessions' lengths add up to")
    return files


def write_vocabulary(connection: Any, file: Path) -> tuple[dict[str, Any], int]:
    """Write ``items.parquet``; returns its manifest entry and the number of items."""
    table = connection.sql("SELECT item, count FROM vocabulary ORDER BY index").to_arrow_table()
    pyarrow.parquet.write_table(table, file)
    return file_entry(file), table.num_rows


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, file: Path) -> dict[str, Any]:
    """Write a stream of rows; returns the file's manifest entry.

    The row groups are of one size however the rows come in, so that equal rows make equal bytes.
    """
    rest = schema.empty_table()
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for batch in batches:
            rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
            while rest.num_rows >= GROUP:
                writer.write_table(rest.slice(0, GROUP).combine_chunks())
                rest = rest.slice(GROUP)
        if rest.num_rows:
            writer.write_table(rest.combine_chunks())
    return file_entry(file)
