"""What a run of clicks exports: ``score``, rows of fields to log odds."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array

from jaxrec.data.codes import FieldCodes, nothing_of
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.clicks import load
from jaxrec.tasks.clicks.recommend import CHUNK, Recommender
from jaxrec.tasks.exported import Exports, Program, Value, id_array, named
from jaxrec.tasks.exported_rows import field_entries, row_inputs, user_arrays, user_rows
from jaxrec.tasks.vectors import check_k

LOGITS = Value("logits", "log odds of a positive label: its probability is 1 / (1 + exp(-logit))")


def exports(loaded: Loaded, k: int | None) -> Exports:
    """The program, and, where the data have items, their rows and those of users, of which the example makes rows for
    all items of one who asks."""
    run, model, schema = loaded.run, loaded.model, loaded.run.schema
    codes = FieldCodes(run)
    entries, arrays = field_entries(codes, schema)
    weights, whole = named({part: loaded.weights[part] for part in ("params", "tables")})

    def score(weights: dict[str, Array], columns: Array, numbers: Array) -> tuple[Array]:
        tree = whole(weights)
        return (model.logits(tree["params"], tree["tables"], columns, numbers),)

    more = _items(Recommender(loaded)) if schema.item is not None else _no_items(codes, loaded)
    places = dict(zip(("item_columns", "item_numbers"), schema.places(schema.side("item")), strict=True))
    return Exports(
        [Program("score", score, row_inputs(schema), (LOGITS,), score)],
        weights,
        load,
        {"k": check_k(k, len(more["ids"])) if len(more["ids"]) else None, "separator": codes.separator,
         "fields": entries, "item_places": {name: place.tolist() for name, place in places.items()}},
        {**more, **arrays},
        batches=(1, 256, CHUNK),
    )  # fmt: skip


def _items(kind: Recommender) -> dict[str, np.ndarray]:
    """Rows of all users, with an item that is unknown, and of all items, of which the item's fields count."""
    goods, fields = kind.people.goods, kind.schema.fields
    new = kind.usual(None, []) | goods.nothing()
    columns, numbers = kind.codes.stacked(fields, user_rows(kind.people.users, new))
    rows = {name: np.repeat(value[None], len(goods), axis=0) for name, value in new.items()}
    item_columns, item_numbers = kind.codes.stacked(fields, rows | goods.values(slice(None)))
    of_items = kind.schema.places(kind.schema.side("item"))
    return {
        "ids": id_array(kind.items.ids.values()), "user_columns": columns, "user_numbers": numbers,
        "item_columns": item_columns[1:, of_items[0]], "item_numbers": item_numbers[1:, of_items[1]],
        **user_arrays(kind.people),
    }  # fmt: skip


def _no_items(codes: FieldCodes, loaded: Loaded) -> dict[str, Any]:
    """The one row of which nothing is known."""
    fields = loaded.run.schema.fields
    row = {field.name: nothing_of(field) for field in fields} | codes.usual()
    columns, numbers = codes.stacked(fields, {name: value[None] for name, value in row.items()})
    empty = np.zeros(0, np.int64)
    return {"ids": empty, "user_ids": empty, "user_columns": columns, "user_numbers": numbers}
