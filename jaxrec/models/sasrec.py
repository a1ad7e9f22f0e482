"""SASRec (Kang & McAuley 2018, "Self-attentive sequential recommendation", section III): causal self-attention."""

from __future__ import annotations

from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Fraction
from jaxrec.models import packed
from jaxrec.models.packed import Grid, SequenceModel, drop
from jaxrec.ops.parallel import Placement
from jaxrec.ops.tables import glorot_like


class Config(packed.Config):
    """Sessions of clicks: self-attention."""

    name: Literal["sasrec"] = "sasrec"
    blocks: Annotated[int, Field(ge=1, le=16)] = 2
    """Self-attention blocks."""
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    """Attention heads, which share embedding_dim."""
    dropout_embedding: Fraction = 0.0
    """Dropout on the input vectors."""
    dropout_hidden: Fraction = 0.0
    """Dropout in each block: on attention weights, and in the network."""

    def check(self, config: Experiment) -> None:
        super().check(config)
        if self.embedding_dim % self.heads:
            raise ValueError(f"model.heads: {self.heads} do not divide model.embedding_dim {self.embedding_dim}; "
                             "choose a divisor")  # fmt: skip

    def encoder(self) -> SASRecEncoder:
        return SASRecEncoder(self)


class SASRecEncoder(nn.Module):
    """Blocks of self-attention and a point-wise network, over item vectors with learned positions. As in the authors'
    code the vectors enter scaled by sqrt(D), queries are normalised and keys and values are not, attention weights are
    dropped out, and a layer norm ends it all. As in the paper (section III.B) each half of a block is residual around
    the unnormalised vectors. Positions count from the first click that the window shows; the authors' from the last."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        model, width = self.model, self.model.embedding_dim
        positions = self.param("positions", nn.initializers.normal(width**-0.5), (model.window, width))
        since = jnp.arange(vectors.shape[1]) - grid.start
        x = drop(self, vectors * width**0.5 + positions[since], model.dropout_embedding, train)
        visible = grid.allowed()
        for i in range(model.blocks):
            x = x + self._attend(f"block_{i}", nn.LayerNorm(name=f"block_{i}_norm_1")(x), x, visible, grid.on, train)
            x = x + self._feed_forward(f"block_{i}", nn.LayerNorm(name=f"block_{i}_norm_2")(x), grid.on, train)
        return nn.LayerNorm(name="norm")(grid.scored(x))

    def products(self, window: int) -> tuple[int, int]:
        """Over half a window on average."""
        width = self.model.embedding_dim
        return self.model.blocks * (5 * width * width + width * window), 0

    def _attend(self, name: str, normed: Array, x: Array, visible: Array, on: Placement, train: bool) -> Array:
        rows, columns, width = x.shape
        query, key, value = (
            on.product(source, self.param(f"{name}_{part}", glorot_like, (width, width)))
            .reshape(rows, columns, self.model.heads, -1)
            .swapaxes(1, 2)
            for part, source in (("query", normed), ("key", x), ("value", x))
        )  # [R, heads, W, D / heads]
        score = on.product(query, key.swapaxes(2, 3)) / query.shape[3] ** 0.5
        weight = jax.nn.softmax(jnp.where(visible[:, None], score, -jnp.inf), axis=3)
        mixed = on.product(drop(self, weight, self.model.dropout_hidden, train), value)
        return mixed.swapaxes(1, 2).reshape(rows, columns, width)

    def _feed_forward(self, name: str, x: Array, on: Placement, train: bool) -> Array:
        width = x.shape[-1]
        for layer in (1, 2):
            kernel = self.param(f"{name}_kernel_{layer}", glorot_like, (width, width))
            x = on.product(x, kernel) + self.param(f"{name}_bias_{layer}", nn.initializers.zeros_init(), (width,))
            x = drop(self, jax.nn.relu(x) if layer == 1 else x, self.model.dropout_hidden, train)
        return x


Model = SequenceModel
