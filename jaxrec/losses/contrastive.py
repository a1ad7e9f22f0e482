"""Contrastive losses: a row's right item against wrong ones, from cosines; which items are wrong is a mask.

Cosines of candidates stand in float32[C, B], rows of the step along the fast axis. A step of 4,096 rows has 16.8
million scores, which held whole, with masks and derivatives, go through memory a dozen times: they are worked through
in blocks of rows that stay in the cache.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config.sections import Config, Count, Positive
from jaxrec.data.retrieval import has_each, has_items
from jaxrec.losses.sampled import Drawn
from jaxrec.ops.parallel import ONE, Placement, by_hand

Negatives = tuple[Array, Array]
"""float32[C, B] scores of candidates, and bool[C, B], whether the candidate is a wrong item for the row."""

CLOSEST = 1e-6  # squared distance below which two vectors are one place: the root has no slope at 0


def triplet(own: Array, others: Array, wrong: Array, margin: float, *more: Negatives) -> Array:
    """float32[B]: the mean over wrong items of max(0, margin + d(right) - d(wrong)), d the distance on the unit sphere
    (Schroff et al. 2015, "FaceNet", equation 3, with plain instead of squared distances); 0 without a wrong item. From
    float32[B] cosines of rows and their right items, and ``Negatives``, of which there may be more.

    >>> cosines, wrong = jnp.array([[0.5], [0.9]]), jnp.array([[True], [False]])
    >>> f"{triplet(jnp.array([0.5]), cosines, wrong, 0.2)[0]:.4f}"
    '0.2000'
    """
    near = margin + _distance(own)
    total, count = jnp.zeros_like(own), jnp.zeros_like(own)
    for cosines, mask in ((others, wrong), *more):
        total += jnp.sum(jnp.where(mask, jax.nn.relu(near - _distance(cosines)), 0.0), axis=0)
        count += jnp.sum(mask, axis=0, dtype=jnp.float32)
    return total / jnp.maximum(count, 1)


def infonce(own: Array, others: Array, wrong: Array, *more: Negatives) -> Array:
    """float32[B], in nats: cross-entropy of the right item among itself and the wrong ones (van den Oord et al. 2018,
    "Representation learning with contrastive predictive coding", equation 4). Logits are cosines over the temperature,
    less the logarithm of how often the item is expected among the candidates where that is corrected for (Yi et al.
    2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", section 3).

    >>> f"{infonce(jnp.array([0.0]), jnp.array([[0.0], [9.0]]), jnp.array([[True], [False]]))[0]:.4f}"
    '0.6931'
    """
    parts = [jnp.where(mask, logits, -jnp.inf) for logits, mask in ((others, wrong), *more)]
    top = own
    for part in parts:
        top = jnp.maximum(top, jnp.max(part, axis=0, initial=-jnp.inf))
    top = jax.lax.stop_gradient(top)
    total = jnp.exp(own - top)
    for part in parts:
        total += jnp.sum(jnp.exp(part - top), axis=0)
    return jnp.log(total) + top - own


def _distance(cosine: Array) -> Array:
    """The Euclidean distance of two unit vectors with this cosine."""
    return jnp.sqrt(jnp.maximum(2.0 - 2.0 * cosine, CLOSEST))


class Rows(NamedTuple):
    """Rows of a step, B of them, with h hard negatives each."""

    query: Array  # float32[B, D]
    right: Array  # float32[B, D], the vector of the right item
    user: Array  # int32[B]
    item: Array  # int32[B]
    near: Array  # int32[B, h], the hard negatives
    near_vectors: Array  # float32[B, h, D]


class Shared(NamedTuple):
    """What all rows of a step share: C places for candidates, and what training knows of items."""

    vectors: Array  # float32[C, D]
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

    def check(self, config: Config) -> None:
        super().check(config)
        if self.hard_negatives > self.hard_pool:
            raise ValueError(f"loss.hard_negatives: {self.hard_negatives} cannot be drawn from a loss.hard_pool of "
                             f"{self.hard_pool}; raise the one or lower the other")  # fmt: skip

    def __call__(self, cosines: Cosines) -> Array:
        """float32[B], the loss of each row."""
        raise NotImplementedError


class Triplet(Contrastive):
    """A wrong item shall be farther away than the right one by a margin."""

    name: Literal["triplet"] = "triplet"
    margin: Annotated[float, Field(gt=0.0, le=2.0)] = 0.5
    """By how much a wrong item shall be farther away than the right one, at most 2, on the unit sphere."""

    def __call__(self, cosines: Cosines) -> Array:
        own, others, wrong, *near, _, _ = cosines
        return triplet(own, others, wrong, self.margin, (near[0], near[1]))


class InfoNCE(Contrastive):
    """Cross-entropy of the right item among itself and the wrong ones."""

    name: Literal["infonce"] = "infonce"
    temperature: Positive = 0.1
    """Cosines are divided by it."""
    logq: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Strength of the logQ correction for how often each item is a negative (0: off, 1: full)."""

    def __call__(self, cosines: Cosines) -> Array:
        own, others, near = (part / self.temperature for part in (cosines.own, cosines.others, cosines.near))
        if self.logq:
            rows, log_expected = cosines.rows, cosines.shared.log_expected
            expected = self.logq * log_expected
            # A hard one is expected as often as it is drawn from its pool, and among the others' items.
            pool = min(self.hard_pool, len(log_expected) - 2)
            drawn = self.hard_negatives / pool + jnp.exp(log_expected[rows.near])
            own, near = own - expected[rows.item], near - self.logq * jnp.log(drawn).T
            others -= expected[cosines.shared.items][:, None]
        return infonce(own, others, cosines.wrong, (near, cosines.near_wrong))


def _forward(
    loss: Contrastive, on: Placement, rows: Rows, live: Array, shared: Shared
) -> tuple[Array, tuple[Array, ...]]:
    """The sum, and its derivatives by ``query``, ``right``, ``near_vectors`` and the candidates' ``vectors``."""
    of_rows: Any = partial(_in_blocks, loss, on)
    (total, slope), own = on.sum_by_rows(lambda at, shared: of_rows(*at, shared), (rows, live), shared)
    return total, (*own, slope)


def _in_blocks(
    loss: Contrastive, on: Placement, rows: Rows, live: Array, shared: Shared
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """The sum and its derivative by the candidates' vectors; its derivatives by what is of each row. A block holds all
    candidates of its rows, so they are taken while its scores are at hand."""
    n = len(rows.user)
    cells = 2**20 if jax.default_backend() == "cpu" else 2**26
    size = min(n, max(1, cells // len(shared.items)))
    blocks = -(-n // size)

    def cut(leaf: Array) -> Array:
        padded = jnp.pad(leaf, [(0, blocks * size - n)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(blocks, size, *leaf.shape[1:])

    def one(floats: tuple[Array, Array, Array, Array], part: Rows, counted: Array) -> Array:
        query, right, near, vectors = floats
        part = part._replace(query=query, right=right, near_vectors=near)
        return jnp.sum(jnp.where(counted, loss(cosines_of(part, shared._replace(vectors=vectors), on)), 0.0))

    def step(sums: tuple[Array, Array], at: tuple[Rows, Array]) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        part, counted = at
        floats = (part.query, part.right, part.near_vectors, shared.vectors)
        value, (*own, slope) = jax.value_and_grad(one)(floats, part, counted)
        return (sums[0] + value, sums[1] + slope), tuple(own)

    begin = (jnp.zeros(()), jnp.zeros_like(shared.vectors))
    (total, slope), own = jax.lax.scan(step, begin, (jax.tree.map(cut, rows), cut(live)))
    return (total, slope), tuple(leaf.reshape(blocks * size, *leaf.shape[2:])[:n] for leaf in own)


def _backward(loss: Contrastive, on: Placement, slopes: tuple[Array, ...], by: Array) -> tuple[Any, ...]:
    query, right, near, vectors = (by * slope for slope in slopes)
    return Rows(query, right, None, None, None, near), None, Shared(vectors, None, None, None, None)  # type: ignore[arg-type]


contrast: Any = by_hand(_forward, _backward, (0, 1))
"""float32[]: the sum of a loss, a placement and its ``Rows``, of those that are live, bool[B], among ``Shared``."""


def cosines_of(rows: Rows, shared: Shared, on: Placement = ONE) -> Cosines:
    """The cosines of rows with their items, and which items are wrong for which row."""
    own = jnp.sum(rows.query * rows.right, axis=1)
    others = on.product(shared.vectors, rows.query.T)  # [C, rows]: sums over candidates are sums of whole rows
    near = jnp.einsum("bhd,bd->hb", rows.near_vectors, rows.query)
    items, positives = shared.items, shared.positives
    wrong = (shared.real & (items > 0))[:, None] & (items[:, None] != rows.item)
    if positives is not None:
        wrong &= ~has_items(positives, rows.user, items)
    near_wrong = (rows.near > 0) & (rows.near != rows.item[:, None])
    if positives is not None:
        near_wrong &= ~has_each(positives, rows.user, rows.near)
    return Cosines(own, others, wrong, near, near_wrong.T, rows, shared)
