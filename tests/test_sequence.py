"""Models on the packed feed: a session at once is its prefixes one by one, and what ranks them is what it says."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_sequence import double, narm_query, sasrec_query, unit
from packed import (
    Sections,
    all_prefixes,
    histories,
    loss_and_slopes,
    loss_of,
    make_config,
    make_model,
    make_sessions,
    make_weights,
    packed_block,
    prefix_block,
    queries,
    random_sessions,
    scores,
)
from steps import tables_of

from jaxrec.feeds.base import Plan
from jaxrec.losses.candidates import popularity
from jaxrec.models.packed import SequenceModel
from jaxrec.training.block import TrainState, make_train_block, new_state
from jaxrec.training.optimizers import make_optimizer, make_schedule

N_ITEMS, WINDOW = 24, 5
VARIANTS: dict[str, tuple[str, Sections]] = {
    "narm": ("narm", {}),
    "narm-softmax": ("narm", {"model": {"attention": "softmax", "temperature": 3.0}}),
    "sasrec": ("sasrec", {"model": {"heads": 2}}),
    "sasrec-normalised": ("sasrec", {"model": {"temperature": 3.0}, "loss": {"label_smoothing": 0.1, "prior": 0.5}}),
}
# Some longer than the window of 5, some in one row with others, some twice as long.
SESSIONS = random_sessions([2, 9, 3, 13, 5, 2, 6, 3], N_ITEMS)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> SequenceModel:
    name, sections = VARIANTS[request.param]
    return make_model(name, N_ITEMS, **sections)


def test_a_session_at_once_gives_the_queries_of_its_prefixes(model: SequenceModel) -> None:
    """Each prefix on its own in a row, the last 5 clicks of it, as the published code reads it."""
    weights, (prefixes, targets) = make_weights(model), all_prefixes(SESSIONS)
    packed, alone = packed_block(model, SESSIONS), prefix_block(prefixes, targets, WINDOW)
    assert packed.start.max() > 0 and len(packed.input) > 1
    expected = dict(zip(histories(alone), queries(model, weights, alone), strict=True))
    found = histories(packed)
    assert sorted(found) == sorted(histories(alone)) and len(expected) == len(found)
    np.testing.assert_allclose(
        queries(model, weights, packed), [expected[history] for history in found], rtol=1e-5, atol=1e-5
    )
    items = np.stack([np.pad(prefix[-WINDOW:], (0, max(0, WINDOW - len(prefix)))) for prefix in prefixes])
    lengths = np.array([min(WINDOW, len(prefix)) for prefix in prefixes])
    recommended = jax.jit(model.last_query)(
        weights["params"], weights["tables"], jnp.asarray(items, jnp.int32), jnp.asarray(lengths)
    )
    np.testing.assert_allclose(recommended, queries(model, weights, alone), rtol=1e-5, atol=1e-5)


def test_a_session_at_once_gives_the_loss_and_derivatives_of_its_prefixes(model: SequenceModel) -> None:
    weights = make_weights(model)
    loss, slopes = loss_and_slopes(model, weights, packed_block(model, SESSIONS))
    expected, by_prefixes = loss_and_slopes(model, weights, prefix_block(*all_prefixes(SESSIONS), WINDOW))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(by_prefixes), strict=True):
        scale = float(jnp.abs(theirs).max())
        assert scale > 1e-3, "every parameter has a part"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * scale)


def test_targets_that_share_a_chunk_see_less_and_no_target_is_lost() -> None:
    """With a stride, the feed of training alone is cut so; evaluation reads whole windows."""
    model = make_model("narm", N_ITEMS, model={"stride": 3})
    trained = histories(packed_block(model, SESSIONS))
    feed = model.feed(make_sessions(SESSIONS), Plan(16, 1000, "time", 0, 0))
    evaluated = histories(jax.tree.map(np.asarray, next(iter(feed.epoch(0)))))
    full = histories(prefix_block(*all_prefixes(SESSIONS), WINDOW))
    assert sorted(evaluated) == sorted(full) != sorted(trained)
    assert sorted(history[-1] for history in trained) == sorted(history[-1] for history in full)


@pytest.mark.parametrize("name", ["narm", "sasrec"])
def test_with_a_temperature_scores_are_that_times_the_cosine(name: str) -> None:
    blocks = {"blocks": 1} if name == "sasrec" else {}
    model = make_model(name, N_ITEMS, model={"temperature": 7.0, **blocks})
    weights, block = make_weights(model), packed_block(model, SESSIONS)
    p, table = double(weights)
    normed = unit(table)
    expected = []
    for history in histories(block):
        vectors = normed[list(history[:-1])]
        query = narm_query(p, vectors) if name == "narm" else sasrec_query(p, vectors, 1, 1)
        expected.append(7.0 * normed @ unit(query))
    np.testing.assert_allclose(scores(model, weights, block), expected, rtol=1e-4, atol=1e-4)
    # Lengths of item vectors do not matter then, in the loss either; without a temperature they do.
    longer = {"params": weights["params"], "tables": {"item": 2.5 * weights["tables"]["item"]}}
    assert loss_of(model, longer, block) == pytest.approx(loss_of(model, weights, block), rel=1e-5)
    plain = make_model(name, N_ITEMS, model=blocks)
    changed = [loss_of(plain, one, block) for one in (weights, longer)]
    assert abs(changed[0] - changed[1]) > 0.01 * changed[0]
    np.testing.assert_array_equal(model.vectors(weights["tables"]), weights["tables"]["item"])


def test_the_prior_raises_the_training_scores_and_not_those_that_rank() -> None:
    counts = np.arange(N_ITEMS) ** 2
    plain, corrected = (make_model("narm", N_ITEMS, loss={"prior": prior}) for prior in (0.0, 0.5))
    weights, block = make_weights(plain), packed_block(plain, SESSIONS)
    constants = corrected.constants(counts)
    assert constants is not None
    np.testing.assert_allclose(constants, 0.5 * np.log(np.maximum(counts, 1)), rtol=1e-6)
    np.testing.assert_array_equal(scores(plain, weights, block), scores(corrected, weights, block))
    keys = jax.random.split(jax.random.key(0), len(block.input))
    step = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), corrected.steps(constants, block, keys))
    total = jax.jit(partial(sampled_total, corrected, constants=constants))(weights, step)
    live = block.weight[0] > 0
    first = jax.tree.map(lambda leaf: leaf[:1], block)
    raised = scores(plain, weights, first).astype(np.float64) + np.asarray(constants)
    own = raised[np.arange(live.sum()), block.target[0][live]]
    assert float(total) == pytest.approx(float((np.log(np.exp(raised).sum(axis=1)) - own).sum()), rel=1e-5)


# --- sampled losses ---------------------------------------------------------------------------------------------------

LOSS = {"name": "cross_entropy", "n_sample": 12, "logq": 1.0, "sample_alpha": 0.5}


@pytest.mark.parametrize("logq", [0.0, 1.0])
def test_the_sampled_loss_is_a_softmax_over_targets_and_negatives(logq: float) -> None:
    """A candidate that stands there several times counts so often; each is corrected by how it came there."""
    model = make_model("narm", N_ITEMS, loss=LOSS | {"logq": logq})
    weights, block = make_weights(model), packed_block(model, SESSIONS)
    counts = np.arange(N_ITEMS) + 1
    constants = model.constants(counts)
    keys = jax.random.split(jax.random.key(5), len(block.input))
    steps = model.steps(constants, jax.tree.map(jnp.asarray, block), keys)
    p, table = double(weights)
    assert len(block.input) > 1
    total = jax.jit(partial(sampled_total, model, constants=constants))
    for i in range(len(block.input)):
        step = jax.tree.map(lambda leaf, i=i: leaf[i], steps)
        live = block.weight[i] > 0
        target, drawn = block.target[i][live], np.asarray(step.drawn.ids)
        assert len(np.unique(np.append(target, drawn))) < len(target) + len(drawn), "some stand there twice"
        log_q = logq * np.concatenate([np.log(counts[target]), 0.5 * np.log(counts[drawn])])
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], block)
        query = np.array([narm_query(p, table[list(history[:-1])]) for history in histories(one)])
        logits = query @ table[np.append(target, drawn)].T - log_q
        expected = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
        assert float(total(weights, step)) == pytest.approx(expected.sum(), rel=1e-5)


def sampled_total(model: SequenceModel, weights: Any, step: Any, constants: Any) -> jax.Array:
    """The sum of a step's losses, with rows read as the training step reads them."""
    tables = tables_of(model, weights["tables"], step)
    return model.loss(weights["params"], tables, (), step, jax.random.key(0), constants)[1][1]


