"""Repeated (user, item) pairs, from the command line: what is left out, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import call

USERS = 30
TOWERS = {"model": {"name": "two_tower", "embedding_dim": 4, "hidden": [], "output_dim": 4, "norm": "none"},
          "loss": {"name": "infonce"}, "training": {"metric": "recall@2", "epochs": 1, "batch_size": 32},
          "evaluation": {"k": [2]}}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each user buys three items, the first twice, and is shown two that it does not buy, one of them twice."""
    root = tmp_path_factory.mktemp("repeats")
    bought = [(0, 1), (1, 1), (3, 0), (2, 1), (4, 0), (4, 0), (0, 1)]
    rows = [f"u{user},i{(user + item) % 12},{buy},{1_700_000_000 + 1000 * user + step}"
            for user in range(USERS) for step, (item, buy) in enumerate(bought)]  # fmt: skip
    (root / "buys.csv").write_text("\n".join(["user,item,buy,time", *rows]))
    words = ["--user", "user", "--item", "item", "--time", "time", "--label", "buy"]
    assert call("prepare", "rows", "--raw", root / "buys.csv", *words, "--out", root / "data") == 0
    data = {"path": str(root / "data"), "protocol": "leave_one_out"}
    (file := root / "towers.yaml").write_text(yaml.safe_dump(TOWERS | {"data": data}))
    return file


@pytest.mark.parametrize(
    ("words", "left_out", "held"),
    [((), USERS, 0), (("--data.repeats", "keep"), 0, USERS)],  # the last purchase is of the first item
)
def test_what_is_left_out_is_said(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], left_out: int, held: int
) -> None:
    run = tmp_path / "run"
    assert call("train", "--config", config, "--run", run, *words) == 0
    assert call("evaluate", "--run", run) == 0
    evaluated = capsys.readouterr().out
    result = json.loads((run / "eval-test.json").read_text())
    assert result["repeats"] == {"left_out": left_out, "held_by_training": held}
    of = result["targets"]
    assert (f"{left_out} rows of repeated (user, item) pairs are left out" in evaluated) == (left_out > 0)
    assert (f"{held} of {of} test rows are of a (user, item) pair that training holds too" in evaluated) == (held > 0)
    assert ("pair" in result["groups"]) == (held > 0)
