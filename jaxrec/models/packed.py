"""What models that read a session at once have in common: one table of item vectors, the feed, the output layers.

Such a model is an encoder, a Linen module from the vectors of a session's items to a query after each of them. Queries
are ranked by their products with the same item vectors, or, with a temperature, by cosine (Gupta et al. 2019, "NISER:
Normalized item and session representations", section 3.1). Under a full softmax the table is dense; under a sampled
loss only the rows that a step needs are read and updated.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, LossConfig, ModelConfig, Positive, Section
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, packed_feed
from jaxrec.losses.candidates import Negatives, SampledRanking, SamplingConstants, scores_of
from jaxrec.losses.sampled import CrossEntropy, SampledLoss
from jaxrec.losses.softmax import FullSoftmax, SoftmaxLoss
from jaxrec.models.work import Work, row_state
from jaxrec.ops.parallel import dealt, taken, whole
from jaxrec.ops.tables import Reads, RowPlan, TableSpec, look_up


class HalfLife(Section):
    """Further fields of the data section."""

    half_life: Positive | None = None
    """Days after which a training session weighs half as much in the loss (null: all weigh the same)."""


class Windowed(ModelConfig):
    """What models that read a session within a window have in common."""

    sections: ClassVar[dict[str, type[Section]]] = {"data": HalfLife}

    window: Annotated[int, Field(ge=1, le=4096)] = 20
    """A score depends on the last so many clicks."""
    stride: Count = 1
    """In training, targets of a session beyond the window are scored so many at a time. At 1 each sees a whole window;
    at s some see s - 1 clicks less, and a long session costs s times less."""

    def check(self, config: Experiment) -> None:
        if config.training.batch_size < self.window:
            raise ValueError(f"training.batch_size: {config.training.batch_size} targets a step do not hold "
                             f"model.window {self.window}; raise the one or lower the other")  # fmt: skip
        if self.stride > self.window:
            raise ValueError(f"model.stride: {self.stride} is more than model.window {self.window}")

    def dense(self, config: Experiment) -> str:
        return "" if isinstance(config.loss, SoftmaxLoss) else f"loss.name softmax, found {config.loss.name}"


class Config(Windowed):
    """A session encoder: a subclass says which, and adds its own fields."""

    task: ClassVar[str] = "sessions"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (CrossEntropy, SampledLoss, FullSoftmax)

    embedding_dim: Count = 100
    """Width of the item vectors."""
    temperature: Positive | None = None
    """Scores are this times the cosine of session and item vectors (null: inner products)."""
    init_std: Positive | None = None
    """Standard deviation of the table's initial vectors (null: 1 / sqrt(embedding_dim))."""

    def encoder(self) -> nn.Module:
        """Called as ``encoder(vectors, start, slot, train)`` with float32[R, W, D], int32[R, W] and int32[P] (see
        ``PackedBlock``); gives float32[P, D]. Positions must not see others of their row than those from their
        ``start`` to themselves. Benchmarks ask ``encoder.products(W)``: multiplications for each position and for each
        target."""
        raise NotImplementedError


class Constants(NamedTuple):
    """What the training split says once and for all; None where the loss does not need it."""

    sampling: SamplingConstants | None
    prior: Array | None  # float32[V], added to the training scores


class Step(NamedTuple):
    """One packed step, and what it is ranked against; None under a full softmax."""

    block: PackedBlock
    negatives: Negatives | None


def packed_steps(
    ranking: SampledRanking | None, sampling: SamplingConstants | None, block: PackedBlock, keys: Array
) -> Step:
    """The steps of a block, under a sampled loss with what each is ranked against."""
    if ranking is None or sampling is None:
        return Step(block, None)
    return Step(block, ranking.draw(sampling, block.target, keys))


