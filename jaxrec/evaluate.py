"""python -m jaxrec.evaluate: the metrics of a run, and of baselines, on a split, over the full catalogue."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import baselines
from jaxrec import config as configuration
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES
from jaxrec.cli import runtime
from jaxrec.cli.callable import make_callable
from jaxrec.cli.command import Parser, command, progress, say
from jaxrec.cli.options import parse_baselines, positive, read_folds, read_fraction
from jaxrec.config import choices
from jaxrec.data.dataset import SPLITS, Dataset, open_dataset, open_sessions
from jaxrec.data.rows import RowsDataset
from jaxrec.data.splits import open_split
from jaxrec.errors import UserError, nearest, shown
from jaxrec.metrics.chance import random_ranking
from jaxrec.personas.folds import cross_validate
from jaxrec.plots.clicks import reliability
from jaxrec.run import Run, open_run, open_run_data, write_text
from jaxrec.sources.synthetic import optimum_metrics
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks.evaluate import (
    ROW_BASELINES,
    beside,
    evaluate_row_baselines,
    evaluate_rows,
    metrics_table,
    row_table,
)
from jaxrec.tasks.cutoffs import default_ks, run_ks
from jaxrec.tasks.events.evaluate import EVENT_BASELINES, evaluate_events, event_table
from jaxrec.tasks.results import file_of, keep_result, kept_or_said, question
from jaxrec.tasks.retrieval.evaluate import evaluate_retrieval, results_files, retrieval_table
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions import baselines as measuring
from jaxrec.tasks.sessions.judge import Evaluator

DEFAULT_FOLDS = 10


def evaluate(
    run: str | Path | Run,
    split: str = "test",
    ks: Sequence[int] | None = None,
    data: str | Path | None = None,
    coverage: bool = True,
    compared: Sequence[Any] = (),
) -> dict[str, Any]:
    """Metrics of a run of any kind on a split, as they are written to ``eval-<split>.json``.

    Args:
        run: the run directory.
        ks: cut-offs, each at most the number of items; None: those of the run's configuration.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
        coverage: of runs of sessions, whether to add it.
        compared: baselines to measure beside it, fitted on what the run was trained on: of sessions as
            ``baselines.parse_all`` gives them, otherwise their names.
    """
    run = open_run(run)
    ks = run_ks(run) if ks is None else ks
    if split not in SPLITS:
        raise UserError(f"split: found {shown(split)}{nearest(str(split), SPLITS)}; choose {', '.join(SPLITS)}")
    if run.config.model.task == "events":
        return evaluate_events(run, split, ks, data, compared)
    if run.kind == "rows":
        if run.config.model.task == "retrieval":
            return evaluate_retrieval(run, split, ks, data, compared, folds=0)[0]
        return evaluate_rows(run, split, ks, data, compared)[0]
    _check_k(ks, run.n_items)
    dataset = open_run_data(run, data or run.config.data.path)
    assert isinstance(dataset, Dataset)
    parts = open_split(dataset, split, run.config.data.validation_fraction)
    _, model, parameters, which = load(run)
    begin = time.perf_counter()
    config = run.config.evaluation
    evaluator = Evaluator(model, parts.validation, run.n_items, config)
    with progress(f"evaluate: {split}", evaluator.blocks) as update:
        metrics = evaluator.metrics(parameters["params"], parameters["tables"], ks, coverage, update)
    result = {
        "split": split,
        "targets": evaluator.targets,
        "items": run.n_items,
        "checkpoint": which,
        "ties": config.ties,
        "seconds": round(time.perf_counter() - begin, 3),
        **metrics,
        "chance": random_ranking(np.array([run.n_items]), ks),
        **_optimum(run.manifest, split, ks),
        "question": question(run, split, which),
    }
    if compared:
        result["fitted_on"] = parts.train.counts
        result["baselines"] = measuring.measure(compared, parts, run.n_items, ks, config, coverage)
    return result


def evaluate_baselines(
    dataset: Dataset,
    split: str,
    ks: Sequence[int],
    compared: Sequence[baselines.Choice],
    fraction: float = 0.0,
    coverage: bool = True,
) -> dict[str, Any]:
    """Metrics of baselines without a run; see ``evaluate``.

    Args:
        fraction: share of the training targets, the most recent, that is the validation split and not fitted on.
    """
    _check_k(ks, dataset.n_items)
    if fraction and dataset.manifest["counts"]["validation"]["sessions"]:
        raise UserError(f"--validation-fraction: {dataset.path} brings a validation split; leave it out")
    hint = " or give --validation-fraction" if split == "validation" else ""
    parts, config = open_split(dataset, split, fraction, hint), Evaluation()
    return {
        "split": split,
        "targets": parts.validation.counts["targets"],
        "items": dataset.n_items,
        "ties": config.ties,
        "fitted_on": parts.train.counts,
        "chance": random_ranking(np.array([dataset.n_items]), ks),
        "baselines": measuring.measure(compared, parts, dataset.n_items, ks, config, coverage),
        **_optimum(dataset.manifest, split, ks),
    }


def _check_k(ks: Sequence[int], n_items: int) -> None:
    if max(ks) > n_items:
        raise UserError(f"--k {max(ks)}: larger than the catalogue of {n_items} items; choose a smaller one")


def _optimum(manifest: dict[str, Any], split: str, ks: Sequence[int]) -> dict[str, Any]:
    """What the best ranker reaches, known for the test split of synthetic data."""
    best = optimum_metrics(manifest, ks) if split == "test" else {}
    return {"optimum": best} if best else {}


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.evaluate``."""
    options = _parser().parse_args(argv)
    _check(options)
    rows = _kind(options) == "rows"
    for option, given, kind in (
        ("--groups", options.groups is not None, "rows"),
        ("--protocol", options.protocol is not None, "rows"),
        ("--no-coverage", options.no_coverage, "sessions"),
        ("--folds", options.folds is not None, "rows"),
        ("--sessions", options.sessions is not None, "sessions"),
    ):
        if given and rows != (kind == "rows"):
            raise UserError(f"{option}: belongs to {kind}, and {options.run or options.data} has none; leave it out")
    runtime.start()
    ks = None if options.k is None else sorted(set(options.k))
    if rows:
        _main_rows(options, ks)
    elif options.run is None:
        _main_baselines(options, ks)
    else:
        _main_run(options, ks)


