"""What MERRec must do, whichever heads and losses it has: test_model_contract.py for events with names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_data import MODEL_SECTION, write_vectors
from helpers import assert_same_arrays, call, fails, same_metrics, steps_of, write_config

from jaxrec import run as runs
from jaxrec.data.dataset import Sessions, open_sessions
from jaxrec.data.splits import cut_validation
from jaxrec.data.store import sealed
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import target_positions
from jaxrec.models.merrec import MERRec
from jaxrec.sources.merrec import EVENT_TYPES
from jaxrec.tasks.base import load
from jaxrec.tasks.events.judge import EventEvaluator
from jaxrec.training.block import new_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule

KINDS, OLD, NEW = 12, 3, 2  # names, and the listings of each: those of training, and those that are new in the test
EACH, N_ITEMS = OLD + NEW, KINDS * (OLD + NEW)
VISITS, TEST_DAYS, HOUR = 300, 3, 3600
ROW = {
    "sequence_length": 3, "product_id": "7_9", "c0_name": "Home", "c0_id": 1, "c1_name": "Rooms", "c1_id": 2.0,
    "c2_name": "Beds", "c2_id": 3.0, "brand_name": None, "brand_id": 0, "item_condition_id": 1,
    "item_condition_name": "New", "size_name": None, "size_id": None, "color": None, "shipper_id": 1,
    "shipper_name": "Buyer",
}  # fmt: skip
TEXTS = pa.schema([(name, pa.string()) for name in ("brand_name", "size_name", "color")] + [("size_id", pa.float64())])
Sections = dict[str, dict[str, Any]]

MODELS: dict[str, Sections] = {
    "items": {
        "model": {"head": "items", "item_fields": []},
        "loss": {"name": "softmax", "label_smoothing": 0.1},
        "optimizer": {"tables": "same", "weight_decay": 1e-3},
        "training": {"average": 0.5},
    },
    "text": {
        "model": {"head": "text", "temperature": 8.0, "item_fields": []},
        "loss": {"n_sample": 0},
        "data": {"name_memory": 0},
    },
    "both": {
        "loss": {"n_sample": 64, "category_weight": 0.3},
        "data": {"unknown_rate": 0.2},
        "optimizer": {"schedule": "cosine"},
    },
}  # fmt: skip


def write_market(path: Path, follows: bool) -> Path:
    """A data set of visits, one an hour: the next item is any listing of the kind after this one's, or of any kind."""
    random, rows = np.random.default_rng(3), list[dict[str, Any]]()
    order, lengths = np.random.default_rng(4).permutation(KINDS), random.integers(3, 8, VISITS)
    after = {int(order[i]): int(order[(i + 1) % KINDS]) for i in range(KINDS)}
    for visit, length in enumerate(lengths):  # the same in all markets, so that their programs are
        kind, begin = int(random.integers(KINDS)), np.datetime64("2023-05-01T00:00:00") + visit * HOUR
        listings = EACH if visit >= VISITS - 24 * TEST_DAYS else OLD
        for second in range(length):
            item = EACH * kind + int(random.integers(listings))
            rows.append(ROW | {
                "user_id": visit, "session_id": str(visit), "sequence_id": "1", "item_id": item, "name": f"kind{kind}",
                "stime": str(begin + second).replace("T", " "), "price": 5.0 + item,
                "event_id": EVENT_TYPES[random.integers(len(EVENT_TYPES))],
            })  # fmt: skip
            kind = after[kind] if follows else int(random.integers(KINDS))
    schema = pa.unify_schemas(
        [TEXTS, pa.Table.from_pylist([{k: v for k, v in rows[0].items() if v is not None}]).schema]
    )
    raw = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema), raw)
    assert call("prepare", "merrec", "--raw", raw, "--out", path, "--test-days", TEST_DAYS) == 0
    return write_vectors(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("markets")
    return {name: write_market(root / name, name == "made") for name in ("made", "noise")}


def trained(place: Path, source: Path, *sections: Sections) -> Path:
    values: Sections = {
        "data": {"validation_fraction": 0.1},
        "model": MODEL_SECTION | {"layers": [24], "window": 6, "dropout_embedding": 0.05, "dropout_hidden": 0.1},
        "loss": {"n_sample": None},
        "optimizer": {"learning_rate": 0.02, "table_learning_rate": 0.2},
        "training": {"batch_size": 64, "metric": "recall@5", "steps_per_block": 8, "log_every": 1, "epochs": 8},
        "evaluation": {"k": [5]},
    }
    for added in sections:
        for section, fields in added.items():
            values[section] = values.get(section, {}) | fields
    if values["optimizer"].get("tables") == "same":
        values["optimizer"]["table_learning_rate"] = None
    config = write_config(place / "c.yaml", source, **values)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def learned(model: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the predictable source; tests must not change it."""
    return trained(tmp_path_factory.mktemp(model), sources["made"], MODELS[model])


@pytest.fixture(scope="module")
def noisy(model: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the random source that saves after every block; tests must not change it."""
    more: Sections = {"data": {"half_life": 3.0}, "training": {"epochs": 2, "save_every": 0}}
    return trained(tmp_path_factory.mktemp(model), sources["noise"], MODELS[model], more)


def evaluated(run: Path, *words: object) -> dict[str, Any]:
    assert call("evaluate", "--run", run, *words) == 0
    return json.loads((run / "eval-test.json").read_text())


def loaded(run: Path) -> tuple[MERRec, dict[str, Any], np.ndarray, str]:
    """The model, its weights, which items training held, and which checkpoint it is."""
    opened = runs.open_run(run)
    _, model, weights, which = load(opened)
    return model, weights, np.asarray(opened.kept("item_counts")) > 0, which


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_a_predictable_source_is_learned(learned: Path, model: str) -> None:
    """Of the right kind are five listings: names find the two that are new, vectors of their own leave them last."""
    result = evaluated(learned)
    seen, unseen = (result["groups"]["items"][part] for part in ("seen", "unseen"))
    assert result["items"] == N_ITEMS and result["trained_items"] == KINDS * OLD and unseen["targets"] > 60
    assert seen["recall@5"] > 0.95
    assert unseen["recall@5"] > 0.95 if model != "items" else unseen["recall@5"] == 0.0


def test_items_that_training_has_not_seen_are_last_without_names(learned: Path, model: str) -> None:
    opened, (made, weights, trained_items, _) = runs.open_run(learned), loaded(learned)
    sessions = open_sessions(opened.config.data.path).split("test")
    evaluator = EventEvaluator(made, sessions, opened.config.evaluation, trained_items)
    ranks, new = evaluator.ranks(weights), ~trained_items[np.asarray(sessions.items)[evaluator.positions]]
    assert new.any() and not new.all()
    assert (ranks[~new] <= trained_items.sum()).all() or model != "items"
    assert (ranks[new] == N_ITEMS).all() if model == "items" else (ranks[new] <= EACH).mean() > 0.95


def test_a_random_source_stays_at_chance(noisy: Path) -> None:
    """Every listing is as likely as any: no ranking is better than another, beyond what chance allows."""
    result = evaluated(noisy)
    chance = 5 / N_ITEMS
    assert result["recall@5"] < chance + 4 * np.sqrt(chance * (1 - chance) / result["targets"])
    assert result["recall@5"] > 0


def test_a_query_does_not_depend_on_its_neighbours(learned: Path) -> None:
    """Nor on the padding that neighbours of other lengths bring."""
    made, weights, *_ = loaded(learned)
    sessions = open_sessions(runs.open_run(learned).config.data.path).split("test")
    picked = np.array([7, 30, 2])
    together, alone = queries(made, weights, sessions), queries(made, weights, sessions.pick(picked))
    offsets, at = np.asarray(sessions.offsets), 0
    for session in picked:
        length = offsets[session + 1] - offsets[session]
        for step in range(1, length):
            expected = together[int(offsets[session]) + step]
            np.testing.assert_allclose(alone[at + step], expected, rtol=1e-4, atol=1e-5)
        at += int(length)


def queries(model: MERRec, weights: dict[str, Any], sessions: Sessions) -> dict[int, np.ndarray]:
    """The query for each target, by where it stands in the sessions."""
    feed = model.feed(sessions, Plan(64, 100, "time", 0, 2**30))
    found = np.concatenate([jax.jit(model.encode)(weights, model.known, block) for block in feed.epoch(0)])
    where = target_positions(feed).reshape(-1).tolist()
    return dict(zip(where, found.reshape(len(where), -1), strict=True))


# ---- saved, loaded, resumed ------------------------------------------------------------------------------------------


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The best checkpoint gives the metrics that validation wrote of it."""
    opened, (made, weights, trained_items, which) = runs.open_run(learned), loaded(learned)
    dataset = open_sessions(opened.config.data.path)
    held_out = cut_validation(dataset.split("train"), dataset.split("validation"), 0.1).validation
    written = [line for line in same_metrics(learned) if line["kind"] == "validation"]
    best = max(written, key=lambda line: line["recall@5"])
    found = EventEvaluator(made, held_out, opened.config.evaluation, trained_items).metrics(**weights, ks=[5])
    assert which == "best" and found.items() <= best.items()


def load_state(run: Path) -> tuple[Any, dict[str, Any]]:
    """The latest training state of a run and its position."""
    opened = runs.open_run(run)
    optimizer = make_optimizer(opened.config.optimizer, make_schedule(opened.config.optimizer, 1))
    made = loaded(run)[0]
    found = Checkpoints(run).restore(jax.eval_shape(lambda: new_state(opened.config, made, optimizer)))
    assert found is not None
    return found


def test_resuming_is_bit_identical(noisy: Path, tmp_path: Path) -> None:
    """From a checkpoint within an epoch: dropout, drawn negatives, rows left out, averages, names from the host."""
    resumed, (inner, final) = tmp_path / "resumed", steps_of(noisy)
    shutil.copytree(noisy, resumed)
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert call("train", "--config", resumed / "config.yaml", "--run", resumed, "--resume") == 0
    (state, position), (expected, expected_position) = load_state(resumed), load_state(noisy)
    assert_same_arrays(state, expected)
    for entries in (position, expected_position):
        del entries["seconds"], entries["metrics_bytes"]
    assert position == expected_position
    assert same_metrics(resumed) == same_metrics(noisy)
    assert steps_of(resumed, "best") == steps_of(noisy, "best")


# ---- other data, other embeddings ------------------------------------------------------------------------------------


def test_a_model_of_sessions_trains_on_events(sources: dict[str, Path], tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "c.yaml", sources["made"], evaluation={"k": [5]}, optimizer={"learning_rate": 0.1},
        training={"epochs": 8, "metric": "recall@5"},
    )  # fmt: skip
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    result = evaluated(tmp_path / "run", "--baselines", "pop")
    assert result["items"] == N_ITEMS
    assert result["targets"] == open_sessions(sources["made"]).manifest["counts"]["test"]["targets"]
    assert 0.2 < result["recall@5"] < 0.75, "three of five items, after one that training has seen"


def without(source: Path, place: Path, names: Iterable[str] = ("text",)) -> Path:
    return Path(shutil.copytree(source, place, ignore=shutil.ignore_patterns(*names)))


def test_data_without_events_or_embeddings_are_refused(
    sources: dict[str, Path], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path, names: str, **sections: dict[str, Any]) -> None:
        base: Sections = {"model": MODEL_SECTION, "training": {"batch_size": 64}}
        config = write_config(tmp_path / "c.yaml", folder, **base, **sections)
        fails(capsys, "train", "--config", config, "--run", tmp_path / "none", names=names)
        assert not (tmp_path / "none").exists()

    refused(dataset, "holds no events with item names; prepare some with python -m jaxrec.prepare merrec")
    bare = without(sources["made"], tmp_path / "bare")
    refused(bare, r"bare: no embeddings of its names \(no text/\); make them with python -m jaxrec\.text --data")
    two = write_vectors(without(sources["made"], tmp_path / "two", ()), model="other", dim=8)
    refused(two, r"several embeddings .* set data\.embeddings to one of fake \(model fake\), other \(model other\)")
    refused(two, r"no embeddings 'third'; there are fake .*choose with data\.embeddings", data={"embeddings": "third"})
    stale = without(sources["made"], tmp_path / "stale", ())
    file = stale / "text" / "fake" / "meta.json"
    file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {"key": "0" * 64})))
    refused(stale, r"fake: embeddings of another catalogue, names\.parquet has changed; make them again with")


def test_a_run_goes_on_with_its_own_embeddings_alone(
    learned: Path, sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of another model beside the data, even of the same width, are not the run's; what it keeps is enough."""
    expected = evaluated(learned)
    data, run = without(sources["made"], tmp_path / "data"), Path(shutil.copytree(learned, tmp_path / "run"))
    write_vectors(data, model="other")
    words = ("train", "--config", run / "config.yaml", "--run", run, "--resume", "--data.path", data)
    fails(capsys, *words, names=r"text/other/vectors\.npy: not what .*run was trained with; put that back")
    found = evaluated(run, "--data", data)
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    shutil.rmtree(run / "dataset" / "text")
    fails(capsys, "evaluate", "--run", run, names="no embeddings of its names")
