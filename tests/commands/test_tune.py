"""Tuning: what is searched and refused, pruning, failed trials, and a search that was killed ends as if it was not.

Compiling takes most of a trial's time; where the search alone is tested, a stand-in trains.
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sqlite3
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers import ROOT, call, spawn

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.encode import RawField, RawRows, write_rows
from jaxrec.data.store import write_manifest
from jaxrec.errors import UserError
from jaxrec.train import Report
from jaxrec.training.telemetry import read_log
from jaxrec.tune import __main__ as tune
from jaxrec.tune.search_space import COMBINATIONS, load_space

pytest.importorskip("optuna")

Capsys = pytest.CaptureFixture[str]
ROWS, TRIALS = 500, 4
SPACE: dict[str, Any] = {
    "data.validation_fraction": {"choices": [0.25]},
    "model.deep": {"choices": [[8], [8, 4]]},
    "model.dropout_hidden": {"low": 0.0, "high": 0.3, "step": 0.1},
    "model.init_std": {"choices": [None, 0.1]},
    "optimizer.learning_rate": {"low": "1e-7", "high": 0.1, "log": True},
    "optimizer.warmup_steps": {"low": 0, "high": 3},
}
FIXED = {"data.validation_fraction": {"choices": [0.25]}}
RESULTS = ("trials.csv", "best.yaml", "history.png", "parameters.png")


def write_yaml(file: Path, values: object) -> Path:
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 500 rows of users, items and places, where who likes what is to be learnt. The space has the validation."""
    root, random = tmp_path_factory.mktemp("tune"), np.random.default_rng(7)
    users, items, places = (random.integers(0, n, ROWS) for n in (20, 15, 4))
    taste = random.normal(size=(20, 15)) + random.normal(size=(4, 15))[places % 4].mean(axis=0)
    fields = [
        RawField(name, "categorical", side, pa.array(values))
        for name, side, values in (("user", "user", users), ("item", "item", items), ("place", "context", places))
    ]
    ratings = np.where(taste[users, items] > 0, 5.0, 1.0)
    raw = RawRows(fields, ratings, np.arange(ROWS), threshold=4.0, low=1.0, high=5.0, user="user", item="item")
    (root / "rows").mkdir()
    manifest = write_rows(raw, root / "rows")
    write_manifest(root / "rows", manifest.pop("files"), source="test", options={}, **{"kind": "rows", **manifest})
    return write_yaml(
        root / "clicks.yaml",
        {
            "data": {"path": str(root / "rows")},
            "model": {"name": "autoint", "embedding_dim": 8, "attention_dim": 8, "blocks": 0, "deep": [8]},
            "optimizer": {"name": "adam", "learning_rate": 0.01},
            "training": {"epochs": 3, "batch_size": 64, "steps_per_block": 5, "metric": "auc"},
            "evaluation": {"k": [3]},
        },
    )


def search(
    config: Path, out: Path, space: object = SPACE, trials: int = TRIALS, *more: object
) -> tuple[str, *tuple[object, ...]]:
    """The words of the command. With this seed SPACE makes two good trials, a fair one and a hopeless one: pruned."""
    file = write_yaml(out.with_name(f"{out.name}-{zlib.crc32(str(space).encode())}.yaml"), space)
    words = ["--config", config, "--space", file, "--out", out, "--trials", trials, *more]
    for option, value in (("--startup-trials", 2), ("--seed", 30)):
        words += [] if option in more else [option, value]
    return "tune", *words


