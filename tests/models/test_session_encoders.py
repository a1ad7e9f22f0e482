"""NARM and SASRec are the published ones, a session at once is its prefixes one by one, and what ranks them is what it
says: NumPy from the papers' equations, and for NARM the numbers of a PyTorch implementation (``narm_reference.json``
says in its ``notes`` how they were made)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_sequence import double, narm_query, sasrec_query, unit
from packed import (
    Sections,
    Weights,
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
from jaxrec.models.packed import SequenceModel
from jaxrec.training.block import make_train_block, new_state
from jaxrec.training.optimizers import make_optimizer, make_schedule

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "narm_reference.json").read_text())
SIZES, TOLERANCE = REFERENCE["sizes"], 1e-5
N_ITEMS, WINDOW = 24, 5
VARIANTS: dict[str, tuple[str, Sections]] = {
    "narm": ("narm", {}),
    "narm-softmax": ("narm", {"model": {"attention": "softmax", "temperature": 3.0}}),
    "sasrec": ("sasrec", {"model": {"heads": 2}}),
    "sasrec-normalised": ("sasrec", {"model": {"temperature": 7.0, "blocks": 1},
                                     "loss": {"label_smoothing": 0.1, "prior": 0.5}}),
}  # fmt: skip
# Some longer than the window of 5, some in one row with others, some twice as long.
SESSIONS = random_sessions([2, 9, 3, 13, 5, 2, 6, 3], N_ITEMS)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> SequenceModel:
    name, sections = VARIANTS[request.param]
    return make_model(name, N_ITEMS, **sections)


def test_scores_are_those_of_the_equations(model: SequenceModel) -> None:
    """Of the history that each target sees; with a temperature they are that times the cosine."""
    config: Any = model._model
    weights, block = make_weights(model), packed_block(model, SESSIONS)
    p, table = double(weights)
    expected = []
    for history in histories(block):
        vectors = (unit(table) if config.temperature else table)[list(history[:-1])]
        if config.name == "narm":
            query = narm_query(p, vectors, config.attention == "softmax")
        else:
            query = sasrec_query(p, vectors, config.blocks, config.heads)
        expected.append(config.temperature * unit(table) @ unit(query) if config.temperature else table @ query)
    np.testing.assert_allclose(scores(model, weights, block), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.vectors(weights["tables"]), weights["tables"]["item"])


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


# ---- NARM's recorded numbers -----------------------------------------------------------------------------------------


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


def test_scores_loss_and_derivatives_of_narm_are_the_recorded_ones() -> None:
    """Their sessions as our feed packs them, in two steps. Their loss is a mean over prefixes, ours a sum."""
    fields = {"embedding_dim": SIZES["embedding"], "layers": [SIZES["hidden"]], "window": 8}
    model, weights = make_model("narm", SIZES["items"], model=fields), to_ours(REFERENCE["weights"])
    block = packed_block(model, REFERENCE["sessions"])
    prefixes = [tuple(REFERENCE["sessions"][session][: length + 1]) for session, length in REFERENCE["prefixes"]]
    found = dict(zip(histories(block), scores(model, weights, block), strict=True))
    assert len(block.input) == 2 and len(found) == len(prefixes) == len(set(prefixes))
    for prefix, expected in zip(prefixes, REFERENCE["scores"], strict=True):
        np.testing.assert_allclose(found[prefix], expected[1:], rtol=TOLERANCE, atol=TOLERANCE)
    loss, slopes = loss_and_slopes(model, weights, block)
    assert float(loss) / len(prefixes) == pytest.approx(REFERENCE["loss_items_only"], rel=TOLERANCE)
    gradients = to_ours(REFERENCE["gradients_items_only"])
    assert slopes["params"].keys() == gradients["params"].keys()
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(gradients), strict=True):
        assert ours.shape == theirs.shape and np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(ours / len(prefixes), theirs, rtol=TOLERANCE, atol=TOLERANCE)


# ---- sampled losses, dropout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("logq", [0.0, 1.0])
def test_the_sampled_loss_is_a_softmax_over_targets_and_negatives(logq: float) -> None:
    """A candidate that stands there several times counts so often; each is corrected by how it came there."""
    loss = {"name": "cross_entropy", "n_sample": 12, "sample_alpha": 0.5, "logq": logq}
    model, counts = make_model("narm", N_ITEMS, loss=loss), np.arange(N_ITEMS) + 1
    weights, block, constants = make_weights(model), packed_block(model, SESSIONS), model.constants(counts)
    steps = model.steps(constants, jax.tree.map(jnp.asarray, block), jax.random.split(jax.random.key(5), len(block[0])))
    p, table = double(weights)

    @jax.jit
    def total(weights: Any, step: Any) -> jax.Array:
        tables = tables_of(model, weights["tables"], step)
        return model.loss(weights["params"], tables, (), step, jax.random.key(0), constants)[1][1]

    for i in range(len(block.input)):
        step = jax.tree.map(lambda leaf, i=i: leaf[i], steps)
        target, drawn = block.target[i][block.weight[i] > 0], np.asarray(step.drawn.ids)
        assert len(np.unique(np.append(target, drawn))) < len(target) + len(drawn), "some stand there twice"
        log_q = logq * np.concatenate([np.log(counts[target]), 0.5 * np.log(counts[drawn])])
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], block)
        query = np.array([narm_query(p, table[list(history[:-1])]) for history in histories(one)])
        logits = query @ table[np.append(target, drawn)].T - log_q
        expected = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
        assert float(total(weights, step)) == pytest.approx(expected.sum(), rel=1e-5)


def test_rows_that_are_not_read_stay_bit_identical() -> None:
    """Without drawn negatives a step reads inputs and targets. Padding is -1 and reads nothing, the last row least."""
    config, n_items = make_config("narm", loss={"name": "cross_entropy", "n_sample": 0}), 3 * N_ITEMS
    model, sessions = SequenceModel(config, n_items), make_sessions(SESSIONS)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 100))
    feed = model.feed(sessions, Plan(16, 1000, "random", 3, 0, training=True))
    before = new_state(config, model, optimizer)
    after, constants = jax.tree.map(jnp.copy, before), model.constants(np.bincount(sessions.items, minlength=n_items))
    for block in feed.epoch(0):
        after, _ = make_train_block(model, optimizer, None)(after, constants, block)
    used = np.unique(np.concatenate(SESSIONS))
    changes = [np.asarray(after.tables["item"] != before.tables["item"])]
    changes += [np.asarray(leaf) != 0 for leaf in jax.tree.leaves(after.table_optimizer["item"]) if leaf.ndim == 2]
    assert len(changes) == 3, "the table and two moments"
    for change in changes:
        np.testing.assert_array_equal(np.flatnonzero(change.any(axis=1)), used)


@pytest.mark.parametrize("name", ["narm", "sasrec"])
@pytest.mark.parametrize("where", ["dropout_embedding", "dropout_hidden"])
def test_dropout_is_drawn_from_the_step_s_key_in_training_alone(name: str, where: str) -> None:
    plain, dropped = (make_model(name, N_ITEMS, model={where: rate}) for rate in (0.0, 0.4))
    weights, block = make_weights(plain), packed_block(plain, SESSIONS)
    np.testing.assert_array_equal(queries(plain, weights, block), queries(dropped, weights, block))
    losses = [loss_of(dropped, weights, block, seed) for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert len({losses[0], losses[2], loss_of(plain, weights, block)}) == 3
