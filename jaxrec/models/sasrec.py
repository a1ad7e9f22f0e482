"""SASRec (Kang & McAuley 2018, "Self-attentive sequential recommendation", section III): causal self-attention."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
from jax import Array

from jaxrec.models import packed
from jaxrec.models.packed import Grid, SequenceModel, attend, drop, embedded
from jaxrec.ops.parallel import Placement
from jaxrec.ops.tables import glorot_like


class Config(packed.Attending):
    """Sessions of clicks: self-attention."""

    name: Literal["sasrec"] = "sasrec"

    def encoder(self) -> SASRecEncoder:
        return SASRecEncoder(self)


class SASRecEncoder(nn.Module):
    """Blocks of self-attention and a point-wise network over item vectors with learned positions. As in the authors'
    code queries are normalised and keys and values are not, and attention weights are dropped out; halves of a block
    are residual as in section III.B."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        model, x = self.model, embedded(self, vectors, grid, train)
        visible = grid.allowed()
        for i in range(model.blocks):
            x = x + self._attend(f"block_{i}", nn.LayerNorm(name=f"block_{i}_norm_1")(x), x, visible, grid.on, train)
            x = x + self._feed_forward(f"block_{i}", nn.LayerNorm(name=f"block_{i}_norm_2")(x), grid.on, train)
        return nn.LayerNorm(name="norm")(grid.scored(x))

    def _attend(self, name: str, normed: Array, x: Array, visible: Array, on: Placement, train: bool) -> Array:
        query, key, value = (
            on.product(source, self.param(f"{name}_{part}", glorot_like, (x.shape[-1],) * 2))
            for part, source in (("query", normed), ("key", x), ("value", x))
        )
        return attend(self, query, key, value, visible, on, train)

    def _feed_forward(self, name: str, x: Array, on: Placement, train: bool) -> Array:
        width = x.shape[-1]
        for layer in (1, 2):
            kernel = self.param(f"{name}_kernel_{layer}", glorot_like, (width, width))
            x = on.product(x, kernel) + self.param(f"{name}_bias_{layer}", nn.initializers.zeros_init(), (width,))
            x = drop(self, jax.nn.relu(x) if layer == 1 else x, self.model.dropout_hidden, train)
        return x


Model = SequenceModel
