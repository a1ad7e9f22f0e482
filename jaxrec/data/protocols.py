"""How rows are split into training, validation and test: the field ``data.protocol``.

    rows            a random share of the rows is the test split
    paper           as ``rows``, without the rows of the rating just below the threshold (AutoInt, section 5.1: ratings
                    of 3 on MovieLens are neither liked nor disliked)
    temporal        the most recent rows are the test split
    leave_one_out   each user's most recent positive and what follows it (negatives, which training must not see
                    before their time) is the test split; the positive before it, and what follows that, the
                    validation split; rows of unknown users are for training
    leave_one_random
                    a random positive of each user is the test split, another the validation split; users keep at least
                    one positive for training
    cold_users      all rows of a random share of the users are the test split
    cold_items      all rows of a random share of the items are the test split
    in_sample       all rows are trained on and tested on: a test of memory, never of a new user

The random order of ``rows`` and ``paper`` is ``numpy.random.RandomState(seed).permutation(n)`` and its first rows are
the test split: what scikit-learn's ``train_test_split(test_size=..., random_state=seed)`` does, with which published
splits were made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.config import DataConfig
from jaxrec.data.rows import Rows, Schema
from jaxrec.errors import UserError


class RowSplits(NamedTuple):
    """int64 row numbers of each split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def configured_splits(data: DataConfig, rows: Rows, schema: Schema) -> RowSplits:
    """``split_rows`` as a configuration says."""
    return split_rows(rows, schema, data.protocol, data.split_seed, data.test_fraction, data.validation_fraction)


def split_rows(
    rows: Rows, schema: Schema, protocol: str, seed: int, test_fraction: float, validation_fraction: float
) -> RowSplits:
    """Split rows.

    Args:
        seed: of the random protocols.
        test_fraction: share of the rows, rounded up to a whole row; not used by leave_one_out.
        validation_fraction: share of the other rows that is the validation split, chosen in the same way; for
            leave_one_out any share above 0 holds out each user's second last positive.

    Raises:
        UserError: the protocol needs times or users that the data has not, or leaves nothing to train on.
    """
    if protocol == "in_sample" and validation_fraction:
        raise UserError("data.validation_fraction: in_sample trains on all rows; set it to 0, or choose another "
                        "data.protocol")  # fmt: skip
    if protocol in ("temporal", "leave_one_out") and not np.any(rows.times):
        raise UserError(f"data.protocol: {protocol} needs times, and the data set has none; choose rows")
    if protocol == "leave_one_out":
        found = _leave_one_out(rows, schema, validation_fraction > 0)
    elif protocol == "leave_one_random":
        found = _leave_one_random(rows, schema, seed, validation_fraction > 0)
    elif protocol in ("cold_users", "cold_items"):
        of = _entities(rows, schema, protocol.removeprefix("cold_").removesuffix("s"), protocol)
        found = _cold(of, seed, test_fraction, validation_fraction)
    elif protocol == "in_sample":
        found = RowSplits(np.arange(len(rows)), np.zeros(0, np.int64), np.arange(len(rows)))
    else:
        kept = np.arange(len(rows))
        if protocol == "paper":
            below = rows.ratings[rows.labels == 0]
            kept = kept[rows.ratings != (below.max() if len(below) else np.nan)]
            if len(below) and np.all(rows.labels[kept] > 0):
                raise UserError(
                    f"data.protocol: paper leaves out ratings of {below.max():g}, and no negative is left without "
                    "them; choose rows"
                )
        if protocol == "temporal":
            order = kept[np.argsort(rows.times[kept], kind="stable")[::-1]]
        else:
            order = kept[np.random.RandomState(seed).permutation(len(kept))]
        test = int(np.ceil(test_fraction * len(order)))
        validation = int(np.ceil(validation_fraction * (len(order) - test)))
        found = RowSplits(order[test + validation :], order[test : test + validation], order[:test])
    if not len(found.train) and protocol.startswith("leave_one"):
        raise UserError(f"data.protocol: {protocol} leaves none of {len(rows):,} rows to train on; choose rows")
    if not len(found.train):
        raise UserError(
            f"data.test_fraction, data.validation_fraction: {test_fraction} and {validation_fraction} of "
            f"{len(rows):,} rows leave none to train on; lower them"
        )
    return found


def _leave_one_out(rows: Rows, schema: Schema, validation: bool) -> RowSplits:
    _entities(rows, schema, "user", "leave_one_out")
    order = np.lexsort((rows.times, rows.users))  # stable: the later row of the same second is the last
    users = rows.users[order]
    positive = np.cumsum(rows.labels[order] > 0)
    last = positive[np.searchsorted(users, users, side="right") - 1]  # of the row's user
    first = np.searchsorted(users, users, side="left")
    before = np.where(first > 0, positive[first - 1], 0)  # positives of the users ahead
    back: np.ndarray = last - positive  # positives of the user that are still to come
    own = (users > 0) & (positive > before)  # 0: not one user, but all unknown ones
    part = np.zeros(len(rows), np.int8)
    part[order[own & (back == 0)]] = 2
    if validation:
        part[order[own & (back == 1)]] = 1
    return RowSplits(*(np.flatnonzero(part == number) for number in range(3)))


def _leave_one_random(rows: Rows, schema: Schema, seed: int, validation: bool) -> RowSplits:
    users = _entities(rows, schema, "user", "leave_one_random")
    part, draw = np.zeros(len(rows), np.int8), np.random.RandomState(seed).random_sample(len(rows))
    positive = np.flatnonzero((rows.labels > 0) & (users > 0))
    order = positive[np.lexsort((draw[positive], users[positive]))]
    start = np.searchsorted(users[order], users[order], side="left")
    place, count = np.arange(len(order)) - start, np.searchsorted(users[order], users[order], side="right") - start
    part[order[(place == 0) & (count > 1)]] = 2
    if validation:
        part[order[(place == 1) & (count > 2)]] = 1
    return RowSplits(*(np.flatnonzero(part == number) for number in range(3)))


def _cold(of: np.ndarray, seed: int, test_fraction: float, validation_fraction: float) -> RowSplits:
    """Split by entity; rows of unknown ones (0) are for training."""
    known = np.unique(of[of > 0])
    order = known[np.random.RandomState(seed).permutation(len(known))]
    test = int(np.ceil(test_fraction * len(order)))
    validation = int(np.ceil(validation_fraction * (len(order) - test)))
    part = np.zeros(int(of.max(initial=0)) + 1, np.int8)
    part[order[:test]], part[order[test : test + validation]] = 2, 1
    return RowSplits(*(np.flatnonzero(part[of] == number) for number in range(3)))


def _entities(rows: Rows, schema: Schema, side: str, protocol: str) -> np.ndarray:
    """int[n]: the user or the item of each row.

    Raises:
        UserError: the data has no such field.
    """
    name = schema.user if side == "user" else schema.item
    if name is None:
        whose = f"{'a' if side == 'user' else 'an'} {side}'s"
        raise UserError(f"data.protocol: {protocol} needs {whose} field, and the data set has none; choose rows")
    column: np.ndarray = rows.users if side == "user" else rows.columns[:, schema.columns((name,))[0]]
    return column
