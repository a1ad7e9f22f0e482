"""What every model must do, whatever it is. A new model joins with a line in ``MODELS``."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_same_run, call, load_state, ranked, steps_of, write_config, write_dataset

from jaxrec import run as runs
from jaxrec.data.dataset import Sessions, open_sessions
from jaxrec.feeds.base import Plan
from jaxrec.models.base import SessionModel, make_model
from jaxrec.recommend import Recommender

Sections = dict[str, dict[str, Any]]

# Sections of each model's configuration; None stands for a field's default.
SAMPLED: Sections = {
    "loss": {"n_sample": 64, "sample_alpha": 0.0},
    "optimizer": {"learning_rate": 0.1},
}
SOFTMAX: Sections = {
    "loss": {"name": "softmax", "n_sample": None},
    "optimizer": {"name": "adam", "learning_rate": 0.02},
    "training": {"batch_size": 64},
}


def gru4rec(embedding: str) -> Sections:
    return {"model": {"name": "gru4rec", "layers": [32], "embedding_dim": 24, "embedding": embedding}, **SAMPLED}


def packed(name: str, rest: Sections, **model: Any) -> Sections:
    return {**rest, "model": {"name": name, "layers": [32], "embedding_dim": 24, "window": 8, **model}}


MODELS: dict[str, Sections] = {
    "gru4rec-constrained": gru4rec("constrained"),
    "gru4rec-onehot": gru4rec("onehot"),
    "narm": packed("narm", SOFTMAX),
    "sasrec": packed(
        "sasrec", {**SOFTMAX, "training": {"batch_size": 64, "average": 0.9}}, layers=None, heads=2, temperature=12.0
    ),
}  # fmt: skip

N_ITEMS = 60


def cycle(random: np.random.Generator) -> list[list[int]]:
    """Each item is always followed by the same other one: a permutation of one cycle."""
    order = random.permutation(N_ITEMS)
    starts, lengths = random.integers(0, N_ITEMS, 1200), random.integers(3, 8, 1200)
    return [[int(order[(start + i) % N_ITEMS]) for i in range(n)] for start, n in zip(starts, lengths, strict=True)]


def alternation(random: np.random.Generator) -> list[list[int]]:
    """a b a b …: what comes next depends on the click before the last one, so a memory is needed."""
    pairs = random.integers(0, N_ITEMS // 3, (1200, 2))
    return [[int(pair[i % 2]) for i in range(8)] for pair in pairs if pair[0] != pair[1]]


def noise(random: np.random.Generator) -> list[list[int]]:
    """Independent clicks by popularity: nothing can be learned but the popularity."""
    popularity = np.arange(1, N_ITEMS + 1) ** -0.7
    return [
        [int(item) for item in random.choice(N_ITEMS, n, p=popularity / popularity.sum())]
        for n in random.integers(3, 8, 1200)
    ]


def sku(item: int) -> str:
    return f"sku-{item:03}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three data sets, and the cycle once more with ids that are text."""
    root, made = tmp_path_factory.mktemp("sources"), {}
    for source in (cycle, alternation, noise):
        made[source.__name__] = write_dataset(root / source.__name__, source(np.random.default_rng(3)), test_days=10)
    text = [[sku(item) for item in session] for session in cycle(np.random.default_rng(3))]
    made["text"] = write_dataset(root / "text", text, test_days=10)
    return made


