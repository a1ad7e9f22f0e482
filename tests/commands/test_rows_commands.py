"""The commands on rows, as a user meets them: click models, two towers with a rule, and bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, fails
from worlds import Clicks, Shop, Worlds

from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.tasks.base import load
from jaxrec.tasks.retrieval.task import Judge

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def copy(worlds: Worlds, tmp_path: Path) -> Path:
    return Path(shutil.copytree(worlds.run("autoint"), tmp_path / "run"))


def test_evaluating(capsys: Capsys, copy: Path) -> None:
    """What is printed and written; the numbers are held in test_judges.py."""
    capsys.readouterr()
    assert call("evaluate", "--run", copy, "--baselines", "all", "--groups", "group", "activity") == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((copy / "eval-test.json").read_text())
    assert result["rows"] == Clicks.n // 5 and result["checkpoint"] == "best" and result["auc"] > 0.9
    assert re.match(r"test: rows 320, positive 0\.\d+, checkpoint best, seconds \d+\.\d", lines[0])
    for name in ("this run", "popularity", "item_mean", "bias", "als", "logistic"):
        (line,) = (line for line in lines if line.startswith(name))
        metrics = result if name == "this run" else result["baselines"][name]
        assert f"{metrics['log_loss']:.4f}" in line and f"{metrics['auc']:.4f}" in line
    assert any(line.startswith("by group ") for line in lines)
    assert f"written to {copy / 'eval-test.json'}" in lines
    assert (copy / "eval-test-reliability.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(("model", "words", "names"), [
    ("autoint", ["--groups", "grop"], r"--groups grop: no such group \(did you mean 'group'\?\); there are activity, "),
    ("autoint", ["--sessions", 3], "--sessions: does not go with a run of autoint"),
    ("two_tower", ["--folds", 3], "--folds: cross-validates runs of protocol in_sample"),
])  # fmt: skip
def test_what_cannot_be_evaluated(capsys: Capsys, worlds: Worlds, model: str, words: list[object], names: str) -> None:
    fails(capsys, "evaluate", "--run", worlds.run(model), *words, names=names)


def test_towers_by_persona_and_by_the_line(worlds: Worlds) -> None:
    """``results.csv`` says what the metrics are means of; the numbers are held in test_judges.py."""
    result = json.loads((worlds.towers() / "eval-test.json").read_text())
    for values in (result, result["with_rules"]):
        for name, (low, high) in values["intervals"].items():
            assert 0 <= low <= values[name] <= high <= 1
    parts = result["groups"]["persona"]
    mean = sum(part["targets"] * part["category_hit@3"] for part in parts.values()) / result["targets"]
    assert mean == pytest.approx(result["category_hit@3"])
    with open(worlds.towers() / "results.csv", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == result["targets"] and {line["persona"] for line in lines} == set(parts)
    for name in ("hit", "category_hit"):
        whole = {"hit": "hit_rate@3"}.get(name, f"{name}@3")
        assert np.mean([int(line[name]) for line in lines]) == pytest.approx(result[whole])
    for line in lines:
        top = line["top_products"].split("|")
        assert len(top) == 3 and (int(line["rank"]) <= 3) == bool(int(line["hit"]))
        assert not int(line["hit"]) or line["gt_product"] in top, "ties would stand before it"


def test_rules_are_measured(worlds: Worlds) -> None:
    """Against ranks by the scores with what the rule adds."""
    run, model, weights, _ = load(worlds.towers())
    dataset: Any = open_dataset(run.config.data.path)
    data = Retrieval.open(run.config, dataset)
    judge = Judge(model, data, data.splits.test, run.config.evaluation)
    queries, items = (np.asarray(one) for one in judge.vectors(weights))
    dry = np.array([Shop.skin(user - 1) == "dry" for user in judge.queries.users])
    oily = np.arange(data.n_items) - 1
    scores = (1 + queries @ items.T) / 2 + 0.9 * np.outer(dry, (oily >= 10) & (oily < 20))
    pairs = [(int(u), int(i)) for u, i in zip(judge.queries.users, judge.queries.items, strict=True)]
    ranks = []
    for row, (user, item) in enumerate(pairs):
        others = [i for i in range(1, data.n_items) if i != item and (user, i) not in set(pairs)]
        ranks.append(1 + sum(scores[row, i] >= scores[row, item] - 1e-6 for i in others))
    result = json.loads((run.path / "eval-test.json").read_text())
    expected = ranking_metrics(np.array(ranks), [3])
    assert {name: result["with_rules"][name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert result["with_rules"]["mrr@3"] != result["mrr@3"]


@pytest.mark.parametrize(("words", "names"), [
    (["--data.fields", "usr", "item"], r"data\.fields: 'usr': no such field \(did you mean 'user'\?\)"),
    (["--training.early_stopping", 2, "--data.validation_fraction", 0], r"early_stopping: needs validation data"),
])  # fmt: skip
def test_configurations_that_do_not_fit(
    capsys: Capsys, worlds: Worlds, tmp_path: Path, words: list[object], names: str
) -> None:
    fails(capsys, "train", "--config", worlds.config("autoint"), "--run", tmp_path / "run", *words, names=names)
    assert not (tmp_path / "run").exists()


def test_models_on_data_of_the_other_kind(
    capsys: Capsys, worlds: Worlds, config_file: Path, dataset: Path, tmp_path: Path
) -> None:
    run, rows = ["--run", tmp_path / "run"], worlds.data("clicks")
    fails(capsys, "train", "--config", config_file, *run, "--data.path", rows,
          names=r"model\.name: gru4rec does not read the rows of .*clicks; choose autoint")  # fmt: skip
    fails(capsys, "train", "--config", worlds.config("autoint"), *run, "--data.path", dataset,
          names=r"model\.name: autoint does not read the sessions of .*; choose ")  # fmt: skip
    assert not (tmp_path / "run").exists()
    fails(capsys, "evaluate", "--baselines", "als", "--data", rows, names="holds rows, whose baselines are")
