"""GRU4Rec (Hidasi et al. 2016; Hidasi & Karatzoglou 2018): a GRU over the session, ranked against sampled items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config import Config as Experiment
from jaxrec.config.sections import Count, LossConfig
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Feed, LaneBlock, Plan, lane_feed
from jaxrec.losses.sampled import CrossEntropy, Sampled, SampledLoss, Step
from jaxrec.models.base import Dropping, Loss, SessionModel
from jaxrec.models.packed import drop
from jaxrec.ops.gru import (
    apart,
    gru_cell,
    gru_params,
    onehot_gru_cell,
    onehot_gru_params,
    packed_gru_cell,
    side_by_side,
)
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.rows import of_rows, rows_at
from jaxrec.ops.tables import Read, Reads, Tables, TableSpec, glorot_like

Hidden = tuple[Array, ...]
"""float32[B, H] of each layer."""


class Config(Dropping):
    """Sessions of clicks: a recurrent network over the clicks so far; fast, and a good first choice."""

    task: ClassVar[str] = "sessions"
    losses: ClassVar[tuple[type[LossConfig], ...]] = (CrossEntropy, SampledLoss)

    name: Literal["gru4rec"] = "gru4rec"
    layers: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (100,)
    """Units of each GRU layer, from input to output."""
    embedding: Literal["constrained", "separate", "onehot"] = "constrained"
    """Its input: one table for input and output, a table of its own, or one-hot (a table of gate inputs)."""
    embedding_dim: Count = 100
    """Width of the input table where embedding is 'separate'."""

    def check(self, config: Experiment) -> None:
        if config.optimizer.tables != "same":
            raise ValueError(f"optimizer.tables: found {config.optimizer.tables}, which keeps a number a row, "
                             "and gru4rec reads inputs without their biases; leave it out")  # fmt: skip

    def dense(self, config: Experiment) -> str:
        return "dense tables, which gru4rec has not"


class Layers(nn.Module):
    """GRU layers on top of each other, each followed by dropout; the first one over one-hot items by that of inputs.
    The state that is carried is the dropped one. Both are as in the authors' code."""

    model: Config

    @nn.compact
    def __call__(self, x: Array, hidden: Hidden, train: bool, on: Placement = ONE) -> Hidden:
        """The new states from float32[B, inputs] and the states before."""
        model, states, onehot = self.model, list[Array](), self.model.embedding == "onehot"
        if not onehot:
            x = drop(self, x, model.dropout_embedding, train)
        for i, (units, h) in enumerate(zip(model.layers, hidden, strict=True)):
            if onehot and i == 0:
                x = onehot_gru_cell(onehot_gru_params(self, "layer_0", units), x, h, on)
                x = drop(self, x, model.dropout_embedding, train)
            elif self.has_variable("params", f"layer_{i}"):
                x = packed_gru_cell(self.get_variable("params", f"layer_{i}"), x, h, on)
                x = drop(self, x, model.dropout_hidden, train)
            else:
                x = gru_cell(gru_params(self, f"layer_{i}", x.shape[-1], units), x, h, on)
                x = drop(self, x, model.dropout_hidden, train)
            states.append(x)
        return tuple(states)


