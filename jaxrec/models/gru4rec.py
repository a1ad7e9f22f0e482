"""GRU4Rec (Hidasi et al. 2016; Hidasi & Karatzoglou 2018): a GRU over the session, ranked against sampled items."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.config import Config
from jaxrec.data.feed import Block
from jaxrec.losses import make_loss
from jaxrec.models.gru import GRUStack, Hidden, reset_hidden, zero_hidden
from jaxrec.negatives import AliasTable, alias_table, draw
from jaxrec.tables import Reads, RowPlan, TableSpec, glorot_like


class Constants(NamedTuple):
    """What the training split says once and for all; None where the loss does not need it."""

    negatives: AliasTable | None
    log_popularity: Array | None  # float32[V]


class Step(NamedTuple):
    """One session-parallel step.

    Attributes:
        block: leaves [B].
        negatives: int32[N].
        log_q: float32[B + N], log of how strongly each candidate is corrected for; None without correction.
    """

    block: Block
    negatives: Array
    log_q: Array | None


class GRU4Rec:
    """GRU4Rec as the loop sees it (``jaxrec.models.Model``).

    The output table keeps each item's bias as its last column: a query is (h, 1), so that scores, and the derivatives
    of vectors and biases, come out of the same matrix products, and a row's read brings its bias along.
    """

    def __init__(self, config: Config, n_items: int) -> None:
        model = config.model
        self._config, self._n_items = config, n_items
        self._loss = make_loss(config.loss)
        self._onehot, self._constrained = model.embedding == "onehot", model.embedding == "constrained"
        self._width = model.layers[-1]
        inputs = {"onehot": 3 * model.layers[0], "separate": model.embedding_dim, "constrained": self._width}
        self._inputs = inputs[model.embedding]
        self._gru = GRUStack(
            self._inputs, model.layers, self._onehot, model.dropout_embedding, model.dropout_hidden
        )  # fmt: skip
        blocks = 3 if self._onehot else 1
        self.tables = {"item": TableSpec(n_items, self._width + 1, _with_bias)}
        if not self._constrained:
            self.tables["input"] = TableSpec(n_items, self._inputs, lambda key, shape: glorot_like(key, shape, blocks))

    def init(self, key: Array) -> Any:
        hidden = zero_hidden(self._config.model.layers, 1)
        return self._gru.init(key, jnp.zeros((1, self._inputs)), hidden)["params"]

    def carry(self, lanes: int) -> Hidden:
        return zero_hidden(self._config.model.layers, lanes)

    def constants(self, counts: np.ndarray) -> Constants:
        loss = self._config.loss
        table = alias_table(counts, loss.sample_alpha) if loss.n_sample else None
        # An item that only validation or test knows can be neither a target nor a negative.
        log_popularity = jnp.asarray(np.log(np.maximum(counts, 1)), jnp.float32) if loss.logq else None
        return Constants(table, log_popularity)

    def steps(self, constants: Constants, block: Block, keys: Array) -> Step:
        loss, size = self._config.loss, block.input.shape[0]
        if constants.negatives is None:
            return self.with_negatives(constants, block, jnp.zeros((size, 0), jnp.int32))
        table = constants.negatives
        return self.with_negatives(constants, block, jax.vmap(lambda key: draw(table, key, loss.n_sample))(keys))

    def with_negatives(self, constants: Constants, block: Block, negatives: Array) -> Step:
        """The steps of a block with given negatives, int32[S, N]."""
        loss = self._config.loss
        if constants.log_popularity is None:
            return Step(block, negatives, None)
        # A target stands there in proportion to p, a drawn item to p ** alpha; raw counts, as in the authors' code.
        of_targets = constants.log_popularity[block.target]
        of_negatives = loss.sample_alpha * constants.log_popularity[negatives]
        return Step(block, negatives, loss.logq * jnp.concatenate([of_targets, of_negatives], axis=1))

    def reads(self, step: Step) -> dict[str, Reads]:
        live = step.block.weight > 0
        target = jnp.where(live, step.block.target, self._n_items)
        source = jnp.where(live, step.block.input, self._n_items)
        # A step without a live lane (the padding of an epoch's last block) must not touch a row.
        negatives = jnp.where(jnp.any(live), step.negatives, self._n_items)
        candidates = jnp.concatenate([target, negatives])
        if not self._constrained:
            return {"item": Reads(candidates), "input": Reads(source)}
        # As an input an item is read without its bias. Candidates stand first, so they decide where it is both.
        ids = jnp.concatenate([candidates, source])
        is_candidate = jnp.arange(len(ids))[:, None] < len(candidates)
        return {"item": Reads(ids, is_candidate | (jnp.arange(self._width + 1) < self._width))}

    def loss(
        self, params: Any, rows: dict[str, Array], plans: dict[str, RowPlan], carry: Hidden, step: Step, key: Array
    ) -> tuple[Array, tuple[Hidden, Array]]:
        block, lanes = step.block, step.block.weight.shape[0]
        candidates = lanes + step.negatives.shape[0]
        if self._constrained:
            vectors = rows["item"][plans["item"].slot[candidates:], : self._width]
        else:
            vectors = rows["input"][plans["input"].slot]
        carry = self._step_gru(params, vectors, reset_hidden(carry, block.reset), key)
        scores = _with_one(carry[-1]) @ rows["item"][:candidates].T  # [B, B + N]
        slot = plans["item"].slot[:candidates]
        own = slot[:lanes, None] == jnp.arange(candidates)
        drawn = jnp.broadcast_to(jnp.any(block.weight > 0).astype(jnp.float32), step.negatives.shape)
        occurrence = jnp.concatenate([block.weight, drawn])
        if step.log_q is not None:
            occurrence = occurrence * jnp.exp(-step.log_q)
        weight = jnp.zeros((candidates,)).at[slot].add(occurrence)
        own_weight = 1.0 if step.log_q is None else jnp.exp(-step.log_q[:lanes])
        losses = self._loss(scores, own, weight, own_weight)
        total = jnp.sum(jnp.where(block.weight > 0, losses, 0.0))
        return total / lanes, (carry, total)  # by all lanes, also where some have ended, as in the authors' code

    def encode(self, params: Any, tables: dict[str, Array], carry: Hidden, block: Block) -> tuple[Hidden, Array]:
        source = tables["item"] if self._constrained else tables["input"]

        def step(hidden: Hidden, at: tuple[Array, Array]) -> tuple[Hidden, Array]:
            item, reset = at
            vectors = source[item, : self._inputs]
            hidden = self._step_gru(params, vectors, reset_hidden(hidden, reset))
            return hidden, _with_one(hidden[-1])

        return jax.lax.scan(step, carry, (block.input, block.reset))

    def _step_gru(self, params: Any, vectors: Array, hidden: Hidden, key: Array | None = None) -> Hidden:
        """One step of all layers, with dropout where there is a key for it."""
        rngs = {} if key is None else {"dropout": key}
        states: Hidden = self._gru.apply({"params": params}, vectors, hidden, train=key is not None, rngs=rngs)  # type: ignore[assignment]
        return states

    def items(self, tables: dict[str, Array]) -> Array:
        return tables["item"]

    def vectors(self, tables: dict[str, Array]) -> Array:
        return tables["item"][:, : self._width]


def _with_one(hidden: Array) -> Array:
    """float32[B, H + 1]: the hidden state as a query of the output table, its 1 picking the bias."""
    return jnp.concatenate([hidden, jnp.ones((hidden.shape[0], 1), hidden.dtype)], axis=1)


def _with_bias(key: Array, shape: tuple[int, int]) -> Array:
    """float32[V, H + 1]: item vectors, and biases that begin at 0."""
    vectors = glorot_like(key, (shape[0], shape[1] - 1))
    return jnp.concatenate([vectors, jnp.zeros((shape[0], 1))], axis=1)
