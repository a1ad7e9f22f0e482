"""The throughput report: its figures, several machines, peers, and files that are not the benchmark's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from jaxrec.cli.command import command

MACHINE = {"device": "Chip 9", "platform": "cpu", "devices": 1, "cpu_cores": 2, "python": "3.11.7", "jax": "0.10.2"}
ROW = {
    "model": "gru4rec", "loss": "cross_entropy", "batch": 32, "items": 40_000, "precision": "float32",
    "steps_per_s": 850.0, "events_per_s": 27_200.4, "matmul_share": 0.47, "ceiling_matmul_gflop_per_s": 190.0,
    "ceiling_copy_gb_per_s": 20.0, "exchanged_per_step": {"all-gather": 1000.0, "all-reduce": 120_000.0},
}  # fmt: skip
PEER = {"peer": "authors", "model": "gru4rec", "loss": "cross_entropy", "batch": 32, "ratios": [5.4, 5.7, 5.2]}


def write(file: str, *rows: dict[str, Any], **more: Any) -> None:
    values: dict[str, Any] = {"machine": MACHINE, "date": "2026-11-22", "command": "benchmark.py all", "rows": rows}
    Path(file).write_text(json.dumps(values | more))


def cells(text: str) -> list[list[str]]:
    """The lines of all tables."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def test_files_of_one_machine_share_a_section_and_others_are_kept_apart(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("a.json", ROW, ROW | {"exchanged_per_step": None}, device_peak_memory_mb=1234.0, peers=[PEER])
    write("b.json", ROW | {"hard": 4, "exchanged_per_step": {}}, date="2026-11-23")
    write("c.json", ROW | {"model": "narm"}, machine=MACHINE | {"jax": "0.11"})
    assert command(script.main, ["report", "a.json", "b.json", "a.json", "--out", "r.md"]) == 0
    text = Path("r.md").read_text(encoding="utf-8")
    for line in (
        "## Chip 9", "- ceilings: 190 GFLOP/s of a large matrix product, 20 GB/s copied", "### gru4rec",
        "- 2026-11-22, a.json: `benchmark.py all`; at most 1,234 MB of the device's memory in use",
    ):  # fmt: skip
        assert text.splitlines().count(line) == 1
    head, _, *lines, _, _, peer = cells(text)
    first, second, third = (dict(zip(head, line, strict=True)) for line in lines)
    assert first == first | {"steps_per_s": "850", "events_per_s": "27,200", "matmul_share": "0.47", "hard": "-",
                             "exchanged_per_step": "all-gather 1,000, all-reduce 120,000"}  # fmt: skip
    assert (second["exchanged_per_step"], third["exchanged_per_step"], third["hard"]) == ("-", "0", "4")
    assert peer[-1] == "5.4 5.7 5.2" and "must not be compared" not in text
    assert command(script.main, ["report", "a.json", "c.json", "--out", "r.md"]) == 0
    text = Path("r.md").read_text(encoding="utf-8")
    assert "**Figures of 2 different machines, which must not be compared.**" in text
    assert text.index("### Machine 1: gru4rec") < text.index("## Machine 2: Chip") < text.index("### Machine 2: narm")


def test_files_that_are_not_the_benchmarks(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(str(tmp_path / "empty.json"))
    write(str(tmp_path / "other.json"), {"model": "narm"})
    for file in (tmp_path / "empty.json", tmp_path / "other.json", ROOT / "pyproject.toml"):
        assert command(script.main, ["report", str(file), "--out", str(tmp_path / "r.md")]) == 2
        assert f"{file}: no JSON of a benchmark's rows" in capsys.readouterr().err
