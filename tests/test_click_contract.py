"""What every click model must do, whatever it is. A new one joins with a line in ``MODELS``."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers import assert_same_arrays, call, same_metrics, steps_of

from jaxrec import run as runs
from jaxrec.data.dataset import open_dataset
from jaxrec.data.encode import RawField, RawRows, write_rows
from jaxrec.data.rows import Rows, RowsDataset
from jaxrec.data.splits import split_rows
from jaxrec.data.store import staging, write_manifest
from jaxrec.models.base import make_click_model
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks.judge import Judge, known_rows, selected_rows
from jaxrec.training.block import new_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule

Sections = dict[str, dict[str, Any]]

MODELS: dict[str, dict[str, Any]] = {
    "autoint": {"blocks": 2, "heads": 2},
    "deep-first-order": {"blocks": 0, "deep": [32, 16], "first_order": "logistic"},
    "autoint-plus": {"blocks": 1, "heads": 2, "deep": [16], "norm": "layer"},
    "rows": {"blocks": 1, "heads": 1, "deep": [16], "table": "rows"},
}

N, USERS, ITEMS = 2400, 28, 24
DAY, START = 86_400, 1_700_000_000  # November 2023
TEST, VALIDATION = 0.2, 0.25  # of N, and of the rest: as many rows, so that one program evaluates both
RARE_USER, RARE_DEVICE = 999, "watch"  # of one test row each, unseen in training


def group(user: Any) -> Any:
    return user // 7 % 2


def kind(item: Any) -> Any:
    return item // 6 % 2


def sku(item: int) -> str:
    return f"sku-{item:03}"


def raw_rows(learnable: bool) -> RawRows:
    """A label is whether the user's group is the item's kind: neither says anything alone. Or the toss of a coin.

    Users are 100 to 127, items sku-000 to sku-023. The last user has no training row, nor has the device ``watch``.
    """
    random = np.random.default_rng(3)
    user, item = random.integers(0, USERS, N), random.integers(0, ITEMS, N)
    block, place = item // 3 * 3, item % 3
    item = np.where(place == user % 3, block + (place + 1) % 3, item)  # a third of the items a user never sees
    device = random.integers(0, 2, N)
    tags = [[["new"], ["new", "red"], [], ["red", "big", "old"]][i % 4] for i in range(ITEMS)]
    labels = group(user) == kind(item) if learnable else random.random(N) < 0.5
    held = np.random.RandomState(42).permutation(N)[:2]  # the first rows of the test split
    user_ids = np.append(100 + np.arange(USERS), RARE_USER)
    by_user, devices = user.copy(), np.array(["phone", "desk", RARE_DEVICE])
    by_user[held[0]], device[held[1]] = USERS, 2
    people = np.append(np.arange(USERS), 0)
    times = START + np.sort(random.integers(0, 60 * DAY, N))
    months = np.array([datetime.datetime.fromtimestamp(int(t), datetime.UTC).month for t in times])
    fields = [
        RawField("user", "categorical", "user", pa.array(user_ids), by_user),
        RawField("item", "categorical", "item", pa.array([sku(i) for i in range(ITEMS)]), item),
        RawField("age", "numerical", "user", pa.array(20.0 + people), by_user),
        RawField("group", "categorical", "user", pa.array([f"g{group(u)}" for u in people]), by_user),
        RawField("kind", "categorical", "item", pa.array([f"k{kind(i)}" for i in range(ITEMS)]), item),
        RawField("tags", "bag", "item", pa.array(tags, pa.list_(pa.string())), item),
        RawField("price", "numerical", "item", pa.array(1.0 + np.arange(ITEMS)), item),
        RawField("device", "categorical", "context", pa.array(devices[device])),
        RawField("month", "categorical", "context", pa.array(months)),
    ]
    titles = pa.table({"item": [sku(i) for i in range(ITEMS)], "title": [f"Thing {i}" for i in range(ITEMS)]})
    return RawRows(
        fields, labels.astype(np.float64), times, 1.0, 0.0, 1.0, "user", "item", {"item": titles}, {"month": "month"}
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rows")
    for name in ("xor", "noise"):
        with staging(root / name) as stage:
            result = write_rows(raw_rows(name == "xor"), stage.dataset)
            write_manifest(stage.dataset, result.pop("files"), kind="rows", source="made up", options={}, **result)
    return {name: root / name for name in ("xor", "noise")}


def config_for(file: Path, source: Path, model: dict[str, Any], epochs: int, **more: dict[str, Any]) -> Path:
    """All that is random, in blocks of a third of an epoch; whatever the epochs, one program trains them."""
    values: Sections = {
        "data": {
            "path": str(source), "test_fraction": TEST, "validation_fraction": VALIDATION, "unknown_rate": 0.02,
        },
        "model": {
            "name": "autoint", "embedding_dim": 8, "attention_dim": 8, "dropout_embedding": 0.02,
            "dropout_attention": 0.02, "dropout_hidden": 0.02, **model,
        },
        "loss": {"name": "binary"},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "training": {
            "epochs": epochs, "batch_size": 64, "steps_per_block": 8, "metric": "auc", "log_every": 1,
        },
        "evaluation": {"k": [3]},
    }  # fmt: skip
    for section, fields in more.items():
        values[section] = values.get(section, {}) | fields
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def learned(model: dict[str, Any], sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the predictable source; tests must not change it."""
    place = tmp_path_factory.mktemp("learned")
    config = config_for(place / "c.yaml", sources["xor"], model, epochs=4)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module")
