"""The commands on two towers, as a user meets them: one whole way through as processes, and what runs refuse."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import call, fails, run_process
from tower_data import RULE, SYNTHETIC, write_towers

from jaxrec import run as runs
from jaxrec.data.codes import FieldCodes
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.errors import UserError
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.tasks.base import load
from jaxrec.tasks.retrieval.judge import Judge
from jaxrec.tasks.rules import Rule, RuleBook

Capsys = pytest.CaptureFixture[str]
CUSTOMERS, PRODUCTS = 150, 24
SAID = "category=cream +0.3 as skin_type=dry"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``data``, ``small.yaml`` and ``checkpoints/small``, trained by a process; tests must not change them."""
    root = tmp_path_factory.mktemp("towers")
    words = ["--customers", CUSTOMERS, "--products", PRODUCTS, "--purchases", 3, "--out", root / "data"]
    assert call("prepare", "personas-synthetic", *words) == 0
    config = write_towers(root / "small.yaml", root / "data", SYNTHETIC)
    status, out, err = run_process("train", "--config", config, cwd=root)
    assert status == 0 and re.fullmatch(r"jaxrec: note: no validation data, [^\n]*\n", err), err
    assert re.search(r"checkpoints/small: \d{3} positives of 150 users and 24 items, 32 a step.*; no validation", out)
    assert re.search(r"epoch 1: loss 0\.\d+, [\d,]+ events/s\n", out)
    return root


@pytest.fixture(scope="module")
def tower_run(place: Path) -> Path:
    return place / "checkpoints" / "small"


@pytest.fixture(scope="module")
def result(place: Path, tower_run: Path) -> dict[str, Any]:
    """Evaluated by a process."""
    words = ["--baselines", "popularity", "--groups", "persona", "gender", "--folds", 2]
    status, out, err = run_process("evaluate", "--run", tower_run, *words, cwd=place)
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads((tower_run / "eval-test.json").read_text())
    lines = out.splitlines()
    assert re.match(r"test: protocol in_sample, targets \d{3}, items 24, checkpoint latest, \d+\.\d s", lines[0])
    for title, values in (("this run", found), ("with the rules", found["with_rules"]), ("chance", found["chance"]),
                          ("oracle, without age", found["oracle"]["without age"])):  # fmt: skip
        shown = next(line for line in lines if line.startswith(title)).removeprefix(title).split()
        assert [one for one in shown if "." in one][:2] == [f"{values[f'hit_rate@{k}']:.4f}" for k in (3, 5)]
    assert (
        any(line.startswith("by gender") for line in lines) and lines[-1] == f"written to {tower_run / 'results.csv'}"
    )
    return found


@pytest.fixture
def copy(tower_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tower_run, tmp_path / "run"))


