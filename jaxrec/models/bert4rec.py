"""BERT4Rec (Sun et al. 2019, "BERT4Rec: sequential recommendation with bidirectional encoder representations from
Transformer"): self-attention over the whole session; a share of a step's clicks is masked and predicted from both sides
(section 3.5), in a share of the sessions the last click alone. Unlike in the paper items have no bias, blocks are
normalised before their halves, the last states are the queries, and attention begins with the neighbours' own vectors
(``_next_to``, ``_identity``): Diginetica's validation MRR@20 is .131 after an epoch, not .113 after 16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, LossConfig
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, cut_chunks, packed_feed
from jaxrec.losses.sampled import CrossEntropy, SampledLoss, Step
from jaxrec.losses.softmax import FullSoftmax
from jaxrec.models import packed
from jaxrec.models.base import Loss
from jaxrec.models.packed import Grid, SequenceModel, attend, by_distance, drop, normal, read_few
from jaxrec.ops.parallel import ONE, Placement, pad
from jaxrec.ops.rows import look_up
from jaxrec.ops.tables import Tables, glorot_like

Init = Callable[[Array, tuple[int, int]], Array]


class Config(packed.Attending):
    """Sessions of clicks: self-attention to both sides, trained on masked clicks."""

    losses: ClassVar[tuple[type[LossConfig], ...]] = (FullSoftmax, CrossEntropy, SampledLoss)

    name: Literal["bert4rec"] = "bert4rec"
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Attention heads, which share embedding_dim."""
    stride: Count = 1
    """In training, sessions beyond the window are cut into windows that begin so many clicks apart."""
    mask: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Share of a step's clicks that are masked."""
    mask_last: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Share of the sessions of which the last click alone is masked."""

    def check(self, config: Experiment) -> None:
        super().check(config)
        if config.training.batch_size <= self.window:
            raise ValueError(f"training.batch_size: {config.training.batch_size} clicks a step do not hold "
                             f"model.window {self.window} and one more; raise the one or lower the other")  # fmt: skip

    def encoder(self) -> Encoder:
        return Encoder(self)


class Encoder(nn.Module):
    """Blocks of self-attention and a point-wise network, over item vectors with learned positions (sections 3.3, 3.4),
    residual around the unnormalised vectors. At scored positions a learned mask stands for the vector."""

    model: Config

    @nn.compact
    def __call__(self, vectors: Array, grid: Grid, train: bool) -> Array:
        """float32[P, D] from float32[R, W, D]."""
        (_, columns, width), model = vectors.shape, self.model
        init = normal(width**-0.5)
        mask, positions = self.param("mask", init, (width,)), self.param("positions", init, (model.window + 1, width))
        masked = grid.is_scored()
        x = jnp.where(masked, mask, vectors)
        x = x + read_few(positions, jnp.arange(columns) - grid.start, grid.on)
        x = drop(self, width**0.5 * x, model.dropout_embedding, train)
        visible = grid.start[:, :, None] == grid.start[:, None, :]  # of the same session
        for i in range(model.blocks):
            normed = nn.LayerNorm(name=f"block_{i}_norm_1")(x)
            mixed = self._attend(f"block_{i}", normed, visible, grid.on, train)
            x = x + drop(self, mixed, model.dropout_hidden, train)
            deep = self._dense(f"block_{i}_in", nn.LayerNorm(name=f"block_{i}_norm_2")(x), 4 * width, grid.on)
            deep = self._dense(f"block_{i}_out", jax.nn.gelu(deep), width, grid.on)
            x = x + drop(self, deep, model.dropout_hidden, train)
        return nn.LayerNorm(name="norm")(grid.scored(x))

    def _product(self, name: str, x: Array, units: int, on: Placement, init: Init = glorot_like) -> Array:
        return on.product(x, self.param(f"{name}_kernel", init, (x.shape[-1], units)))

    def _dense(self, name: str, x: Array, units: int, on: Placement, init: Init = glorot_like) -> Array:
        bias = self.param(f"{name}_bias", nn.initializers.zeros_init(), (units,))
        return self._product(name, x, units, on, init) + bias

    def _attend(self, name: str, x: Array, visible: Array, on: Placement, train: bool) -> Array:
        (_, columns, width), model = x.shape, self.model
        query = self._dense(f"{name}_query", x, width, on)
        key = self._product(f"{name}_key", x, width, on)  # a bias would move all scores of a query alike
        value = self._dense(f"{name}_value", x, width, on, _identity)
        near = self.param(f"{name}_near", _next_to, (model.heads, 2 * model.window + 1))
        if on.platform == "cpu":
            bias = near[:, jnp.arange(columns) - jnp.arange(columns)[:, None] + model.window]
        else:
            bias = by_distance(near, columns)
        mixed = attend(self, query, key, value, visible, on, train, bias)
        return self._dense(f"{name}_mixed", mixed, width, on, _identity)


def _identity(key: Array, shape: tuple[int, int]) -> Array:
    """What attention finds is at first the items' own vectors, which the scores are made of too."""
    return jnp.eye(*shape)


