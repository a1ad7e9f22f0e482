"""Tuning: what is searched and refused, pruning, failed trials, and a search that was killed ends as if it was not.

Compiling takes most of a trial's time; where the search alone is tested, a stand-in trains.
"""

from __future__ import annotations

import csv
import itertools
import json
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers import ROOT, call, fails, spawn, write_config

from jaxrec import config as configuration
from jaxrec.cli.lock import owned
from jaxrec.config import Config
from jaxrec.data.encode import RawField, RawRows, write_rows
from jaxrec.data.store import write_manifest
from jaxrec.errors import UserError
from jaxrec.train import Report
from jaxrec.training.telemetry import read_log
from jaxrec.tune import __main__ as tune
from jaxrec.tune.search_space import COMBINATIONS, Parameter, load_space

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
LISTS_ONLY = {"model.deep": {"choices": [[8], [8, 4]]}}
VALIDATED = ("--data.validation_fraction", 0.25)
RESULTS = ("trials.csv", "best.yaml", "history.png", "parameters.png")


def write_yaml(file: Path, values: object) -> Path:
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 rows of users, items and places; who likes what is to be learnt."""
    out, random = tmp_path_factory.mktemp("data") / "rows", np.random.default_rng(7)
    users, items, places = (random.integers(0, n, ROWS) for n in (20, 15, 4))
    taste = random.normal(size=(20, 15)) + random.normal(size=(4, 15))[places % 4].mean(axis=0)
    ratings = np.where(taste[users, items] > 0, 5.0, 1.0)
    fields = [
        RawField(name, "categorical", side, pa.array(values))
        for name, side, values in (("user", "user", users), ("item", "item", items), ("place", "context", places))
    ]
    out.mkdir()
    raw = RawRows(fields, ratings, np.arange(ROWS), threshold=4.0, low=1.0, high=5.0, user="user", item="item")
    manifest = write_rows(raw, out)
    write_manifest(out, manifest.pop("files"), source="test", options={}, **{"kind": "rows", **manifest})
    return out


@pytest.fixture(scope="module")
def config(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a validation split: the space has it."""
    return write_yaml(
        tmp_path_factory.mktemp("config") / "clicks.yaml",
        {
            "data": {"path": str(rows)},
            "model": {"name": "autoint", "embedding_dim": 8, "attention_dim": 8, "blocks": 0, "deep": [8]},
            "loss": {"name": "binary"},
            "optimizer": {"name": "adam", "learning_rate": 0.01},
            "training": {"epochs": 3, "batch_size": 64, "steps_per_block": 5, "metric": "auc"},
            "evaluation": {"k": [3]},
        },
    )


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yaml(tmp_path_factory.mktemp("space") / "space.yaml", SPACE)


def search(config: Path, space: Path, out: Path, trials: int = TRIALS, *more: object) -> list[str]:
    """The words of the command. With this seed SPACE makes two good trials, a fair one and a hopeless one: pruned."""
    words = ["tune", "--config", config, "--space", space, "--out", out, "--trials", trials, *more]
    for option, value in (("--startup-trials", 2), ("--seed", 30)):
        words += [] if option in more else [option, value]
    return [str(word) for word in words]


