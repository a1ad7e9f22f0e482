"""Models that read a session at once: an encoder, a Linen module from the vectors of a session's items to a query after
each, whose products with the same item vectors rank; or, with a temperature, cosines (Gupta et al. 2019, "NISER:
Normalized item and session representations", section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, LossConfig, Positive, Section
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, Plan
from jaxrec.feeds.packed import PackedBlock, packed_feed
from jaxrec.losses.sampled import CrossEntropy, SampledLoss, Step, ranking
from jaxrec.losses.softmax import FullSoftmax, SoftmaxLoss
from jaxrec.models.base import Dropping, Loss, SessionModel
from jaxrec.ops.parallel import ONE, Placement, by_hand
from jaxrec.ops.rows import add_rows, look_up, of_rows
from jaxrec.ops.tables import Read, Reads, Tables, TableSpec


class HalfLife(Section):
    """Further fields of the data section."""

    half_life: Positive | None = None
    """Days after which a training session weighs half as much in the loss (null: all weigh the same)."""


class Windowed(Dropping):
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

    @property
    def reads_times(self) -> bool:
        """Whether the encoder reads ``Grid.clock``."""
        return False

    def encoder(self) -> nn.Module:
        """Called as ``encoder(vectors, grid, train)`` with float32[R, W, D] and a ``Grid``; gives float32[P, D]."""
        raise NotImplementedError


class Attending(Config):
    """A session encoder of blocks of self-attention, with dropout on attention weights and in the network."""

    blocks: Annotated[int, Field(ge=1, le=16)] = 2
    """Self-attention blocks."""
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    """Attention heads, which share embedding_dim."""

    def check(self, config: Experiment) -> None:
        super().check(config)
        if self.embedding_dim % self.heads:
            raise ValueError(f"model.heads: {self.heads} do not divide model.embedding_dim {self.embedding_dim}; "
                             "choose a divisor")  # fmt: skip


@partial(jax.tree_util.register_dataclass, data_fields=["start", "slot", "clock"], meta_fields=["on"])
@dataclass(frozen=True)
class Grid:
    """R rows of W positions, of which P are scored, as an encoder sees them."""

    start: Array  # int32[R, W], the column where the session of each position begins
    slot: Array  # int32[P], which positions of the flattened grid are scored
    on: Placement = ONE  # the devices that share the rows
    clock: Array | None = None  # int32[R, W], when each click was, in seconds; below 0, and in None: unknown

    def allowed(self) -> Array:
        """bool[R, W, W]: whether position t (second axis) may see position j: start[t] <= j <= t."""
        column = jnp.arange(self.start.shape[1])
        return (column >= self.start[:, :, None]) & (column <= column[:, None])

    def scored(self, states: Array) -> Array:
        """float32[P, D] of float32[R, W, D] at the scored positions, which may lie in any row: all devices have all."""
        states = self.on.whole(states).reshape(-1, states.shape[-1])
        return states[self.slot] if self.on.platform == "cpu" else _pick(states, self.slot)

    def is_scored(self) -> Array:
        """bool[R, W, 1], by position."""
        size = self.start.size
        if self.on.platform == "cpu":
            scored = jnp.zeros(size, bool).at[self.slot].set(True)
        else:
            scored = _places(self.slot, size) < len(self.slot)
        return scored.reshape(*self.start.shape, 1)


def _places(slot: Array, size: int) -> Array:
    """int32[N]: which scored position stands at each place of the flattened grid, the first of them; P for none."""
    here = jnp.arange(size)[:, None] == slot
    return jnp.min(jnp.where(here, jnp.arange(len(slot)), len(slot)), axis=1)


def _pick_forward(states: Array, slot: Array) -> tuple[Array, tuple[Array, int]]:
    """float32[P, D] of float32[N, D]. The derivative is by hand, a gather again: that of a gather would add up one by
    one, on GPUs in no fixed order. Of slots that repeat, which is padding and weighs nothing, the first has it."""
    return states[slot], (slot, len(states))


def _pick_backward(saved: tuple[Array, int], of_scored: Array) -> tuple[Array, None]:
    return of_scored.at[_places(*saved)].get(mode="fill", fill_value=0.0), None


_pick = by_hand(_pick_forward, _pick_backward)


def read_few(table: Array, index: Array, on: Placement = ONE) -> Array:
    """float32[..., D], the rows at int32[...] of a table of few, float32[N, D]. The derivative on accelerators adds up
    all at once, in a fixed order."""
    return table[index] if on.platform == "cpu" else _read_few(table, index, on)


def _read_few_forward(table: Array, index: Array, on: Placement) -> tuple[Array, tuple[Array, int]]:
    return table[index], (index.reshape(-1), len(table))


def _read_few_backward(on: Placement, saved: tuple[Array, int], slopes: Array) -> tuple[Array, None]:
    index, rows = saved
    return add_rows(index, slopes.reshape(len(index), -1), rows, on), None


_read_few = by_hand(_read_few_forward, _read_few_backward, (2,))


class SequenceModel(SessionModel):
    """A session encoder as the loop sees it, made by ``Config.encoder``."""

    def __init__(self, config: Experiment, n_items: int) -> None:
        model = Config.of(config.model)
        self._model, self._half_life = model, HalfLife.of(config.data).half_life
        self._batch = config.training.batch_size
        self._encoder: Any = model.encoder()
        self._ranking, self._temperature = ranking(config.loss, n_items), model.temperature
        self.window: int | None = model.window
        self.reads_times = model.reads_times
        init = normal(model.init_std or model.embedding_dim**-0.5)
        self.tables = {"item": TableSpec(n_items, model.embedding_dim, init, self._ranking.dense)}

    def feed(self, split: Sessions, plan: Plan) -> Feed:
        stride, half_life = (self._model.stride, self._half_life) if plan.training else (1, None)
        return packed_feed(split, self._model.window, plan, stride, half_life, clock=self.reads_times)

    def init(self, key: Array) -> Any:
        model = self._model
        grid = Grid(jnp.zeros((1, model.window), jnp.int32), jnp.zeros(1, jnp.int32))
        return self._encoder.init(key, jnp.zeros((1, model.window, model.embedding_dim)), grid, False).get("params", {})

    def reads(self, step: Step) -> dict[str, Reads]:
        block = step.block
        candidates = self._ranking.reads(block.target, block.weight > 0, step.drawn)
        return {"item": {**candidates, "input": Read(block.input)}}

    def loss(self, params: Any, tables: Tables, carry: tuple[()], step: Step, key: Array, constants: Any) -> Loss:
        block, tables = step.block, tables.through("item", self._unit)
        grid = Grid(block.start, block.slot, tables.on, block.clock)
        queries = self._queries(params, tables.vectors("item", "input"), grid, key)
        total = self._ranking.total(tables, "item", queries, block.target, block.weight, step.drawn, constants)
        return total / len(block.target), (carry, total)

    def encode(self, params: Any, tables: dict[str, Array], carry: tuple[()], block: PackedBlock) -> tuple[Any, Array]:
        table = self._unit(tables["item"])

        def one(step: PackedBlock) -> Array:
            return self._queries(params, look_up(table, step.input), Grid(step.start, step.slot, clock=step.clock))

        return carry, jax.lax.map(one, block)

    def last_query(
        self, params: Any, tables: dict[str, Array], items: Array, length: Array, clock: Array | None = None
    ) -> Array:
        table, (rows, n) = self._unit(tables["item"]), items.shape
        slot = jnp.arange(rows) * n + jnp.maximum(length - 1, 0)
        return self._queries(params, look_up(table, items), Grid(jnp.zeros_like(items), slot, clock=clock))

    def items(self, tables: dict[str, Array]) -> Array:
        return self._unit(tables["item"])

    def vectors(self, tables: dict[str, Array]) -> Array:
        return tables["item"]

    def _unit(self, table: Any) -> Any:
        return table if self._temperature is None else of_rows(table, unit)

    def _queries(self, params: Any, vectors: Array, grid: Grid, key: Array | None = None) -> Array:
        """float32[P, D], with dropout where there is a key for it."""
        rngs = {} if key is None else {"dropout": key}
        queries: Any = self._encoder.apply({"params": params}, vectors, grid, key is not None, rngs=rngs)
        return queries if self._temperature is None else self._temperature * unit(queries)


def normal(deviation: float) -> Callable[[Array, tuple[int, int]], Array]:
    """How a table begins: with float32 numbers of this standard deviation."""
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def unit(vectors: Array) -> Array:
    """The vectors at length 1; a vector of zeros stays one, and has derivatives."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), 1e-12))


