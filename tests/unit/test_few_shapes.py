"""Ranking by products in few shapes: what is padded is cut, and the ways to leave items out agree with NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.ops.topk import CHUNK
from jaxrec.tasks.vectors import nearest


def best(values: np.ndarray, allowed: np.ndarray, gone: np.ndarray, k: int) -> list[int]:
    order = np.argsort(-values, kind="stable")
    return [int(item) for item in order if allowed[item] and item not in gone][:k]


@pytest.mark.parametrize(("n", "rows"), [(70, 70), (70, 96), (70 * CHUNK - 9, 70 * CHUNK)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 1.0])
def test_the_nearest_of_some_items(n: int, rows: int, share: float) -> None:
    """Few that are left out are banned, of many the others are ranked alone; among equal scores, also at the cut, the
    lower index is first; the last rows are padding."""
    random = np.random.default_rng(5)
    table, queries = (random.integers(-1, 2, (size, 3)).astype(np.float32) for size in (rows, 4))
    table[n:] = 9  # which would win
    mask, gone = random.random(n) >= share, [random.integers(0, n, size) for size in (5, 0, 1)]
    for k in (1, 4, 33):
        found = nearest(jnp.asarray(queries), jnp.asarray(table), mask, gone, k, 64)()
        for query, own, (places, scores) in zip(queries, gone, found, strict=False):  # the last query is padding
            assert places.tolist() == best(table[:n] @ query, mask, own, k)
            np.testing.assert_array_equal(scores, table[places] @ query)
