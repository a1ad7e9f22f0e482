"""Self-attention over the fields of a row (Song et al. 2019, AutoInt, section 4.3), rows along the fast axis: batched
products of a dozen fields and channels run at a few per cent of a CPU's rate; as [fields, channels, rows] each is a sum
of a dozen multiplications of vectors of rows. A CPU has these sums written out, accelerators as sums over an axis."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import index_in_dim

from jaxrec.ops.parallel import ONE, Placement, by_hand

LANES = 64  # rows, 256 bytes of a channel
Saved = tuple[Any, ...]
"""What the derivative needs: projections, weights, their factors and the result; on accelerators also what is mixed."""


def padded_rows(rows: int) -> int:
    """How many rows ``pad_rows`` makes of so many: an odd multiple of ``LANES``."""
    return rows if rows < LANES else (-(-rows // LANES) | 1) * LANES


def pad_rows(vectors: Array, on: Placement = ONE) -> Array:
    """float32[B + pad, F, D] from float32[B, F, D], with rows of zeros to ``padded_rows``: at a power of two all
    channels share a few places of a CPU's first cache (1.4 ms instead of 0.4). Not on several devices."""
    if on.mesh is not None or on.platform != "cpu":
        return vectors
    rows = len(vectors)
    return jnp.pad(vectors, ((0, padded_rows(rows) - rows), (0, 0), (0, 0)))


def _project_forward(weights: Array, x: Array, on: Placement) -> tuple[Array, tuple[Array, ...]]:
    """float32[F, P, B] from float32[P, D] and float32[F, D, B]: batched over fields, not one product over [D, F * B],
    whose last axes XLA would merge into loops that do not run along whole vectors (7 ms instead of 0.5)."""
    return on.product(jnp.broadcast_to(weights, (len(x), *weights.shape)), x), on.rounded(weights, x)


def _project_backward(on: Placement, saved: tuple[Array, ...], slope: Array) -> tuple[Array, Array]:
    # The weights are transposed before they are spread: automatic differentiation would transpose F copies of them.
    weights, x = saved
    left, right = on.rounded(slope, x)
    d_weights = jax.lax.dot_general(left, right, (((2,), (2,)), ((0,), (0,))), preferred_element_type=slope.dtype)
    return jnp.sum(d_weights, axis=0), on.product(jnp.broadcast_to(weights.T, (len(x), *weights.T.shape)), slope)


project = by_hand(_project_forward, _project_backward, (2,))


def _forward(projected: Array, heads: int, on: Placement, keep: Array | None) -> tuple[Array, Saved]:
    """float32[F, A, B]: the relu of multi-head attention of every field over all fields, without a scale, and the
    residual (equations 5 to 8); and what its derivative needs. From float32[F, 4 A, B] queries, keys, values and
    residuals, channel ``c`` of head ``h`` at ``h * A / heads + c``, and float32[F, F, heads, B] factors of the
    weights."""
    if on.platform != "cpu":
        return _forward_in_sums(projected, heads, keep)
    query, key, value, residual = _parts(projected, heads)
    weights = _weights(query, key)
    mixed = _mix(weights if keep is None else weights * keep, value) + residual
    result = _hold(jnp.maximum(mixed, 0.0)).reshape(len(projected), -1, projected.shape[-1])
    return result, (projected, weights, keep, result)


def _backward(heads: int, on: Placement, saved: Saved, slope: Array) -> tuple[Array, None]:
    if on.platform != "cpu":
        return _backward_in_sums(heads, saved, slope)
    projected, weights, keep, result = saved
    query, key, value, _ = _parts(projected, heads)
    slope = _hold(jnp.where(result > 0.0, slope, 0.0)).reshape(value.shape)
    d_weights = _scores(slope, value)
    d_weights = _hold(d_weights if keep is None else d_weights * keep)
    inner = _hold(_sum(index_in_dim(weights, j, 1) * index_in_dim(d_weights, j, 1) for j in range(len(projected))))
    d_scores = _hold(weights * (d_weights - inner))
    d_value = _spread(weights if keep is None else weights * keep, slope)
    slopes = jnp.stack([_mix(d_scores, key), _spread(d_scores, query), d_value, slope], axis=1)  # [F, 4, h, c, B]
    return slopes.reshape(projected.shape), None


attend = by_hand(_forward, _backward, (1, 2))


