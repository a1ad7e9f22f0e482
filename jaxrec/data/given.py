"""What users give: new items, and sequences of events, checked entry by entry with the types of the data."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from jaxrec.cli.json_text import parse_json
from jaxrec.data.ids import is_list, plain, read_list, whole
from jaxrec.errors import UserError, nearest, shown

SUCH_AS = '[{"id": 1}]'


def item_rows(items: Any, texts: Collection[str]) -> list[dict[str, Any]]:
    """Rows of new items: mappings, a table of pandas or Arrow, or a Parquet, CSV or JSON file (a list of objects).

    Args:
        texts: columns of a CSV file that hold text, as ids and categories do: 007 is not 7. The types of its other
            columns are those that their values have.
    """
    if isinstance(items, str | Path):
        return _read(Path(items), texts)
    if isinstance(items, pa.Table | pa.RecordBatch):
        items = items.to_pylist()
    elif hasattr(items, "to_dict") and hasattr(items, "columns"):  # a table of pandas
        items = items.to_dict("records")
    rows = list(items) if is_list(items) else [items]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or not is_list(items):
            raise UserError(f"new item {number}: found {shown(row)}; expected a list of mappings, such as {SUCH_AS}")
    return [dict(row) for row in rows]


def _read(file: Path, texts: Collection[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; check its name")
    try:
        if file.suffix == ".json":
            rows = parse_json(file.read_text(encoding="utf-8-sig"), str(file))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UserError(f"{file}: expected a list of objects, such as {SUCH_AS}")
            return rows
        if file.suffix in (".parquet", ".csv"):
            table = pq.read_table(file) if file.suffix == ".parquet" else _read_csv(file, texts)
            if twice := {name for name in table.column_names if table.column_names.count(name) > 1}:
                raise UserError(f"{file}: column '{min(twice)}' is there twice; rename or remove one")
            found: list[dict[str, Any]] = table.to_pylist()
            return found
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    raise UserError(f"{file}: found '{file.suffix}'; end it in .parquet, .csv or .json")


def _read_csv(file: Path, texts: Collection[str]) -> pa.Table:
    """An empty cell of text is an empty text, of a number nothing."""
    types = dict.fromkeys(texts, pa.string())
    parsing = pc_csv.ParseOptions(newlines_in_values=True)
    return pc_csv.read_csv(file, parse_options=parsing, convert_options=pc_csv.ConvertOptions(column_types=types))


MOST = sys.float_info.max  # of a number
LIVE = ("listed", "sold")  # attributes of a listing that no event has
SUCH_AS = '[{"item": 238357102, "event": "item_view"}, {"name": "red dress", "event": "item_like"}]'


class Entry(NamedTuple):
    """One event.

    Attributes:
        item: raw id; None where only a name is given.
        event: index of its type.
        name: stripped; empty for none.
        attributes: of the item, those that are given.
    """

    item: Any
    event: int
    name: str
    attributes: dict[str, Any]


def read_events(file: str) -> Any:
    """What a JSON file holds, or standard input where ``file`` is ``-``."""
    called = "--events -" if file == "-" else file
    try:
        text = (sys.stdin.read() if sys.stdin else "") if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{called}: cannot be read ({error.strerror}); check --events") from None
    except ValueError as error:  # no UTF-8, or a name with a NUL
        raise UserError(f"{called}: not JSON ({error}); expected a list, such as {SUCH_AS}") from None
    return parse_json(text, called, f"expected a list, such as {SUCH_AS}")


def read_sequences(events: Any) -> tuple[list[list[Any]], bool]:
    """Sequences of events, and whether there are several: a list of lists, in whatever form they come, or of mappings.

    What stands for no value among sequences is an empty sequence.
    """
    members = _members("", events)
    if not any(is_list(member) for member in members):
        return [members], False
    sequences = []
    for number, member in enumerate(members, 1):
        nothing = not is_list(member) and plain(member) is None
        sequences.append([] if nothing else _members(f"sequence {number} of {len(members)}: ", member))
    return sequences, True


def _members(place: str, given: Any) -> list[Any]:
    if not is_list(given) and not isinstance(given, deque):
        raise UserError(f"events: {place}found {shown(given)}, expected a list, such as {SUCH_AS}")
    return read_list("events", given, ordered=True)


def check_events(events: Sequence[Any], types: Sequence[str], schema: pa.Schema, place: str = "") -> list[Entry]:
    """The events of one sequence.

    Args:
        events: mappings with ``event`` and ``item`` or ``name`` (or both), and attributes of the item.
        types: of events.
        schema: of attributes.
        place: of the sequence among others, such as ``sequence 2: ``.
    """
    return [_entry(f"events: {place}entry {number}", event, types, schema) for number, event in enumerate(events, 1)]


def _entry(place: str, given: Any, types: Sequence[str], schema: pa.Schema) -> Entry:
    if not isinstance(given, Mapping):
        raise UserError(f"{place}: found {shown(given)}, expected an object, such as {SUCH_AS.split(', {')[0][1:]}")
    fields = [name for name in schema.names if name not in LIVE]
    for name in given:
        if name not in ("item", "event", *fields):
            raise UserError(f"{place}: unknown field '{name}'{nearest(str(name), ['item', 'event', *fields])}; there "
                            f"are item, event, {', '.join(fields)}")  # fmt: skip
    event = given.get("event")
    if not isinstance(event, str) or event not in types:
        what = "none" if event is None else shown(event)
        raise UserError(f"{place}: event: found {what}{nearest(str(event), types)}, expected one of {', '.join(types)}")
    item = None if plain(given.get("item")) is None else check_id(place, given["item"])
    attributes = {name: check_value(f"{place}: {name}", given.get(name), schema.field(name).type) for name in fields}
    name = (attributes.pop("name") or "").strip()
    if item is None and not name:
        raise UserError(f"{place}: neither 'item' nor 'name'; give one of them")
    return Entry(item, types.index(event), name, {name: one for name, one in attributes.items() if one is not None})


def check_id(place: str, value: Any) -> Any:
    """A raw id."""
    found = plain(value)
    if isinstance(found, str) and found.strip():
        return check_value(f"{place}: item", found, pa.string())
    number = None if isinstance(found, str) else whole(found)
    if number is None:
        raise UserError(f"{place}: item: found {shown(value)}, expected an id, a whole number or text")
    return number


def check_value(place: str, value: Any, kind: pa.DataType) -> Any:
    """A value of an attribute; None for a missing one, also where it is not a number."""
    value = plain(value)
    if value is None:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if not isinstance(value, str):
            raise UserError(f"{place}: found {shown(value)}, expected text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{place}: found {value!a}, no valid Unicode; mend it")
        return value
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    number = number and abs(cast(float, value)) <= MOST
    if pa.types.is_integer(kind):
        if not number or int(value) != value or not -(2**63) <= value < 2**63:
            raise UserError(f"{place}: found {shown(value)}, expected a whole number")
        return int(value)
    if not number:
        raise UserError(f"{place}: found {shown(value)}, expected a number")
    return float(value)
