"""bfloat16 products: rounded factors, sums in float32, forward and backward, in every model."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.config import models
from jaxrec.data.dataset import open_dataset
from jaxrec.ops.parallel import LOW, ONE, Placement
from jaxrec.programs.products import products
from jaxrec.tasks.base import make_task
from jaxrec.training.block import Training, make_train_block
from jaxrec.training.state import init_state


def rounded(values: np.ndarray) -> np.ndarray:
    """float64 values of the nearest bfloat16, by NumPy."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize(("left", "right"), [((3, 4, 5), (5, 6)), ((2, 3, 5), (2, 5, 4))], ids=["one", "batched"])
def test_factors_are_rounded_and_sums_are_not(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal(left).astype(np.float32), random.standard_normal(right).astype(np.float32)
    slope = random.standard_normal((*left[:-1], right[-1])).astype(np.float32)
    found, backward = jax.vjp(LOW.product, jnp.asarray(a), jnp.asarray(b))
    of_a, of_b = backward(jnp.asarray(slope))
    x, y, s = rounded(a), rounded(b), rounded(slope)
    each = np.einsum("...ik,...in->...kn", x, s)
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    near(found, x @ y)
    near(of_a, s @ y.swapaxes(-1, -2))
    near(of_b, each.sum(0) if len(right) == 2 else each)
    assert found.dtype == of_a.dtype == of_b.dtype == jnp.float32
    fine = jnp.full((2, 3), 1.0 + 2**-12)
    assert jnp.array_equal(ONE.product(fine, jnp.eye(3)), fine), "float32 is left alone"


def small(equation: Any) -> bool:
    """A product of a vector, such as the attention's sum over a row's states, or one that sums nothing."""
    contracted, shared = equation.params["dimension_numbers"]
    free = [
        [n for axis, n in enumerate(operand.aval.shape) if axis not in (*over, *along)]
        for operand, over, along in zip(equation.invars, contracted, shared, strict=True)
    ]
    return not contracted[0] or min(int(np.prod(side)) for side in free) == 1


@pytest.mark.parametrize("name", models())
def test_models_multiply_what_is_asked_for(name: str, worlds: Worlds) -> None:
    """Of every model's products of any size: all bfloat16, or none."""
    config = configuration.load(worlds.config(name))
    task = make_task(config, open_dataset(config.data.path))
    training = Training(config, task.model, task.feed)
    state = jax.eval_shape(lambda: init_state(task.model, training.optimizer, config.training))
    for low in (False, True):
        block = make_train_block(task.model, training.optimizer, None, on=Placement(low=low))
        traced = block.trace(state, task.constants, task.feed.like())
        kinds = [{operand.aval.dtype.name for operand in equation.invars}
                 for equation, _ in products(traced.jaxpr.jaxpr) if not small(equation)]  # fmt: skip
        assert kinds and all(kind == ({"bfloat16"} if low else {"float32"}) for kind in kinds)
