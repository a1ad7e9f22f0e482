"""Exact cross-entropy in blocks: the value and derivatives of the plain formula, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jaxrec.losses.softmax import FEW_ITEMS, FEW_ROWS, Softmax, cut, softmax_cross_entropy

pytestmark = pytest.mark.numbers

MIB = 2**20

# Sizes for each way of cutting at 1 MiB of scores: queries, items, and the blocks they lead to.
SIZES = {
    "one block": (40, 50),
    "rows": (200, 3001),  # 3 blocks of 67, the last one short
    "rows, fewer queries than a block": (5, 3001),
    "items": (150, 5003),  # 3 blocks of 1668, the last one overlapping
    "items, in blocks of the smallest width": (2100, 4200),  # 33 blocks of 128
}
WIDTH = 6


class Case(NamedTuple):
    """Arguments of the loss, as NumPy arrays."""

    queries: np.ndarray
    items: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    prior: np.ndarray | None


def make_case(queries: int, items: int, prior: bool = False, scale: float = 1.0) -> Case:
    """Few distinct targets, so that some stand there several times; every fifth weight is 0."""
    random = np.random.default_rng(queries + items)
    weight = random.uniform(0.2, 3.0, queries) * (np.arange(queries) % 5 > 0)
    return Case(
        (scale * random.normal(size=(queries, WIDTH))).astype(np.float32),
        random.normal(size=(items, WIDTH)).astype(np.float32),
        random.choice(random.integers(0, items, max(2, queries // 3)), queries).astype(np.int32),
        weight.astype(np.float32),
        random.normal(size=items).astype(np.float32) if prior else None,
    )


def reference(case: Case, smoothing: float = 0.0) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss and its derivatives by queries and items, from the definition in float64."""
    queries, items, weight = (np.asarray(part, np.float64) for part in (case.queries, case.items, case.weight))
    scores = queries @ items.T + (0.0 if case.prior is None else case.prior)
    top = scores.max(axis=1, keepdims=True)
    log_share = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    truth = np.full(scores.shape, smoothing / len(items))
    truth[np.arange(len(queries)), case.target] += 1.0 - smoothing
    slope = weight[:, None] * (np.exp(log_share) - truth)
    return -float((weight[:, None] * truth * log_share).sum()), slope @ items, slope.T @ queries


@partial(jax.jit, static_argnums=0)
def value_and_grad(how: Softmax, case: Case) -> tuple[Array, tuple[Array, Array]]:
    return jax.value_and_grad(partial(softmax_cross_entropy, how), (0, 1))(*case)


def close(ours: Any, expected: np.ndarray, tolerance: float) -> None:
    """Within ``tolerance`` of the largest entry: small ones are sums of terms of both signs."""
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("smoothing", "prior"), [(0.0, False), (0.1, True)])
def test_value_and_derivatives_are_those_of_the_definition(size: str, smoothing: float, prior: bool) -> None:
    case = make_case(*SIZES[size], prior=prior)
    how = Softmax(memory=1, smoothing=smoothing)
    value, (of_queries, of_items) = value_and_grad(how, case)
    expected, by_queries, by_items = reference(case, smoothing)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    close(of_queries, by_queries, 1e-5)
    close(of_items, by_items, 1e-5)
    assert np.all(np.asarray(of_queries)[case.weight == 0] == 0.0), "what weighs nothing moves nothing"
    # Without a derivative the forward pass goes its own way.
    assert float(jax.jit(softmax_cross_entropy, static_argnums=0)(how, *case)) == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 5000), st.integers(1, 3_000_000), st.integers(1, 512))
def test_blocks_keep_within_the_memory(queries: int, items: int, memory: int) -> None:
    """But for the least width of a block of items; one of both sides is whole, and no block is much smaller."""
    rows, width = cut(queries, items, memory)
    assert 1 <= rows <= queries and 1 <= width <= items
    assert rows == queries or width == items
    assert rows >= min(queries, FEW_ROWS // 2)
    assert 4 * rows * width <= memory * MIB or (rows == queries and width <= FEW_ITEMS)
    if rows < queries:  # one block less would not have held them
        assert 4 * -(-queries // (-(-queries // rows) - 1)) * items > memory * MIB
    if width < items:
        assert -(-items // (-(-items // width) - 1)) > max(FEW_ITEMS, memory * MIB // 4 // queries)


@pytest.mark.parametrize("size", ["one block", "rows", "items"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_scores_stay_finite(size: str, smoothing: float) -> None:
    """Scores to ±1e4 and more, whose exponentials are infinite or 0."""
    case = make_case(*SIZES[size], scale=4000.0)
    assert np.abs(case.queries @ case.items.T).max() > 1e4
    value, (of_queries, of_items) = value_and_grad(Softmax(memory=1, smoothing=smoothing), case)
    expected, by_queries, by_items = reference(case, smoothing)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    close(of_queries, by_queries, 1e-3)
    close(of_items, by_items, 1e-3)


def plain(queries: Array, items: Array, target: Array, weight: Array) -> Array:
    log_share = jax.nn.log_softmax(queries @ items.T)
    return -jnp.sum(weight * jnp.take_along_axis(log_share, target[:, None], axis=1)[:, 0])


def temporary(loss: Callable[..., Array], queries: int, items: int, width: int) -> int:
    """Bytes that the compiled derivative holds beside its arguments and results."""
    shapes = [(queries, width), (items, width), (queries,), (queries,)]
    dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    like = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    analysis = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*like).compile().memory_analysis()
    assert analysis is not None
    return int(analysis.temp_size_in_bytes)


@pytest.mark.parametrize(
    ("queries", "items", "memory", "by"),
    [(512, 1_000_000, 64, "items"), (512, 1_000_000, 8, "items"), (512, 100_000, 64, "rows")],
)
def test_memory_is_bounded_by_the_option(queries: int, items: int, memory: int, by: str) -> None:
    """Beyond one array of the items' size. The plain formula holds all scores several times over. Nothing is run."""
    width = 16
    blocks = cut(queries, items, memory)
    assert (blocks.items < items) == (by == "items")
    scores, table = 4 * queries * items, 4 * items * width
    loss = partial(softmax_cross_entropy, Softmax(memory))
    assert temporary(loss, queries, items, width) < 1.25 * memory * MIB + table
    assert temporary(plain, queries, items, width) > 2 * scores > 5 * memory * MIB
    halved = partial(softmax_cross_entropy, Softmax(memory, "bfloat16"))  # and what is multiplied, in 2 bytes
    assert temporary(halved, queries, items, width) < 1.75 * memory * MIB + table


@pytest.mark.parametrize("size", ["rows", "items"])
def test_bfloat16_is_near_where_the_target_is_nearly_certain(size: str) -> None:
    """There the derivative is a small difference, which rounding its two parts would drown."""
    queries, items = SIZES[size]
    vectors = np.random.default_rng(0).normal(size=(items, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    target = np.random.default_rng(1).permutation(items)[:queries].astype(np.int32)
    temperature = 24.0 if size == "rows" else 26.0
    weight = np.ones(queries, np.float32)
    case = Case((temperature * vectors[target]).astype(np.float32), vectors.astype(np.float32), target, weight, None)
    value, slopes = value_and_grad(Softmax(memory=1, precision="bfloat16"), case)
    expected, *by = reference(case)
    assert float(value) == pytest.approx(expected, rel=0.05)
    for found, wanted in zip(slopes, by, strict=True):
        assert np.linalg.norm(np.asarray(found) - wanted) < 0.1 * np.linalg.norm(wanted)
