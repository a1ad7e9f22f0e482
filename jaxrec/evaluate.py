"""python -m jaxrec.evaluate: the metrics of a run on a split, over the full catalogue."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec import runtime
from jaxrec.cli import Parser, command, progress
from jaxrec.data.dataset import SPLITS, Sessions, open_dataset
from jaxrec.data.markov import optimum_metrics
from jaxrec.errors import UserError
from jaxrec.evaluation import Evaluator, cut_validation
from jaxrec.rundir import Run, load_parameters, open_run, write_text


def evaluate(run: Run, split: str, ks: Sequence[int], data: str | None = None, coverage: bool = True) -> dict[str, Any]:
    """Metrics of a run on a split, as they are written to ``eval-<split>.json``.

    Args:
        ks: cut-offs, each at most the number of items.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.

    Raises:
        UserError: the data set is not the one that the run was trained on, the split is empty, or k is too large.
    """
    if max(ks) > run.n_items:
        raise UserError(f"--k {max(ks)}: larger than the catalogue of {run.n_items} items; choose a smaller one")
    sessions = _sessions(run, split, data or run.config.data.path)
    model, parameters, which = load_parameters(run)
    begin = time.perf_counter()
    evaluator = Evaluator(model, sessions, run.n_items, run.config.evaluation)
    with progress(f"evaluating {split}", evaluator.blocks) as update:
        metrics = evaluator.metrics(parameters["params"], parameters["tables"], ks, coverage, update)
    return {
        "split": split,
        "targets": evaluator.targets,
        "items": run.n_items,
        "checkpoint": which,
        "ties": run.config.evaluation.ties,
        "seconds": round(time.perf_counter() - begin, 3),
        **metrics,
        **({"optimum": best} if (best := _optimum(run, split, ks)) else {}),
    }


def _sessions(run: Run, split: str, path: str) -> Sessions:
    if not Path(path).exists():
        raise UserError(f"{path}: no data set here; if it has moved since training, name its place with --data")
    dataset = open_dataset(path)
    if dataset.manifest["content_hash"] != run.manifest["content_hash"]:
        raise UserError(f"{path}: not the data set that {run.path} was trained on; name that one with --data")
    dataset.verify()
    if split == "test":
        sessions = dataset.split("test")
    else:
        fraction = run.config.data.validation_fraction
        training, validation = cut_validation(dataset.split("train"), dataset.split("validation"), fraction)
        sessions = training if split == "train" else validation
    if not sessions.counts["targets"]:
        raise UserError(f"{path}: the {split} split is empty; choose another --split")
    return sessions


def _optimum(run: Run, split: str, ks: Sequence[int]) -> dict[str, float]:
    """What the best ranker reaches, known for the test split of synthetic data."""
    return optimum_metrics(run.manifest, ks) if split == "test" else {}


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.evaluate``."""
    parser = Parser(
        prog="python -m jaxrec.evaluate",
        description="Rank the next item of every click of a split among all items, and write eval-<split>.json into "
        "the run. The checkpoint is the best by validation, or the latest where there was no validation.",
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which sessions (default: test)")
    parser.add_argument("--k", type=_positive, nargs="+", metavar="K", help="cut-offs (default: the configuration's)")
    parser.add_argument("--data", metavar="DIR", help="dataset directory, where it has moved since training")
    parser.add_argument("--no-coverage", action="store_true", help="leave coverage out, which is quicker")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of a table")
    options = parser.parse_args(argv)
    runtime.start()
    run = open_run(options.run)
    ks = sorted(set(options.k or run.config.evaluation.k))
    result = evaluate(run, options.split, ks, options.data, not options.no_coverage)
    text = json.dumps(result, indent=2)
    file = Path(options.run) / f"eval-{options.split}.json"
    write_text(file, text + "\n")
    print(text if options.json else _table(result, ks, file))


def _table(result: dict[str, Any], ks: Sequence[int], file: Path) -> str:
    names = [name for name in ("recall", "mrr", "ndcg", "hit_rate", "coverage") if f"{name}@{ks[0]}" in result]
    head = f"{result['split']}: {result['targets']:,} targets over {result['items']:,} items, {result['checkpoint']} "
    lines = [head + f"checkpoint, {result['ties']} ranks, {result['seconds']:.1f} s"]
    lines.append(f"{'':10}" + "".join(f"{'@' + str(k):>9}" for k in ks))
    lines += [f"{name:10}" + "".join(f"{result[f'{name}@{k}']:9.4f}" for k in ks) for name in names]
    for name in ("recall", "mrr"):
        best = result.get("optimum", {})
        row = [f"{result[f'{name}@{k}'] / best[f'{name}@{k}']:9.1%}" for k in ks if f"{name}@{k}" in best]
        if row:
            lines.append(f"{'of optimum':10}" + "".join(row) + f"   ({name})")
    return "\n".join([*lines, f"written to {file}"])


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"--k {text}: expected a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(command(main))