class GRU4Rec(SessionModel):
    """GRU4Rec as the loop sees it. The output table keeps each item's bias as its last column: a query is (h, 1), so
    that scores and derivatives come out of the same matrix products, and a row's read brings its bias along."""

    window = None
    carries_lanes = True

    def __init__(self, config: Experiment, n_items: int) -> None:
        model = Config.of(config.model)
        self._units, self._n_items, self._width = model.layers, n_items, model.layers[-1]
        self._ranking, self._layers = Sampled(SampledLoss.of(config.loss), n_items), Layers(model)
        self._onehot, self._constrained = model.embedding == "onehot", model.embedding == "constrained"
        inputs = {"onehot": 3 * model.layers[0], "separate": model.embedding_dim, "constrained": self._width}
        self._inputs, blocks = inputs[model.embedding], 3 if self._onehot else 1
        self.tables = {"item": TableSpec(n_items, self._width + 1, _with_bias)}
        self._source = "item" if self._constrained else "input"
        if not self._constrained:
            self.tables["input"] = TableSpec(n_items, self._inputs, lambda key, shape: glorot_like(key, shape, blocks))

    def init(self, key: Array) -> Any:
        return self._layers.init(key, jnp.zeros((1, self._inputs)), self.carry(1), False)["params"]

    def packed(self, params: Any, on: Placement) -> Any:
        """On accelerators one array a layer, where ``side_by_side`` can."""
        return params if on.platform == "cpu" else _regrouped(params, self._units, _side_by_side)

    def unpacked(self, params: Any) -> Any:
        return _regrouped(params, self._units, _apart)

    def carry(self, lanes: int) -> Hidden:
        return tuple(jnp.zeros((lanes, units), jnp.float32) for units in self._units)

    def feed(self, split: Sessions, plan: Plan) -> Feed:
        return lane_feed(split, plan)

    def reads(self, step: Step) -> dict[str, Reads]:
        block, live = step.block, step.block.weight > 0
        # As an input an item is read without its bias.
        source = Read(jnp.where(live, block.input, self._n_items), self._width if self._constrained else None)
        candidates = self._ranking.reads(block.target, live, step.drawn)
        if self._constrained:
            return {"item": {**candidates, "input": source}}
        return {"item": candidates, "input": {"input": source}}

    def loss(self, params: Any, tables: Tables, carry: Hidden, step: Step, key: Array, constants: Any) -> Loss:
        block, on = step.block, tables.on
        hidden = _reset(carry, block.reset)
        carry = on.dealt(self._next(params, tables.vectors(self._source, "input"), hidden, key, on))
        losses = self._ranking.losses(tables, "item", _with_one(carry[-1]), block.weight > 0, step.drawn)
        total = jnp.sum(losses)
        # Accelerators add up the losses of all steps of a block at once; a CPU has nothing from it. The mean is by all
        # lanes, also where some have ended, as in the authors' code.
        return total / len(losses), (carry, total if on.platform == "cpu" else losses)

    def encode(self, params: Any, tables: dict[str, Array], carry: Hidden, block: LaneBlock) -> tuple[Hidden, Array]:
        source = tables[self._source]

        def step(hidden: Hidden, at: tuple[Array, Array]) -> tuple[Hidden, Array]:
            item, reset = at
            vectors = rows_at(source, item, self._inputs)
            hidden = self._next(params, vectors, _reset(hidden, reset))
            return hidden, _with_one(hidden[-1])

        return jax.lax.scan(step, carry, (block.input, block.reset))

    def last_query(self, params: Any, tables: dict[str, Array], items: Array, length: Array) -> Array:
        """No step is taken beyond the longest session, whatever N is."""
        source, hidden = tables[self._source], self.carry(len(items))

        def step(at: Array, carry: tuple[Hidden, Array]) -> tuple[Hidden, Array]:
            hidden = self._next(params, rows_at(source, items[:, at], self._inputs), carry[0])
            return hidden, jnp.where((at == length - 1)[:, None], hidden[-1], carry[1])

        return _with_one(jax.lax.fori_loop(0, jnp.max(length), step, (hidden, hidden[-1]))[1])

    def _next(
        self, params: Any, vectors: Array, hidden: Hidden, key: Array | None = None, on: Placement = ONE
    ) -> Hidden:
        """The states one step on, with dropout where there is a key for it."""
        rngs = {} if key is None else {"dropout": key}
        states: Any = self._layers.apply({"params": params}, vectors, hidden, key is not None, on, rngs=rngs)
        return states

    def items(self, tables: dict[str, Any]) -> Any:
        return tables["item"]

    def vectors(self, tables: dict[str, Any]) -> Any:
        return of_rows(tables["item"], lambda rows: rows[:, : self._width])


def _regrouped(params: Any, units: tuple[int, ...], regroup: Callable[[Any, str], Any]) -> Any:
    """The parameters with those of each layer regrouped."""
    whole = dict(params)
    for i in range(len(units)):
        mine = {name: whole.pop(name) for name in params if name == f"layer_{i}" or name.startswith(f"layer_{i}_")}
        whole |= regroup(mine, f"layer_{i}")
    return whole


def _side_by_side(params: dict[str, Array], name: str) -> dict[str, Array]:
    parts = {part.removeprefix(f"{name}_"): array for part, array in params.items()}
    packed = side_by_side(parts) if "hidden_kernel" in parts else None
    return params if packed is None else {name: packed}


def _apart(params: dict[str, Array], name: str) -> dict[str, Array]:
    return {f"{name}_{part}": array for part, array in apart(params[name]).items()} if name in params else params


def _reset(hidden: Hidden, reset: Array) -> Hidden:
    """The states with the lanes of bool[B] ``reset`` zeroed."""
    return tuple(jnp.where(reset[:, None], 0.0, h) for h in hidden)


def _with_one(hidden: Array) -> Array:
    """float32[B, H + 1]: the hidden state as a query of the output table, its 1 picking the bias."""
    return jnp.concatenate([hidden, jnp.ones((hidden.shape[0], 1), hidden.dtype)], axis=1)


def _with_bias(key: Array, shape: tuple[int, int]) -> Array:
    """float32[V, H + 1]: item vectors, and biases that begin at 0."""
    return jnp.concatenate([glorot_like(key, (shape[0], shape[1] - 1)), jnp.zeros((shape[0], 1))], axis=1)


Model = GRU4Rec
