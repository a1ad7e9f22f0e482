"""The compiled block: independent of its size, blind to padding, lanes apart; dense tables, decay and average."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import packed
import pytest
from steps import tables_of

from jaxrec import config as configuration
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Plan
from jaxrec.feeds.lanes import Block, lane_feed
from jaxrec.feeds.packed import PackedBlock
from jaxrec.losses.candidates import popularity
from jaxrec.models.base import SessionModel, make_model
from jaxrec.models.packed import SequenceModel
from jaxrec.ops.gru import gru_cell, onehot_gru_cell
from jaxrec.training.block import TrainState, init_state, make_train_block, new_state, training_plan
from jaxrec.training.optimizers import make_optimizer, make_schedule

pytestmark = pytest.mark.numbers

N_ITEMS, LANES, WIDTH = 30, 4, 5
# Without optimisation, as conftest.py has it, XLA rounds sums of a short loop otherwise than those of a long one.
REPEATABLE: dict[str, bool | str] = {"xla_backend_optimization_level": "1"}
PADDING = 1  # empty steps at the end of an epoch in blocks of at most 8


class Setup(NamedTuple):
    """A model with what trains it."""

    model: SessionModel
    state: Any  # a function: the block donates its state
    train_block: Any
    constants: Any


def make_sessions() -> Sessions:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 7, 24))]).astype(np.int64)
    items = rng.integers(0, N_ITEMS, offsets[-1]).astype(np.int32)
    return Sessions(items, np.arange(offsets[-1]), offsets)


SESSIONS = make_sessions()


@cache
def make(variant: str) -> Setup:
    """The variants share compilations between tests."""
    sections: dict[str, dict[str, Any]] = {
        "data": {"path": "none"},
        "model": {"layers": [WIDTH], "dropout_embedding": 0.2, "dropout_hidden": 0.3},
        "loss": {"n_sample": 8},
        "optimizer": {"learning_rate": 0.1} | ({} if variant == "separate" else {"momentum": 0.2}),
        "training": {"batch_size": LANES},
    }
    sgd: dict[str, Any] = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    changes: dict[str, dict[str, dict[str, Any]]] = {
        "constrained": {"loss": {"name": "bpr_max", "final_activation": "elu"}},
        "separate": {
            "model": {"layers": [4, WIDTH], "embedding": "separate", "embedding_dim": 3},
            "loss": {"logq": 1.0},
            "optimizer": {"name": "adam", "schedule": "linear"},
        },
        "onehot": {"model": {"embedding": "onehot"}, "loss": {"name": "top1"}},
        "in-batch": {"loss": {"n_sample": 0}, "optimizer": sgd},
        "clipped": {"loss": {"n_sample": 0}, "optimizer": sgd | {"clip_norm": 0.01}},
    }
    for name, change in changes[variant].items():
        sections[name] |= change
    config = configuration.parse(sections)
    model = make_model(config, N_ITEMS)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    train_block = make_train_block(model, optimizer, config.optimizer.clip_norm)
    return Setup(
        model,
        jax.jit(lambda seed=1: init_state(model, optimizer, seed, LANES)),  # op by op it takes seconds
        jax.jit(train_block, donate_argnums=0, compiler_options=REPEATABLE if variant == "separate" else None),
        model.constants(popularity(SESSIONS.items, N_ITEMS)),
    )


def train(setup: Setup, steps_per_block: int, order: str = "random", epochs: int = 2) -> tuple[TrainState, list[float]]:
    feed = lane_feed(SESSIONS, Plan(LANES, steps_per_block, order, 3, 2**30))
    state, losses = setup.state(), []
    for epoch in range(epochs):
        pairs = 0
        for block in feed.epoch(epoch):
            state, stats = setup.train_block(state, setup.constants, block)
            losses += np.asarray(stats.loss)[: int(stats.steps)].tolist()
            pairs += int(stats.pairs)
        assert pairs == feed.pairs
    assert int(state.step) == epochs * feed.shape.used == len(losses)
    return state, losses


def leaves(state: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_equal(one: Any, other: Any) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_result_does_not_depend_on_the_block_size() -> None:
    """With dropout, drawn negatives, two tables, a step count, and padding in one of them: the same bits."""
    setup = make("separate")
    shapes = [lane_feed(SESSIONS, Plan(LANES, steps, "random", 3, 0)).shape for steps in (8, 1000)]
    assert [shape.steps * shape.blocks - shape.used for shape in shapes] == [PADDING, 0]
    one, one_losses = train(setup, 8)
    other, other_losses = train(setup, 1000)
    assert one_losses == other_losses
    assert_equal(one, other)
    assert np.all(np.isfinite(one_losses))
    assert np.mean(one_losses[-10:]) != np.mean(one_losses[:10])


def pad(first: Block | None = None) -> Block:
    """A block of the shape that ``train`` compiles: given steps, then what the feed pads with."""
    steps = lane_feed(SESSIONS, Plan(LANES, 8, "time", 3, 0)).shape.steps - (0 if first is None else len(first.input))
    zeros = jnp.zeros((steps, LANES), jnp.int32)
    padding = Block(zeros + SESSIONS.items[0], zeros + SESSIONS.items[1], zeros == 0, zeros * 0.0)
    return padding if first is None else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, padding)


@pytest.mark.parametrize("variant", ["constrained", "separate"])
def test_steps_without_a_live_lane_change_nothing(variant: str) -> None:
    setup = make(variant)
    trained, _ = train(setup, 8, epochs=1)  # so that momentum would move what it could
    before = jax.tree.map(jnp.copy, trained)
    after, stats = setup.train_block(trained, setup.constants, pad())
    assert_equal(after, before)
    assert int(stats.steps) == int(stats.pairs) == 0
    np.testing.assert_array_equal(stats.loss, 0.0)


def test_time_order_trains_every_pair() -> None:
    """``train`` counts the pairs; without shuffling both epochs hold the same steps."""
    in_order, losses = train(make("in-batch"), 8, order="time")
    again, _ = train(make("in-batch"), 8, order="time")
    assert_equal(in_order, again)
    assert len(losses) % 2 == 0


def test_the_seed_decides() -> None:
    setup = make("constrained")
    assert_equal(setup.state(1), setup.state(1))
    assert not np.array_equal(setup.state(1).tables["item"], setup.state(2).tables["item"])
    np.testing.assert_array_equal(setup.state(1).tables["item"][:, -1], 0.0)  # biases


def test_clipping_bounds_the_whole_step() -> None:
    """SGD with rate 1 moves by the gradient: dense parameters and rows together by clip_norm, in the same direction."""
    block = next(lane_feed(SESSIONS, Plan(LANES, 8, "random", 3, 2**30)).epoch(0))
    one_step = pad(jax.tree.map(lambda leaf: leaf[:1], block))
    moves = []
    for variant in ("in-batch", "clipped"):
        setup = make(variant)
        state, _ = setup.train_block(setup.state(), setup.constants, one_step)
        begin = setup.state()
        new, old = (np.concatenate([leaf.ravel() for leaf in leaves((s.params, s.tables))]) for s in (state, begin))
        moves.append((new - old).astype(np.float64))
    free, clipped = moves
    norm = np.linalg.norm(free)
    assert norm > 0.05
    np.testing.assert_allclose(clipped, free * 0.01 / norm, atol=1e-6)
    assert np.linalg.norm(clipped) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("variant", ["constrained", "separate", "onehot"])
def test_the_scan_is_stepping(variant: str) -> None:
    """Encoding a block at once, in pieces, and session by session with a fresh state all give the same queries."""
    model, state = make(variant).model, make(variant).state()
    block = next(lane_feed(SESSIONS, Plan(LANES, 12, "time", 3, 2**30)).epoch(0))
    encode = jax.jit(model.encode)
    _, whole = encode(state.params, state.tables, model.carry(LANES), block)
    carry = model.carry(LANES)
    for t in range(len(block.input)):
        carry, query = encode(state.params, state.tables, carry, jax.tree.map(lambda leaf, t=t: leaf[t : t + 1], block))
        np.testing.assert_allclose(query[0], whole[t], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole[..., -1], 1.0)

    # A lane is alone: another lane's items, or another reset there, leave it as it was ...
    other = block._replace(
        input=block.input.at[:, 1:].set((block.input[:, 1:] + 7) % N_ITEMS), reset=block.reset.at[:, 1:].set(False)
    )
    _, mixed = encode(state.params, state.tables, model.carry(LANES), other)
    np.testing.assert_allclose(mixed[:, 0], whole[:, 0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(mixed[:, 1], whole[:, 1], atol=1e-4)
    # ... and a session does not remember the one before it in its lane.
    opens = np.flatnonzero(np.asarray(block.reset[:, 0]))
    assert len(opens) >= 2
    before = block._replace(input=block.input.at[: opens[1]].set((block.input[: opens[1]] + 3) % N_ITEMS))
    _, changed = encode(state.params, state.tables, model.carry(LANES), before)
    np.testing.assert_array_equal(changed[opens[1] :, 0], whole[opens[1] :, 0])
    assert not np.allclose(changed[0, 0], whole[0, 0], atol=1e-4)


def test_a_finished_lane_leaves_the_negatives_of_the_others() -> None:
    """Its target's row gets no derivative, its weight 0 no loss; alive, it counts."""
    setup = make("in-batch")
    one, unseen = np.array([[3, 5, 7, 9]]), 20
    moved = {}
    for live in (0.0, 1.0):
        block = Block(jnp.asarray(one), jnp.asarray([[4, 6, 8, unseen]]), jnp.ones((1, LANES), bool),
                      jnp.asarray([[1.0, 1.0, 1.0, live]]))  # fmt: skip
        state, stats = setup.train_block(setup.state(), setup.constants, pad(block))
        change = np.abs(np.asarray(state.tables["item"] - setup.state().tables["item"])).sum(axis=1)
        moved[live] = set(np.flatnonzero(change).tolist())
        assert int(stats.pairs) == 3 + int(live)
    assert moved[0.0] == {3, 5, 7, 4, 6, 8}
    assert moved[1.0] == {3, 5, 7, 9, 4, 6, 8, unseen}


