"""A small configuration, random weights and a step of a model outside the loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import config as configuration
from jaxrec.models.base import Model
from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import Tables, gather, plan_reads

Sections = dict[str, dict[str, Any]]


def config_of(*parts: Any) -> configuration.Config:
    """The configuration of these sections; later ones win over earlier ones."""
    values: Sections = {"data": {"path": "none"}}
    for part in parts:
        values |= {section: values.get(section, {}) | fields for section, fields in part.items()}
    return configuration.parse(values)


def random_weights(model: Model, scale: float = 0.6) -> dict[str, Any]:
    """``{params, tables}`` of normal noise: none is 0 or 1, as biases and scales are at first."""
    random = np.random.default_rng(0)
    like = {"params": jax.eval_shape(model.init, jax.random.key(0)),
            "tables": {name: np.zeros((spec.rows, spec.width)) for name, spec in model.tables.items()}}  # fmt: skip
    return jax.tree.map(lambda leaf: jnp.asarray(scale * random.normal(size=leaf.shape), jnp.float32), like)


class Taken(NamedTuple):
    """A step outside the loop."""

    step: Any  # what it works on
    mean: Any  # over its places, of its losses
    total: Any
    carry: Any
    slopes: Any  # the derivatives of the mean by the weights


def take_step(
    model: Any, constants: Any, block: Any, weights: Any, number: int = 0, carry: Any = (), key: int = 1,
    on: Placement = ONE,
) -> Taken:  # fmt: skip
    """The so manieth step of a block, with ``{params, tables}``; compiled once for a model and a placement."""
    found = _compiled(model, on)(weights, constants, block, number, carry, jax.random.key(key))
    return Taken(*jax.tree.map(np.asarray, found))


@cache
def _compiled(model: Any, on: Placement) -> Any:
    def take(weights: Any, constants: Any, block: Any, number: Any, carry: Any, key: Any) -> Taken:
        steps = model.steps(constants, block, jax.random.split(jax.random.key(5), len(block.weight)), on)
        step = jax.tree.map(lambda leaf: leaf[number], steps)

        def objective(weights: Any) -> Any:
            tables = tables_of(model, weights["tables"], step, on)
            return model.loss(weights["params"], tables, carry, step, key, constants)

        (mean, (new, total)), slopes = jax.value_and_grad(objective, has_aux=True)(weights)
        return Taken(step, mean, total, new, slopes)

    return jax.jit(take)


def assert_slopes(slopes: Any, function: Callable[[Any], float], at: Any, step: float, rel: float) -> None:
    """In any direction the derivative is the quotient of differences of a function of float64 arrays."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        way = jax.tree.map(lambda leaf, random=random: random.normal(size=leaf.shape), at)
        ends = [function(jax.tree.map(lambda leaf, by, s=s: np.float64(leaf) + s * by, at, way)) for s in (-step, step)]
        slope = sum(np.vdot(np.float64(a), b) for a, b in zip(*map(jax.tree.leaves, (slopes, way)), strict=True))
        assert slope == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=rel, abs=rel / 5)


def seen_by(start: np.ndarray, slots: np.ndarray) -> list[tuple[int, slice]]:
    """What each scored position of a packed grid sees: its row, and the columns up to itself."""
    places = [divmod(slot, start.shape[1]) for slot in slots.tolist()]
    return [(row, slice(start[row, column], column + 1)) for row, column in places]


class Scored(NamedTuple):
    """A scored position as a plain loop reads it from packed blocks."""

    history: tuple[int, ...]
    target: int
    weight: float


def scored(block: Any) -> list[Scored]:
    """Those of all steps that have a target."""
    return [
        Scored(tuple(source[place].tolist()), target, weight)
        for source, start, slots, targets, weights in zip(*block[:5], strict=True)
        for place, target, weight in zip(seen_by(start, slots), targets.tolist(), weights.tolist(), strict=True)
        if weight
    ]


def tables_of(model: Model, arrays: dict[str, Any], step: Any, on: Placement = ONE) -> Tables:
    """The tables as the training step hands them to the model."""
    reads = model.reads(step)
    plans = {
        name: plan_reads(jnp.zeros(spec.rows, jnp.int32), reads[name], jnp.int32(0), spec.width)[1]
        for name, spec in model.tables.items()
        if not spec.dense and name in reads
    }
    rows = {name: gather(array, plans[name]) if name in plans else array for name, array in arrays.items()}
    return Tables(rows, reads, plans, on)
