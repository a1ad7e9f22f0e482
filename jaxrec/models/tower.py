"""One side of two towers: its section of the configuration, its fields, its table and its network."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, Fraction, LossConfig, ModelConfig, Positive
from jaxrec.data.rows import Schema
from jaxrec.losses.contrastive import Contrastive, Triplet
from jaxrec.models.fields import Stack
from jaxrec.ops.dropout import byte_mask
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import TableSpec, look_up


class Config(ModelConfig):
    """Rows of users and items: a vector for each, also for users and items that are new."""

    task: ClassVar[str] = "retrieval"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (Triplet, Contrastive)
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"optimizer": {"name": "adam", "learning_rate": 0.001}}

    name: Literal["two_tower"] = "two_tower"
    embedding_dim: Count = 16
    """Width of the vectors of values."""
    hidden: Annotated[tuple[Count, ...], Field(max_length=8)] = (64,)
    """Units of the hidden layers of each tower."""
    output_dim: Count = 32
    """Width of the space in which customers and products meet."""
    norm: Literal["none", "batch"] = "batch"
    """Normalisation after each hidden layer."""
    table: Literal["dense", "rows"] = "dense"
    """Whether every row of the tables is updated in every step, or only those read (for large vocabularies)."""
    dropout_embedding: Fraction = 0.0
    """Dropout on all features."""
    dropout_hidden: Fraction = 0.2
    """Dropout on each hidden layer."""
    init_std: Positive | None = None
    """Standard deviation of the tables' initial vectors (null: 1 / sqrt(embedding_dim))."""

    def check(self, config: Experiment) -> None:
        if Contrastive.of(config.loss).hard_negatives and (needs := self.dense(config)):
            raise ValueError(f"loss.hard_negatives: needs {needs}; set it to 0")

    def dense(self, config: Experiment) -> str:
        return "" if self.table == "dense" else "model.table dense, found rows"


class Tower(nn.Module):
    """An MLP onto the unit sphere.

    Attributes:
        hidden: units of the hidden layers; each is followed by ReLU, batch normalisation and dropout.
        output: width of the space.
        batch_norm: whether there is batch normalisation.
        dropout: rate there.
        dropout_input: rate on the features.
    """

    hidden: tuple[int, ...]
    output: int
    batch_norm: bool
    dropout: float
    dropout_input: float

    @nn.compact
    def __call__(self, x: Array, counted: Array | None, on: Placement = ONE) -> Array:
        """float32[n, output] unit vectors of float32[n, features].

        Args:
            counted: training: bool[n], which rows the batch's mean and variance are taken over; all are normalised
                with them. None: evaluation, with the running ones.
        """

        def dense(units: int) -> nn.Dense:
            return nn.Dense(units, dot_general=lambda inputs, kernel, *_, **__: on.product(inputs, kernel))

        if counted is not None and self.dropout_input:
            x = x * byte_mask(self.make_rng("dropout"), x.shape, self.dropout_input)
        for units in self.hidden:
            x = nn.relu(dense(units)(x))
            if self.batch_norm:
                norm = nn.BatchNorm(use_running_average=counted is None, momentum=0.9)
                x = norm(x, mask=None if counted is None else counted[:, None])
            if counted is not None and self.dropout:
                x = x * byte_mask(self.make_rng("dropout"), x.shape, self.dropout)
        x = dense(self.output)(x)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=1, keepdims=True), 1e-12))


class Side:
    """One side's fields, table and tower."""

    def __init__(self, model: Config, fields: Schema, side: str) -> None:
        self.schema = fields.side(side)
        self.coded = replace(self.schema, fields=self.schema.coded)
        self.stack, self._dim = Stack.of(self.coded), model.embedding_dim
        self.features = self._dim * len(self.coded.fields) + len(self.schema.numerical)
        self.output = model.output_dim
        self._tower = Tower(
            model.hidden, model.output_dim, model.norm == "batch", model.dropout_hidden, model.dropout_embedding
        )
        std = model.init_std or self._dim**-0.5

        def begin(key: Array, shape: tuple[int, int]) -> Array:
            vectors = std * jax.random.normal(key, shape, jnp.float32)
            return vectors.at[self.stack.unknown].set(0.0)  # where nothing trains the unknown values, they say nothing

        self.table = TableSpec(self.stack.rows, self._dim, begin, dense=model.table == "dense")

    @property
    def products(self) -> int:
        """Multiplications of the tower for each row."""
        widths = (self.features, *self._tower.hidden, self.output)
        return sum(below * above for below, above in pairwise(widths))

    def variables(self, key: Array) -> Any:
        """The tower's parameters (``params``) and statistics (``batch_stats``, where it has any)."""
        found: Any = self._tower.init(key, jnp.zeros((1, self.features)), None)
        return found

    def inputs(self, vectors: Array, ids: Array, numbers: Array) -> Array:
        """float32[n, features] from float32[n, C, D] vectors of int32[n, C] ids, and float32[n, M]."""
        none = jnp.zeros((len(numbers), 0))
        if not self.coded.fields:
            return numbers
        folded = self.stack.fold(vectors, ids, none).reshape(len(numbers), -1)
        return jnp.concatenate([folded, numbers], axis=1)

    def train(
        self, params: Any, statistics: Any, x: Array, counted: Array, key: Array, on: Placement
    ) -> tuple[Array, Any]:
        """float32[n, output], and the new statistics."""
        variables = {"params": params, **({"batch_stats": statistics} if statistics else {})}
        found: Any = self._tower.apply(variables, x, counted, on, rngs={"dropout": key}, mutable=["batch_stats"])
        return found[0], found[1].get("batch_stats", statistics)

    def encode(self, params: Any, statistics: Any, table: Array | None, columns: Array, numbers: Array) -> Array:
        """float32[n, output] from int32[n, C] and float32[n, M], as it is evaluated."""
        ids = self.stack.ids(columns)
        vectors = look_up(table, ids) if table is not None else jnp.zeros((0,))
        variables = {"params": params, **({"batch_stats": statistics} if statistics else {})}
        out: Any = self._tower.apply(variables, self.inputs(vectors, ids, numbers), None)
        return out
