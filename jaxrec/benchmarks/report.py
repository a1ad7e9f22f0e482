"""The throughput report: Markdown of the benchmark's JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from jaxrec.cli.command import Parser
from jaxrec.errors import UserError, explained
from jaxrec.run import write_text

DESCRIPTION = """\
Write what the benchmark measured as Markdown, a section for each file. jaxrec/benchmarks/README.md says how to read it.

    python scripts/benchmark.py all --json throughput.json
    python scripts/benchmark.py report throughput.json --out throughput.md
"""

COLUMNS = (
    "loss", "hard", "head", "batch", "items", "steps_per_s", "steps_per_s_min",
    "steps_per_s_max", "events_per_s", "matmul_share", "compile_s", "peak_memory_mb",
    "exchanged_per_step",
)  # fmt: skip
PEER_COLUMNS = ("peer", "model", "loss", "batch", "items", "steps_per_s", "events_per_s", "ratio", "ratios")


class Results(BaseModel):
    """A file that ``scripts/benchmark.py --json`` wrote: rows as ``sweep.measure`` gives them, peers as ``peers``."""

    machine: dict[str, Any]
    date: str
    command: str
    rows: Annotated[list[dict[str, Any]], Field(min_length=1)]
    peers: list[dict[str, Any]] = []


def main(argv: Sequence[str]) -> None:
    """The command line of ``scripts/benchmark.py report``."""
    parser = Parser(prog="python scripts/benchmark.py report", description=DESCRIPTION)
    parser.add_argument("files", nargs="+", metavar="FILE", help="what a benchmark's --json wrote")
    parser.add_argument("--out", required=True, metavar="FILE.md", help="where the Markdown goes")
    options = parser.parse_args(argv)
    files = [read(Path(file)) for file in options.files]
    alike = all(one.machine == files[0].machine for one in files)
    warning = "" if alike else "**Figures of different machines, which must not be compared.**\n\n"
    sections = "\n".join(map(section, files))
    write_text(Path(options.out), f"# Training throughput\n\n{warning}{sections}")
    print(f"wrote {options.out}")


def read(file: Path) -> Results:
    """Read a file back; one that no report can be made of, as another version's, is refused by its name."""
    try:
        results = Results(**json.loads(file.read_text(encoding="utf-8")))
        section(results)  # what is missing or damaged is told with the file's name
    except (OSError, LookupError, TypeError, ValueError) as error:
        reason = explained(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: no JSON of a benchmark's rows, or another version's ({reason}); measure again "
                        "with --json") from None  # fmt: skip
    return results


def section(results: Results) -> str:
    """A file: its machine, a table for each model, and the peers."""
    machine, rows = results.machine, results.rows
    top = max(row["ceiling_matmul_gflop_per_s"] for row in rows)
    lines = [f"## {machine['device']}, {results.date}", "", f"- `{results.command}`",
             f"- {', '.join(f'{key} {each}' for key, each in machine.items())}",
             f"- ceiling: {top:,.0f} GFLOP/s of a large matrix product"]  # fmt: skip
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += ["", f"### {model}", "", table([row for row in rows if row["model"] == model], COLUMNS)]
    if results.peers:
        lines += ["", "### Other people's code in the same sitting", "", table(results.peers, PEER_COLUMNS)]
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
