"""The baselines as a user meets them: alone on a data set, beside a run, and every bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import call, fails, write_dataset

from jaxrec import run as runs
from jaxrec.baselines import BASELINES, make_baseline, parse, parse_all
from jaxrec.baselines.prefixes import Queries
from jaxrec.data.dataset import open_sessions
from jaxrec.data.splits import cut_validation
from jaxrec.evaluate import evaluate, evaluate_baselines
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions.baselines import baseline_metrics

Capsys = pytest.CaptureFixture[str]


def test_the_command_on_a_data_set(dataset: Path, tmp_path: Path, capsys: Capsys) -> None:
    capsys.readouterr()
    words = ["--baselines", "all", "itemknn:decay=1", "--data", dataset, "--k", 20, 5]
    assert call("evaluate", *words, "--json", "--out", tmp_path / "b.json") == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert captured.err == "" and printed == json.loads((tmp_path / "b.json").read_text())
    opened = open_sessions(dataset)
    assert printed["targets"] == opened.split("test").counts["targets"] and printed["items"] == 100
    assert printed["fitted_on"] == opened.split("train").counts
    assert list(printed["baselines"]) == [*BASELINES, "itemknn:decay=1"]
    best = {name: entry["recall@20"] for name, entry in printed["baselines"].items()}
    assert all(best["pop"] + 0.05 < best[name] for name in ("itemknn", "vsknn", "stan"))
    assert all(value < printed["optimum"]["recall@20"] for value in best.values())
    assert printed["baselines"]["itemknn:decay=1"]["parameters"]["decay"] == 1.0
    assert call("evaluate", "--baselines", "pop", "vsknn:k=7", "--data", dataset, "--k", 5) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("test: ") and "conservative ranks; baselines fitted on" in out[0]
    assert out[1].split() == ["recall@5", "mrr@5", "coverage@5", "seconds"]
    assert [line.split()[0] for line in out[2:4]] == ["pop", "vsknn:k=7"] and "the best ranker's recall" in out[4]


def test_the_validation_split_is_not_fitted_on(dataset: Path) -> None:
    opened = open_sessions(dataset)
    train, validation = cut_validation(opened.split("train"), opened.split("validation"), 0.2)
    found = evaluate_baselines(opened, "validation", [5], parse_all(["spop", "stan"]), 0.2)
    assert found["fitted_on"] == train.counts and found["targets"] == validation.counts["targets"]
    for name in ("spop", "stan"):
        baseline = make_baseline(parse(name), train, 100)
        alone = baseline_metrics(baseline, Queries(validation), 100, [5], Evaluation())
        assert alone == {key: found["baselines"][name][key] for key in alone}


def test_beside_a_run(run: Path, dataset: Path, tmp_path: Path, capsys: Capsys) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    alone = evaluate(runs.open_run(copy), "validation", [5, 20])
    capsys.readouterr()
    words = ["--run", copy, "--split", "validation", "--baselines", "pop", "stan:k=50"]
    assert call("evaluate", *words, "--out", tmp_path / "out.json") == 0
    out = capsys.readouterr().out
    saved = json.loads((copy / "eval-validation.json").read_text())
    assert saved == json.loads((tmp_path / "out.json").read_text())
    assert {**saved, "seconds": 0}.items() >= {**alone, "seconds": 0}.items()
    fraction = runs.open_run(copy).config.data.validation_fraction
    opened = open_sessions(dataset)
    wanted = evaluate_baselines(opened, "validation", [5, 20], parse_all(["pop", "stan:k=50"]), fraction)
    assert saved["fitted_on"] == wanted["fitted_on"]
    for name in ("pop", "stan:k=50"):
        for metric in ("recall@20", "mrr@5", "ndcg@20", "coverage@20"):
            assert saved["baselines"][name][metric] == wanted["baselines"][name][metric]
    for name in ("this run", "pop ", "stan:k=50 "):
        assert sum(line.startswith(name) for line in out.splitlines()) == 1
    assert call("evaluate", "--run", copy, "--split", "validation") == 0
    assert json.loads((copy / "eval-validation.json").read_text())["baselines"] == saved["baselines"]


WRONG = {
    "stam": "--baselines stam: no baseline 'stam' .did you mean 'stan'..; there are all, pop, spop, itemknn",
    "": "--baselines : no baseline ''; there are all, pop",
    "stan:lamda1=3": "no parameter 'lamda1' .did you mean 'lambda1'..; those of stan: k, sample, lambda1, lambda2",
    "pop:k=3": "no parameter 'k'; those of pop: none",
    "stan:k": "'k': expected parameter=value, as in stan:k=500",
    "stan:": "'': expected parameter=value",
    "stan:k=": "'k=': expected parameter=value",
    "stan:k=5,k=6": "k is given twice",
    "vsknn:k=0": "--baselines vsknn:k=0: k: found '0'; input should be greater than or equal to 1",
    "vsknn:k=1.5": "k: found '1.5'; input should be a valid integer",
    "stan:sample=-1": "sample: found '-1'; input should be greater than or equal to 1",
    "stan:lambda2=nan": "lambda2: found 'nan'; input should be a finite number|lambda2: found 'nan'; input should be",
    "stan:lambda1=-1": "lambda1: found '-1'; input should be greater than or equal to 0",
    "itemknn:decay=2": "decay: found '2'; input should be less than or equal to 1",
    "itemknn:shrinkage=x": "shrinkage: found 'x'; input should be a valid number",
    "vsknn:decay=liner": "decay: found 'liner'; input should be 'none', 'linear'.*did you mean 'linear'",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_names_and_parameters(capsys: Capsys, dataset: Path, text: str) -> None:
    fails(capsys, "evaluate", "--data", dataset, "--baselines", text, names=WRONG[text])


def test_wrong_options(capsys: Capsys, run: Path, dataset: Path, tmp_path: Path) -> None:
    fails(capsys, "evaluate", names="--run: missing; name a run directory, or measure --baselines on --data")
    fails(capsys, "evaluate", "--data", dataset, names="--run: missing")
    fails(capsys, "evaluate", "--baselines", names="--data: missing; name the dataset directory")
    fails(capsys, "evaluate", "--baselines", "--data", tmp_path, names="no data set here")
    words = ["evaluate", "--baselines", "pop", "--data", dataset]
    fails(capsys, *words, "--split", "train", names="--split train: baselines have these sessions by heart")
    fails(capsys, *words, "--k", 101, names="--k 101: larger than the catalogue of 100 items")
    for wrong in ("0", "1", "x", "nan"):
        fails(capsys, *words, "--validation-fraction", wrong, names=f"--validation-fraction {wrong}: expected a number")
    fails(capsys, *words, "--out", tmp_path / "none" / "b.json", names="--out .*b.json: no directory .*none")
    fails(capsys, *words, "--out", tmp_path, names="--out .*: a directory; name a file in it")
    words = ["evaluate", "--run", run, "--baselines", "pop"]
    fails(capsys, *words, "--validation-fraction", 0.1, names="--validation-fraction: a run brings its own")
    assert not list(run.glob("eval-*"))


def test_another_data_set_than_the_runs(capsys: Capsys, run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    other = write_dataset(tmp_path / "other", rng.integers(0, 9, (90, 4)))
    fails(capsys, "evaluate", "--run", run, "--baselines", "--data", other, names="other: not the data set that ")


def test_a_small_data_set(capsys: Capsys, tmp_path: Path) -> None:
    """Its validation split is empty, and with k beyond the training sessions all of them are neighbours."""
    rng = np.random.default_rng(0)
    opened = open_sessions(write_dataset(tmp_path / "data", rng.integers(0, 9, (90, 4))))
    fails(capsys, "evaluate", "--baselines", "--data", opened.path, "--split", "validation", "--k", 5,
          names="the validation split is empty; choose another --split or give --validation-fraction")  # fmt: skip
    names = ["stan:k=100000,sample=100000", "stan:k=90,sample=90"]
    most, all_ = evaluate_baselines(opened, "test", [5], parse_all(names))["baselines"].values()
    assert {name: most[name] for name in ("recall@5", "mrr@5")} == {name: all_[name] for name in ("recall@5", "mrr@5")}


def test_a_median_run_ranks_its_baselines_by_median(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    run_config = yaml.safe_load((copy / "config.yaml").read_text())
    run_config["evaluation"] |= {"ties": "median"}
    (copy / "config.yaml").write_text(yaml.safe_dump(run_config))
    found = evaluate(runs.open_run(copy), "test", [5], compared=parse_all(["pop"]))
    opened, fraction = open_sessions(run_config["data"]["path"]), run_config["data"]["validation_fraction"]
    train = cut_validation(opened.split("train"), opened.split("validation"), fraction).train
    queries, baseline = Queries(opened.split("test")), make_baseline(parse("pop"), train, 100)
    wanted = baseline_metrics(baseline, queries, 100, [5], Evaluation(ties="median"))
    assert found["ties"] == "median" and wanted.items() <= found["baselines"]["pop"].items()
