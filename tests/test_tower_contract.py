"""What every model of two towers must do, whatever its loss and tables. A new one joins with a line in ``MODELS``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_same_arrays, call, same_metrics, steps_of
from tower_data import (
    EACH,
    ITEMS,
    USERS,
    Sections,
    bought,
    load_state,
    write_source,
    write_towers,
)

from jaxrec import run as runs
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.tasks.base import load as load_run
from jaxrec.tasks.retrieval import judge as retrieval_evaluation
from jaxrec.tasks.retrieval.judge import Judge

MODELS: dict[str, Sections] = {
    "triplet": {
        "loss": {"name": "triplet", "hard_negatives": 2, "hard_pool": 8, "refresh_steps": 7},
        "training": {"average": 0.5},
    },
    "infonce": {
        "loss": {
            "name": "infonce", "temperature": 0.2, "mask": "duplicates", "logq": 1.0, "n_sample": 8,
            "sample_alpha": 0.5,
        },
        "model": {"table": "rows", "norm": "none"},
        "data": {
            "fields": ["age", "skin", "likes", "price", "category", "brand"], "unknown_rate": 0.05, "device_memory": 0,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {name: write_source(root / name, name == "made") for name in ("made", "noise")}


def trained(place: Path, source: Path, *sections: Sections) -> Path:
    config = write_towers(place / "c.yaml", source, *sections)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def learned(model: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the predictable source; tests must not change it."""
    return trained(tmp_path_factory.mktemp(model), sources["made"], MODELS[model], {"training": {"epochs": 3}})


