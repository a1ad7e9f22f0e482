"""The losses of two towers against plain loops, masks, and what they do where two vectors are one place."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxrec.losses.contrastive import infonce, triplet

Loss = Callable[[Array, Array, Array], Array]
C, B = 12, 30


def plain_triplet(own: np.ndarray, others: np.ndarray, wrong: np.ndarray, margin: float) -> np.ndarray:
    """By the vectors that have these cosines: float64[B]."""
    losses = []
    for row in range(len(own)):
        right = math.dist((1, 0), (own[row], math.sqrt(1 - own[row] ** 2)))
        terms = [
            max(0.0, margin + right - math.dist((1, 0), (cosine, math.sqrt(1 - cosine**2))))
            for cosine in others[wrong[:, row], row]
        ]
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return np.array(losses)


def plain_infonce(own: np.ndarray, others: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    losses = []
    for row in range(len(own)):
        total = math.exp(own[row]) + sum(math.exp(logit) for logit in others[wrong[:, row], row])
        losses.append(-math.log(math.exp(own[row]) / total))
    return np.array(losses)


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, and a mask with columns of nothing, of everything and of one."""
    random = np.random.default_rng(seed)
    own, others = random.uniform(-0.99, 0.99, B), random.uniform(-0.99, 0.99, (C, B))
    wrong = random.random((C, B)) < 0.6
    wrong[:, 0], wrong[:, 1], wrong[:, 2] = False, True, np.arange(C) == 4
    return own, others, wrong


@pytest.mark.parametrize("margin", [0.01, 0.5, 2.0])
def test_triplet(margin: float) -> None:
    own, others, wrong = drawn()
    found = triplet(jnp.float32(own), jnp.float32(others), jnp.asarray(wrong), margin)
    expected = plain_triplet(own, others, wrong, margin)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert expected[0] == found[0] == 0.0 and np.sum(expected > 0) > B / 2


@pytest.mark.parametrize("temperature", [1.0, 0.02])
def test_infonce(temperature: float) -> None:
    own, others, wrong = drawn(1)
    own, others = own / temperature, others / temperature
    found = np.asarray(infonce(jnp.float32(own), jnp.float32(others), jnp.asarray(wrong)))
    np.testing.assert_allclose(found, plain_infonce(own, others, wrong), rtol=1e-5, atol=1e-5)
    assert found[0] == 0.0, "alone it is certain"


def test_infonce_of_large_logits() -> None:
    """Of which the exponential is none in float32; a constant added to all does not matter."""
    own, others, wrong = drawn(2)
    plain = plain_infonce(own, others, wrong)
    for constant in (-5000.0, 5000.0):
        found = infonce(jnp.float32(own + constant), jnp.float32(others + constant), jnp.asarray(wrong))
        np.testing.assert_allclose(found, plain, rtol=2e-3, atol=2e-3)
    assert infonce(jnp.array([-5000.0]), jnp.array([[5000.0]]), jnp.array([[True]])) == 10_000.0


def triplet_of(margin: float) -> Loss:
    return lambda own, others, wrong: triplet(own, others, wrong, margin)


@pytest.mark.parametrize("loss", [triplet_of(0.5), infonce], ids=["triplet", "infonce"])
def test_what_is_not_wrong_says_nothing(loss: Loss) -> None:
    """Neither to the loss nor to the derivative, whatever it is."""
    own, others, wrong = (jnp.asarray(one, jnp.float32) for one in drawn())
    masked = wrong > 0
    for strange in (jnp.where(masked, others, 1.0), jnp.where(masked, others, -1.0)):
        np.testing.assert_array_equal(loss(own, others, masked), loss(own, strange, masked))
    slope = jax.jit(jax.grad(lambda others: jnp.sum(loss(own, others, masked))))(others)
    assert np.all(np.asarray(slope)[~np.asarray(masked)] == 0) and np.abs(np.asarray(slope)).max() > 0


@pytest.mark.parametrize("loss", [triplet_of(0.5), infonce], ids=["triplet", "infonce"])
def test_derivatives_where_vectors_are_one_place_or_opposite(loss: Loss) -> None:
    """A cosine may by rounding leave [-1, 1]; a row may have no wrong item."""
    query, cosines = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0 + 1e-6, -1.0, -1.0 - 1e-6])
    places = jnp.stack([cosines, jnp.zeros(4)], axis=1)

    def total(query: Array, right: Array, candidates: Array, wrong: Array) -> tuple[Array, Array]:
        losses = loss(right @ query, jnp.stack([candidates @ query, query[:1].repeat(4)]), wrong)
        return jnp.sum(losses), losses

    slope = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    for held in (True, False):
        (_, losses), slopes = slope(query, places, places, jnp.full((2, 4), held))
        assert np.isfinite(losses).all() and all(np.isfinite(one).all() for one in slopes)
        assert held or (not np.any(losses) and not any(np.any(one) for one in slopes))
