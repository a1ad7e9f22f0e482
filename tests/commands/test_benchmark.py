"""The benchmark script runs for every model and says what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, without_progress

from jaxrec.benchmarks import sweep
from jaxrec.benchmarks.sweep import Case, Round
from jaxrec.cli.command import command

Run = Callable[..., dict[str, Any]]
TINY = ["--batch", "32", "--items", "300", "--units", "8", "--dim", "8", "--n-sample", "16", "--steps", "4"]


@pytest.fixture
def benchmark(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs it with these words, on one device; gives the JSON."""
    monkeypatch.setattr(sweep, "matmul_ceiling", lambda: 100.0)

    def run(*words: str) -> dict[str, Any]:
        out = tmp_path / "out.json"
        assert command(script.main, [*words, "--repetitions", "1", "--no-collectives", "--json", str(out)]) == 0
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return run


@pytest.mark.slow
def test_every_model_is_measured(benchmark: Run, capsys: pytest.CaptureFixture[str]) -> None:
    result = benchmark("gru4rec", "narm", "sasrec", *TINY)
    shown = capsys.readouterr().out
    for row in result["rows"]:
        assert (row["batch"], row["items"]) == (32, 300) and row["steps_per_s"] > 0 and row["flop_per_step"] > 0
        # The state alone has 300 vectors of 8 and an accumulator of each.
        assert row["peak_memory_mb"] > row["step_memory_mb"] + 2 * 300 * 8 * 4 / 1e6 and row["step_memory_mb"] > 0
        assert "exchanged_per_step" not in row
        # On average over an epoch, which is so short here that its end counts.
        assert 16 < row["targets_per_step"] <= 32
        assert f"### {row['model']}" in shown
    assert result["command"].startswith("python scripts/benchmark.py gru4rec narm sasrec --batch 32 ")
    (row,) = benchmark("merrec", "--loss", "softmax", "--head", "text", *TINY)["rows"]
    assert (row["loss"], row["items"], row["head"]) == ("softmax", 300, "text")


@pytest.mark.slow
def test_a_process_measures_the_machine_and_what_eight_devices_exchange(tmp_path: Path) -> None:
    words = "gru4rec --loss cross_entropy --units 8 --n-sample 16 --steps 4 --batch 32 12 --items 30000"
    script = ROOT / "scripts" / "benchmark.py"
    line = [sys.executable, "-W", "error", str(script), *words.split(), "--repetitions", "1", "--json", "out.json"]
    found = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
                           env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    note = "bytes exchanged at 8 devices: a batch of 12 does not divide by 8\n"
    assert (found.returncode, without_progress(found.stderr)) == (0, note)
    row, other = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["ceiling_matmul_gflop_per_s"] > 1 and 0 < row["matmul_share"] < 2
    # The derivatives of the step's rows have to come together, of 8 and a bias; the table of 30,000 stays where it is.
    sent = sum(row["exchanged_per_step"].values())
    assert (32 + 16) * 9 * 4 < sent < 30_000 * 9 * 4 / 4
    assert other["exchanged_per_step"] is None


def test_all_is_every_model_with_its_defaults(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = sweep.jobs(script.parse(["narm", "all"]))
    assert Counter(model for model, _ in jobs) == {
        "narm": 1, "gru4rec": 6, "sasrec": 1, "autoint": 1, "two_tower": 4, "merrec": 3,
    }  # fmt: skip
    assert [options.steps for _, options in jobs] == [20, *[200] * 6, 20, 40, *[40] * 4, *[50] * 3]
    monkeypatch.setattr(sweep.jax, "default_backend", lambda: "gpu")
    assert {options.steps for _, options in sweep.jobs(script.parse(["all"]))} == {200}


def test_the_products_of_a_step(script: Any) -> None:
    """Of 64 lanes against 160 candidates, with two derivatives; those of the GRU, whose carried state has none."""
    words = "gru4rec --loss cross_entropy --items 1000 --batch 64 --units 24 --n-sample 96 --steps 3"
    prepared = sweep.prepare(*sweep.jobs(script.parse(words.split()))[0])
    found = prepared.flop(prepared.training.begin(), prepared.constants)
    assert found == 2 * 64 * (3 * 160 * (24 + 1) + (3 + 2) * 24 * 3 * 24)


def test_slow_rows_are_repeated_less(script: Any, benchmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["gru4rec", "--loss", "cross_entropy", *TINY]
    (row,) = benchmark(*words)["rows"]
    assert row["steps_per_s"] > 0 and row["repetitions"] == 1
    case = Case(sweep.prepare(*sweep.jobs(script.parse(words))[0]))
    for seconds, given, expected in ((1.0, [], 7), (11.0, [], 3), (11.0, ["--repetitions", "5"], 5)):
        monkeypatch.setattr(case, "run", lambda *_, seconds=seconds: Round(4.0, seconds))
        (row,) = sweep.measure([case], script.parse([*words, *given]))
        assert (row["repetitions"], row["steps_per_s"]) == (expected, 4.0)
