"""Raw ids and values as people give them, and the places that they stand for: one rule for everything that is read.

- Where the ids of a run are integers, 7, "7", " 7 ", 7.0, "7.0" and NumPy's or Arrow's 7 are the integer 7. "007" is
  not, nor is True the integer 1.
- Otherwise an id is text: "007" is itself, and spaces around it do not count. A number is found by how it is written,
  or else as the number that it is: 7 finds "7", or "7.0" where there is no "7".
- Where all values are true and false, True, "True" and "TRUE" are the same.
- None and NaN are no value, and neither is a list where one value is expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.errors import UserError, nearest, one_line, shown

INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})(\.0+)?")  # at most 19 digits: those of 64 bits
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?")
MOST_COMPARED = 10_000  # values among which the nearest is looked for
MARKERS = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nat", r"\n")
"""What programs write where there is no value, in any case."""


def plain(value: Any) -> Any:
    """A scalar of NumPy or Arrow, or a Decimal, as Python's, bytes as text; None for no value (NaN, NaT, NA)."""
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    elif _dimensions(value) == 0:
        one = np.asarray(value)[()]
        value = float(str(one)) if isinstance(one, np.floating) else np.asarray(value).item()  # float32(1.1) is 1.1
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        value = int(value) if abs(value) < 2**63 and value == int(value) else float(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    no_value = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))
    return None if no_value else value


def whole(value: Any) -> int | None:
    """The integer of 64 bits that a plain value is, however it is written; None where it is none."""
    if isinstance(value, str):
        matched = INTEGER.fullmatch(value.strip())
        value = int(matched[1]) if matched else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def is_list(value: Any) -> bool:
    """Whether a value is several in order: a list, a tuple, an array, a Series, a generator."""
    no = isinstance(value, str | bytes | bytearray | Mapping | Set) or hasattr(value, "columns")
    return isinstance(value, Iterable) and not no and _dimensions(value) != 0


def read_list(what: str, given: Any, ordered: bool = False) -> list[Any]:
    """The members of a list called ``what``, in whatever form it comes; ``ordered`` refuses a set."""
    if isinstance(given, pa.Scalar | pa.Array | pa.ChunkedArray):
        given = given.as_py() if isinstance(given, pa.Scalar) else given.to_pylist()
    if is_list(given) or (isinstance(given, Set) and not ordered):
        return list(np.asarray(given) if hasattr(given, "__array__") else given)
    raise UserError(f"{what}: found {shown(given)}; give a list of ids in order, such as [81766, 31331]")


def check_single(what: str, value: Any) -> None:
    """Refuse several values where one is expected."""
    if is_list(value) or isinstance(value, Mapping | Set):
        raise UserError(f"{what}: found {shown(value)}, expected a single value, a number or text")


def bare(value: Any) -> str:
    """A value in a message as it was given, without quotes: on one line, and not long."""
    try:
        text = str(value)
    except ValueError:
        text = "a number of thousands of digits"
    return one_line(text if len(text) <= 40 else f"{text[:40]}…")


def listing(values: Sequence[Any], most: int = 5) -> str:
    """The first values, to be shown: ``a, b, …``."""
    return ", ".join(map(bare, values[:most])) + (", …" if len(values) > most else "")


class Ids:
    """Raw ids or values, integers or text, each once, and the index of each: ``first`` and what follows.

    Attributes:
        integers: whether all are integers.
    """

    def __init__(self, values: np.ndarray | pa.ChunkedArray | Iterable[Any], first: int = 0) -> None:
        if isinstance(values, pa.ChunkedArray):
            values = values.to_numpy() if pa.types.is_integer(values.type) else values.to_pylist()
        self._values = values if isinstance(values, np.ndarray) else np.array(list(values), object)
        self._first, integer = first, np.issubdtype(self._values.dtype, np.integer)
        self.integers = bool(len(self)) and (integer or all(type(value) is int for value in self._values))

    def __len__(self) -> int:
        return len(self._values)

    def encode(self, raw: Iterable[Any]) -> np.ndarray:
        """int32[n] indices of raw ids; -1 for one that is not there."""
        if not self.integers:
            return np.array([self._find(plain(value)) for value in raw], np.int32)
        raw, known = list(raw), np.ones((), bool)
        try:  # most lists hold plain integers, which NumPy takes ten times as fast
            wanted = np.array(raw, np.int64) if set(map(type, raw)) <= {int} else None
        except OverflowError:
            wanted = None
        if wanted is None:
            numbers = [whole(value if type(value) is int else plain(value)) for value in raw]
            wanted = np.array([0 if number is None else number for number in numbers], np.int64)
            known = np.array([number is not None for number in numbers], bool)
        order, ordered = self._sorted
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(known & (ordered[place] == wanted), order[place] + self._first, -1).astype(np.int32)

    def find(self, value: Any) -> int:
        """The index of one raw id; -1 where it is not there."""
        return int(self.encode([value])[0])

    def decode(self, indices: np.ndarray) -> list[Any]:
        """Raw ids of int[n] indices, as plain Python values."""
        return list(self._values[np.asarray(indices) - self._first].tolist())

    def values(self) -> list[Any]:
        """All raw ids in the order of their indices."""
        return list(self._values.tolist())

    def extended(self, values: Iterable[Any]) -> Ids:
        """With more ids behind, which stay what they are: an integer among texts is found by its text too."""
        return Ids([*self.values(), *values], self._first)

    def nearest(self, value: Any) -> str:
        """`` (did you mean 'x'?)`` where a text is close, otherwise an empty string; numbers are not like others."""
        if self.integers or len(self) > MOST_COMPARED:
            return ""
        return nearest(bare(value).strip(), map(str, self.values()))

    def _find(self, value: Any) -> int:
        """The index of a plain value among texts."""
        if value is None or isinstance(value, Mapping | Set) or is_list(value):
            return -1
        text = value if isinstance(value, str) else bare(value)
        index = self._index.get(text, self._index.get(text.strip(), -1))
        number = isinstance(value, int | float) and DECIMAL.fullmatch(text)
        return index if index >= 0 else self._alike.get(Decimal(text) if number else text.strip().casefold(), -1)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        values = self._values.astype(np.int64)
        order = np.argsort(values, kind="stable")
        return order, values[order]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {str(value): place for place, value in enumerate(self.values(), self._first)}

    @cached_property
    def _alike(self) -> dict[Any, int]:
        """By ``true`` and ``false`` where nothing else is there; otherwise by number, the shortest text of each."""
        if {text.casefold() for text in self._index} <= {"true", "false"}:
            return {text.casefold(): place for text, place in self._index.items()}
        numbers = sorted(filter(DECIMAL.fullmatch, self._index), key=len, reverse=True)
        return {Decimal(text): self._index[text] for text in numbers}


def _dimensions(value: Any) -> int | None:
    """Of an array of NumPy, JAX or torch, or a Series of pandas or polars; None for anything else."""
    return getattr(value, "ndim", 1) if hasattr(value, "__array__") else None
