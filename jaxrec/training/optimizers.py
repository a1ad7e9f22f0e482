"""The optimizers, as optax transformations that serve dense parameters and table rows alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from jaxrec.config.sections import Config, Fraction, OptimizerConfig, Positive


class Optimizer(NamedTuple):
    dense: optax.GradientTransformation  # of the dense parameters
    tables: optax.GradientTransformation  # of the embedding tables; often the same


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step: a linear warm-up, then constant or falling to the last step."""
    peak, rest = config.learning_rate, max(1, total_steps - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, config.warmup_steps), after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> Optimizer:
    constant = config.schedule == "constant" and not config.warmup_steps
    rate: Any = config.learning_rate if constant else schedule  # a constant needs no counter of its own in the state
    dense = optax.chain(*config.parts(optax.scale_by_learning_rate(rate)))
    if config.tables == "same":
        return Optimizer(dense, dense)
    share = config.table_learning_rate / config.learning_rate
    follow: Any = share * rate if constant else lambda step: share * schedule(step)
    return Optimizer(dense, optax.chain(scale_by_row_rss(), optax.scale_by_learning_rate(follow)))


class Adagrad(OptimizerConfig):
    """Adagrad (Duchi et al. 2011) as GRU4Rec's: the accumulator starts at 0, momentum sums the scaled updates."""

    name: Literal["adagrad"] = "adagrad"
    momentum: Fraction = 0.0
    """Decay of the sum of updates (0: off)."""
    epsilon: Positive | None = None
    """Inside the root (null: 1e-6)."""

    def parts(self, scale: optax.GradientTransformation) -> list[optax.GradientTransformation]:
        scaled = optax.scale_by_rss(0.0, 1e-6 if self.epsilon is None else self.epsilon)
        return [scaled, scale, *([optax.trace(self.momentum)] if self.momentum else [])]


class Adam(OptimizerConfig):
    """Adam. On embedding tables it is the lazy Adam of the field: only rows that were read move (softmax: all)."""

    name: Literal["adam"] = "adam"
    epsilon: Positive | None = None
    """Outside the root (null: 1e-8)."""
    beta1: Fraction = 0.9
    """First-moment decay."""
    beta2: Fraction = 0.999
    """Second-moment decay."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled decay of all weights (AdamW), times the learning rate; with dense tables only."""

    def check(self, config: Config) -> None:
        super().check(config)
        if self.weight_decay and self.tables == "same" and (needs := config.model.dense(config)):
            raise ValueError(f"optimizer.weight_decay: needs {needs}, since it decays all weights; set it to 0, or "
                             "optimizer.tables to rowwise_adagrad")  # fmt: skip

    def parts(self, scale: optax.GradientTransformation) -> list[optax.GradientTransformation]:
        moments = optax.scale_by_adam(self.beta1, self.beta2, 1e-8 if self.epsilon is None else self.epsilon)
        decay = [optax.add_decayed_weights(self.weight_decay)] if self.weight_decay else []
        return [moments, *decay, scale]


class SGD(OptimizerConfig):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    """Decay of the sum of updates (0: off)."""

    def parts(self, scale: optax.GradientTransformation) -> list[optax.GradientTransformation]:
        return [scale, *([optax.trace(self.momentum)] if self.momentum else [])]


def scale_by_row_rss(epsilon: float = 1e-6) -> optax.GradientTransformation:
    """Adagrad with one accumulator a row, float32[V, 1], of the means over the row of squares."""

    def init(tables: Any) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(jax.tree.map(lambda table: jnp.zeros((table.shape[0], 1), jnp.float32), tables))

    def update(gradient: Any, state: Any, tables: Any = None) -> tuple[Any, optax.ScaleByRssState]:
        squares = jax.tree.map(lambda slope: jnp.mean(slope**2, axis=1, keepdims=True), gradient)
        sums = jax.tree.map(jnp.add, state.sum_of_squares, squares)
        scaled = jax.tree.map(lambda slope, total: slope * jax.lax.rsqrt(total + epsilon), gradient, sums)
        return scaled, optax.ScaleByRssState(sums)

    return optax.GradientTransformation(init, update)
