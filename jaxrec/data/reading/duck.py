"""DuckDB as ``prepare`` uses it: a connection that spills beside the output, pieces of SQL, and rows of ``raw``.

``raw`` is the table of what was read, filled in the order of the files: its rowid is the number of the input row, also
once others have been left out.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from jaxrec.errors import UserError

TEXT = "VARCHAR"
NESTED = ("STRUCT", "MAP", "UNION", "BLOB", "BIT")
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
           "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip
SPACES = " || ".join(f"chr({code})" for code in (32, 9, 10, 11, 12, 13, 0xA0, 0x3000, 0xFEFF))


@contextmanager
def connect(spill: Path, memory_limit: str | None = None, threads: int | None = None) -> Iterator[Any]:
    """An in-memory DuckDB that overflows into the directory ``spill``; by default half the memory, all processors."""
    memory_limit = memory_limit or f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2}B"
    settings = {
        "preserve_insertion_order": "true",  # the default; rowid is the number of the input row because of it
        "checkpoint_threshold": "'1000TB'",  # which would number the rows of raw anew, once some have been left out
        "disabled_optimizers": "'in_clause'",  # of IN with 6 constants it makes a join, which does not keep that order
        "enable_progress_bar": "false",
        "TimeZone": "'UTC'",
        "memory_limit": quoted(memory_limit),
        "temp_directory": quoted(str(spill)),
        "threads": threads or os.cpu_count() or 1,
    }
    connection = duckdb.connect(":memory:")
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {value}")
        yield connection
    except (duckdb.ParserException, duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise UserError(f"{spill.parent}: {str(error).splitlines()[0]}; see --memory-limit (such as 2GB) and --threads"
                        ", and free space beside --out") from None  # fmt: skip
    except RuntimeError as error:
        if "interrupted" not in str(error).lower():
            raise
        raise KeyboardInterrupt from None  # Ctrl-C, as DuckDB reports it
    finally:
        connection.close()


def fetch_row(connection: Any, sql: str) -> tuple[Any, ...]:
    """The one row of a query's result."""
    (row,) = connection.execute(sql).fetchall()
    return tuple(row)


def quoted(text: str) -> str:
    """``text`` as a string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """``name`` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def listed(texts: Iterable[str]) -> str:
    """Texts as string literals with commas between."""
    return ", ".join(map(quoted, texts))


def literal(path: Path) -> str:
    """A file's name; DuckDB would expand * ? [ in it."""
    return quoted(glob.escape(str(path.resolve())))


def trimmed(text: str) -> str:
    """A text without the spaces around it."""
    return f"trim({text}, {SPACES})"


def undotted(text: str) -> str:
    """The text of a number without .0 behind it."""
    return f"regexp_replace({text}, '\\.0+$', '')"


def number(sql: str, kind: str = "DOUBLE") -> str:
    """A text or number as one of another type, NULL where it is none; a bare cast reads 7_9 as 79."""
    return f"CASE WHEN NOT contains(CAST({sql} AS {TEXT}), '_') THEN TRY_CAST({sql} AS {kind}) END"


def integer(text: str) -> str:
    """A text as int64, NULL unless it is written as an integer is (a bare cast rounds '1.5' and reads '1e3')."""
    return f"CASE WHEN CAST(TRY_CAST({text} AS BIGINT) AS {TEXT}) = {text} THEN TRY_CAST({text} AS BIGINT) END"


def timestamp(text: str) -> str:
    """An ISO 8601 text as milliseconds since 1970, UTC where it names no zone; NULL where it is none."""
    return f"epoch_ms(TRY_CAST({text} AS TIMESTAMPTZ))"


def value_text(sql: str, kind: str) -> str:
    """The text of a value of an SQL type; of a whole number without exponent; NULL where there is none."""
    text = f"CAST({sql} AS {TEXT})"
    if kind not in ("FLOAT", "DOUBLE"):
        return text
    # pandas writes nan where there is nothing; 1e20 is no whole number of 64 bits
    whole = f"CASE WHEN {sql} = trunc({sql}) THEN CAST(TRY_CAST({sql} AS BIGINT) AS {TEXT}) || '.0' END"
    return f"CASE WHEN NOT isnan({sql}) THEN coalesce({whole}, {text}) END"


def leave_out(connection: Any, condition: str) -> int:
    """Take the rows of which an SQL condition is true out of ``raw``; returns how many. The others keep their rowid."""
    return int(fetch_row(connection, f"DELETE FROM raw WHERE {condition}")[0])


def leave_out_repeated(connection: Any, columns: Sequence[str]) -> int:
    """Of rows of ``raw`` that say the same in all ``columns`` keep the first; returns how many are left out."""
    return leave_out(connection, f"rowid NOT IN (SELECT min(rowid) FROM raw GROUP BY {', '.join(columns)})")


def note_repeated(connection: Any, columns: Sequence[str]) -> list[str]:
    """A note about the rows of ``raw`` that say in all ``columns`` the same as an earlier row; none without any."""
    # By a hash of 64 bits, which takes 0.6 of the time: of 50 million rows two share one with a chance of 1 in 15,000.
    (count,) = fetch_row(connection, f"SELECT count(*) - count(DISTINCT hash({', '.join(columns)})) FROM raw")
    return [f"{count:,} rows say the same as an earlier one; --drop-duplicates leaves such rows out"] if count else []
