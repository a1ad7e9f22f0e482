"""The optimizers, as optax transformations that serve dense parameters and table rows alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrec.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step: a linear warm-up, then constant or falling to the last step."""
    peak, rest = config.learning_rate, max(1, total_steps - config.warmup_steps)
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, peak * config.final_fraction, rest)
    else:
        after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


class Optimizer(NamedTuple):
    """What updates the dense parameters, and what updates the embedding tables; often the same."""

    dense: optax.GradientTransformation
    tables: optax.GradientTransformation


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> Optimizer:
    """The configured optimizers. Every operation is by element or by row, so that ``tables.update_rows`` may apply them
    to single rows.

    Adagrad (Duchi et al. 2011) is GRU4Rec's: the accumulator starts at 0, epsilon stands inside the root, and momentum
    sums the scaled updates.
    """
    parts: list[optax.GradientTransformation] = []
    if config.name == "adagrad":
        parts.append(optax.scale_by_rss(0.0, 1e-6 if config.epsilon is None else config.epsilon))
    elif config.name == "adam":
        epsilon = 1e-8 if config.epsilon is None else config.epsilon
        parts.append(optax.scale_by_adam(config.beta1, config.beta2, epsilon))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay))  # Loshchilov & Hutter 2019: beside the moments
    # A constant rate needs no counter of its own in the state.
    rate: Any = config.learning_rate if _constant(config) else schedule
    parts.append(optax.scale_by_learning_rate(rate))
    if config.momentum:
        parts.append(optax.trace(config.momentum))
    dense = optax.chain(*parts)
    if config.tables == "same":
        return Optimizer(dense, dense)
    share = config.table_learning_rate / config.learning_rate
    follow: Any = share * rate if _constant(config) else lambda step: share * schedule(step)
    return Optimizer(dense, optax.chain(scale_by_row_rss(), optax.scale_by_learning_rate(follow)))


class RowRssState(NamedTuple):
    """float32[V, 1] of each table: the sum over steps of the mean square of the row's gradient."""

    sum_of_squares: Any


def scale_by_row_rss(epsilon: float = 1e-6) -> optax.GradientTransformation:
    """Adagrad with one accumulator a row, the row-wise Adagrad of recommenders with large tables.

    Its state is a number for each row, where Adagrad's is as large as the table.
    """

    def init(tables: Any) -> RowRssState:
        return RowRssState(jax.tree.map(lambda table: jnp.zeros((table.shape[0], 1), jnp.float32), tables))

    def update(gradient: Any, state: RowRssState, tables: Any = None) -> tuple[Any, RowRssState]:
        def add(total: Array, slope: Array) -> Array:
            return total + jnp.mean(slope**2, axis=1, keepdims=True)

        sums = jax.tree.map(add, state.sum_of_squares, gradient)
        scaled = jax.tree.map(lambda slope, total: slope * jax.lax.rsqrt(total + epsilon), gradient, sums)
        return scaled, RowRssState(sums)

    return optax.GradientTransformation(init, update)


def clip_scale(squares: Array, clip_norm: float | None) -> Array | float:
    """The factor that brings a gradient of squared norm ``squares`` down to ``clip_norm``; 1 where it is within."""
    if clip_norm is None:
        return 1.0
    return jnp.minimum(1.0, clip_norm * jax.lax.rsqrt(jnp.maximum(squares, 1e-30)))


def _constant(config: OptimizerConfig) -> bool:
    return config.schedule == "constant" and not config.warmup_steps
