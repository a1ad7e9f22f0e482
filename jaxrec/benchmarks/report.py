"""The throughput report: Markdown, with a picture beside it, of the benchmark's JSON files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.benchmarks.sizes import SIZES
from jaxrec.benchmarks.sweep import label
from jaxrec.cli.command import Parser
from jaxrec.errors import UserError
from jaxrec.plots.pictures import check_picture, legible, save_picture
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


class Results(NamedTuple):
    """A file that ``scripts/benchmark.py --json`` wrote.

    Attributes:
        machine: as ``runtime.machine`` gives it.
        rows: as ``sweep.measure`` gives them.
        peers: other people's code, measured in the same sitting; ``ratios`` are jaxrec's rate over theirs, by round.
        device_peak_mb: most memory in use on the accelerator, over all rows; None where it does not say.
    """

    file: str
    machine: dict[str, Any]
    date: str
    command: str
    rows: list[dict[str, Any]]
    peers: list[dict[str, Any]]
    device_peak_mb: float | None


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
    print(f"{out}: {sum(len(one.rows) for one in results)} rows of {_count(len(machines), 'machine')}; "
          f"picture: {out.with_suffix('.png')}")  # fmt: skip


# ---- the files -------------------------------------------------------------------------------------------------------


def read(file: Path) -> Results:
    """Read a file back; one that no report can be made of, as another version's, is refused by its name."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name what a benchmark's --json wrote") from None
    except (ValueError, RecursionError) as error:
        reason = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not UTF-8 text"
        raise UserError(f"{file}: not JSON ({reason}); name what a benchmark's --json wrote") from None
    try:
        results = Results(str(file), content["machine"], content["date"], content["command"], content.get("rows", []),
                          content.get("peers", []), content.get("device_peak_memory_mb"))  # fmt: skip
        if results.rows:  # a report of this file alone, for what is missing or damaged to be told with its name
            markdown([[results]], ""), picture([[results]])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{file}: not a benchmark's JSON, or another version's ({reason}); measure again with "
                        "--json") from None  # fmt: skip
    if not results.rows:
        raise UserError(f"{file}: nothing to report: it has no rows; benchmark a model, or all "
                        "(softmax is not part of the report)")  # fmt: skip
    return results


def by_machine(results: Sequence[Results]) -> list[list[Results]]:
    """The files of each machine, in their order: those with the same device, number of devices, cores and versions."""
    machines: dict[str, list[Results]] = {}
    for one in results:
        machines.setdefault(json.dumps(one.machine, sort_keys=True), []).append(one)
    return list(machines.values())


def _differences(machines: Sequence[list[Results]]) -> str:
    """What machines differ in, as ``devices (1, 8); jax (0.10.2, 0.11)``."""
    names = dict.fromkeys(name for files in machines for name in files[0].machine)
    values = {name: list(dict.fromkeys(str(files[0].machine.get(name, "-")) for files in machines)) for name in names}
    return "; ".join(f"{name} ({', '.join(found)})" for name, found in values.items() if len(found) > 1)


def _letter(number: int) -> str:
    """Of a machine: A, B and so on."""
    return f"{chr(ord('A') + number % 26)}{number // 26 or ''}"


def _unit(model: str) -> str:
    return SIZES[model].unit if model in SIZES else "events"


# ---- Markdown --------------------------------------------------------------------------------------------------------


