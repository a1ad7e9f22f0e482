"""A small data set of users and items without files, as models that rank items read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config as configuration
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import Field, Rows, RowsDataset, Schema
from jaxrec.data.splits import RowSplits

FIELDS = Schema(
    (
        Field("user", "categorical", "user", 5), Field("price", "numerical", "item", 1, 0),
        Field("skin", "categorical", "user", 4), Field("tags", "bag", "item", 5, 2),
        Field("item", "categorical", "item", 6), Field("age", "numerical", "user", 1, 0),
        Field("rate", "numerical", "item", 1, 0), Field("day", "categorical", "context", 3),
    ), "user", "item", 4.0, 1.0, 5.0,
)  # fmt: skip


PRICES = np.arange(12, dtype=np.float32).reshape(6, 2)  # and rates, of each item


class Made(RowsDataset):
    """Without files: user 1 to 4, skin, tags, item, day; price, age, rate."""

    def rows(self) -> Rows:
        columns = np.array([
            [1, 1, 1, -1, 1, 1], [1, 1, 2, 3, 2, 2], [2, 2, 1, -1, 1, 1], [2, 2, -1, -1, 3, 1], [3, 3, 4, -1, 4, 1],
            [4, 1, 1, -1, 0, 1], [4, 1, 2, 3, 2, 2],
        ], np.int32)  # fmt: skip
        numbers = np.arange(21, dtype=np.float32).reshape(7, 3)
        ratings = np.array([5, 4, 5, 1, 5, 5, 3], np.float32)
        labels = (ratings >= 4).astype(np.float32)
        return Rows(columns, numbers, labels, ratings, np.zeros(7, np.int64), columns[:, 0])

    def array(self, name: str) -> np.ndarray:
        if name == "items.npy":  # tags and item
            return np.array([[0, 0, 0], [1, -1, 1], [2, 3, 2], [-1, -1, 3], [4, -1, 4], [2, 4, 5]], np.int32)
        return PRICES


def made(schema: Schema = FIELDS) -> Made:
    fields = [field.as_json() for field in schema.fields]
    label = {"threshold": schema.threshold, "low": schema.low, "high": schema.high}
    return Made(Path("made"), {"fields": fields, "user": schema.user, "item": schema.item, "label": label})


def opened(train: list[int], test: list[int], fields: tuple[str, ...] | None = None) -> Retrieval:
    values: dict[str, Any] = {"data": {"path": "x", "fields": fields}, "model": {"name": "two_tower"}}
    data = made()
    splits = RowSplits(np.array(train, np.int64), np.zeros(0, np.int64), np.array(test, np.int64))
    return Retrieval.of(configuration.parse(values), data, data.rows(), splits)
