"""NARM is the published one: the numbers of a PyTorch implementation, and the equations in NumPy.

``data/narm_reference.json`` says in its ``notes`` how its numbers were made. That a session read at once gives what its
prefixes give one by one is in ``test_sequence``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_gru import gru
from numpy_sequence import double, narm_query
from packed import (
    Weights,
    all_prefixes,
    histories,
    loss_and_slopes,
    make_model,
    make_weights,
    packed_block,
    random_sessions,
    scores,
)

from jaxrec.feeds.packed import PackedBlock
from jaxrec.models.narm import Config, NARMEncoder
from jaxrec.models.packed import Grid, SequenceModel
from jaxrec.ops.gru import gru_sequence

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "narm_reference.json").read_text())
SIZES = REFERENCE["sizes"]
TOLERANCE = 1e-5


def to_ours(theirs: dict[str, Any]) -> Weights:
    """Torch's names and layouts as ours. Row 0 of their items is padding; their c is [local; global]."""
    t = {name: np.asarray(value, np.float32) for name, value in theirs.items()}
    decoder = t["b.weight"]  # [2H, D]
    params = {
        "gru_input_kernel": t["gru.weight_ih_l0"].T,
        "gru_hidden_kernel": t["gru.weight_hh_l0"].T,
        "gru_input_bias": t["gru.bias_ih_l0"],
        "gru_hidden_bias": t["gru.bias_hh_l0"],
        "attention_each": t["a_1.weight"].T,
        "attention_last": t["a_2.weight"].T,
        "attention_value": t["v_t.weight"].T,
        "decoder": np.concatenate([decoder[SIZES["hidden"] :], decoder[: SIZES["hidden"]]]),
    }
    return jax.tree.map(jnp.asarray, {"params": params, "tables": {"item": t["emb.weight"][1:]}})


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    return make_model(
        "narm", SIZES["items"],
        model={"embedding_dim": SIZES["embedding"], "layers": [SIZES["hidden"]], "window": 8},
    )  # fmt: skip


@pytest.fixture(scope="module")
def block(model: SequenceModel) -> PackedBlock:
    """Their sessions as our feed packs them, in two steps."""
    made = packed_block(model, REFERENCE["sessions"])
    assert len(made.input) == 2
    return made


def test_the_scores_of_every_prefix_are_the_recorded_ones(model: SequenceModel, block: PackedBlock) -> None:
    prefixes = [tuple(REFERENCE["sessions"][session][: length + 1]) for session, length in REFERENCE["prefixes"]]
    found = dict(zip(histories(block), scores(model, to_ours(REFERENCE["weights"]), block), strict=True))
    assert len(found) == len(prefixes) == len(set(prefixes))
    for prefix, expected in zip(prefixes, REFERENCE["scores"], strict=True):
        np.testing.assert_allclose(found[prefix], expected[1:], rtol=TOLERANCE, atol=TOLERANCE)


