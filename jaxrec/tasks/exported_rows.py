"""What runs of rows export beside their programs: fields with their values' codes, and users with what they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.data.codes import Entities, FieldCodes
from jaxrec.data.dataset import Field, Schema
from jaxrec.tasks.exported import BATCH, Value, id_array
from jaxrec.tasks.history import People


def row_inputs(schema: Schema) -> tuple[Value, ...]:
    """The inputs of a program that reads rows of fields."""
    columns, numbers = len(schema.columns()), len(schema.numerical)
    return (Value("columns", "codes of the coded fields' values: 0 is unknown, -1 fills a bag up", "int32",
                  (BATCH, columns)),
            Value("numbers", "the numerical fields, standardised", "float32", (BATCH, numbers)))  # fmt: skip


def field_entries(codes: FieldCodes, schema: Schema) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What the manifest says of each field of the inputs, and the values of coded ones with their codes."""
    entries, arrays, places = list[dict[str, Any]](), dict[str, np.ndarray](), schema.slices()
    for number, field in enumerate(schema.coded):
        values, numbers = seen_values(codes, field)
        names = f"fields/{number}_values", f"fields/{number}_codes"
        arrays |= zip(names, (id_array(values), numbers), strict=True)
        place = places[field.name]
        entries.append({"name": field.name, "kind": field.kind, "side": field.side, "values": names[0],
                        "codes": names[1], "columns": [place.start, place.stop]})  # fmt: skip
    for number, field in enumerate(schema.numerical):
        entries.append({"name": field.name, "kind": field.kind, "side": field.side, "number": number,
                        "logarithm": field.logarithm, "mean": field.mean, "deviation": field.deviation})  # fmt: skip
    return entries, arrays


def seen_values(codes: FieldCodes, field: Field) -> tuple[list[Any], np.ndarray]:
    """The raw values of a coded field that training has seen, and the int32[n] index of each."""
    values, counts = codes.vocabulary(field.name).values(), codes.counts.get(field.name)
    numbers = np.arange(1, len(values) + 1, dtype=np.int32)
    numbers = numbers if counts is None else numbers[counts[1:] > 0]
    return [values[number - 1] for number in numbers], numbers


def user_rows(users: Entities | None, nothing: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of every field of ``nothing``, a row a user: the first is somebody new, of whom nothing is known."""
    rows = {name: np.repeat(value[None], 1 if users is None else len(users), axis=0) for name, value in nothing.items()}
    for name, value in ({} if users is None else users.values(slice(None))).items():
        if name in rows:
            rows[name][1:] = value[1:]
    return rows


def user_arrays(people: People) -> dict[str, np.ndarray]:
    """Raw ids of users, each a row behind the first one of ``user_rows``; and positions of the items that each row has:
    those of row u stand in ``seen_items`` from ``seen_offsets[u]`` on, up to the next."""
    ids = people.users.items.ids.values() if people.users is not None else []
    seen = [people.past.seen(user)[0] - 1 for user in range(len(ids) + 1)]
    return {"user_ids": id_array(ids), "seen_offsets": np.cumsum([0, *map(len, seen)]),
            "seen_items": np.concatenate(seen).astype(np.int32)}  # fmt: skip
