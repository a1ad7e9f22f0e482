"""The commands on rows with labels, as a user meets them, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import call, fails
from worlds import Clicks, Worlds

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


@pytest.mark.parametrize(("words", "names"), [
    (["--groups", "grop"], r"--groups grop: no such group \(did you mean 'group'\?\); there are activity, "),
    (["--sessions", 3], "--sessions: does not go with a run of autoint"),
    (["--data", "/nowhere"], "/nowhere: no data set here"),
])  # fmt: skip
def test_what_cannot_be_evaluated(capsys: Capsys, copy: Path, words: list[object], names: str) -> None:
    fails(capsys, "evaluate", "--run", copy, *words, names=names)
    assert not list(copy.glob("eval-*"))


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
