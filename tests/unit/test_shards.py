"""How rows are dealt over devices: which device reads what, in how many rounds, and how arrays are cut and joined.

That steps and ranks are those of whole tables is tested on eight devices (``tests/contract/test_models.py``)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from devices import dealt_array
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.errors import UserError
from jaxrec.ops.parallel import mesh_shape
from jaxrec.ops.rows import gathered_array, rows_each
from jaxrec.ops.shards import capacity, shares_of

pytestmark = pytest.mark.numbers

SHARDS, ROWS = 4, 50


@given(st.lists(st.integers(0, ROWS + 20), min_size=30, max_size=30, unique=True))
@settings(max_examples=50, deadline=None)
def test_each_position_is_handed_out_once_by_the_device_that_has_its_row(ids: list[int]) -> None:
    own = shares_of(jnp.asarray([ids], jnp.int32), ROWS, SHARDS)
    order, start, turn = (np.asarray(part[0]) for part in own)
    assert sorted(order.tolist()) == list(range(len(ids)))
    for device in range(SHARDS):
        positions = order[start[device] : start[device + 1]].tolist()
        assert positions == [at for at, row in enumerate(ids) if row < ROWS and row % SHARDS == device]
        assert turn[positions].tolist() == list(range(len(positions)))
    nothing = order[start[SHARDS] :]
    assert all(ids[at] >= ROWS for at in nothing) and np.all(turn[nothing] == -1)


@pytest.mark.parametrize("rows", [4, 15, 16, 17, 50, 1003])
def test_a_dealt_array_has_its_rows_round_robin_and_zeros_behind_them(rows: int) -> None:
    array = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    dealt, each = dealt_array(array, SHARDS), rows_each(rows, SHARDS)
    assert len(dealt) == SHARDS * each and each % SHARDS == 0 and len(dealt) - rows < SHARDS**2
    for device, part in enumerate(np.split(dealt, SHARDS)):
        mine = array[device::SHARDS]
        np.testing.assert_array_equal(part[: len(mine)], mine)
        assert not part[len(mine) :].any()
    np.testing.assert_array_equal(gathered_array(dealt, rows, SHARDS), array)


@pytest.mark.parametrize(("positions", "shards"), [(1, 2), (96, 8), (2304, 8), (2304, 16), (10_000, 256)])
def test_a_round_takes_more_than_an_even_share_and_never_more_than_there_is(positions: int, shards: int) -> None:
    """Of ids drawn evenly one device has more than a round takes in less than one step of a thousand."""
    size = capacity(positions, shards)
    assert min(positions, positions / shards) <= size <= positions
    drawn = np.random.default_rng(0).multinomial(positions, [1 / shards] * shards, size=1000).max(axis=1)
    assert np.count_nonzero(drawn > size) <= 10


@pytest.mark.parametrize(
    ("data", "model", "batch", "message"),
    [
        (None, 3, 24, r"mesh\.model: found 3; there are 8; give a divisor of that"),
        (4, 4, 32, r"mesh\.data x mesh\.model: found 4 x 4; there are 8; give at most that"),
        (2, 4, 12, r"batch_size: 12 cannot be shared evenly by 8 devices \(mesh\.data x mesh\.model\); .* is 16"),
        (9, 1, 18, r"mesh\.data: found 9; there are 8"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(data: int | None, model: int, batch: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mesh_shape(8, data, batch, model, "there are 8")
    assert mesh_shape(8, None, 32, 4, "there are 8") == (2, 4)
