"""The throughput report: its figures, several machines, peers, the picture, and files that are not the benchmark's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxrec.benchmarks import report
from jaxrec.cli.command import command
from jaxrec.errors import UserError

MACHINE = {"device": "Chip 9", "platform": "cpu", "devices": 1, "cpu_cores": 2, "python": "3.11.7", "jax": "0.10.2"}
PEER = {
    "peer": "authors", "model": "gru4rec", "loss": "cross_entropy", "batch": 32, "items": 40_000, "steps_per_s": 154.0,
    "events_per_s": 4928.0, "ratios": [5.4, 5.7, 5.2],
}  # fmt: skip


def row(model: str, loss: str, **more: Any) -> dict[str, Any]:
    """A row as the benchmark writes it."""
    return {
        "model": model, "loss": loss, "batch": 32, "items": 40_000, "units": 100, "dim": 100, "n_sample": 2048,
        "precision": "float32", "streamed": False, "steps_per_s": 850.0, "steps_per_s_min": 800.0,
        "steps_per_s_max": 900.0, "events_per_s": 27_200.0, "matmul_share": 0.47, "copy_share": 0.012,
        "compile_s": 1.25, "peak_memory_mb": 55.8, "ceiling_matmul_gflop_per_s": 190.0, "ceiling_copy_gb_per_s": 20.0,
        "exchanged_per_step": {"all-gather": 1000.0, "all-reduce": 120_000.0}, **more,
    }  # fmt: skip


def results(*rows: dict[str, Any], **more: Any) -> report.Results:
    values: dict[str, Any] = {"machine": MACHINE, "date": "2026-11-22", "command": "benchmark.py all", "rows": rows}
    return report.Results(file=Path("a.json"), **values | more)


def cells(text: str) -> list[list[str]]:
    """The lines of all tables."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def test_one_machine() -> None:
    text = report.section([results(
        row("gru4rec", "cross_entropy"), row("gru4rec", "bpr_max", exchanged_per_step=None),
        row("two_tower", "triplet", hard=4, events_per_s=70_400.4, input_wait_share=0.034, exchanged_per_step={}),
        device_peak_memory_mb=1234.0, peers=[PEER],
    )])  # fmt: skip
    for line in (
        "## Chip 9", "- ceilings: 190 GFLOP/s of a large matrix product, 20 GB/s copied",
        "- 2026-11-22, a.json: `benchmark.py all`; at most 1,234 MB of the device's memory in use",
    ):  # fmt: skip
        assert line in text.splitlines()
    head, _, first, second, other, _, tower, *_, peer = cells(text)
    found = [dict(zip(names, line, strict=True)) for names, line in ((head, first), (head, second), (other, tower))]
    assert found[0] == found[0] | {"steps_per_s": "850", "matmul_share": "0.47",
                                   "exchanged_per_step": "all-gather 1,000, all-reduce 120,000"}  # fmt: skip
    assert found[1]["exchanged_per_step"] == "-" and "hard" not in found[1]
    assert found[2] == found[2] | {"hard": "4", "events_per_s": "70,400", "input_wait_share": "0.034",
                                   "exchanged_per_step": "0"}  # fmt: skip
    assert peer[-1] == "5.4 5.7 5.2"


def test_other_machines_are_kept_apart_in_text_and_picture() -> None:
    other = MACHINE | {"jax": "0.11"}
    machines = [[results(row("gru4rec", "cross_entropy"))],
                [results(row("gru4rec", "bpr_max"), row("narm", "softmax"), machine=other, peers=[PEER])]]  # fmt: skip
    text = report.markdown(machines, "p.png")
    assert "**Figures of 2 different machines, which must not be compared.**" in text
    assert text.index("### Machine 1: gru4rec") < text.index("## Machine 2: Chip") < text.index("### Machine 2: narm")
    found = [[bar.get_width() for bar in axes.patches] for axes in report.picture(machines).axes]
    assert found == [[27_200.0], [27_200.0, 4928.0], [], [27_200.0]]


def test_the_command(script: Any, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(results(row("narm", "softmax")).model_dump_json())
    Path("b.json").write_text(results(row("narm", "bpr"), date="2026-11-23").model_dump_json())
    assert command(script.main, ["report", "a.json", "b.json", "a.json", "--out", "r.md"]) == 0
    text = Path("r.md").read_text(encoding="utf-8")
    assert text.count("## Chip 9") == 1 and [line[0] for line in cells(text)[2:]] == ["softmax", "bpr"]
    assert "![Events or samples a second by model](r.png)" in text and "must not be compared" not in text
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    assert command(script.main, ["report", "a.json", "--out", "s.png"]) == 2
    assert "--out s.png: end it in .md" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"rows": []}, {"rows": [row("narm", "x", events_per_s="9")]}, None])
def test_files_that_are_not_the_benchmarks(tmp_path: Path, change: Any) -> None:
    good = json.loads(results(row("gru4rec", "cross_entropy")).model_dump_json())
    (tmp_path / "bad.json").write_text("steps/s" if change is None else json.dumps(good | change))
    with pytest.raises(UserError, match=r"bad\.json"):
        report.read(tmp_path / "bad.json")
