"""What the judge of every kind must do: the same metrics however the split is cut, and what only some kinds promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_arrays, call, load_state
from worlds import Clicks, Shop, Worlds

from jaxrec import evaluate
from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import Rows, RowsDataset
from jaxrec.data.splits import RowData, configured_splits
from jaxrec.run import open_run
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks import judge as clicks
from jaxrec.tasks.retrieval import judge as retrieval
from jaxrec.tasks.sessions import judge as sessions

MODELS = {"gru4rec": 5, "merrec": 5, "autoint": 3, "two_tower": 3}  # one of each kind, and a cut-off


@pytest.mark.parametrize("model", MODELS)
def test_metrics_do_not_depend_on_how_the_split_is_cut(
    model: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into many small blocks or one. More cut-offs leave those that were there as they are, and can only find more."""
    run, k = worlds.run(model), MODELS[model]
    whole = evaluate(run)
    for module, name in ((sessions, "QUERIES_PER_BLOCK"), (clicks, "ROWS_PER_STEP"), (retrieval, "MOST_QUERIES")):
        monkeypatch.setattr(module, name, 64)
    parts = evaluate(run, ks=[k, k + 1])
    numbers = {name: value for name, value in whole.items() if isinstance(value, float) and name.endswith(f"@{k}")}
    assert numbers and {name: parts[name] for name in numbers} == pytest.approx(numbers, abs=1e-5)
    assert parts[f"hit_rate@{k + 1}"] >= parts[f"hit_rate@{k}"]


# ---- rows ------------------------------------------------------------------------------------------------------------


def opened(source: Path) -> tuple[RowsDataset, Rows, np.ndarray]:
    """A data set of ``Clicks``, its rows, and those of the test split."""
    dataset = open_dataset(source)
    assert isinstance(dataset, RowsDataset)
    data = RowData(path="x", validation_fraction=0.25)
    return dataset, dataset.rows(), configured_splits(data, dataset.rows(), dataset.schema, True).test


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ours, theirs = scores[labels == 1, None], scores[None, labels == 0]
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


@pytest.fixture(scope="module")
def rows_run(worlds: Worlds) -> tuple[Path, np.ndarray, Rows]:
    """A run, the logits of its test split, and the rows as they are read."""
    run = open_run(worlds.run("autoint"))
    dataset = open_dataset(run.config.data.path)
    assert isinstance(dataset, RowsDataset)
    rows, splits = clicks.selected_rows(run.config, dataset)
    known = clicks.known_rows(run.schema, rows.take(splits.test), run.value_counts())
    loaded = load(run)
    return run.path, clicks.Judge(loaded.model, known)(loaded.weights, [3]).arrays["logit"], known


def test_an_exclusive_or_is_beyond_a_sum_over_fields(worlds: Worlds) -> None:
    """Least squares on all values of all fields stays at chance: what models learn of it is of pairs of fields."""
    dataset, rows, test = opened(worlds.data("clicks"))
    sizes = np.repeat([field.size for field in dataset.schema.coded], [f.width for f in dataset.schema.coded])
    onehot = [np.eye(size + 1)[rows.columns[:, column]] for column, size in enumerate(sizes)]  # -1: the last one
    inputs = np.concatenate([*onehot, rows.numbers], axis=1)
    train = np.setdiff1d(np.arange(len(rows)), test)
    ridge = inputs[train].T @ inputs[train] + np.eye(inputs.shape[1])
    weights = np.linalg.solve(ridge, inputs[train].T @ (rows.labels[train] - rows.labels[train].mean()))
    assert abs(auc(inputs[test] @ weights, rows.labels[test]) - 0.5) < 0.12


def test_what_training_has_not_seen_is_unknown(worlds: Worlds, rows_run: tuple[Path, np.ndarray, Rows]) -> None:
    """Its row in the table is as it was drawn, so that to read it would add noise."""
    known = rows_run[2]
    dataset, rows, test = opened(worlds.data("clicks"))
    user, device = dataset.schema.columns(("user", "device"))
    assert rows.columns[test[0], user] == Clicks.users + 1 and known.columns[0, user] == 0
    assert rows.columns[test[1], device] == 3 and known.columns[1, device] == 0
    assert np.sum(known.columns != rows.columns[test]) == 2
    assert known.users[0] == Clicks.users + 1, "whose rows they are does not change"


def test_groups_and_baselines_are_measured_beside_it(worlds: Worlds, rows_run: tuple[Path, np.ndarray, Rows]) -> None:
    """By hand, from the logits."""
    run, logits, known = rows_run
    result: Any = evaluate(run, by=["group", "activity"], baselines=["bias", "logistic"], ks=[2, 3])
    assert result["auc"] == pytest.approx(auc(logits, known.labels), abs=1e-6)
    assert result["log_loss"] == pytest.approx(np.logaddexp(0, np.where(known.labels, -logits, logits)).mean())
    dataset, rows, test = opened(worlds.data("clicks"))
    codes = rows.columns[test, dataset.schema.columns(("group",))[0]]
    assert result["groups"].keys() == {"group", "activity"} and result["groups"]["group"].keys() == {"g0", "g1"}
    for code, name in enumerate(("g0", "g1"), 1):
        part = result["groups"]["group"][name]
        assert part["rows"] == np.sum(codes == code)
        assert part["auc"] == pytest.approx(auc(logits[codes == code], known.labels[codes == code]), abs=1e-6)
    assert sum(part["rows"] for part in result["groups"]["activity"].values()) == len(test)
    for metrics in result["baselines"].values():
        assert 0.3 < metrics["auc"] <= 1 and metrics["log_loss"] > 0 and "ndcg@2" in metrics


# ---- two towers ------------------------------------------------------------------------------------------------------


def test_ranks_by_sets(worlds: Worlds) -> None:
    """From the judge's own vectors: what a customer has besides is no candidate."""
    run = open_run(worlds.run("two_tower"))
    dataset = open_dataset(run.config.data.path)
    assert isinstance(dataset, RowsDataset)
    data, loaded = retrieval.Retrieval.open(run.config, dataset), load(run)
    judge = retrieval.Judge(loaded.model, data, data.splits.test, run.config.evaluation)
    queries, items = (np.asarray(one) for one in judge.vectors(loaded.weights))
    ranks, top = judge(loaded.weights, [5], 5).arrays.values()
    for query in range(0, len(ranks), 29):
        user, own = int(judge.queries.users[query]) - 1, int(judge.queries.items[query])
        others = {int(code) + 1 for code in Shop.bought()[user]} - {own}
        scores, rest = items @ queries[query], set(range(1, Shop.items + 1)) - others - {own}
        assert ranks[query] == 1 + sum(scores[i] >= scores[own] for i in rest)
        assert not others & set(top[query].tolist())


def test_passes_are_epochs_without_a_pause(worlds: Worlds, tmp_path: Path) -> None:
    """Three epochs of four passes end as six epochs of two do."""
    words = ["--training.epochs", 6, "--training.passes", 2]
    assert call("train", "--config", worlds.config("two_tower"), "--run", tmp_path / "run", *words) == 0
    (ours, position), (theirs, _) = load_state(tmp_path / "run"), load_state(worlds.run("two_tower"))
    assert int(ours.step) == 12 * 12 and position["epoch"] == 6
    assert_same_arrays(ours, theirs)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 6
