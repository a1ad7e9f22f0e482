"""The throughput report: Markdown, with a picture beside it, of the benchmark's JSON files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from jaxrec.benchmarks.sizes import SIZES
from jaxrec.benchmarks.sweep import label
from jaxrec.cli.command import Parser
from jaxrec.cli.json_text import parse_json
from jaxrec.errors import UserError, explained
from jaxrec.plots.pictures import check_picture, save_picture
from jaxrec.run import write_text

DESCRIPTION = """\
Write what the benchmark measured as Markdown, with a picture of the same name beside it (.png).

    python scripts/benchmark.py all --json throughput.json
    python scripts/benchmark.py report throughput.json --out throughput.md

Several files may be named. Those of one machine (the same device, number of devices, cores and versions) share a
section; those of different machines get one each, and the report says that they must not be compared.
"""

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
NAMED = ("model", "loss", "batch", "items")  # what a peer's row shares with ours
WIDTH, BAR, MARGIN = 8.5, 0.3, 0.75  # inches: a column of the picture, a bar with its gap, a panel's title and axis
PEER_COLOUR = "0.75"


class Results(BaseModel):
    """A file that ``scripts/benchmark.py --json`` wrote: rows as ``sweep.measure`` gives them, peers as ``peers``."""

    file: Path
    machine: dict[str, Any]
    date: str
    command: str
    rows: Annotated[list[dict[str, Any]], Field(min_length=1)]
    peers: list[dict[str, Any]] = []
    device_peak_memory_mb: float | None = None


Machines = Sequence[list[Results]]
"""The files of each machine."""


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
    save_picture(picture(machines), out.with_suffix(".png"))
    write_text(out, markdown(machines, out.with_suffix(".png").name))
    print(f"{out}: {sum(len(one.rows) for one in results)} rows of {len(machines)} machine(s); "
          f"picture: {out.with_suffix('.png')}")  # fmt: skip


# ---- the files -------------------------------------------------------------------------------------------------------


def read(file: Path) -> Results:
    """Read a file back; one that no report can be made of, as another version's, is refused by its name."""
    try:
        content = parse_json(file.read_text(encoding="utf-8"), str(file), "name what a benchmark's --json wrote")
        results = Results(file=file, **content)
        markdown([[results]], ""), picture([[results]])  # what is missing or damaged is told with the file's name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); name what a benchmark's --json wrote") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = explained(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: not a benchmark's JSON with rows, or another version's ({reason}); measure again "
                        "with --json") from None  # fmt: skip
    return results


def by_machine(results: Sequence[Results]) -> list[list[Results]]:
    """The files of each machine, in their order: those with the same device, number of devices, cores and versions."""
    machines: dict[str, list[Results]] = {}
    for one in results:
        machines.setdefault(json.dumps(one.machine, sort_keys=True), []).append(one)
    return list(machines.values())


# ---- Markdown --------------------------------------------------------------------------------------------------------


def markdown(machines: Machines, picture: str) -> str:
    """The report.

    Args:
        picture: the name of its file.
    """
    lines = ["# Training throughput", "", f"![Events or samples a second by model]({picture.replace(' ', '%20')})", ""]
    several = len(machines) > 1
    if several:
        lines += [f"**Figures of {len(machines)} different machines, which must not be compared with one another.** "
                  f"They differ in {_differences(machines)}.", ""]  # fmt: skip
    for number, files in enumerate(machines, 1):
        lines += _section(files, f"Machine {number}: " if several else "")
    rows = [row for files in machines for row in _rows(files)]
    return "\n".join([*lines, "## How to read it", "", NOTES + WAITS * any(row.get("streamed") for row in rows)])


def _rows(files: Sequence[Results], model: str | None = None) -> list[dict[str, Any]]:
    """The rows of one machine, of one model or of all."""
    return [row for one in files for row in one.rows if model in (None, row["model"])]


