"""Self-attention over the fields of a row (Song et al. 2019, AutoInt, section 4.3), rows along the fast axis.

A row has a dozen fields and a head a dozen channels, so attention is one tiny product per row and head. Written as
batched products these run at a few per cent of a CPU's rate and leave a tensor core nearly empty. Here everything lies
as [channels, fields, rows]: the projections of all rows are one large product, and each small product is a sum of a
dozen multiplications of whole vectors of rows, on which SIMD lanes, GPU threads and TPU lanes work alike.

The derivative is written by hand for the same reason: that of a broadcast would be a sum over a short inner axis.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array

Residuals = tuple[Array, Array, Array, Array, Array | None]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(query: Array, key: Array, value: Array, heads: int, keep: Array | None = None) -> Array:
    """Multi-head attention of every field over all fields, without a scale, as published (equations 5 to 7).

    Args:
        query, key, value: float32[A, F, B]; channel ``c`` of head ``h`` is ``h * A / heads + c``.
        keep: float32[heads, F, F, B], factors of the weights (dropout); None for none.

    Returns:
        float32[A, F, B].
    """
    return _forward(query, key, value, heads, keep)[0]


def attention_weights(query: Array, key: Array, heads: int) -> Array:
    """float32[heads, F, F, B]: the weights, which sum to 1 over the third axis."""
    return _weights(_by_head(query, heads), _by_head(key, heads))


def _forward(query: Array, key: Array, value: Array, heads: int, keep: Array | None) -> tuple[Array, Residuals]:
    q, k, v = (_by_head(part, heads) for part in (query, key, value))
    weights = _weights(q, k)
    mixed = _held(q)(_mix(weights if keep is None else weights * keep, v))
    return mixed.reshape(query.shape), (q, k, v, weights, keep)


def _backward(heads: int, saved: Residuals, slope: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, weights, keep = saved
    hold = _held(q)
    d_mixed = hold(_by_head(slope, heads))
    d_value = hold(_spread(weights if keep is None else weights * keep, d_mixed))
    d_weights = _scores(d_mixed, v)
    d_weights = hold(d_weights if keep is None else d_weights * keep)
    inner = hold(_sum(_at(weights, j) * _at(d_weights, j) for j in range(weights.shape[2])))
    d_scores = hold(weights * (d_weights - inner))
    d_query, d_key = hold(_mix(d_scores, k)), hold(_spread(d_scores, q))
    return d_query.reshape(slope.shape), d_key.reshape(slope.shape), d_value.reshape(slope.shape), None


attend.defvjp(lambda q, k, v, heads, keep=None: _forward(q, k, v, heads, keep), _backward)


def _by_head(x: Array, heads: int) -> Array:
    """[A, F, B] as [heads, A / heads, F, B]."""
    return x.reshape(heads, -1, *x.shape[1:])


def _weights(q: Array, k: Array) -> Array:
    """float32[heads, F, F, B]: softmax over the third axis, its sums written out over slices."""
    hold = _held(q)
    scores = hold(_scores(q, k))
    fields = range(scores.shape[2])
    highest = hold(reduce(jnp.maximum, (_at(scores, j) for j in fields)))
    powers = jnp.exp(scores - highest)
    return hold(powers * hold(1.0 / _sum(_at(powers, j) for j in fields)))


def _scores(q: Array, k: Array) -> Array:
    """[h, i, j, B]: the sum over c of q[h, c, i] k[h, c, j]."""
    return _sum(q[:, c, :, None] * k[:, c, None, :] for c in range(q.shape[1]))


def _mix(weights: Array, v: Array) -> Array:
    """[h, c, i, B]: the sum over j of weights[h, i, j] v[h, c, j]."""
    return _sum(weights[:, None, :, j] * v[:, :, None, j] for j in range(v.shape[2]))


def _spread(weights: Array, x: Array) -> Array:
    """[h, c, j, B]: the sum over i of weights[h, i, j] x[h, c, i]."""
    return _sum(weights[:, None, i] * x[:, :, None, i] for i in range(x.shape[2]))


def _at(x: Array, j: int) -> Array:
    return jax.lax.index_in_dim(x, j, axis=2)


def _sum(terms: Iterable[Array]) -> Array:
    return reduce(operator.add, terms)


def _held(like: Array) -> Callable[[Array], Array]:
    """A function that returns its argument, and makes XLA write it to memory before it is used.

    XLA would otherwise repeat a sum of products within each of its uses, a softmax alone has dozens of them, since it
    counts additions and multiplications as free; an optimization barrier is gone before fusion on CPU. It does not
    repeat divisions. The divisor is 1, which XLA cannot know: a float times 0 may be NaN.
    """
    one = 1.0 + 0.0 * like[(0,) * like.ndim]
    return lambda x: x / one