def noisy(model: dict[str, Any], sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the random source that saves after every block; tests must not change it."""
    place = tmp_path_factory.mktemp("noisy")
    config = config_for(place / "c.yaml", sources["noise"], model, epochs=2, training={"save_every": 0})
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module")
def one(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one of the models, for what does not depend on which."""
    place = tmp_path_factory.mktemp("one")
    config = config_for(place / "c.yaml", sources["xor"], MODELS["autoint-plus"], epochs=2)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


def evaluated(run: Path, *words: object) -> dict[str, Any]:
    assert call("evaluate", "--run", run, *words) == 0
    return json.loads((run / "eval-test.json").read_text())


def load_state(run: Path) -> tuple[Any, dict[str, Any]]:
    """The latest training state of a run and its position."""
    opened = runs.open_run(run)
    optimizer = make_optimizer(opened.config.optimizer, make_schedule(opened.config.optimizer, 1))
    made = make_click_model(opened.config, opened.schema)
    found = Checkpoints(run).restore(jax.eval_shape(lambda: new_state(opened.config, made, optimizer)))
    assert found is not None
    return found


def opened(source: Path) -> tuple[RowsDataset, Rows, np.ndarray]:
    """A data set, its rows, and those of the test split."""
    dataset = open_dataset(source)
    assert isinstance(dataset, RowsDataset)
    rows = dataset.rows()
    return dataset, rows, split_rows(rows, dataset.schema, "rows", 42, TEST, VALIDATION).test


def evaluator_of(run: Path, split: str) -> tuple[Judge, dict[str, Any], str]:
    """Evaluates a split as its rows are read; with the weights that are loaded, and which they are."""
    found = runs.open_run(run)
    dataset = open_dataset(found.config.data.path)
    assert isinstance(dataset, RowsDataset)
    rows, splits = selected_rows(found.config, dataset)
    known = known_rows(found.schema, rows.take(getattr(splits, split)), found.value_counts())
    _, made, parameters, which = load(found)
    return Judge(made, known), parameters, which


def logits_of_test(run: Path) -> tuple[np.ndarray, Rows]:
    """The logits of the test split as evaluation has them, and its rows as they are read."""
    evaluator, parameters, _ = evaluator_of(run, "test")
    return evaluator(parameters, [3]).arrays["logit"], evaluator.rows


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.float64(logits)))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ours, theirs = scores[labels == 1, None], scores[None, labels == 0]
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_a_predictable_source_is_learned(learned: Path) -> None:
    assert evaluated(learned)["auc"] > 0.95


def test_the_predictable_source_is_beyond_a_sum_over_fields(sources: dict[str, Path]) -> None:
    """Least squares on all values of all fields stays at chance: what models learn of it is of pairs of fields."""
    dataset, rows, test = opened(sources["xor"])
    sizes = np.repeat([field.size for field in dataset.schema.coded], [f.width for f in dataset.schema.coded])
    onehot = [np.eye(size + 1)[rows.columns[:, column]] for column, size in enumerate(sizes)]  # -1: the last one
    inputs = np.concatenate([*onehot, rows.numbers], axis=1)
    train = np.setdiff1d(np.arange(len(rows)), test)
    ridge = inputs[train].T @ inputs[train] + np.eye(inputs.shape[1])
    weights = np.linalg.solve(ridge, inputs[train].T @ (rows.labels[train] - rows.labels[train].mean()))
    assert abs(auc(inputs[test] @ weights, rows.labels[test]) - 0.5) < 0.1


