"""Raw ids and values as people give them, and the places that they stand for: one rule for sessions, events, rows,
profiles, filters, new items and the command line.

- Where the ids of a run are integers, 7, "7", " 7 ", 7.0, "7.0" and NumPy's or Arrow's 7 are the integer 7. "007" is
  not, nor is True the integer 1.
- Otherwise an id is text: "007" is itself, and spaces around it do not count. A number is found by how it is written,
  or else as the number that it is: 7 finds "7", or "7.0" where there is no "7".
- Where all values are true and false, True, "True" and "TRUE" are the same; nowhere else is a bool anything.
- None and NaN are no value, and neither is a list where one value is expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.errors import UserError, nearest, one_line, shown

INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})(\.0+)?")  # at most 19 digits: those of 64 bits
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?")
MOST_COMPARED = 10_000  # values among which the nearest is looked for
LISTS = (
    Sequence, Iterator, KeysView, ValuesView, pa.Array, pa.ChunkedArray, pa.ListScalar, pa.LargeListScalar,
)  # fmt: skip
MARKERS = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nat", r"\n")
"""What programs write where there is no value, in any case."""


def plain(value: Any) -> Any:
    """A scalar of NumPy or Arrow as Python's, bytes as text; None for what stands for no value (NaN, NaT, NA)."""
    if isinstance(value, np.floating):
        return None if np.isnan(value) else float(str(value))  # float32(1.1) is 1.1
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    elif isinstance(value, np.generic):
        value = value.item()
    elif _dimensions(value) == 0:
        return plain(np.asarray(value)[()])
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan()):
        return None
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def no_number(value: Any, na: Collection[str] = ()) -> bool:
    """Whether a plain value stands for no number: None, no text, one of ``MARKERS`` or of ``na``, spaces aside."""
    text = value.strip() if isinstance(value, str) else None
    return value is None or (text is not None and (text.lower() in ("", *MARKERS) or text in na))


def whole(value: Any) -> int | None:
    """The integer of 64 bits that a plain value is, however it is written; None where it is none."""
    if isinstance(value, str):
        matched = INTEGER.fullmatch(value.strip())
        number = int(matched[1]) if matched else None
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not _finite(value):
        return None
    else:
        number = int(value) if value == int(value) else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


def is_list(value: Any) -> bool:
    """Whether a value is several in order: a list, a tuple, an array, a Series, a generator."""
    if isinstance(value, str | bytes | bytearray) or hasattr(value, "columns"):
        return False
    return isinstance(value, LISTS) or bool(_dimensions(value))


def read_list(what: str, given: Any, ordered: bool = False) -> list[Any]:
    """The members of a list, in whatever form it comes; of a table of two dimensions its rows.

    Args:
        what: the name of what is read, for errors.
        ordered: refuse a set, which has no order.
    """
    if isinstance(given, pa.Scalar):
        given = given.as_py()
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return list(given.to_pylist())
    if is_list(given):
        return list(given if not _dimensions(given) or hasattr(given, "index") else np.asarray(given))
    single = isinstance(given, str | bytes | bytearray | Mapping) or hasattr(given, "columns")
    if isinstance(given, Iterable) and not single and not (ordered and isinstance(given, Set)):
        return list(given)
    raise UserError(f"{what}: found {shown(given)}; give a list of ids in order, such as [81766, 31331]")


def read_ids(what: str, given: Any) -> list[Any]:
    """The ids of a list whose order does not matter; none for None."""
    found = [] if given is None else read_list(what, given)
    for value in found:
        check_single(what, value)
    return found


def check_single(what: str, value: Any) -> None:
    """Refuse several values where one is expected."""
    if is_list(value) or isinstance(value, Mapping | Set):
        raise UserError(f"{what}: found {shown(value)}, expected a single value, a number or text")


def bare(value: Any, most: int = 40) -> str:
    """A value in a message as it was given, without quotes: on one line, and not long."""
    try:
        text = str(value)
    except ValueError:
        text = "a number of thousands of digits"
    return one_line(text if len(text) <= most else f"{text[:most]}…")


def listing(values: Sequence[Any], most: int = 5) -> str:
    """The first values, to be shown: ``a, b, …``."""
    return ", ".join(map(bare, values[:most])) + (", …" if len(values) > most else "")