def train(sections: Sections, n_items: int, sessions: list[list[int]]) -> tuple[TrainState, TrainState]:
    """The state before and after an epoch."""
    config = make_config("narm", **sections)
    model = make_model("narm", n_items, **sections)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    feed = model.feed(make_sessions(sessions), Plan(16, 1000, "random", 3, 0, training=True))
    constants = model.constants(popularity(make_sessions(sessions).items, n_items))
    before = new_state(config, model, optimizer)
    state = jax.tree.map(jnp.copy, before)
    for block in feed.epoch(0):
        state, stats = make_train_block(model, optimizer, None)(state, constants, block)
        assert int(stats.pairs) == feed.pairs
    return before, state


def test_rows_that_are_not_read_stay_bit_identical() -> None:
    """Without drawn negatives a step reads inputs and targets. Padding is -1 and reads nothing, the last row least."""
    loss = {"name": "cross_entropy", "n_sample": 0}
    before, after = train({"loss": loss}, 3 * N_ITEMS, SESSIONS)
    used = np.unique(np.concatenate(SESSIONS))
    moved = np.any(np.asarray(after.tables["item"] != before.tables["item"]), axis=1)
    np.testing.assert_array_equal(np.flatnonzero(moved), used)
    moments = jax.tree.leaves(after.table_optimizer["item"])
    assert sum(leaf.shape == after.tables["item"].shape for leaf in moments) == 2
    for leaf in moments:
        if leaf.ndim == 2:
            np.testing.assert_array_equal(np.flatnonzero(np.any(np.asarray(leaf) != 0, axis=1)), used)


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["narm", "sasrec"])
@pytest.mark.parametrize("where", ["dropout_embedding", "dropout_hidden"])
def test_dropout_is_drawn_from_the_step_s_key_in_training_alone(name: str, where: str) -> None:
    plain, dropped = (make_model(name, N_ITEMS, model={where: rate}) for rate in (0.0, 0.4))
    weights, block = make_weights(plain), packed_block(plain, SESSIONS)
    np.testing.assert_array_equal(queries(plain, weights, block), queries(dropped, weights, block))
    losses = [loss_of(dropped, weights, block, seed) for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert len({losses[0], losses[2], loss_of(plain, weights, block)}) == 3