def test_the_loss_by_hand() -> None:
    """In-batch cross-entropy over 3 live lanes, two with the same target, divided by all lanes; from h = 0."""
    model, state = make("in-batch").model, make("in-batch").state()
    block = Block(jnp.array([3, 5, 7, 0]), jnp.array([4, 6, 4, 0]), jnp.ones(LANES, bool), jnp.array([1.0, 1, 1, 0]))
    constants = make("in-batch").constants

    @jax.jit
    def evaluate(state: TrainState) -> Any:
        whole = model.steps(
            constants, jax.tree.map(lambda leaf: leaf[None], block), jax.random.split(jax.random.key(0), 1)
        )
        step = jax.tree.map(lambda leaf: leaf[0], whole)
        tables = tables_of(model, state.tables, step)
        return model.loss(state.params, tables, model.carry(LANES), step, jax.random.key(0), constants)

    total, (carry, logged) = evaluate(state)
    table = np.asarray(state.tables["item"], np.float64)
    hidden = np.asarray(carry[-1], np.float64)
    scores = hidden @ table[[4, 6, 4], :-1].T + table[[4, 6, 4], -1]
    losses = [np.log(np.exp(scores[i]).sum()) - scores[i, i] for i in range(3)]
    assert float(logged) == pytest.approx(sum(losses), rel=1e-5)
    assert float(total) == pytest.approx(sum(losses) / LANES, rel=1e-5)


