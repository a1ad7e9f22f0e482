"""SASRec is the published one, by its equations in NumPy, and no position sees what is not its own past."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from numpy_sequence import double, sasrec_query
from packed import (
    all_prefixes,
    histories,
    make_model,
    make_weights,
    packed_block,
    prefix_block,
    queries,
    random_sessions,
)

N_ITEMS, WINDOW = 20, 7


@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 2), (2, 6)])
def test_the_queries_are_those_of_the_equations(blocks: int, heads: int) -> None:
    model = make_model("sasrec", N_ITEMS, model={"blocks": blocks, "heads": heads, "window": WINDOW})
    weights, sessions = make_weights(model), random_sessions([2, 7, 3, 8, 5], N_ITEMS)
    p, table = double(weights)
    expected = {
        (*prefix, target): sasrec_query(p, table[prefix], blocks, heads)
        for prefix, target in zip(*all_prefixes(sessions), strict=True)
    }
    block = packed_block(model, sessions)
    found = histories(block)
    assert sorted(found) == sorted(expected)
    assert any(start.max() > 1 for start in block.start), "several sessions to a row"
    np.testing.assert_allclose(
        queries(model, weights, block), [expected[history] for history in found], rtol=1e-4, atol=1e-5
    )


def test_later_clicks_and_neighbours_change_nothing() -> None:
    """Each position in turn is given another item: only the queries that see it move."""
    model = make_model("sasrec", N_ITEMS, model={"heads": 2, "window": WINDOW})
    weights, block = make_weights(model), packed_block(model, random_sessions([3, 4, 3, 8, 6], N_ITEMS))
    block = jax.tree.map(lambda leaf: leaf[:1], block)
    before = queries(model, weights, block)
    slots = block.slot[0][block.weight[0] > 0]
    row, column = np.divmod(slots, WINDOW)
    first = block.start[0][row, column]
    positions = list(zip(*np.nonzero(block.input[0] >= 0), strict=True))
    for r, c in positions:
        changed = block.input.copy()
        changed[0, r, c] = (changed[0, r, c] + 1) % N_ITEMS
        after = queries(model, weights, block._replace(input=changed))
        sees = (row == r) & (first <= c) & (c <= column)
        np.testing.assert_array_equal(after[~sees], before[~sees])
        assert np.all(np.abs(after[sees] - before[sees]).max(axis=1) > 1e-5)


def test_the_order_of_clicks_counts() -> None:
    """One block of attention alone would mix the earlier clicks in any order alike; positions tell them apart."""
    model = make_model("sasrec", N_ITEMS, model={"blocks": 1})
    weights = make_weights(model)
    one, other = queries(model, weights, prefix_block([[3, 5, 7], [5, 3, 7]], [1, 1], 5))
    assert np.abs(one - other).max() > 1e-3
    weights["params"]["positions"] *= 0.0
    one, other = queries(model, weights, prefix_block([[3, 5, 7], [5, 3, 7]], [1, 1], 5))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
