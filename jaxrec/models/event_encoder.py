"""The encoder of MERRec, events with the names of their items to queries of two heads; and what it looks up."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxrec.models.packed import Grid, drop
from jaxrec.ops.gru import gru_params, gru_sequence
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import glorot_like


class Known(NamedTuple):
    """The catalogue on the device.

    Attributes:
        names: bfloat16[U, dim], vectors of the distinct names; None where blocks bring them from host memory.
        name_of: int32[V], the name of each item; -1 for none.
        codes: int32[V, F], rows of the table of fields.
        live: int32[V] twice, since when an item is live and from when on no longer; None where the data do not say.
    """

    names: Array | None
    name_of: Array
    codes: Array
    live: tuple[Array, Array] | None


class MERRecEncoder(nn.Module):
    """From the events of sequences to queries.

    Attributes:
        units: of each GRU layer, from input to output.
        name_dim: width of the projected name on the input side.
        events: how many types of events there are, with vectors of ``event_dim``.
        item_dim, text_dim: widths of the query in either head; 0 for a head that is not there.
        dropout_embedding, dropout_hidden: rates on the input vectors and on the output of each GRU layer.
    """

    units: tuple[int, ...]
    name_dim: int
    events: int
    event_dim: int
    item_dim: int
    text_dim: int
    dropout_embedding: float = 0.0
    dropout_hidden: float = 0.0

    def products(self, dim: int, fields: int) -> tuple[int, int]:
        """Multiplications for each position, of names of ``dim`` and ``fields`` numbers of fields, and the width that
        the heads read."""
        count, width = dim * self.name_dim, self.name_dim + self.event_dim + fields
        for units in self.units:
            count += (width + units) * 3 * units
            width = units
        return count, width

    @nn.compact
    def __call__(
        self, names: Array, fields: Array, event: Array, grid: Grid, train: bool
    ) -> tuple[Array | None, Array | None]:  # fmt: skip
        """The queries of both heads, float32[P, item_dim] and float32[P, text_dim].

        Args:
            names: float[R, W, dim].
            fields: float32[R, W, K], the vectors of all fields side by side.
            event: int32[R, W].
        """
        on = grid.on
        kernel = self.param("name_kernel", glorot_like, (names.shape[-1], self.name_dim))
        table = self.param("event", nn.initializers.normal(self.event_dim**-0.5), (self.events, self.event_dim))
        x = jnp.concatenate([on.product(names.astype(jnp.float32), kernel), table[event], fields], axis=-1)
        x = drop(self, x, self.dropout_embedding, train)
        reset = grid.start == jnp.arange(event.shape[1])
        width = x.shape[-1]
        for i, units in enumerate(self.units):
            x = gru_sequence(gru_params(self, f"gru_{i}", width, units), x, reset, on)
            x, width = drop(self, x, self.dropout_hidden, train), units
        state = grid.scored(x)

        def head(name: str, dim: int) -> Array | None:
            return on.product(state, self.param(name, glorot_like, (width, dim))) if dim else None

        return head("item_query", self.item_dim), head("text_query", self.text_dim)


def project(kernel: Array, names: Array, on: Placement = ONE) -> Array:
    """float32[..., T]: name vectors in the space of the text head."""
    return on.product(names.astype(jnp.float32), kernel)
