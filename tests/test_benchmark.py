"""The benchmark script runs for every model and says what it measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

TINY = ["--batch", "32", "--items", "300", "--units", "8", "--dim", "8", "--n-sample", "16", "--steps", "4"]


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "scripts" / "benchmark.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


def test_every_model_is_measured(tmp_path: Path) -> None:
    found = benchmark(
        "gru4rec", "narm", "sasrec", "softmax", *TINY, "--repetitions", "1", "--json", str(tmp_path / "out.json")
    )
    assert found.returncode == 0, found.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    rows = {(row["model"], row["loss"]): row for row in result["rows"]}
    assert set(rows) == {(m, loss) for m, loss in [("gru4rec", "cross_entropy"), ("gru4rec", "bpr_max"),
                                                   ("narm", "softmax"), ("sasrec", "softmax")]}  # fmt: skip
    for (model, _), row in rows.items():
        assert row["batch"] == 32 and row["items"] == 300
        assert row["steps_per_s"] > 0 and row["flop_per_step"] > 0 and row["step_memory_mb"] > 0
        # On average over an epoch, which is so short here that its end counts.
        assert 16 < row["targets_per_step"] <= 32
        assert f"{model} " in found.stdout
    ways = {row["way"]: row for row in result["softmax"]}
    assert {"plain formula", "blocks, 64 MiB"} < set(ways) and all(row["ms"] > 0 for row in ways.values())
    # Scores and both derivatives of 8-vectors, for every target, over all items: the least that a full softmax costs.
    assert rows["narm", "softmax"]["flop_per_step"] > 6 * rows["narm", "softmax"]["targets_per_step"] * 300 * 8


def test_two_towers_are_measured_with_and_without_hard_negatives(tmp_path: Path) -> None:
    found = benchmark("two_tower", "--batch", "16", "--items", "60", "--interactions", "400", "--loss", "triplet",
                      "--steps", "4", "--repetitions", "1", "--json", str(tmp_path / "out.json"))  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["model"], row["loss"], row["batch"], row["items"], row["hard"]) for row in rows] == [
        ("two_tower", "triplet", 16, 60, hard) for hard in (0, 4)
    ]
    assert rows[0]["flop_per_step"] < rows[1]["flop_per_step"] and all(row["events_per_s"] > 0 for row in rows)
    assert "triplet + hard" in found.stdout


def test_merrec_is_measured_by_head_and_loss(tmp_path: Path) -> None:
    words = ["--batch", "32", "--items", "60", "--loss", "cross_entropy", "softmax", "--head", "text"]
    short = ["--n-sample", "16", "--steps", "2", "--repetitions", "1", "--json", str(tmp_path / "out.json")]
    found = benchmark("merrec", *words, *short)
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["model"], row["loss"], row["head"], row["items"]) for row in rows] == [
        ("merrec", loss, "text", 60) for loss in ("cross_entropy", "softmax")
    ]
    assert all(row["events_per_s"] > 0 and row["flop_per_step"] > 0 for row in rows)
    assert "cross_entropy text" in found.stdout


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["nothing"], "nothing.*gru4rec.*narm.*sasrec"),
        (["narm", "--steps", "0"], "--steps 0"),
        (["narm", "--batch", "8"], "training.batch_size: 8 targets.*model.window 20"),
        (["gru4rec", "--loss", "softmax"], "loss.name: gru4rec"),
    ],
)
def test_a_mistake_gets_one_line(words: list[str], names: str) -> None:
    found = benchmark(*words)
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert len(lines) == 1 and re.search(names, lines[0]), found.stderr
