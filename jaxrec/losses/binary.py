"""Cross-entropy of the label of a row."""

from __future__ import annotations

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config.sections import LossConfig

Weight = Annotated[float, Field(ge=0.0)]


class Binary(LossConfig):
    """Cross-entropy of a click or a good rating."""

    name: Literal["binary"] = "binary"
    rating_weight: Weight = 0.0
    """Weight of the squared error of the rating, scaled to 0..1, which a second output predicts (0: none)."""
    embedding_l2: Weight = 0.0
    """This times the squared length of the vectors that a row reads is added to its loss."""
    embedding_l2_power: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """embedding_l2 is divided by this power of the number of training rows that hold the value: 0 pulls on a value's
    vector in each of its rows alike, 1 as much in all of them together, whether they are many or few."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        """float32[B] in nats: -log p where the label is 1, -log (1 - p) where it is 0; nothing that the fields add."""
        return jax.nn.softplus(jnp.where(labels > 0, -logits, logits))
