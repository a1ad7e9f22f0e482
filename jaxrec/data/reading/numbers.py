"""The columns of numbers and of labels in people's own files, as they become float64.

- Spaces around a value do not count.
- ``MARKERS`` (NA, NaN, NULL, None, \\N and the like, in any case) and the texts of ``--na`` stand for nothing, as no
  text at all does.
- A label is a number, or one of ``TRUE`` and ``FALSE`` in any case: 1 and 0, as of a column of booleans.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxrec.data.ids import MARKERS
from jaxrec.data.reading.duck import listed
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.ids import trimmed
from jaxrec.data.reading.table import TEXT, Table
from jaxrec.data.reading.times import NUMBERS
from jaxrec.errors import UserError

LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
TRUE = ("true", "t", "yes", "y")
FALSE = ("false", "f", "no", "n")


def number_field(table: Table, name: str, column: str, na: Sequence[str] | None) -> Field:
    """A column of numbers, NaN where there is nothing, NULL where there is something else.

    Args:
        table: the file.
        name: of the column of ``raw``.
        column: of the file.
        na: of ``--na``: texts that stand for nothing beside ``MARKERS``.
    """
    kind = _kind(table, column)

    def parse(sql: str) -> str:
        number = _number(sql, kind)
        missing = f"{_nothing(sql, na)} OR coalesce(isnan({number}), false)"
        return f"CASE WHEN {missing} THEN CAST('nan' AS DOUBLE) WHEN abs({number}) <= {LARGEST} THEN {number} END"

    return Field(name, column, parse, f"a number of at most {LARGEST:g} or nothing (so are NA, NaN, NULL, None and "
                                      "\\N; --na names other texts)")  # fmt: skip


def label_field(table: Table, name: str, column: str, na: Sequence[str] | None) -> Field:
    """A column of labels, NULL where there is nothing or something else; arguments as of ``number_field``."""
    kind = _kind(table, column)

    def parse(sql: str) -> str:
        word, number = _word(sql), _number(sql, kind)
        words = f"WHEN {word} IN ({listed(TRUE)}) THEN 1.0 WHEN {word} IN ({listed(FALSE)}) THEN 0.0"
        return f"CASE WHEN {_nothing(sql, na)} THEN NULL {words} WHEN abs({number}) <= {LARGEST} THEN {number} END"

    pairs = ", ".join("/".join(pair) for pair in zip(TRUE, FALSE, strict=True))
    return Field(name, column, parse, f"a number of at most {LARGEST:g}, or one of {pairs}")


def _kind(table: Table, column: str) -> str:
    _, kind = table.column(column)
    if kind not in (TEXT, "BOOLEAN", *NUMBERS) and not kind.startswith("DECIMAL"):
        raise UserError(f"{table.path}: column '{column}' is of type {kind}; expected numbers")
    return kind


def _word(sql: str) -> str:
    return f"lower({trimmed(f'CAST({sql} AS {TEXT})')})"


def _nothing(sql: str, na: Sequence[str] | None) -> str:
    """SQL: whether there is no value, or a text that stands for none."""
    found = f"coalesce({_word(sql)}, '') IN ({listed(('', *MARKERS))})"
    given = listed(one.strip() for one in na or ())
    return f"({found} OR {trimmed(f'CAST({sql} AS {TEXT})')} IN ({given}))" if given else found


def _number(sql: str, kind: str) -> str:
    """SQL: the number, NULL where it is none. Of text it is cut out first: of a column that is only cast the CSV reader
    makes numbers, and fails where it cannot."""
    return f"TRY_CAST({trimmed(sql) if kind == TEXT else sql} AS DOUBLE)"
