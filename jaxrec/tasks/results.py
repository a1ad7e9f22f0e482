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
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv

from jaxrec.cli.command import say
from jaxrec.data.dataset import SPLITS
from jaxrec.errors import UserError, nearest
from jaxrec.run import check_comparable, check_out, open_run, write_text
from jaxrec.tasks.report import Result, figures, text_table
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
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here as well: .csv")


def show_table(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Print and write the table; ``names`` are those of ``options.runs``."""
    if options.out is not None:
        check_out(options.out, (".csv",))
    runs, rows, first = [open_run(path) for path in options.runs], dict[str, Result](), dict[str, Any]()
    check_comparable(runs)
    for run, name in zip(runs, names, strict=True):
        result = next(iter(read_results(file_of(run.path, options.split))), None)
        if result is None:
            raise UserError(f"{run.path}: not evaluated on {options.split}; do so with python -m jaxrec.evaluate --run "
                            f"{run.path} --split {options.split}")  # fmt: skip
        rows[name] = figures(result)
        if options.baselines:
            rows |= {f"{name}: {one}": figures(values) for one, values in result.get("baselines", {}).items()}
        question = result.get("question", {})
        first = first or question
        for part in question.keys() & first.keys() - {"data", "checkpoint", "step"}:
            if question[part] != first[part]:
                say("note", f"{run.path}: evaluated with {part} {question[part]}, {runs[0].path} with {first[part]}")
        if question and (step := Checkpoints(run.path).last(question["checkpoint"])) != question["step"]:
            say("note", f"{run.path}: evaluated at step {question['step']}, now at step {step}; evaluate it again")
    every = dict.fromkeys(metric for row in rows.values() for metric in row)
    metrics = list(dict.fromkeys(options.metrics or every))
    for name in (name for name in metrics if name not in every):
        raise UserError(f"--metrics: no '{name}' in these evaluations{nearest(name, every)}; they have "
                        f"{', '.join(every)}")  # fmt: skip
    print("\n".join(text_table(rows, metrics)))
    if options.out is not None:
        lines = [{"run": title} | {name: row.get(name) for name in metrics} for title, row in rows.items()]
        pc_csv.write_csv(pa.Table.from_pylist(lines), options.out)
        print(f"wrote {options.out}")