def _differences(machines: Machines) -> str:
    """What machines differ in, as ``devices (1, 8); jax (0.10.2, 0.11)``."""
    names = dict.fromkeys(name for files in machines for name in files[0].machine)
    values = {name: list(dict.fromkeys(str(files[0].machine.get(name, "-")) for files in machines)) for name in names}
    return "; ".join(f"{name} ({', '.join(each)})" for name, each in values.items() if len(each) > 1)


def _section(files: Sequence[Results], name: str) -> list[str]:
    """One machine: what it is, a table for each model, and the peers."""
    machine, rows = dict(files[0].machine), _rows(files)
    tops = [_range([row[f"ceiling_{key}"] for row in rows]) for key in ("matmul_gflop_per_s", "copy_gb_per_s")]
    lines = [
        f"## {name}{machine.pop('device')}",
        "",
        f"- {', '.join(f'{key} {each}' for key, each in machine.items())}",
    ]
    lines.append(f"- ceilings: {tops[0]} GFLOP/s in a large float32 matrix product, {tops[1]} GB/s copying (read and "
                 "written)")  # fmt: skip
    for one in files:
        peak = one.device_peak_memory_mb
        used = f"; at most {peak:,.0f} MB of the device's memory in use" if peak else ""
        lines.append(f"- {one.date}, {one.file.name}: `{one.command}`{used}")
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += ["", f"### {name}{model}", "", *_model(_rows(files, model))]
    if peers := [peer for one in files for peer in one.peers]:
        lines += ["", f"### {name}Other people's code in the same sitting", "", *_table(map(_peer_cells, peers))]
    return [*lines, ""]


