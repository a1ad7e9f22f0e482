"""Ranking losses over a shared set of candidate columns: the targets of all lanes of a step and the drawn negatives, an
item that stands there several times as one column with a weight. Cross-entropy and the max forms are those of Hidasi &
Karatzoglou 2018, "Recurrent neural networks with top-k gains for session-based recommendations", section 3; BPR and
TOP1 those of Hidasi et al. 2016, "Session-based recommendations with recurrent neural networks", section 3.2.1. All
give float32[B], a loss per lane, 0 without negatives, from

    scores   float32[B, C]   score of each column for each lane
    own      int32[B]        the column that holds the lane's target; -1 for a lane without one (its loss means nothing)
    weight   float32[C]      how often the column's item is a candidate, targets included; 0 for an unused column

A lane's negatives are the candidates less its own target, once: another lane's equal target stays one, as published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from jaxrec.config.sections import Config, LossConfig, Positive
from jaxrec.losses.softmax import FullSoftmax
from jaxrec.ops.alias import AliasTable, alias_table, draw
from jaxrec.ops.parallel import ONE, Placement, by_hand
from jaxrec.ops.rows import Table, rows_at
from jaxrec.ops.tables import Read, Reads, RowPlan, Tables

TINY = 1e-24  # inside the logarithm of bpr_max, as in the authors' code


class Drawn(LossConfig):
    """Losses that rank against the other targets of a step and drawn items."""

    n_sample: Annotated[int, Field(ge=0, le=100_000)] = 2048
    """Negatives drawn for each step and shared by its lanes or rows, beside their targets."""
    sample_alpha: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Negatives are drawn in proportion to popularity ** sample_alpha (0: uniform; 1: popularity)."""

    def check(self, config: Config) -> None:
        if config.training.batch_size == 1 and not self.n_sample:
            raise ValueError("loss.n_sample: 0 leaves a single lane without negatives; draw some or add lanes")


class SampledLoss(Drawn):
    """A loss over the candidates of a step; a subclass says which, by a ``name`` and a call."""

    def __call__(self, scores: Array, own: Array, weight: Array, own_weight: Array | float = 1.0) -> Array:
        """float32[B], a loss per lane; ``own_weight`` is the share of the target's own occurrence in its column's
        weight: under the logQ correction one of probability q weighs 1 / q ** logq."""
        raise NotImplementedError


class Activated(SampledLoss):
    """Losses of scores with a final activation (2018, section 4.1: elu with BPR-max; tanh is that of 2016)."""

    final_activation: Literal["linear", "relu", "tanh", "elu", "selu", "leaky_relu"] = "linear"
    """Applied to the training scores. Ranking uses the scores before it."""
    activation_alpha: Positive = 1.0
    """Parameter of elu, or the negative slope of leaky_relu, which makes sense below 1."""

    def __call__(self, scores: Array, own: Array, weight: Array, own_weight: Array | float = 1.0) -> Array:
        activations: dict[str, Callable[[Array], Array]] = {
            "linear": lambda scores: scores,
            "relu": jax.nn.relu,
            "tanh": jnp.tanh,
            "elu": partial(jax.nn.elu, alpha=self.activation_alpha),
            "selu": jax.nn.selu,
            "leaky_relu": partial(jax.nn.leaky_relu, negative_slope=self.activation_alpha),
        }
        return self.activated(activations[self.final_activation](scores), own, weight, own_weight)

    def activated(self, scores: Array, own: Array, weight: Array, own_weight: Array | float) -> Array:
        raise NotImplementedError


class CrossEntropy(Activated):
    """Softmax cross-entropy over the step's targets and drawn items; with logq 1 it is the sampled softmax."""

    name: Literal["cross_entropy"] = "cross_entropy"
    logq: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Strength of the logQ correction for how often each item is a negative (0: off, 1: full)."""

    def activated(self, scores: Array, own: Array, weight: Array, own_weight: Array | float) -> Array:
        return cross_entropy(scores, own, weight, own_weight)


class BPR(Activated):
    """Bayesian personalised ranking: the target against each of the step's other targets and drawn items."""

    name: Literal["bpr"] = "bpr"

    def activated(self, scores: Array, own: Array, weight: Array, own_weight: Array | float) -> Array:
        negatives = _others(own, scores, weight)
        margin = _pick(scores, own)[:, None] - scores
        return _mean(-jax.nn.log_sigmoid(margin), negatives)


