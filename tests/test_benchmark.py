"""The benchmark script runs for every model and says what it measured."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from jaxrec.cli import command

Run = Callable[..., dict[str, Any]]

TINY = ["--batch", "32", "--items", "300", "--units", "8", "--dim", "8", "--n-sample", "16", "--steps", "4"]
SCRIPT = ROOT / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module: a process for each test would spend most of its time on imports."""
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def benchmark(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs it with these words; gives the JSON."""
    monkeypatch.setattr(script, "ceilings", lambda: {"matmul_gflop_per_s": 100.0, "copy_gb_per_s": 10.0})

    def run(*words: str) -> dict[str, Any]:
        out = tmp_path / "out.json"
        assert command(script.main, [*words, "--repetitions", "1", "--json", str(out)]) == 0
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return run


def test_every_model_is_measured(benchmark: Run, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark("gru4rec", "narm", "sasrec", "softmax", *TINY)
    shown = capsys.readouterr().out
    rows = {(row["model"], row["loss"]): row for row in result["rows"]}
    assert set(rows) == {(m, loss) for m, loss in [("gru4rec", "cross_entropy"), ("gru4rec", "bpr_max"),
                                                   ("narm", "softmax"), ("sasrec", "softmax")]}  # fmt: skip
    for (model, _), row in rows.items():
        assert row["batch"] == 32 and row["items"] == 300
        assert row["steps_per_s"] > 0 and row["flop_per_step"] > 0 and row["step_memory_mb"] > 0
        # On average over an epoch, which is so short here that its end counts.
        assert 16 < row["targets_per_step"] <= 32
        assert f"{model} " in shown
    ways = {row["way"]: row for row in result["softmax"]}
    assert {"plain formula", "blocks, 64 MiB"} < set(ways) and all(row["ms"] > 0 for row in ways.values())
    # Scores and both derivatives of 8-vectors, for every target, over all items: the least that a full softmax costs.
    assert rows["narm", "softmax"]["flop_per_step"] > 6 * rows["narm", "softmax"]["targets_per_step"] * 300 * 8


def test_two_towers_are_measured_with_and_without_hard_negatives(
    benchmark: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--batch", "16", "--items", "60", "--interactions", "400", "--loss", "triplet", "--steps", "4"]
    rows = benchmark("two_tower", *words)["rows"]
    assert [(row["model"], row["loss"], row["batch"], row["items"], row["hard"]) for row in rows] == [
        ("two_tower", "triplet", 16, 60, hard) for hard in (0, 4)
    ]
    assert rows[0]["flop_per_step"] < rows[1]["flop_per_step"] and all(row["events_per_s"] > 0 for row in rows)
    assert "triplet + hard" in capsys.readouterr().out


def test_merrec_is_measured_by_head_and_loss(benchmark: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch", "32", "--items", "60", "--loss", "cross_entropy", "softmax", "--head", "text", "--steps", "2"]
    rows = benchmark("merrec", *words, "--n-sample", "16")["rows"]
    assert [(row["model"], row["loss"], row["head"], row["items"]) for row in rows] == [
        ("merrec", loss, "text", 60) for loss in ("cross_entropy", "softmax")
    ]
    assert all(row["events_per_s"] > 0 and row["flop_per_step"] > 0 for row in rows)
    assert "cross_entropy text" in capsys.readouterr().out


def test_a_process_measures_the_machine(tmp_path: Path) -> None:
    words = ["gru4rec", "--loss", "cross_entropy", *TINY, "--repetitions", "1", "--json", str(tmp_path / "out.json")]
    line = [sys.executable, "-W", "error", str(SCRIPT), *words]
    found = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["ceiling_matmul_gflop_per_s"] > 1 and row["ceiling_copy_gb_per_s"] > 0.1
    assert 0 < row["matmul_share"] < 2


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["nothing"], "nothing.*gru4rec.*narm.*sasrec"),
        (["narm", "--steps", "0"], "--steps 0"),
        (["narm", "--batch", "8"], "training.batch_size: 8 targets.*model.window 20"),
        (["gru4rec", "--loss", "softmax"], "loss.name: gru4rec"),
    ],
)
def test_a_mistake_gets_one_line(
    script: Any, words: list[str], names: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "ceilings", dict)
    assert command(script.main, words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(names, lines[0]), lines