def _model(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of one model on one machine."""
    differ = [name for name in SETTINGS if len({str(row.get(name)) for row in rows}) > 1]
    shared = ", ".join(f"{name} {rows[0][name]}" for name in SETTINGS if name not in differ and rows[0].get(name))
    streamed = any(row.get("streamed") for row in rows)
    table = []
    for row in rows:
        rates = [_rate(row[f"steps_per_s{end}"]) for end in ("", "_min", "_max")]
        cells = {"loss": label(row), "batch": f"{row['batch']:,}", "items": f"{row['items']:,}"}
        cells |= {name: str(row.get(name, "-")) for name in differ}
        cells |= {
            "steps/s": f"{rates[0]} ({rates[1]} to {rates[2]})",
            f"{_unit(row['model'])}/s": f"{row['events_per_s']:,.0f}",
            "of matrix product": _share(row["matmul_share"]),
            "of copy": _share(row["copy_share"]),
            "compile": f"{row['compile_s']:.1f} s",
            "peak memory": size(1e6 * row["peak_memory_mb"]),
            "exchanged a step at 8 devices": _exchanged(row.get("exchanged_per_step")),
        }
        waited = row.get("input_wait_share")
        cells |= {"waited": "-" if waited is None else _share(waited)} if streamed else {}
        table.append(cells)
    return [*([shared, ""] if shared else []), *_table(table)]


def _unit(model: str) -> str:
    return SIZES[model].unit if model in SIZES else "events"


def _peer_cells(peer: dict[str, Any]) -> dict[str, str]:
    ratios = peer["ratios"]
    return {
        "peer": peer["peer"], "model": peer["model"], "loss": peer["loss"], "batch": f"{peer['batch']:,}",
        "items": f"{peer['items']:,}", "steps/s": _rate(peer["steps_per_s"]),
        "events or samples/s": f"{peer['events_per_s']:,.0f}",
        "jaxrec's rate over it (rounds)": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    }  # fmt: skip


def _table(rows: Iterable[dict[str, str]]) -> list[str]:
    """Markdown of rows with the same columns."""
    cells = list(rows)
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _exchanged(kinds: dict[str, float] | None) -> str:
    if not kinds:
        return "-" if kinds is None else size(0)
    return f"{size(sum(kinds.values()))} ({', '.join(f'{kind} {size(count)}' for kind, count in kinds.items())})"


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


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


# ---- the picture -----------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """Events or samples a second with how far repetitions fell short of it and went beyond, and words beside it."""

    name: str
    value: float
    spread: tuple[float, float]
    text: str
    colour: str


def picture(machines: Machines) -> Any:
    """A figure of the rates: a bar for each row, a panel for each model, and a column for each machine, with a scale of
    its own, as they must not be compared."""
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    models = list(dict.fromkeys(row["model"] for files in machines for row in _rows(files)))
    bars = [[_bars(model, files) for files in machines] for model in models]
    tallest = [max(len(panel) for panel in line) for line in bars]
    heights = [count * BAR + MARGIN for count in tallest]
    figure = Figure(figsize=(WIDTH * len(machines), sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(models), len(machines), squeeze=False, height_ratios=heights)
    for model, panels, line, most in zip(models, grid, bars, tallest, strict=True):
        for axes, found in zip(panels, line, strict=True):
            _panel(axes, model, found, most)
    for files, axes in zip(machines, grid[0], strict=True):
        machine = files[0].machine
        dates = ", ".join(dict.fromkeys(one.date for one in files))
        title = f"{machine['device']}\n{machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores, "
        apart = "not to be compared with the others\n" if len(machines) > 1 else ""
        axes.set_title(f"{title}jax {machine['jax']}, {dates}\n{apart}", fontsize=10)
    return figure


def _bars(model: str, files: Sequence[Results]) -> list[Bar]:
    """The rows of a model, each followed by its peers."""
    rows, bars = _rows(files, model), []
    peers = [peer for one in files for peer in one.peers if peer["model"] == model]
    losses = list(dict.fromkeys(label(row) for row in rows))
    catalogues = len({row["items"] for row in rows}) > 1
    for row in rows:
        scale = row["events_per_s"] / row["steps_per_s"] if row["steps_per_s"] else 0.0
        name = f"{label(row)}, {row['batch']:,}" + f", {row['items']:,} items" * catalogues
        short, beyond = (scale * abs(row[f"steps_per_s_{end}"] - row["steps_per_s"]) for end in ("min", "max"))
        text = f"{_rate(row['steps_per_s'])} steps/s, {row['matmul_share']:.0%} of matrix product"
        bars.append(Bar(name + ", streamed" * bool(row.get("streamed")), row["events_per_s"], (short, beyond), text,
                        f"C{losses.index(label(row)) % 10}"))  # fmt: skip
        for peer in [peer for peer in peers if all(peer[key] == row[key] for key in NAMED)]:
            peers.remove(peer)
            ratio = f"{_rate(peer['steps_per_s'])} steps/s, jaxrec {statistics.median(peer['ratios']):.1f} times"
            bars.append(Bar(f"{peer['peer']}: {peer['loss']}", peer["events_per_s"], (0.0, 0.0), ratio, PEER_COLOUR))
    return bars


def _panel(axes: Any, model: str, bars: Sequence[Bar], most: int) -> None:
    """A panel of one model on one machine; ``most`` bars has the fullest panel beside it, so that all are as wide."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not bars:
        return axes.set_axis_off()
    axes.set_title(model, loc="left", fontsize=10, fontweight="bold")
    spread = [[bar.spread[end] for bar in bars] for end in (0, 1)]
    drawn = axes.barh(range(len(bars)), [bar.value for bar in bars], xerr=spread, color=[bar.colour for bar in bars],
                      ecolor="0.3", capsize=2, height=0.75)  # fmt: skip
    axes.bar_label(drawn, [bar.text for bar in bars], padding=5, fontsize=8)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    longest = max(bar.value + bar.spread[1] for bar in bars) or 1.0
    axes.set(ylim=(most - 0.5, -0.5), xlim=(0, 1.6 * longest))  # room for the words
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(f"{_unit(model)}/s", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return None