class TOP1(Activated):
    """The relative rank of the target, with a pull of the negatives' scores to 0."""

    name: Literal["top1"] = "top1"

    def activated(self, scores: Array, own: Array, weight: Array, own_weight: Array | float) -> Array:
        margin = scores - _pick(scores, own)[:, None]
        return _mean(jax.nn.sigmoid(margin) + jax.nn.sigmoid(scores**2), _others(own, scores, weight))


class BPRMax(Activated):
    """BPR against the negatives weighted by their softmax, with a pull of their scores to 0."""

    name: Literal["bpr_max"] = "bpr_max"
    bpreg: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the score regularisation."""

    def activated(self, scores: Array, own: Array, weight: Array, own_weight: Array | float) -> Array:
        return bpr_max(scores, own, weight, self.bpreg)


class TOP1Max(Activated):
    """TOP1 with the negatives weighted by their softmax."""

    name: Literal["top1_max"] = "top1_max"

    def activated(self, scores: Array, own: Array, weight: Array, own_weight: Array | float) -> Array:
        share, _ = _softmax(scores, _others(own, scores, weight))
        margin = scores - _pick(scores, own)[:, None]
        return jnp.sum(share * (jax.nn.sigmoid(margin) + jax.nn.sigmoid(scores**2)), axis=-1)


def _cross_entropy_forward(
    scores: Array, own: Array, weight: Array, own_weight: Array | float
) -> tuple[Array, tuple[Array, Array, Array]]:
    top = jnp.max(jnp.where(weight > 0, scores, -jnp.inf), axis=-1, keepdims=True)
    mass = jnp.where(weight > 0, jnp.exp(scores - top) * weight, 0.0)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    loss = (jnp.log(total) + top)[..., 0] - _pick(scores, own) - jnp.log(own_weight)
    return loss, (mass, total, own)


def _cross_entropy_backward(saved: tuple[Array, Array, Array], slope: Array) -> tuple[Array | None, ...]:
    mass, total, own = saved
    share = mass / jnp.where(total > 0, total, 1.0)  # there is no mass in a step that is padding
    return slope[:, None] * (share - _is_own(own, share)), None, None, None


def _bpr_max_forward(scores: Array, own: Array, weight: Array, bpreg: float) -> tuple[Array, tuple[Array, ...]]:
    share, any_negative = _softmax(scores, _others(own, scores, weight))
    above = jax.nn.sigmoid(_pick(scores, own)[:, None] - scores)
    ranked, square = jnp.sum(above * share, axis=-1), jnp.sum(scores**2 * share, axis=-1)
    loss = jnp.where(any_negative, -jnp.log(ranked + TINY) + bpreg * square, 0.0)
    return loss, (scores, own, share, above, ranked, square)


def _bpr_max_backward(bpreg: float, saved: tuple[Array, ...], slope: Array) -> tuple[Array | None, ...]:
    """With the share p and the sigmoid a of each negative and the sums A = sum p a and Q = sum p s^2: for a negative -p
    (a^2 - A) / A + bpreg p (s^2 - Q + 2 s), for the target -sum p a (1 - a) / A."""
    scores, own, share, above, ranked, square = saved
    inverse = (1.0 / (ranked + TINY))[:, None]
    of_rank = (ranked[:, None] - above**2) * inverse
    of_size = bpreg * (scores * (scores + 2.0) - square[:, None])
    of_target = -jnp.sum(share * above * (1.0 - above), axis=-1, keepdims=True) * inverse
    # Without a negative all shares are 0, and so is the derivative.
    return slope[:, None] * (share * (of_rank + of_size) + jnp.where(_is_own(own, scores), of_target, 0.0)), None, None


cross_entropy: Any = by_hand(_cross_entropy_forward, _cross_entropy_backward)
bpr_max: Any = by_hand(_bpr_max_forward, _bpr_max_backward, (3,))


def _pick(scores: Array, own: Array) -> Array:
    """float32[B]: each lane's own score, read and not summed over a mask, which would be a pass over all scores."""
    return jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]


def _is_own(own: Array, scores: Array) -> Array:
    return own[:, None] == jnp.arange(scores.shape[1])


def _others(own: Array, scores: Array, weight: Array) -> Array:
    """float32[B, C]: the weight of each column among the lane's negatives."""
    return weight - _is_own(own, scores)


def _mean(values: Array, weight: Array) -> Array:
    return jnp.sum(values * weight, axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1.0)