class Ids:
    """Raw ids or values, integers or text, each once, and the index of each: ``first`` and what follows.

    Attributes:
        integers: whether all are integers.
    """

    def __init__(self, values: np.ndarray | Iterable[Any], first: int = 0) -> None:
        self._values, self._first = values if isinstance(values, np.ndarray) else list(values), first
        kind = getattr(self._values, "dtype", None)
        ints = all(type(value) is int for value in self._values) if kind is None else kind == np.int64
        self.integers = bool(len(self._values)) and ints

    def __len__(self) -> int:
        return len(self._values)

    def encode(self, raw: Iterable[Any]) -> np.ndarray:
        """int32[n] indices of raw ids; -1 for one that is not there."""
        values = raw if type(raw) is list else list(raw)
        if not self.integers:
            return np.array([self._find(plain(value)) for value in values], np.int32)
        plainly = all(type(value) is int and abs(value) < 2**63 for value in values)
        numbers = values if plainly else [whole(plain(value)) for value in values]
        wanted = np.array([0 if number is None else number for number in numbers], np.int64)
        order, ordered = self._sorted
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        known = (ordered[place] == wanted) & np.array([number is not None for number in numbers], bool)
        return np.where(known, order[place] + self._first, -1).astype(np.int32)

    def find(self, value: Any) -> int:
        """The index of one raw id; -1 where it is not there."""
        return int(self.encode([value])[0])

    def decode(self, indices: np.ndarray) -> list[Any]:
        """Raw ids of int[n] indices, as plain Python values."""
        places = np.asarray(indices) - self._first
        if isinstance(self._values, np.ndarray):
            return list(self._values[places].tolist())
        return [self._values[place] for place in places.tolist()]

    def values(self) -> list[Any]:
        """All raw ids in the order of their indices."""
        return list(self._values.tolist() if isinstance(self._values, np.ndarray) else self._values)

    def extended(self, values: Iterable[Any]) -> Ids:
        """With more ids behind; what is no integer is text."""
        new = [value if self.integers and type(value) is int else str(value) for value in values]
        return Ids([*self.values(), *new], self._first)

    def nearest(self, value: Any) -> str:
        """`` (did you mean 'x'?)`` where a text is close, otherwise an empty string; numbers are not like others."""
        if self.integers or len(self) > MOST_COMPARED:
            return ""
        return nearest(bare(value).strip(), map(str, self.values()))

    def _find(self, value: Any) -> int:
        """The index of a plain value among texts."""
        if value is None or isinstance(value, Mapping | Set) or is_list(value):
            return -1
        if isinstance(value, bool) or (self._booleans and isinstance(value, str)):
            return self._booleans.get(str(value).strip().casefold(), -1)
        number = isinstance(value, int | float | Decimal)
        if number and not (_finite(value) and -(10**30) < value < 10**30):
            return -1
        text = str(value)
        found = self._index.get(text, -1)
        if found >= 0:
            return found
        return self._numbers.get(Decimal(text), -1) if number else self._index.get(text.strip(), -1)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        values = np.asarray(self._values, np.int64)
        order = np.argsort(values, kind="stable")
        return order, values[order]

    @cached_property
    def _index(self) -> dict[str, int]:
        """By text; NumPy's searchsorted fails on texts of over 15 bytes."""
        return {str(value): place for place, value in enumerate(self.values(), self._first)}

    @cached_property
    def _numbers(self) -> dict[Decimal, int]:
        """By number, of the texts that are written as one; the shortest text of each."""
        texts = sorted((text for text in self._index if DECIMAL.fullmatch(text)), key=len, reverse=True)
        return {Decimal(text): self._index[text] for text in texts}

    @cached_property
    def _booleans(self) -> dict[str, int]:
        """By ``true`` and ``false``, where nothing else is there."""
        found = {text.casefold(): place for text, place in self._index.items()}
        return found if 0 < len(found) == len(self) and found.keys() <= {"true", "false"} else {}


def _finite(value: int | float | Decimal) -> bool:
    return value.is_finite() if isinstance(value, Decimal) else isinstance(value, int) or math.isfinite(value)


def _dimensions(value: Any) -> int | None:
    """Of an array of NumPy, JAX or torch, or a Series of pandas or polars; None for anything else."""
    return getattr(value, "ndim", 1) if hasattr(value, "__array__") else None