DECAY, RATE, PENALTY = 0.3, 0.05, 0.2


class Trajectory(NamedTuple):
    """A model under a full softmax, trained one step at a time: its state before the first step and after each."""

    model: SequenceModel
    blocks: list[PackedBlock]
    states: list[TrainState]  # NumPy leaves; the last one after a step that is padding


@cache
def trajectory() -> Trajectory:
    """AdamW, with a moving average kept; no dropout, so that steps can be repeated by hand."""
    sections: dict[str, dict[str, Any]] = {
        "optimizer": {"name": "adam", "learning_rate": RATE, "weight_decay": PENALTY},
        "training": {"batch_size": 16, "average": DECAY, "steps_per_block": 1},
    }
    config, model = packed.make_config("narm", **sections), packed.make_model("narm", N_ITEMS, **sections)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    train_block = make_train_block(model, optimizer, None, config.training.average)
    blocks = list(model.feed(SESSIONS, training_plan(config)).epoch(0))
    padding = blocks[0]._replace(weight=blocks[0].weight * 0.0)
    state = jax.jit(lambda: new_state(config, model, optimizer))()
    states = [jax.tree.map(np.array, state)]
    for block in [*blocks, padding]:
        state, _ = train_block(state, model.constants(np.ones(N_ITEMS)), block)
        states.append(jax.tree.map(np.array, state))
    return Trajectory(model, blocks, states)