def _kind(options: Namespace) -> str:
    """Of the run, or of the data set where there is none: ``sessions`` or ``rows``."""
    if options.run is not None:
        return open_run(options.run).kind
    return "rows" if isinstance(open_dataset(options.data), RowsDataset) else "sessions"


def _main_run(options: Namespace, ks: list[int] | None) -> None:
    run = open_run(options.run)
    if run.config.model.task == "events":
        _main_events(options, run, ks or run_ks(run))
        return
    if options.sessions is not None:
        raise UserError(f"--sessions: belongs to runs of merrec; leave it out for {options.run}")
    compared = [] if options.baselines is None else baselines.parse_all(options.baselines)
    ks = ks or run_ks(run)
    result = evaluate(run, options.split, ks, options.data, not options.no_coverage, compared)
    _finish_run(options, run, result, lambda files: _table(result, ks, files))


def _main_events(options: Namespace, run: Run, ks: list[int]) -> None:
    if options.no_coverage:
        raise UserError(
            f"--no-coverage: {options.run} is a run of merrec, whose coverage is not measured; leave it out"
        )
    compared = [] if options.baselines is None else parse_baselines(options.baselines, EVENT_BASELINES, "beside merrec")
    result = evaluate_events(run, options.split, ks, options.data, compared, options.sessions)
    _finish_run(options, run, result, lambda files: event_table(result, ks, files))


def _main_baselines(options: Namespace, ks: list[int] | None) -> None:
    compared = baselines.parse_all(options.baselines)
    fraction, coverage = options.validation_fraction or 0.0, not options.no_coverage
    dataset = open_sessions(options.data)
    ks = ks or default_ks(dataset.n_items)
    result = evaluate_baselines(dataset, options.split, ks, compared, fraction, coverage)
    files = _out(options)
    _finish(options, result, files, lambda: _baselines_table(result, ks, files))


def _main_rows(options: Namespace, ks: list[int] | None) -> None:
    if options.run is None:
        compared = parse_baselines(options.baselines, ROW_BASELINES, "of rows")
        dataset = open_dataset(options.data)
        assert isinstance(dataset, RowsDataset)
        data = {"path": options.data, "protocol": options.protocol or "rows",
                "validation_fraction": options.validation_fraction or 0.0}  # fmt: skip
        data |= {"test_fraction": 0.1} if options.protocol == "paper" else {}
        config = configuration.parse({"data": data, "model": {"name": "autoint"}, "loss": {"name": "binary"},
                                      "training": {"metric": "auc"}})  # fmt: skip
        ks, files = ks or [10], _out(options)
        result = evaluate_row_baselines(dataset, config, options.split, ks, compared)
        head = f"{result['split']}: {result['rows']:,} rows, fitted on {result['fitted_on']:,}"
        text = [head, *metrics_table(beside(result), ks), *(f"written to {file}" for file in files)]
        _finish(options, result, files, lambda: "\n".join(text))
        return
    if options.protocol is not None:
        raise UserError("--protocol: a run brings its own; leave this out")
    run = open_run(options.run)
    ks = ks or run_ks(run)
    if run.config.model.task == "retrieval":
        _main_towers(options, run, ks)
        return
    if options.folds is not None:
        raise UserError(f"--folds: belongs to runs of two_tower on data with personas; leave it out for {options.run}")
    compared = [] if options.baselines is None else parse_baselines(options.baselines, ROW_BASELINES, "of rows")
    result, reliable = evaluate_rows(run, options.split, ks, options.data, compared, options.groups)
    picture = run.path / f"eval-{options.split}-reliability.png"
    _finish_run(options, run, result, lambda files: row_table(result, ks, files), [
        (picture, lambda: reliability(reliable, picture, f"{run.path.name}, {options.split}"))
    ])  # fmt: skip