def config_for(file: Path, source: Path, model: Sections, epochs: int = 4, **more: dict[str, Any]) -> Path:
    sections: Sections = {
        "data": {"validation_fraction": 0.0},
        "training": {"batch_size": 32},
        "evaluation": {"k": [1, 5]},
    }
    for added in (model, {"training": {"epochs": epochs}}, more):
        for section, fields in added.items():
            sections[section] = sections.get(section, {}) | fields
    return write_config(file, source, **sections)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Sections:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def learned(model: Sections, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the cycle."""
    place = tmp_path_factory.mktemp("learned")
    assert call("train", "--config", config_for(place / "c.yaml", sources["cycle"], model), "--run", place / "run") == 0
    return place / "run"


def evaluated(run: Path) -> dict[str, Any]:
    assert call("evaluate", "--run", run) == 0
    return json.loads((run / "eval-test.json").read_text())


def test_a_predictable_source_is_learned(learned: Path) -> None:
    result = evaluated(learned)
    assert result["recall@1"] > 0.99
    assert result["mrr@5"] > 0.99


def test_what_needs_a_memory_is_learned(model: Sections, sources: dict[str, Path], tmp_path: Path) -> None:
    """The item before the last comes again: from the last item alone recall@1 could not pass 1 / 20, its chance.

    The first target of a session is chance, so at most 6 of the 7 can be foreseen.
    """
    config = config_for(tmp_path / "c.yaml", sources["alternation"], model, epochs=6)
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    result = evaluated(tmp_path / "run")
    assert 0.2 < result["recall@1"] < 6 / 7 + 0.03


def test_a_random_source_stays_at_chance(model: Sections, sources: dict[str, Path], tmp_path: Path) -> None:
    """No ranking that knows only the past can beat the k most popular items, beyond what chance allows."""
    config = config_for(tmp_path / "c.yaml", sources["noise"], model)
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    result = evaluated(tmp_path / "run")
    popularity = np.sort(np.arange(1, N_ITEMS + 1) ** -0.7)[::-1]
    popularity /= popularity.sum()
    for k in (1, 5):
        most, least = popularity[:k].sum(), popularity[-k:].sum()
        deviation = 4 * math.sqrt(most * (1 - most) / result["targets"])
        assert least < result[f"recall@{k}"] < most + deviation, k


def test_what_is_recommended_follows_the_cycle(learned: Path, sources: dict[str, Path]) -> None:
    sessions = cycle(np.random.default_rng(3))
    follows = {a: b for session in sessions for a, b in itertools.pairwise(session)}
    assert len(follows) == N_ITEMS
    recommender = Recommender.load(learned)
    ids, _ = ranked(recommender, [[item] for item in range(N_ITEMS)], 1)
    right = sum(found == [follows[item]] for item, found in enumerate(ids))
    assert right >= N_ITEMS - 1


def test_text_ids_go_in_and_out(
    model: Sections, learned: Path, sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same data with ids like sku-007: the same recommendations, as text."""
    config = config_for(tmp_path / "c.yaml", sources["text"], model)
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    text, numbers = Recommender.load(tmp_path / "run"), Recommender.load(learned)
    sessions = cycle(np.random.default_rng(4))[:40]
    found, scores = ranked(text, [[sku(item) for item in session] for session in sessions], 10)
    expected, expected_scores = ranked(numbers, sessions, 10)
    assert found == [[sku(item) for item in ids] for ids in expected]
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)
    assert all(type(item) is str for ids in found for item in ids)
    capsys.readouterr()
    words = ["--items", sku(3), "nowhere", "--k", 3, "--json"]
    assert call("recommend", "--run", tmp_path / "run", *words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in printed["recommendations"]] == ranked(text, [sku(3)], 3)[0]
    assert printed["unknown"] == ["nowhere"]


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The recommender read from the run, and the state in memory through the model itself, as evaluation reads it."""
    opened = runs.open_run(learned)
    made = make_model(opened.config, opened.n_items)
    weights = load_state(learned)[0].weights()
    session = [item for one in cycle(np.random.default_rng(5))[:3] for item in one]
    assert len(session) > (made.window or 0)
    recommender = Recommender.load(learned)
    ids, scores = ranked(recommender, session, N_ITEMS, seen=True)
    query = _last_query(made, weights, recommender.kind.vocabulary.encode(session))
    expected = np.asarray(query @ made.items(weights["tables"]).T)
    order = recommender.kind.vocabulary.encode(ids)
    np.testing.assert_allclose(scores, expected[order], rtol=1e-5, atol=1e-5)
    assert sorted(order.tolist()) == list(range(N_ITEMS))


def _last_query(model: SessionModel, weights: dict[str, Any], session: np.ndarray) -> Any:
    """float32[Q]: the query for whatever follows the session, through its feed."""
    follows = np.setdiff1d(np.arange(N_ITEMS), session)[0]
    clicks = np.append(session, follows).astype(np.int32)
    sessions = Sessions(clicks, np.arange(len(clicks)), np.array([0, len(clicks)]))
    feed = model.feed(sessions, Plan(model.window or 1, 1, "time", 0, 2**30))
    encode, carry, found = jax.jit(model.encode), model.carry(1), dict[int, Any]()
    for block in feed.epoch(0):
        carry, queries = encode(weights["params"], weights["tables"], carry, block)
        live = block.weight > 0
        found |= zip(block.target[live].tolist(), queries[live], strict=True)
    return found[int(follows)]


def test_a_sessions_scores_do_not_depend_on_its_neighbours(learned: Path) -> None:
    """Nor on the padding that neighbours of other lengths bring."""
    recommender = Recommender.load(learned)
    sessions = cycle(np.random.default_rng(6))[:9]
    sessions[4] = [item for session in cycle(np.random.default_rng(7))[:20] for item in session]
    together = ranked(recommender, sessions, N_ITEMS, seen=True)
    backwards = ranked(recommender, sessions[::-1], N_ITEMS, seen=True)
    for i, session in enumerate(sessions):
        alone = dict(zip(*ranked(recommender, session, N_ITEMS, seen=True), strict=True))
        for ids, scores in (
            (together[0][i], together[1][i]),
            (backwards[0][len(sessions) - 1 - i], backwards[1][len(sessions) - 1 - i]),
        ):
            assert set(ids) == set(alone)
            np.testing.assert_allclose(scores, [alone[item] for item in ids], rtol=1e-5, atol=2e-5)


def test_resuming_is_bit_identical(model: Sections, sources: dict[str, Path], tmp_path: Path) -> None:
    """From a checkpoint within an epoch, with dropout (without it: test_checkpoint.py)."""
    dropped = model["model"] | {"dropout_embedding": 0.2, "dropout_hidden": 0.3}
    config = config_for(
        tmp_path / "c.yaml", sources["noise"], {**model, "model": dropped}, epochs=2,
        data={"validation_fraction": 0.1},
        optimizer={"schedule": "linear"} | ({} if "name" in model["optimizer"] else {"momentum": 0.2}),
        training={"save_every": 0, "steps_per_block": 40, "log_every": 1, "metric": "recall@5"},
    )  # fmt: skip
    reference = tmp_path / "reference"
    assert call("train", "--config", config, "--run", reference) == 0
    inner, final = steps_of(reference)
    resumed = tmp_path / "resumed"
    shutil.copytree(reference, resumed)
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert call("train", "--config", config, "--run", resumed, "--resume") == 0
    assert_same_run(resumed, reference)


def test_the_catalogue_is_scored_whole(learned: Path, sources: dict[str, Path]) -> None:
    opened = runs.open_run(learned)
    made = make_model(opened.config, opened.n_items)
    state, _ = load_state(learned)
    assert made.items(state.tables).shape[0] == made.vectors(state.tables).shape[0] == N_ITEMS
    assert open_sessions(sources["cycle"]).n_items == N_ITEMS


def test_sessions_longer_than_the_window_lose_no_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In training (two targets to a chunk beyond the window), validation, evaluation and recommending."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 40, 60)
    source = write_dataset(tmp_path / "data", [random.integers(0, 30, n).tolist() for n in lengths], test_days=1)
    model = {**MODELS["narm"], "model": MODELS["narm"]["model"] | {"window": 4, "stride": 2}}
    config = config_for(tmp_path / "c.yaml", source, model, epochs=1, data={"validation_fraction": 0.1})
    capsys.readouterr()
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    training, validation = map(
        int, re.findall(r"(\d+)(?: validation)? targets", capsys.readouterr().out.replace(",", ""))
    )
    counts = open_sessions(source).manifest["counts"]
    assert training + validation == counts["train"]["targets"] and validation > 40
    assert evaluated(tmp_path / "run")["targets"] == counts["test"]["targets"] > 40
    recommender = Recommender.load(tmp_path / "run")
    session = random.integers(0, 30, 30).tolist()
    (ids, scores), (last_ids, last_scores) = (
        ranked(recommender, part, 5, seen=True) for part in (session, session[-4:])
    )
    assert ids == last_ids, "what it recommends goes by the last clicks"
    np.testing.assert_allclose(scores, last_scores, rtol=1e-5, atol=1e-6)
