"""The recurrence of accelerators gives what that of CPUs does, which the models' NumPy references check."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import Array

from jaxrec.ops.gru import UNROLLED, gru_params, gru_sequence
from jaxrec.ops.parallel import Placement

pytestmark = pytest.mark.numbers

ROWS, INPUTS, UNITS = 3, 4, 5
Params = dict[str, Array]


class Layer(nn.Module):
    on: Placement

    @nn.compact
    def __call__(self, x: Array, reset: Array) -> Array:
        return gru_sequence(gru_params(self, "gru", INPUTS, UNITS), x, reset, self.on)


@partial(jax.jit, static_argnums=0)
def states_and_slopes(
    on: Placement, params: Params, x: Array, reset: Array, by: Array
) -> tuple[Array, tuple[Params, Array]]:
    layer = Layer(on)

    def total(params: Params, x: Array) -> tuple[Array, Array]:
        states: Any = layer.apply({"params": params}, x, reset)
        return (states * by).sum(), states

    slopes, states = jax.grad(total, (0, 1), has_aux=True)(params, x)
    return states, slopes


@pytest.mark.parametrize("turns", [1, 6, UNROLLED + 5])
@pytest.mark.parametrize("low", [False, True])
def test_the_recurrence_is_the_same_on_every_platform(turns: int, low: bool) -> None:
    """States and derivatives, with resets and in turns that do not fill the last stretch of the loop."""
    random = np.random.default_rng(turns)
    x, by = (random.normal(size=(ROWS, turns, width)).astype(np.float32) for width in (INPUTS, UNITS))
    reset = random.random((ROWS, turns)) < 0.3
    params = Layer(Placement()).init(jax.random.key(0), x, reset)["params"]
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), params)
    expected, found = (
        states_and_slopes(Placement(low=low, platform=platform), params, x, reset, by) for platform in ("cpu", "gpu")
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=(0.02 if low else 1e-5) * np.abs(other).max())
