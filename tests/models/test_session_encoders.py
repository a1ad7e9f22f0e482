"""NARM, SASRec, HSTU and eSASRec are the published ones, a session at once is its prefixes one by one, and what ranks
them is what it says: NumPy from the papers' equations, and for NARM the numbers of a PyTorch implementation
(``narm_reference.json`` says in its ``notes`` how they were made)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_models import gru, unit
from scipy.special import expit, softmax
from steps import Sections, config_of, random_weights, scored, take_step

from jaxrec.data.dataset import Sessions
from jaxrec.errors import UserError
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import PackedBlock
from jaxrec.models.hstu import UNKNOWN
from jaxrec.models.packed import Grid, SequenceModel, by_distance
from jaxrec.ops.parallel import Placement

N_ITEMS, WINDOW, BATCH = 24, 5, 16
Weights = dict[str, Any]  # {params, tables}


def make_model(name: str, n_items: int, *sections: Sections) -> SequenceModel:
    """A small model under a full softmax; ``sections`` add to it and win over it."""
    model = {"name": name, "embedding_dim": 6, "window": WINDOW} | ({"layers": [8]} if name == "narm" else {})
    small = {"model": model, "loss": {"name": "softmax"}, "training": {"batch_size": BATCH}}
    return SequenceModel(config_of(small, *sections), n_items)


def clock_of(session: Any) -> np.ndarray:
    """int64[n]: seconds of the clicks. What comes between two of them is the later one's number's doing."""
    return np.cumsum(np.array([0, 1, 2, 7, 100, 90_000])[np.array(session) % 6])


def packed_block(model: SequenceModel, sessions: list[list[int]]) -> PackedBlock:
    """All steps of the training feed, NumPy leaves [S, ...]."""
    offsets, items = np.cumsum([0, *map(len, sessions)]), np.concatenate(sessions).astype(np.int32)
    clicks = Sessions(items, 1000 * np.concatenate([clock_of(session) for session in sessions]), offsets)
    feed = model.feed(clicks, Plan(BATCH, 1000, "random", 3, 0, training=True))
    return jax.tree.map(np.asarray, next(iter(feed.epoch(0))))


def prefix_block(sessions: list[list[int]], times: bool) -> PackedBlock:
    """The published way: each prefix that has a target is read on its own, from the left of its own row, and scored at
    its end."""
    cuts = [(session[:t], session[t]) for session in sessions for t in range(1, len(session))]
    source = np.full((1, len(cuts), WINDOW), -1, np.int32)
    start = np.tile(np.arange(WINDOW, dtype=np.int32), (1, len(cuts), 1))
    slot, clock = np.zeros((1, len(cuts)), np.int32), np.zeros_like(source)
    for row, (prefix, _) in enumerate(cuts):
        shown = prefix[-WINDOW:]
        source[0, row, : len(shown)], start[0, row, : len(shown)] = shown, 0
        slot[0, row], clock[0, row, : len(shown)] = row * WINDOW + len(shown) - 1, clock_of(shown)
    targets = np.array([[target for _, target in cuts]], np.int32)
    weight = np.ones(slot.shape, np.float32)
    return PackedBlock(source, start, slot, targets, weight, clock=clock if times else None)


def histories(block: PackedBlock) -> list[tuple[int, ...]]:
    """For each slot of a block that has a target: the clicks that its position sees, then the target."""
    return [(*one.history, one.target) for one in scored(block)]


def scores(model: SequenceModel, weights: Weights, block: PackedBlock) -> np.ndarray:
    """float32[n, V]: the scores of each slot that has a target."""
    _, queries = jax.jit(model.encode)(weights["params"], weights["tables"], (), jax.tree.map(jnp.asarray, block))
    return np.asarray(queries)[block.weight > 0] @ np.asarray(model.items(weights["tables"])).T


def loss_and_slopes(model: SequenceModel, weights: Weights, block: PackedBlock) -> tuple[float, Weights]:
    """The sum of the targets' losses, with its derivatives by all parameters."""
    constants, (steps, places) = model.constants(np.ones(len(weights["tables"]["item"]))), block.weight.shape
    taken = [take_step(model, constants, block, weights, number) for number in range(steps)]
    slopes = jax.tree.map(lambda *leaves: places * sum(leaves), *(one.slopes for one in taken))
    return float(sum(one.total for one in taken)), slopes


