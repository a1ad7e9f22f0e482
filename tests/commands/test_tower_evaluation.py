"""Two towers of synthetic personas evaluated by the command: what is measured, the line of each customer, and rules."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import call, fails

from jaxrec.data.codes import FieldCodes
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.tasks.base import load
from jaxrec.tasks.retrieval.task import Judge

CUSTOMERS, PRODUCTS = 150, 24
RULE = {"when": {"skin_type": "dry"}, "boost": {"category": "cream"}, "by": 0.3}
CONFIG: dict[str, dict[str, Any]] = {
    "data": {"protocol": "in_sample", "validation_fraction": 0.0, "test_fraction": 0.0,
             "fields": ["age", "gender", "skin_type", "skin_concern", "category", "brand", "price"]},
    "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [16], "output_dim": 8, "dropout_hidden": 0.0},
    "loss": {"name": "triplet"},
    "optimizer": {"name": "adam", "learning_rate": 0.02},
    "training": {"epochs": 1, "passes": 12, "batch_size": 32, "steps_per_block": 200, "metric": "hit_rate@3"},
    "evaluation": {"k": [3, 5], "category": "category"},
    "recommendation": {"rules": [RULE]},
}  # fmt: skip


@pytest.fixture(scope="module")
def tower_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run; tests must not change it."""
    root = tmp_path_factory.mktemp("towers")
    words = ["--customers", CUSTOMERS, "--products", PRODUCTS, "--purchases", 3, "--out", root / "data"]
    assert call("prepare", "personas-synthetic", *words) == 0
    values = CONFIG | {"data": CONFIG["data"] | {"path": str(root / "data")}}
    (root / "small.yaml").write_text(yaml.safe_dump(values))
    assert call("train", "--config", root / "small.yaml", "--run", root / "run") == 0
    return root / "run"


@pytest.fixture(scope="module")
def result(tower_run: Path) -> dict[str, Any]:
    words = ["--baselines", "popularity", "--groups", "persona", "gender", "--folds", 0]
    assert call("evaluate", "--run", tower_run, *words) == 0
    found: dict[str, Any] = json.loads((tower_run / "eval-test.json").read_text())
    return found


def test_what_is_measured(result: dict[str, Any]) -> None:
    """By review too, but for that see test_amore.py."""
    n = result["targets"]
    assert (result["items"], result["checkpoint"], result["protocol"]) == (PRODUCTS, "latest", "in_sample")
    for values in (result, result["with_rules"]):
        for name, (low, high) in values["intervals"].items():
            assert 0 <= low <= values[name] <= high <= 1
    assert result["chance"]["hit_rate@3"] < result["hit_rate@3"] <= result["oracle"]["all fields"]["hit_rate@3"]
    assert result["oracle"]["without age"]["hit_rate@3"] <= result["oracle"]["all fields"]["hit_rate@3"]
    assert result["baselines"]["popularity"].keys() >= {"recall@3", "ndcg@5"}
    for name in ("persona", "gender"):
        parts = result["groups"][name].values()
        assert sum(part["targets"] for part in parts) == n
        mean = sum(part["targets"] * part["category_hit@5"] for part in parts) / n
        assert mean == pytest.approx(result["category_hit@5"])


def test_customers_by_the_line(result: dict[str, Any], tower_run: Path) -> None:
    """``results.csv`` says what the metrics are means of."""
    with open(tower_run / "results.csv", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == result["targets"]
    for name, metric in (("hit", "hit_rate@3"), ("category_hit", "category_hit@3")):
        assert np.mean([int(line[name]) for line in lines]) == pytest.approx(result[metric])
    assert {line["persona"] for line in lines} == set(result["groups"]["persona"])
    for line in lines:
        top = line["top_products"].split("|")
        assert len(top) == 3 and (int(line["rank"]) <= 3) == bool(int(line["hit"]))
        assert not int(line["hit"]) or line["gt_product"] in top, "ties would stand before it"


def test_rules_are_measured(result: dict[str, Any], tower_run: Path) -> None:
    """Against ranks by the scores with what the rule adds."""
    run, model, weights, _ = load(tower_run)
    dataset: Any = open_dataset(run.config.data.path)
    data = Retrieval.open(run.config, dataset)
    judge = Judge(model, data, data.splits.test, run.config.evaluation)
    queries, items = (np.asarray(one) for one in judge.vectors(weights))
    schema, codes = dataset.schema, FieldCodes(run)
    users, things = data.rows.columns[data.splits.test], np.asarray(dataset.array("items.npy"))
    dry = users[:, schema.columns(("skin_type",))[0]] == codes.vocabulary("skin_type").find("dry")
    cream = things[:, schema.side("item").columns(("category",))[0]] == codes.vocabulary("category").find("cream")
    scores = (1 + queries @ items.T) / 2 + 0.3 * np.outer(dry, cream)
    pairs = [(int(u), int(i)) for u, i in zip(judge.queries.users, judge.queries.items, strict=True)]
    ranks = []
    for row, (user, item) in enumerate(pairs):
        others = [i for i in range(1, data.n_items) if i != item and (user, i) not in set(pairs)]
        ranks.append(1 + sum(scores[row, i] >= scores[row, item] - 1e-6 for i in others))
    expected = ranking_metrics(np.array(ranks), [3, 5])
    assert {name: result["with_rules"][name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert result["with_rules"]["category_hit@3"] != result["category_hit@3"]


def test_what_cannot_be_evaluated(capsys: pytest.CaptureFixture[str], tower_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tower_run, tmp_path / "run", ignore=shutil.ignore_patterns("eval-*")))
    for words, names in (
        (["--folds", 0, "--groups", "prsona"], "--groups prsona: no such group .did you mean 'persona'"),
        (["--folds", 151], "--folds 151: expected 2 to 150, the number of customers, or 0 for none"),
        (["--folds", 0, "--split", "validation"], "the validation split has no positive row; choose another --split"),
    ):
        fails(capsys, "evaluate", "--run", copy, *words, names=names)
    values = yaml.safe_load((copy / "config.yaml").read_text())
    values["evaluation"]["category"], values["data"]["protocol"] = "catgory", "leave_one_random"
    (copy / "config.yaml").write_text(yaml.safe_dump(values))
    fails(capsys, "evaluate", "--run", copy, "--folds", 3, names="--folds: cross-validates runs of protocol in_sample")
    fails(capsys, "evaluate", "--run", copy, names=r"evaluation\.category: no categorical field 'catgory' of the item")
    assert not list(copy.glob("eval-*"))
