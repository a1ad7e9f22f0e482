"""Raw values of fields to indices and back, as a run was trained with them."""

from __future__ import annotations

import datetime
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.files import checksum, map_array
from jaxrec.data.rows import Field, Schema
from jaxrec.errors import UserError, nearest

MOST_SHOWN = 20  # values that a message lists


class UnknownValues(UserWarning):
    """Values that training has not seen; the unknown value takes their place."""


def warn_unknown(text: str) -> None:
    """Warn with ``UnknownValues``."""
    warnings.warn(text, UnknownValues, stacklevel=2)


@contextmanager
def noted_unknown(*others: type[Warning]) -> Iterator[None]:
    """For commands: inside, ``UnknownValues`` and other warnings of ours are collected, and at the end each is a note
    on stderr, once."""
    with warnings.catch_warnings(record=True) as caught:
        ours: tuple[type[Warning], ...] = (UnknownValues, *others)
        for category in ours:
            warnings.simplefilter("always", category)
        yield
    for note in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"jaxrec: note: {note}", file=sys.stderr)


class RowRun(Protocol):
    """What is needed of a run (``jaxrec.rundir.Run``)."""

    @property
    def path(self) -> Path: ...

    @property
    def manifest(self) -> dict[str, Any]: ...

    @property
    def schema(self) -> Schema: ...

    def value_counts(self) -> np.ndarray: ...


