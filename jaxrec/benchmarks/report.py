"""The throughput report: Markdown of the benchmark's JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxrec.cli.command import Parser
from jaxrec.errors import UserError
from jaxrec.run import write_text

DESCRIPTION = """\
Write what the benchmark measured as Markdown, a section for each file. jaxrec/benchmarks/README.md says how to read it.

    python scripts/benchmark.py all --json throughput.json
    python scripts/benchmark.py report throughput.json --out throughput.md
"""

COLUMNS = (
    "loss", "hard", "head", "batch", "items", "steps_per_s", "steps_per_s_min", "steps_per_s_max", "events_per_s",
    "matmul_share", "compile_s", "peak_memory_mb", "exchanged_per_step",
)  # fmt: skip
PEER_COLUMNS = ("peer", "model", "loss", "batch", "items", "steps_per_s", "events_per_s", "ratio", "ratios")


def main(argv: Sequence[str]) -> None:
    """The command line of ``scripts/benchmark.py report``."""
    parser = Parser(prog="python scripts/benchmark.py report", description=DESCRIPTION)
    parser.add_argument("files", nargs="+", metavar="FILE", help="what a benchmark's --json wrote")
    parser.add_argument("--out", required=True, metavar="FILE.md", help="where the Markdown goes")
    options, lines, machines = parser.parse_args(argv), ["# Training throughput"], set[str]()
    for file in options.files:
        try:
            results = json.loads(Path(file).read_text(encoding="utf-8"))
            machines.add(str(results["machine"]))
            lines.append(section(results))
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{file}: no JSON of a benchmark's rows, or another version's ({type(error).__name__}: "
                            f"{error}); measure again with --json") from None  # fmt: skip
    if len(machines) > 1:
        lines.insert(1, "**Figures of different machines, which must not be compared.**")
    write_text(Path(options.out), "\n\n".join(lines))
    print(f"wrote {options.out}")


def section(results: dict[str, Any]) -> str:
    """What ``scripts/benchmark.py --json`` writes, as Markdown: the machine, a table for each model, and the peers."""
    machine, rows = results["machine"], results["rows"]
    top = max(row["ceiling_matmul_gflop_per_s"] for row in rows)
    lines = [f"## {machine['device']}, {results['date']}", "", f"- `{results['command']}`",
             f"- {', '.join(f'{key} {each}' for key, each in machine.items())}",
             f"- ceiling: {top:,.0f} GFLOP/s of a large matrix product"]  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += ["", f"### {model}", "", table([row for row in rows if row["model"] == model], COLUMNS)]
    if peers := results.get("peers"):
        lines += ["", "### Other people's code in the same sitting", "", table(peers, PEER_COLUMNS)]
    return "\n".join([*lines, ""])


def table(rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> str:
    """Markdown of rows, aligned; columns in which no row has anything are left out."""
    names = [name for name in columns if any(row.get(name) is not None for row in rows)]
    cells = [[_shown(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # bytes by kind of collective
        return ", ".join(f"{kind} {_shown(number)}" for kind, number in value.items()) or "0"
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
