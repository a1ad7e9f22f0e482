"""Tuning: what is searched and refused, pruning, failed trials, and a search that was killed ends as if it was not.

Compiling takes most of a trial's time; where the search alone is tested, a stand-in trains.
"""

from __future__ import annotations

import csv
import json
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from helpers import ROOT, call, fails, spawn
from worlds import Worlds

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.train import Report
from jaxrec.training.telemetry import read_log
from jaxrec.tune import __main__ as tune

pytest.importorskip("optuna")

Capsys = pytest.CaptureFixture[str]
TRIALS = 2
RATE, FIXED = "optimizer.learning_rate", {"data.validation_fraction": {"choices": [0.25]}}
SPACE: dict[str, Any] = FIXED | {
    "model.deep": {"choices": [[8], [8, 4]]},
    "model.dropout_hidden": {"low": 0.0, "high": 0.3, "step": 0.1},
    "model.init_std": {"choices": [None, 0.1]},
    RATE: {"low": 1e-7, "high": 0.1, "log": True},
    "optimizer.warmup_steps": {"low": 0, "high": 3},
}


@pytest.fixture(scope="module")
def config(worlds: Worlds) -> Path:
    """Of a model without attention; the space has the validation."""
    model = {"blocks": 0, "deep": [8], "dropout_hidden": None}
    training = {"epochs": 3, "steps_per_block": 5, "metric": "auc"}
    return worlds.config("autoint", model=model, training=training, data={"validation_fraction": None})


def search(config: Path, out: Path, space: object = SPACE, trials: int = TRIALS, *more: object) -> Any:
    """The words of the command."""
    file = out.with_name(f"{out.name}-{zlib.crc32(str(space).encode())}.yaml")
    file.write_text(yaml.safe_dump(space), encoding="utf-8")
    words = ["tune", "--config", config, "--space", file, "--out", out, "--trials", trials]
    return words + ["--seed", 30] * ("--seed" not in more) + list(more)


def stand_in(config: Config, path: Path, resume: bool, report: Report) -> None:
    """Like ``train``, with a metric that the learning rate makes: the best at 0.03, not a number above 1."""
    (path / "state").mkdir(parents=True, exist_ok=True)
    metric, rate, lines = config.training.metric, config.optimizer.learning_rate, list[dict[str, Any]]()
    for epoch in range(1, config.training.epochs + 1):
        value = 0.5 + epoch / 100 - abs(np.log10(rate / 0.03)) / 25 if rate < 1 else np.nan
        lines.append({"kind": "validation", "epoch": epoch, metric: value if metric == "auc" else -value})
        if report(epoch, lines[-1]):
            break
    reason = "all epochs" if epoch == config.training.epochs else "stopped"
    lines.append({"kind": "end", "epoch": epoch, "reason": reason})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "train", stand_in)
    monkeypatch.setattr(tune, "write_pictures", lambda *_: None)
    monkeypatch.setattr(tune, "STARTUP", 1)