class FieldCodes:
    """The fields that a run's model reads, with their vocabularies.

    Args:
        run: its directory holds the vocabularies, and how often training saw each value.
    """

    def __init__(self, run: RowRun) -> None:
        self._run, self._schema = run, run.schema
        self._counts = self._schema.apart(run.value_counts())
        self._vocabularies: dict[str, dict[Any, int]] = {}

    def names(self, *sides: str) -> list[str]:
        """The fields of these sides that the model reads."""
        return [field.name for field in self._schema.fields if field.side in sides]

    def field(self, name: str) -> Field:
        """A field that the model reads.

        Raises:
            UserError: there is none of this name.
        """
        for field in self._schema.fields:
            if field.name == name:
                return field
        names = [field.name for field in self._schema.fields]
        raise UserError(f"field '{name}': not one that the model reads{nearest(name, names)}; "
                        f"those are {', '.join(names)}")  # fmt: skip

    def values(self, name: str) -> list[Any]:
        """The raw values of a field that training has seen; none of a number."""
        if self.field(name).kind == "numerical":
            return []
        return [value for value, code in self._vocabulary(name).items() if self._counts[name][code] > 0]

    def encode(self, name: str, value: Any) -> np.ndarray:
        """int32[width] of a categorical value or a bag (a list, or text with ``|`` between), or float32[] of a number.

        Raises:
            UserError: of a wrong type, or too many values.
        """
        field = self.field(name)
        if field.kind == "numerical":
            return np.array(field.standardised(finite_number(name, value)), np.float32)
        return coded(field, bag_values(field, value), self.code)

    def code(self, field: Field, value: Any) -> int:
        """The index of one value; 0, with a warning, for one that training has not seen.

        Raises:
            UserError: of a wrong type.
        """
        vocabulary = self._vocabulary(field.name)
        if vocabulary and isinstance(next(iter(vocabulary)), int):
            try:
                value = int(str(value))
            except ValueError:
                raise UserError(f"field '{field.name}': found '{value}', expected a whole number") from None
        else:
            value = str(value)
        found = vocabulary.get(value, 0)
        if not found or not self._is_trained(field, np.array([found]))[0]:
            warn_unknown(f"field '{field.name}': training has not seen '{value}'; it counts as unknown")
            return 0
        return found

    def strict(self, field: Field, value: Any) -> int:
        """The index of one value of a coded field.

        Raises:
            UserError: there is no such value; the message lists those that there are.
        """
        return strict_code(field, value, self._vocabulary(field.name))

    def trained(self, field: Field, columns: np.ndarray) -> np.ndarray:
        """The columns of a field with what training has not seen as unknown."""
        return np.where((columns >= 0) & ~self._is_trained(field, np.maximum(columns, 0)), 0, columns)

    def usual(self) -> dict[str, np.ndarray]:
        """What stands for a field of which nothing is known: the most frequent value of one of the occasion, the
        unknown value of one of the user, the mean of a number."""
        found: dict[str, np.ndarray] = {}
        for field in self._schema.fields:
            if field.side == "item":
                continue
            if field.kind == "numerical":
                found[field.name] = np.zeros((), np.float32)
                continue
            first = int(np.argmax(self._counts[field.name])) if field.side == "context" else 0
            found[field.name] = np.array([first] + [-1] * (field.width - 1), np.int32)
        return found

    def calendar(self, day: datetime.date) -> dict[str, np.ndarray]:
        """The fields that are the year, month or decade of a day."""
        parts = {"year": day.year, "month": day.month, "decade": day.year // 10 * 10}
        read = set(self.names("context"))
        return {
            name: self.encode(name, parts[part])
            for name, part in self._run.manifest["calendar"].items()
            if name in read
        }

    def texts(self, columns: np.ndarray, numbers: np.ndarray) -> list[str]:
        """What stands in each field of one row, to be shown.

        Args:
            columns: int32[C].
            numbers: float32[M].
        """
        place, found = self._schema.slices(), {}
        for field, number in zip(self._schema.numerical, numbers, strict=True):
            found[field.name] = f"{field.raw(float(number)):.4g}"
        for field in self._schema.coded:
            codes = columns[place[field.name]]
            found[field.name] = ", ".join(self._text(field, int(code)) for code in codes if code >= 0)
        return [found[field.name] for field in self._schema.fields]

    def _text(self, field: Field, code: int) -> str:
        return str(list(self._vocabulary(field.name))[code - 1]) if code else "unknown"

    def _is_trained(self, field: Field, codes: np.ndarray) -> np.ndarray:
        counts = self._counts.get(field.name)  # a field that only filters has none
        return np.ones(len(codes), bool) if counts is None else counts[codes] > 0

    def _vocabulary(self, name: str) -> dict[Any, int]:
        """Raw value to index."""
        if name not in self._vocabularies:
            table = read_table(self._run, f"vocabulary/{name}.parquet")
            self._vocabularies[name] = {value: code for code, value in enumerate(table["value"].to_pylist(), 1)}
        return self._vocabularies[name]


class Entities:
    """The users or the items of a run, by index; 0 is the unknown one.

    Args:
        side: ``user`` or ``item``.
        name: of the field that identifies them.
    """

    def __init__(self, run: RowRun, side: str, name: str) -> None:
        self._run, self._side, self._name = run, side, name
        self._schema = Schema.from_manifest(run.manifest)
        self._columns = map_array(run.path / "dataset", f"{side}s.npy", run.manifest)
        self._numbers = map_array(run.path / "dataset", f"{side}s_numbers.npy", run.manifest)
        self._shown = read_table(run, f"{side}s.parquet")
        self.ids: list[Any] = self._shown[name].to_pylist()

    def __len__(self) -> int:
        return len(self.ids)

    def codes(self, raw: Iterable[Any]) -> list[int]:
        """Indices of raw ids, 0 for an unknown one; ``"12"`` and ``12`` are one id."""
        return [self._index.get(str(value), 0) for value in raw]

    def known(self, index: int) -> dict[str, Any]:
        """What is known of an entity beside its id."""
        row = self._shown.slice(int(index), 1).to_pylist()[0]
        return {name: value for name, value in row.items() if name != self._name}

    def field(self, name: str) -> Field:
        """A coded field of this side.

        Raises:
            UserError: there is none of this name.
        """
        names = self._schema.of_side(self._side)
        if name not in names:
            raise UserError(f"field '{name}': not one of the {self._side}'s{nearest(name, names)}; "
                            f"those are {', '.join(names)}")  # fmt: skip
        return next(field for field in self._schema.fields if field.name == name)

    def fields(self, index: Any) -> dict[str, np.ndarray]:
        """By field of this side: int32[..., width] columns, or float32[...] numbers, of entities."""
        found, start, number = {}, 0, 0
        for field in self._schema.fields:
            if field.side != self._side:
                continue
            if field.kind == "numerical":
                found[field.name] = self._numbers[index, number]
                number += 1
            else:
                found[field.name] = self._columns[index, start : start + field.width]
                start += field.width
        return found

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {str(raw): index for index, raw in enumerate(self.ids) if index}


def bag_values(field: Field, value: Any) -> list[Any]:
    """The values of a field: of a bag a list, text with ``|`` between, or a single one."""
    if field.kind != "bag":
        return [value]
    if isinstance(value, str):
        return value.split("|")
    return list(value) if isinstance(value, Iterable) else [value]


def coded(field: Field, values: Sequence[Any], code: Callable[[Field, Any], int]) -> np.ndarray:
    """int32[width]: the indices of values, and -1 behind the last.

    Raises:
        UserError: too many values; or as ``code``.
    """
    if len(values) > field.width:
        raise UserError(f"field '{field.name}': found {len(values)} values, at most {field.width} are allowed")
    codes = [code(field, one) for one in values]
    return np.array(codes + [-1] * (field.width - len(codes)), np.int32)


def strict_code(field: Field, value: Any, values: Iterable[Any]) -> int:
    """The index of a value among those of a vocabulary, from 1 on.

    Raises:
        UserError: it is none; the message lists those that there are.
    """
    by_text = {str(known): code for code, known in enumerate(values, 1)}
    if str(value) not in by_text:
        shown = ", ".join(list(by_text)[:MOST_SHOWN]) + (", …" if len(by_text) > MOST_SHOWN else "")
        raise UserError(f"field '{field.name}': no value '{value}'{nearest(str(value), by_text)}; there are {shown}")
    return by_text[str(value)]


def read_table(run: RowRun, name: str) -> pa.Table:
    """A table that a run keeps.

    Raises:
        UserError: missing or damaged.
    """
    file = run.path / "dataset" / name
    if not file.is_file() or checksum(file) != run.manifest["files"][name]["sha256"]:
        raise UserError(f"{file}: missing or damaged; copy it there from the data set")
    return pq.read_table(file)


def finite_number(name: str, value: Any) -> float:
    """The value of a number.

    Raises:
        UserError: it is none, or not finite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"field '{name}': found '{value}', expected a number")
    return number
