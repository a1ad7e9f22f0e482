"""The benchmark script runs for every model, says what it measured and what devices exchange, and reports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, without_progress

from jaxrec.benchmarks import sweep
from jaxrec.benchmarks.exchange import add_exchanged
from jaxrec.cli.command import command
from jaxrec.programs.text import Program

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


def test_the_products_of_a_step(script: Any) -> None:
    """Of 64 lanes against 160 candidates, with two derivatives; those of the GRU, whose carried state has none."""
    words = "gru4rec --loss cross_entropy --items 1000 --batch 64 --units 24 --n-sample 96 --steps 3"
    prepared = sweep.prepare(*sweep.jobs(script.parse(words.split()))[0])
    found = prepared.flop(prepared.training.begin(), prepared.constants)
    assert found == 2 * 64 * (3 * 160 * (24 + 1) + (3 + 2) * 24 * 3 * 24)


def test_a_row_is_measured(benchmark: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = benchmark("gru4rec", "--loss", "cross_entropy", *TINY)["rows"]
    assert row["steps_per_s"] > 0 and row["repetitions"] == 1 and "### gru4rec" in capsys.readouterr().out


# ---- bytes that devices exchange, from the text of programs; tests/devices.py reads those of compiled ones -----------

LOOP = """\
%body (x: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%x), to_apply=%add
}
%small (x: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%x), to_apply=%add
}
%large (x: f32[4]) -> f32[4] {
  ROOT %r = f32[40]{0} all-reduce(%x), to_apply=%add
}
ENTRY %main.1 (p: f32[4]) -> f32[4] {
"""
WHILE = "ROOT %w = (s32[], f32[4]) while(%t), condition=%below, body=%body"


@pytest.mark.parametrize(("line", "expected"), [
    ("%a = (f32[8,2]{1,0}, /*index=1*/bf16[6]{0}, pred[3]{0}) all-reduce(%p, %q, %r), to_apply=%add",
     {"all-reduce": 64 + 12 + 3}),
    ("%a = f32[128,8]{1,0:T(8,128)(2,1)S(1)} all-reduce(%p), to_apply=%add", {"all-reduce": 4096}),
    ("%s = s4[6]{0} reduce-scatter(%p), to_apply=%add", {"reduce-scatter": 3}),
    ('%a = f32[99]{0} add(%p, %q), metadata={op_name="all-reduce(f32[7])"}', {}),
    (WHILE + ', backend_config={"known_trip_count":{"n":"9"}}', {"all-reduce": 9 * 16}),
    ("%c = f32[4] conditional(%i, %p, %p), branch_computations={%large, %small}", {"all-reduce": 160}),
    ("%c = f32[4] conditional(%i, %p, %p), branch_computations={%small, %large}", {"all-reduce": 160}),
])  # fmt: skip
def test_text_by_hand(line: str, expected: dict[str, int]) -> None:
    """What this machine's compiler does not write."""
    assert Program(f"{LOOP}  {line}\n}}\n", 1).collectives() == expected


def test_text_that_does_not_say_is_refused() -> None:
    for text, message in ((f"{LOOP}  {WHILE}\n}}\n", "does not say how often it turns"), ("", "no HLO module")):
        with pytest.raises(ValueError, match=message):
            Program(text, 3).collectives()


def test_a_compiling_process_that_dies_costs_only_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, rows = tmp_path / "script.py", [{"model": "gru4rec"}, {"model": "narm"}]
    script.write_text("import sys; sys.exit(f'no memory for {sys.argv[1:]}')")
    add_exchanged(rows, script, ["narm", "--steps", "4"])
    why = "exit status 1: no memory for ['narm', '--steps', '4', '--collectives']"
    assert capsys.readouterr().err == f"bytes exchanged at 8 devices: {why}\n"
    assert [row["exchanged_per_step"] for row in rows] == [None, None]


# ---- programs of accelerators ----------------------------------------------------------------------------------------


def test_programs_of_models(tmp_path: Path, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """For this machine's own processor, which needs no extra."""
    out = tmp_path / "programs.json"
    words = ["programs", "autoint", "gru4rec", "--target", "cpu", "--steps", "2", "--json", str(out)]
    assert command(script.main, words) == 0
    rows = json.loads(out.read_text())
    assert [(row["model"], row["loss"], row["batch"], row["target"]) for row in rows] == [
        ("autoint", "binary", 2048, "cpu"), ("gru4rec", "cross_entropy", 32, "cpu"),
    ]  # fmt: skip
    wanted = {"items", "kernels_per_step", "copies", "temp_bytes", "argument_bytes", "flop_per_step",
              "collective_bytes_per_step", "float_atomics", "compile_s"}  # fmt: skip
    assert all(wanted <= set(row) and row["flop_per_step"] > 0 and row["kernels_per_step"] > 0 for row in rows)
    assert "| autoint | binary" in capsys.readouterr().out
    assert command(script.main, ["programs", "autoint", "--target", "h1000"]) == 2
    assert "did you mean 'h100'" in capsys.readouterr().err