def weights_of(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "tables": state.tables}


def test_dense_tables_and_parameters_move_as_under_optax_adamw() -> None:
    model, blocks, states = trajectory()
    assert len(blocks) > 4
    optimizer = optax.adamw(RATE, weight_decay=PENALTY)
    weights = jax.tree.map(jnp.asarray, weights_of(states[0]))
    state = optimizer.init(weights)
    for block, trained in zip(blocks, states[1:-1], strict=True):
        _, slopes = packed.loss_and_slopes(model, weights, block)
        slopes = jax.tree.map(lambda leaf, block=block: leaf / block.weight.shape[1], slopes)
        change, state = jax.jit(optimizer.update)(slopes, state, weights)
        weights = optax.apply_updates(weights, change)
        for ours, theirs in zip(leaves(weights_of(trained)), leaves(weights), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_the_average_follows_the_weights_with_its_decay() -> None:
    """It starts at the initial weights and moves faster at first: its decay is (1 + s) / (10 + s) after s steps."""
    _, blocks, states = trajectory()
    average = [leaf.astype(np.float64) for leaf in leaves(weights_of(states[0]))]
    assert_equal(states[0].average, weights_of(states[0]))
    decays = []
    for taken, state in enumerate(states[1:-1], start=1):
        decays.append(min(DECAY, (1 + taken) / (10 + taken)))
        average = [
            decays[-1] * a + (1 - decays[-1]) * w for a, w in zip(average, leaves(weights_of(state)), strict=True)
        ]
        for ours, expected in zip(leaves(state.average), average, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        assert_equal(state.weights(), state.average)
        assert not np.array_equal(state.weights()["tables"]["item"], state.tables["item"])
    assert decays[0] < decays[1] < DECAY == decays[-1]


def test_a_step_of_padding_moves_neither_dense_tables_nor_the_average() -> None:
    _, _, states = trajectory()
    assert_equal(states[-1], states[-2])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def test_gru_cell_against_numpy() -> None:
    rng = np.random.default_rng(0)
    shapes = {"input_kernel": (3, 12), "hidden_kernel": (4, 12), "input_bias": (12,), "hidden_bias": (12,)}
    p = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x, h = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    wx, wh, bx, bh = (np.split(p[name], 3, axis=-1) for name in shapes)
    r, z = (sigmoid(x @ wx[i] + bx[i] + h @ wh[i] + bh[i]) for i in (0, 1))
    n = np.tanh(x @ wx[2] + bx[2] + r * (h @ wh[2] + bh[2]))
    expected = (1 - z) * n + z * h
    ours = gru_cell({name: jnp.asarray(value) for name, value in p.items()}, jnp.asarray(x), jnp.asarray(h))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_onehot_gru_cell_against_numpy() -> None:
    rng = np.random.default_rng(1)
    gates, candidate, bias = rng.normal(size=(4, 8)), rng.normal(size=(4, 4)), rng.normal(size=12)
    row, h = rng.normal(size=(2, 12)), rng.normal(size=(2, 4))
    v_n, v_r, v_z = np.split(row + bias, 3, axis=-1)
    r, z = sigmoid(v_r + h @ gates[:, :4]), sigmoid(v_z + h @ gates[:, 4:])
    expected = (1 - z) * h + z * np.tanh(v_n + (r * h) @ candidate)
    params = {"gate_kernel": jnp.asarray(gates), "candidate_kernel": jnp.asarray(candidate), "bias": jnp.asarray(bias)}
    ours = onehot_gru_cell(params, jnp.asarray(row), jnp.asarray(h))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
