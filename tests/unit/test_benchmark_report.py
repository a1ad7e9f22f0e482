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
    "exchanged_per_step": {"all-gather": 1000.0, "all-reduce": 120_000.0},
}  # fmt: skip
PEER = {"peer": "authors", "model": "gru4rec", "loss": "cross_entropy", "batch": 32, "ratios": [5.4, 5.7, 5.2]}


def write(file: str, *rows: dict[str, Any], **more: Any) -> None:
    values: dict[str, Any] = {"machine": MACHINE, "date": "2026-11-22", "command": "benchmark.py all", "rows": rows}
    Path(file).write_text(json.dumps(values | more))


def cells(text: str) -> list[list[str]]:
    """The lines of all tables."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_section_for_each_file(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("a.json", ROW, ROW | {"hard": 4, "exchanged_per_step": {}}, peers=[PEER])
    write("b.json", ROW | {"model": "narm", "exchanged_per_step": None}, machine=MACHINE | {"jax": "0.11"})
    assert command(script.main, ["report", "a.json", "a.json", "--out", "r.md"]) == 0
    assert "must not be compared" not in Path("r.md").read_text(encoding="utf-8")
    assert command(script.main, ["report", "a.json", "b.json", "--out", "r.md"]) == 0
    text = Path("r.md").read_text(encoding="utf-8")
    for line, count in {
        "## Chip 9, 2026-11-22": 2, "- ceiling: 190 GFLOP/s of a large matrix product": 2,
        "- `benchmark.py all`": 2, "### gru4rec": 1, "### narm": 1,
        "**Figures of different machines, which must not be compared.**": 1,
    }.items():  # fmt: skip
        assert text.splitlines().count(line) == count
    head, _, *lines, _, _, peer, other, _, narm = cells(text)
    first, second = (dict(zip(head, line, strict=True)) for line in lines)
    assert first == first | {"steps_per_s": "850", "events_per_s": "27,200", "matmul_share": "0.47", "hard": "-",
                             "exchanged_per_step": "all-gather 1,000, all-reduce 120,000"}  # fmt: skip
    assert (second["exchanged_per_step"], second["hard"], peer[-1]) == ("0", "4", "5.4 5.7 5.2")
    assert "exchanged_per_step" not in other and len(narm) == len(other)


def test_files_that_are_not_the_benchmarks(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(str(tmp_path / "empty.json"))
    write(str(tmp_path / "other.json"), {"model": "narm"})
    for file in (tmp_path / "empty.json", tmp_path / "other.json", ROOT / "pyproject.toml"):
        assert command(script.main, ["report", str(file), "--out", str(tmp_path / "r.md")]) == 2
        assert f"{file}: no JSON of a benchmark's rows" in capsys.readouterr().err