# ---- the papers' equations -------------------------------------------------------------------------------------------


def double(weights: Any) -> tuple[Any, ...]:
    """The parameters and the item table in float64."""
    both: Any = jax.tree.map(np.float64, (weights["params"], weights["tables"]["item"]))
    return tuple(both)


def narm_query(p: dict[str, Any], vectors: np.ndarray, model: Any) -> np.ndarray:
    """float64[D] after a session of float64[n, D] (Li et al. 2017, sections 3.2 to 3.5); with a star and a highway as
    Pan et al. 2020 (section 3.2) say for a prefix, each click with the star that it had when it was the last."""
    cell = {part: p[f"gru_{part}"] for part in ("input_kernel", "hidden_kernel", "input_bias", "hidden_bias")}
    states = [np.zeros(len(cell["hidden_kernel"]))]
    for x in vectors:
        states.append(gru(cell, x, states[-1]))
    h, root = np.array(states[1:]), len(states[0]) ** 0.5
    last = 0.0
    if "star_star_key" in p:
        for t in range(len(h)):
            star = vectors[: t + 1].mean(0)
            gate = (h[t] @ p["star_state_query"]) @ (star @ p["star_star_key"]) / root
            h[t] = (1 - gate) * h[t] + gate * star
        star = softmax((h @ p["star_state_key"]) @ (star @ p["star_star_query"]) / root) @ h
        last = star @ p["attention_star"]
    if "highway" in p:
        gate = expit(np.concatenate([vectors, h], axis=1) @ p["highway"])
        h = gate * vectors + (1 - gate) * h
    alpha = expit(h[-1] @ p["attention_last"] + last + h @ p["attention_each"]) @ p["attention_value"][:, 0]
    alpha = softmax(alpha) if model.attention == "softmax" else alpha
    local = {"states": [alpha @ h], "items": [alpha @ vectors], "both": [alpha @ h, alpha @ vectors]}[model.local]
    decoder = np.concatenate([p["decoder"], p["decoder_items"]]) if "decoder_items" in p else p["decoder"]
    return np.concatenate([h[-1], *local]) @ decoder


