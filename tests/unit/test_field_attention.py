"""Attention over fields and its derivative by hand, against einsum in float64, however many the rows are."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxrec.ops.field_attention import LANES, attend

pytestmark = pytest.mark.numbers

TOLERANCE = 2e-5


class Case(NamedTuple):
    fields: int
    heads: int
    width: int  # of all heads
    rows: int


CASES = [
    Case(5, 2, 6, 3 * LANES),
    Case(3, 1, 4, 2 * LANES),
    Case(4, 3, 3, LANES),  # heads of one channel
    Case(6, 2, 8, LANES + 6),  # no multiple
    Case(4, 4, 8, 1),
    Case(1, 2, 4, 5),  # a single field attends to itself
]


@cache
def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections, the slope of some loss at the result, and factors of the weights."""
    random = np.random.default_rng(sum(case))
    keep = (random.random((case.fields, case.fields, case.heads, case.rows)) < 0.7) / 0.7
    shapes = (case.fields, 4 * case.width, case.rows), (case.fields, case.width, case.rows)
    projected, slope = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return projected, slope, keep.astype(np.float32)


def parts(projected: np.ndarray, heads: int) -> Any:
    """Queries, keys, values and residuals, float64[F, h, c, B]."""
    fields, _, rows = projected.shape
    return np.moveaxis(np.float64(projected).reshape(fields, 4, heads, -1, rows), 1, 0)


def softmax(projected: np.ndarray, heads: int) -> np.ndarray:
    """[B, h, i, j]"""
    query, key, _, _ = parts(projected, heads)
    scores = np.einsum("ihcb,jhcb->bhij", query, key)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_row(keep: np.ndarray | None) -> Any:
    """[B, h, i, j] of [i, j, h, B]."""
    return 1.0 if keep is None else np.einsum("ijhb->bhij", keep)


def expected(projected: np.ndarray, heads: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Equations 5 to 8: relu(sum over j of weight_ij value_j + residual_i), [F, A, B]."""
    _, _, value, residual = parts(projected, heads)
    mixed = np.einsum("bhij,jhcb->ihcb", softmax(projected, heads) * by_row(keep), value) + residual
    return np.maximum(mixed, 0.0).reshape(len(mixed), -1, mixed.shape[-1])


def expected_slope(projected: np.ndarray, heads: int, slope: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    query, key, value, _ = parts(projected, heads)
    weights, kept = softmax(projected, heads), by_row(keep)
    above = (slope * (expected(projected, heads, keep) > 0)).reshape(value.shape)
    d_weights = np.einsum("ihcb,jhcb->bhij", above, value) * kept
    d_scores = weights * (d_weights - np.sum(weights * d_weights, axis=-1, keepdims=True))
    d_query, d_key = np.einsum("bhij,jhcb->ihcb", d_scores, key), np.einsum("bhij,ihcb->jhcb", d_scores, query)
    d_value = np.einsum("bhij,ihcb->jhcb", weights * kept, above)
    return np.stack([d_query, d_key, d_value, above], axis=1).reshape(projected.shape)


@partial(jax.jit, static_argnames="heads")
def forward_and_back(
    projected: jax.Array, slope: jax.Array, heads: int, keep: jax.Array | None
) -> tuple[jax.Array, ...]:
    result, back = jax.vjp(lambda x: attend(x, heads, keep), projected)
    return result, *back(slope)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dropped", [False, True])
def test_attention_and_its_derivative_are_those_of_the_equations(case: Case, dropped: bool) -> None:
    projected, slope, keep = inputs(case)
    mask = keep if dropped else None
    found, back = forward_and_back(projected, slope, case.heads, mask)
    assert found.shape == slope.shape and back.shape == projected.shape
    result, wanted = expected(projected, case.heads, mask), expected_slope(projected, case.heads, slope, mask)
    assert 0.1 < np.mean(result > 0) < 0.9, "the relu has both sides"
    np.testing.assert_allclose(found, result, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(back, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_rows_result_does_not_depend_on_its_neighbours() -> None:
    """Among many or few, and beside rows that are not finite."""
    case = CASES[0]
    projected, slope, _ = inputs(case)
    whole, _ = forward_and_back(projected, slope, case.heads, None)
    some = [0, 1, LANES - 1, LANES, case.rows - 1]
    few, _ = forward_and_back(projected[..., some], slope[..., some], case.heads, None)
    np.testing.assert_allclose(few, np.asarray(whole)[..., some], rtol=1e-6, atol=1e-7)
    spoilt = np.array(projected)
    spoilt[..., [5, LANES + 5]] = np.nan
    beside, _ = forward_and_back(spoilt, slope, case.heads, None)
    sound = np.setdiff1d(np.arange(case.rows), [5, LANES + 5])
    np.testing.assert_array_equal(np.asarray(beside)[..., sound], np.asarray(whole)[..., sound])
