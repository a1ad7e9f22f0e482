"""What a session's own items are given beside what the encoder says of all items: a score by how long ago each was
clicked, after the repeat mode of RepeatNet (Ren et al. 2019, "RepeatNet: a repeat aware neural recommendation machine
for session-based recommendation", section 3.4), here added to the scores.

For scores to stay products of two vectors it is carried by codes, random signs of each item that are not trained: a
query ends in the weighted sum of the codes of its session, so that the product with an item's code is the weight of
that item, give or take noise of the weights' length over the square root of the codes' width."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxrec.ops.parallel import Placement


def with_codes(init: Callable[[Array, tuple[int, int]], Array], width: int) -> Callable[..., Array]:
    """How a table begins whose last ``width`` columns are codes, and the others as ``init`` has them."""

    def both(key: Array, shape: tuple[int, int]) -> Array:
        vectors = init(key, (shape[0], shape[1] - width))
        codes = jax.random.rademacher(jax.random.fold_in(key, 1), (shape[0], width), jnp.float32)
        return jnp.concatenate([vectors, codes], axis=1)

    return both


def codes_of(table: Array, width: int) -> Array:
    """float32[..., width] of length 1: signs have no derivative, so that no optimizer moves a code."""
    return jnp.sign(table[..., -width:]) * width**-0.5


def init_copies(window: int, width: int) -> dict[str, Array]:
    """Weights by the number of clicks since, float32[W], and by the direction of the query, float32[D]."""
    return {"near": jnp.zeros(window), "gate": jnp.zeros(width)}


def by_ago(near: Array) -> Array:
    """float32[1, 2 W + 1], the weights of the distances -W to W, none of clicks to come."""
    return jnp.concatenate([jnp.zeros(1), near[::-1], jnp.zeros(len(near))])[None]


def summed(near: Array, codes: Array, visible: Array, on: Placement) -> Array:
    """float32[R, W, 2 C]: of the codes of float32[R, W, C] that bool[R, W, W] shows each position, the sum, weighted by
    float32[1, W, W], how many clicks ago each is; and the plain one."""
    shown = visible.astype(codes.dtype)
    return jnp.concatenate([on.product(shown * near, codes), on.product(shown, codes)], axis=2)


def gated(sums: Array, gate: Array, queries: Array) -> Array:
    """float32[P, C]: of the sums of scored positions, float32[P, 2 C], the first, and the second times the product of
    ``gate`` with the float32[P, D] unit query."""
    weighted, plain = jnp.split(sums, 2, axis=1)
    return weighted + plain * (queries @ gate)[:, None]
