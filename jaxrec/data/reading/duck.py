"""DuckDB as ``prepare`` uses it: a connection that spills beside the output, and its errors as one line each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from jaxrec.errors import UserError

FULL = ("No space left", "Could not write", "offload", "max_temp_directory_size")  # what DuckDB says of a full disk


@contextmanager
def connect(spill: Path, memory_limit: int | None = None, threads: int | None = None) -> Iterator[Any]:
    """An in-memory DuckDB that overflows into the directory ``spill``, which it makes when it needs it.

    Args:
        memory_limit: bytes; by default half the machine's memory.
        threads: by default one per processor.

    Raises:
        KeyboardInterrupt: Ctrl-C, also where DuckDB reports it as a RuntimeError.
    """
    memory_limit = memory_limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    settings = {
        "preserve_insertion_order": "true",  # the default; rowid is the number of the input row because of it
        "disabled_optimizers": "'in_clause'",  # of IN with 6 constants it makes a join, which does not keep that order
        "enable_progress_bar": "false",
        "TimeZone": "'UTC'",
        "memory_limit": f"'{memory_limit}B'",
        "temp_directory": quoted(str(spill)),
        "threads": threads or os.cpu_count() or 1,
    }
    connection = duckdb.connect(":memory:")
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {value}")
        yield connection
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        if any(words in str(error) for words in FULL):
            raise UserError(f"{spill.parent}: no disk space left; free some or choose another --out") from None
        if isinstance(error, duckdb.IOException):
            raise
        limit = f"{memory_limit / 1e9:.3g}GB"
        raise UserError(f"--memory-limit {limit}: too little for this data; raise it or lower --threads") from None
    except RuntimeError as error:
        if "interrupted" not in str(error).lower():
            raise
        raise KeyboardInterrupt from None
    finally:
        connection.close()


def quoted(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def listed(texts: Any) -> str:
    """Texts as SQL string literals with commas between."""
    return ", ".join(map(quoted, texts))


def fetch_row(connection: Any, sql: str) -> tuple[Any, ...]:
    """The first row of a query's result."""
    row: tuple[Any, ...] = connection.execute(sql).fetchone()
    return row


def fetch_number(connection: Any, sql: str) -> int:
    """The first value of a query's result, a whole number."""
    return int(fetch_row(connection, sql)[0])


def fetch_sums(connection: Any, table: str) -> tuple[int, int]:
    """Rows of a table, and the sum of its column ``events``."""
    rows, events = fetch_row(connection, f"SELECT count(*), coalesce(sum(events), 0) FROM {table}")
    return int(rows), int(events)
