"""Each row's right item against the step's candidates and its own hard negatives, a block of rows at a time.

A step of 4,096 rows has 16.8 million scores. Held whole, with masks and derivatives, they go through memory a dozen
times; in blocks of a few MB they stay in the cache, and computing them once more for the derivative costs less than
reading them back.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrec.config import LossConfig
from jaxrec.contrastive import infonce, triplet
from jaxrec.data.positives import has_each, has_items


class Asked(NamedTuple):
    """Rows of a step, B of them.

    Attributes:
        query: float32[B, D].
        right: float32[B, D], the vector of the right item.
        user, item: int32[B].
        near, near_vectors: int32[B, h] and float32[B, h, D], hard negatives.
    """

    query: Array
    right: Array
    user: Array
    item: Array
    near: Array
    near_vectors: Array


class Offered(NamedTuple):
    """Candidates that all rows share, C of them: float32[C, D], int32[C], and bool[C], whether it is one."""

    vectors: Array
    items: Array
    real: Array


def contrast(
    loss: LossConfig, asked: Asked, offered: Offered, positives: Array | None, log_expected: Array
) -> Array:  # fmt: skip
    """float32[B]: the loss of each row.

    Args:
        positives: ``positive_bits`` of items that are never wrong for a user; None: only a row's own is not.
        log_expected: float32[V], see ``two_tower.Constants``.
    """

    def one(part: Asked) -> Array:
        return _losses(loss, part, offered, positives, log_expected)

    rows = len(asked.user)
    cells = 2**20 if jax.default_backend() == "cpu" else 2**26
    size = max(1, cells // (len(offered.items) + asked.near.shape[1]))
    if size >= rows:
        return one(asked)
    blocks = -(-rows // size)
    size = -(-rows // blocks)
    cut = jax.tree.map(
        lambda leaf: jnp.pad(leaf, [(0, blocks * size - rows)] + [(0, 0)] * (leaf.ndim - 1)).reshape(
            blocks, size, *leaf.shape[1:]
        ),
        asked,
    )
    return jax.lax.map(jax.checkpoint(one), cut).reshape(-1)[:rows]


def _losses(
    loss: LossConfig, asked: Asked, offered: Offered, positives: Array | None, log_expected: Array
) -> Array:  # fmt: skip
    own = jnp.sum(asked.query * asked.right, axis=1)
    others = jnp.concatenate([
        offered.vectors @ asked.query.T,  # [C, rows]: sums over candidates are sums of whole rows
        jnp.einsum("bhd,bd->hb", asked.near_vectors, asked.query),
    ])  # fmt: skip
    wrong = jnp.concatenate([wrong_offered(asked, offered, positives), wrong_near(asked, positives)])
    if loss.name == "triplet":
        return triplet(own, others, wrong, loss.margin)
    if loss.logq:
        expected = jnp.broadcast_to(log_expected[offered.items][:, None], (len(offered.items), len(own)))
        expected = jnp.concatenate([expected, log_expected[asked.near].T])
        own, others = own - loss.temperature * loss.logq * log_expected[asked.item], (
            others - loss.temperature * loss.logq * expected)  # fmt: skip
    return infonce(own / loss.temperature, others / loss.temperature, wrong)


def wrong_offered(asked: Asked, offered: Offered, positives: Array | None) -> Array:
    """bool[C, B]: which candidates are wrong for which row."""
    wrong = (offered.real & (offered.items > 0))[:, None] & (offered.items[:, None] != asked.item)
    return wrong if positives is None else wrong & ~has_items(positives, asked.user, offered.items)


def wrong_near(asked: Asked, positives: Array | None) -> Array:
    """bool[h, B], likewise of its hard negatives."""
    wrong = (asked.near > 0) & (asked.near != asked.item[:, None])
    return (wrong if positives is None else wrong & ~has_each(positives, asked.user, asked.near)).T