def _forward_in_sums(projected: Array, heads: int, keep: Array | None) -> tuple[Array, Saved]:
    """``_forward`` on accelerators, whose compilers fuse sums over an axis with what they are of."""
    query, key, value, residual = _parts(projected, heads)
    scores = jnp.sum(query[:, None] * key[None], axis=3)  # [i, j, h, B]
    parts = [scores[:, j] for j in range(len(projected))]
    highest = reduce(jnp.maximum, parts)
    weights = jnp.exp(scores - (highest + jnp.log(_sum(jnp.exp(part - highest) for part in parts)))[:, None])
    kept = weights if keep is None else weights * keep
    mixed = jnp.sum(kept[:, :, :, None] * value[None], axis=1)
    result = jnp.maximum(mixed + residual, 0.0).reshape(len(projected), -1, projected.shape[-1])
    return result, (projected, weights, keep, result, mixed)


def _backward_in_sums(heads: int, saved: Saved, slope: Array) -> tuple[Array, None]:
    """The sum over fields of weights times their derivatives is that over channels of results times theirs, so no
    derivative of a weight is held."""
    projected, weights, keep, result, mixed = saved
    # Cut otherwise than in the forward pass: of equal slices XLA makes one, and writes it for so many uses.
    apart = projected.reshape(len(projected), 4 * heads, -1, projected.shape[-1])
    query, key, value = (apart[:, n * heads : (n + 1) * heads] for n in range(3))
    slope = jnp.where(result > 0.0, slope, 0.0).reshape(value.shape)
    kept = weights if keep is None else weights * keep
    values = value[None] if keep is None else keep[:, :, :, None] * value[None]
    d_scores = weights * jnp.sum(slope[:, None] * (values - mixed[:, None]), axis=3)  # [i, j, h, B]
    d_query = jnp.sum(d_scores[:, :, :, None] * key[None], axis=1)
    d_key = jnp.sum(d_scores[:, :, :, None] * query[:, None], axis=0)
    d_value = jnp.sum(kept[:, :, :, None] * slope[:, None], axis=0)
    flat = (len(projected), -1, projected.shape[-1])
    return jnp.concatenate([part.reshape(flat) for part in (d_query, d_key, d_value, slope)], axis=1), None


def attention_weights(projected: Array, heads: int) -> Array:
    """float32[B, heads, F, F]: the weights, which sum to 1 over the last axis."""
    query, key, _, _ = _parts(projected, heads)
    return jnp.transpose(_weights(query, key), (3, 2, 0, 1))


def _parts(projected: Array, heads: int) -> list[Array]:
    """Queries, keys, values and residuals, float32[F, heads, A / heads, B] each."""
    apart = projected.reshape(len(projected), 4, heads, -1, projected.shape[-1])
    return [apart[:, number] for number in range(4)]


def _weights(query: Array, key: Array) -> Array:
    """float32[F, F, heads, B]: softmax over the second axis, its sums written out over slices."""
    fields = range(len(query))
    scores = _hold(_scores(query, key))
    highest = _hold(reduce(jnp.maximum, (index_in_dim(scores, j, 1) for j in fields)))
    powers = jnp.exp(scores - highest)
    return _hold(powers * _hold(1.0 / _sum(index_in_dim(powers, j, 1) for j in fields)))


def _scores(query: Array, key: Array) -> Array:
    """[i, j, h, B]: the sum over c of query[i, h, c] key[j, h, c]."""
    return _sum(query[:, None, :, c] * key[None, :, :, c] for c in range(query.shape[2]))


def _mix(weights: Array, value: Array) -> Array:
    """[i, h, c, B]: the sum over j of weights[i, j, h] value[j, h, c]."""
    return _sum(weights[:, j, :, None] * value[None, j] for j in range(len(value)))


def _spread(weights: Array, x: Array) -> Array:
    """[j, h, c, B]: the sum over i of weights[i, j, h] x[i, h, c]."""
    return _sum(weights[i, :, :, None] * x[None, i] for i in range(len(x)))


def _sum(terms: Iterable[Array]) -> Array:
    return reduce(operator.add, terms)


def _hold(x: Array) -> Array:
    """The same array, which XLA now writes to memory: it repeats sums of products within each use, but no divisions,
    and cannot know that the divisor is 1. (An optimization barrier is gone before fusion on CPU.)"""
    return x / (1.0 + 0.0 * x)
