"""Batch normalisation (Ioffe and Szegedy 2015) and the dropout behind it, with a derivative by hand: two sums over the
rows are one kernel of a GPU, where those of automatic differentiation are three, and write what they add up."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrec.ops.parallel import by_hand

EPSILON = 1e-5  # added to the variance


def _forward(x: Array, share: Array, keep: Array | None, scale: Array, bias: Array) -> tuple[Any, Any]:
    """float32[n, U], and float32[U] mean and variance, of float32[n, U]; ``share``: float32[n], of each row in mean and
    variance, which are constants to the derivative; ``keep``: float32[n, U] factors of the result."""
    weighted = share[:, None] * x
    mean, squares = _sums(weighted, weighted * x)
    variance = squares - mean**2
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
    result = (x - mean) * (inverse * scale) + bias
    result = result if keep is None else result * keep
    return (result, mean, jnp.maximum(variance, 0.0)), (x, share, keep, scale, mean, variance, inverse)


def _backward(saved: Any, slopes: tuple[Array, ...]) -> tuple[Array | None, ...]:
    x, share, keep, scale, mean, variance, inverse = saved
    slope = slopes[0] if keep is None else slopes[0] * keep
    deviation = (x - mean) * inverse
    of_bias, of_scale = _sums(slope, slope * deviation)
    by_statistics = of_bias + deviation * jnp.where(variance > 0.0, of_scale, 0.0)
    of_x = (slope - share[:, None] * by_statistics) * (inverse * scale)
    return of_x, None, None, of_scale, of_bias


batch_norm: Any = by_hand(_forward, _backward)


def _sums(first: Array, second: Array) -> tuple[Array, Array]:
    """Over the rows of two arrays side by side, which XLA adds up as it works them out."""
    both = jnp.sum(jnp.concatenate([first, second], axis=1), axis=0)
    return both[: first.shape[1]], both[first.shape[1] :]
