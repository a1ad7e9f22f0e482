"""Exact cross-entropy over the whole catalogue, in blocks whose memory is bounded. Its derivative is taken by hand in
the forward pass, while a block of scores is at hand: with e = exp(s - max s) and z = sum e, d queries = (e E) w / z and
d items = e' (q w / z); the target's part and that of label smoothing come on the side. Where few rows of scores fit,
blocks of items take the place of blocks of rows, in two sweeps, for the normaliser and for the derivative. Where items
are dealt over devices each works on its own: the maxima and sums of scores and the targets' scores are exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config.sections import Count, Fraction, LossConfig
from jaxrec.ops.parallel import MODEL, ONE, Placement, by_hand, in_blocks, joined
from jaxrec.ops.rows import DealtRows, Table, look_up, places_here

FEW_ROWS = 64  # queries in a block of rows, below which blocks of items are used
FEW_ITEMS = 128  # items in a block of items, at least
CACHED, RESIDENT = 64, 1024
"""MiB of scores at a time where the configuration does not say: on CPUs, whose caches hold some of it; on accelerators,
where each block is a turn of a loop and a dozen kernels of its own."""


@dataclass(frozen=True)
class Softmax:
    """Fields of ``SoftmaxLoss``, and the devices that share the queries."""

    memory: int = CACHED
    smoothing: float = 0.0
    on: Placement = ONE
    count: int | None = None  # of items, where they are dealt (``ops.shards``); None: each device has all

    def places(self, target: Array) -> Array:
        """int32[P]: where among the items that are here the targets stand; -1 for none."""
        return target if self.count is None else places_here(target, self.on.shards)

    def at(self, array: Array, target: Array) -> Array:
        """[P, ...]: what an array has for the targets, int32[P] ``places``; zeros for those that are not here."""
        return array[target] if self.count is None else look_up(array, target)

    def are_items(self, rows: int) -> Array | None:
        """bool[rows]: which of the items that are here there are; None where that is all."""
        if self.count is None:
            return None
        return jnp.arange(rows) * self.on.shards + jax.lax.axis_index(MODEL) < self.count

    def over_items(self, exchange: Callable[..., Array], value: Array) -> Array:
        """``jax.lax.pmax`` or ``psum`` over the devices that share the items."""
        return value if self.count is None else exchange(value, MODEL)

    @property
    def whole_mass(self) -> bool:
        """Whether ``less_target`` takes the target's share. Where factors are rounded, two rounded parts would leave
        their errors where it is nearly certain; on accelerators a part on the side is a gather and a scatter."""
        return self.on.low or self.on.platform != "cpu"

    def product(self, left: Array, right: Array) -> Array:
        full = jax.lax.Precision.HIGHEST  # otherwise accelerators multiply float32 with fewer bits
        return self.on.product(left, right) if self.on.low else jnp.matmul(left, right, precision=full)

    def scores(self, queries: Array, items: Array, prior: Array | None) -> Array:
        scores = self.product(queries, items.T)
        return scores if prior is None else scores + prior

    def less_target(self, mass: Array, scale: Array, target: Array, begin: Array | int) -> Array:
        """``mass`` less the target's share of ``scale``, float32[P]. Columns are the items from ``begin`` on."""
        if not self.whole_mass:
            return mass
        own = begin + jnp.arange(mass.shape[1]) == target[:, None]
        return mass - jnp.where(own, (1.0 - self.smoothing) * scale[:, None], 0.0)