def _softmax(scores: Array, weight: Array) -> tuple[Array, Array]:
    """Softmax over the weighted columns, and whether there is any; zeros where there is none."""
    used = weight > 0
    top = jnp.max(jnp.where(used, scores, -jnp.inf), axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    mass = jnp.where(used, jnp.exp(jnp.where(used, scores - top, 0.0)) * weight, 0.0)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    return mass / jnp.where(total > 0, total, 1.0), total[..., 0] > 0


# ---- what queries are ranked against ---------------------------------------------------------------------------------


def _scores_forward(queries: Array, rows: Array, on: Placement) -> tuple[Array, tuple[Array, ...]]:
    """float32[B, C]: the products of float32[B, Q] queries and float32[C, Q] rows of candidates."""
    return on.product(queries, rows.T), on.rounded(queries, rows)


def _scores_backward(on: Placement, saved: tuple[Array, ...], slope: Array) -> tuple[Array, Array]:
    """For XLA's products on a CPU: by the rows with the queries on the left, then transposed (1.9 ms instead of 3.2),
    by many queries in two parts, the larger of whole vector registers (1.6 ms, not 2.1)."""
    queries, rows = saved
    if on.platform != "cpu":
        return on.product(slope, rows), on.product(slope.T, queries)
    # Without the barrier XLA would swap the factors back.
    by_rows = jax.lax.optimization_barrier(on.product(queries.T, slope)).T
    whole_registers = rows.shape[1] // 32 * 32
    if len(queries) < 256 or whole_registers in (0, rows.shape[1]):
        return on.product(slope, rows), by_rows
    parts = [on.product(slope, rows[:, :whole_registers]), on.product(slope, rows[:, whole_registers:])]
    return jnp.concatenate(parts, axis=1), by_rows


scores_of: Any = by_hand(_scores_forward, _scores_backward, (2,))


class Step(NamedTuple):
    block: Any  # its part of the block
    drawn: Any  # what the ranking has drawn


class Popularity(NamedTuple):
    """What the training split says of items; None where the loss does not need it."""

    negatives: AliasTable | None
    log_popularity: Table | None  # float32[V]


class Negatives(NamedTuple):
    ids: Array  # int32[S, N]
    log_q: Array | None  # float32[S, B + N], how strongly each candidate is corrected for; None without correction
    weight: Array | None = None  # float32[S, B + N], of each candidate's column, where it is known beforehand


class Sampled:
    """A loss over the candidates of a step: its targets and ``n_sample`` drawn items."""

    dense = False  # where every item is scored in every step, the item table is dense

    def __init__(self, loss: SampledLoss, n_items: int) -> None:
        self._loss, self._n_items = loss, n_items
        self._logq = float(getattr(loss, "logq", 0.0))  # strength of the correction for how often an item is there

    def constants(self, counts: np.ndarray) -> Popularity:
        """Device arrays from int64[V] ``counts``, how often each item stands in the training split."""
        table = alias_table(counts, self._loss.sample_alpha) if self._loss.n_sample else None
        # An item that only validation or test knows can be neither a target nor a negative.
        log_popularity = jnp.asarray(np.log(np.maximum(counts, 1)), jnp.float32) if self._logq else None
        return Popularity(table, log_popularity)

    def draw(self, constants: Popularity, target: Array, keys: Array, on: Placement = ONE) -> Negatives:
        """What is drawn for int32[S, P] targets, with one key a step."""
        table, n = constants.negatives, self._loss.n_sample
        ids = jnp.zeros((len(target), 0), jnp.int32) if table is None else draw(table, keys, n)
        return self.given(constants, target, ids, on)

    def given(self, constants: Popularity, target: Array, ids: Array, on: Placement = ONE) -> Negatives:
        """The same with given items, int32[S, N]."""
        if constants.log_popularity is None:
            return Negatives(on.whole(ids), None)
        # A target stands there in proportion to p, a drawn item to p ** alpha; raw counts, as in the authors' code.
        of_targets = rows_at(constants.log_popularity, target)
        of_negatives = self._loss.sample_alpha * rows_at(constants.log_popularity, ids)
        log_q = self._logq * jnp.concatenate([of_targets, of_negatives], axis=1)
        return Negatives(on.whole(ids), on.whole(log_q))

    def reads(self, target: Array, live: Array, drawn: Negatives) -> Reads:
        """What a step with int32[P] targets, of which bool[P] are live, reads of the item table."""
        own = jnp.where(live, target, self._n_items)
        # A step without a live lane (the padding of an epoch's last block) must not touch a row.
        return {"target": Read(own), "negative": Read(jnp.where(jnp.any(live), drawn.ids, self._n_items))}

    def total(
        self, tables: Tables, table: str, queries: Array, target: Array, weight: Array, drawn: Any, constants: Any
    ) -> Array:
        """float32[], the sum of the losses of float32[P, Q] queries, each times its float32[P] weight."""
        return jnp.sum(self.losses(tables, table, queries, weight > 0, drawn) * weight)

    def losses(self, tables: Tables, table: str, queries: Array, live: Array, drawn: Negatives) -> Array:
        """float32[B], the loss of each query; 0 where it is not live."""
        on, (vectors, slot) = tables.on, tables.columns(table, "target", "negative")
        scores = on.dealt(scores_of(on.dealt(queries), vectors, on))  # [B, B + N]
        slot = on.whole(slot)
        weight, own_weight = self.weights(slot, live, drawn, on)
        return jnp.where(live, self._loss(scores, on.dealt(slot[: len(live)]), weight, own_weight), 0.0)

    def counted(self, steps: Any, plan: RowPlan, on: Placement) -> Negatives:
        """The negatives of a block with the ``weights`` of all its steps, [S, B + N]. Occurrences are counted as whole
        numbers, whose sums do not depend on their order: of an item as a target, and as a negative."""
        drawn, live = steps.drawn, on.whole(steps.block.weight > 0)  # [S, B]
        (s, b), width = live.shape, live.shape[1] + drawn.ids.shape[1]
        there = jnp.any(live, axis=1, keepdims=True)

        def counts(slot: Array, occurs: Array) -> Array:
            place = jnp.where(occurs, slot + width * jnp.arange(s)[:, None], s * width)
            ones = jnp.ones(place.size, jnp.int32)
            sums = jnp.zeros(s * width, jnp.int32).at[place.reshape(-1)].add(ones, mode="drop")
            return sums.reshape(s, width).astype(jnp.float32)

        targets, negatives = counts(plan.slot[:, :b], live), counts(plan.slot[:, b:width], there)
        if drawn.log_q is None:
            return drawn._replace(weight=on.whole(targets + negatives))
        # In a column of a target the same item is drawn in proportion to p ** alpha; no target is in one of a negative.
        of_negatives = jnp.where(jnp.arange(width) < b, self._loss.sample_alpha * drawn.log_q, drawn.log_q)
        weight = targets * jnp.exp(-drawn.log_q) + negatives * jnp.exp(-of_negatives)
        return drawn._replace(weight=on.whole(weight))

    def weights(self, slot: Array | None, live: Array, drawn: Negatives, on: Placement = ONE) -> tuple[Array, Array]:
        """float32[B + N], the weight of each candidate's column, and float32[B], of each query's own occurrence;
        without a ``slot`` each candidate has a column of its own."""
        if drawn.weight is not None:
            own = drawn.log_q
            return drawn.weight, jnp.ones(len(live)) if own is None else jnp.exp(-own[: len(live)])
        negatives = jnp.broadcast_to(jnp.any(live).astype(jnp.float32), drawn.ids.shape)
        occurrence = jnp.concatenate([live.astype(jnp.float32), negatives])
        own_weight = jnp.ones(len(live))
        if drawn.log_q is not None:
            correction = jnp.exp(-drawn.log_q)
            occurrence, own_weight = occurrence * correction, correction[: len(live)]
        if slot is None:
            return on.whole(occurrence), own_weight
        return on.whole(jnp.zeros(len(slot)).at[slot].add(on.whole(occurrence))), own_weight


class Full:
    """Exact cross-entropy over the whole catalogue; its methods are those of ``Sampled``."""

    dense = True

    def __init__(self, loss: FullSoftmax, n_items: int) -> None:
        self._loss, self._n_items = loss, n_items

    def constants(self, counts: np.ndarray) -> Array | None:
        """float32[V], added to the training scores. An item that never occurs counts as one that occurs once."""
        strength = self._loss.prior
        return jnp.asarray(strength * np.log(np.maximum(counts, 1)), jnp.float32) if strength else None

    def draw(self, constants: Any, target: Array, keys: Array, on: Placement = ONE) -> None:
        return None

    def reads(self, target: Array, live: Array, drawn: Any) -> Reads:
        return {}

    def total(
        self, tables: Tables, table: str, queries: Array, target: Array, weight: Array, drawn: Any, constants: Any
    ) -> Array:
        return self._loss(queries, tables.whole(table), target, weight, constants, tables.on, self._n_items)


def ranking(loss: LossConfig, n_items: int) -> Sampled | Full:
    """That of a configured loss, for a catalogue of ``n_items``."""
    return Full(loss, n_items) if isinstance(loss, FullSoftmax) else Sampled(SampledLoss.of(loss), n_items)
