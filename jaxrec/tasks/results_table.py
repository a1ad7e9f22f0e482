"""python -m jaxrec.plots table: the kept evaluations of several runs, side by side."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec.cli.command import say
from jaxrec.data.dataset import SPLITS
from jaxrec.errors import UserError, nearest
from jaxrec.run import Run, open_run, write_text
from jaxrec.tasks.report import Result, figures, in_order, text_table
from jaxrec.tasks.results import file_of, read_results
from jaxrec.training.checkpoint import Checkpoints

DESCRIPTION = """\
Compare what python -m jaxrec.evaluate has measured of several runs on one split: a line for each run.

  python -m jaxrec.plots table checkpoints/a checkpoints/b --metrics recall@20 mrr@20 --out results.csv

The runs must have been trained on the same data set. Where one was evaluated in another way than the first (another
protocol, tie rule or limit), or trained on since, a note says so. "-": not measured.
"""
NOT_COMPARED = ("data", "checkpoint", "step")  # of questions: refused, or a run's own


def add_table(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, checkpoints/...")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which evaluation (default: test)")
    parser.add_argument("--metrics", nargs="+", metavar="M", help="which, in this order (default: all)")
    parser.add_argument("--baselines", action="store_true", help="a line for each baseline measured beside a run, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here as well: .csv or .json")


def show_table(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Print and write the table; ``names`` are those of ``options.runs``."""
    if options.out is not None and options.out.suffix not in (".csv", ".json"):
        raise UserError(f"--out {options.out}: ends in {options.out.suffix or 'nothing'}; name a .csv or .json")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise UserError(f"--out {options.out}: no directory {options.out.parent}; make it or choose another place")
    runs = [open_run(path) for path in options.runs]
    for run in runs[1:]:
        if run.manifest["content_hash"] != runs[0].manifest["content_hash"]:
            raise UserError(f"{runs[0].path} and {run.path}: not comparable, they were evaluated on different "
                            "data sets; make a table of each")  # fmt: skip
    results = [_result_of(run, options.split) for run in runs]
    rows: dict[str, Result] = {}
    for name, result in zip(names, results, strict=True):
        rows[name] = figures(result)
        for baseline, values in result.get("baselines", {}).items() if options.baselines else ():
            rows[f"{name}: {baseline}"] = figures(values)
    metrics = _chosen(rows, options.metrics)
    for note in _differences(runs, results):
        say("note", note)
    if options.out is not None:
        write_text(options.out, (_csv if options.out.suffix == ".csv" else _json)(rows, metrics))
    print(_json(rows, metrics) if options.json else "\n".join(text_table(rows, metrics)) + "\n", end="")
    if options.out is not None and not options.json:
        print(f"wrote {options.out}")


def _result_of(run: Run, split: str) -> Result:
    """The newest evaluation of a run on a split."""
    found = read_results(file_of(run.path, split))
    if not found:
        words = "" if split == "test" else f" --split {split}"
        raise UserError(f"{run.path}: not evaluated on {split}; do so with python -m jaxrec.evaluate --run {run.path}"
                        f"{words}")  # fmt: skip
    return found[0]


def _chosen(rows: dict[str, Result], wanted: Sequence[str] | None) -> list[str]:
    """The columns of the table."""
    known = in_order([name for row in rows.values() for name in row])
    for name in wanted or ():
        if name not in known:
            raise UserError(f"--metrics: no '{name}' in these evaluations{nearest(name, known)}; they have "
                            f"{', '.join(known)}")  # fmt: skip
    return known if wanted is None else list(dict.fromkeys(wanted))


def _differences(runs: Sequence[Run], results: Sequence[Result]) -> list[str]:
    """What a reader of the table has to know: questions that differ from the first run's, and runs trained on since."""
    notes = []
    first: dict[str, Any] = results[0].get("question", {})
    for run, result in zip(runs, results, strict=True):
        own: dict[str, Any] = result.get("question", {})
        for name in first.keys() & own.keys() - set(NOT_COMPARED):
            if own[name] != first[name]:
                notes.append(f"{run.path}: evaluated with {name} {own[name]}, {runs[0].path} with {first[name]}")
        step = Checkpoints(run.path).last(own["checkpoint"]) if own else -1
        if own and step != own["step"]:
            notes.append(f"{run.path}: evaluated at step {own['step']}, and now at step {step}; evaluate it again")
    return notes


def _csv(rows: dict[str, Result], metrics: Sequence[str]) -> str:
    """All digits; an empty cell for what was not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *metrics])
    writer.writerows([title, *(row.get(name, "") for name in metrics)] for title, row in rows.items())
    return text.getvalue()


def _json(rows: dict[str, Result], metrics: Sequence[str]) -> str:
    """A list of the lines; null for what was not measured."""
    lines = [{"run": title, **{name: row.get(name) for name in metrics}} for title, row in rows.items()]
    return json.dumps(lines, indent=2) + "\n"