def cut(queries: int, items: int, memory: int) -> tuple[int, int]:
    """How many queries and items a block of the scores [P, V] has, all of one: queries within ``memory`` MiB if at
    least ``FEW_ROWS`` fit (or all of them), otherwise items."""
    cells = memory * 2**20 // 4
    rows = cells // items
    if rows >= min(queries, FEW_ROWS):
        return -(-queries // -(-queries // rows)), items
    width = min(items, max(FEW_ITEMS, cells // queries))
    return queries, -(-items // -(-items // width))


class Batch(NamedTuple):
    queries: Array
    items: Array
    target: Array
    weight: Array
    prior: Array | None = None


def _forward(how: Softmax, *arrays: Any) -> tuple[Array, tuple[Any, ...]]:
    batch = Batch(*arrays)
    rows, rest = (batch.queries, batch.target, batch.weight), (batch.items, batch.prior)
    if how.count is not None:
        total, d_items, d_queries = how.on.sum_by_rows_and_items(partial(_of_dealt_items, how), rows, rest)
        return total, (d_queries, d_items, *(None,) * (len(arrays) - 2))
    (total, d_items), d_queries = how.on.sum_by_rows(partial(_with_derivatives, how), rows, rest)
    return total, (d_queries, d_items, *(None,) * (len(arrays) - 2))


def _of_dealt_items(how: Softmax, rows: Any, rest: Any) -> tuple[Array, Array, Array]:
    (total, d_items), d_queries = _with_derivatives(how, rows, rest)
    return total, d_items, d_queries


def _with_derivatives(
    how: Softmax, rows: tuple[Array, Array, Array], rest: tuple[Array, Array | None]
) -> tuple[tuple[Array, Array], Array]:
    """The loss and its derivative by the items, sums over rows; its derivative by the queries."""
    (queries, target, weight), (items, prior) = rows, rest
    target, there = how.places(target), how.are_items(len(items))
    if there is not None:  # what is behind the last item has no score
        prior = jnp.where(there, 0.0 if prior is None else prior, -jnp.inf)
    batch = Batch(queries, items, target, weight, prior)
    size, columns = cut(len(queries), len(items), how.memory)
    if columns == len(items):
        lse, d_queries, d_items = _rows_derivative(how, size, batch)
    else:
        lse = _sweep(how, columns, batch)
        d_queries, d_items = _items_derivative(how, columns, batch, lse)
    # The scores' other part: the target's share, and the even share of smoothing.
    if not how.whole_mass:
        own = (1.0 - how.smoothing) * weight[:, None]
        place = target if how.count is None else jnp.where(target < 0, len(items), target)
        d_queries -= own * how.at(items, target)
        d_items = d_items.at[place].add(-own * queries, mode=None if how.count is None else "drop")
    if how.smoothing:
        even, count = how.smoothing * weight[:, None], how.count or len(items)
        d_queries -= even * jnp.sum(items, axis=0) / count
        share = jnp.sum(even * queries, axis=0) / count
        d_items -= share if there is None else there[:, None] * share
    return (_total(how, batch, lse), d_items), d_queries


def _backward(how: Softmax, derivative: tuple[Any, ...], factor: Array) -> tuple[Array | None, ...]:
    return factor * derivative[0], factor * derivative[1], *derivative[2:]


_cross_entropy = by_hand(_forward, _backward, (0,))


def _total(how: Softmax, batch: Batch, lse: Array) -> Array:
    queries, items, target, weight, prior = batch
    factors = how.on.rounded(queries, how.at(items, target))
    wide = jnp.promote_types(factors[0].dtype, jnp.float32)
    own = jnp.sum(factors[0].astype(wide) * factors[1].astype(wide), axis=1)
    count = how.count or len(items)
    even = queries @ (jnp.sum(items, axis=0) / count) if how.smoothing else jnp.zeros(())
    if prior is not None:
        added = jnp.where(jnp.isfinite(prior), prior, 0.0) if how.count else prior
        own, even = own + how.at(added, target), even + jnp.sum(added) / count
    own, even = how.over_items(jax.lax.psum, own), how.over_items(jax.lax.psum, even)
    return jnp.sum(weight * (lse - (1.0 - how.smoothing) * own - how.smoothing * even))


def _normalise(how: Softmax, scores: Array) -> tuple[Array, Array, Array]:
    """exp(s - max), its sum and log-sum-exp, by row."""
    top = how.over_items(jax.lax.pmax, jnp.max(scores, axis=1))
    mass = jnp.exp(scores - top[:, None])
    total = how.over_items(jax.lax.psum, jnp.sum(mass, axis=1))
    return mass, total, top + jnp.log(total)


def _rows_derivative(how: Softmax, size: int, batch: Batch) -> tuple[Array, Array, Array]:
    """log-sum-exp [P], and the softmax's part of the derivatives, [P, D] and [V, D]."""
    queries, items, target, weight, prior = batch

    def one(q: Array, w: Array, t: Array) -> tuple[Array, tuple[Array, Array]]:
        mass, total, lse = _normalise(how, how.scores(q, items, prior))
        mass = how.less_target(mass, total, t, 0)
        share = (w / total)[:, None]
        return how.product(mass.T, q * share), (lse, share * how.product(mass, items))

    d_items, (lse, d_queries) = _by_rows(one, jnp.zeros_like(items), size, queries, weight, target)
    return lse, d_queries, d_items


def _by_rows(one: Callable[..., tuple[Any, Any]], begin: Any, size: int, *arrays: Array) -> tuple[Any, Any]:
    """``one`` of blocks of the arrays' rows gives a part of a sum, and rows: the sum, and the rows in order."""
    rows = len(arrays[0])
    if rows <= size:
        return one(*arrays)

    def step(total: Any, at: tuple[Array, ...]) -> tuple[Any, Any]:
        part, found = one(*at)
        return jax.tree.map(jnp.add, total, part), found

    total, found = jax.lax.scan(step, begin, in_blocks(arrays, size))
    return total, joined(found, rows)


def _part(size: int, batch: Batch, i: Array) -> tuple[Array, Array, Array]:
    """The i-th block of items: its begin, vectors, and what is added to its scores, -inf where it overlaps."""
    begin = jnp.minimum(i * size, len(batch.items) - size)
    vectors = jax.lax.dynamic_slice_in_dim(batch.items, begin, size)
    fresh = begin + jnp.arange(size) >= i * size
    added = 0.0 if batch.prior is None else jax.lax.dynamic_slice_in_dim(batch.prior, begin, size)
    return begin, vectors, jnp.where(fresh, added, -jnp.inf)


def _sweep(how: Softmax, size: int, batch: Batch) -> Array:
    """float32[P]: log-sum-exp over all blocks of items."""
    rows, columns = len(batch.queries), len(batch.items)

    def one(so_far: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        top, total = so_far
        _, vectors, added = _part(size, batch, i)
        scores = how.scores(batch.queries, vectors, added)
        new = jnp.maximum(top, jnp.max(scores, axis=1))
        return (new, total * jnp.exp(top - new) + jnp.sum(jnp.exp(scores - new[:, None]), axis=1)), None

    lowest = jnp.full(rows, jnp.finfo(jnp.float32).min)
    (top, total), _ = jax.lax.scan(one, (lowest, jnp.zeros(rows)), jnp.arange(-(-columns // size)))
    highest = how.over_items(jax.lax.pmax, top)
    if how.count is not None:
        total = jax.lax.psum(total * jnp.exp(top - highest), MODEL)
    return highest + jnp.log(total)


def _items_derivative(how: Softmax, size: int, batch: Batch, lse: Array) -> tuple[Array, Array]:
    """The softmax's part of the derivatives, [P, D] and [V, D], with scores computed a second time."""
    queries, items, target, weight, _ = batch
    weighted = queries * weight[:, None]

    def one(sums: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        d_queries, d_items = sums
        begin, vectors, added = _part(size, batch, i)
        share = jnp.exp(how.scores(queries, vectors, added) - lse[:, None])
        # Where blocks overlap, a target belongs to the first: the second must not subtract it again.
        fresh = jnp.where(target >= i * size, target, -1)  # nor a target that is not here
        share = how.less_target(share, jnp.ones_like(lse), fresh, begin)
        here = jax.lax.dynamic_slice_in_dim(d_items, begin, size) + how.product(share.T, weighted)
        d_items = jax.lax.dynamic_update_slice_in_dim(d_items, here, begin, 0)
        return (d_queries + how.product(share, vectors), d_items), None

    begin = (jnp.zeros_like(queries), jnp.zeros_like(items))
    (d_queries, d_items), _ = jax.lax.scan(one, begin, jnp.arange(-(-len(items) // size)))
    return d_queries * weight[:, None], d_items


class SoftmaxLoss(LossConfig):
    """Exact cross-entropy over the whole catalogue."""

    label_smoothing: Fraction = 0.0
    """Share of the target's probability that is spread evenly over the catalogue."""
    memory: Count | None = None
    """Bound on the block of scores in MiB; the step is worked through in blocks of targets, or of items (null: 64 on a
    CPU, 1024 on an accelerator)."""

    def __call__(
        self, queries: Array, items: Array, target: Array, weight: Array, prior: Table | None = None,
        on: Placement = ONE, count: int | None = None,
    ) -> Array:  # fmt: skip
        """float32[]: the sum of the cross-entropies of ``softmax(queries items' + prior)``, times their float32[P]
        ``weight``, for float32[P, D] queries, float32[V, D] items, int32[P] targets in [0, V) and a float32[V] prior,
        if any. Only queries and items have derivatives. ``count`` is V where items may be dealt (``ops.shards``), and
        the prior with them."""
        memory = self.memory or (CACHED if on.platform == "cpu" else RESIDENT)
        dealt = count if count is not None and on.deals(count) else None
        how = Softmax(memory, self.label_smoothing, on, dealt)
        prior = prior.array if isinstance(prior, DealtRows) else prior
        total: Array = _cross_entropy(how, queries, items, target, weight, prior)
        return total


class FullSoftmax(SoftmaxLoss):
    """Exact cross-entropy over the whole catalogue."""

    name: Literal["softmax"] = "softmax"
    prior: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Log popularity times this is added to the training scores (logit adjustment), not to those that rank."""