def stand_in(config: Config, path: Path, resume: bool, report: Report) -> None:
    """Like ``train``, with a metric that the learning rate makes: the best at 0.03, not a number above 1."""
    (path / "state").mkdir(parents=True, exist_ok=True)
    metric, rate = config.training.metric, config.optimizer.learning_rate
    lines: list[dict[str, Any]] = []
    for epoch in range(1, config.training.epochs + 1):
        value = 0.5 + epoch / 100 - abs(np.log10(rate / 0.03)) / 25 if rate < 1 else np.nan
        lines.append({"kind": "validation", "epoch": epoch, metric: value if metric == "auc" else -value})
        if report(epoch, lines[-1]):
            break
    reason = "all epochs" if epoch == config.training.epochs else "stopped"
    lines.append({"kind": "end", "epoch": epoch, "reason": reason, "seconds_train": 1.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "train", stand_in)


@pytest.fixture(scope="module")
def study(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search in one go; tests must not change it."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    assert call(*search(config, out)) == 0
    return out


def table(out: Path, seconds: bool = True) -> list[dict[str, str]]:
    with open(out / "trials.csv", encoding="utf-8", newline="") as stream:
        return [{name: value for name, value in row.items() if seconds or name != "seconds"}
                for row in csv.DictReader(stream)]  # fmt: skip


# ---- a search --------------------------------------------------------------------------------------------------------


def test_the_table_says_what_the_runs_did(study: Path) -> None:
    found = table(study)
    assert [row["number"] for row in found] == [str(number) for number in range(TRIALS)]
    assert set(found[0]) == {"number", "state", "value", "best_epoch", "seconds", *SPACE} - set(FIXED)
    assert {row["state"] for row in found} == {"complete", "pruned"}
    for row in found:
        run = study / f"trial_000{row['number']}"
        lines = read_log(run)
        values = [line["auc"] for line in lines if line["kind"] == "validation"]
        assert float(row["value"]) == max(values) and int(row["best_epoch"]) == values.index(max(values)) + 1
        assert lines[-1]["reason"] == ("stopped" if row["state"] == "pruned" else "all epochs")
        used = configuration.load(run / "config.yaml")
        assert str(list(used.model.deep)) == row["model.deep"]
        assert used.optimizer.learning_rate == float(row["optimizer.learning_rate"])
        assert row["model.init_std"] == ("null" if used.model.init_std is None else str(used.model.init_std))
        assert used.data.validation_fraction == 0.25
    assert all((study / name).read_bytes().startswith(b"\x89PNG") for name in RESULTS[2:])


def test_the_best_configuration_is_that_of_the_best_trial(study: Path) -> None:
    best = max((row for row in table(study) if row["state"] == "complete"), key=lambda row: float(row["value"]))
    run = study / f"trial_000{best['number']}"
    assert configuration.load(study / "best.yaml") == configuration.load(run / "config.yaml")
    head = (study / "best.yaml").read_text().splitlines()[0]
    assert head.startswith(f"# validation auc {float(best['value']):.6g} after epoch {best['best_epoch']}: ")
    assert [path.parent for path in study.glob("trial_*/state")] == [run]  # the disk holds one trial's checkpoints


@pytest.mark.usefixtures("quick")
def test_more_trials_add_to_a_search(config: Path, tmp_path: Path, capsys: Capsys) -> None:
    whole, out = tmp_path / "whole", tmp_path / "study"
    assert call(*search(config, whole, SPACE, 6)) == 0
    for trials in (2, 6):
        capsys.readouterr()
        assert call(*search(config, out, SPACE, trials)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{out}: going on after 2 of 6 trials"
    assert [line.split(":")[0] for line in printed[1:5]] == [f"trial {number}" for number in range(2, 6)]
    assert table(out) == table(whole) and len(list(out.glob("trial_*/state"))) == 1
    for name in RESULTS:
        (out / name).unlink()
    assert call(*search(config, out, SPACE, 3)) == 0
    assert table(out) == table(whole) and all((out / name).is_file() for name in RESULTS)


# ---- killed ----------------------------------------------------------------------------------------------------------


def test_a_killed_search_ends_as_if_it_was_not(
    study: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    for wanted in ("study.db", "trial_0001/state/latest"):
        process = spawn(*search(config, out))
        end = time.monotonic() + 300
        while not (out / wanted).exists():
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.communicate()

    def killed(*_: object, **__: object) -> None:  # the run has ended, but the study does not know
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optuna.Study.tell", killed)
        assert call(*search(config, out)) == 130
    assert call(*search(config, out)) == 0
    assert table(out, seconds=False) == table(study, seconds=False)
    best, expected = ((place / "best.yaml").read_text().replace(str(place), "") for place in (out, study))
    assert best == expected
    for number in range(TRIALS):  # each epoch and each end once
        logs = [read_log(place / f"trial_{number:04d}") for place in (out, study)]
        ours, theirs = ([(line["kind"], line["step"], line.get("auc")) for line in log if line["kind"] != "epoch"]
                        for log in logs)  # fmt: skip
        assert ours == theirs


def test_stopped_by_a_signal(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = spawn(*search(config, out, SPACE, TRIALS, "--training.epochs", 1000))
    while not (out / "trial_0000" / "state" / "latest").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert printed == f"{out}: stopped in trial 0; the same command goes on from there\n"


# ---- trials that end before their time -------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("log_loss", -1)])
def test_hopeless_trials_are_pruned(config: Path, tmp_path: Path, metric: str, sign: int) -> None:
    out, rates = tmp_path / "study", {"optimizer.learning_rate": {"low": 1e-9, "high": 0.1, "log": True}}
    more = ("--training.metric", metric, "--warmup-epochs", 2, "--training.epochs", 4)
    assert call(*search(config, out, FIXED | rates, 8, *more)) == 0
    pruned = [row for row in table(out) if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        lines = read_log(out / f"trial_000{row['number']}")
        assert lines[-1] == lines[-1] | {"kind": "end", "epoch": 3, "reason": "stopped"}  # the first after the warm-up
        assert float(row["value"]) == lines[2][metric] and row["best_epoch"] == "3"
    values = [sign * float(row["value"]) for row in table(out) if row["state"] == "complete"]
    assert f"validation {metric} {sign * max(values):.6g} after epoch 4: " in (out / "best.yaml").read_text()


def test_trials_that_fail_alone_and_errors_that_are_not_a_trials_own(
    config: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diverged, not a number, out of memory: the search goes on. Anything else ends it, to go on another time."""
    rates = FIXED | {"optimizer.learning_rate": {"choices": [1e30, 2.0, 3.0, 0.03]}}
    out, real = tmp_path / "study", tune.train

    def train(config: Config, path: Path, resume: bool, report: Report) -> None:
        rate = config.optimizer.learning_rate
        if rate == 3.0:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return (real if rate == 1e30 else stand_in)(config, path, resume=resume, report=report)

    def full(*_: object, **__: object) -> None:
        raise UserError("no disk space")

    monkeypatch.setattr(tune, "train", full)
    assert call(*search(config, out, rates, 12)) == 2
    monkeypatch.setattr(tune, "train", train)
    assert call(*search(config, out, rates, 12)) == 0
    outcomes = {(row["optimizer.learning_rate"], row["state"]) for row in table(out)}
    assert outcomes == {("1e+30", "failed"), ("2.0", "failed"), ("3.0", "failed"), ("0.03", "complete")}
    printed = capsys.readouterr().out
    for reason in ("the loss is not finite", "auc is not a number", "out of the device's memory"):
        assert f"failed ({reason}" in printed.replace("validation ", "")

    rates["optimizer.learning_rate"]["choices"] = [2.0, 3.0]
    assert call(*search(config, tmp_path / "none", rates, 2)) == 2
    assert "none of 2 trials is complete" in capsys.readouterr().err
    assert [row["state"] for row in table(tmp_path / "none")] == ["failed"] * 2


# ---- bad input -------------------------------------------------------------------------------------------------------

RATE, LOW_HIGH = "optimizer.learning_rate", {"low": 0.1, "high": 0.2}
BAD: list[tuple[object, str]] = [
    ({}, "an empty tuning space"),
    ({"model.deep": {"choices": [[8]]}, "model.blocks": {"low": 2, "high": 2}}, "an empty tuning space"),
    ([1, 2], "expected fields with their choices or ranges"),
    ({"optimizer": {"learning_rate": LOW_HIGH}}, "optimizer: no such field; write section.field"),
    ({"optimizer.learning_rat": LOW_HIGH}, "did you mean 'optimizer.learning_rate'"),
    ({RATE: 0.1}, "learning_rate: found 0.1; expected 'choices"),
    ({RATE: {"lo": 0.1, "high": 0.2}}, "lo: no such field .did you mean 'low'"),
    ({RATE: {"low": 0.1}}, "learning_rate: high: missing"),
    ({RATE: {"low": 0.2, "high": 0.1}}, "low 0.2 is more than high 0.1"),
    ({RATE: {"low": "a", "high": 1}}, "learning_rate: low.*'a'"),
    ({RATE: {"low": True, "high": 2}}, "learning_rate: low.*True"),
    ({RATE: {"low": 0.1, "high": float("inf")}}, "learning_rate: high.*inf"),
    ({RATE: LOW_HIGH | {"log": "yes"}}, "log: found 'yes'"),
    ({RATE: {"low": 0, "high": 0.2, "log": True}}, "log: needs low above 0, found 0"),
    ({RATE: LOW_HIGH | {"log": True, "step": 0.1}}, "log: needs .* no step"),
    ({RATE: LOW_HIGH | {"step": 0.0}}, "step.*found 0.0"),
    ({RATE: LOW_HIGH | {"step": 0.03}}, "not reached from 0.1 by steps of 0.03"),
    ({RATE: LOW_HIGH | {"choices": [0.1]}}, "choices and a range exclude each other"),
    ({RATE: {"choices": []}}, "choices: found"),
    ({RATE: {"choices": 0.1}}, "choices: found 0.1"),
    ({RATE: {"choices": [0.1, 0.2, "1e-1"]}}, "choices: 0.1 is there twice"),
    ({"data.validation_fraction": {"choices": [0.1, 0.2]}}, "make the trials' results incomparable"),
    # what the configuration refuses
    ({"model.dropout_hidden": {"low": 0.5, "high": 1.5}}, "model.dropout_hidden: found 1.5"),
    ({"training.batch_size": {"low": 16.0, "high": 32.0}}, "training.batch_size: found 22.1"),
    ({"model.heads": {"choices": [1, 3]}}, "model.heads: 3 do not divide model.attention_dim 8"),
    ({"model.deep": {"choices": [[8], []]}, "model.blocks": {"low": 0, "high": 1}}, "model.blocks, model.deep: neit"),
    ({"model.embedding": {"choices": ["onehot", "separate"]}}, "belongs to gru4rec"),
    ({"model.name": {"choices": ["autoint", "narm"]}}, "belongs to autoint"),
    # what the data does not have
    ({"model.deep": {"choices": [[8], [8, 4]]}}, "data.validation_fraction: found 0.0, which holds nothing out"),
]


@pytest.mark.parametrize(("values", "names"), BAD)
def test_a_bad_space(config: Path, tmp_path: Path, values: object, names: str) -> None:
    space = write_yaml(tmp_path / "space.yaml", values)
    with pytest.raises(UserError, match=names):
        tune.tune(config, space, tmp_path / "out", 1)
    assert list(tmp_path.iterdir()) == [space]


def test_options_and_directories_that_are_refused(study: Path, config: Path, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    other = SPACE | {"optimizer.warmup_steps": {"low": 1, "high": 3}}
    for words, names in [
        (search(config, tmp_path / "a", SPACE, 0), "--trials: found 0"),
        (search(config, tmp_path / "a", SPACE, 1, "--warmup-epochs", -1), "--warmup-epochs: found -1"),
        (search(config, tmp_path / "full"), "full: exists and holds no study"),
        (search(config, tmp_path / "file"), "file: exists and holds no study"),
        (search(config, study, SPACE, 7, "--training.epochs", 4), "config.training.epochs: was 3, now 4"),
        (search(config, study, SPACE, 7, "--seed", 1), "options.seed: was 30, now 1"),
        (search(config, study, other), "space.optimizer.warmup_steps.low: was 0, now 1"),
    ]:
        assert call(*words) == 2
        assert names in capsys.readouterr().err
    assert len(table(study)) == TRIALS and not (tmp_path / "a").exists()


@pytest.mark.usefixtures("quick")
def test_a_damaged_study(config: Path, tmp_path: Path, capsys: Capsys) -> None:
    whole = tmp_path / "whole"
    assert call(*search(config, whole, SPACE, 1)) == 0

    def fails(damage: Any, names: str) -> None:
        out = Path(shutil.copytree(whole, tmp_path / "copy"))
        damage(out)
        assert call(*search(config, out, SPACE, 2)) == 2
        assert names in capsys.readouterr().err
        shutil.rmtree(out)

    def refuse_trials(out: Path) -> None:
        with sqlite3.connect(out / "study.db") as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON trials BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
        other.close()

    record = (whole / "study.yaml").read_text()
    for text in ("a: [", "config: 1", "config: {data: {pat: x}}", "[]"):
        fails(lambda out, text=text: (out / "study.yaml").write_text(text), "study.yaml: damaged")
    changed = record.replace("content_hash: ", "content_hash: 0")
    fails(lambda out: (out / "study.yaml").write_text(changed), "holds another study (data.content_hash: was 0")
    fails(lambda out: (out / "study.db").write_bytes(b"no database" * 100), "study.db: unusable (file is not a datab")
    fails(lambda out: (out / "study.db").unlink(), "study.db: missing, but there are trials beside it")
    fails(refuse_trials, "disk is full")


@pytest.mark.parametrize(
    ("space", "base"),
    [("autoint", "autoint_plus_ml1m"), ("gru4rec", "gru4rec_diginetica"), ("narm", "narm_diginetica"),
     ("two_tower", "two_tower_ml1m")],
)  # fmt: skip
def test_the_spaces_that_come_with_the_package(space: str, base: str) -> None:
    found = load_space(ROOT / "configs" / f"tune_{space}.yaml")
    config = found.check(configuration.load(ROOT / "configs" / f"{base}.yaml"))
    assert config.data.validation_fraction > 0
    tried = list(found.combinations())
    assert len(tried) <= COMBINATIONS  # where they are too many, each value is among them
    for place, parameter in enumerate(found.parameters.values()):
        assert all(any(values[place] == probe for values in tried) for probe in parameter.probes())
