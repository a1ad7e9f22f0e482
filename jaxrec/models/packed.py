"""What models that read a session at once have in common: one table of item vectors, the feed, the output layers.

Such a model is an encoder, a Linen module from the vectors of a session's items to a query after each of them. Queries
are ranked by their products with the same item vectors, or, with a temperature, by cosine (Gupta et al. 2019, "NISER:
Normalized item and session representations", section 3.1). Under a full softmax the table is dense; under a sampled
loss only the rows that a step needs are read and updated.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import Config
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, packed_feed
from jaxrec.losses.candidates import Negatives, SampledRanking, SamplingConstants, scores_of
from jaxrec.losses.softmax import Softmax, softmax_cross_entropy
from jaxrec.models.work import Work, row_state
from jaxrec.ops.parallel import dealt, taken, whole
from jaxrec.ops.tables import Reads, RowPlan, TableSpec, look_up


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
    """A session encoder as the loop sees it (``jaxrec.models.base.Model``).

    Args:
        encoder: called as ``encoder(vectors, start, slot, train)`` with float32[R, W, D], int32[R, W] and int32[P] (see
            ``PackedBlock``); gives float32[P, D]. Positions must not see others of their row than those from their
            ``start`` to themselves. ``encoder.products(W)``: multiplications for each position and for each target.
    """

    def __init__(self, encoder: nn.Module, config: Config, n_items: int) -> None:
        model, loss = config.model, config.loss
        self._encoder, self._config, self._n_items = encoder, config, n_items
        self._dense = loss.name == "softmax"
        self._softmax = Softmax(loss.memory, loss.precision, loss.label_smoothing)
        self._ranking = None if self._dense else SampledRanking(loss, n_items)
        self._temperature = model.temperature
        self.window: int | None = model.window
        self.carries_lanes = False
        std = model.init_std or model.embedding_dim**-0.5
        self.tables = {
            "item": TableSpec(n_items, model.embedding_dim, lambda key, shape: std * jax.random.normal(key, shape),
                              self._dense)
        }  # fmt: skip

    def feed(self, sessions: Sessions, plan: Plan) -> Feed:
        model = self._config.model
        if not plan.training:
            return packed_feed(sessions, model.window, plan)
        return packed_feed(sessions, model.window, plan, model.stride, self._config.data.half_life)

    def init(self, key: Array) -> Any:
        model = self._config.model
        grid, slot = jnp.zeros((1, model.window), jnp.int32), jnp.zeros(1, jnp.int32)
        vectors = jnp.zeros((1, model.window, model.embedding_dim))
        return self._encoder.init(key, vectors, grid, slot, False)["params"]

    def carry(self, lanes: int) -> tuple[()]:
        return ()

    def constants(self, counts: np.ndarray) -> Constants:
        strength = self._config.loss.prior
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
        if self._ranking is None or step.negatives is None:
            queries = self._queries(params, taken(look_up(table, whole(block.input))), block.start, block.slot, key)
            total = softmax_cross_entropy(
                self._softmax, queries, table, block.target, block.weight, constants.prior
            )  # fmt: skip
        else:
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
        config, batch, width = self._config, self._config.training.batch_size, self._config.model.embedding_dim
        columns = self._n_items if self._dense else batch + config.loss.n_sample
        for_position, for_target = self._encoder.products(shape.input.shape[2])
        encoder = round(3 * 2 * (prod(shape.input.shape[1:]) * for_position + targets * for_target))
        flop, row = 3 * 2 * targets * columns * width + encoder, width + row_state(config.optimizer, width)
        return Work(int(flop), 4 * 2 * (columns * (row + width) if self._dense else (columns + batch) * row))

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


def allowed(start: Array) -> Array:
    """bool[R, W, W] from int32[R, W]: whether position t (second axis) may see position j: start[t] <= j <= t."""
    column = jnp.arange(start.shape[1])
    return (column >= start[:, :, None]) & (column <= column[:, None])