@pytest.fixture(scope="module")
def study(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search in one go; tests must not change it."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    assert call(*search(config, out)) == 0
    return out


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "trials.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_results_are_those_of_the_runs(study: Path) -> None:
    found = table(study)
    assert [row["number"] for row in found] == [str(number) for number in range(TRIALS)]
    assert set(found[0]) == {"number", "state", "value", "best_epoch", *SPACE} - set(FIXED)
    for row in found:
        run = study / f"trial_000{row['number']}"
        lines, used = read_log(run), configuration.load(run / "config.yaml")
        values = [line["auc"] for line in lines if line["kind"] == "validation"]
        assert float(row["value"]) == max(values) and int(row["best_epoch"]) == values.index(max(values)) + 1
        assert lines[-1]["reason"] == ("stopped" if row["state"] == "pruned" else "all epochs")
        assert str(list(used.model.deep)) == row["model.deep"] and used.data.validation_fraction == 0.25
        assert used.optimizer.learning_rate == float(row[RATE])
        assert row["model.init_std"] == ("null" if used.model.init_std is None else str(used.model.init_std))
    best = max((row for row in found if row["state"] == "complete"), key=lambda row: float(row["value"]))
    run = study / f"trial_000{best['number']}"
    assert configuration.load(study / "best.yaml") == configuration.load(run / "config.yaml")
    assert [path.parent for path in study.glob("trial_*/state")] == [run]  # the disk holds one trial's checkpoints
    assert all((study / name).read_bytes().startswith(b"\x89PNG") for name in ("history.png", "parameters.png"))


@pytest.mark.usefixtures("quick")
def test_more_trials_add_to_a_search_and_another_one_is_refused(config: Path, tmp_path: Path, capsys: Capsys) -> None:
    whole, out = tmp_path / "whole", tmp_path / "study"
    assert call(*search(config, whole, SPACE, 6)) == 0
    for trials in (2, 6):
        capsys.readouterr()
        assert call(*search(config, out, SPACE, trials)) == 0
    assert capsys.readouterr().out.startswith(f"{out}: going on after 2 of 6 trials\ntrial 2: ")
    assert table(out) == table(whole) and len(list(out.glob("trial_*/state"))) == 1
    longer = search(config, out, SPACE, 6, "--training.epochs", 4)
    fails(capsys, *longer, names=r"holds another study \(config\.training\.epochs: was 3, now 4")
    fails(capsys, *search(config, out, SPACE, 6, "--seed", 1), names=r"holds another study \(seed: was 30, now 1")
    (out / "study.db").write_text("no database" * 100)
    fails(capsys, *search(config, out), names=r"study\.db: unusable \(file is not a datab")
    (out / "study.db").unlink()
    fails(capsys, *search(config, out), names="exists and holds no study")


@pytest.mark.slow
def test_a_killed_search_ends_as_if_it_was_not(
    study: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    for wanted, sign, status in (("study.db", signal.SIGKILL, -9), ("trial_0001/state/latest", signal.SIGTERM, 143)):
        process = spawn(*search(config, out))
        end = time.monotonic() + 300
        while not (out / wanted).exists():
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.001)
        process.send_signal(sign)
        printed, _ = process.communicate()
        assert process.returncode == status
    assert printed.endswith(f"{out}: stopped in trial 1; the same command goes on from there\n")

    def killed(*_: object, **__: object) -> None:  # the run has ended, but the study does not know
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optuna.Study.tell", killed)
        assert call(*search(config, out)) == 130
    assert call(*search(config, out)) == 0
    assert table(out) == table(study)
    best, expected = ((place / "best.yaml").read_text().replace(str(place), "") for place in (out, study))
    assert best == expected
    for number in range(TRIALS):  # each epoch and each end once
        logs = [read_log(place / f"trial_{number:04d}") for place in (out, study)]
        ours, theirs = ([(line["kind"], line["step"], line.get("auc")) for line in log if line["kind"] != "epoch"]
                        for log in logs)  # fmt: skip
        assert ours == theirs


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("log_loss", -1)])
def test_hopeless_trials_are_pruned(config: Path, tmp_path: Path, metric: str, sign: int) -> None:
    out, rates = tmp_path / "study", {RATE: {"low": 1e-9, "high": 0.1, "log": True}}
    more = ("--training.metric", metric, "--training.epochs", 4)
    assert call(*search(config, out, FIXED | rates, 8, *more)) == 0
    pruned = [row for row in table(out) if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        lines = read_log(out / f"trial_000{row['number']}")
        assert lines[-1] == lines[-1] | {"kind": "end", "epoch": 2, "reason": "stopped"}  # none in the first epoch
        assert float(row["value"]) == lines[1][metric] and row["best_epoch"] == "2"
    values = [sign * float(row["value"]) for row in table(out) if row["state"] == "complete"]
    best = f": complete, {metric} {sign * max(values):.4f} (epoch 4); "
    assert best in (out / "best.yaml").read_text().splitlines()[0]


def test_trials_fail_alone_and_other_errors_end_the_search(
    config: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = FIXED | {RATE: {"choices": [1e30, 2.0, 3.0, 0.03]}}
    failures = {1e30: UserError("the loss is not finite; lower it"), 3.0: jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"), 0.0: UserError("no disk space")}  # fmt: skip

    def train(config: Config, path: Path, resume: bool, report: Report) -> None:
        if (rate := config.optimizer.learning_rate) in failures or 0.0 in failures:
            raise failures.get(0.0) or failures[rate]
        stand_in(config, path, resume, report)

    monkeypatch.setattr(tune, "train", train)
    monkeypatch.setattr(tune, "write_pictures", lambda *_: None)
    assert call(*search(config, tmp_path / "study", rates, 12)) == 2
    del failures[0.0]
    assert call(*search(config, tmp_path / "study", rates, 12)) == 0
    outcomes = {(row[RATE], row["state"]) for row in table(tmp_path / "study")}
    assert outcomes == {("1e+30", "fail"), ("2.0", "fail"), ("3.0", "fail"), ("0.03", "complete")}
    printed = capsys.readouterr().out
    for reason in ("the loss is not finite)", "validation auc is not a number)", "RESOURCE_EXHAUSTED: Out of memory"):
        assert f"failed ({reason}" in printed
    rates[RATE] = {"choices": [2.0, 3.0]}
    fails(capsys, *search(config, tmp_path / "none", rates, 2), names="none of 2 trials is complete")


def test_bad_spaces(config: Path, tmp_path: Path, capsys: Capsys) -> None:
    for values, names in (
        ({"optimizer.learning_rat": {"low": 0.1, "high": 1}}, "did you mean 'optimizer.learning_rate'"),
        ({RATE: {"low": 0.2, "high": 0.1}}, "`low <= high` must hold"),
        ({"data.validation_fraction": {"choices": [0.1, 0.2]}}, "make the trials' results incomparable"),
        ({"model.heads": {"choices": [1, 3]}}, "model.heads: 3 do not divide model.attention_dim 8"),
    ):
        fails(capsys, *search(config, tmp_path / "out", values), names=names)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("space", ["autoint_plus_ml1m", "gru4rec_diginetica", "narm_diginetica", "two_tower_ml1m"])
def test_the_spaces_that_come_with_the_package(space: str) -> None:
    model = space.replace("_plus", "").rpartition("_")[0]
    found = tune.load_space(ROOT / "configs" / f"tune_{model}.yaml")
    assert found.check(configuration.load(ROOT / "configs" / f"{space}.yaml")).data.validation_fraction > 0
