"""AutoInt and AutoInt+ (Song et al. 2019, "AutoInt: automatic feature interaction learning via self-attentive neural
networks"): the probability of a click or a good rating from the fields of one row."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from jaxrec.baselines.ratings import Logistic
from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, Fraction, LossConfig
from jaxrec.data.dataset import Rows, Schema
from jaxrec.data.splits import RowData
from jaxrec.feeds.base import Feed, Plan, RowBlock, row_feed
from jaxrec.models.base import ClickModel, Loss
from jaxrec.models.fields import RowConfig, Stack, byte_mask, with_unknown
from jaxrec.models.packed import normal
from jaxrec.ops.field_attention import attend, attention_weights, pad_rows, padded_rows, project
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.rows import look_up
from jaxrec.ops.tables import Read, Reads, Tables, TableSpec

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


class Config(RowConfig):
    """Rows of fields with a click or a rating: self-attention between fields, and a deep network."""

    task: ClassVar[str] = "clicks"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (Binary,)

    name: Literal["autoint"] = "autoint"
    embedding_dim: Count = 100
    """Width of the vectors of values."""
    blocks: Annotated[int, Field(ge=0, le=16)] = 2
    """Interacting layers; 0 leaves the deep network alone."""
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    """Attention heads, which share attention_dim."""
    attention_dim: Count = 32
    """Width of the interacting layers."""
    norm: Literal["none", "layer"] = "none"
    """Normalisation after each interacting layer."""
    deep: Annotated[tuple[Count, ...], Field(max_length=8)] = ()
    """Units of the hidden layers of the deep network beside the interacting layers (AutoInt+); none: AutoInt."""
    first_order: Literal["none", "weights", "logistic"] = "none"
    """Whether each value has a weight of its own in the logit. weights: they begin at 0, pulled there by
    loss.embedding_l2; logistic: they begin where a logistic regression on the training rows ends, with its penalty."""
    dropout_attention: Fraction = 0.0
    """Dropout on the attention weights."""

    def check(self, config: Experiment) -> None:
        if not self.blocks and not self.deep:
            raise ValueError("model.blocks, model.deep: neither interacting layers nor a deep network; give one")
        if self.attention_dim % self.heads:
            raise ValueError(f"model.heads: {self.heads} do not divide model.attention_dim {self.attention_dim}; "
                             "choose a divisor")  # fmt: skip


class Interacting(nn.Module):
    """relu(attention over fields + a projection of the field itself) (equations 5 to 8)."""

    model: Config

    @nn.compact
    def __call__(self, x: Array, drawn: int, train: bool, on: Placement) -> tuple[Array, Array]:
        """float32[F, D, B] → float32[F, A, B]; and the projections, from which ``attention_weights``. Masks are for
        ``drawn`` rows, B with the padding of ``pad_rows``: they must not depend on the number of devices."""
        fields, width, batch = x.shape
        of_all, heads, rate = self.model.attention_dim, self.model.heads, self.model.dropout_attention
        projected = project(self.param("projection", _glorot_blocks, (4 * of_all, width)), x, on)
        keep = None
        if train and rate:
            keep = byte_mask(self.make_rng("dropout"), (fields, fields, heads, drawn), rate)[..., :batch]
        mixed = attend(projected, heads, on, keep)
        if self.model.norm == "layer":
            scale = self.param("scale", nn.initializers.ones, (of_all, 1))
            bias = self.param("bias", nn.initializers.zeros, (of_all, 1))
            centred = mixed - jnp.mean(mixed, axis=1, keepdims=True)
            mixed = scale * centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=1, keepdims=True) + 1e-6) + bias
        return mixed, projected


class AutoIntNetwork(nn.Module):
    """From the vectors of a row's fields to its logit: interacting layers, and beside them a deep network (AutoInt+).
    As in equation 10, and unlike in the published code, no relu stands before the sigmoid."""

    model: Config
    outputs: int  # 1, or 2 where the rating is predicted as well

    @nn.compact
    def __call__(self, vectors: Array, train: bool, on: Placement = ONE) -> tuple[Array, list[Array]]:
        """float32[B, F, D] → float32[outputs, B], and the projections of each layer."""
        model, rows = self.model, len(vectors)
        if train and model.dropout_embedding:
            vectors = vectors * byte_mask(self.make_rng("dropout"), vectors.shape, model.dropout_embedding)
        rows_last = on.dealt(jnp.transpose(pad_rows(vectors, on), (1, 2, 0)), 2)  # [F, D, B]; see field_attention
        batch, drawn, projections = rows_last.shape[-1], padded_rows(rows), []
        total = jnp.broadcast_to(self.param("bias", nn.initializers.zeros, (self.outputs, 1)), (self.outputs, batch))
        if model.blocks:
            x = rows_last
            for number in range(model.blocks):
                x, projected = Interacting(model, name=f"layer_{number}")(x, drawn, train, on)
                projections.append(projected)
            flat = x.reshape(-1, batch)
            total += on.product(self.param("attention_output", _glorot, (self.outputs, len(flat))), flat)
        if model.deep:
            hidden = rows_last.reshape(-1, batch)
            for number, units in enumerate(model.deep):
                kernel = self.param(f"deep_{number}", _glorot, (units, len(hidden)))
                bias = self.param(f"deep_{number}_bias", nn.initializers.zeros, (units, 1))
                hidden = nn.relu(on.product(kernel, hidden) + bias)
                if train and model.dropout_hidden:
                    kept = byte_mask(self.make_rng("dropout"), (units, drawn), model.dropout_hidden)
                    hidden = hidden * kept[:, :batch]
            total += on.product(self.param("deep_output", _glorot, (self.outputs, model.deep[-1])), hidden)
        return total[:, :rows], [projected[..., :rows] for projected in projections]


_glorot = nn.initializers.glorot_uniform()


def _glorot_blocks(key: Array, shape: tuple[int, int]) -> Array:
    """Four Glorot matrices on top of each other."""
    bound = (6.0 / (shape[0] / 4 + shape[1])) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class Step(NamedTuple):
    block: RowBlock
    ids: Array  # int32[B, C + M], rows of the table that it reads, -1 for none


class Pulls(NamedTuple):
    """What a row pays for each squared number that it reads of the table, float32[rows of the table] each."""

    vectors: Array
    weights: Array  # of the first order


class AutoInt(ClickModel):
    """AutoInt as the loop sees it. With ``model.first_order`` logistic, and in training, ``start`` says where the
    weights of the first order begin, and how much they are pulled towards 0."""

    def __init__(self, config: Experiment, schema: Schema, start: Logistic | None = None) -> None:
        model, loss = Config.of(config.model), Binary.of(config.loss)
        self._model, self._start, self._dim = model, start, model.embedding_dim
        self._schema, self._loss, self._stack = schema, loss, Stack.of(schema)
        self._unknown_rate, self._first_order = RowData.of(config.data).unknown_rate, model.first_order != "none"
        self._network = AutoIntNetwork(model, outputs=2 if loss.rating_weight else 1)
        normal_init = normal(model.init_std or model.embedding_dim**-0.5)

        def init(key: Array, shape: tuple[int, int]) -> Array:
            first = 0.0 if start is None else jnp.asarray(start.weights, jnp.float32)[:, None]
            vectors = normal_init(key, shape).at[:, self._dim :].set(first)
            return vectors.at[self._stack.unknown].set(0.0)  # where nothing trains the unknown values, they say nothing

        width = self._dim + self._first_order
        self.tables = {"field": TableSpec(self._stack.rows, width, init, dense=model.table == "dense")}

    def feed(self, split: Rows, plan: Plan) -> Feed:
        return row_feed(split, plan)

    def init(self, key: Array) -> Any:
        vectors = jnp.zeros((1, len(self._schema.fields), self._dim))
        params: Any = self._network.init(key, vectors, train=False)["params"]
        return params if self._start is None else params | {"bias": params["bias"].at[0].set(self._start.intercept)}

    def constants(self, counts: np.ndarray) -> Pulls:
        edges = np.append(self._stack.unknown, len(counts))
        totals = np.array([counts[a:b].sum() for a, b in pairwise(edges)])
        rows = max((n for n, width in zip(totals, self._stack.widths, strict=True) if width == 1), default=1)
        reads = np.full(self._stack.rows, max(rows, counts.max(initial=1)), np.float64)  # a number's: by all rows
        reads[: len(counts)] = (1.0 - self._unknown_rate) * counts
        reads[self._stack.unknown] += self._unknown_rate * totals
        reads = np.maximum(reads, 1)
        vectors = jnp.asarray(self._loss.embedding_l2 * reads**-self._loss.embedding_l2_power, jnp.float32)
        # The regression's own penalty, so that it is an optimum to begin with.
        return Pulls(vectors, vectors if self._start is None else jnp.asarray(self._start.l2 / 2 / reads, jnp.float32))

    def steps(self, constants: Pulls, block: RowBlock, keys: Array, on: Placement = ONE) -> Step:
        columns = with_unknown(block.columns, keys, self._unknown_rate)
        # What stands behind an epoch's last row reads nothing: it would move rows of a table that is not dense.
        return Step(block, jnp.where(block.weight[..., None] > 0, self._stack.ids(columns), -1))

    def reads(self, step: Step) -> dict[str, Reads]:
        return {"field": {"row": Read(step.ids)}}

    def loss(self, params: Any, tables: Tables, carry: tuple[()], step: Step, key: Array, constants: Pulls) -> Loss:
        """Mean binary cross-entropy of the step's rows; see ``Binary`` for what may be added to it."""
        (block, ids), vectors = step, tables.vectors("field", "row")
        outputs, _ = self._forward(params, vectors, ids, block.numbers, key, tables.on)
        losses = self._loss(outputs[0], block.target)
        total = jnp.sum(losses * block.weight)
        objective = total
        if self._loss.rating_weight:
            scaled = (block.rating - self._schema.low) / (self._schema.high - self._schema.low)
            objective += self._loss.rating_weight * jnp.sum((outputs[1] - scaled) ** 2 * block.weight)
        if self._loss.embedding_l2 or self._start is not None:
            common = vectors if self._start is None else vectors[..., : self._dim]
            squares = jnp.sum(common**2, axis=-1) * constants.vectors[ids]
            if self._start is not None:
                squares += vectors[..., self._dim] ** 2 * constants.weights[ids]
            objective += jnp.sum(jnp.sum(jnp.where(ids >= 0, squares, 0.0), axis=-1) * block.weight)
        return objective / len(block.target), (carry, total)

    def logits(self, params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> Array:
        ids = self._stack.ids(columns)
        return self._forward(params, look_up(tables["field"], ids), ids, numbers)[0][0]

    def attention(self, params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> list[Array]:
        ids = self._stack.ids(columns)
        _, projections = self._forward(params, look_up(tables["field"], ids), ids, numbers)
        return [attention_weights(projected, self._model.heads) for projected in projections]

    def _forward(
        self, params: Any, vectors: Array, ids: Array, numbers: Array, key: Array | None = None, on: Placement = ONE
    ) -> tuple[Array, list[Array]]:
        """float32[outputs, B] and the layers' projections, with dropout where there is a key for it."""
        folded = self._stack.fold(vectors, ids, numbers)  # [B, F, D (+ 1)]
        rngs = {} if key is None else {"dropout": key}
        found: Any = self._network.apply({"params": params}, folded[..., : self._dim], key is not None, on, rngs=rngs)
        outputs, projections = found
        return outputs.at[0].add(jnp.sum(folded[..., self._dim], axis=1)) if self._first_order else outputs, projections


Model = AutoInt
