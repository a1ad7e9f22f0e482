"""What models that rank all items for a user read of a rows directory: its positive rows, and the items' own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import Config
from jaxrec.data.dataset import Rows, RowsDataset, Schema, known, value_counts
from jaxrec.data.splits import RowData, RowSplits, configured_splits, held_by
from jaxrec.errors import UserError

WORD = 32


def positive_bits(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> np.ndarray:
    """uint32[n_users, ceil(n_items / 32)] from int[N] pairs: bit ``item % 32`` of word ``item // 32`` is set where the
    user has the item; user 0, who stands for all unknown ones, has nothing.
    """
    words = -(-n_items // WORD)
    bits = np.zeros(n_users * words, np.uint32)
    users, items = users[users > 0].astype(np.int64), items[users > 0].astype(np.int64)
    np.bitwise_or.at(bits, users * words + items // WORD, np.uint32(1) << (items % WORD).astype(np.uint32))
    return bits.reshape(n_users, words)


def has_items(bits: Array, users: Array, items: Array) -> Array:
    """bool[C, B]: whether user b has item c; ``positive_bits``, users int32[B], items int32[C]."""
    words = bits[users].T[items // WORD]  # [C, B]: whole rows of words are copied, not single ones
    return (words >> (items % WORD).astype(jnp.uint32)[:, None]) & 1 > 0


def has_each(bits: Array, users: Array, items: Array) -> Array:
    """bool[B, H]: whether user b has ``items[b, h]``; users int32[B], items int32[B, H]."""
    words = jnp.take_along_axis(bits[users], items // WORD, axis=1)
    return (words >> (items % WORD).astype(jnp.uint32)) & 1 > 0


class Queries(NamedTuple):
    """Users with the item that each is known to like: the user's coded fields int32[n, C] and numbers float32[n, M]
    that are read; users and items int32[n].
    """

    columns: np.ndarray
    numbers: np.ndarray
    users: np.ndarray
    items: np.ndarray


class Catalogue(NamedTuple):
    """The items by index; 0 is the unknown one: int32[V, C] of their coded fields that are read, float32[V, M]."""

    columns: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """Positive rows of the splits, with values that training does not hold as unknown."""

    config: RowData  # how the rows are split
    schema: Schema  # all fields of the data set
    fields: Schema  # those that are read
    rows: Rows  # all rows
    splits: RowSplits
    value_counts: np.ndarray  # int64, training positives that hold each value of the coded ``fields``, field by field
    catalogue: Catalogue

    @classmethod
    def open(
        cls, config: Config, dataset: RowsDataset, rows: Rows | None = None, splits: RowSplits | None = None
    ) -> Retrieval:
        """Of a data set, split as the configuration says, or of given rows and splits."""
        schema, fields = dataset.schema, read_fields(config, dataset)
        rows = dataset.rows() if rows is None else rows
        splits = splits or configured_splits(RowData.of(config.data), rows, schema)
        training = splits.train[rows.labels[splits.train] > 0]
        if not len(training):
            raise UserError(f"{dataset.path}: no positive row is left to train on; change data.protocol")
        counts = value_counts(fields, rows.columns[training][:, schema.places(fields)[0]])
        arrays = np.asarray(dataset.array("items.npy")), np.asarray(dataset.array("items_numbers.npy"))
        catalogue = Catalogue(*_read(schema.side("item"), fields, "item", counts, *arrays))
        return cls(RowData.of(config.data), schema, fields, rows, splits, counts, catalogue)

    @property
    def n_users(self) -> int:
        return self.schema.size(self.schema.user)

    @property
    def n_items(self) -> int:
        return len(self.catalogue.columns)

    def positive_rows(self, part: np.ndarray) -> np.ndarray:
        """The positive ones of some rows whose item is known, in their order."""
        return part[(self.rows.labels[part] > 0) & (self._items(part) > 0)]

    def _items(self, part: np.ndarray) -> np.ndarray:
        """int32[n]: the item of each of some rows."""
        column = self.schema.columns((str(self.schema.item),))[0]
        return np.asarray(self.rows.columns[part, column], np.int32)

    def queries(self, part: np.ndarray) -> Queries:
        """``positive_rows`` of some rows."""
        part = self.positive_rows(part)
        arrays = self.rows.columns[part], self.rows.numbers[part]
        columns, numbers = _read(self.schema, self.fields, "user", self.value_counts, *arrays)
        return Queries(columns, numbers, np.asarray(self.rows.users[part], np.int32), self._items(part))

    def training_rows(self) -> Rows:
        """The training positives as ``TwoTower.feed`` reads them: the user's fields, then user and item by index."""
        found = self.queries(self.splits.train)
        ones = np.ones(len(found.users), np.float32)
        columns = np.column_stack([found.columns, found.users, found.items]).astype(np.int32)
        return Rows(columns, found.numbers, ones, ones, np.zeros(len(ones), np.int64), found.users)

    def item_counts(self) -> np.ndarray:
        """int64[V]: training positives of each item."""
        return np.bincount(self._items(self.positive_rows(self.splits.train)), minlength=self.n_items)

    def positives(self, *parts: np.ndarray) -> np.ndarray:
        """``positive_bits`` of the positive ones of some rows."""
        rows = self.positive_rows(np.concatenate(parts))
        return positive_bits(self.rows.users[rows], self._items(rows), self.n_users, self.n_items)

    def held_by_training(self, part: np.ndarray) -> np.ndarray:
        """bool[n]: which of ``positive_rows(part)`` are of a (user, item) pair that is a training positive as well."""
        train, part = self.positive_rows(self.splits.train), self.positive_rows(part)
        return held_by(self.config, self.rows, self.schema, train, part)

    def check_mask(self, megabytes: int) -> None:
        """Refuse a mask of positives that does not fit in so many MiB."""
        check_mask(self.n_users, self.n_items, megabytes)


def check_mask(users: int, items: int, megabytes: int) -> None:
    """Refuse a mask of positives of so many users and items that does not fit in so many MiB."""
    needed = 4 * users * -(-items // WORD) / 2**20
    if needed > megabytes:
        raise UserError(f"loss.mask: positives of {users:,} users and {items:,} items take {needed:,.0f} MiB, and "
                        f"data.device_memory allows {megabytes}; raise it or choose duplicates")  # fmt: skip


def _read(
    schema: Schema, fields: Schema, side: str, counts: np.ndarray, columns: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of arrays of all fields of ``schema`` the coded ones of a side that are read, int32, and its numbers, float32."""
    own = fields.side(side)
    coded, numerical = schema.places(own)
    return known(own, columns[:, coded], fields.apart(counts)), np.asarray(numbers[:, numerical], np.float32)


def read_fields(config: Config, dataset: RowsDataset) -> Schema:
    """The fields of users and items that a configuration reads; those of the occasion no tower does."""
    schema = dataset.schema
    fields = schema.select(RowData.of(config.data).fields).side("user", "item")
    for side, name in (("user", schema.user), ("item", schema.item)):
        if name is None:
            raise UserError(f"{dataset.path}: has no {side} field, and two_tower recommends items to users; prepare "
                            "the data set again with one, or choose model.name autoint")  # fmt: skip
        if not fields.side(side).fields:
            names = ", ".join(field.name for field in schema.side(side).fields)
            raise UserError(f"data.fields: none of the {side}; add some of {names}")
    return fields
