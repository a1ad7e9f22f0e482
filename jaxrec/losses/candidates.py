"""The candidates of sampled losses: what a step ranks against, how it is drawn, and the loss over it.

A step's candidates are its own targets and ``n_sample`` drawn items, the same for every query. Their table rows are
read once each (``tables.plan_rows``), so that a column of scores is an item with a weight (``losses.sampled``).

Items are drawn from popularity ** alpha, a whole block at once, by the alias method (Walker 1977; Vose 1991): two
random numbers and two reads, whatever the size of the catalogue, where searching a cumulative distribution takes
log2(items) dependent reads each.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.losses.sampled import SampledLoss
from jaxrec.ops.parallel import dealt, whole
from jaxrec.ops.precision import product, rounded


@jax.custom_vjp
def scores_of(queries: Array, rows: Array) -> Array:
    """float32[B, C]: the products of float32[B, Q] queries and float32[C, Q] rows of candidates.

    On a CPU the derivatives are written for XLA's products as they are. By the rows with the queries on the left, and
    then transposed: with few rows on the left it takes 1.9 ms where the other order takes 3.2 (512 queries, 2,560
    candidates, Q 101). By many queries in two parts, of which the larger is as wide as whole vector registers: 1.6 ms
    instead of 2.1.
    """
    return product(queries, rows.T)


def _scores_backward(saved: tuple[Array, ...], slope: Array) -> tuple[Array, Array]:
    queries, rows = saved
    if jax.default_backend() != "cpu":
        return product(slope, rows), product(slope.T, queries)
    # Without the barrier XLA would swap the factors back.
    by_rows = jax.lax.optimization_barrier(product(queries.T, slope)).T
    whole_registers = rows.shape[1] // 32 * 32
    if len(queries) < 256 or whole_registers in (0, rows.shape[1]):
        return product(slope, rows), by_rows
    parts = [product(slope, rows[:, :whole_registers]), product(slope, rows[:, whole_registers:])]
    return jnp.concatenate(parts, axis=1), by_rows


scores_of.defvjp(lambda queries, rows: (scores_of(queries, rows), rounded(queries, rows)), _scores_backward)


class SamplingConstants(NamedTuple):
    """What the training split says once and for all; None where the loss does not need it."""

    negatives: AliasTable | None
    log_popularity: Array | None  # float32[V]


class Negatives(NamedTuple):
    """What steps are ranked against.

    Attributes:
        ids: int32[S, N], drawn items.
        log_q: float32[S, B + N], log of how strongly each candidate is corrected for; None without correction.
    """

    ids: Array
    log_q: Array | None


class SampledRanking:
    """A sampled loss for a catalogue of ``n_items``."""

    def __init__(self, loss: SampledLoss, n_items: int) -> None:
        self._loss, self._n_items = loss, n_items

    def constants(self, counts: np.ndarray) -> SamplingConstants:
        """Device arrays from int64[V] ``counts``."""
        table = alias_table(counts, self._loss.sample_alpha) if self._loss.n_sample else None
        # An item that only validation or test knows can be neither a target nor a negative.
        log_popularity = jnp.asarray(np.log(np.maximum(counts, 1)), jnp.float32) if self._loss.correction else None
        return SamplingConstants(table, log_popularity)

    def draw(self, constants: SamplingConstants, target: Array, keys: Array) -> Negatives:
        """Negatives for int32[S, B] ``target``, with one key a step."""
        if constants.negatives is None:
            return self.given(constants, target, jnp.zeros((len(target), 0), jnp.int32))
        table, n = constants.negatives, self._loss.n_sample
        return self.given(constants, target, jax.vmap(lambda key: draw(table, key, n))(keys))

    def given(self, constants: SamplingConstants, target: Array, ids: Array) -> Negatives:
        """The same with given items, int32[S, N]."""
        if constants.log_popularity is None:
            return Negatives(whole(ids), None)
        # A target stands there in proportion to p, a drawn item to p ** alpha; raw counts, as in the authors' code.
        of_targets = constants.log_popularity[target]
        of_negatives = self._loss.sample_alpha * constants.log_popularity[ids]
        log_q = self._loss.correction * jnp.concatenate([of_targets, of_negatives], axis=1)
        return Negatives(whole(ids), whole(log_q))

    def candidates(self, target: Array, live: Array, negatives: Negatives) -> Array:
        """int32[B + N] rows to read in a step; V where there is nothing to read."""
        own = jnp.where(live, target, self._n_items)
        # A step without a live lane (the padding of an epoch's last block) must not touch a row.
        return jnp.concatenate([whole(own), whole(jnp.where(jnp.any(live), negatives.ids, self._n_items))])

    def losses(self, scores: Array, slot: Array, live: Array, negatives: Negatives) -> Array:
        """float32[B], the loss of each query; 0 where it is not live.

        Args:
            scores: float32[B, B + N], of the rows of ``candidates``.
            slot: int32[B + N], which of them stands for each candidate (``tables.RowPlan``).
            live: bool[B].
            negatives: of this step.
        """
        slot = whole(slot)
        own = dealt(slot[: len(live)])
        weight, own_weight = self.weights(slot, live, negatives)
        return jnp.where(live, self._loss(scores, own, weight, own_weight), 0.0)

    def weights(self, slot: Array, live: Array, negatives: Negatives) -> tuple[Array, Array]:
        """float32[B + N], the weight of each candidate's column, and float32[B], of each query's own occurrence."""
        drawn = jnp.broadcast_to(jnp.any(live).astype(jnp.float32), negatives.ids.shape)
        occurrence = jnp.concatenate([live.astype(jnp.float32), drawn])
        own_weight = jnp.ones(len(live))
        if negatives.log_q is not None:
            correction = jnp.exp(-negatives.log_q)
            occurrence, own_weight = occurrence * correction, correction[: len(live)]
        return whole(jnp.zeros(len(slot)).at[slot].add(whole(occurrence))), own_weight


class AliasTable(NamedTuple):
    """Column i holds i with probability ``keep[i]`` and ``other[i]`` otherwise; columns are equally likely."""

    keep: Array  # float32[V]
    other: Array  # int32[V]


def popularity(items: np.ndarray, n_items: int) -> np.ndarray:
    """int64[n_items]: how often each item occurs in int32[n] ``items``."""
    return np.bincount(items, minlength=n_items)


def alias_table(counts: np.ndarray, alpha: float) -> AliasTable:
    """An alias table for probabilities proportional to ``counts ** alpha``.

    Columns below the mean are topped up, in order, by those above; a column above the mean that is used up is topped
    up by the next one. Prefix sums say who tops up whom, so there is no loop.

    Args:
        counts: int[V], 0 or more; an item that never occurs is never drawn.
    """
    mass = np.where(counts > 0, counts.astype(np.float64) ** alpha, 0.0)
    share = mass * (len(mass) / mass.sum())  # mean 1
    large = share >= 1.0
    large[np.argmax(share)] = True  # where all are equal, rounding may leave each a hair below 1
    low, high = np.flatnonzero(~large), np.flatnonzero(large)
    missing, spare = np.cumsum(1.0 - share[low]), np.cumsum(share[high] - 1.0)
    keep, other = np.ones(len(mass)), np.arange(len(mass))
    before = np.concatenate([[0.0], missing])[: len(low)]
    keep[low] = share[low]
    other[low] = high[np.minimum(np.searchsorted(spare, before, side="right"), len(high) - 1)]
    # The last column that k tops up is the first whose missing mass reaches k's spare (equal: k is left whole).
    last_topped = np.searchsorted(missing, spare, side="left")
    used_up = (spare > 0.0) & (last_topped < len(missing))
    used_up[-1:] = False  # what rounding leaves of the last one is its own
    donors = np.flatnonzero(used_up)
    keep[high[donors]] = np.clip(1.0 + spare[donors] - missing[last_topped[donors]], 0.0, 1.0)
    other[high[donors]] = high[donors + 1]
    return AliasTable(jnp.asarray(keep, jnp.float32), jnp.asarray(other, jnp.int32))


def draw(table: AliasTable, key: Array, n: int) -> Array:
    """int32[n] items, with replacement. One key per step, so the result does not depend on how steps are blocked."""
    column_key, coin_key = jax.random.split(key)
    column = jax.random.randint(column_key, (n,), 0, table.keep.shape[0])
    coin = jax.random.uniform(coin_key, (n,))
    return jnp.where(coin < table.keep[column], column, table.other[column])