def edit(run: Path, section: str, **fields: Any) -> Path:
    """A run whose configuration says something else."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    values[section] |= fields
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    return run


def opened(run: Path) -> tuple[RowsDataset, Retrieval]:
    found = runs.open_run(run)
    dataset = open_dataset(found.config.data.path)
    assert isinstance(dataset, RowsDataset)
    return dataset, Retrieval.open(found.config, dataset)


# ---- as processes ----------------------------------------------------------------------------------------------------


def test_evaluating_as_a_process(result: dict[str, Any], tower_run: Path) -> None:
    n = result["targets"]
    assert result["items"] == PRODUCTS and result["checkpoint"] == "latest" and result["protocol"] == "in_sample"
    for values in (result, result["with_rules"]):
        for name, (low, high) in values["intervals"].items():
            assert 0 <= low <= values[name] <= high <= 1
    assert result["chance"]["hit_rate@3"] < result["hit_rate@3"] <= result["oracle"]["all fields"]["hit_rate@3"]
    assert result["oracle"]["without age"]["hit_rate@3"] <= result["oracle"]["all fields"]["hit_rate@3"]
    assert result["baselines"]["popularity"].keys() >= {"recall@3", "ndcg@5"}
    for name in ("persona", "gender"):
        parts = result["groups"][name]
        assert sum(part["targets"] for part in parts.values()) == n
        for metric in ("hit_rate@3", "category_hit@5"):
            mean = sum(part["targets"] * part[metric] for part in parts.values()) / n
            assert mean == pytest.approx(result[metric])
    assert set(result["groups"]["gender"]) == {"F", "M"}


def test_customers_by_the_line(result: dict[str, Any], tower_run: Path) -> None:
    """``results.csv`` says what the metrics are means of."""
    with open(tower_run / "results.csv", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == result["targets"]
    assert list(lines[0]) == ["user_id", "persona", "gt_product", "gt_category", "rank", "hit", "category_hit",
                              "top_products", "top_categories"]  # fmt: skip
    assert np.mean([int(line["hit"]) for line in lines]) == pytest.approx(result["hit_rate@3"])
    assert np.mean([int(line["category_hit"]) for line in lines]) == pytest.approx(result["category_hit@3"])
    personas = {line["persona"] for line in lines}
    assert personas == set(result["groups"]["persona"])
    has: dict[str, set[str]] = {}
    for line in lines:
        has.setdefault(line["user_id"], set()).add(line["gt_product"])
    for line in lines:
        top = line["top_products"].split("|")
        assert len(top) == 3 and (int(line["rank"]) <= 3) == bool(int(line["hit"]))
        assert not int(line["hit"]) or line["gt_product"] in top, "ties would stand before it"
        assert not (has[line["user_id"]] - {line["gt_product"]}) & set(top), "nothing that the customer has"


def test_by_review(result: dict[str, Any]) -> None:
    """Customers of whom no row was trained on: what is predictable of them is predicted."""
    found = result["by_review"]
    assert (found["folds"], found["targets"], found["profiles"]) == (2, result["targets"], "profiles as stated")
    low, _ = found["intervals"]["category_hit@3"]
    assert low > found["chance"]["category_hit@3"]
    assert found["intervals"]["hit_rate@5"][0] > found["chance"]["hit_rate@5"]
    assert found["chance"]["hit_rate@3"] == pytest.approx(3 / (PRODUCTS - 2), rel=0.05)


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_rules_are_measured(result: dict[str, Any], tower_run: Path) -> None:
    """Against ranks by the scores with what the rule adds."""
    dataset, data = opened(tower_run)
    _, model, weights, _ = load(tower_run)
    evaluator = Judge(model, data, data.splits.test, runs.open_run(tower_run).config.evaluation)
    queries, items = (np.asarray(one) for one in evaluator.vectors(weights))
    schema, values = dataset.schema, {}
    for name, value in (("skin_type", "dry"), ("category", "cream")):
        listed = FieldCodes(runs.open_run(tower_run)).values(name)
        values[name] = listed.index(value) + 1
    dry = data.rows.columns[data.splits.test][:, schema.columns(("skin_type",))[0]] == values["skin_type"]
    cream = (
        np.asarray(dataset.array("items.npy"))[:, schema.side("item").columns(("category",))[0]] == values["category"]
    )
    scores = (1 + queries @ items.T) / 2 + 0.3 * np.outer(dry, cream)
    has = {(int(u), int(i)) for u, i in zip(evaluator.queries.users, evaluator.queries.items, strict=True)}
    ranks = []
    for row, (user, item) in enumerate(zip(evaluator.queries.users, evaluator.queries.items, strict=True)):
        others = [i for i in range(1, data.n_items) if i != item and (int(user), i) not in has]
        ranks.append(1 + sum(scores[row, i] >= scores[row, item] - 1e-6 for i in others))
    expected = ranking_metrics(np.array(ranks), [3, 5])
    assert {name: result["with_rules"][name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert result["with_rules"]["category_hit@3"] != result["category_hit@3"]


WRONG_RULES: list[tuple[dict[str, Any], str]] = [
    (
        {"when": {"skin_tpe": "dry"}},
        r"when: no field 'skin_tpe' of the user that has values \(did you mean 'skin_type'",
    ),
    ({"when": {"category": "cream"}}, "when: no field 'category' of the user that has values; there are customer, gen"),
    ({"when": {"age": 30}}, "when: no field 'age' of the user that has values"),
    (
        {"when": {"skin_type": "dyr"}},
        r"when: field 'skin_type': no value 'dyr' \(did you mean 'dry'\?\); there are com",
    ),
    (
        {"boost": {"skin_type": "dry"}},
        "boost: no field 'skin_type' of the item that has values; there are product, cat",
    ),
    ({"boost": {"price": 3}}, "boost: no field 'price' of the item that has values"),
    ({"boost": {"category": "creams"}}, r"boost: field 'category': no value 'creams' \(did you mean 'cream'\?\)"),
    ({"boost": {"product": 9999}}, "boost: field 'product': no value '9999'.*; there are 1, .*, …$"),
]


@pytest.mark.parametrize(("change", "names"), WRONG_RULES)
def test_rules_that_name_what_there_is_not(tower_run: Path, change: dict[str, Any], names: str) -> None:
    run = runs.open_run(tower_run)
    with pytest.raises(UserError, match=rf"^recommendation\.rules: {names}"):
        RuleBook([Rule(**(RULE | change))], Schema.from_manifest(run.manifest), FieldCodes(run).strict)


def test_a_run_with_such_a_rule(capsys: Capsys, copy: Path) -> None:
    edit(copy, "recommendation", rules=[RULE | WRONG_RULES[3][0]])
    for words in (["recommend", "--run", copy, "--profile", "age=3"], ["evaluate", "--run", copy, "--folds", 0]):
        fails(capsys, *words, names=rf"recommendation\.rules: {WRONG_RULES[3][1]}")


# ---- evaluate --------------------------------------------------------------------------------------------------------

EVALUATE: list[tuple[list[object], str]] = [
    (["--groups", "prsona"], r"--groups prsona: not known of the users \(did you mean 'persona'\?\); there are perso"),
    (["--folds", 1], "--folds 1: expected a whole number from 2, or 0 for none"),
    (["--folds", 151], "--folds 151: expected 2 to 150, the number of customers, or 0 for none"),
    (["--k", 25], "--k 25: larger than the catalogue of 24 items; choose a smaller one"),
    (["--split", "validation"], "the validation split has no positive row; choose another --split"),
    (["--protocol", "cold_users"], "--protocol: a run brings its own"),
    (["--no-coverage"], "--no-coverage: .* is a run of two_tower"),
    (["--baselines", "popularty"], r"--baselines popularty: none that ranks items for users \(did you mean 'pop"),
    (["--data", "/nowhere"], "/nowhere: no data set here; if it has moved since training"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "names"), EVALUATE, ids=[" ".join(map(str, words)) for words, _ in EVALUATE])
def test_what_cannot_be_evaluated(capsys: Capsys, copy: Path, words: list[object], names: str) -> None:
    for file in [*copy.glob("eval-*"), *copy.glob("results.csv")]:
        file.unlink()
    fails(capsys, "evaluate", "--run", copy, *words, names=names)
    assert not list(copy.glob("eval-*")) and not list(copy.glob("results.csv"))


def test_folds_are_for_what_is_measured_in_sample(capsys: Capsys, copy: Path) -> None:
    edit(copy, "data", protocol="leave_one_random")
    fails(capsys, "evaluate", "--run", copy, "--folds", 3, names="--folds: cross-validates runs of protocol in_sample")


def test_a_category_that_is_no_field(capsys: Capsys, copy: Path) -> None:
    for name in ("catgory", "price", "skin_type"):
        edit(copy, "evaluation", category=name)
        names = (
            rf"evaluation\.category: no categorical field '{name}' of the item.*; there are product, category, brand"
        )
        fails(capsys, "evaluate", "--run", copy, names=names)