def test_the_query_after_a_whole_session_is_the_recorded_one(model: SequenceModel) -> None:
    """As recommending asks for it: sessions of different lengths side by side, padded behind their ends."""
    weights, sessions = to_ours(REFERENCE["weights"]), REFERENCE["sessions"]
    items = np.zeros((len(sessions), 8), np.int32)
    for row, session in enumerate(sessions):
        items[row, : len(session)] = session
    length = jnp.asarray([len(session) for session in sessions])
    found = jax.jit(model.last_query)(weights["params"], weights["tables"], jnp.asarray(items), length)
    expected = np.array(REFERENCE["scores_of_whole_sessions"])[:, 1:]
    np.testing.assert_allclose(found @ weights["tables"]["item"].T, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_loss_and_all_its_derivatives_are_the_recorded_ones(model: SequenceModel, block: PackedBlock) -> None:
    """Theirs is a mean over prefixes, ours a sum."""
    count = len(REFERENCE["prefixes"])
    loss, slopes = loss_and_slopes(model, to_ours(REFERENCE["weights"]), block)
    assert float(loss) / count == pytest.approx(REFERENCE["loss_items_only"], rel=TOLERANCE)
    expected = to_ours(REFERENCE["gradients_items_only"])
    assert slopes["params"].keys() == expected["params"].keys()
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
        assert ours.shape == theirs.shape and np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(ours / count, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def narm_encoder(**fields: Any) -> NARMEncoder:
    return Config(layers=(4,), embedding_dim=3, **fields).encoder()


@pytest.mark.parametrize("attention", ["sum", "softmax"])
def test_the_scores_are_those_of_the_equations(attention: str) -> None:
    model = make_model("narm", 20, model={"attention": attention, "window": 9})
    weights, sessions = make_weights(model), random_sessions([2, 9, 4, 6, 7], 20)
    block = packed_block(model, sessions)
    p, table = double(weights)
    prefixes, targets = all_prefixes(sessions)
    expected = {
        (*prefix, target): table @ narm_query(p, table[prefix], attention == "softmax")
        for prefix, target in zip(prefixes, targets, strict=True)
    }
    found = histories(block)
    assert sorted(found) == sorted(expected)
    np.testing.assert_allclose(
        scores(model, weights, block), [expected[history] for history in found], rtol=1e-4, atol=TOLERANCE
    )


def test_normalised_attention_weights_sum_to_one() -> None:
    """States that are all alike mix to that state, however many there are; unnormalised ones do not."""
    kinds = [narm_encoder(attention=attention) for attention in ("softmax", "sum")]
    vectors, grid = jnp.ones((1, 6, 3)), Grid(jnp.zeros((1, 6), jnp.int32), jnp.arange(6))
    params = jax.jit(kinds[0].init, static_argnums=3)(jax.random.key(0), vectors, grid, False)["params"]
    # The update gate open, nothing from the state before: h is the same after every click.
    params |= {"gru_hidden_kernel": jnp.zeros((4, 12)), "gru_input_bias": jnp.repeat(jnp.array([0.0, -30.0, 1.0]), 4)}
    params["decoder"] = jnp.eye(8, 3, -4)  # shows the local part
    softmax, unnormalised = (
        jax.jit(kind.apply, static_argnums=3)({"params": params}, vectors, grid, False) for kind in kinds
    )
    assert isinstance(softmax, jax.Array) and isinstance(unnormalised, jax.Array)
    np.testing.assert_allclose(softmax, np.broadcast_to(softmax[0], softmax.shape), rtol=1e-5)
    np.testing.assert_allclose(unnormalised, np.arange(1, 7)[:, None] * unnormalised[0], rtol=1e-5)


def test_the_gru_over_a_sequence_is_its_cell_step_by_step() -> None:
    """With the state forgotten where a chunk begins, and only there."""
    random, (rows, columns, inputs, units) = np.random.default_rng(0), (3, 7, 4, 5)
    shapes: dict[str, tuple[int, ...]] = {"input_kernel": (inputs, 3 * units), "hidden_kernel": (units, 3 * units)}
    shapes |= {"input_bias": (3 * units,), "hidden_bias": (3 * units,)}
    p = {name: random.normal(size=shape) for name, shape in shapes.items()}
    x, reset = random.normal(size=(rows, columns, inputs)), random.random((rows, columns)) < 0.3
    reset[0] = False
    assert reset[1:, 1:].any()
    expected = np.zeros((rows, columns, units))
    for row in range(rows):
        h = np.zeros(units)
        for column in range(columns):
            h = expected[row, column] = gru(p, x[row, column], np.zeros(units) if reset[row, column] else h)
    params = {name: jnp.asarray(value, jnp.float32) for name, value in p.items()}
    found = jax.jit(gru_sequence)(params, jnp.asarray(x, jnp.float32), jnp.asarray(reset))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=TOLERANCE)


def test_dropout_before_the_decoder_keeps_the_mean() -> None:
    """Queries are linear in what is dropped there, so they scatter around those without dropout."""
    encoder = narm_encoder(dropout_hidden=0.5)
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 3)), jnp.float32)
    grid = Grid(jnp.zeros((1, 5), jnp.int32), jnp.arange(5))
    params = jax.jit(encoder.init, static_argnums=3)(jax.random.key(0), vectors, grid, False)

    def query(key: jax.Array, train: bool) -> Any:
        return encoder.apply(params, vectors, grid, train, rngs={"dropout": key})

    keys = jax.random.split(jax.random.key(1), 4000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: query(key, True)))(keys))
    plain, again = (np.asarray(jax.jit(query, static_argnums=1)(key, False)) for key in keys[:2])
    np.testing.assert_array_equal(plain, again)
    error = found.std(axis=0) / np.sqrt(len(keys))
    assert np.all(error > 0)
    assert np.all(np.abs(found.mean(axis=0) - plain) < 5 * error)
