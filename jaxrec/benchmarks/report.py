"""The throughput report: Markdown, with a picture beside it, of the benchmark's JSON files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec.benchmarks.report_picture import draw
from jaxrec.benchmarks.results import Results, by_machine, differences, read
from jaxrec.benchmarks.sweep import label
from jaxrec.cli import Parser
from jaxrec.pictures import check_picture
from jaxrec.rundir import write_text

DESCRIPTION = """\
Write what the benchmark measured as Markdown, with a picture of the same name beside it (.png).

    python scripts/benchmark.py all --json throughput.json
    python scripts/benchmark.py report throughput.json --out throughput.md

Several files may be named. Those of one machine (the same device, number of devices, cores and versions) share a
section; those of different machines get one each, and the report says that they must not be compared.
"""

SAMPLES = ("autoint", "two_tower")  # models whose targets are rows; those of the others are events
SETTINGS = ("units", "dim", "n_sample", "precision")  # in a table's caption where all rows share them, else columns
NOTES = """\
Steps/s is the median of several repetitions (slowest to fastest) without compilation. Shares are of what the same
device reached on a large float32 matrix product and on a copy just before, for the operations and bytes that the
algorithm needs. Compile time is short where the compilation cache had the program. Peak memory is one device's for the
compiled block of steps: state, constants, a block of data, and what a step takes beside them. Bytes exchanged are those
of the results of the compiled program's collectives on one device, for the same batch spread over 8 virtual CPU
devices.
"""
WAITS = """\
Streamed rows have their data on the host, and their time includes feeding; waited is the share of it that the loop
stood waiting for the next block, in which the device may still have been at the one before.
"""


def main(argv: Sequence[str]) -> None:
    """The command line of ``scripts/benchmark.py report``."""
    parser = Parser(prog="python scripts/benchmark.py report", description=DESCRIPTION)
    parser.add_argument("files", nargs="+", metavar="FILE", help="what a benchmark's --json wrote")
    parser.add_argument("--out", required=True, metavar="FILE.md", help="where the Markdown goes")
    options = parser.parse_args(argv)
    out = Path(options.out)
    if out.suffix.lower() != ".md":
        parser.error(f"--out {out}: end it in .md; the picture goes beside it")
    check_picture(out.with_suffix(".png"))
    if out.is_dir():
        parser.error(f"--out {out}: a directory; name a file in it")
    results = [read(Path(file)) for file in dict.fromkeys(options.files)]
    machines = by_machine(results)
    draw(machines, out.with_suffix(".png"))
    write_text(out, markdown(machines, out.with_suffix(".png").name))
    print(f"{out}: {sum(len(one.rows) for one in results)} rows of {_count(len(machines), 'machine')}; "
          f"picture: {out.with_suffix('.png')}")  # fmt: skip


def markdown(machines: Sequence[list[Results]], picture: str) -> str:
    """The report.

    Args:
        machines: the files of each.
        picture: the name of its file.
    """
    lines = ["# Training throughput", "", f"![Events or samples a second by model]({picture.replace(' ', '%20')})", ""]
    if len(machines) > 1:
        lines += [f"**Figures of {len(machines)} different machines, which must not be compared with one another.** "
                  f"They differ in {'; '.join(differences(machines))}.", ""]  # fmt: skip
    for number, files in enumerate(machines):
        lines += _section(files, name_of(number) if len(machines) > 1 else "")
    rows = [row for files in machines for one in files for row in one.rows]
    lines += ["## How to read it", "", NOTES + (WAITS if any(row.get("streamed") for row in rows) else "")]
    return "\n".join(lines)


def name_of(number: int) -> str:
    """``Machine A: ``, ``Machine B: `` and so on."""
    return f"Machine {chr(ord('A') + number % 26)}{number // 26 or ''}: "


def _section(files: Sequence[Results], name: str) -> list[str]:
    """One machine: what it is, a table for each model, and the peers."""
    machine, rows = files[0].machine, [row for one in files for row in one.rows]
    versions = ", ".join(f"{key} {value}" for key, value in machine.items() if key not in
                         ("device", "platform", "devices", "cpu_cores"))  # fmt: skip
    tops = (_range([row["ceiling_matmul_gflop_per_s"] for row in rows], "GFLOP/s"),
            _range([row["ceiling_copy_gb_per_s"] for row in rows], "GB/s"))  # fmt: skip
    lines = [f"## {name}{machine['device']}", ""]
    lines.append(f"- {machine['platform']}, {_count(machine['devices'], 'device')}, "
                 f"{_count(machine['cpu_cores'], 'CPU core')}; {versions}")  # fmt: skip
    lines.append(f"- ceilings: {tops[0]} in a large float32 matrix product, {tops[1]} copying (read and written)")
    for number, one in enumerate(files, 1):
        peak = f"; at most {one.device_peak_mb:,.0f} MB of the device's memory in use" if one.device_peak_mb else ""
        lines.append(f"- {f'[{number}] ' if len(files) > 1 else ''}{one.date}, {Path(one.file).name}: "
                     f"`{one.command}`{peak}")  # fmt: skip
    lines.append("")
    for model in dict.fromkeys(row["model"] for row in rows):
        numbered = [(number, row) for number, one in enumerate(files, 1) for row in one.rows if row["model"] == model]
        lines += [f"### {name}{model}", "", *_model(model, numbered, len(files) > 1), ""]
    peers = [peer for one in files for peer in one.peers]
    if peers:
        lines += [f"### {name}Other people's code in the same sitting", "", *_peers(peers), ""]
    return lines


def _model(model: str, numbered: Sequence[tuple[int, dict[str, Any]]], several: bool) -> list[str]:
    """The rows of one model on one machine, each with the number of its file."""
    rows = [row for _, row in numbered]
    differ = {name for name in SETTINGS if len({str(row.get(name)) for row in rows}) > 1}
    shared = [f"{name} {rows[0][name]}" for name in SETTINGS if name not in differ and rows[0].get(name)]
    streamed = any(row.get("streamed") for row in rows)
    unit = "samples" if model in SAMPLES else "events"
    table = []
    for number, row in numbered:
        cells = {"file": f"[{number}]"} if several else {}
        cells |= {"loss": label(row), "batch": f"{row['batch']:,}", "items": f"{row['items']:,}"}
        cells |= {name: str(row.get(name, "-")) for name in SETTINGS if name in differ}
        slowest, fastest = _rate(row["steps_per_s_min"]), _rate(row["steps_per_s_max"])
        cells |= {
            "steps/s": f"{_rate(row['steps_per_s'])} ({slowest} to {fastest})",
            f"{unit}/s": f"{row['events_per_s']:,.0f}",
            "of matrix product": _share(row["matmul_share"]),
            "of copy": _share(row["copy_share"]),
            "compile": f"{row['compile_s']:.1f} s",
            "peak memory": size(1e6 * row["peak_memory_mb"]),
            "exchanged a step at 8 devices": _exchanged(row.get("exchanged_per_step")),
        }
        waited = row.get("input_wait_share")
        cells |= {"waited": "-" if waited is None else _share(waited)} if streamed else {}
        table.append(cells)
    return [*([", ".join(shared), ""] if shared else []), *_table(table)]


def _peers(peers: Sequence[dict[str, Any]]) -> list[str]:
    table = []
    for peer in peers:
        ratios = peer["ratios"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        table.append({
            "peer": peer["peer"], "model": peer["model"], "loss": peer["loss"], "batch": f"{peer['batch']:,}",
            "items": f"{peer['items']:,}", "steps/s": _rate(peer["steps_per_s"]),
            "events or samples/s": f"{peer['events_per_s']:,.0f}", "jaxrec's rate over it (rounds)": spread,
        })  # fmt: skip
    return _table(table)


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Markdown of rows with the same columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _exchanged(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    kinds = ", ".join(f"{kind} {size(count)}" for kind, count in found.items())
    return size(sum(found.values())) + (f" ({kinds})" if len(found) > 1 else f" ({next(iter(found))})" if found else "")


def size(count: float) -> str:
    """Bytes for people: ``812 B``, ``4.1 kB``, ``1.55 GB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 999.5 else f"{count:,.0f} GB"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def _range(values: Sequence[float], unit: str) -> str:
    low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (min(values), max(values)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
