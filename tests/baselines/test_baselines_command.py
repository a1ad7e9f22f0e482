"""The baselines as a user meets them: alone on a data set, beside a run, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import call, fails

from jaxrec.baselines import BASELINES, parse
from jaxrec.baselines.prefixes import Queries
from jaxrec.data.dataset import open_sessions
from jaxrec.data.splits import cut_validation
from jaxrec.evaluate import evaluate, evaluate_baselines
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions.judge import baseline_metrics

Capsys = pytest.CaptureFixture[str]


def test_the_command_on_a_data_set(dataset: Path, tmp_path: Path, capsys: Capsys) -> None:
    words = ["--baselines", "all", "itemknn:decay=1", "--data", dataset, "--k", 20, 5]
    capsys.readouterr()
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


def test_beside_a_run_they_are_fitted_and_ranked_as_the_run(run: Path, dataset: Path, tmp_path: Path) -> None:
    """Not on its validation split, and with its tie rule."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["evaluation"] |= {"ties": "median"}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    found = evaluate(copy, "validation", ks=[5], baselines=["pop", "stan:k=50"])
    opened, fraction = open_sessions(dataset), config["data"]["validation_fraction"]
    parts = cut_validation(opened.split("train"), opened.split("validation"), fraction)
    assert found["ties"] == "median" and found["fitted_on"] == parts.train.counts
    for name in ("pop", "stan:k=50"):
        baseline = parse(name).parameters.fit(parts.train, 100)
        alone = baseline_metrics(baseline, Queries(parts.validation), 100, [5], Evaluation(ties="median"))
        assert alone.items() <= found["baselines"][name].items()
    without = evaluate_baselines(dataset, "validation", ks=[5], baselines=["pop"], validation_fraction=fraction)
    assert without["fitted_on"] == found["fitted_on"]


@pytest.mark.parametrize(("words", "names"), [
    (["--data", "DATA", "--baselines", "stam"], "stam: no baseline 'stam' .*'stan'.*; there are all, pop, spop"),
    (["--data", "DATA", "--baselines", "stan:lamda1=3"], "lamda1: no such field.*; parameters of stan: k, sample, lam"),
    (["--data", "DATA", "--baselines", "stan:k"], "stan: k: expected"),
    (["--data", "DATA", "--baselines", "vsknn:k=0"], "vsknn:k=0: k: found '0'"),
    (["--data", "DATA", "--baselines", "--split", "train"], "--split train"),
    (["--data", "DATA", "--baselines", "--k", 101], "--k 101: larger than the catalogue of 100 items"),
    (["--run", "RUN", "--validation-fraction", 0.1], "--validation-fraction: a run brings its own"),
    (["--run", "RUN", "--sessions", 5], "--sessions: .* a run of gru4rec"),
])  # fmt: skip
def test_what_is_refused(words: list[object], names: str, capsys: Capsys, run: Path, dataset: Path) -> None:
    there = {"RUN": run, "DATA": dataset}
    fails(capsys, "evaluate", *(there.get(str(word), word) for word in words), names=names)
    assert not list(run.glob("eval-*"))
