"""What every model must do, whatever it is. A new model joins with a line in ``MODELS``."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_run, call, load_state, steps_of, write_config, write_dataset

from jaxrec import rundir as runs
from jaxrec.data.dataset import open_dataset
from jaxrec.data.feed import Block
from jaxrec.models import make_model
from jaxrec.recommend import Recommender

Sections = dict[str, dict[str, Any]]

GRU4REC = {"name": "gru4rec", "layers": [32], "embedding_dim": 24}
MODELS: dict[str, dict[str, Any]] = {
    "gru4rec-constrained": {**GRU4REC, "embedding": "constrained"},
    "gru4rec-separate": {**GRU4REC, "embedding": "separate"},
    "gru4rec-onehot": {**GRU4REC, "embedding": "onehot"},
}

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


def config_for(file: Path, source: Path, model: dict[str, Any], epochs: int = 4, **more: dict[str, Any]) -> Path:
    sections: Sections = {
        "data": {"validation_fraction": 0.0},
        "model": model,
        "loss": {"n_sample": 64, "sample_alpha": 0.0},
        "optimizer": {"learning_rate": 0.1},
        "training": {"epochs": epochs, "batch_size": 32},
        "evaluation": {"k": [1, 5]},
    }
    for section, fields in more.items():
        sections[section] |= fields
    return write_config(file, source, **sections)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def learned(model: dict[str, Any], sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_what_needs_a_memory_is_learned(model: dict[str, Any], sources: dict[str, Path], tmp_path: Path) -> None:
    """The item before the last comes again: from the last item alone recall@1 could not pass 1 / 20, its chance.

    The first target of a session is chance, so at most 6 of the 7 can be foreseen.
    """
    config = config_for(tmp_path / "c.yaml", sources["alternation"], model, epochs=6)
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    result = evaluated(tmp_path / "run")
    assert 0.2 < result["recall@1"] < 6 / 7 + 0.03


def test_a_random_source_stays_at_chance(model: dict[str, Any], sources: dict[str, Path], tmp_path: Path) -> None:
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
    ids, _ = recommender.recommend([[item] for item in range(N_ITEMS)], k=1)
    right = sum(found == [follows[item]] for item, found in enumerate(ids))
    assert right >= N_ITEMS - 1


def test_text_ids_go_in_and_out(
    model: dict[str, Any], learned: Path, sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same data with ids like sku-007: the same recommendations, as text."""
    config = config_for(tmp_path / "c.yaml", sources["text"], model)
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    text, numbers = Recommender.load(tmp_path / "run"), Recommender.load(learned)
    sessions = cycle(np.random.default_rng(4))[:40]
    found, scores = text.recommend([[sku(item) for item in session] for session in sessions], k=10)
    expected, expected_scores = numbers.recommend(sessions, k=10)
    assert found == [[sku(item) for item in ids] for ids in expected]
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)
    assert all(type(item) is str for ids in found for item in ids)
    capsys.readouterr()
    words = ["--items", sku(3), "nowhere", "--k", 3, "--json"]
    assert call("recommend", "--run", tmp_path / "run", *words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in printed["recommendations"]] == text.recommend([sku(3)], k=3)[0]
    assert printed["unknown"] == ["nowhere"]


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The recommender read from the run, and the state in memory through the model itself, step by step."""
    opened = runs.open_run(learned)
    made = make_model(opened.config, opened.n_items)
    state, _ = load_state(learned)
    session = cycle(np.random.default_rng(5))[0]
    recommender = Recommender.load(learned)
    ids, scores = recommender.recommend(session, k=N_ITEMS, exclude_seen=False)
    encode = jax.jit(made.encode)
    carry = made.carry(1)
    for step, index in enumerate(recommender.vocabulary.encode(session)):
        block = _block(int(index), reset=step == 0)
        carry, query = encode(state.params, state.tables, carry, block)
    expected = np.asarray(query[0, 0] @ made.items(state.tables).T)
    order = recommender.vocabulary.encode(ids)
    np.testing.assert_allclose(scores, expected[order], rtol=1e-5, atol=1e-5)
    assert sorted(order.tolist()) == list(range(N_ITEMS))


def _block(item: int, reset: bool) -> Block:
    one = jnp.full((1, 1), item, jnp.int32)
    return Block(one, one, jnp.full((1, 1), reset), jnp.ones((1, 1), jnp.float32))


def test_a_sessions_scores_do_not_depend_on_its_neighbours(learned: Path) -> None:
    """Nor on the padding that neighbours of other lengths bring."""
    recommender = Recommender.load(learned)
    sessions = cycle(np.random.default_rng(6))[:9]
    sessions[4] = [item for session in cycle(np.random.default_rng(7))[:20] for item in session]
    together = recommender.recommend(sessions, k=N_ITEMS, exclude_seen=False)
    backwards = recommender.recommend(sessions[::-1], k=N_ITEMS, exclude_seen=False)
    for i, session in enumerate(sessions):
        alone = dict(zip(*recommender.recommend(session, k=N_ITEMS, exclude_seen=False), strict=True))
        for ids, scores in (
            (together[0][i], together[1][i]),
            (backwards[0][len(sessions) - 1 - i], backwards[1][len(sessions) - 1 - i]),
        ):
            assert set(ids) == set(alone)
            np.testing.assert_allclose(scores, [alone[item] for item in ids], rtol=1e-5, atol=2e-5)


def test_resuming_is_bit_identical(model: dict[str, Any], sources: dict[str, Path], tmp_path: Path) -> None:
    """From a checkpoint within an epoch, with dropout (without it: test_checkpoint.py)."""
    dropped = {"dropout_embedding": 0.2, "dropout_hidden": 0.3}
    config = config_for(
        tmp_path / "c.yaml", sources["noise"], {**model, **dropped}, epochs=2,
        data={"validation_fraction": 0.1},
        optimizer={"momentum": 0.2, "schedule": "linear"},
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
    assert open_dataset(sources["cycle"]).n_items == N_ITEMS
