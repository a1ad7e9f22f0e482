"""Metrics of click models: AUC, log loss and calibration over all rows, NDCG and hit rate over each user's own rows.

Everything is a sort, a scan or a sum on the device, O(n log n) in the rows. A float32 to which millions of rows are
added one after the other loses them: counts are integers, and what is summed over all rows is summed by ``jnp.sum``,
which XLA does in a tree, and never scattered into few cells. Values hold to 1e-6 at millions of rows (tested at three).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.errors import UserError

Rows = Array | np.ndarray  # an array with an entry for each row

LOWER_IS_BETTER = ("log_loss", "ece")
RANKING = ("ndcg", "hit_rate", "ndcg_published", "hit_rate_published")
ABSENT = np.uint32(0xFFFFFFFF)  # sorts after the key of any score
DIGITS = 7  # hexadecimal digits of a count of pairs: up to 2^28, that is 2^27 rows


class Calibration(NamedTuple):
    """Predicted and observed click rates in bins of equal width; the means of an empty bin are not a number.

    Attributes:
        edges: float32[bins + 1], from 0 to 1; a bin holds its upper edge, the first one also 0.
        rows: int32[bins], how many fall in.
        predicted, observed: float32[bins], mean probability and mean label.
        error: float32[], the expected calibration error.
    """

    edges: Array
    rows: Array
    predicted: Array
    observed: Array
    error: Array


def higher_is_better(metric: str) -> bool:
    """Which way a metric of this module improves; cut-offs as in ``ndcg@10`` make no difference."""
    return metric not in LOWER_IS_BETTER


# In what follows: scores and logits float32[n]; labels float32[n], 0 or 1; real bool[n], rows that count, None: all.


def auc(scores: Rows, labels: Rows, real: Rows | None = None) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties counted half. Exact, of at most
    2^27 rows. A score that is not a number is never to its row's advantage. nan where one of the classes is missing.
    """
    digits, positives, negatives = (np.asarray(part).astype(np.int64) for part in _pairs(scores, labels, real))
    won_twice = sum(int(digit) << 4 * place for place, digit in enumerate(digits))
    pairs = int(positives) * int(negatives)
    return won_twice / (2 * pairs) if pairs else math.nan


@jax.jit
def log_loss(logits: Array, labels: Array, real: Array | None = None) -> Array:
    """float32[], mean binary cross-entropy in nats; one softplus of the logit, its sign turned where the label is 1."""
    real = jnp.ones(len(logits), bool) if real is None else real
    loss = jax.nn.softplus(jnp.where(labels > 0, -logits, logits))
    return jnp.where(real, loss, 0).sum() / real.sum()


@partial(jax.jit, static_argnames="bins")
def calibration(probabilities: Array, labels: Array, bins: int = 15, real: Array | None = None) -> Calibration:
    """Predicted and observed rates by bin, and the expected calibration error: the mean over bins, weighted by their
    rows, of |mean probability - mean label| (Naeini et al. 2015; Guo et al. 2017, section 3, but of the probability of
    a click, not of the likelier class).
    """
    real = jnp.ones(len(labels), bool) if real is None else real
    place = jnp.clip(jnp.ceil(probabilities * bins).astype(jnp.int32) - 1, 0, bins - 1)

    def one(number: Array) -> tuple[Array, Array, Array]:
        inside = (place == number) & real
        return inside.sum(), jnp.where(inside, probabilities, 0).sum(), (inside & (labels > 0)).sum()

    # a pass for each bin: scattering into 15 float32 cells would lose digits
    rows, predicted, observed = jax.lax.map(one, jnp.arange(bins))
    error = jnp.abs(predicted - observed).sum() / rows.sum()
    return Calibration(jnp.linspace(0, 1, bins + 1), rows, predicted / rows, observed / rows, error)


@jax.jit
def _pairs(scores: Array, labels: Array, real: Array | None) -> tuple[Array, Array, Array]:
    """The pairs of a positive and a negative that are won, twice (a tie counts 1), as int32[DIGITS] sums over positives
    of each hexadecimal digit, lowest first: no sum overflows, none is rounded; and the size of both classes.
    """
    keys, real = _keys(scores, labels), jnp.bool_(True) if real is None else real
    positive, negative = (labels > 0) & real, (labels <= 0) & real
    # on a CPU two sorts of bare integers take a third of the time of one that carries the labels along
    ours, theirs = (jnp.sort(jnp.where(member, keys, ABSENT)) for member in (positive, negative))
    twice = jnp.searchsorted(theirs, ours, side="left") + jnp.searchsorted(theirs, ours, side="right")
    twice = jnp.where(ours < ABSENT, twice, 0)
    digits = jnp.stack([jnp.sum(twice >> 4 * place & 15) for place in range(DIGITS)])
    return digits, positive.sum(), negative.sum()


def _keys(scores: Array, labels: Array) -> Array:
    """uint32[n] in the order of the scores, equal where they are: integers sort seven times as fast on a CPU.

    The bits of a positive float grow with it; those of a negative one fall, so all of them are turned over.
    """
    one_zero = jnp.where(scores == 0, 0, scores).astype(jnp.float32)  # XLA would strike out the + 0.0 that does it too
    bits = jax.lax.bitcast_convert_type(one_zero, jnp.uint32)
    keys = bits ^ jnp.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return jnp.where(jnp.isnan(scores), jnp.where(labels > 0, np.uint32(0), ABSENT - np.uint32(1)), keys)


