"""The compiled block: independent of its size, blind to padding; dense tables, decay and average."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from steps import config_of, take_step

from jaxrec import config as configuration
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Plan, lane_feed
from jaxrec.models.base import make_model
from jaxrec.models.packed import SequenceModel
from jaxrec.training.block import Training, make_train_block, training_plan
from jaxrec.training.optimizers import make_optimizer, make_schedule
from jaxrec.training.state import TrainState, init_state

pytestmark = pytest.mark.numbers

N_ITEMS, LANES, WIDTH = 30, 4, 5
# Without optimisation, as conftest.py has it, XLA rounds sums of a short loop otherwise than those of a long one.
REPEATABLE: dict[str, bool | str] = {"xla_backend_optimization_level": "1"}
LENGTHS = np.random.default_rng(0).integers(2, 7, 24)
ITEMS = np.random.default_rng(1).integers(0, N_ITEMS, LENGTHS.sum()).astype(np.int32)
SESSIONS = Sessions(ITEMS, np.arange(len(ITEMS)), np.cumsum([0, *LENGTHS]))
SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"path": "none"},
    "model": {"layers": [WIDTH], "embedding": "separate", "embedding_dim": 3, "dropout_embedding": 0.2,
              "dropout_hidden": 0.3},
    "loss": {"n_sample": 8, "logq": 1.0},
    "optimizer": {"name": "adam", "schedule": "linear", "learning_rate": 0.1},
    "training": {"batch_size": LANES},
}  # fmt: skip


def train(steps_per_block: int, epochs: int = 2) -> tuple[TrainState, list[float]]:
    """The state after these epochs of a small model, and the loss of each step."""
    config = configuration.parse(SECTIONS)
    model = make_model(config, N_ITEMS)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    train_block = jax.jit(make_train_block(model, optimizer, None), donate_argnums=0, compiler_options=REPEATABLE)
    constants = model.constants(np.bincount(ITEMS, minlength=N_ITEMS))
    feed = lane_feed(SESSIONS, Plan(LANES, steps_per_block, "random", 3, 2**30))
    state, losses = init_state(model, optimizer, config.training), list[float]()
    for epoch in range(epochs):
        pairs = 0
        for block in feed.epoch(epoch):
            state, stats = train_block(state, constants, block)
            losses += np.asarray(stats.loss)[: int(stats.steps)].tolist()
            pairs += int(stats.pairs)
        assert pairs == feed.pairs
    assert int(state.step) == epochs * feed.shape.used == len(losses)
    return state, losses


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_result_does_not_depend_on_the_block_size() -> None:
    """With dropout, drawn negatives, two tables, a step count, and padding in one of them: the same bits."""
    shapes = [lane_feed(SESSIONS, Plan(LANES, steps, "random", 3, 0)).shape for steps in (8, 1000)]
    assert shapes[0].total > shapes[0].used and shapes[1].total == shapes[1].used
    (one, one_losses), (other, other_losses) = train(8), train(1000)
    assert one_losses == other_losses
    assert_equal(one, other)


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
    config = config_of({"model": {"name": "narm", "embedding_dim": 6, "window": 5, "layers": [8]},
                        "loss": {"name": "softmax"}}, sections)  # fmt: skip
    model = SequenceModel(config, N_ITEMS)
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
        weights, moments = follow(weights, moments, take_step(model, constants, block, weights).slopes)
        state, _ = train_block(state, constants, block)
        jax.tree.map(lambda a, b: close(a, b, rtol=1e-4, atol=2e-5), weights_of(state), weights)
        keep = min(DECAY, (1 + taken) / (10 + taken))
        average = jax.tree.map(lambda a, w, keep=keep: keep * a + (1 - keep) * w, average, weights_of(state))
        jax.tree.map(lambda a, b: close(a, b, rtol=1e-5, atol=1e-6), state.weights(), average)
    assert len(blocks) > 4
    before = jax.tree.map(jnp.copy, state)
    after, _ = train_block(state, constants, blocks[0]._replace(weight=blocks[0].weight * 0.0))
    assert_equal(after, before)


def test_the_mean_of_epochs_ends_is_what_serves() -> None:
    """Of the last two of three, with a table that moves by rows, or of all that there are; of the last alone it is that
    epoch's weights."""

    def after(epochs: int, average_epochs: int = 0) -> dict[str, Any]:
        training = {"batch_size": 4, "steps_per_block": 3, "epochs": epochs, "average_epochs": average_epochs}
        config = config_of({"model": {"name": "gru4rec", "layers": [8]}}, {"training": training})
        model = make_model(config, N_ITEMS)
        fitted = Training(config, model, model.feed(SESSIONS, training_plan(config)))
        return fitted.fit(model.constants(np.ones(N_ITEMS)))

    first, second, third = after(1), after(2), after(3)
    for ends, averaged in (((second, third), after(3, 2)), ((first, second, third), after(3, 8))):
        mean = jax.tree.map(lambda *ends: np.mean(ends, axis=0, dtype=np.float64), *ends)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), averaged, mean)
    assert_equal(after(3, 1), third)
    with pytest.raises(AssertionError):
        assert_equal(second, third)


