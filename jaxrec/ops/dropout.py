"""Dropout masks from few random bits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array


def byte_mask(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """float32[shape]: 0 with probability ``rate``, rounded to a 256th but at least one, otherwise 1 / (1 - rate).

    Drawing 32 random bits for each element takes longer than what the mask is multiplied with; a byte will do. The
    factor is that of the rounded rate, so that the mean is exactly 1.
    """
    dropped = min(max(round(rate * 256), 1), 255)
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 4),), jnp.uint32)  # drawn as bytes, each would take a word's time
    keep = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape) >= dropped
    return jnp.where(keep, jnp.float32(256 / (256 - dropped)), jnp.float32(0.0))