def stand_in(config: Config, path: Path, resume: bool, report: Report) -> None:
    """Like ``train``, with a metric that the learning rate makes: the best at 0.03."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "state").mkdir(exist_ok=True)
    metric, rate = config.training.metric, config.optimizer.learning_rate
    lines: list[dict[str, Any]] = []
    for epoch in range(1, config.training.epochs + 1):
        value = 0.5 + epoch / 100 - abs(np.log10(rate / 0.03)) / 25
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
def study(config: Path, space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search in one go; tests must not change it."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    assert call(*search(config, space, out)) == 0
    return out


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "trials.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def without_seconds(out: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table(out)]


# ---- a search --------------------------------------------------------------------------------------------------------


def test_the_table_says_what_the_runs_did(study: Path) -> None:
    found = table(study)
    assert [row["number"] for row in found] == [str(number) for number in range(TRIALS)]
    assert set(found[0]) == {"number", "state", "value", "best_epoch", "seconds", *SPACE} - {"data.validation_fraction"}
    assert {row["state"] for row in found} == {"complete", "pruned"}
    for row in found:
        run = study / f"trial_000{row['number']}"
        lines = read_log(run)
        values = [line["auc"] for line in lines if line["kind"] == "validation"]
        assert float(row["value"]) == max(values) and int(row["best_epoch"]) == values.index(max(values)) + 1
        assert lines[-1]["reason"] == ("stopped" if row["state"] == "pruned" else "all epochs")
        assert len(values) == 3 or row["state"] == "pruned"
        seconds = sum(value for name, value in lines[-1].items() if name.startswith("seconds_"))
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.006)
        used = configuration.load(run / "config.yaml")
        assert str(list(used.model.deep)) == row["model.deep"]
        assert str(used.optimizer.warmup_steps) == row["optimizer.warmup_steps"]
        assert used.optimizer.learning_rate == float(row["optimizer.learning_rate"])
        assert row["model.init_std"] == ("null" if used.model.init_std is None else str(used.model.init_std))
        assert used.data.validation_fraction == 0.25


def test_the_best_configuration_is_that_of_the_best_trial(study: Path) -> None:
    best = max((row for row in table(study) if row["state"] == "complete"), key=lambda row: float(row["value"]))
    run = study / f"trial_000{best['number']}"
    assert configuration.load(study / "best.yaml") == configuration.load(run / "config.yaml")
    head = (study / "best.yaml").read_text().splitlines()[0]
    assert head.startswith(f"# validation auc {float(best['value']):.6g} after epoch {best['best_epoch']}: ")
    assert f"trial {best['number']}, the best of {TRIALS}" in head
    assert [path.parent for path in study.glob("trial_*/state")] == [run]  # the disk holds one trial's checkpoints
    assert call("evaluate", "--run", run, "--split", "validation") == 0


def test_pictures(study: Path) -> None:
    from optuna import load_study

    from jaxrec.tune.report import draw_history, draw_parameters

    for name in ("history.png", "parameters.png"):
        assert (study / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    trials = load_study(study_name="tune", storage=f"sqlite:///{study / 'study.db'}").trials
    axes = draw_history(trials, "auc").axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "best so far")
    best = np.maximum.accumulate([float(row["value"]) if row["state"] == "complete" else 0 for row in table(study)])
    assert np.array_equal(np.asarray(line.get_ydata()), best)
    space = load_space(write_yaml(study.parent / "again.yaml", SPACE))
    panels = draw_parameters(trials, space.parameters, "auc").axes
    assert [panel.get_xlabel() for panel in panels] == sorted(set(SPACE) - {"data.validation_fraction"})
    assert [panel.get_xscale() for panel in panels] == [*["linear"] * 3, "log", "linear"]
    texts = [[label.get_text() for label in panel.get_xticklabels()] for panel in panels]
    assert [texts[place] for place in (0, 2, 3)] == [["[8]", "[8, 4]"], ["null", "0.1"], ["1e-6", "0.0001", "0.01"]]
    assert panels[3].get_xlim()[0] < 1e-7 and panels[3].get_xlim()[1] > 0.1  # all of the range
    assert panels[4].get_xlim() == pytest.approx((-0.15, 3.15))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"choices": [[400, 400], [1024, 512, 256, 128, 64], [512, 256, 128]]},
         ["[400, 400]", "[1024, 512,\n256, 128, 64]", "[512, 256,\n128]"]),
        ({"choices": [True, False, None, "$x$"]}, ["true", "false", "null", "$x$"]),
        ({"choices": [[2**n, 2**n] for n in range(9)]}, [f"[{2**n}, {2**n}]" for n in range(9)]),
        ({"low": 1, "high": 4}, ["1", "2", "3", "4"]),
        ({"low": 3, "high": 4}, ["3", "4"]),
        ({"low": 0.00001, "high": 0.00003}, ["1e-5", "1.5e-5", "2e-5", "2.5e-5", "3e-5"]),
        ({"low": 0.002, "high": 0.008, "log": True}, ["0.002", "0.003", "0.005", "0.007"]),
        ({"low": 0.0003, "high": 0.01, "log": True}, ["0.0005", "0.001", "0.002", "0.005", "0.01"]),
        ({"low": 0.3, "high": 20.0, "log": True}, ["0.3", "1", "3", "10"]),
        ({"low": 1.0, "high": 1.1, "log": True}, ["1", "1.05", "1.1"]),
        ({"low": 512, "high": 4096, "log": True}, ["700", "1000", "2000", "3000"]),
        ({"low": 10, "high": 11, "log": True}, ["10", "11"]),
        ({"low": 1e-12, "high": 1e7, "log": True}, ["1e-12", "1e-8", "0.0001", "1", "10000"]),
    ],
)  # fmt: skip
def test_the_ticks_of_a_parameter_can_be_read(entry: dict[str, Any], expected: list[str]) -> None:
    from jaxrec.tune.report import draw_parameters

    parameter = Parameter("model.field", tuple(entry.pop("choices", ())), **entry)
    figure = draw_parameters([], [parameter, Parameter("model.other", (1, 2)), Parameter("model.third", (1, 2))], "auc")
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    low, high = axis.get_view_interval()
    labels = [label for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
              if low <= place <= high]  # fmt: skip
    assert [label.get_text() for label in labels] == expected
    boxes = [label.get_window_extent() for label in labels]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


@pytest.mark.usefixtures("quick")
def test_more_trials_add_to_a_search(config: Path, space: Path, tmp_path: Path, capsys: Capsys) -> None:
    whole, out = tmp_path / "whole", tmp_path / "study"
    assert call(*search(config, space, whole, 6)) == 0
    assert call(*search(config, space, out, 2)) == 0
    assert len(table(out)) == 2
    capsys.readouterr()
    assert call(*search(config, space, out, 6)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{out}: going on after 2 of 6 trials"
    assert [line.split(":")[0] for line in printed[1:5]] == [f"trial {number}" for number in range(2, 6)]
    assert printed[5].startswith(f"{out}: 6 trials (") and len(printed) == 7
    assert table(out) == table(whole)
    assert len(list(out.glob("trial_*/state"))) == 1
    for name in RESULTS:
        (out / name).unlink()
    assert call(*search(config, space, out, 3)) == 0
    assert table(out) == table(whole) and all((out / name).is_file() for name in RESULTS)


# ---- killed ----------------------------------------------------------------------------------------------------------


def test_a_killed_search_ends_as_if_it_was_not(
    study: Path, config: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    for wanted in ("study.db", "trial_0001/state/latest"):
        process = spawn(*search(config, space, out))
        end = time.monotonic() + 60
        while not (out / wanted).exists():
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def killed(*_: object, **__: object) -> None:  # the run has ended, but the study does not know
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optuna.Study.tell", killed)
        assert call(*search(config, space, out)) == 130
    assert call(*search(config, space, out)) == 0
    assert without_seconds(out) == without_seconds(study)
    best, expected = ((place / "best.yaml").read_text().replace(str(place), "") for place in (out, study))
    assert best == expected
    runs = sorted(out.glob("trial_*"))
    assert len(runs) == TRIALS
    for run in runs:  # each epoch and each end once
        logs = [[line for line in read_log(one) if line["kind"] != "epoch"] for one in (run, study / run.name)]
        ours, theirs = ([(line["kind"], line["step"], line.get("auc")) for line in log] for log in logs)
        assert ours == theirs


def test_stopped_by_a_signal(config: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = spawn(*search(config, space, out, TRIALS, "--training.epochs", 1000))
    while not (out / "trial_0000" / "state" / "latest").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert printed == f"{out}: stopped in trial 0; the same command goes on from there\n"


@pytest.mark.usefixtures("quick")
def test_one_process_at_a_time(config: Path, space: Path, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "study"
    assert call(*search(config, space, out, 1)) == 0
    with owned(out, "tunes", "x"):
        fails(capsys, *search(config, space, out, 2), names="study: another process .* is tuning here")


# ---- trials that end before their time -------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("log_loss", -1)])
def test_hopeless_trials_are_pruned(config: Path, tmp_path: Path, capsys: Capsys, metric: str, sign: int) -> None:
    out, rates = tmp_path / "study", {"optimizer.learning_rate": {"low": 1e-9, "high": 0.1, "log": True}}
    space = write_yaml(tmp_path / "space.yaml", rates)
    more = ("--training.metric", metric, "--warmup-epochs", 2, "--training.epochs", 4)
    assert call(*search(config, space, out, 8, *VALIDATED, *more)) == 0
    found = table(out)
    pruned = [row for row in found if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        lines = read_log(out / f"trial_000{row['number']}")
        assert lines[-1] == lines[-1] | {"kind": "end", "epoch": 3, "reason": "stopped"}  # the first after the warm-up
        assert float(row["value"]) == lines[2][metric] and row["best_epoch"] == "3"
    assert f"trial {pruned[0]['number']}: pruned, {metric} " in capsys.readouterr().out
    values = [sign * float(row["value"]) for row in found if row["state"] == "complete"]
    head = (out / "best.yaml").read_text().splitlines()[0]
    assert f"validation {metric} {sign * max(values):.6g} after epoch 4: " in head


@pytest.mark.usefixtures("quick")
def test_a_metric_that_is_not_a_number(
    config: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.setattr(np, "log10", lambda _: np.nan)
    fails(capsys, *search(config, space, tmp_path / "study", 4), names="none of 4 trials is complete")
    assert [row["state"] for row in table(tmp_path / "study")] == ["failed"] * 4


def test_a_diverging_trial_has_failed_and_the_search_goes_on(
    config: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"optimizer.learning_rate": {"choices": [1e30, 0.03]}}
    space, out, real = write_yaml(tmp_path / "space.yaml", rates), tmp_path / "study", tune.train
    found: list[str] = []

    def once(config: Config, path: Path, resume: bool, report: Report) -> None:
        if config.optimizer.learning_rate < 1:
            return stand_in(config, path, resume, report)
        if found:
            raise UserError(found[0])
        try:
            return real(config, path, resume, report=report)
        except UserError as error:
            found.append(str(error))
            raise

    monkeypatch.setattr(tune, "train", once)
    assert call(*search(config, space, out, 6, *VALIDATED)) == 0
    states = {(row["optimizer.learning_rate"], row["state"]) for row in table(out)}
    assert states == {("1e+30", "failed"), ("0.03", "complete")}
    assert "failed (the loss is not finite at step " in capsys.readouterr().out

    rates["optimizer.learning_rate"]["choices"][1] = 1e29
    argv = search(config, write_yaml(space, rates), tmp_path / "none", 2, *VALIDATED)
    fails(capsys, *argv, names="none: none of 2 trials is complete, see trials.csv")
    assert [row["state"] for row in table(tmp_path / "none")] == ["failed", "failed"]
    assert not (tmp_path / "none" / "best.yaml").exists()


def test_errors_that_are_not_a_trials_own(
    config: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, space = tmp_path / "study", write_yaml(tmp_path / "space.yaml", LISTS_ONLY)

    def full(*_: object, **__: object) -> None:
        raise UserError("no disk space")

    def too_large(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    monkeypatch.setattr(tune, "train", full)
    fails(capsys, *search(config, space, out, 2, *VALIDATED), names="no disk space")
    monkeypatch.setattr(tune, "train", too_large)
    fails(capsys, *search(config, space, out, 2, *VALIDATED), names="none of 2 trials is complete")
    assert [row["state"] for row in table(out)] == ["failed", "failed"]
    monkeypatch.setattr(tune, "train", stand_in)
    assert call(*search(config, space, out, 3, *VALIDATED)) == 0
    assert [row["state"] for row in table(out)] == ["failed", "failed", "complete"]


def test_sessions(dataset: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "sessions.yaml", dataset, training={"epochs": 1})
    searched = {"model.layers": {"choices": [[8], [12]]}, "loss.logq": {"low": 0.0, "high": 1.0}}
    space = write_yaml(tmp_path / "space.yaml", searched)
    out = tmp_path / "study"
    assert call(*search(config, space, out, 1)) == 0
    for row in table(out):
        (line,) = (one for one in read_log(out / f"trial_000{row['number']}") if one["kind"] == "validation")
        assert float(row["value"]) == line["recall@20"]


# ---- bad input -------------------------------------------------------------------------------------------------------

LOW_HIGH = {"low": 0.1, "high": 0.2}
BAD: list[tuple[object, str]] = [
    (None, "an empty tuning space"),
    ({}, "an empty tuning space"),
    ({"model.deep": {"choices": [[8]]}, "model.blocks": {"low": 2, "high": 2}}, "an empty tuning space, no field has"),
    ([1, 2], "expected fields with their choices or ranges"),
    ({"optimizer": {"learning_rate": LOW_HIGH}}, "optimizer: no such field; write section.field, such as 'optimizer.l"),
    ({"optimizer.learning_rat": LOW_HIGH}, r"no such field \(did you mean 'optimizer.learning_rate'\?\)"),
    ({"optimizer.learning_rate": 0.1}, "learning_rate: found 0.1; expected 'choices"),
    ({"optimizer.learning_rate": {"lo": 0.1, "high": 0.2}}, r"learning_rate: no 'lo' here \(did you mean 'low'\?\)"),
    ({"optimizer.learning_rate": {"low": 0.1}}, "learning_rate: high: missing"),
    ({"optimizer.learning_rate": {"low": 0.2, "high": 0.1}}, "learning_rate: low 0.2 is more than high 0.1; exchange"),
    ({"optimizer.learning_rate": {"low": "a", "high": 1}}, "learning_rate: low: found 'a'; a number"),
    ({"optimizer.learning_rate": {"low": True, "high": 2}}, "learning_rate: low: found True; a number"),
    ({"optimizer.learning_rate": {"low": 0.1, "high": float("inf")}}, "learning_rate: high: found inf; a number"),
    ({"optimizer.learning_rate": LOW_HIGH | {"log": "yes"}}, "log: found 'yes'; give true or false"),
    ({"model.dropout_hidden": {"low": 0, "high": 0.2, "log": True}}, "low: found 0.0; with log it must be above 0"),
    ({"model.dropout_hidden": LOW_HIGH | {"log": True, "step": 0.1}}, "log and step exclude each other"),
    ({"model.dropout_hidden": LOW_HIGH | {"step": 0.0}}, "step: found 0.0; it must be above 0"),
    ({"model.dropout_hidden": LOW_HIGH | {"step": 0.03}}, "not reached from 0.1 by steps of 0.03; give 0.19 or 0.22"),
    ({"model.dropout_hidden": LOW_HIGH | {"choices": [0.1]}}, "choices and low, high exclude each other"),
    ({"model.dropout_hidden": {"choices": []}}, r"choices: found \[\]; give a list of at least one value"),
    ({"model.dropout_hidden": {"choices": 0.1}}, "choices: found 0.1; give a list"),
    ({"model.dropout_hidden": {"choices": [0.1, 0.2, "1e-1"]}}, "choices: 0.1 is there twice"),
    ({"data.validation_fraction": {"choices": [0.1, 0.2]}}, "several values make the trials' results incomparable"),
    # what the configuration refuses
    ({"model.dropout_hidden": {"low": 0.5, "high": 1.5}}, "model.dropout_hidden: found 1.5; input should be less"),
    ({"training.batch_size": {"low": 16.0, "high": 32.0}}, "training.batch_size: found 22.1"),
    ({"model.first_order": {"choices": ["none", "weight"]}}, r"did you mean 'weights'\?"),
    ({"model.heads": {"choices": [1, 3]}}, "model.heads: 3 do not divide model.attention_dim 8"),
    ({"model.deep": {"choices": [[8], []]}, "model.blocks": {"low": 0, "high": 1}}, "model.blocks, model.deep: neit"),
    ({"model.embedding": {"choices": ["onehot", "separate"]}}, "belongs to gru4rec"),
    ({"model.name": {"choices": ["autoint", "narm"]}}, "loss.name: found 'binary', but it belongs to autoint; choose"),
    # what the data does not have
    ({**LISTS_ONLY}, "data.validation_fraction: found 0.0, which holds nothing out"),
    ({**LISTS_ONLY, "data.fields": {"choices": [["usr"]]}}, "data.fields: no field 'usr'"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "names"), BAD)
def test_a_bad_space(config: Path, tmp_path: Path, capsys: Capsys, values: object, names: str) -> None:
    space = write_yaml(tmp_path / "space.yaml", values)
    fails(capsys, *search(config, space, tmp_path / "out" / "study"), names=names)
    assert list(tmp_path.iterdir()) == [space]


def test_files_and_options_that_are_refused(config: Path, space: Path, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "out"
    fails(capsys, *search(config, tmp_path / "none.yaml", out), names="none.yaml: cannot read the tuning space")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\nb: 2\n")
    fails(capsys, *search(config, bad, out), names="bad.yaml, line 2: not YAML")
    bad.write_bytes(b"\xff\xfe\xff")
    fails(capsys, *search(config, bad, out), names="bad.yaml: cannot read the tuning space .not UTF-8 text")
    fails(capsys, *search(config, space, out, 0), names="--trials: found 0; at least 1")
    fails(capsys, *search(config, space, out, 1, "--warmup-epochs", -1), names="--warmup-epochs: found -1")
    fails(capsys, *search(config, space, out, 1, "--startup-trials", 0), names="--startup-trials: found 0")
    fails(capsys, *search(config, space, out, 1, "--model.blok", 1), names=r"did you mean --model\.blocks\?")
    fails(capsys, *search(config, space, out, 1, "--jobs", 2), names="--jobs: no such option")
    fails(capsys, *search(config, space, out, 1, "--data.path", tmp_path), names="no data set here")
    fails(capsys, "tune", "--config", config, "--space", space, names="--trials; see")
    assert not out.exists()


def test_directories_that_hold_no_such_study(
    study: Path, config: Path, space: Path, tmp_path: Path, capsys: Capsys
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    fails(capsys, *search(config, space, tmp_path / "full"), names="full: exists and holds no study .no study.yaml.")
    (tmp_path / "file").touch()
    fails(capsys, *search(config, space, tmp_path / "file"), names="file: exists and holds no study")
    fails(capsys, *search(config, space, tmp_path / "file" / "in"), names="in: a parent of it is a file")
    was = "whole: holds another study .config training.epochs: was 3, now 4.; leave it as it was, or choose"
    fails(capsys, *search(config, space, study, 7, "--training.epochs", 4), names=was)
    fails(capsys, *search(config, space, study, 7, "--seed", 1), names="options seed: was 30, now 1")
    other = write_yaml(tmp_path / "other.yaml", SPACE | {"optimizer.warmup_steps": {"low": 1, "high": 3}})
    fails(capsys, *search(config, other, study), names="space optimizer.warmup_steps: was .'high': 3, 'low': 0.")
    other = write_yaml(tmp_path / "less.yaml", {name: SPACE[name] for name in SPACE if name != "model.deep"})
    fails(capsys, *search(config, other, study), names="space model.deep: was .*, now not there")
    assert len(table(study)) == TRIALS


@pytest.mark.usefixtures("quick")
def test_a_damaged_study(config: Path, tmp_path: Path, capsys: Capsys) -> None:
    out, space = tmp_path / "study", write_yaml(tmp_path / "space.yaml", LISTS_ONLY)
    argv = search(config, space, out, 1, *VALIDATED)
    assert call(*argv) == 0
    record = (out / "study.yaml").read_text()
    for damage in ("a: [", "config: 1", "config: {data: {pat: x}}", "[]"):
        (out / "study.yaml").write_text(damage)
        fails(capsys, *argv, names="study.yaml: damaged")
    (out / "study.yaml").write_text(record.replace("content_hash: ", "content_hash: 0"))
    fails(capsys, *argv, names="rows: not the data set that .*study was tuned on")
    (out / "study.yaml").write_text(record)
    (out / "study.db").write_bytes(b"no database" * 100)
    fails(capsys, *argv, names="study.db: unusable .*file is not a database")
    (out / "study.db").unlink()
    fails(capsys, *argv, names="study.db: missing, but there are trials beside it")


@pytest.mark.usefixtures("quick")
def test_a_database_that_cannot_be_written(config: Path, tmp_path: Path, capsys: Capsys) -> None:
    out, space = tmp_path / "study", write_yaml(tmp_path / "space.yaml", LISTS_ONLY)
    assert call(*search(config, space, out, 1, *VALIDATED)) == 0
    other = sqlite3.connect(out / "study.db")
    other.execute("CREATE TRIGGER full BEFORE INSERT ON trials BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    other.commit()
    other.close()
    fails(capsys, *search(config, space, out, 2, *VALIDATED), names="study.db: unusable .*disk is full")


def test_without_optuna(
    config: Path, space: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    fails(capsys, *search(config, space, tmp_path / "out"), names=r"needs Optuna; pip install 'jaxrec\[tune\]'$")


def test_the_space_that_comes_with_the_package() -> None:
    root = ROOT / "configs"
    space = load_space(root / "tune_autoint.yaml")
    base = configuration.load(root / "autoint_plus_ml1m.yaml")
    assert space.check(base).data.validation_fraction > 0
    tried = list(space._combinations())
    assert len(tried) == COMBINATIONS  # too many to try all, but each value is among them
    for place, parameter in enumerate(space.parameters):
        assert all(any(values[place] == probe for values in tried) for probe in parameter.probes())