@pytest.mark.parametrize("sections", [
    {"model": {"name": "gru4rec", "layers": [WIDTH], "embedding": "separate", "embedding_dim": 3}},  # tables by rows
    {"model": {"name": "narm", "embedding_dim": 6, "window": 5, "layers": [8]}, "loss": {"name": "softmax"}},  # dense
], ids=["rows", "dense"])  # fmt: skip
def test_what_another_run_trained_warms_up(sections: Any) -> None:
    """A step changes old rows and parameters by a share of what it changes without, from 0 to all of it, and new rows
    by all of it; the optimizer's state moves as ever. Blocks of several steps do the same."""
    warmup, random = 4, np.random.default_rng(0)

    def begun(steps: int, old: Any = None) -> Training:
        more = {"optimizer": {"name": "adam", "learning_rate": RATE}, "start": {"warmup_steps": warmup},
                "training": {"batch_size": 8, "steps_per_block": steps}}  # fmt: skip
        config = config_of(sections, more)
        model = make_model(config, N_ITEMS)
        return Training(config, model, model.feed(SESSIONS, training_plan(config)), old_rows=old)

    full = begun(1)
    old = {name: random.random(N_ITEMS) < 0.5 for name in full.model.tables}
    warm, close = begun(1, old), np.testing.assert_allclose
    constants = full.model.constants(np.ones(N_ITEMS))
    state = warm.begin()
    for taken, block in enumerate(warm.feed.epoch(0)):
        before = jax.tree.map(np.array, weights_of(state))
        whole, _ = full.block(jax.tree.map(jnp.copy, state), full.constants(constants), block)
        state, _ = warm.block(state, warm.constants(constants), block)
        share, after = min(1.0, taken / warmup), weights_of(whole)
        expected = jax.tree.map(lambda a, b, share=share: a + share * (b - a), before, after)
        for name, is_old in old.items():
            expected["tables"][name] = np.where(is_old[:, None], expected["tables"][name], after["tables"][name])
        jax.tree.map(lambda a, b: close(a, b, rtol=1e-5, atol=1e-6), weights_of(state), expected)
        for ours, theirs in ((state.optimizer, whole.optimizer), (state.table_optimizer, whole.table_optimizer)):
            jax.tree.map(lambda a, b: close(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    assert taken > warmup
    at_once = begun(3, old)
    other = at_once.begin()
    for block in at_once.feed.epoch(0):
        other, _ = at_once.block(other, at_once.constants(constants), block)
    jax.tree.map(lambda a, b: close(a, b, rtol=1e-4, atol=1e-5), weights_of(other), weights_of(state))