def test_a_random_source_stays_at_chance(noisy: Path) -> None:
    result = evaluated(noisy)
    positive, negative = result["positive"] * result["rows"], (1 - result["positive"]) * result["rows"]
    error = np.sqrt((positive + negative + 1) / (12 * positive * negative))
    assert abs(result["auc"] - 0.5) < 3 * error
    assert result["log_loss"] > 0.68  # log 2 is the least that can be expected


# ---- saved, loaded, resumed ------------------------------------------------------------------------------------------


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The best checkpoint gives the metrics that validation wrote of it; the latest, those in memory at the end."""
    evaluator, parameters, which = evaluator_of(learned, "validation")
    written = [line for line in same_metrics(learned) if line["kind"] == "validation"]
    best = max(written, key=lambda line: line["auc"])
    assert which == "best" and evaluator(parameters, [3]).metrics.items() <= best.items()
    state, _ = load_state(learned)
    assert evaluator(state.weights(), [3]).metrics.items() <= written[-1].items()


def test_resuming_is_bit_identical(noisy: Path, tmp_path: Path) -> None:
    """From a checkpoint within an epoch, with dropout and unknown values."""
    reference, resumed = noisy, tmp_path / "resumed"
    inner, final = steps_of(reference)
    shutil.copytree(reference, resumed)
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert call("train", "--config", resumed / "config.yaml", "--run", resumed, "--resume") == 0
    (state, position), (expected, expected_position) = load_state(resumed), load_state(reference)
    assert_same_arrays(state, expected)
    for entries in (position, expected_position):
        del entries["seconds"], entries["metrics_bytes"]
    assert position == expected_position
    assert same_metrics(resumed) == same_metrics(reference)
    assert steps_of(resumed, "best") == steps_of(reference, "best")


def test_a_streamed_split_is_trained_like_a_resident_one(one: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    model, run = MODELS["autoint-plus"], tmp_path / "run"
    config = config_for(tmp_path / "c.yaml", sources["xor"], model, epochs=2, data={"device_memory": 0})
    assert call("train", "--config", config, "--run", run) == 0
    assert_same_arrays(load_state(run)[0], load_state(one)[0])
    assert same_metrics(run) == same_metrics(one)


# ---- evaluated -------------------------------------------------------------------------------------------------------


def test_what_training_has_not_seen_is_unknown_in_evaluation(one: Path, sources: dict[str, Path]) -> None:
    """Its row in the table is as it was drawn, so that to read it would add noise."""
    _, known = logits_of_test(one)
    dataset, rows, test = opened(sources["xor"])
    user, device = dataset.schema.columns(("user", "device"))
    assert rows.columns[test[0], user] == USERS + 1 and known.columns[0, user] == 0
    assert rows.columns[test[1], device] == 3 and known.columns[1, device] == 0
    changed = known.columns != rows.columns[test]
    assert changed.sum() == 2
    assert known.users[0] == USERS + 1, "whose rows they are does not change"


def test_groups_and_baselines_are_measured_beside_it(one: Path, sources: dict[str, Path]) -> None:
    logits, known = logits_of_test(one)
    result = evaluated(one, "--groups", "group", "activity", "--baselines", "all", "--k", 2, 3)
    assert result["auc"] == pytest.approx(auc(logits, known.labels), abs=1e-6)
    assert result["log_loss"] == pytest.approx(np.logaddexp(0, np.where(known.labels, -logits, logits)).mean())
    assert (one / "eval-test-reliability.png").stat().st_size > 5000
    dataset, rows, test = opened(sources["xor"])
    codes = rows.columns[test, dataset.schema.columns(("group",))[0]]
    assert result["groups"].keys() == {"group", "activity"} and result["groups"]["group"].keys() == {"g0", "g1"}
    for code, name in enumerate(("g0", "g1"), 1):
        part = result["groups"]["group"][name]
        assert part["rows"] == np.sum(codes == code)
        assert part["auc"] == pytest.approx(auc(logits[codes == code], known.labels[codes == code]), abs=1e-6)
    assert sum(part["rows"] for part in result["groups"]["activity"].values()) == len(test)
    assert result["baselines"].keys() == {"popularity", "item_mean", "bias", "als", "logistic"}
    for metrics in result["baselines"].values():
        assert 0.3 < metrics["auc"] <= 1 and metrics["log_loss"] > 0 and "ndcg@2" in metrics