def _next_to(key: Array, shape: tuple[int, int]) -> Array:
    """float32[heads, 2 W + 1]: where attention begins, by the distance -W <= j - t <= W: each head at one neighbour."""
    heads, distances = shape
    head, distance = jnp.arange(heads), jnp.arange(distances) - distances // 2
    place = (head // 2 + 1) * jnp.where(head % 2 == 0, -1, 1)
    return -2.0 * jnp.abs(distance - place[:, None])


class BERT4Rec(SequenceModel):
    """BERT4Rec as the loop sees it: rows hold whole sessions, and each step masks some of their clicks."""

    _model: Config

    @property
    def _n_masked(self) -> int:
        """Clicks that are masked in a step."""
        return max(1, round(self._model.mask * self._batch))

    def feed(self, split: Sessions, plan: Plan) -> Feed:
        """To train, chunks of up to W + 1 clicks, any of which may be masked; otherwise what is before each target."""
        window = self._model.window
        if not plan.training:
            return packed_feed(split, window, plan)
        chunks = cut_chunks(np.asarray(split.offsets), window, self._model.stride, split.last_only)
        chunks = chunks._replace(length=chunks.length + 1, scored=chunks.length + 1)
        return packed_feed(split, window + 1, plan, half_life=self._half_life, chunks=chunks)

    def steps(self, constants: Any, block: PackedBlock, keys: Array, on: Placement = ONE) -> Step:
        mask_keys, draw_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        return super().steps(
            constants, jax.vmap(lambda step, key: self._masked(step, key, on))(block, mask_keys), draw_keys, on
        )

    def loss(self, params: Any, tables: Tables, carry: tuple[()], step: Step, key: Array, constants: Any) -> Loss:
        _, (carry, total) = super().loss(params, tables, carry, step, key, constants)
        # The mean over the masked clicks; the log divides by all of them.
        return total / self._n_masked, (carry, total / self._model.mask)

    def encode(self, params: Any, tables: dict[str, Array], carry: tuple[()], block: PackedBlock) -> tuple[Any, Array]:
        """Each query reads the clicks before its target anew: they see each other differently for every target."""
        table = self._unit(tables["item"])

        def one(step: PackedBlock) -> Array:
            width = step.input.shape[1]
            row, column = jnp.divmod(step.slot, width)
            start = step.start[row, column]
            place = jnp.minimum(start[:, None] + jnp.arange(width + 1), width - 1)
            return self._behind(params, table, step.input[row[:, None], place], column - start + 1)

        return carry, jax.lax.map(one, block)

    def last_query(
        self, params: Any, tables: dict[str, Array], items: Array, length: Array, clock: Array | None = None
    ) -> Array:
        return self._behind(params, self._unit(tables["item"]), jnp.pad(items, ((0, 0), (0, 1))), length)

    def _behind(self, params: Any, table: Array, items: Array, length: Array) -> Array:
        """float32[B, D]: the query at a mask behind the first ``length`` clicks of int32[B, N + 1]."""
        rows, columns = items.shape
        column = jnp.arange(columns)
        start = jnp.where(column <= length[:, None], 0, column)
        return self._queries(params, look_up(table, items), Grid(start, jnp.arange(rows) * columns + length))

    def _masked(self, block: PackedBlock, key: Array, on: Placement) -> PackedBlock:
        """A step with the clicks that are masked as its targets. What is drawn does not depend on the devices."""
        n, width = len(block.slot), block.input.shape[1]
        row, column = jnp.divmod(block.slot, width)
        start = block.start[row, column]
        is_last = (column == width - 1) | (block.start[row, jnp.minimum(column + 1, width - 1)] != start)
        session = jax.lax.cummin(jnp.where(is_last, jnp.arange(n), n - 1), reverse=True)  # the place of its last click
        order, coin = jax.random.uniform(key, (2, self._batch))
        last_alone = coin[session] < self._model.mask_last
        allowed = (block.weight > 0) & (is_last | ~last_alone)
        rank = jnp.where(allowed, order[:n] - (last_alone & is_last), 2.0)
        place = jax.lax.top_k(-rank, min(n, self._n_masked))[1]
        weight = jnp.where(allowed[place], block.weight[place], 0.0)
        more = (0, pad(len(place), on.mesh) - len(place))
        slot, target = jnp.pad(block.slot[place], more, "edge"), block.input.reshape(-1)[block.slot[place]]
        return block._replace(slot=slot, target=jnp.pad(target, more, "edge"), weight=jnp.pad(weight, more))


Model = BERT4Rec