def embedded(module: nn.Module, vectors: Array, grid: Grid, train: bool) -> Array:
    """float32[R, W, D]: item vectors, scaled by sqrt(D), with learned positions from the first click that the window
    shows, where SASRec's authors count from the last."""
    model, (_, columns, width) = module.model, vectors.shape
    positions = module.param("positions", nn.initializers.normal(width**-0.5), (model.window, width))
    since = jnp.arange(columns) - grid.start
    return drop(module, vectors * width**0.5 + read_few(positions, since, grid.on), model.dropout_embedding, train)


def by_distance(near: Array, columns: int) -> Array:
    """float32[heads, C, C], at (t, j) the bias of the distance j - t, from float32[heads, 2 W + 1]. Rows of one number
    less than there are distances move along by one: no gather, whose derivative adds up one by one."""
    heads, distances = near.shape
    repeated = jnp.tile(near, columns + 1)[:, distances // 2 :][:, : columns * (distances - 1)]
    return repeated.reshape(heads, columns, distances - 1)[:, :, :columns]


def attend(
    module: nn.Module, query: Array, key: Array, value: Array, visible: Array, on: Placement, train: bool,
    bias: Array | None = None,
) -> Array:  # fmt: skip
    """float32[R, W, D]: scaled dot-product attention of the heads of ``module.model``, side by side in float32[R, W, D]
    queries, keys and values, to what bool[R, W, W] is visible; with a bias of the scores, [heads, W, W]."""
    (rows, columns, width), heads, rate = query.shape, module.model.heads, module.model.dropout_hidden
    query, key, value = (part.reshape(rows, columns, heads, -1).swapaxes(1, 2) for part in (query, key, value))
    score = on.product(query, key.swapaxes(2, 3)) / query.shape[3] ** 0.5  # [R, heads, W, W]
    score = score if bias is None else score + bias
    weight = jax.nn.softmax(jnp.where(visible[:, None], score, -jnp.inf), axis=3)
    mixed = on.product(drop(module, weight, rate, train), value)
    return mixed.swapaxes(1, 2).reshape(rows, columns, width)


def drop(module: nn.Module, x: Array, rate: float, train: bool) -> Array:
    """Dropout with the module's ``dropout`` random stream."""
    if not train or not rate:
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)
