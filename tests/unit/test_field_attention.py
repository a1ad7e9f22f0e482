"""Attention over fields and its derivative by hand, against einsum in float64, however many the rows are."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.ops.field_attention import LANES, attend

pytestmark = pytest.mark.numbers

CASES = [  # fields, heads, channels of all heads, rows
    (5, 2, 6, 3 * LANES),
    (4, 3, 3, LANES),  # heads of one channel
    (6, 2, 8, LANES + 6),  # no multiple
    (4, 4, 8, 1),
    (1, 2, 4, 5),  # a single field attends to itself
]


def plain(projected: Any, heads: int, keep: Any) -> Any:
    """Equations 5 to 8: relu(sum over j of weight_ij value_j + residual_i), [F, A, B]."""
    fields, _, rows = projected.shape
    query, key, value, residual = jnp.moveaxis(projected.reshape(fields, 4, heads, -1, rows), 1, 0)
    weights = jax.nn.softmax(jnp.einsum("ihcb,jhcb->ijhb", query, key), axis=1)
    mixed = jnp.einsum("ijhb,jhcb->ihcb", weights if keep is None else weights * keep, value) + residual
    return jnp.maximum(mixed, 0.0).reshape(fields, -1, rows)


@partial(jax.jit, static_argnames=("function", "heads"))
def forward_and_back(function: Any, projected: Any, slope: Any, heads: int, keep: Any) -> tuple[Any, Any]:
    result, back = jax.vjp(lambda x: function(x, heads, keep), projected)
    return result, back(slope)[0]


def inputs(fields: int, heads: int, width: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections, the slope of some loss at the result, and factors of the weights."""
    random = np.random.default_rng(fields + heads + width + rows)
    keep = (random.random((fields, fields, heads, rows)) < 0.7) / 0.7
    projected, slope = (random.normal(size=(fields, n * width, rows)) for n in (4, 1))
    return projected.astype(np.float32), slope.astype(np.float32), keep.astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dropped", [False, True])
def test_attention_and_its_derivative_are_those_of_the_equations(case: tuple[int, ...], dropped: bool) -> None:
    projected, slope, keep = inputs(*case)
    mask = keep if dropped else None
    found = forward_and_back(attend, projected, slope, case[1], mask)
    with jax.enable_x64(True):
        double = [None if leaf is None else np.float64(leaf) for leaf in (projected, slope, mask)]
        expected = jax.tree.map(np.asarray, forward_and_back(plain, *double[:2], case[1], double[2]))
    assert 0.1 < np.mean(expected[0] > 0) < 0.9, "the relu has both sides"
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
