"""DuckDB as ``prepare`` uses it: a connection that spills beside the output, and its errors as one line each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from jaxrec.errors import UserError


@contextmanager
def connect(spill: Path, memory_limit: int | None = None, threads: int | None = None) -> Iterator[Any]:
    """An in-memory DuckDB that overflows into the directory ``spill``.

    Args:
        spill: a directory for what does not fit; DuckDB makes it when it needs it.
        memory_limit: bytes; by default half the machine's memory.
        threads: by default one per processor.

    Raises:
        UserError: memory or disk space ran out.
        KeyboardInterrupt: Ctrl-C, also where DuckDB reports it as a RuntimeError.
    """
    memory_limit = memory_limit or default_memory_limit()
    connection = duckdb.connect(":memory:")
    try:
        # Insertion order is what makes rowid the number of the input row; it is the default, and stated here as the
        # order of the result rests on it.
        connection.execute("SET preserve_insertion_order = true")
        # Of IN with 6 constants or more DuckDB makes a join, which does not keep that order.
        connection.execute("SET disabled_optimizers = 'in_clause'")
        connection.execute("SET enable_progress_bar = false")  # we draw our own
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET memory_limit = '{memory_limit}B'")
        connection.execute(f"SET temp_directory = {quoted(str(spill))}")
        connection.execute(f"SET threads = {threads or os.cpu_count() or 1}")
        yield connection
    except duckdb.OutOfMemoryException as error:
        if "offload" in str(error) or "max_temp_directory_size" in str(error):
            raise UserError(f"{spill.parent}: no disk space left for what exceeds --memory-limit; free some") from None
        limit = f"{memory_limit / 1e9:.3g}GB"
        raise UserError(f"--memory-limit {limit}: too little for this data; raise it or lower --threads") from None
    except duckdb.IOException as error:
        if "No space left" not in str(error) and "Could not write" not in str(error):
            raise
        raise UserError(f"{spill.parent}: no disk space left; free some or choose another --out") from None
    except RuntimeError as error:
        if "interrupted" not in str(error).lower():
            raise
        raise KeyboardInterrupt from None
    finally:
        connection.close()


def default_memory_limit() -> int:
    """Half the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def quoted(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def fetch_row(connection: Any, sql: str) -> tuple[int, ...]:
    """The first row of a query's result, of whole numbers."""
    row: tuple[int, ...] = connection.execute(sql).fetchone()
    return row


def fetch_number(connection: Any, sql: str) -> int:
    """The first value of a query's result, a whole number."""
    return fetch_row(connection, sql)[0]


def fetch_sums(connection: Any, table: str) -> tuple[int, ...]:
    """Rows of a table, and the sum of its column ``events``."""
    return fetch_row(connection, f"SELECT count(*), coalesce(sum(events), 0) FROM {table}")
