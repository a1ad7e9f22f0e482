"""Repeated (user, item) pairs, from the command line: what is left out, what is said, and runs of before."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from helpers import call, fails

from jaxrec.run import open_run

Capsys = pytest.CaptureFixture[str]
USERS = 30
TOWERS: dict[str, dict[str, object]] = {
    "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [], "output_dim": 4, "norm": "none"},
    "loss": {"name": "infonce"},
    "training": {"epochs": 1, "batch_size": 32, "metric": "recall@2"},
    "evaluation": {"k": [2]},
}
CLICKS: dict[str, dict[str, object]] = {
    "model": {"name": "autoint", "embedding_dim": 4, "blocks": 1, "attention_dim": 4},
    "loss": {"name": "binary"},
    "training": {"epochs": 1, "batch_size": 32, "metric": "auc"},
    "evaluation": {"k": [2]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each user buys three items, the first twice, and is shown two that it does not buy, one of them twice."""
    root = tmp_path_factory.mktemp("repeats")
    with open(root / "buys.csv", "w", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user", "item", "buy", "time"])
        for user in range(USERS):
            for step, (item, buy) in enumerate([(0, 1), (1, 1), (3, 0), (2, 1), (4, 0), (4, 0), (0, 1)]):
                writer.writerow([f"u{user}", f"i{(user + item) % 12}", buy, 1_700_000_000 + 1000 * user + step])
    words = ["--user", "user", "--item", "item", "--time", "time", "--label", "buy"]
    assert call("prepare", "rows", "--raw", root / "buys.csv", *words, "--out", root / "data") == 0
    return root / "data"


def train(data: Path, run: Path, kind: dict[str, dict[str, object]], protocol: str, *words: str) -> Path:
    config = run.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"data": {"path": str(data), "protocol": protocol}, **kind}))
    assert call("train", "--config", config, "--run", run, *words) == 0
    return run


@pytest.mark.parametrize(
    ("words", "left_out", "held"),
    [((), USERS, 0), (("--data.repeats", "keep"), 0, USERS)],  # the last purchase is of the first item
)
def test_what_is_left_out_is_said(
    data: Path, tmp_path: Path, capsys: Capsys, words: tuple[str, ...], left_out: int, held: int
) -> None:
    run = train(data, tmp_path / "run", TOWERS, "leave_one_out", *words)
    trained = capsys.readouterr().out
    assert call("evaluate", "--run", run) == 0
    evaluated = capsys.readouterr().out
    result = json.loads((run / "eval-test.json").read_text())
    assert result["repeats"] == {"left_out": left_out, "held_by_training": held}
    of = result["targets"]
    for text in (trained, evaluated):
        assert (f"{left_out} rows of repeated (user, item) pairs are left out" in text) == (left_out > 0)
        assert (f"{held} of {of} test rows are of a (user, item) pair that training holds too" in text) == (held > 0)
    assert ("pair" in result["groups"]) == (held > 0)


def test_impressions_of_click_models_are_kept_and_counted(data: Path, tmp_path: Path) -> None:
    """Of a random half: the group of rows that are new to training, and that of the others, make up the split."""
    run = train(data, tmp_path / "run", CLICKS, "rows", "--data.test_fraction", "0.5")
    assert call("evaluate", "--run", run) == 0
    result = json.loads((run / "eval-test.json").read_text())
    held = result["repeats"]["held_by_training"]
    assert result["repeats"]["left_out"] == 0 and 0 < held < result["rows"] == 105
    pair = result["groups"]["pair"]
    assert pair["held by training"]["rows"] == held and pair["new to training"]["rows"] == 105 - held


def test_a_run_of_before_is_what_it_was(data: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Its configuration does not say, and its training held the pairs: so it is judged, and so it goes on."""
    run = train(data, tmp_path / "run", TOWERS, "leave_one_out", "--data.repeats", "keep")
    values = yaml.safe_load((run / "config.yaml").read_text())
    del values["data"]["repeats"]
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    assert open_run(run).config.data.repeats == "keep"
    assert call("evaluate", "--run", run) == 0
    assert f"{USERS} of {USERS} test rows are of a (user, item) pair" in capsys.readouterr().out
    config = tmp_path / "run.yaml"
    assert call("train", "--config", config, "--run", run, "--resume", "--data.repeats", "keep") == 0
    fails(capsys, "train", "--config", config, "--run", run, "--resume",
          names=re.escape("was trained on other rows; resume it with --data.repeats keep"))  # fmt: skip
