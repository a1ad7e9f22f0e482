"""What users hand in: rows of new items, events of sequences, moments. Pydantic checks rows by the data's types."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from jaxrec.cli.text import parse_json
from jaxrec.data.ids import is_list, plain, whole
from jaxrec.data.items import LIVE
from jaxrec.errors import UserError, explained, shown

MOMENT = TypeAdapter(datetime.datetime)


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


def read_time(at: Any) -> int | None:
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
    except ValueError:
        raise UserError(f"at: found {shown(at)}, no time; give one such as 2023-05-31 or '2023-05-31 18:30', which is "
                        "UTC") from None  # fmt: skip
    return round((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)


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


def columns_of(rows: Any) -> tuple[dict[str, list[Any]], int]:
    """The columns of rows, which are mappings or a table, and how many rows there are."""
    if isinstance(rows, pa.Table | pa.RecordBatch):
        return {name: rows[name].to_pylist() for name in rows.schema.names}, len(rows)
    found = item_rows(rows)
    return {name: [row.get(name) for row in found] for name in {name: 0 for row in found for name in row}}, len(found)


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