def markdown(machines: Sequence[list[Results]], picture: str) -> str:
    """The report.

    Args:
        machines: the files of each.
        picture: the name of its file.
    """
    lines = ["# Training throughput", "", f"![Events or samples a second by model]({picture.replace(' ', '%20')})", ""]
    if len(machines) > 1:
        lines += [f"**Figures of {len(machines)} different machines, which must not be compared with one another.** "
                  f"They differ in {_differences(machines)}.", ""]  # fmt: skip
    for number, files in enumerate(machines):
        lines += _section(files, f"Machine {_letter(number)}: " if len(machines) > 1 else "")
    rows = [row for files in machines for one in files for row in one.rows]
    lines += ["## How to read it", "", NOTES + (WAITS if any(row.get("streamed") for row in rows) else "")]
    return "\n".join(lines)


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
    table = []
    for number, row in numbered:
        cells = {"file": f"[{number}]"} if several else {}
        cells |= {"loss": label(row), "batch": f"{row['batch']:,}", "items": f"{row['items']:,}"}
        cells |= {name: str(row.get(name, "-")) for name in SETTINGS if name in differ}
        slowest, fastest = _rate(row["steps_per_s_min"]), _rate(row["steps_per_s_max"])
        cells |= {
            "steps/s": f"{_rate(row['steps_per_s'])} ({slowest} to {fastest})",
            f"{_unit(model)}/s": f"{row['events_per_s']:,.0f}",
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


# ---- the picture -----------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """Events or samples a second with how far repetitions fell short of it and went beyond, and words beside it."""

    name: str
    value: float
    spread: tuple[float, float]
    text: str
    colour: str


def picture(machines: Sequence[list[Results]]) -> Any:
    """A figure of the rates: a bar for each row, a panel for each model, a column for each machine.

    Args:
        machines: the files of each. Their columns have scales of their own, as they must not be compared.
    """
    from matplotlib.figure import Figure  # its own canvas: no display, no global state

    models = list(dict.fromkeys(row["model"] for files in machines for one in files for row in one.rows))
    bars = [[_bars(model, files) for files in machines] for model in models]
    tallest = [max(len(panel) for panel in line) for line in bars]
    heights = [count * BAR + MARGIN for count in tallest]
    figure = Figure(figsize=(WIDTH * len(machines), sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(models), len(machines), squeeze=False, height_ratios=heights)
    for model, panels, line, most in zip(models, grid, bars, tallest, strict=True):
        for axes, found in zip(panels, line, strict=True):
            _panel(axes, model, found, most)
    for number, (files, axes) in enumerate(zip(machines, grid[0], strict=True)):
        machine = files[0].machine
        what = f"{machine['device']}\n{machine['platform']} x {machine['devices']}, {machine['cpu_cores']} cores, "
        what += f"jax {machine['jax']}, {', '.join(dict.fromkeys(one.date for one in files))}"
        if len(machines) > 1:
            what = f"{_letter(number)}: {what} (not to be compared)"
        legible(f"{what}\n", what.encode("ascii", "replace").decode()).on(axes.set_title("", fontsize=10))
    return figure


def _bars(model: str, files: Sequence[Results]) -> list[Bar]:
    """The rows of a model, each followed by its peers."""
    rows = [row for one in files for row in one.rows if row["model"] == model]
    peers = [peer for one in files for peer in one.peers if peer["model"] == model]
    losses, found = list(dict.fromkeys(label(row) for row in rows)), []
    catalogues = len({row["items"] for row in rows}) > 1
    for row in rows:
        scale = row["events_per_s"] / row["steps_per_s"] if row["steps_per_s"] else 0.0
        name = f"{label(row)}, {row['batch']:,}" + (f", {row['items']:,} items" if catalogues else "")
        name += ", streamed" if row.get("streamed") else ""
        short, beyond = (scale * abs(row[f"steps_per_s_{end}"] - row["steps_per_s"]) for end in ("min", "max"))
        text = f"{_short(row['steps_per_s'])} steps/s, {row['matmul_share']:.0%} of matrix product"
        colour = f"C{losses.index(label(row)) % 10}"
        found.append(Bar(name, row["events_per_s"], (short, beyond), text, colour))
        found += [_peer(peer) for peer in peers if all(peer[key] == row[key] for key in NAMED)]
        peers = [peer for peer in peers if any(peer[key] != row[key] for key in NAMED)]
    return found + [_peer(peer) for peer in peers]


def _peer(peer: dict[str, Any]) -> Bar:
    ratio = f", jaxrec {statistics.median(peer['ratios']):.1f} times" if peer["ratios"] else ""
    name = f"{peer['peer']}: {peer['loss']}, {peer['batch']:,}"
    return Bar(name, peer["events_per_s"], (0.0, 0.0), f"{_short(peer['steps_per_s'])} steps/s{ratio}", PEER_COLOUR)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _panel(axes: Any, model: str, bars: Sequence[Bar], most: int) -> None:
    """A panel of one model on one machine.

    Args:
        most: bars of the fullest panel beside it, so that bars have the same width in all.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not bars:
        return axes.set_axis_off()
    axes.set_title(model, loc="left", fontsize=10, fontweight="bold")
    places = range(len(bars))
    values = [bar.value for bar in bars]
    spread = [[bar.spread[end] for bar in bars] for end in (0, 1)]
    axes.barh(places, values, xerr=spread, color=[bar.colour for bar in bars], ecolor="0.3", capsize=2, height=0.75)
    for place, bar in zip(places, bars, strict=True):
        text = axes.annotate(bar.text, (bar.value + bar.spread[1], place), (5, 0), textcoords="offset points",
                             va="center", fontsize=8)  # fmt: skip
        text.set_parse_math(False)
    names = [legible(bar.name, bar.name.encode("ascii", "replace").decode()) for bar in bars]
    axes.set_yticks(places, [name.text for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_parse_math(False)
        tick.set_fontfamily(name.family)
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
