"""bfloat16 products: rounded factors, sums in float32, forward and backward, in every model; rankings hardly move."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import call
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.config.finding import models
from jaxrec.data.dataset import open_dataset
from jaxrec.ops.parallel import Placement
from jaxrec.tasks.base import make_task
from jaxrec.training.block import make_train_block, new_state
from jaxrec.training.optimizers import make_optimizer, make_schedule


def rounded(values: np.ndarray) -> np.ndarray:
    """float64 values of the nearest bfloat16, by NumPy."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize(("how", "left", "right"), [("product", (3, 4, 5), (5, 6)), ("batched", (2, 3, 5), (2, 5, 4))])
def test_factors_are_rounded_and_sums_are_not(how: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal(left).astype(np.float32), random.standard_normal(right).astype(np.float32)
    slope = random.standard_normal((*left[:-1], right[-1])).astype(np.float32)
    found, backward = jax.vjp(Placement(low=True).product, jnp.asarray(a), jnp.asarray(b))
    of_a, of_b = backward(jnp.asarray(slope))
    x, y, s = rounded(a), rounded(b), rounded(slope)
    each = np.einsum("...ik,...in->...kn", x, s)
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    near(found, x @ y)
    near(of_a, s @ y.swapaxes(-1, -2))
    near(of_b, each.sum(0) if how == "product" else each)
    assert found.dtype == of_a.dtype == of_b.dtype == jnp.float32


def test_float32_is_left_alone() -> None:
    a, b = jnp.full((2, 3), 1.0 + 2**-12), jnp.eye(3)
    assert jnp.array_equal(Placement().product(a, b), a)
    assert jnp.array_equal(Placement(low=True).product(a, b), jnp.ones((2, 3)))


def products(jaxpr: Any) -> Iterator[Any]:
    """The matrix products of a program and its loops, but for those under a condition: two towers rank there what is
    near, and rankings are float32."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            continue
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            yield from products(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else ()


@pytest.mark.parametrize("name", models())
def test_models_multiply_what_is_asked_for(name: str, worlds: Worlds) -> None:
    """Of every model's products of any size: all bfloat16, or none."""
    config = configuration.load(worlds.config(name))
    task = make_task(config, open_dataset(config.data.path))
    model, feed, constants = task.model, task.feed, task.constants
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 10))
    state = jax.eval_shape(lambda: new_state(config, model, optimizer))
    for low in (False, True):
        block = make_train_block(model, optimizer, None, on=Placement(low=low))
        traced = block.trace(state, constants, feed.like())
        kinds = [
            {operand.aval.dtype.name for operand in equation.invars}
            for equation in products(traced.jaxpr.jaxpr)
            if not _small(equation)
        ]
        assert kinds and all(kind == ({"bfloat16"} if low else {"float32"}) for kind in kinds)


def _small(equation: Any) -> bool:
    """A product of a vector, such as the attention's sum over a row's states, or one that sums nothing."""
    contracted, shared = equation.params["dimension_numbers"]
    free = [
        [n for axis, n in enumerate(operand.aval.shape) if axis not in (*over, *along)]
        for operand, over, along in zip(equation.invars, contracted, shared, strict=True)
    ]
    return not contracted[0] or min(int(np.prod(side)) for side in free) == 1


def test_rankings_hardly_move(config_file: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("float32", "bfloat16"):
        run = tmp_path / name
        assert call("train", "--config", config_file, "--run", run, "--training.precision", name) == 0
        assert call("evaluate", "--run", run) == 0
        found[name] = json.loads((run / "eval-test.json").read_text())
    assert found["bfloat16"] != found["float32"]
    for metric in ("recall@20", "mrr@20"):
        assert found["bfloat16"][metric] == pytest.approx(found["float32"][metric], rel=0.01)
