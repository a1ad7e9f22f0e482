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
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxrec.config.sections import Config, LossConfig, Positive
from jaxrec.ops.parallel import by_hand

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

    @property
    def correction(self) -> float:
        """Strength of the logQ correction for how often each item is a candidate, the field ``logq``; 0: off."""
        return float(getattr(self, "logq", 0.0))

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
