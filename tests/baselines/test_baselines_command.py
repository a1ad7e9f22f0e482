"""The baselines as a user meets them: alone on a data set, beside a run, and every bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import call, fails

from jaxrec import run as runs
from jaxrec.baselines import BASELINES, parse
from jaxrec.baselines.prefixes import Queries
from jaxrec.data.dataset import open_sessions
from jaxrec.data.splits import cut_validation
from jaxrec.evaluate import evaluate, evaluate_baselines
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions.judge import baseline_metrics

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
    assert out[0].startswith("test: ") and "ties conservative, fitted on" in out[0]
    assert out[1].split() == ["recall@5", "mrr@5", "ndcg@5", "coverage@5"]
    assert [line.split()[0] for line in out[2:]] == ["chance", "best", "pop", "vsknn:k=7"]


def test_the_validation_split_is_not_fitted_on(dataset: Path) -> None:
    opened = open_sessions(dataset)
    train, validation = cut_validation(opened.split("train"), opened.split("validation"), 0.2)
    found = evaluate_baselines(dataset, "validation", ks=[5], baselines=["spop", "stan"], validation_fraction=0.2)
    assert found["fitted_on"] == train.counts and found["targets"] == validation.counts["targets"]
    for name in ("spop", "stan"):
        baseline = parse(name).parameters.fit(train, 100)
        alone = baseline_metrics(baseline, Queries(validation), 100, [5], Evaluation())
        assert alone == {key: found["baselines"][name][key] for key in alone}


def test_beside_a_run(run: Path, dataset: Path, tmp_path: Path, capsys: Capsys) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    alone = evaluate(copy, "validation", ks=[5, 20])
    capsys.readouterr()
    words = ["--run", copy, "--split", "validation", "--baselines", "pop", "stan:k=50"]
    assert call("evaluate", *words, "--out", tmp_path / "out.json") == 0
    out = capsys.readouterr().out
    saved = json.loads((copy / "eval-validation.json").read_text())
    assert saved == json.loads((tmp_path / "out.json").read_text())
    assert {**saved, "seconds": 0}.items() >= {**alone, "seconds": 0}.items()
    fraction = runs.open_run(copy).config.data.validation_fraction
    opened = open_sessions(dataset)
    wanted = evaluate_baselines(
        opened.path, "validation", ks=[5, 20], baselines=["pop", "stan:k=50"], validation_fraction=fraction
    )
    assert saved["fitted_on"] == wanted["fitted_on"]
    for name in ("pop", "stan:k=50"):
        for metric in ("recall@20", "mrr@5", "ndcg@20", "coverage@20"):
            assert saved["baselines"][name][metric] == wanted["baselines"][name][metric]
    for name in ("this run", "pop ", "stan:k=50 "):
        assert sum(line.startswith(name) for line in out.splitlines()) == 1
    assert call("evaluate", "--run", copy, "--split", "validation") == 0
    assert json.loads((copy / "eval-validation.json").read_text())["baselines"] == saved["baselines"]


WRONG = {
    "stam": "--baselines stam: no baseline 'stam' .*'stan'.*; there are all, pop, spop, itemknn",
    "stan:lamda1=3": "no parameter 'lamda1' .*'lambda1'.*; those of stan: k, sample, lambda1, lambda2",
    "stan:k=": "'k=': expected parameter=value",
    "stan:k=5,k=6": "k is given twice",
    "vsknn:k=0": "vsknn:k=0: k: found '0'",
    "itemknn:decay=2": "decay: found '2'",
    "vsknn:decay=liner": "decay: found 'liner'; .*'linear'",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_names_and_parameters(capsys: Capsys, dataset: Path, text: str) -> None:
    fails(capsys, "evaluate", "--data", dataset, "--baselines", text, names=WRONG[text])


def test_a_median_run_ranks_its_baselines_by_median(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    run_config = yaml.safe_load((copy / "config.yaml").read_text())
    run_config["evaluation"] |= {"ties": "median"}
    (copy / "config.yaml").write_text(yaml.safe_dump(run_config))
    found = evaluate(copy, ks=[5], baselines=["pop"])
    opened, fraction = open_sessions(run_config["data"]["path"]), run_config["data"]["validation_fraction"]
    train = cut_validation(opened.split("train"), opened.split("validation"), fraction).train
    queries, baseline = Queries(opened.split("test")), parse("pop").parameters.fit(train, 100)
    wanted = baseline_metrics(baseline, queries, 100, [5], Evaluation(ties="median"))
    assert found["ties"] == "median" and wanted.items() <= found["baselines"]["pop"].items()


@pytest.mark.parametrize(("words", "names"), [
    ([], "--run: missing"), (["--baselines"], "--data: missing"),
    (["--baselines", "--data", "none"], "no data set here"),
    (["--baselines", "--data", "DATA", "--split", "train"], "--split train"),
    (["--baselines", "--data", "DATA", "--k", 101], "--k 101: larger than the catalogue of 100 items"),
    (["--baselines", "--data", "DATA", "--validation-fraction", 1], "--validation-fraction 1"),
    (["--baselines", "--data", "DATA", "--groups", "x"], "--groups: belongs to runs"),
    (["--run", "RUN", "--validation-fraction", 0.1], "--validation-fraction: a run brings its own"),
    (["--run", "RUN", "--out", "none/b.json"], "--out none/b.json: no directory"),
    (["--run", "RUN", "--sessions", 5], "--sessions: .* a run of gru4rec"),
])  # fmt: skip
def test_options_that_do_not_fit(words: list[object], names: str, capsys: Capsys, run: Path, dataset: Path) -> None:
    there = {"RUN": run, "DATA": dataset}
    fails(capsys, "evaluate", *(there.get(str(word), word) for word in words), names=names)
    assert not list(run.glob("eval-*"))
