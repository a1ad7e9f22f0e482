"""NARM (Li et al. 2017, "Neural attentive session-based recommendation"): a GRU read globally and locally."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config.sections import Count
from jaxrec.models import packed
from jaxrec.models.packed import Grid, SequenceModel, drop
from jaxrec.ops.gru import gru_params, gru_sequence
from jaxrec.ops.parallel import Placement
from jaxrec.ops.tables import glorot_like


class Config(packed.Config):
    """Sessions of clicks: a recurrent network with attention to earlier clicks."""

    name: Literal["narm"] = "narm"
    layers: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1)] = (100,)
    """Units of the GRU, a single layer."""
    attention: Literal["sum", "softmax"] = "sum"
    """Weights of the local encoder: unnormalised, as published, or normalised to sum to 1."""

    def encoder(self) -> NARMEncoder:
        return NARMEncoder(self)


class NARMEncoder(nn.Module):
    """The global encoder is the last state h_t; the local one the sum of all states h_j so far, weighted by a_tj = v
    sigmoid(A1 h_t + A2 h_j) (section 3.4). The bilinear score of item i is e_i' B [h_t; local] (section 3.5): here the
    query B' c is formed once, c with dropout: B never meets the catalogue. The GRU is cuDNN's (``ops.gru``)."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        on, start, model = grid.on, grid.start, self.model
        units, width = model.layers[0], model.embedding_dim
        gru = gru_params(self, "gru", width, units)
        reset = start == jnp.arange(start.shape[1])
        states = gru_sequence(gru, drop(self, vectors, model.dropout_embedding, train), reset, on)  # [R, W, H]
        each, last = (self.param(f"attention_{name}", glorot_like, (units, units)) for name in ("each", "last"))
        value = self.param("attention_value", glorot_like, (units, 1))
        if on.platform != "cpu" and start.size <= 2 * len(grid.slot):
            # At all positions: where scored ones share a row, their derivatives would add up one by one.
            from_each, from_last = on.product(states, each)[:, None], on.product(states, last)[:, :, None]
            weight = self._weights(from_last + from_each, value, grid.allowed(), on)  # [R, W, W]
            context = grid.scored(jnp.concatenate([states, weight @ states], axis=2))
        else:
            context = self._at_scored(states, each, last, value, grid)
        scored = drop(self, context, model.dropout_hidden, train)  # [P, 2H]
        return on.product(scored, self.param("decoder", glorot_like, (2 * units, width)))

    def _at_scored(self, states: Array, each: Array, last: Array, value: Array, grid: Grid) -> Array:
        """float32[P, 2H]: at scored positions alone, so that a row that shows one target costs as one."""
        on, slot, units = grid.on, grid.slot, states.shape[-1]
        from_each = on.product(states, each)
        # Scored positions may lie in any row, so all devices need all states.
        states, from_each, start = on.whole((states, from_each, grid.start))
        row, visible = slot // start.shape[1], replace(grid, start=start).allowed().reshape(-1, start.shape[1])[slot]
        from_last = on.product(states.reshape(-1, units)[slot], last)
        weight = self._weights(from_last[:, None] + from_each[row], value, visible, on)  # [P, W]
        local = jnp.einsum("pw,pwh->ph", weight, states[row])
        return jnp.concatenate([states.reshape(-1, units)[slot], local], axis=1)

    def _weights(self, energy: Array, value: Array, visible: Array, on: Placement) -> Array:
        """float32[..., W], what states weigh, from float32[..., W, H]; 0 where bool[..., W] does not show them."""
        weight = on.product(jax.nn.sigmoid(energy), value)[..., 0]
        if self.model.attention == "softmax":
            return jax.nn.softmax(jnp.where(visible, weight, -jnp.inf), axis=-1)
        return jnp.where(visible, weight, 0.0)


Model = SequenceModel
