"""Exact cross-entropy in blocks: the value and derivatives of the plain formula, in bounded memory."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxrec.losses.softmax import FullSoftmax
from jaxrec.ops.parallel import LOW, ONE, Placement

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


@partial(jax.jit, static_argnums=(0, 2))
def value_and_grad(loss: FullSoftmax, case: Case, on: Placement = ONE) -> tuple[Array, tuple[Array, Array]]:
    return jax.value_and_grad(partial(loss, on=on), (0, 1))(*case)


def close(ours: Any, expected: np.ndarray, tolerance: float) -> None:
    """Within ``tolerance`` of the largest entry: small ones are sums of terms of both signs."""
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("smoothing", "prior", "scale"), [(0.1, True, 1.0), (0.0, False, 4000.0)])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_value_and_derivatives_are_those_of_the_definition(
    size: str, smoothing: float, prior: bool, scale: float, platform: str
) -> None:
    """Also of scores to ±1e4 and more, whose exponentials are infinite or 0."""
    case = make_case(*SIZES[size], prior=prior, scale=scale)
    loss = FullSoftmax(memory=1, label_smoothing=smoothing)
    value, (of_queries, of_items) = value_and_grad(loss, case, Placement(platform=platform))
    expected, by_queries, by_items = reference(case, smoothing)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    close(of_queries, by_queries, 1e-5 if scale == 1.0 else 1e-3)
    close(of_items, by_items, 1e-5 if scale == 1.0 else 1e-3)
    assert np.all(np.asarray(of_queries)[case.weight == 0] == 0.0), "what weighs nothing moves nothing"


@pytest.mark.parametrize(("items", "memory"), [(1_000_000, 8), (100_000, 64)])
def test_memory_is_bounded_by_the_option(items: int, memory: int) -> None:
    """Of the compiled derivative, beyond one array of the items' size, where all scores would take many times as much.
    Nothing is run."""
    queries, width = 512, 16
    like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((queries, width), (items, width), (queries,))]
    like.insert(2, jax.ShapeDtypeStruct((queries,), jnp.int32))
    loss = jax.value_and_grad(FullSoftmax(memory=memory), (0, 1))
    analysis = jax.jit(loss).lower(*like).compile().memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < 1.25 * memory * MIB + 4 * items * width
    assert 4 * queries * items > 2.5 * memory * MIB


@pytest.mark.parametrize(("memory", "platform", "turns"), [(None, "cpu", 2), (None, "gpu", 0), (64, "gpu", 2)])
def test_blocks_of_the_default_are_those_of_the_platform(memory: int | None, platform: str, turns: int) -> None:
    """Turns of the loop over blocks of 30,000 by 1,000 scores, 114 MiB; one block is no loop."""
    case = make_case(1000, 30_000)
    loss = partial(FullSoftmax(memory=memory), on=Placement(platform=platform))
    scans = [one.params["length"] for one in jax.make_jaxpr(jax.grad(loss))(*case).eqns if one.primitive.name == "scan"]
    assert sum(scans) == turns


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
    value, slopes = value_and_grad(FullSoftmax(memory=1), case, LOW)
    expected, *by = reference(case)
    assert float(value) == pytest.approx(expected, rel=0.05)
    for found, wanted in zip(slopes, by, strict=True):
        assert np.linalg.norm(np.asarray(found) - wanted) < 0.1 * np.linalg.norm(wanted)