def norm_of(p: dict[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
    return np.asarray(scaled * p[name]["scale"] + p[name]["bias"])


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """float64[n, D]: softmax attention of each head to what came until then."""
    mixed = []
    for one in np.split(np.arange(q.shape[1]), heads):
        score = q[:, one] @ k[:, one].T / np.sqrt(len(one))
        score[np.triu_indices(len(q), 1)] = -np.inf  # what comes later
        mixed.append(softmax(score, axis=-1) @ v[:, one])
    return np.concatenate(mixed, axis=1)


def silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * expit(x))


def sasrec_query(p: dict[str, Any], vectors: np.ndarray, blocks: int, heads: int, _: Any) -> np.ndarray:
    """float64[D] after a session of float64[n, D] (Kang & McAuley 2018, section III, as in the authors' code)."""
    n, width = vectors.shape
    norm = partial(norm_of, p)
    x = vectors * np.sqrt(width) + p["positions"][:n]
    for block in (f"block_{i}" for i in range(blocks)):
        q = norm(f"{block}_norm_1", x) @ p[f"{block}_query"]
        k, v = x @ p[f"{block}_key"], x @ p[f"{block}_value"]
        x = x + attended(q, k, v, heads)
        hidden = np.maximum(norm(f"{block}_norm_2", x) @ p[f"{block}_kernel_1"] + p[f"{block}_bias_1"], 0.0)
        x = x + hidden @ p[f"{block}_kernel_2"] + p[f"{block}_bias_2"]
    return norm("norm", x)[-1]


def esasrec_query(p: dict[str, Any], vectors: np.ndarray, blocks: int, heads: int, _: Any) -> np.ndarray:
    """As ``sasrec_query`` (Borisyuk et al. 2025, section 3.2.1: gated halves; Shazeer 2020: SwiGLU)."""
    n, width = vectors.shape
    x = vectors * np.sqrt(width) + p["positions"][:n]
    for block in (f"block_{i}" for i in range(blocks)):
        y = norm_of(p, f"{block}_norm_1", x)
        q, k, v = (y @ p[f"{block}_{part}"] for part in ("query", "key", "value"))
        half = attended(q, k, v, heads) @ p[f"{block}_mixed"]
        x = x + expit(x @ p[f"{block}_gate_1_kernel"] + p[f"{block}_gate_1_bias"]) * half
        y = norm_of(p, f"{block}_norm_2", x)
        half = (silu(y @ p[f"{block}_swish"]) * (y @ p[f"{block}_linear"])) @ p[f"{block}_out"]
        x = x + expit(x @ p[f"{block}_gate_2_kernel"] + p[f"{block}_gate_2_bias"]) * half
    return norm_of(p, "norm", x)[-1]


def hstu_query(p: dict[str, Any], vectors: np.ndarray, blocks: int, heads: int, seconds: Any) -> np.ndarray:
    """float64[D] after a session of float64[n, D] (Zhai et al. 2024, equations 1 to 3)."""
    n, width = vectors.shape
    x = vectors * np.sqrt(width) + p["positions"][:n]
    for block in (f"block_{i}" for i in range(blocks)):
        u, v, q, k = np.split(silu(norm_of(p, f"{block}_norm_1", x) @ p[f"{block}_in"]), 4, axis=1)
        mixed = np.zeros_like(x)
        for head, part in enumerate(np.split(np.arange(width), heads)):
            for t in range(n):
                for j in range(t + 1):
                    bias = p[f"{block}_near"][head, t - j]
                    if seconds is not None:
                        bias += p[f"{block}_since"][int(seconds[t] - seconds[j]).bit_length(), head]
                    mixed[t, part] += silu(q[t, part] @ k[j, part] + bias) / (t + 1) * v[j, part]
        x = x + (norm_of(p, f"{block}_norm_2", mixed) * u) @ p[f"{block}_out"] + p[f"{block}_out_bias"]
    return norm_of(p, "norm", x)[-1]


QUERIES = {"sasrec": sasrec_query, "esasrec": esasrec_query, "hstu": hstu_query}
REFERENCE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "narm_reference.json").read_text())
SIZES, TOLERANCE = REFERENCE["sizes"], 1e-5
VARIANTS: dict[str, tuple[str, Sections]] = {
    "narm": ("narm", {}),
    "narm-softmax": ("narm", {"model": {"attention": "softmax", "temperature": 3.0}}),
    "narm-items": ("narm", {"model": {"local": "items"}}),
    "narm-star": ("narm", {"model": {"layers": [6], "star": True, "highway": True, "local": "both",
                                    "attention": "softmax"}}),
    "sasrec": ("sasrec", {"model": {"heads": 2, "temperature": 7.0}, "loss": {"label_smoothing": 0.1, "prior": 0.5}}),
    "esasrec": ("esasrec", {"model": {"heads": 3}}),
    "hstu": ("hstu", {"model": {"heads": 2}}),
    "hstu-times": ("hstu", {"model": {"heads": 2, "time_bias": True, "dropout_times": 0.0}}),
}  # fmt: skip
# Some longer than the window of 5, some in one row with others, some twice as long.
RANDOM = np.random.default_rng(0)
SESSIONS = [RANDOM.integers(0, N_ITEMS, length).tolist() for length in (2, 9, 3, 13, 5, 2, 6, 3)]


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> SequenceModel:
    name, sections = VARIANTS[request.param]
    return make_model(name, N_ITEMS, sections)


def test_scores_are_those_of_the_equations(model: SequenceModel) -> None:
    """Of the history that each target sees; with a temperature they are that times the cosine."""
    config: Any = model._model
    weights, block = random_weights(model), packed_block(model, SESSIONS)
    p, table = double(weights)
    expected = []
    for history in histories(block):
        vectors = (unit(table) if config.temperature else table)[list(history[:-1])]
        if config.name == "narm":
            query = narm_query(p, vectors, config)
        else:
            seconds = clock_of(history[:-1]) if model.reads_times else None
            query = QUERIES[config.name](p, vectors, config.blocks, config.heads, seconds)
        expected.append(config.temperature * unit(table) @ unit(query) if config.temperature else table @ query)
    np.testing.assert_allclose(scores(model, weights, block), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.vectors(weights["tables"]), weights["tables"]["item"])


