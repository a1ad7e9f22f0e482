"""What ``evaluate`` leaves in a run: ``eval-<split>.json``, to which every further evaluation adds; and tables of it.

    {"split": "test", ..., "recall@20": 0.53,   the newest answer, as it was printed
     "question": {"data": ..., "step": ...},    what it answers
     "others": [...]}                           answers to other questions, the newest first, each as the above

An answer to the same question is merged into the one that is there: metrics at other cut-offs, other baselines and
other groups stand beside the first. Another checkpoint, limit, or number of folds is another question, whose answer
stands apart and is never mixed with this one.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxrec.cli.command import say
from jaxrec.data.dataset import SPLITS
from jaxrec.errors import UserError, nearest
from jaxrec.run import Run, check_comparable, check_out, open_run, write_text
from jaxrec.tasks.report import Result, figures, in_order, text_table
from jaxrec.training.checkpoint import Checkpoints

TABLE = """\
Compare what python -m jaxrec.evaluate has measured of several runs on one split: a line for each run.

  python -m jaxrec.plots table checkpoints/a checkpoints/b --metrics recall@20 mrr@20 --out results.csv

The runs must have been trained on the same data set. Where one was evaluated in another way than the first (another
protocol, tie rule or limit), or trained on since, a note says so. "-": not measured.
"""


def file_of(run: Path, split: str) -> Path:
    """Where the answers of a split are kept."""
    return run / f"eval-{split}.json"


def read_results(file: Path) -> list[Result]:
    """The answers that a run keeps of a split, the newest first; none where there is no file, or a damaged one."""
    try:
        first = json.loads(file.read_text(encoding="utf-8"))
        found = [first, *first.pop("others", [])]
        if not all("split" in one for one in found):
            raise ValueError("holds no results")
        return found
    except (FileNotFoundError, IsADirectoryError):
        return []
    except (OSError, ValueError, AttributeError, TypeError) as error:
        say("note", f"{file}: damaged ({type(error).__name__}), so nothing of it is kept")
        return []


def keep_result(run: Path, result: Result) -> Result:
    """Write a result, with its ``question``, into the run, beside or into what is there; returns what the file says."""
    file, merged, others = file_of(run, result["split"]), result, []
    asked = json.loads(json.dumps(result["question"]))  # tuples are lists in the file
    for kept in read_results(file):
        if kept.get("question") == asked:
            merged = merge(kept, merged)
        else:
            others.append(kept)
    whole = {**merged, "others": others} if others else merged
    write_text(file, json.dumps(whole, indent=2) + "\n")
    return whole


def kept_or_said(what: Path, write: Callable[[], Any]) -> bool:
    """Write something into a run that may be read-only; where it cannot, a line says so, and False is returned."""
    try:
        write()
    except OSError as error:
        say("note", f"{what}: could not be kept ({error.strerror or error})")
        return False
    return True


def merge(old: Result, new: Result) -> Result:
    """Both, the new one where they differ; tables within them likewise.

    >>> merge({"recall@5": 0.1, "baselines": {"pop": {"recall@5": 0.2}}}, {"baselines": {"bias": {"recall@5": 0.3}}})
    {'recall@5': 0.1, 'baselines': {'pop': {'recall@5': 0.2}, 'bias': {'recall@5': 0.3}}}
    """
    merged = {**old, **new}
    for name in old.keys() & new.keys() - {"question"}:
        if isinstance(old[name], dict) and isinstance(new[name], dict):
            merged[name] = merge(old[name], new[name])
    return merged


# ---- several runs ----------------------------------------------------------------------------------------------------


def add_table(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m jaxrec.plots table``."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, checkpoints/...")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which evaluation (default: test)")
    parser.add_argument("--metrics", nargs="+", metavar="M", help="which, in this order (default: all)")
    parser.add_argument("--baselines", action="store_true", help="a line for each baseline measured beside a run, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here as well: .csv or .json")


def show_table(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Print and write the table; ``names`` are those of ``options.runs``."""
    if options.out is not None:
        check_out(options.out, (".csv", ".json"))
    runs = [open_run(path) for path in options.runs]
    check_comparable(runs)
    results = [_result_of(run, options.split) for run in runs]
    rows: dict[str, Result] = {}
    for name, result in zip(names, results, strict=True):
        rows[name] = figures(result)
        for baseline, values in result.get("baselines", {}).items() if options.baselines else ():
            rows[f"{name}: {baseline}"] = figures(values)
    metrics = in_order([name for row in rows.values() for name in row])
    for name in options.metrics or ():
        if name not in metrics:
            raise UserError(f"--metrics: no '{name}' in these evaluations{nearest(name, metrics)}; they have "
                            f"{', '.join(metrics)}")  # fmt: skip
    metrics = metrics if options.metrics is None else list(dict.fromkeys(options.metrics))
    for run, result in zip(runs, results, strict=True):
        _tell_differences(run, result.get("question", {}), runs[0], results[0].get("question", {}))
    lines = [{"run": title} | {name: row.get(name) for name in metrics} for title, row in rows.items()]
    text = json.dumps(lines, indent=2) + "\n"
    print(text if options.json else "\n".join(text_table(rows, metrics)) + "\n", end="")
    if options.out is not None:
        table = io.StringIO()
        writer = csv.DictWriter(table, ["run", *metrics], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)  # None is an empty cell
        write_text(options.out, table.getvalue() if options.out.suffix == ".csv" else text)
    if options.out is not None and not options.json:
        print(f"wrote {options.out}")


def _result_of(run: Run, split: str) -> Result:
    """The newest evaluation of a run on a split."""
    found = read_results(file_of(run.path, split))
    if not found:
        raise UserError(f"{run.path}: not evaluated on {split}; do so with python -m jaxrec.evaluate --run {run.path} "
                        f"--split {split}")  # fmt: skip
    return found[0]


def _tell_differences(run: Run, own: dict[str, Any], first: Run, other: dict[str, Any]) -> None:
    """Say what is not comparable in the questions of two runs, and that a run was trained on since."""
    for name in other.keys() & own.keys() - {"data", "checkpoint", "step"}:
        if own[name] != other[name]:
            say("note", f"{run.path}: evaluated with {name} {own[name]}, {first.path} with {other[name]}")
    step = Checkpoints(run.path).last(own["checkpoint"]) if own else None
    if own and step != own["step"]:
        say("note", f"{run.path}: evaluated at step {own['step']}, and now at step {step}; evaluate it again")
