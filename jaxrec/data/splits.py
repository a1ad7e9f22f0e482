"""How rows are split into training, validation and test: the field ``data.protocol``, described in ``RowData``.

A user may have several rows of one item, and a model that has trained on one of them knows the others: ``data.repeats``
says what becomes of such (user, item) pairs. Where pairs leave, all protocols but cold_users, cold_items, in_sample and
published hold out pairs, not rows: the random ones by the row of the pair that they draw first, the others by its
latest. The pair's other rows are in no split (``left_out``), and fractions are of the pairs. To models that rank items
for users only positive rows make a pair. A row of an unknown user or item is a pair of its own.

The random order of ``rows`` and ``paper`` is ``numpy.random.RandomState(seed).permutation(n)`` and its first rows are
the test split: what scikit-learn's ``train_test_split`` does, with which published splits were made. ``paper`` leaves
out the rows of the rating just below the threshold (AutoInt, section 5.1: ratings of 3 on MovieLens are neither liked
nor disliked). What follows a positive that leave_one_out holds out is held out as well: training must not see negatives
before their time. leave_one_random leaves every user a positive to train on.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from jaxrec.config.sections import DataConfig, Fraction
from jaxrec.data.clean.protocol import DAY
from jaxrec.data.dataset import Dataset, Rows, Schema, Sessions
from jaxrec.errors import UserError


class RowData(DataConfig):
    """The data section of models that read rows."""

    protocol: Literal[
        "rows",
        "paper",
        "temporal",
        "leave_one_out",
        "leave_one_random",
        "cold_users",
        "cold_items",
        "in_sample",
        "published",
    ] = "rows"
    """The test split is a random share of the rows; the same without the rating below the threshold; the most recent
    rows; each user's last positive and what follows it; a random positive of each user; all rows of a share of the
    users, or of the items; in_sample: the rows that are trained on; published: the three splits that the data set was
    published with."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Of the random split."""
    test_fraction: Fraction = 0.2
    """Share of the rows that is the test split."""
    repeats: Literal["leave", "keep"] | None = None
    """Rows of one user and item. leave: where one is held out, the others leave training; keep: training may hold what
    is tested (null: leave, but keep where labels are predicted and the split is by rows, paper or temporal)."""
    fields: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The fields that are read (null: all)."""
    unknown_rate: Fraction = 0.0
    """Share of the values that training replaces by the unknown one, for users and items not seen before."""


class RowSplits(NamedTuple):
    """int64 row numbers of each split, and of the rows that are in none because their pair is held out."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    left_out: np.ndarray = np.zeros(0, np.int64)


PAIRS = ("new to training", "held by training")  # what rows of a split can be, by ``held_by``


def configured_splits(data: RowData, rows: Rows, schema: Schema, impressions: bool = False) -> RowSplits:
    """Split rows. Fractions are rounded up to whole rows; where one of each user is left out any validation
    fraction above 0 holds out another one.

    Args:
        impressions: whether the model reads every row as an event of its own, not only what users like.
    """
    keeps = impressions and data.protocol in ("rows", "paper", "temporal")
    repeats = data.repeats or ("keep" if keeps else "leave")
    if data.protocol == "in_sample" and data.validation_fraction:
        raise UserError("data.validation_fraction: in_sample trains on all rows; set it to 0, or choose another "
                        "data.protocol")  # fmt: skip
    if data.protocol in ("temporal", "leave_one_out") and not np.any(rows.times):
        raise UserError(f"data.protocol: {data.protocol} needs times, and the data set has none; choose rows")
    every = np.arange(len(rows))
    if data.protocol == "published":
        return _published(data, every, schema)
    pairs = every if repeats == "keep" else row_pairs(rows, schema, not impressions)
    train, validation, test, unrated = _split(data, rows, pairs, schema)
    if not len(train):
        fractions = f"{data.protocol}, {data.test_fraction} and {data.validation_fraction}"
        raise UserError(f"data.protocol, data.test_fraction, data.validation_fraction: {fractions} of {len(rows):,} "
                        "rows leave none to train on; lower the fractions or choose rows")  # fmt: skip
    left_out = np.setdiff1d(every, np.concatenate([train, validation, test, unrated]))
    return RowSplits(train, validation, test, left_out)


