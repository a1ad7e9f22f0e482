"""What the queries of a step are ranked against: its own targets and drawn items, the same for all and read once each,
or the whole catalogue. Items are drawn from popularity ** alpha by the alias method (Walker 1977; Vose 1991)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config.sections import LossConfig
from jaxrec.losses.sampled import SampledLoss
from jaxrec.losses.softmax import FullSoftmax
from jaxrec.ops.parallel import ONE, Placement, by_hand
from jaxrec.ops.tables import Read, Reads, Tables


class AliasTable(NamedTuple):
    """Column i holds i with probability ``keep[i]`` and ``other[i]`` otherwise; columns are equally likely."""

    keep: Array  # float32[V]
    other: Array  # int32[V]


def alias_table(counts: np.ndarray, alpha: float) -> AliasTable:
    """For probabilities proportional to int[V] ``counts ** alpha``, 0 without counts. Columns below the mean are topped
    up, in order, by those above, one that is used up by the next one; prefix sums say who tops up whom."""
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


def draw(table: AliasTable, keys: Array, n: int) -> Array:
    """int32[S, n] items, with replacement. One key per step, so the result does not depend on how steps are blocked."""

    def one(key: Array) -> Array:
        column_key, coin_key = jax.random.split(key)
        column = jax.random.randint(column_key, (n,), 0, table.keep.shape[0])
        coin = jax.random.uniform(coin_key, (n,))
        return jnp.where(coin < table.keep[column], column, table.other[column])

    return jax.vmap(one)(keys)


def _scores_forward(queries: Array, rows: Array, on: Placement) -> tuple[Array, tuple[Array, ...]]:
    """float32[B, C]: the products of float32[B, Q] queries and float32[C, Q] rows of candidates."""
    return on.product(queries, rows.T), on.rounded(queries, rows)


def _scores_backward(on: Placement, saved: tuple[Array, ...], slope: Array) -> tuple[Array, Array]:
    """For XLA's products on a CPU: by the rows with the queries on the left, then transposed (1.9 ms instead of 3.2),
    by many queries in two parts, the larger of whole vector registers (1.6 ms, not 2.1)."""
    queries, rows = saved
    if jax.default_backend() != "cpu":
        return on.product(slope, rows), on.product(slope.T, queries)
    # Without the barrier XLA would swap the factors back.
    by_rows = jax.lax.optimization_barrier(on.product(queries.T, slope)).T
    whole_registers = rows.shape[1] // 32 * 32
    if len(queries) < 256 or whole_registers in (0, rows.shape[1]):
        return on.product(slope, rows), by_rows
    parts = [on.product(slope, rows[:, :whole_registers]), on.product(slope, rows[:, whole_registers:])]
    return jnp.concatenate(parts, axis=1), by_rows


scores_of: Any = by_hand(_scores_forward, _scores_backward, (2,))


class Step(NamedTuple):
    block: Any  # its part of the block
    drawn: Any  # what the ranking has drawn


class Popularity(NamedTuple):
    """What the training split says of items; None where the loss does not need it."""

    negatives: AliasTable | None
    log_popularity: Array | None  # float32[V]


class Negatives(NamedTuple):
    ids: Array  # int32[S, N]
    log_q: Array | None  # float32[S, B + N], how strongly each candidate is corrected for; None without correction


class Sampled:
    """A loss over the candidates of a step: its targets and ``n_sample`` drawn items."""

    dense = False  # where every item is scored in every step, the item table is dense

    def __init__(self, loss: SampledLoss, n_items: int) -> None:
        self._loss, self._n_items = loss, n_items

    def constants(self, counts: np.ndarray) -> Popularity:
        """Device arrays from int64[V] ``counts``, how often each item stands in the training split."""
        table = alias_table(counts, self._loss.sample_alpha) if self._loss.n_sample else None
        # An item that only validation or test knows can be neither a target nor a negative.
        log_popularity = jnp.asarray(np.log(np.maximum(counts, 1)), jnp.float32) if self._loss.correction else None
        return Popularity(table, log_popularity)

    def draw(self, constants: Popularity, target: Array, keys: Array, on: Placement = ONE) -> Negatives:
        """What is drawn for int32[S, P] targets, with one key a step."""
        table, n = constants.negatives, self._loss.n_sample
        ids = jnp.zeros((len(target), 0), jnp.int32) if table is None else draw(table, keys, n)
        return self.given(constants, target, ids, on)

    def given(self, constants: Popularity, target: Array, ids: Array, on: Placement = ONE) -> Negatives:
        """The same with given items, int32[S, N]."""
        if constants.log_popularity is None:
            return Negatives(on.whole(ids), None)
        # A target stands there in proportion to p, a drawn item to p ** alpha; raw counts, as in the authors' code.
        of_targets = constants.log_popularity[target]
        of_negatives = self._loss.sample_alpha * constants.log_popularity[ids]
        log_q = self._loss.correction * jnp.concatenate([of_targets, of_negatives], axis=1)
        return Negatives(on.whole(ids), on.whole(log_q))

    def reads(self, target: Array, live: Array, drawn: Negatives) -> Reads:
        """What a step with int32[P] targets, of which bool[P] are live, reads of the item table."""
        own = jnp.where(live, target, self._n_items)
        # A step without a live lane (the padding of an epoch's last block) must not touch a row.
        return {"target": Read(own), "negative": Read(jnp.where(jnp.any(live), drawn.ids, self._n_items))}

    def total(
        self, tables: Tables, table: str, queries: Array, target: Array, weight: Array, drawn: Any, constants: Any
    ) -> Array:
        """float32[], the sum of the losses of float32[P, Q] queries, each times its float32[P] weight."""
        return jnp.sum(self.losses(tables, table, queries, weight > 0, drawn) * weight)

    def losses(self, tables: Tables, table: str, queries: Array, live: Array, drawn: Negatives) -> Array:
        """float32[B], the loss of each query; 0 where it is not live."""
        on, (vectors, slot) = tables.on, tables.columns(table, "target", "negative")
        scores = on.dealt(scores_of(on.dealt(queries), vectors, on))  # [B, B + N]
        slot = on.whole(slot)
        weight, own_weight = self.weights(slot, live, drawn, on)
        return jnp.where(live, self._loss(scores, on.dealt(slot[: len(live)]), weight, own_weight), 0.0)

    def weights(self, slot: Array, live: Array, drawn: Negatives, on: Placement = ONE) -> tuple[Array, Array]:
        """float32[B + N], the weight of each candidate's column, and float32[B], of each query's own occurrence."""
        negatives = jnp.broadcast_to(jnp.any(live).astype(jnp.float32), drawn.ids.shape)
        occurrence = jnp.concatenate([live.astype(jnp.float32), negatives])
        own_weight = jnp.ones(len(live))
        if drawn.log_q is not None:
            correction = jnp.exp(-drawn.log_q)
            occurrence, own_weight = occurrence * correction, correction[: len(live)]
        return on.whole(jnp.zeros(len(slot)).at[slot].add(on.whole(occurrence))), own_weight


class Full:
    """Exact cross-entropy over the whole catalogue; its methods are those of ``Sampled``."""

    dense = True

    def __init__(self, loss: FullSoftmax, n_items: int) -> None:
        self._loss, self._n_items = loss, n_items

    def constants(self, counts: np.ndarray) -> Array | None:
        """float32[V], added to the training scores. An item that never occurs counts as one that occurs once."""
        strength = self._loss.prior
        return jnp.asarray(strength * np.log(np.maximum(counts, 1)), jnp.float32) if strength else None

    def draw(self, constants: Any, target: Array, keys: Array, on: Placement = ONE) -> None:
        return None

    def reads(self, target: Array, live: Array, drawn: Any) -> Reads:
        return {}

    def total(
        self, tables: Tables, table: str, queries: Array, target: Array, weight: Array, drawn: Any, constants: Any
    ) -> Array:
        return self._loss(queries, tables.whole(table), target, weight, constants, tables.on)


def ranking(loss: LossConfig, n_items: int) -> Sampled | Full:
    """That of a configured loss, for a catalogue of ``n_items``."""
    return Full(loss, n_items) if isinstance(loss, FullSoftmax) else Sampled(SampledLoss.of(loss), n_items)
