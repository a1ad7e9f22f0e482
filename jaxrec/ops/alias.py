"""Items drawn from popularity ** alpha by the alias method (Walker 1977; Vose 1991)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.ops.rows import Table, rows_at


class AliasTable(NamedTuple):
    """Column i holds i with probability ``keep[i]`` and ``other[i]`` otherwise; columns are equally likely."""

    keep: Table  # float32[V]
    other: Table  # int32[V]


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

    def one(key: Array) -> tuple[Array, Array]:
        column_key, coin_key = jax.random.split(key)
        return jax.random.randint(column_key, (n,), 0, len(table.keep)), jax.random.uniform(coin_key, (n,))

    column, coin = jax.vmap(one)(keys)
    return jnp.where(coin < rows_at(table.keep, column), column, rows_at(table.other, column))