@partial(jax.jit, static_argnames=("ks", "n_users"))
def user_ranking(scores: Array, labels: Array, users: Array, ks: tuple[int, ...], n_users: int) -> dict[str, Array]:
    """NDCG and hit rate of each user's own rows ranked by score, averaged over the users with a positive.

    Ties are conservative: among a user's equal scores the negatives come first. A positive whose score is not a number
    comes last, such a negative first. The gain of a positive is 1 / log2(rank + 1), rank 1 first. Two definitions:

    * ``ndcg@k`` divides by the DCG of the best order cut at k; ``hit_rate@k`` is 1 if any positive is in the top k.
    * ``ndcg_published@k`` divides by that of all positives, uncut; ``hit_rate_published@k`` is the share of the user's
      positives in the top k, elsewhere called recall. These are the ones AutoInt+ publishes on MovieLens: a user with
      more than k positives reaches 1 in neither.

    ``users`` is int32[n], in any order; a row whose user is not in [0, n_users) is left out. float32[] of each name,
    not a number where no user has a positive.
    """
    worst = jnp.where(jnp.isnan(scores), jnp.where(labels > 0, -jnp.inf, jnp.inf), scores)
    users, _, positive = jax.lax.sort((users, -worst, labels > 0), num_keys=3)
    row = jnp.arange(len(users))
    begins = (row == 0) | (users != jnp.roll(users, 1))
    rank = row - jax.lax.cummax(jnp.where(begins, row, 0))  # 0 is first
    before = jnp.cumsum(positive) - positive  # positives ahead of this row, of all users
    best = before - jax.lax.cummax(jnp.where(begins, before, 0))  # the rank that a positive has in the ideal order
    gain, ideal = (jnp.where(positive, 1 / jnp.log2(place + 2.0), 0) for place in (rank, best))
    by_user = partial(jax.ops.segment_sum, segment_ids=users, num_segments=n_users, indices_are_sorted=True)
    positives, uncut = by_user(positive.astype(jnp.int32)), by_user(ideal)

    def mean(values: Array) -> Array:
        return jnp.where(positives > 0, values, 0).sum() / (positives > 0).sum()

    result: dict[str, Array] = {}
    for k in ks:
        dcg, cut = by_user(jnp.where(rank < k, gain, 0)), by_user(jnp.where(best < k, ideal, 0))
        hits = by_user((positive & (rank < k)).astype(jnp.int32))
        result |= {f"ndcg@{k}": mean(dcg / cut), f"hit_rate@{k}": mean((hits > 0).astype(jnp.float32))}
        result |= {f"ndcg_published@{k}": mean(dcg / uncut), f"hit_rate_published@{k}": mean(hits / positives)}
    return result


def click_metrics(logits: Rows, labels: Rows, users: Rows | None, ks: Sequence[int]) -> dict[str, float]:
    """``auc``, ``log_loss``, ``ece``, and those of ``user_ranking`` where users, int32[n] from 0, are given."""
    positives, n = int((labels > 0).sum()), len(labels)
    if positives in (0, n):
        same = f"{n:,} labels are all {int(positives > 0)}" if n else "rows are none"
        raise UserError(f"AUC is undefined on a split whose {same}; choose another split")
    return _measure(logits, labels, users, None, ks, _number(users))


def by_group(
    logits: Rows, labels: Rows, users: Rows | None, groups: Rows, names: Sequence[str], ks: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """``click_metrics`` over the rows of each group, and their number as ``rows``; a user's rows are ranked within it.

    None is what a group leaves undefined: its AUC with a single class, the ranking without a positive. ``groups`` is
    int[n], indices of ``names``; a row of another value is in no group.
    """
    result: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(names):
        rows = np.flatnonzero(np.asarray(groups) == number)
        # groups of about one size share a compiled program: row 0 fills up to a power of two, and does not count
        size = min(len(labels), 1 << max(len(rows) - 1, 0).bit_length())
        taken, real = np.pad(rows, (0, size - len(rows))), np.arange(size) < len(rows)
        own = None if users is None else np.asarray(users)[taken]
        found = _measure(np.asarray(logits)[taken], np.asarray(labels)[taken], own, real, ks, _number(users))
        defined = {metric: None if math.isnan(value) else value for metric, value in found.items()}
        result[name] = {"rows": len(rows), **defined}
    return result


def _number(users: Rows | None) -> int:
    """How many users there may be."""
    return int(users.max()) + 1 if users is not None and len(users) else 0


def _measure(
    logits: Rows, labels: Rows, users: Rows | None, real: Rows | None, ks: Sequence[int], n_users: int
) -> dict[str, float]:
    """``click_metrics`` of the rows that are real, where the classes may be missing: undefined is not a number."""
    error = calibration(jax.nn.sigmoid(jnp.asarray(logits)), labels, real=real).error
    metrics = {"auc": auc(logits, labels, real), "log_loss": float(log_loss(logits, labels, real)), "ece": float(error)}
    if users is None:
        return metrics
    users = users if real is None else jnp.where(real, users, n_users)
    ranking = user_ranking(logits, labels, users, tuple(ks), n_users)
    return metrics | {name: float(ranking[name]) for k in ks for name in (f"{kind}@{k}" for kind in RANKING)}
