"""The throughput report: its figures, several machines, peers, the picture, and files that are not the benchmark's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxrec.benchmarks import report as reporting
from jaxrec.benchmarks.report import main, size
from jaxrec.cli.command import command
from jaxrec.errors import UserError

MACHINE = {"device": "Chip 9", "platform": "cpu", "devices": 1, "cpu_cores": 2, "python": "3.11.7", "jax": "0.10.2"}


def row(model: str, loss: str, **more: Any) -> dict[str, Any]:
    """A row as the benchmark writes it."""
    return {
        "model": model, "loss": loss, "batch": 32, "items": 40_000, "units": 100, "dim": 100, "n_sample": 2048,
        "precision": "float32", "streamed": False, "steps_per_s": 850.0, "steps_per_s_min": 800.0,
        "steps_per_s_max": 900.0, "events_per_s": 27_200.0, "matmul_share": 0.47, "copy_share": 0.012,
        "compile_s": 1.25, "peak_memory_mb": 55.8, "ceiling_matmul_gflop_per_s": 190.0, "ceiling_copy_gb_per_s": 20.0,
        "exchanged_per_step": {"all-gather": 1000.0, "all-reduce": 120_000.0}, **more,
    }  # fmt: skip


def result(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "date": "2026-11-22",
        "command": "python scripts/benchmark.py all",
        "rows": rows,
        **more,
    }


PEER = {
    "peer": "authors", "model": "gru4rec", "loss": "cross_entropy", "batch": 32, "items": 40_000, "steps_per_s": 154.0,
    "events_per_s": 4928.0, "ratios": [5.4, 5.7, 5.2],
}  # fmt: skip


def write(folder: Path, name: str, found: Any) -> str:
    (folder / name).write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return str(folder / name)


def report(folder: Path, *files: str) -> str:
    """The Markdown of these files."""
    out = folder / "report.md"
    assert command(main, [*files, "--out", str(out)]) == 0
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    return out.read_text(encoding="utf-8")


def test_one_machine(tmp_path: Path) -> None:
    rows = [
        row("gru4rec", "cross_entropy"),
        row("gru4rec", "bpr_max", batch=500, exchanged_per_step=None, ceiling_matmul_gflop_per_s=200.0),
        row("two_tower", "triplet", hard=4, events_per_s=70_400.4, exchanged_per_step={}),
        row("two_tower", "infonce", hard=0, precision="bfloat16", steps_per_s=2.345),
    ]
    text = report(tmp_path, write(tmp_path, "a.json", result(*rows, device_peak_memory_mb=1234.0)))
    lines = text.splitlines()
    for line in (
        "![Events or samples a second by model](report.png)",
        "## Chip 9",
        "- platform cpu, devices 1, cpu_cores 2, python 3.11.7, jax 0.10.2",
        "- ceilings: 190 to 200 GFLOP/s in a large float32 matrix product, 20 GB/s copying (read and written)",
        "- 2026-11-22, a.json: `python scripts/benchmark.py all`; at most 1,234 MB of the device's memory in use",
        "units 100, dim 100, n_sample 2048, precision float32",
        "| cross_entropy | 32 | 40,000 | 850 (800 to 900) | 27,200 | 47% | 1.2% | 1.2 s | 55.8 MB "
        "| 121 kB (all-gather 1 kB, all-reduce 120 kB) |",
        "| bpr_max | 500 | 40,000 | 850 (800 to 900) | 27,200 | 47% | 1.2% | 1.2 s | 55.8 MB | - |",
    ):
        assert line in lines
    # What differs between a model's rows is a column, what is the same stands above.
    at = lines.index("### two_tower")
    assert lines[at + 2] == "units 100, dim 100, n_sample 2048"
    assert lines[at + 4].startswith("| loss | batch | items | precision | steps/s | samples/s |")
    assert lines[at + 6].startswith("| triplet + hard | 32 | 40,000 | float32 | 850 (800 to 900) | 70,400 |")
    assert lines[at + 6].endswith("| 0 B |")
    assert lines[at + 7].startswith("| infonce | 32 | 40,000 | bfloat16 | 2.3 (800 to 900) |")
    assert "must not be compared" not in text and "Other people's" not in text and "waited" not in text


def test_streamed_rows_and_peers(tmp_path: Path) -> None:
    streamed = row("gru4rec", "cross_entropy", streamed=True, input_wait_share=0.034)
    rows = [row("gru4rec", "cross_entropy"), streamed]
    lines = report(tmp_path, write(tmp_path, "a.json", result(*rows, peers=[PEER | {"peer": "a|b"}]))).splitlines()
    at = lines.index("### gru4rec")
    assert lines[at + 4].endswith("| exchanged a step at 8 devices | waited |")
    assert lines[at + 6].endswith(" | - |") and lines[at + 7].endswith(" | 3.4% |")
    at = lines.index("### Other people's code in the same sitting")
    assert lines[at + 4] == "| a\\|b | gru4rec | cross_entropy | 32 | 40,000 | 154 | 4,928 | 5.40 (5.20 to 5.70) |"
    assert any("waited is the share" in line for line in lines)


def test_files_of_one_machine_share_a_section_and_others_are_kept_apart(tmp_path: Path) -> None:
    first = write(tmp_path, "a.json", result(row("gru4rec", "cross_entropy")))
    second = write(tmp_path, "b.json", result(row("gru4rec", "cross_entropy", batch=64), date="2026-11-23"))
    text = report(tmp_path, first, second, first)
    assert text.count("## Chip 9") == 1 and text.count("### gru4rec") == 1
    assert text.count("| cross_entropy |") == 2  # a file that is named twice is read once
    assert "must not be compared" not in text
    more = {"machine": MACHINE | {"cpu_cores": 4, "jax": "0.11"}, "peers": [PEER]}
    third = write(tmp_path, "c.json", result(row("gru4rec", "cross_entropy"), row("narm", "softmax"), **more))
    text = report(tmp_path, first, third)
    assert "**Figures of 2 different machines, which must not be compared with one another.** They differ in " in text
    assert "They differ in cpu_cores (2, 4); jax (0.10.2, 0.11).\n" in text
    assert text.index("### Machine 1: gru4rec") < text.index("## Machine 2: Chip") < text.index("### Machine 2: narm")
    assert "### Machine 2: Other people's code" in text and "Machine 1: narm" not in text


def test_the_picture_has_a_bar_for_each_row_and_peer(tmp_path: Path) -> None:
    one = result(row("gru4rec", "cross_entropy"), row("gru4rec", "bpr_max", events_per_s=9.0, steps_per_s=0.0),
                 peers=[PEER])  # fmt: skip
    two = result(row("narm", "softmax", items=10), row("narm", "softmax", items=20), machine=MACHINE | {"devices": 8})
    files = [Path(write(tmp_path, f"{name}.json", content)) for name, content in (("a", one), ("b", two))]
    figure = reporting.picture(reporting.by_machine([reporting.read(file) for file in files]))
    found = {
        axes.get_title(loc="left"): (
            [tick.get_text() for tick in axes.get_yticklabels()],
            [bar.get_width() for bar in axes.patches],
            [text.get_text() for text in axes.texts],
        )
        for axes in figure.axes
        if axes.axison
    }
    words = "850 steps/s, 47% of matrix product"
    assert found == {
        "gru4rec": (["cross_entropy, 32", "authors: cross_entropy", "bpr_max, 32"], [27_200.0, 4928.0, 9.0],
                    [words, "154 steps/s, jaxrec 5.4 times", "0 steps/s, 47% of matrix product"]),
        "narm": (["softmax, 32, 10 items", "softmax, 32, 20 items"], [27_200.0, 27_200.0], [words] * 2),
    }  # fmt: skip
    # Two machines, of which each has one of the models: four panels, two of them empty.
    assert len(figure.axes) == 4
    assert figure.axes[0].get_title().startswith("Chip 9\ncpu x 1, 2 cores, jax 0.10.2, 2026-11-22\nnot to be compared")


@pytest.mark.parametrize(("count", "shown"), [
    (0, "0 B"), (812, "812 B"), (999.6, "1 kB"), (55_811_876, "55.8 MB"), (1.5e9, "1.5 GB"), (2.5e12, "2,500 GB"),
])  # fmt: skip
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown


GOOD = result(row("gru4rec", "cross_entropy"))


@pytest.mark.parametrize("content", [
    "steps/s", "", b"\xff\xfe", [1, 2], {}, GOOD | {"rows": []}, result({"model": "narm", "loss": "softmax"}),
    {"machine": MACHINE, "date": "", "command": "", "softmax": [{}]}, result(row("narm", "softmax", steps_per_s="9")),
    GOOD | {"machine": {key: value for key, value in MACHINE.items() if key != "jax"}},
    GOOD | {"peers": [PEER | {"ratios": 5.0}]},
])  # fmt: skip
def test_files_that_are_not_the_benchmarks(tmp_path: Path, content: Any) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(content if isinstance(content, bytes) else b"")
    if not isinstance(content, bytes):
        write(tmp_path, "bad.json", content)
    with pytest.raises(UserError, match=r"bad\.json"):
        reporting.read(bad)


def test_mistakes_on_the_command_line_and_the_command(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "good.json", GOOD)
    (tmp_path / "folder.md").mkdir()
    for words, named in [
        (["nowhere.json", "--out", "r.md"], "nowhere.json: cannot be read"),
        (["good.json", "--out", "nowhere/r.md"], "no directory nowhere"),
        (["good.json", "--out", "r.png"], "--out r.png: end it in .md"),
        (["good.json", "--out", "folder.md"], "--out folder.md: a directory"),
    ]:
        assert command(script.main, ["report", *words]) == 2
        assert named in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))
    assert command(script.main, ["report", "good.json", "--out", "r.md"]) == 0
    assert "| cross_entropy | 32 |" in Path("r.md").read_text(encoding="utf-8")
