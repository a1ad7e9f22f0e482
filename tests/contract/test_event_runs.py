"""What runs on events with names must do beside what every model must (test_models.py): new items, and embeddings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import call, fails, open_sessions
from worlds import Market, Worlds, write_vectors


def test_items_that_training_has_not_seen_are_found_by_their_names(worlds: Worlds) -> None:
    """Of the right kind are five listings, two of them new."""
    result = worlds.evaluated(worlds.run("merrec"))
    seen, unseen = (result["groups"]["items"][part] for part in ("seen", "unseen"))
    assert result["items"] == Market.n_items and result["trained_items"] == Market.kinds * Market.trained
    assert unseen["targets"] > 60 and seen["targets"] + unseen["targets"] == result["targets"]
    assert seen["recall@5"] > 0.85 and unseen["recall@5"] > 0.6


def test_a_model_of_sessions_trains_on_events(worlds: Worlds, tmp_path: Path) -> None:
    data = worlds.data("events")
    words = ["--data.path", data, "--training.epochs", 2, "--training.metric", "recall@5"]
    assert call("train", "--config", worlds.config("gru4rec"), "--run", tmp_path / "run", *words) == 0
    assert call("evaluate", "--run", tmp_path / "run", "--baselines", "pop") == 0
    result = json.loads((tmp_path / "run" / "eval-test.json").read_text())
    assert result["items"] == Market.n_items
    assert result["targets"] == open_sessions(data).manifest["counts"]["test"]["targets"]


def without(source: Path, place: Path, *names: str) -> Path:
    return Path(shutil.copytree(source, place, ignore=shutil.ignore_patterns(*names)))


def test_data_without_events_or_embeddings_are_refused(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with embeddings beside the data is tested in test_text.py."""
    bare = without(worlds.data("events"), tmp_path / "bare", "text")
    cases = {worlds.data("sessions"): "holds no events with item names", bare: "bare: no embeddings of its names"}
    for data, names in cases.items():
        words = ["train", "--config", worlds.config("merrec"), "--run", tmp_path / "none", "--data.path", data]
        fails(capsys, *words, names=names)
        assert not (tmp_path / "none").exists()


def test_a_run_goes_on_with_its_own_embeddings_alone(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of another model beside the data, even of the same width, are not the run's; what it keeps is enough."""
    learned = worlds.run("merrec")
    data, run = without(worlds.data("events"), tmp_path / "data", "text"), without(learned, tmp_path / "run")
    write_vectors(data, model="other")
    words = ("train", "--config", run / "config.yaml", "--run", run, "--resume", "--data.path", data)
    fails(capsys, *words, names=r"text/other/vectors\.npy: not what .*run was trained with")
    assert call("evaluate", "--run", run, "--data", data) == 0
    found: dict[str, Any] = json.loads((run / "eval-test.json").read_text())
    assert {**found, "seconds": 0} == {**worlds.evaluated(learned), "seconds": 0}
    shutil.rmtree(run / "dataset" / "text")
    fails(capsys, "evaluate", "--run", run, names="no embeddings of its names")
