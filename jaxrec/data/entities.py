"""The users and the items of a run of rows, by index, and who asks: one of those users, or somebody new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from jaxrec.data.codes import Columns, FieldCodes, RowRun, nothing_of, read_table
from jaxrec.data.ids import bare, plain
from jaxrec.data.items import Items, as_ids
from jaxrec.data.rows import Field, Schema
from jaxrec.data.store import map_array
from jaxrec.errors import UserError, nearest


class Entities:
    """The users or the items of a run, by index; 0 is the unknown one.

    Args:
        side: ``user`` or ``item``.

    Attributes:
        fields: of this side, also those that the model does not read.
        name: of the field that identifies them.
        items: their ids, and what is known of them.
    """

    def __init__(self, run: RowRun, side: str, codes: FieldCodes) -> None:
        schema = Schema.from_manifest(run.manifest)
        self.fields, self.name = schema.side(side).fields, str(getattr(schema, side))
        self._run, self._codes = run, codes
        self._columns = map_array(run.path / "dataset", f"{side}s.npy", run.manifest)
        self._numbers = map_array(run.path / "dataset", f"{side}s_numbers.npy", run.manifest)
        table = read_table(run, f"{side}s.parquet")
        shown = table.drop_columns([self.name])
        self.items = Items(as_ids(table[self.name].slice(1)), shown, partial(self._attributes, table), first=1)

    def __len__(self) -> int:
        return len(self._columns)

    def values(self, index: Any) -> dict[str, np.ndarray]:
        """``Columns`` of entities; of the unknown one, 0, what stands for nothing."""
        found, start, number = {}, 0, 0
        for field in self.fields:
            if field.kind == "numerical":
                found[field.name] = self._numbers[index, number]
                number += 1
            else:
                found[field.name] = self._columns[index, start : start + field.width]
                start += field.width
        return found

    def nothing(self) -> dict[str, np.ndarray]:
        """``Columns`` of one of whom nothing is known."""
        return {field.name: nothing_of(field) for field in self.fields}

    def _attributes(self, table: pa.Table) -> pa.Table:
        """What filters can name: what is shown, and fields by their values, bags as lists of them."""
        columns = {name: table[name] for name in table.column_names}
        for name, value in self.values(slice(None)).items():
            field = next(field for field in self.fields if field.name == name)
            if field.kind != "numerical":
                columns[name] = self._raw(field, value) if name != self.name else columns[name]
            elif name not in columns:  # of float32 six digits are sure
                raw = [None, *(float(f"{one:.6g}") for one in field.raw(value[1:].astype(np.float64)))]
                columns[name] = pa.array(raw, pa.float64())
        return pa.table(columns)

    def _raw(self, field: Field, codes: np.ndarray) -> pa.Array:
        """The raw values of codes int32[n, width]."""
        values = pa.array(self._codes.vocabulary(field.name).values())
        if field.kind != "bag":
            return values.take(pa.array(codes[:, 0] - 1, mask=codes[:, 0] < 1))
        held = codes > 0
        ends = np.cumsum([0, *held.sum(axis=1)])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values.take(pa.array(codes[held] - 1)))


class Profiles:
    """Reads who asks.

    Args:
        fields: that a profile may name.
        users: of the data; None where it has none.
    """

    def __init__(self, codes: FieldCodes, fields: Sequence[Field], users: Entities | None) -> None:
        self._codes, self._users = codes, users
        self._fields = {field.name: field for field in fields if users is None or field.name != users.name}

    def index(self, user: Any) -> int:
        """The index of a user; 0 for an unknown one."""
        return 0 if self._users is None or plain(user) is None else max(0, self._users.items.ids.find(user))

    def read(self, user: Any, profile: Mapping[str, Any], usual: Columns, notes: list[str]) -> dict[str, np.ndarray]:
        """``Columns`` of one who asks; what a profile says wins over what is known of the user.

        Args:
            usual: of somebody of whom nothing is known.
            notes: get what is unknown.
        """
        found, index = dict(usual), self.index(user)
        if index and self._users is not None:
            found |= self._users.values(index)
        elif self._users is not None and plain(user) is not None:
            notes.append(f"user {bare(user)} is unknown to this run{self._users.items.ids.nearest(user)} and counts as "
                         "somebody new")  # fmt: skip
        for name, value in profile.items():
            if name not in self._fields:
                raise UserError(f"field '{bare(name)}': not one of a profile{nearest(str(name), self._fields)}; those "
                                f"are {', '.join(self._fields)}")  # fmt: skip
            found[name] = self._codes.encode(self._fields[name], value, notes)
        return found
