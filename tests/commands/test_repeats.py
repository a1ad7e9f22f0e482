"""Repeated (user, item) pairs, from the command line: what is left out, what is said, and runs of before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import call, fails

from jaxrec.run import open_run

Capsys = pytest.CaptureFixture[str]
USERS = 30
Sections = dict[str, dict[str, object]]
TOWERS: Sections = {"model": {"name": "two_tower", "embedding_dim": 4, "hidden": [], "output_dim": 4, "norm": "none"},
          "loss": {"name": "infonce"}, "training": {"metric": "recall@2"}}  # fmt: skip
CLICKS: Sections = {"model": {"name": "autoint", "embedding_dim": 4, "blocks": 1, "attention_dim": 4},
          "loss": {"name": "binary"}, "training": {"metric": "auc"}}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``data``: each user buys three items, the first twice, and is shown two that it does not buy, one of them
    twice. ``kept`` is a run on all rows, ``left_out`` one without the repeats."""
    root = tmp_path_factory.mktemp("repeats")
    bought = [(0, 1), (1, 1), (3, 0), (2, 1), (4, 0), (4, 0), (0, 1)]
    rows = [f"u{user},i{(user + item) % 12},{buy},{1_700_000_000 + 1000 * user + step}"
            for user in range(USERS) for step, (item, buy) in enumerate(bought)]  # fmt: skip
    (root / "buys.csv").write_text("\n".join(["user,item,buy,time", *rows]))
    words = ["--user", "user", "--item", "item", "--time", "time", "--label", "buy"]
    assert call("prepare", "rows", "--raw", root / "buys.csv", *words, "--out", root / "data") == 0
    return root


def config(place: Path, kind: Sections, protocol: str) -> Path:
    data = {"path": str(place / "data"), "protocol": protocol}
    training = {"epochs": 1, "batch_size": 32} | kind["training"]
    file = place / f"{protocol}.yaml"
    file.write_text(yaml.safe_dump(kind | {"data": data, "training": training, "evaluation": {"k": [2]}}))
    return file


@pytest.mark.parametrize(
    ("words", "left_out", "held"),
    [((), USERS, 0), (("--data.repeats", "keep"), 0, USERS)],  # the last purchase is of the first item
)
def test_what_is_left_out_is_said(
    place: Path, capsys: Capsys, words: tuple[str, ...], left_out: int, held: int
) -> None:
    run = place / ("kept" if words else "left_out")
    assert call("train", "--config", config(place, TOWERS, "leave_one_out"), "--run", run, *words) == 0
    assert call("evaluate", "--run", run) == 0
    evaluated = capsys.readouterr().out
    result = json.loads((run / "eval-test.json").read_text())
    assert result["repeats"] == {"left_out": left_out, "held_by_training": held}
    of = result["targets"]
    assert (f"{left_out} rows of repeated (user, item) pairs are left out" in evaluated) == (left_out > 0)
    assert (f"{held} of {of} test rows are of a (user, item) pair that training holds too" in evaluated) == (held > 0)
    assert ("pair" in result["groups"]) == (held > 0)
    if not held:
        return
    # A run of before: its configuration does not say, and its training held the pairs. So it is judged and goes on.
    before = Path(shutil.copytree(run, place / "before"))
    values = yaml.safe_load((before / "config.yaml").read_text())
    del values["data"]["repeats"]
    (before / "config.yaml").write_text(yaml.safe_dump(values))
    assert open_run(before).config.data.repeats == "keep"
    assert call("evaluate", "--run", before) == 0
    assert f"{USERS} of {USERS} test rows are of a (user, item) pair" in capsys.readouterr().out
    resume = ["--config", place / "leave_one_out.yaml", "--run", before, "--resume"]
    assert call("train", *resume, "--data.repeats", "keep") == 0
    fails(capsys, "train", *resume, names=re.escape("was trained on other rows; resume it with --data.repeats keep"))


def test_impressions_of_click_models_are_kept_and_counted(place: Path) -> None:
    """Of a random half: the group of rows that are new to training, and that of the others, make up the split."""
    run, file = place / "clicks", config(place, CLICKS, "rows")
    assert call("train", "--config", file, "--run", run, "--data.test_fraction", "0.5") == 0
    assert call("evaluate", "--run", run) == 0
    result = json.loads((run / "eval-test.json").read_text())
    held = result["repeats"]["held_by_training"]
    assert result["repeats"]["left_out"] == 0 and 0 < held < result["rows"] == 105
    pair = result["groups"]["pair"]
    assert pair["held by training"]["rows"] == held and pair["new to training"]["rows"] == 105 - held
