"""NARM (Li et al. 2017, "Neural attentive session-based recommendation"): a GRU read globally and locally."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
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
    local: Literal["states", "items", "both"] = "states"
    """What the local encoder sums: the GRU's states, as published, the clicked items' own vectors, or both."""
    star: bool = False
    """A star node for every prefix, which its clicks read and write (SGNN-HN, section 3.2); layers as embedding_dim."""
    highway: bool = False
    """Gates between states and the clicked items' own vectors (SGNN-HN, section 3.2); layers as embedding_dim."""

    def check(self, config: Experiment) -> None:
        super().check(config)
        for name in ("star", "highway"):
            if getattr(self, name) and self.layers[0] != self.embedding_dim:
                raise ValueError(
                    f"model.{name}: adds item vectors to states of the same width; found model.layers "
                    f"[{self.layers[0]}] and model.embedding_dim {self.embedding_dim}; make both equal"
                )

    def encoder(self) -> NARMEncoder:
        return NARMEncoder(self)


class NARMEncoder(nn.Module):
    """The global encoder is the last state h_t; the local one the sum of all states h_j so far, weighted by a_tj = v
    sigmoid(A1 h_t + A2 h_j) (section 3.4). The bilinear score of item i is e_i' B [h_t; local] (section 3.5): here the
    query B' c is formed once, c with dropout: B never meets the catalogue.

    With ``star`` and ``highway`` (Pan et al. 2020, "Star graph neural networks for session-based recommendation") the
    states are the satellites, and each position has a star of its own, which knows what the position sees alone. The
    GRU is cuDNN's (``ops.gru``)."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        on, start, model = grid.on, grid.start, self.model
        units, width = model.layers[0], model.embedding_dim
        gru = gru_params(self, "gru", width, units)
        reset = start == jnp.arange(start.shape[1])
        vectors = drop(self, vectors, model.dropout_embedding, train)
        states = gru_sequence(gru, vectors, reset, on)  # [R, W, H]
        each, last = (self._square(f"attention_{name}") for name in ("each", "last"))
        value = self.param("attention_value", glorot_like, (units, 1))
        if model.star:
            states, star = self._star(states, vectors, grid)
        if model.highway:
            states = self._highway(states, vectors, on)
        # What the attention of a position begins from, and what it sums.
        asking, summed = states, {"states": states, "items": vectors}.get(model.local)
        if model.star:
            asking = jnp.concatenate([states, star], axis=2)
            last = jnp.concatenate([last, self._square("attention_star")])
        if summed is None:
            summed = jnp.concatenate([states, vectors], axis=2)
        if on.platform != "cpu" and start.size <= 2 * len(grid.slot):
            # At all positions: where scored ones share a row, their derivatives would add up one by one.
            from_each, from_last = on.product(states, each)[:, None], on.product(asking, last)[:, :, None]
            weight = self._weights(from_last + from_each, value, grid.allowed(), on)  # [R, W, W]
            context = grid.scored(jnp.concatenate([states, weight @ summed], axis=2))
        else:
            context = self._at_scored(asking, summed, on.product(states, each), last, value, grid)
        scored = drop(self, context, model.dropout_hidden, train)  # [P, H + H, D or both]
        return on.product(scored, self._decoder())

    def _at_scored(
        self, asking: Array, summed: Array, from_each: Array, last: Array, value: Array, grid: Grid
    ) -> Array:
        """float32[P, C]: at scored positions alone, so that a row that shows one target costs as one."""
        on, slot, units = grid.on, grid.slot, from_each.shape[-1]
        # Scored positions may lie in any row, so all devices need all states.
        asking, summed, from_each, start = on.whole((asking, summed, from_each, grid.start))
        row, visible = slot // start.shape[1], replace(grid, start=start).allowed().reshape(-1, start.shape[1])[slot]
        asking = asking.reshape(-1, asking.shape[-1])[slot]
        weight = self._weights(on.product(asking, last)[:, None] + from_each[row], value, visible, on)  # [P, W]
        return jnp.concatenate([asking[:, :units], jnp.einsum("pw,pwh->ph", weight, summed[row])], axis=1)

    def _weights(self, energy: Array, value: Array, visible: Array, on: Placement) -> Array:
        """float32[..., W], what states weigh, from float32[..., W, H]; 0 where bool[..., W] does not show them."""
        weight = on.product(jax.nn.sigmoid(energy), value)[..., 0]
        if self.model.attention == "softmax":
            return jax.nn.softmax(jnp.where(visible, weight, -jnp.inf), axis=-1)
        return jnp.where(visible, weight, 0.0)

    def _star(self, states: Array, vectors: Array, grid: Grid) -> tuple[Array, Array]:
        """The states, moved towards their star, the mean of the item vectors so far, by how alike
        the two are; and float32[R, W, H], the stars as they then attend to the states so far."""
        on, visible, scale = grid.on, grid.allowed(), states.shape[-1] ** -0.5
        mean = visible / jnp.sum(visible, axis=2, keepdims=True)
        star = on.product(mean.astype(states.dtype), vectors)
        state_query, star_key = (self._product(f"star_{name}", x, on)
                                 for name, x in (("state_query", states), ("star_key", star)))  # fmt: skip
        gate = scale * jnp.sum(state_query * star_key, axis=2, keepdims=True)
        states = (1.0 - gate) * states + gate * star
        star_query, state_key = (self._product(f"star_{name}", x, on)
                                 for name, x in (("star_query", star), ("state_key", states)))  # fmt: skip
        score = scale * on.product(star_query, state_key.swapaxes(1, 2))
        return states, on.product(jax.nn.softmax(jnp.where(visible, score, -jnp.inf), axis=2), states)

    def _highway(self, states: Array, vectors: Array, on: Placement) -> Array:
        """g x + (1 - g) h, with g = sigmoid(W [x; h])."""
        kernel = self.param("highway", glorot_like, (2 * states.shape[-1], states.shape[-1]))
        gate = jax.nn.sigmoid(on.product(jnp.concatenate([vectors, states], axis=2), kernel))
        return gate * vectors + (1.0 - gate) * states

    def _square(self, name: str) -> Array:
        kernel: Array = self.param(name, glorot_like, (self.model.layers[0],) * 2)
        return kernel

    def _product(self, name: str, x: Array, on: Placement) -> Array:
        return on.product(x, self._square(name))

    def _decoder(self) -> Array:
        """float32[C, D]: B'. Sums of items begin as they are, queries in the space of the items."""
        units, width, local = self.model.layers[0], self.model.embedding_dim, self.model.local
        of_states = self.param("decoder", glorot_like, ((1 if local == "items" else 2) * units, width))
        if local == "states":
            return of_states
        return jnp.concatenate([of_states, self.param("decoder_items", lambda _: jnp.eye(width))])


Model = SequenceModel
