"""Matrix products of bfloat16 with sums in float32, for training: half the memory traffic, and what accelerators
multiply fastest.

Both factors are rounded, forward and backward, and kept rounded for the derivative. Parameters, tables, optimizer
states, sums, normalisation, losses and states that go from step to step stay float32, and so do evaluation and serving.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def product(left: Array, right: Array) -> Array:
    """float32[..., M, N] from float32[..., M, K] and float32[K, N], or float32[..., K, N] of the same leading axes."""
    return _multiply(rounded(left), rounded(right))


def _forward(left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    factors = rounded(left), rounded(right)
    return _multiply(*factors), factors


def _backward(factors: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    (left, right), slope = factors, rounded(slope)
    by_left = _multiply(slope, right.mT)
    if right.ndim == 2:
        left, slope = left.reshape(-1, left.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return by_left, _multiply(left.mT, slope)


product.defvjp(_forward, _backward)


def rounded(values: Array) -> Array:
    """The values as bfloat16."""
    return values.astype(jnp.bfloat16)


def _multiply(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)