def _main_towers(options: Namespace, run: Run, ks: list[int]) -> None:
    compared = (
        []
        if options.baselines is None
        else (parse_baselines(options.baselines, RETRIEVAL_BASELINES, "that ranks items for users"))
    )
    if options.folds is not None and ("personas" not in run.manifest or run.config.data.protocol != "in_sample"):
        raise UserError("--folds: cross-validates runs of protocol in_sample on data with personas; leave it out")
    folds = DEFAULT_FOLDS if options.folds is None else options.folds
    derived = run.manifest.get("personas", {}).get("attributes") == "derived"
    if options.folds is None and derived and "embeddings.npy" not in run.manifest["files"]:
        say("note", "the data has no embeddings, so nothing is cross-validated by review")
        folds = 0
    result, found = evaluate_retrieval(
        run, options.split, ks, options.data, compared, options.groups, folds, cross_validate
    )
    pages = results_files(run, found, ks[0]) if options.split == "test" else []
    _finish_run(options, run, result, lambda files: retrieval_table(result, ks, files), pages)


def _finish_run(
    options: Namespace, run: Run, result: dict[str, Any], table: Callable[[Sequence[Path]], str],
    pages: Sequence[tuple[Path, Callable[[], object]]] = (),
) -> None:  # fmt: skip
    """Keep a result and what belongs to it in its run, where the run can be written to, and print it.

    Args:
        table: the text to print, of the files that were written.
        pages: further files with what writes them.
    """
    kept = [(file_of(run.path, result["split"]), lambda: keep_result(run.path, result)), *pages]
    written = [file for file, write in kept if kept_or_said(file, write)]
    files = [*written[:1], *_out(options), *written[1:]]
    _finish(options, result, _out(options), lambda: table(files))


def _finish(options: Namespace, result: dict[str, Any], files: Sequence[Path], table: Callable[[], str]) -> None:
    """Write and print a result."""
    text = json.dumps(result, indent=2)
    for file in files:
        write_text(file, text + "\n")
    print(text if options.json else table())


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxrec.evaluate",
        description="Rank the next item of every click of a split among all items, and write eval-<split>.json into "
        "the run. The checkpoint is the best by validation, or the latest where there was no validation. Baselines are "
        "measured beside the run, or without one on a data set. What was measured before of the same checkpoint stays: "
        "other cut-offs and baselines are added to it. Of a click model: AUC, log loss, calibration (ece, "
        "with a picture), and the ranking of each user's own rows of the split: ndcg with the ideal cut at k, hit rate "
        "as any positive in the top k; publ: the ideal over all of the user's positives, "
        "and the share of them in the top k.",
        epilog="baselines of sessions, which see all clicks before the target; defaults tuned on the last 5 % of "
        "Diginetica's training targets:\n"
        + baselines.describe()
        + "\n\nbaselines of rows: "
        + ", ".join(ROW_BASELINES)
        + " (als and bias tuned on a tenth of MovieLens 1M's training rows; logistic reads all fields)"
        + "\n\nbaselines beside two towers: "
        + ", ".join(RETRIEVAL_BASELINES)
        + " (tuned on a positive of each user of MovieLens 1M)\n\nbaselines beside merrec: "
        + ", ".join(EVENT_BASELINES),
    )
    parser.add_argument("--run", metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which sessions (default: test)")
    parser.add_argument(
        "--k", type=positive("--k"), nargs="+", metavar="K", help="cut-offs (default: the configuration's)"
    )
    parser.add_argument("--data", metavar="DIR", help="dataset directory, where it has moved since training; without "
                        "--run the one to measure baselines on")  # fmt: skip
    parser.add_argument("--baselines", nargs="*", metavar="NAME", help="baselines to measure: names, with parameters "
                        "where they shall differ from the defaults (stan:k=100,lambda1=2), or 'all'")  # fmt: skip
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="rows: report by these, activity or fields of the "
                        "user (default: activity and fields of few values)")  # fmt: skip
    parser.add_argument("--folds", type=read_folds, metavar="N", help="two_tower on data with personas: of the cross-"
                        f"validation by review (default: {DEFAULT_FOLDS}; 0: none)")  # fmt: skip
    parser.add_argument("--sessions", type=positive("--sessions"), metavar="N", help="merrec: evaluate so many "
                        "sessions, drawn at random but always the same (default: the configuration's)")  # fmt: skip
    parser.add_argument("--protocol", choices=choices("data.protocol"), help="rows, without --run: how they are split "
                        "(default: rows; paper holds out a tenth, the others a fifth)")  # fmt: skip
    parser.add_argument("--validation-fraction", type=read_fraction, metavar="F", help="without --run: share of the "
                        "training targets, the most recent, that is the validation split, not fitted on")  # fmt: skip
    parser.add_argument("--no-coverage", action="store_true", help="leave coverage out, which is quicker")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well")
    return parser