def _published(data: RowData, every: np.ndarray, schema: Schema) -> RowSplits:
    """The splits that the data set brings, untouched: its rows stand split after split."""
    if not schema.splits:
        raise UserError("data.protocol: published needs a data set with splits of its own, as prepare bars writes, and "
                        "this one has none; choose rows")  # fmt: skip
    for name in ("validation_fraction", "repeats"):
        if (value := getattr(data, name)) not in (0, None, "keep"):
            raise UserError(f"data.{name}: found {value}, and data.protocol published keeps the splits as they are; "
                            "leave it out, or choose another data.protocol")  # fmt: skip
    train, validation, test = np.split(every, np.cumsum(schema.splits)[:-1])
    return RowSplits(train, validation, test)


def row_pairs(rows: Rows, schema: Schema, positive: bool = False) -> np.ndarray:
    """int64[n]: the same number for (``positive``: positive) rows of a (user, item) pair, its own for any other row."""
    alone = -1 - np.arange(len(rows))
    if schema.user is None or schema.item is None:
        return alone
    items = np.asarray(rows.columns[:, schema.columns((schema.item,))[0]], np.int64)
    users = np.asarray(rows.users, np.int64)
    paired = (users > 0) & (items > 0) & ((rows.labels > 0) | (not positive))
    return np.where(paired, users * (items.max(initial=0) + 1) + items, alone)


def held_by(
    data: RowData, rows: Rows, schema: Schema, train: np.ndarray, part: np.ndarray, impressions: bool = False
) -> np.ndarray:
    """bool[len(part)]: which rows of a split are of a (user, item) pair that training holds as well; none of in_sample,
    which means to test what it has trained on.
    """
    if data.protocol == "in_sample":
        return np.zeros(len(part), bool)
    pairs = row_pairs(rows, schema, positive=not impressions)
    return np.isin(pairs[part], pairs[train])


def _split(data: RowData, rows: Rows, pairs: np.ndarray, schema: Schema) -> tuple[np.ndarray, ...]:
    """The splits of a protocol, which part no pair of int64[n] ``pairs``, and the rows that paper leaves out."""
    protocol, every, random = data.protocol, np.arange(len(rows)), np.random.RandomState(data.split_seed)

    def sizes(n: int) -> tuple[int, int]:
        test = int(np.ceil(data.test_fraction * n))
        return test, test + int(np.ceil(data.validation_fraction * (n - test)))

    if protocol == "in_sample":
        return every, every[:0], every, every[:0]
    if protocol == "leave_one_out":
        _entities(rows, schema, "user", protocol)
        test = _last_positives(rows, every)
        train = _without(every, test, pairs)
        held = _last_positives(rows, train) if data.validation_fraction else every[:0]
        return _without(train, held, pairs), held, test, every[:0]
    if protocol == "leave_one_random":
        users, draw = _entities(rows, schema, "user", protocol), random.random_sample(len(rows))
        positive = np.flatnonzero((rows.labels > 0) & (users > 0))
        order = _first_of_each(pairs, positive[np.lexsort((draw[positive], users[positive]))])
        start, end = (np.searchsorted(users[order], users[order], side=side) for side in ("left", "right"))
        place, count = np.arange(len(order)) - start, end - start
        test = np.sort(order[(place == 0) & (count > 1)])
        held = np.sort(order[(place == 1) & (count > 2)]) if data.validation_fraction else every[:0]
        return _without(every, np.concatenate([test, held]), pairs), held, test, every[:0]
    if protocol in ("cold_users", "cold_items"):
        of = _entities(rows, schema, protocol.removeprefix("cold_").removesuffix("s"), protocol)
        known = np.unique(of[of > 0])  # rows of unknown ones are for training
        order = known[random.permutation(len(known))]
        n_test, n_held = sizes(len(order))
        part = np.zeros(int(of.max(initial=0)) + 1, np.int8)
        part[order[:n_test]], part[order[n_test:n_held]] = 2, 1
        return *(np.flatnonzero(part[of] == number) for number in range(3)), every[:0]
    below = rows.ratings[rows.labels == 0].max(initial=-np.inf)
    kept = np.flatnonzero(rows.ratings != below) if protocol == "paper" else every
    latest_first = np.argsort(rows.times[kept], kind="stable")[::-1]
    order = kept[latest_first if protocol == "temporal" else random.permutation(len(kept))]
    distinct = _first_of_each(pairs, order)
    n_test, n_held = sizes(len(distinct))
    taken = np.isin(pairs[order], pairs[distinct[:n_held]])
    return order[~taken], distinct[n_test:n_held], distinct[:n_test], np.setdiff1d(every, kept)


