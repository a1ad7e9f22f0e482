"""Contrastive losses: a row's right item against wrong ones, which a mask tells, from cosines. Those of candidates are
float32[C, B], rows along the fast axis, in blocks that stay in the cache: 4,096 rows have 16.8 million."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config.sections import Count, Positive
from jaxrec.data.retrieval import has_each, has_items
from jaxrec.losses.sampled import Drawn
from jaxrec.ops.parallel import ONE, Placement, by_hand, in_blocks, joined

CELLS = 2**20  # scores in a block on a CPU
CLOSEST = 1e-6  # squared distance below which two vectors are one place: the root has no slope at 0


def _distance(cosine: Array) -> Array:
    return jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, CLOSEST))


class Rows(NamedTuple):
    query: Array  # float32[B, D], of B rows of a step, with h hard negatives each
    right: Array  # float32[B, D], the vector of the right item
    user: Array  # int32[B]
    item: Array  # int32[B]
    near: Array  # int32[B, h], the hard negatives
    near_vectors: Array  # float32[B, h, D]


class Shared(NamedTuple):
    """What all rows of a step share."""

    vectors: Array  # float32[C, D], of candidates
    items: Array  # int32[C]
    real: Array  # bool[C], whether it is a candidate
    log_expected: Array  # float32[V], the logarithm of how often an item is expected among a step's candidates
    positives: Array | None  # ``positive_bits`` of items never wrong for a user; None: only a row's own is not


class Cosines(NamedTuple):
    own: Array  # float32[B], of the row and its right item
    others: Array  # float32[C, B], of the row and each candidate
    wrong: Array  # bool[C, B]
    near: Array  # float32[h, B], of the row and its hard negatives
    near_wrong: Array  # bool[h, B]
    rows: Rows
    shared: Shared


class Contrastive(Drawn):
    """Losses of a row's right item against the items of other rows, drawn and hard ones."""

    n_sample: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Negatives drawn for each step and shared by its rows, beside their items."""
    sample_alpha: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Negatives are drawn in proportion to popularity ** sample_alpha (0: uniform; 1: popularity)."""
    hard_negatives: Annotated[int, Field(ge=0, le=64)] = 0
    """So many of each row's negatives are items close to the right one."""
    hard_pool: Annotated[int, Field(ge=1, le=1024)] = 64
    """Hard negatives are drawn from so many nearest items."""
    refresh_steps: Count = 200
    """Steps after which the nearest items are looked up anew."""
    mask: Literal["positives", "duplicates"] = "positives"
    """Which items of other rows are no negatives of a row: all that its user has in training, or only its own."""

    def __call__(self, cosines: Cosines) -> Array:
        """float32[B], the loss of each row."""
        raise NotImplementedError


class Triplet(Contrastive):
    """A wrong item shall be farther away than the right one by a margin."""

    name: Literal["triplet"] = "triplet"
    margin: Annotated[float, Field(gt=0.0, le=2.0)] = 0.5
    """By how much a wrong item shall be farther away than the right one, at most 2, on the unit sphere."""

    def __call__(self, cosines: Cosines) -> Array:
        """The mean over wrong items of max(0, margin + d(right) - d(wrong)), d the distance on the unit sphere (Schroff
        et al. 2015, "FaceNet", equation 3, with plain instead of squared distances); 0 without a wrong item."""
        near = self.margin + _distance(cosines.own)
        total, count = jnp.zeros_like(near), jnp.zeros_like(near)
        for others, mask in ((cosines.others, cosines.wrong), (cosines.near, cosines.near_wrong)):
            total += jnp.sum(jnp.where(mask, jax.nn.relu(near - _distance(others)), 0.0), axis=0)
            count += jnp.sum(mask, axis=0, dtype=jnp.float32)
        return total / jnp.maximum(count, 1)


