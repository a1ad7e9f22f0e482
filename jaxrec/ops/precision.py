"""What matrix products multiply in training: float32 as the device multiplies it, or bfloat16 with sums in float32.

Within ``low()`` the products of the models round both factors, forward and backward, and keep the rounded ones for the
derivative: half the memory traffic, and what accelerators multiply fastest. Parameters, tables, optimizer states, sums,
normalisation, losses and states that go from step to step stay float32, and so do evaluation and serving.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_low: ContextVar[bool] = ContextVar("low", default=False)


@contextmanager
def low(on: bool = True) -> Iterator[None]:
    """What is traced inside multiplies bfloat16, where ``on``."""
    token = _low.set(on)
    try:
        yield
    finally:
        _low.reset(token)


def is_low() -> bool:
    """Whether what is being traced multiplies bfloat16."""
    return _low.get()


def rounded(*arrays: Array) -> tuple[Array, ...]:
    """The arrays as they are to be multiplied, for a product that is differentiated by hand."""
    return tuple(map(_round, arrays)) if _low.get() else arrays


def product(left: Array, right: Array) -> Array:
    """float32[..., N]: float32[..., K] times float32[K, N]."""
    return _rounded_product(left, right) if _low.get() else left @ right


def batched_product(left: Array, right: Array) -> Array:
    """float32[..., M, N]: float32[..., M, K] times float32[..., K, N] of the same leading axes."""
    return _rounded_batched(left, right) if _low.get() else left @ right


def dense_product(inputs: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """``product`` as the ``dot_general`` of Linen's Dense."""
    return product(inputs, kernel)


@jax.custom_vjp
def _rounded_product(left: Array, right: Array) -> Array:
    return _multiply(_round(left), _round(right))


def _forward(left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    rounded = _round(left), _round(right)
    return _multiply(*rounded), rounded


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    (left, right), slope = saved, _round(slope)
    rows, columns = left.reshape(-1, left.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return _multiply(slope, right.T), _multiply(rows.T, columns)


_rounded_product.defvjp(_forward, _backward)


@jax.custom_vjp
def _rounded_batched(left: Array, right: Array) -> Array:
    return _multiply(_round(left), _round(right))


def _batched_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    (left, right), slope = saved, _round(slope)
    return _multiply(slope, right.mT), _multiply(left.mT, slope)


_rounded_batched.defvjp(_forward, _batched_backward)


def _multiply(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _round(values: Array) -> Array:
    return values.astype(jnp.bfloat16)
