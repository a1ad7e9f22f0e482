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

from jaxrec import config as configuration
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import LaneBlock, Plan, lane_feed
from jaxrec.models.base import SessionModel, make_model
from jaxrec.training.block import TrainState, init_state, make_train_block, training_plan
from jaxrec.training.optimizers import make_optimizer, make_schedule

pytestmark = pytest.mark.numbers

N_ITEMS, LANES, WIDTH = 30, 4, 5
# Without optimisation, as conftest.py has it, XLA rounds sums of a short loop otherwise than those of a long one.
REPEATABLE: dict[str, bool | str] = {"xla_backend_optimization_level": "1"}
LENGTHS = np.random.default_rng(0).integers(2, 7, 24)
ITEMS = np.random.default_rng(1).integers(0, N_ITEMS, LENGTHS.sum()).astype(np.int32)
SESSIONS = Sessions(ITEMS, np.arange(len(ITEMS)), np.cumsum([0, *LENGTHS]))
SGD: dict[str, Any] = {"name": "sgd", "learning_rate": 1.0}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "separate": {
        "model": {"layers": [WIDTH], "embedding": "separate", "embedding_dim": 3},
        "loss": {"n_sample": 8, "logq": 1.0},
        "optimizer": {"name": "adam", "schedule": "linear", "learning_rate": 0.1},
    },
    "in-batch": {"loss": {"n_sample": 0}, "optimizer": SGD},
    "clipped": {"loss": {"n_sample": 0}, "optimizer": SGD | {"clip_norm": 0.01}},
}


class Setup(NamedTuple):
    """A model with what trains it."""

    model: SessionModel
    state: Any  # a function: the block donates its state
    train_block: Any
    constants: Any


@cache
def make(variant: str) -> Setup:
    """The variants share compilations between tests."""
    model = {"layers": [WIDTH], "dropout_embedding": 0.2, "dropout_hidden": 0.3} | VARIANTS[variant].get("model", {})
    config = configuration.parse({"data": {"path": "none"}, "training": {"batch_size": LANES}}
                                 | VARIANTS[variant] | {"model": model})  # fmt: skip
    made = make_model(config, N_ITEMS)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    block = make_train_block(made, optimizer, config.optimizer.clip_norm)
    block = jax.jit(block, donate_argnums=0, compiler_options=REPEATABLE if variant == "separate" else None)
    state = jax.jit(lambda: init_state(made, optimizer, config.training))
    return Setup(made, state, block, made.constants(np.bincount(ITEMS, minlength=N_ITEMS)))


def train(setup: Setup, steps_per_block: int, epochs: int = 2) -> tuple[TrainState, list[float]]:
    feed = lane_feed(SESSIONS, Plan(LANES, steps_per_block, "random", 3, 2**30))
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


def first_block() -> LaneBlock:
    return next(lane_feed(SESSIONS, Plan(LANES, 8, "time", 3, 2**30)).epoch(0))


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_result_does_not_depend_on_the_block_size() -> None:
    """With dropout, drawn negatives, two tables, a step count, and padding in one of them: the same bits."""
    setup = make("separate")
    shapes = [lane_feed(SESSIONS, Plan(LANES, steps, "random", 3, 0)).shape for steps in (8, 1000)]
    assert shapes[0].total > shapes[0].used and shapes[1].total == shapes[1].used
    (one, one_losses), (other, other_losses) = train(setup, 8), train(setup, 1000)
    assert one_losses == other_losses
    assert_equal(one, other)


def test_clipping_bounds_the_whole_step() -> None:
    """SGD with rate 1 moves by the gradient: dense parameters and rows together by clip_norm, in the same direction."""
    moves = []
    for setup in (make("in-batch"), make("clipped")):
        one_step = jax.tree.map(lambda leaf: leaf[:1], first_block())
        state, _ = setup.train_block(setup.state(), setup.constants, one_step)
        new, old = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves((s.params, s.tables))])
                    for s in (state, setup.state()))  # fmt: skip
        moves.append((new - old).astype(np.float64))
    norm = np.linalg.norm(moves[0])
    assert norm > 0.05
    np.testing.assert_allclose(moves[1], moves[0] * 0.01 / norm, atol=1e-6)


DECAY, RATE, PENALTY = 0.3, 0.05, 0.2


def weights_of(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "tables": state.tables}


def test_dense_tables_move_as_under_optax_adamw_and_the_average_follows() -> None:
    """One step at a time under a full softmax. The average starts at the initial weights and moves faster at first:
    its decay is (1 + s) / (10 + s) after s steps. A step of padding moves neither."""
    sections: dict[str, dict[str, Any]] = {
        "optimizer": {"name": "adam", "learning_rate": RATE, "weight_decay": PENALTY},
        "training": {"batch_size": 16, "average": DECAY, "steps_per_block": 1},
    }
    config, model = packed.make_config("narm", **sections), packed.make_model("narm", N_ITEMS, **sections)
    ours = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    train_block = make_train_block(model, ours, None, config.training.average)
    state, constants = init_state(model, ours, config.training), model.constants(np.ones(N_ITEMS))
    theirs, weights = optax.adamw(RATE, weight_decay=PENALTY), jax.tree.map(jnp.copy, weights_of(state))
    moments, average = theirs.init(weights), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)

    @jax.jit
    def follow(weights: Any, moments: Any, slopes: Any) -> Any:
        change, moments = theirs.update(slopes, moments, weights)
        return optax.apply_updates(weights, change), moments

    blocks, close = list(model.feed(SESSIONS, training_plan(config)).epoch(0)), np.testing.assert_allclose
    for taken, block in enumerate(blocks, start=1):
        _, slopes = packed.loss_and_slopes(model, weights, block)
        slopes = jax.tree.map(lambda leaf, block=block: leaf / block.weight.shape[1], slopes)
        weights, moments = follow(weights, moments, slopes)
        state, _ = train_block(state, constants, block)
        jax.tree.map(lambda a, b: close(a, b, rtol=1e-4, atol=2e-5), weights_of(state), weights)
        keep = min(DECAY, (1 + taken) / (10 + taken))
        average = jax.tree.map(lambda a, w, keep=keep: keep * a + (1 - keep) * w, average, weights_of(state))
        jax.tree.map(lambda a, b: close(a, b, rtol=1e-5, atol=1e-6), state.weights(), average)
    assert len(blocks) > 4
    before = jax.tree.map(jnp.copy, state)
    after, _ = train_block(state, constants, blocks[0]._replace(weight=blocks[0].weight * 0.0))
    assert_equal(after, before)