class InfoNCE(Contrastive):
    """Cross-entropy of the right item among itself and the wrong ones."""

    name: Literal["infonce"] = "infonce"
    temperature: Positive = 0.1
    """Cosines are divided by it."""
    logq: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Strength of the logQ correction for how often each item is a negative (0: off, 1: full)."""

    def __call__(self, cosines: Cosines) -> Array:
        """In nats (van den Oord et al. 2018, "Representation learning with contrastive predictive coding", equation 4),
        of logits corrected as in Yi et al. 2019, "Sampling-bias-corrected neural modeling", section 3."""
        own, others, near = (part / self.temperature for part in (cosines.own, cosines.others, cosines.near))
        if self.logq:
            rows, log_expected = cosines.rows, cosines.shared.log_expected
            expected = self.logq * log_expected
            # A hard one is expected as often as it is drawn from its pool, and among the others' items.
            pool = min(self.hard_pool, len(log_expected) - 2)
            drawn = self.hard_negatives / pool + jnp.exp(log_expected[rows.near])
            own, near = own - expected[rows.item], near - self.logq * jnp.log(drawn).T
            others -= expected[cosines.shared.items][:, None]
        parts = [jnp.where(cosines.wrong, others, -jnp.inf), jnp.where(cosines.near_wrong, near, -jnp.inf)]
        top = own
        for part in parts:
            top = jnp.maximum(top, jnp.max(part, axis=0, initial=-jnp.inf))
        top = jax.lax.stop_gradient(top)
        total = jnp.exp(own - top)
        for part in parts:
            total += jnp.sum(jnp.exp(part - top), axis=0)
        return jnp.log(total) + top - own


def _forward(
    loss: Contrastive, on: Placement, rows: Rows, live: Array, shared: Shared
) -> tuple[Array, tuple[Array, ...]]:
    """The sum, and its derivatives by ``query``, ``right``, ``near_vectors`` and the candidates' ``vectors``."""
    (total, slope), own = on.sum_by_rows(partial(_in_blocks, loss, on), (rows, live), shared)
    return total, (*own, slope)


def _in_blocks(
    loss: Contrastive, on: Placement, rows_live: tuple[Rows, Array], shared: Shared
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """The sum and its derivative by the candidates' vectors; its derivatives by what is of each row."""
    n = len(rows_live[1])
    cells = CELLS if on.platform == "cpu" else 64 * CELLS
    size = min(n, max(1, cells // len(shared.items)))

    def one(floats: tuple[Array, Array, Array, Array], part: Rows, counted: Array) -> Array:
        query, right, near, vectors = floats
        part = part._replace(query=query, right=right, near_vectors=near)
        losses = losses_of_rows if on.platform == "gpu" else losses_of_block
        return jnp.sum(jnp.where(counted, losses(loss, part, shared._replace(vectors=vectors), on), 0.0))

    def step(sums: tuple[Array, Array], at: tuple[Rows, Array]) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        part, counted = at
        floats = (part.query, part.right, part.near_vectors, shared.vectors)
        value, (*own, slope) = jax.value_and_grad(one)(floats, part, counted)
        return (sums[0] + value, sums[1] + slope), tuple(own)

    begin = (jnp.zeros(()), jnp.zeros_like(shared.vectors))
    sums, own = jax.lax.scan(step, begin, in_blocks(rows_live, size))
    return sums, joined(own, n)


def _backward(loss: Contrastive, on: Placement, slopes: tuple[Array, ...], by: Array) -> tuple[Any, ...]:
    query, right, near, vectors = (by * slope for slope in slopes)
    return Rows(query, right, None, None, None, near), None, Shared(vectors, None, None, None, None)  # type: ignore[arg-type]


contrast: Any = by_hand(_forward, _backward, (0, 1))
"""float32[]: the sum of a loss, a placement and its ``Rows``, of those that are live, bool[B], among ``Shared``."""


def losses_of_block(loss: Contrastive, rows: Rows, shared: Shared, on: Placement) -> Array:
    """float32[B], the loss of each row."""
    return loss(cosines_of(rows, shared, on))


def losses_of_rows(loss: Contrastive, rows: Rows, shared: Shared, on: Placement) -> Array:
    """The same with candidates along the fast axis, [B, C], over which GPUs sum what they work out on the way:
    to the loss each row is a block of its own."""
    others = on.product(rows.query, shared.vectors.T)

    def one(row: Rows, others: Array) -> Array:
        row = jax.tree.map(lambda leaf: leaf[None], row)
        return loss(cosines_of(row, shared, on, others[:, None]))[0]

    return jax.vmap(one)(rows, others)


def cosines_of(rows: Rows, shared: Shared, on: Placement = ONE, others: Array | None = None) -> Cosines:
    """The cosines of rows with their items, and which items are wrong for which row; ``others`` where they are there
    already."""
    own = jnp.sum(rows.query * rows.right, axis=1)
    if others is None:
        others = on.product(shared.vectors, rows.query.T)  # [C, rows]: sums over candidates are sums of whole rows
    near = jnp.einsum("bhd,bd->hb", rows.near_vectors, rows.query)
    items, positives = shared.items, shared.positives
    wrong = (shared.real & (items > 0))[:, None] & (items[:, None] != rows.item)
    wrong = wrong if positives is None else wrong & ~has_items(positives, rows.user, items)
    near_wrong = (rows.near > 0) & (rows.near != rows.item[:, None])
    near_wrong = near_wrong if positives is None else near_wrong & ~has_each(positives, rows.user, rows.near)
    return Cosines(own, others, wrong, near, near_wrong.T, rows, shared)
