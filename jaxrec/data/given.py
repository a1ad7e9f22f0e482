"""What users hand in: raw ids and values, rows of new items, events of sequences, moments. Pydantic checks rows by the
data's types, and there is one rule for every id and value:

- Where the ids of a run are integers, 7, "7", " 7 ", 7.0, "7.0" and NumPy's or Arrow's 7 are the integer 7. "007" is
  not, nor is True the integer 1.
- Otherwise an id is text: "007" is itself, and spaces around it do not count. A number is found by how it is written, a
  whole one without a point.
- Where all values are true and false, True, "True" and "TRUE" are the same.
- None and NaN are no value, and neither is a list where one value is expected.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from jaxrec.cli.text import parse_json
from jaxrec.errors import UserError, explained, one_line, shown

INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})(\.0+)?")  # at most 19 digits: those of 64 bits
MARKERS = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>", "nat", r"\n")
"""What programs write where there is no value, in any case."""
LIVE = ("listed", "sold")  # attributes that say when a listing is live, in ms since 1970
MOMENT = TypeAdapter(datetime.datetime)


def plain(value: Any) -> Any:
    """A scalar of NumPy or Arrow as Python's, bytes as text; None for no value (NaN, NaT, NA)."""
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    elif _dimensions(value) == 0:
        one = np.asarray(value)[()]
        value = float(str(one)) if isinstance(one, np.floating) else np.asarray(value).item()  # float32(1.1) is 1.1
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

    def _find(self, value: Any) -> int:
        """The index of a plain value among texts."""
        if value is None or isinstance(value, Mapping | Set) or is_list(value):
            return -1
        number = None if isinstance(value, str) else whole(value)
        text = value if isinstance(value, str) else bare(value if number is None else number)
        index = self._index.get(text, self._index.get(text.strip(), -1))
        return index if index >= 0 else self._truths.get(text.strip().casefold(), -1)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        values = self._values.astype(np.int64)
        order = np.argsort(values, kind="stable")
        return order, values[order]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {str(value): place for place, value in enumerate(self.values(), self._first)}

    @cached_property
    def _truths(self) -> dict[str, int]:
        """By ``true`` and ``false``; empty where there are other values."""
        places = {text.casefold(): place for text, place in self._index.items()}
        return places if places.keys() <= {"true", "false"} else {}


def _dimensions(value: Any) -> int | None:
    """Of an array of NumPy, JAX or torch, or a Series of pandas or polars; None for anything else."""
    return getattr(value, "ndim", 1) if hasattr(value, "__array__") else None


# ---- rows, events, moments -------------------------------------------------------------------------------------------


def _id(value: Any) -> Any:
    value = plain(value)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    number = None if isinstance(value, str) else whole(value)
    if number is None:
        raise ValueError(f"found {shown(value)}, expected an id, a whole number or text")
    return number


Id = Annotated[int | str | None, BeforeValidator(_id)]
Number = Annotated[float | None, Field(allow_inf_nan=False), BeforeValidator(plain)]
Whole = Annotated[int | None, Field(ge=-(2**63), lt=2**63), BeforeValidator(plain)]
Text = Annotated[str | None, Field(strict=True), BeforeValidator(plain)]


class Entry(NamedTuple):
    """One event: the raw id of its item, None where only the ``name`` (or else "") is given, the index of its type, and
    the item's attributes that are given.
    """

    item: Any
    event: int
    name: str
    attributes: dict[str, Any]


def row_types(fields: Mapping[str, Any], required: Mapping[str, Any]) -> TypeAdapter[list[dict[str, Any]]]:
    """What ``check_rows`` needs to know of rows: the types of fields that may be missing, and of those that must be
    there; there are no others.
    """
    types = {name: NotRequired[kind] for name, kind in fields.items()} | dict(required)
    row = with_config({"extra": "forbid"})(TypedDict("Row", types))  # type: ignore[operator]
    return TypeAdapter(list[row])  # type: ignore[valid-type]