class SequenceModel:
    """A session encoder as the loop sees it (``jaxrec.models.base.Model``), made by ``Config.encoder``."""

    def __init__(self, config: Experiment, n_items: int) -> None:
        model, loss = Config.of(config.model), config.loss
        self._model, self._half_life = model, HalfLife.of(config.data).half_life
        self._batch, self._optimizer = config.training.batch_size, config.optimizer
        self._encoder: Any = model.encoder()
        self._n_items = n_items
        self._softmax = loss if isinstance(loss, FullSoftmax) else None
        self._sampled = None if self._softmax else SampledLoss.of(loss)
        self._ranking = SampledRanking(self._sampled, n_items) if self._sampled else None
        self._temperature = model.temperature
        self.window: int | None = model.window
        self.carries_lanes = False
        std = model.init_std or model.embedding_dim**-0.5
        self.tables = {
            "item": TableSpec(n_items, model.embedding_dim, lambda key, shape: std * jax.random.normal(key, shape),
                              dense=self._softmax is not None)
        }  # fmt: skip

    def feed(self, sessions: Sessions, plan: Plan) -> Feed:
        model = self._model
        if not plan.training:
            return packed_feed(sessions, model.window, plan)
        return packed_feed(sessions, model.window, plan, model.stride, self._half_life)

    def init(self, key: Array) -> Any:
        model = self._model
        grid, slot = jnp.zeros((1, model.window), jnp.int32), jnp.zeros(1, jnp.int32)
        vectors = jnp.zeros((1, model.window, model.embedding_dim))
        return self._encoder.init(key, vectors, grid, slot, False).get("params", {})

    def carry(self, lanes: int) -> tuple[()]:
        return ()

    def constants(self, counts: np.ndarray) -> Constants:
        strength = self._softmax.prior if self._softmax else 0.0
        # An item that never occurs in training counts as one that occurs once.
        prior = jnp.asarray(strength * np.log(np.maximum(counts, 1)), jnp.float32) if strength else None
        return Constants(self._ranking.constants(counts) if self._ranking else None, prior)

    def steps(self, constants: Constants, block: PackedBlock, keys: Array) -> Step:
        return packed_steps(self._ranking, constants.sampling, block, keys)

    def reads(self, step: Step) -> dict[str, Reads]:
        if self._ranking is None or step.negatives is None:
            return {}
        block = step.block
        candidates = self._ranking.candidates(block.target, block.weight > 0, step.negatives)
        return {"item": Reads(jnp.concatenate([candidates, block.input.reshape(-1)]))}

    def loss(
        self,
        params: Any,
        rows: dict[str, Array],
        plans: dict[str, RowPlan],
        carry: tuple[()],
        step: Step,
        key: Array,
        constants: Constants,
    ) -> tuple[Array, tuple[tuple[()], Array]]:
        block, table = step.block, self._unit(rows["item"])
        if self._softmax:
            queries = self._queries(params, taken(look_up(table, whole(block.input))), block.start, block.slot, key)
            total = self._softmax(queries, table, block.target, block.weight, constants.prior)
        else:
            assert self._ranking is not None and step.negatives is not None
            slot, candidates = plans["item"].slot, len(block.target) + len(step.negatives.ids)
            # An id beyond the table stands for itself, and its row is 0.
            vectors = taken(table[slot[candidates:]].reshape(*block.input.shape, -1))
            queries = dealt(self._queries(params, vectors, block.start, block.slot, key))
            scores = dealt(scores_of(queries, table[:candidates]))
            losses = self._ranking.losses(scores, slot[:candidates], block.weight > 0, step.negatives)
            total = jnp.sum(losses * block.weight)
        return total / len(block.target), (carry, total)

    def work(self, shape: PackedBlock, targets: float) -> Work:
        """FLOP of scores and encoder with their derivatives. Bytes of the rows asked for, duplicates and all, about as
        many inputs as targets, or of a dense table and its derivative; with the optimizer's state, each read and
        written once."""
        batch, width = self._batch, self._model.embedding_dim
        columns = batch + self._sampled.n_sample if self._sampled else self._n_items
        for_position, for_target = self._encoder.products(shape.input.shape[2])
        encoder = round(3 * 2 * (prod(shape.input.shape[1:]) * for_position + targets * for_target))
        flop, row = 3 * 2 * targets * columns * width + encoder, width + row_state(self._optimizer, width)
        return Work(int(flop), 4 * 2 * (columns * (row + width) if self._softmax else (columns + batch) * row))

    def encode(self, params: Any, tables: dict[str, Array], carry: tuple[()], block: PackedBlock) -> tuple[Any, Array]:
        table = self._unit(tables["item"])

        def one(step: PackedBlock) -> Array:
            return self._queries(params, look_up(table, step.input), step.start, step.slot)

        return carry, jax.lax.map(one, block)

    def last_query(self, params: Any, tables: dict[str, Array], items: Array, length: Array) -> Array:
        table, (rows, n) = self._unit(tables["item"]), items.shape
        slot = jnp.arange(rows) * n + jnp.maximum(length - 1, 0)
        return self._queries(params, look_up(table, items), jnp.zeros_like(items), slot)

    def items(self, tables: dict[str, Array]) -> Array:
        return self._unit(tables["item"])

    def vectors(self, tables: dict[str, Array]) -> Array:
        return tables["item"]

    def _unit(self, table: Array) -> Array:
        return table if self._temperature is None else unit(table)

    def _queries(self, params: Any, vectors: Array, start: Array, slot: Array, key: Array | None = None) -> Array:
        """float32[P, D], with dropout where there is a key for it."""
        rngs = {} if key is None else {"dropout": key}
        queries = self._encoder.apply({"params": params}, vectors, start, slot, key is not None, rngs=rngs)
        assert isinstance(queries, jax.Array)  # Linen's apply may return more, where state is mutable
        return queries if self._temperature is None else self._temperature * unit(queries)


def unit(vectors: Array) -> Array:
    """The vectors at length 1; a vector of zeros stays one, and has derivatives."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), 1e-12))


def drop(module: nn.Module, x: Array, rate: float, train: bool) -> Array:
    """Dropout with the module's ``dropout`` random stream."""
    if not train or not rate:
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def scored(states: Array, slot: Array) -> Array:
    """float32[P, D]: of float32[R, W, D] the int32[P] positions that are scored, which may lie in any row: all devices
    need all of them."""
    return whole(states).reshape(-1, states.shape[-1])[slot]


def allowed(start: Array) -> Array:
    """bool[R, W, W] from int32[R, W]: whether position t (second axis) may see position j: start[t] <= j <= t."""
    column = jnp.arange(start.shape[1])
    return (column >= start[:, :, None]) & (column <= column[:, None])
