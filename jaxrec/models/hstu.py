"""HSTU (Zhai et al. 2024, "Actions speak louder than words: trillion-parameter sequential transducers for generative
recommendations", section 3): attention without softmax, with biases by distance and by time, and a gated output.

The authors' code counts the time of a pair of clicks up to the click that is to be predicted; here it counts up to the
last click that was seen, which is what is known when somebody is to be recommended something."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxrec.config.sections import Fraction
from jaxrec.models import packed
from jaxrec.models.packed import Grid, SequenceModel, by_distance, drop, embedded, read_few
from jaxrec.ops.parallel import Placement
from jaxrec.ops.tables import glorot_like

UNKNOWN = 32  # the bucket of pairs of clicks of which a time is unknown; those of known times are 0 to 31


class Config(packed.Attending):
    """Sessions of clicks: gated pointwise attention, with a bias by the time between clicks on request."""

    name: Literal["hstu"] = "hstu"
    time_bias: bool = False
    """Whether attention knows the time between clicks, which the data have to know: seconds, in powers of two. A query
    may do without (``Query.times``)."""
    dropout_times: Fraction = 0.1
    """Share of the training sessions that are read as if their times were unknown, so that queries may be, too."""

    @property
    def reads_times(self) -> bool:
        return self.time_bias

    def encoder(self) -> Encoder:
        return Encoder(self)


class Encoder(nn.Module):
    """Blocks of one kind: U, V, Q, K = SiLU(norm(x) W1), then x + (norm(A V) * U) W2 with A = SiLU(Q K' + bias) / n
    (equations 1 to 3). As in the authors' code item vectors have learned positions besides; each block and head has
    biases of its own, and n is the number of clicks that a position sees, so that few clicks are not little."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        model, x = self.model, embedded(self, vectors, grid, train)
        visible = grid.allowed()[:, None]  # [R, 1, W, W]
        share = visible / jnp.sum(visible, axis=3, keepdims=True)
        buckets = self._buckets(grid, train) if model.time_bias else None
        for i in range(model.blocks):
            bias = self._bias(f"block_{i}", buckets, x.shape[1], grid.on)
            x = x + self._block(f"block_{i}", x, share, bias, grid.on, train)
        return nn.LayerNorm(name="norm")(grid.scored(x))

    def _block(self, name: str, x: Array, share: Array, bias: Array, on: Placement, train: bool) -> Array:
        (rows, columns, width), heads = x.shape, self.model.heads
        kernel = self.param(f"{name}_in", lambda key, shape: glorot_like(key, shape, blocks=4), (width, 4 * width))
        gate, *parts = jnp.split(jax.nn.silu(on.product(nn.LayerNorm(name=f"{name}_norm_1")(x), kernel)), 4, axis=2)
        value, query, key = (part.reshape(rows, columns, heads, -1).swapaxes(1, 2) for part in parts)
        weight = share * jax.nn.silu(on.product(query, key.swapaxes(2, 3)) + bias)  # [R, heads, W, W]
        mixed = on.product(weight, value).swapaxes(1, 2).reshape(x.shape)
        gated = drop(self, nn.LayerNorm(name=f"{name}_norm_2")(mixed) * gate, self.model.dropout_hidden, train)
        out: Array = on.product(gated, self.param(f"{name}_out", glorot_like, (width, width)))
        return out + self.param(f"{name}_out_bias", nn.initializers.zeros_init(), (width,))

    def _bias(self, name: str, buckets: Array | None, columns: int, on: Placement) -> Array:
        """float32[heads, W, W], or with times [R, heads, W, W]: the bias of position t (second to last) towards j."""
        heads, window = self.model.heads, self.model.window
        near = self.param(f"{name}_near", nn.initializers.normal(0.02), (heads, window))  # by the distance t - j
        later = jnp.zeros((heads, window), near.dtype)  # is invisible
        bias = by_distance(jnp.concatenate([later[:, :1], near[:, ::-1], later], axis=1), columns)
        if buckets is None:
            return bias
        since = self.param(f"{name}_since", nn.initializers.normal(0.02), (UNKNOWN + 1, heads))
        return bias + jnp.moveaxis(read_few(since, buckets, on), 3, 1)

    def _buckets(self, grid: Grid, train: bool) -> Array:
        """int32[R, W, W]: the bits that the seconds from click j (last) to click t take, or ``UNKNOWN``."""
        if grid.clock is None:
            return jnp.full((*grid.start.shape, grid.start.shape[1]), UNKNOWN)
        clock = grid.clock
        if train and self.model.dropout_times:  # all of a session, as its first click says
            lost = jax.random.bernoulli(self.make_rng("dropout"), self.model.dropout_times, clock.shape)
            clock = jnp.where(jnp.take_along_axis(lost, grid.start, axis=1), -1, clock)
        seconds = jnp.maximum(clock[:, :, None] - clock[:, None, :], 0)
        known = (clock[:, :, None] >= 0) & (clock[:, None, :] >= 0)
        return jnp.where(known, UNKNOWN - jax.lax.clz(seconds), UNKNOWN)


Model = SequenceModel
