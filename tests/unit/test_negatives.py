"""Alias tables hold popularity ** alpha exactly, and draws follow them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from jaxrec.losses.candidates import AliasTable, alias_table, draw

COUNTS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**9)), min_size=1, max_size=40).filter(any)
ALPHAS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
jitted_draw = jax.jit(draw, static_argnames="n")


def implied(table: AliasTable) -> np.ndarray:
    """float64[V]: the probability of each item, from the definition of the table."""
    keep, other = np.asarray(table.keep, np.float64), np.asarray(table.other)
    assert np.all(keep >= 0.0)
    assert np.all(keep <= 1.0)
    probability = keep / len(keep)
    np.add.at(probability, other, (1.0 - keep) / len(keep))
    return probability


def wanted(counts: np.ndarray, alpha: float) -> np.ndarray:
    mass = np.array([float(count) ** alpha if count else 0.0 for count in counts])
    return mass / mass.sum()


def check(counts: np.ndarray, alpha: float) -> None:
    found, expected = implied(alias_table(counts, alpha)), wanted(counts, alpha)
    # ``keep`` is a float32: 2 ** -24 of a column of 1 / V, for each column that tops an item up.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert np.all(found[counts == 0] == 0.0), "an item that never occurs is never drawn"


@given(COUNTS, ALPHAS)
@settings(max_examples=150, deadline=None)
def test_the_table_holds_the_wanted_probabilities(counts: list[int], alpha: float) -> None:
    check(np.array(counts), alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("counts", [[1], [49], [0, 0, 5], [7] * 49, [1] * 1000 + [10**12], [0, 1, 2], list(range(300))])
def test_special_counts(counts: list[int], alpha: float) -> None:
    """Of a single item 49 * (1 / 49) is below 1 in float64: no column reaches the mean."""
    check(np.array(counts), alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_draws_follow_the_probabilities(alpha: float) -> None:
    counts = np.array([900, 0, 50, 3, 47, 0, 1, 400, 12])
    n = 200_000
    drawn = np.bincount(np.asarray(jitted_draw(alias_table(counts, alpha), jax.random.key(3), n=n)), minlength=9)
    assert drawn.sum() == n
    assert drawn[1] == drawn[5] == 0
    expected = n * wanted(counts, alpha)
    chi_square = ((drawn - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert chi_square < 24.3  # 6 degrees of freedom leave this once in 2,000 keys; the key is fixed


def test_draws_do_not_depend_on_the_blocking() -> None:
    table = alias_table(np.arange(1, 50), 0.5)
    keys = jax.random.split(jax.random.key(0), 6)

    @jax.jit
    def block(keys: Array) -> Array:
        return jax.vmap(lambda key: draw(table, key, 32))(keys)

    whole = np.asarray(block(keys))
    np.testing.assert_array_equal(np.concatenate([block(keys[:2]), block(keys[2:])]), whole)
    np.testing.assert_array_equal(np.stack([jitted_draw(table, key, n=32) for key in keys]), whole)
    assert len(np.unique(whole, axis=0)) == 6, "each step draws anew"
