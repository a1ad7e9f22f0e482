"""Batch normalisation by hand is the one of flax, dropout behind it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import apart

from jaxrec.ops.batch_norm import batch_norm


@pytest.mark.numbers
@pytest.mark.parametrize("dropped", [False, True])
def test_it_normalises_and_differentiates_as_flax_does(dropped: bool) -> None:
    """Some rows are not among the statistics, though normalised; a unit is dead."""
    random = np.random.default_rng(0)
    x, by = random.normal(1.5, 2.0, (11, 4)), random.normal(size=(11, 4))
    x[:, 2] = 0.0
    counted, scale, bias = np.arange(11) < 7, random.normal(size=4), random.normal(size=4)
    keep = (random.random((11, 4)) < 0.6) / 0.6 if dropped else None
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0)

    def of_flax(x: Any, scale: Any, bias: Any) -> Any:
        variables = {"params": {"scale": scale, "bias": bias}}
        result, new = norm.apply(variables, x, mask=counted[:, None], mutable=["batch_stats"])
        statistics = new["batch_stats"]
        return result if keep is None else result * keep, statistics["mean"], statistics["var"]

    def by_hand(x: Any, scale: Any, bias: Any) -> Any:
        return batch_norm(x, jnp.where(counted, 1 / 7, 0.0), keep, scale, bias)

    def all_of(function: Any) -> Any:
        result, back = jax.vjp(function, x, scale, bias)
        return jax.tree.map(np.asarray, (result, back((jnp.asarray(by), jnp.zeros(4), jnp.zeros(4)))))

    with jax.enable_x64(True):
        assert apart(all_of(of_flax), all_of(by_hand)) < 1e-12
