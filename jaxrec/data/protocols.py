"""How rows are split into training, validation and test: the field ``data.protocol``.

    rows            a random share of the rows is the test split
    paper           as ``rows``, without the rows of the rating just below the threshold (AutoInt, section 5.1: ratings
                    of 3 on MovieLens are neither liked nor disliked)
    temporal        the most recent rows are the test split
    leave_one_out   each user's most recent positive and what follows it (negatives, which training must not see
                    before their time) is the test split; the positive before it, and what follows that, the
                    validation split; rows of unknown users are for training

The random order is ``numpy.random.RandomState(seed).permutation(n)`` and its first rows are the test split: what
scikit-learn's ``train_test_split(test_size=..., random_state=seed)`` does, with which published splits were made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.rows import Rows, Schema
from jaxrec.errors import UserError


class RowSplits(NamedTuple):
    """int64 row numbers of each split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


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
    if protocol in ("temporal", "leave_one_out") and not np.any(rows.times):
        raise UserError(f"data.protocol: {protocol} needs times, and the data set has none; choose rows")
    if protocol == "leave_one_out":
        found = _leave_one_out(rows, schema, validation_fraction > 0)
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
    if not len(found.train) and protocol == "leave_one_out":
        raise UserError(f"data.protocol: leave_one_out leaves none of {len(rows):,} rows to train on; choose rows")
    if not len(found.train):
        raise UserError(
            f"data.test_fraction, data.validation_fraction: {test_fraction} and {validation_fraction} of "
            f"{len(rows):,} rows leave none to train on; lower them"
        )
    return found


def _leave_one_out(rows: Rows, schema: Schema, validation: bool) -> RowSplits:
    if schema.user is None:
        raise UserError("data.protocol: leave_one_out needs a user's field, and the data set has none; choose rows")
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