def _first_of_each(pairs: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Of int64[m] row numbers the first one of each pair, in their order."""
    _, first = np.unique(pairs[order], return_index=True)
    return order[np.sort(first)]


def _without(rows: np.ndarray, held: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The rows that are neither held out nor of a pair that is."""
    others = np.setdiff1d(rows, held)
    return others[~np.isin(pairs[others], pairs[held])]


def _last_positives(rows: Rows, among: np.ndarray) -> np.ndarray:
    """The last positive of each user and what follows it, ascending, of ascending int64[m] row numbers."""
    order = among[np.lexsort((rows.times[among], rows.users[among]))]  # stable: of the same time the later row
    users, liked = rows.users[order], np.flatnonzero(rows.labels[order] > 0)
    last = np.full(int(users.max(initial=0)) + 1, -1)  # the place of the last positive by user; 0: all unknown ones
    np.maximum.at(last, users[liked], liked)
    return np.sort(order[(users > 0) & (last[users] >= 0) & (np.arange(len(order)) >= last[users])])


def _entities(rows: Rows, schema: Schema, side: str, protocol: str) -> np.ndarray:
    """int[n]: the user or the item of each row."""
    name = getattr(schema, side)
    if name is None:
        raise UserError(f"data.protocol: {protocol} needs the field of the {side}, and the data set has none; choose "
                        "rows")  # fmt: skip
    return np.asarray(rows.columns[:, schema.columns((name,))[0]])


class Split(NamedTuple):
    """Training and validation sessions."""

    train: Sessions
    validation: Sessions


def cut_validation(train: Sessions, validation: Sessions, fraction: float) -> Split:
    """The last sessions of the training split, with ``fraction`` of its targets, as validation; where it is 0 the
    validation split that the data set brings.
    """
    if not fraction:
        return Split(train, validation)
    after = (train.offsets[-1] - train.offsets) - (len(train) - np.arange(len(train) + 1))  # targets from session on
    cut = int(np.flatnonzero(after >= fraction * train.counts["targets"])[-1])
    return Split(train.slice(0, cut), train.slice(cut, len(train)))


def last_days(sessions: Sessions, days: int | None) -> Sessions:
    """The sessions whose last event lies in the last so many days of the split, in UTC; None: all."""
    if days is None:
        return sessions
    ends = np.asarray(sessions.times)[np.asarray(sessions.offsets)[1:] - 1] // DAY
    return sessions.pick(np.flatnonzero(ends > ends.max() - days))


def open_split(dataset: Dataset, split: str, fraction: float) -> Split:
    """The sessions that are trained on, without the ``fraction`` that is held out, and in the place of validation those
    of a split to evaluate.
    """
    dataset.verify()
    training, validation = cut_validation(dataset.split("train"), dataset.split("validation"), fraction)
    sessions = {"train": training, "validation": validation, "test": dataset.split("test")}[split]
    if not sessions.counts["targets"]:
        raise UserError(f"{dataset.path}: the {split} split is empty; choose another --split")
    return Split(training, sessions)