def _check(options: Namespace) -> None:
    """Refuse options that do not go together, before anything is read."""
    if options.run is None and options.baselines is None:
        raise UserError("--run: missing; name a run directory, or measure --baselines on --data")
    if options.run is None and options.data is None:
        raise UserError("--data: missing; name the dataset directory to measure baselines on, or a run with --run")
    if options.run is None and options.sessions is not None:
        raise UserError("--sessions: belongs to runs of merrec; name one with --run, or leave it out")
    if options.run is not None and options.validation_fraction is not None:
        raise UserError("--validation-fraction: a run brings its own; leave this out")
    if options.baselines is not None and options.split == "train":
        raise UserError("--split train: baselines have these sessions by heart; choose validation or test")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise UserError(f"--out {options.out}: no directory {options.out.parent}; make it or choose another place")
    if options.out is not None and options.out.is_dir():
        raise UserError(f"--out {options.out}: a directory; name a file in it")


def _out(options: Namespace) -> list[Path]:
    return [] if options.out is None else [options.out]


def _table(result: dict[str, Any], ks: Sequence[int], files: Sequence[Path]) -> str:
    names = [name for name in ("recall", "mrr", "ndcg", "hit_rate", "coverage") if f"{name}@{ks[0]}" in result]
    head = f"{result['split']}: {result['targets']:,} targets over {result['items']:,} items, {result['checkpoint']} "
    lines = [head + f"checkpoint, {result['ties']} ranks, {result['seconds']:.1f} s"]
    lines.append(f"{'':10}" + "".join(f"{'@' + str(k):>9}" for k in ks))
    lines += [f"{name:10}" + "".join(f"{result[f'{name}@{k}']:9.4f}" for k in ks) for name in names]
    for name in ("recall", "mrr"):
        lines.append(f"{'chance':10}" + "".join(f"{result['chance'][f'{name}@{k}']:9.4f}" for k in ks) + f"   ({name})")
    for name in ("recall", "mrr"):
        best = result.get("optimum", {})
        row = [f"{result[f'{name}@{k}'] / best[f'{name}@{k}']:9.1%}" for k in ks if f"{name}@{k}" in best]
        if row:
            lines.append(f"{'of optimum':10}" + "".join(row) + f"   ({name})")
    if "baselines" in result:
        both = {"this run": result, **result["baselines"]}
        lines += ["", f"baselines fitted on {result['fitted_on']['sessions']:,} sessions", measuring.table(both, ks)]
    return "\n".join([*lines, *(f"written to {file}" for file in files)])


def _baselines_table(result: dict[str, Any], ks: Sequence[int], files: Sequence[Path]) -> str:
    head = f"{result['split']}: {result['targets']:,} targets over {result['items']:,} items, {result['ties']} ranks; "
    lines = [head + f"baselines fitted on {result['fitted_on']['sessions']:,} sessions"]
    lines.append(measuring.table(result["baselines"], ks))
    best = result.get("optimum", {})
    for name in ("recall", "mrr"):
        row = [f"@{k} {best[f'{name}@{k}']:.4f}" for k in ks if f"{name}@{k}" in best]
        if row:
            lines.append(f"the best ranker's {name}: " + ", ".join(row))
    for name in ("recall", "mrr"):
        lines.append(f"chance's {name}: " + ", ".join(f"@{k} {result['chance'][f'{name}@{k}']:.4f}" for k in ks))
    return "\n".join([*lines, *(f"written to {file}" for file in files)])


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))
