"""eSASRec (Tikhonovich et al. 2025, "eSASRec: enhancing Transformer-based recommendations in a modular fashion"):
SASRec's next-item objective with the layers of LiGR (Borisyuk et al. 2025, "From features to transformers: redefining
ranking for scalable impact") and a sampled softmax over many negatives."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
from jax import Array

from jaxrec.models import packed
from jaxrec.models.packed import Grid, SequenceModel, attend, drop, embedded
from jaxrec.ops.parallel import Placement
from jaxrec.ops.tables import glorot_like


class Config(packed.Attending):
    """Sessions of clicks: self-attention with gated halves."""

    defaults: ClassVar[dict[str, dict[str, Any]]] = {"loss": {"logq": 1.0}}

    name: Literal["esasrec"] = "esasrec"

    def encoder(self) -> Encoder:
        return Encoder(self)


class Encoder(nn.Module):
    """Blocks of self-attention and of a SwiGLU network of width 4 D, over item vectors with learned positions. Each
    half of a block is normalised before it and gated behind it: x + sigmoid(W x + b) * half(norm(x)). Unlike in the
    authors' code the last states are normalised."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        x, visible = embedded(self, vectors, grid, train), grid.allowed()
        for i in range(self.model.blocks):
            mixed = self._attend(f"block_{i}", nn.LayerNorm(name=f"block_{i}_norm_1")(x), visible, grid.on, train)
            x = self._gated(f"block_{i}_gate_1", x, mixed, grid.on, train)
            deep = self._feed_forward(f"block_{i}", nn.LayerNorm(name=f"block_{i}_norm_2")(x), grid.on, train)
            x = self._gated(f"block_{i}_gate_2", x, deep, grid.on, train)
        return nn.LayerNorm(name="norm")(grid.scored(x))

    def _gated(self, name: str, x: Array, half: Array, on: Placement, train: bool) -> Array:
        bias = self.param(f"{name}_bias", nn.initializers.zeros_init(), x.shape[-1:])
        gate = jax.nn.sigmoid(self._product(f"{name}_kernel", x, x.shape[-1], on) + bias)
        return x + gate * drop(self, half, self.model.dropout_hidden, train)

    def _attend(self, name: str, x: Array, visible: Array, on: Placement, train: bool) -> Array:
        width = x.shape[-1]
        query, key, value = (self._product(f"{name}_{part}", x, width, on) for part in ("query", "key", "value"))
        return self._product(f"{name}_mixed", attend(self, query, key, value, visible, on, train), width, on)

    def _feed_forward(self, name: str, x: Array, on: Placement, train: bool) -> Array:
        """SwiGLU (Shazeer 2020, "GLU variants improve Transformer"): (SiLU(x W1) * x W2) W3."""
        width = x.shape[-1]
        one, other = (self._product(f"{name}_{part}", x, 4 * width, on) for part in ("swish", "linear"))
        hidden = drop(self, jax.nn.silu(one) * other, self.model.dropout_hidden, train)
        return self._product(f"{name}_out", hidden, width, on)

    def _product(self, name: str, x: Array, units: int, on: Placement) -> Array:
        return on.product(x, self.param(name, glorot_like, (x.shape[-1], units)))


Model = SequenceModel