def check_rows(place: str, rows: Sequence[Any], types: TypeAdapter[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows, if all are of some types; ``place`` and the number of a wrong one begin the message."""
    try:
        return types.validate_python(list(rows))
    except ValidationError as error:
        raise UserError(f"{place} {int(error.errors()[0]['loc'][0]) + 1}: {explained(error, within=1)}") from None


def type_of(kind: pa.DataType) -> Any:
    """The type of an attribute."""
    if pa.types.is_integer(kind):
        return Whole
    return Text if pa.types.is_string(kind) or pa.types.is_large_string(kind) else Number


def check_events(events: Sequence[Any], types: Sequence[str], schema: pa.Schema) -> list[Entry]:
    """The events of a sequence: mappings with ``event``, ``item`` or ``name`` (or both), and attributes of the item. A
    ``time`` may stand there too, as in a log: their order is what counts."""
    entries = []
    for number, row in enumerate(check_rows("events: entry", events, _event_types(tuple(types), schema)), 1):
        given = {name: value for name, value in row.items() if value is not None and name != "time"}
        item, event, name = given.pop("item", None), types.index(given.pop("event")), given.pop("name", "").strip()
        if item is None and not name:
            raise UserError(f"events: entry {number}: neither 'item' nor 'name'; give one of them")
        entries.append(Entry(item, event, name, given))
    return entries


@lru_cache(maxsize=16)
def _event_types(types: tuple[str, ...], schema: pa.Schema) -> TypeAdapter[list[dict[str, Any]]]:
    known = {field.name: type_of(field.type) for field in schema if field.name not in LIVE}
    return row_types({"item": Id, "name": Text, "time": Any} | known, {"event": Literal[types]})


def read_time(at: Any, what: str = "at") -> int | None:
    """ms since 1970 of ``2023-05-31``, with hours and minutes or without, a date or datetime (in UTC where they name no
    zone), or a number: seconds since 1970, or ms from 2 * 10^10 on. None for None.
    """
    at = plain(at.astype("datetime64[ms]") if isinstance(at, np.datetime64) else at)
    if at is None:
        return None
    try:
        if isinstance(at, str) and at.isdecimal() and len(at) < len("1685557800"):
            raise ValueError("a year, or a date without what parts it, is no number of seconds")
        moment = MOMENT.validate_python(at)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):  # also a moment before the year 1, or after 9999, in UTC
        raise UserError(f"{what}: found {shown(at)}, no time; give one such as 2023-05-31 or '2023-05-31 18:30', which "
                        "is UTC") from None  # fmt: skip
    return round(moment.timestamp() * 1000)


def item_rows(items: Any) -> list[dict[str, Any]]:
    """Rows of new items: mappings, a table of pandas or Arrow, or a Parquet, CSV or JSON file (a list of objects). What
    a CSV file holds is text, or nothing.
    """
    if isinstance(items, str | Path):
        items = read_file(Path(items))
    if isinstance(items, pa.Table | pa.RecordBatch):
        items = items.to_pylist()
    elif hasattr(items, "to_dict") and hasattr(items, "columns"):  # a table of pandas
        items = items.to_dict("records")
    rows = list(items) if is_list(items) else [items]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or not is_list(items):
            raise UserError(f"row {number}: found {shown(row)}; expected a list of mappings, such as [{{'id': 1}}]")
    return [dict(row) for row in rows]


def read_file(file: Path) -> Any:
    """What a Parquet, CSV or JSON file holds (see ``item_rows``), or as JSON standard input, ``-``."""
    file = Path("/dev/stdin") if str(file) == "-" else file
    try:
        if file.suffix == ".parquet":
            return pq.read_table(file)
        if file.suffix == ".csv":
            with open(file, encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream, strict=True))
            return [{name: value or None for name, value in row.items()} for row in rows]
        return parse_json(file.read_text(encoding="utf-8-sig"), str(file))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); check its name") from None
