"""Raw values of fields to indices and back, as a run was trained with them.

What a run does not know is treated alike in all kinds of runs: a field that is not there is an error; a value, a user
or an item to leave out that is not there is an ``UnknownValues`` warning, which names the nearest one, and counts as
unknown or is ignored; a filter that leaves nothing is an error. How ids and values are compared: see
``jaxrec.data.ids``.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.cli.command import say
from jaxrec.data.ids import Places, bare, check_single, is_list, listing, no_number, plain, read_list
from jaxrec.data.reading.bags import parse_list
from jaxrec.data.rows import Field, Schema
from jaxrec.data.store import checksum, map_array
from jaxrec.errors import Note, UserError, nearest

MOST_SHOWN = 20  # values that a message lists
FARTHEST = 1e4  # deviations of a number from the mean: beyond it float32 says nothing any more


class UnknownValues(Note):
    """Values that training has not seen; the unknown value takes their place."""


def warn_unknown(text: str) -> None:
    """Warn with ``UnknownValues``."""
    warnings.warn(text, UnknownValues, stacklevel=2)


def note_ignored(what: str, ids: Sequence[Any]) -> None:
    """Warn of items that the run does not know and that are left out of account."""
    if ids:
        many = f"{len(ids):,} unknown items" if len(ids) > 1 else "1 unknown item"
        warnings.warn(f"{what}: {many} ignored: {listing(ids)}", UnknownValues, stacklevel=4)


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
        say("note", note)


class RowRun(Protocol):
    """What is needed of a run (``jaxrec.run.Run``)."""

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
        self._places: dict[str, Places] = {}
        options = run.manifest.get("options", {})
        self._separator = str(options.get("bag_separator", "|"))
        self._na = tuple(text.strip() for text in options.get("na") or ())  # texts that stand for nothing

    def names(self, *sides: str) -> list[str]:
        """The fields of these sides that the model reads."""
        return [field.name for field in self._schema.fields if field.side in sides]

    def field(self, name: str) -> Field:
        """A field that the model reads."""
        for field in self._schema.fields:
            if field.name == name:
                return field
        names = [field.name for field in self._schema.fields]
        raise UserError(f"field '{name}': not one that the model reads{nearest(str(name), names)}; "
                        f"those are {', '.join(names)}")  # fmt: skip

    def values(self, name: str) -> list[Any]:
        """The raw values of a field that training has seen; none of a number."""
        if self.field(name).kind == "numerical":
            return []
        return [value for code, value in enumerate(self._vocabulary(name).values(), 1) if self._counts[name][code] > 0]

    def encode(self, field: Field, value: Any) -> np.ndarray:
        """int32[width] of a categorical value or a bag, or float32[] of a number; None is the unknown value, the mean.

        A bag is a list, text with the separator that ``prepare`` was given between its values (``|`` where none was),
        or a list as text, ``['a', 'b']``. A value that training has not seen counts as unknown, with an
        ``UnknownValues`` warning that names the nearest one.
        """
        if field.kind == "numerical":
            return read_number(field, value, self._na)
        values = self.bag_values(field, value)
        if len(values) > field.width:
            raise UserError(f"field '{field.name}': found {len(values)} values, at most {field.width} are allowed")
        codes = [self.code(field, one) for one in values] or [0]
        return np.array(codes + [-1] * (field.width - len(codes)), np.int32)

    def bag_values(self, field: Field, value: Any) -> list[Any]:
        """The values of a field: of a bag all that are not empty, otherwise the one."""
        if field.kind != "bag":
            return [value]
        if isinstance(value, bytes):
            value = plain(value)
        if isinstance(value, str):
            found = parse_list(value)
            value = value.split(self._separator) if found is None else found
        if is_list(value) or isinstance(value, set | frozenset):
            found = read_list(f"field '{field.name}'", value)
            return [one for one in found if not self._is_nothing(plain(one))]
        return [value]

    def _is_nothing(self, value: Any) -> bool:
        """Whether a plain value of a categorical field or bag stands for none."""
        return value is None or (isinstance(value, str) and value.strip() in ("", *self._na))

    def code(self, field: Field, value: Any) -> int:
        """The index of one value; 0 for none, and with a warning for one that training has not seen."""
        check_single(f"field '{field.name}'", value)
        if self._is_nothing(plain(value)):
            return 0
        places = self._vocabulary(field.name)
        found = max(0, places.find(value))
        if not found or not self._is_trained(field, np.array([found]))[0]:
            hint = "" if found else places.nearest(value)
            warn_unknown(f"field '{field.name}': training has not seen '{bare(value)}'{hint}; it counts as unknown")
            return 0
        return found

    def nearest(self, field: Field, value: Any) -> str:
        """`` (did you mean 'x'?)`` where a value of a field is close, otherwise an empty string."""
        return self._vocabulary(field.name).nearest(value)

    def strict(self, field: Field, value: Any) -> int:
        """The index of one value of a coded field."""
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
            name: self.encode(self.field(name), parts[part])
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
        return str(self._vocabulary(field.name).values()[code - 1]) if code else "unknown"

    def _is_trained(self, field: Field, codes: np.ndarray) -> np.ndarray:
        counts = self._counts.get(field.name)  # a field that only filters has none
        return np.ones(len(codes), bool) if counts is None else counts[codes] > 0

    def _vocabulary(self, name: str) -> Places:
        if name not in self._places:
            table = read_table(self._run, f"vocabulary/{name}.parquet")
            self._places[name] = Places(table["value"].to_pylist(), first=1)
        return self._places[name]


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
        """Indices of raw ids, 0 for an unknown one."""
        return [max(0, self.places.find(value)) for value in raw]

    def known(self, index: int) -> dict[str, Any]:
        """What is known of an entity beside its id."""
        row = self._shown.slice(int(index), 1).to_pylist()[0]
        return {name: value for name, value in row.items() if name != self._name}

    def field(self, name: str) -> Field:
        """A coded field of this side."""
        names = self._schema.of_side(self._side)
        if name not in names:
            raise UserError(f"field '{name}': not one of the {self._side}'s{nearest(str(name), names)}; "
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
    def places(self) -> Places:
        """The indices of the raw ids."""
        return Places(self.ids[1:], first=1)


def strict_code(field: Field, value: Any, places: Places) -> int:
    """The index of a value in a vocabulary, from 1 on."""
    code = places.find(value)
    if code < 0:
        values = [str(known) for known in places.values()[: MOST_SHOWN + 1]]
        listed = ", ".join(values[:MOST_SHOWN]) + (", …" if len(values) > MOST_SHOWN else "")
        raise UserError(f"field '{field.name}': no value '{bare(value)}'{places.nearest(value)}; there are {listed}")
    return code


def read_table(run: RowRun, name: str) -> pa.Table:
    """A table that a run keeps."""
    file = run.path / "dataset" / name
    if not file.is_file() or checksum(file) != run.manifest["files"][name]["sha256"]:
        raise UserError(f"{file}: missing or damaged; copy it there from the data set")
    return pq.read_table(file)


def read_number(field: Field, value: Any, na: Sequence[str] = ()) -> np.ndarray:
    """float32[]: the number that the model reads; the mean for None, NA and the like, as ``prepare`` reads them.

    Args:
        na: texts of ``--na``.
    """
    check_single(f"field '{field.name}'", value)
    value = plain(value)
    if no_number(value, na):
        return np.zeros((), np.float32)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"field '{field.name}': found '{bare(value)}', expected a number")
    standardised = field.standardised(number)
    if isinstance(value, bool) or not abs(standardised) <= FARTHEST:
        raise UserError(f"field '{field.name}': found {bare(value)}, expected a number such as those of the data "
                        f"(mean {field.raw(0.0):.4g}, one deviation more {field.raw(1.0):.4g})")  # fmt: skip
    return np.array(standardised, np.float32)