@pytest.fixture(scope="module")
def noisy(model: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the random source that saves after every block; tests must not change it."""
    return trained(tmp_path_factory.mktemp(model), sources["noise"], MODELS[model], {"training": {"save_every": 0}})


@pytest.fixture(scope="module")
def one(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one of the models, for what does not depend on which."""
    return trained(tmp_path_factory.mktemp("one"), sources["made"], MODELS["triplet"])


def opened(run: Path) -> Retrieval:
    found = runs.open_run(run)
    dataset = open_dataset(found.config.data.path)
    assert isinstance(dataset, RowsDataset)
    return Retrieval.open(found.config, dataset)


def evaluator_of(run: Path, split: str) -> tuple[Judge, dict[str, Any], str]:
    data, (_, made, weights, which) = opened(run), load_run(run)
    config = runs.open_run(run).config.evaluation
    return Judge(made, data, getattr(data.splits, split), config), weights, which


def evaluated(run: Path) -> dict[str, Any]:
    assert call("evaluate", "--run", run) == 0
    return json.loads((run / "eval-test.json").read_text())


def raw(evaluator: Judge, query: int) -> int:
    """The number of the customer of a query."""
    return int(evaluator.queries.users[query]) - 1


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_a_predictable_source_is_learned(learned: Path) -> None:
    """For customers of whom training has no row: five products are right, of which they have two."""
    result = evaluated(learned)
    assert result["targets"] == EACH * USERS // 4 and result["checkpoint"] == "best"
    assert result["chance"]["hit_rate@3"] == pytest.approx(3 / (ITEMS - EACH + 1))
    assert result["hit_rate@3"] > 0.9, "the optimum is 1"
    assert 0.25 < result["mrr@3"] < 0.75, "and of three that are right any may be first: 11 / 18"


def test_a_random_source_stays_at_chance(noisy: Path) -> None:
    result = evaluated(noisy)
    chance = 3 / (ITEMS - EACH + 1)
    assert abs(result["hit_rate@3"] - chance) < 3.5 * np.sqrt(chance * (1 - chance) / result["targets"])
    data = opened(noisy)
    users = [set(data.rows.users[part].tolist()) for part in data.splits]
    assert not users[0] & users[2] and not users[0] & users[1] and len(users[2]) == USERS // 4


# ---- saved, loaded, resumed ------------------------------------------------------------------------------------------


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The best checkpoint gives the metrics that validation wrote of it; the latest, those in memory at the end."""
    evaluator, weights, which = evaluator_of(learned, "validation")
    written = [line for line in same_metrics(learned) if line["kind"] == "validation"]
    best = max(written, key=lambda line: line["hit_rate@3"])
    assert which == "best" and evaluator(weights, [3]).metrics.items() <= best.items()
    state, _ = load_state(learned)
    assert evaluator(state.weights(), [3]).metrics.items() <= written[-1].items()


def test_resuming_is_bit_identical(noisy: Path, model: str, tmp_path: Path) -> None:
    """From a checkpoint within an epoch: index, batch statistics, averages, drawn negatives and unknown values."""
    reference, resumed = noisy, tmp_path / "resumed"
    inner, final = steps_of(reference)
    shutil.copytree(reference, resumed, ignore=shutil.ignore_patterns("item_vectors.npz"))
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert set(state.carry) == {"statistics"} | ({"near", "steps"} if model == "triplet" else set())
    if model == "triplet":
        assert int(state.carry["steps"]) == inner and state.carry["near"].max() > 0
        assert state.average is not None
        assert np.abs(state.carry["statistics"]["user"]["BatchNorm_0"]["mean"]).max() > 0
    assert call("train", "--config", resumed / "config.yaml", "--run", resumed, "--resume") == 0
    (state, position), (expected, expected_position) = load_state(resumed), load_state(reference)
    assert_same_arrays(state, expected)
    for entries in (position, expected_position):
        del entries["seconds"], entries["metrics_bytes"]
    assert position == expected_position
    assert same_metrics(resumed) == same_metrics(reference)
    assert steps_of(resumed, "best") == steps_of(reference, "best")
    ours, theirs = (np.load(run / "item_vectors.npz") for run in (resumed, reference))
    assert np.array_equal(ours["vectors"], theirs["vectors"]) and ours["checkpoint"] == theirs["checkpoint"]


def test_passes_are_epochs_without_a_pause(sources: dict[str, Path], one: Path, tmp_path: Path) -> None:
    """Two epochs of four passes end as four epochs of two do."""
    more = trained(tmp_path, sources["made"], MODELS["triplet"], {"training": {"epochs": 4, "passes": 2}})
    (ours, position), (theirs, _) = load_state(more), load_state(one)
    assert int(ours.step) == 8 * 12 and position["epoch"] == 4
    assert_same_arrays(ours, theirs)


# ---- evaluated -------------------------------------------------------------------------------------------------------


def test_evaluation_does_not_depend_on_what_is_asked_together(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, weights, _ = evaluator_of(learned, "test")
    queries, items = (np.asarray(one) for one in evaluator.vectors(weights))
    ranks, top = evaluator(weights, [5], 5).arrays.values()
    monkeypatch.setattr(retrieval_evaluation, "MOST_QUERIES", 50)
    again, _, _ = evaluator_of(learned, "test")
    assert again.blocks == 4
    in_parts, best = again(weights, [5], 5).arrays.values()
    np.testing.assert_array_equal(in_parts, ranks)
    np.testing.assert_array_equal(best, top)
    made, asked = load_run(learned).model, evaluator.queries
    alone = jax.jit(made.encode, static_argnums=0)("user", weights, asked.columns[:7], asked.numbers[:7])
    np.testing.assert_allclose(alone, queries[:7], rtol=1e-4, atol=1e-6)
    for query in range(0, len(ranks), 29):  # by sets, from the same vectors
        user, own = raw(evaluator, query), int(asked.items[query])
        others = {int(code) + 1 for code in bought(True)[user]} - {own}
        scores = items @ queries[query]
        assert ranks[query] == 1 + sum(scores[i] >= scores[own] for i in range(1, ITEMS + 1) if i not in others | {own})
        assert not others & set(top[query].tolist())