def test_a_session_at_once_gives_the_loss_and_derivatives_of_its_prefixes(model: SequenceModel) -> None:
    """Each prefix on its own in a row, the last 5 clicks of it, as the published code reads it."""
    weights = random_weights(model)
    whole, alone = packed_block(model, SESSIONS), prefix_block(SESSIONS, model.reads_times)
    assert whole.start.max() > 0 and len(whole.input) > 1
    assert sorted(histories(whole)) == sorted(histories(alone))
    loss, slopes = loss_and_slopes(model, weights, whole)
    expected, by_prefixes = loss_and_slopes(model, weights, alone)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(by_prefixes), strict=True):
        scale = float(jnp.abs(theirs).max())
        assert scale > 1e-3, "every parameter has a part"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize(("every", "platform"), [(1, "gpu"), (4, "gpu"), (1, "tpu")])
def test_accelerators_give_the_same_queries_and_derivatives(model: SequenceModel, every: int, platform: str) -> None:
    """Of a step with padding, whose slots repeat and weigh nothing; of all its positions, and of few."""
    params, block = random_weights(model)["params"], packed_block(model, SESSIONS)
    start, slot, weight = block.start[-1], block.slot[-1, ::every], block.weight[-1, ::every, None]
    clock = None if block.clock is None else jnp.asarray(block.clock[-1])
    assert every > 1 or not weight.all()
    random = np.random.default_rng(0)
    vectors, by = random.normal(size=(*start.shape, 6)), weight * random.normal(size=(len(slot), 6))

    @partial(jax.jit, static_argnums=0)
    def encode(on: Placement) -> Any:
        def query(params: Any, vectors: Any) -> Any:
            return model._encoder.apply({"params": params}, vectors, Grid(start, slot, on, clock), False)

        queries, backward = jax.vjp(query, params, jnp.asarray(vectors, jnp.float32))
        return queries, backward(jnp.asarray(by, jnp.float32))

    expected, found = (jax.tree.leaves(encode(Placement(platform=name))) for name in ("cpu", platform))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_biases_by_distance_are_those_of_a_gather() -> None:
    near = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)  # of a window of 4
    for columns in range(1, 6):
        distance = np.arange(columns) - np.arange(columns)[:, None]
        np.testing.assert_array_equal(by_distance(jnp.asarray(near), columns), near[:, distance + 4])


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
    model, weights = make_model("narm", SIZES["items"], {"model": fields}), to_ours(REFERENCE["weights"])
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


def test_star_and_highway_want_states_as_wide_as_items() -> None:
    for name in ("star", "highway"):
        with pytest.raises(UserError, match=rf"model.{name}: .* model.layers \[8\] and model.embedding_dim 6;"):
            make_model("narm", N_ITEMS, {"model": {name: True}})


def test_times_are_dropped_by_session_and_unknown_where_there_are_none() -> None:
    model = make_model("hstu", N_ITEMS, {"model": {"time_bias": True, "dropout_times": 0.5}})
    weights, block = random_weights(model), packed_block(model, SESSIONS)
    start, clock = jnp.asarray(block.start[0]), jnp.asarray(block.clock[0])

    def buckets(clock: Any, train: bool) -> Any:
        grid, rngs = Grid(start, jnp.zeros(1, int), clock=clock), {"dropout": jax.random.key(0)}
        return np.asarray(model._encoder.apply({}, grid, train, method="_buckets", rngs=rngs))

    known, some = buckets(clock, False), buckets(clock, True)
    assert (known < UNKNOWN).all() and (buckets(None, False) == UNKNOWN).all()
    lost = np.diagonal(some, axis1=1, axis2=2) == UNKNOWN  # [R, W]
    assert lost.any() and not lost.all()
    np.testing.assert_array_equal(lost, np.take_along_axis(lost, np.asarray(start), axis=1))
    either = lost[:, :, None] | lost[:, None, :]
    np.testing.assert_array_equal(some, np.where(either, UNKNOWN, known))

    items, lengths = jnp.asarray([[3, 8, 5]]), jnp.asarray([3])
    ask = partial(model.last_query, weights["params"], weights["tables"], items, lengths)
    np.testing.assert_array_equal(ask(), ask(jnp.full((1, 3), -1)))
    assert np.abs(ask() - ask(jnp.asarray([[0, 1, 90]]))).max() > 1e-3
