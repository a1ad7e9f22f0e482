"""python -m jaxrec.evaluate: the metrics of a run, and of baselines, on a split, over the full catalogue."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jaxrec import baselines as of_sessions
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, make_callable, ranged
from jaxrec.config import choices
from jaxrec.data.dataset import SPLITS, open_dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError, nearest, shown
from jaxrec.personas.folds import cross_validate
from jaxrec.run import Run, open_run, write_text
from jaxrec.tasks.base import part_of
from jaxrec.tasks.clicks import judge as row_judge
from jaxrec.tasks.cutoffs import run_ks
from jaxrec.tasks.events.judge import BASELINES as EVENT_BASELINES
from jaxrec.tasks.report import Asked, Report
from jaxrec.tasks.results import file_of, keep_result, kept_or_said
from jaxrec.tasks.retrieval.judge import DEFAULT_FOLDS
from jaxrec.tasks.sessions import judge as session_judge


def evaluate(
    run: str | Path | Run,
    split: str = "test",
    *,
    ks: Sequence[int] | None = None,
    data: str | Path | None = None,
    baselines: Sequence[str] = (),
    by: Sequence[str] | None = None,
    limit: int | None = None,
    coverage: bool = True,
    folds: int | None = 0,
) -> Report:
    """The metrics of a run of any kind on a split: ``report["recall@20"]``, ``report.table()``.

    Args:
        run: the run directory.
        split: ``train``, ``validation`` or ``test``.
        ks: cut-offs, each at most the number of items; None: those of the run's configuration.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
        baselines: names of baselines to fit on what the run was trained on and to measure beside it, with parameters
            where those of sessions shall differ from the defaults (``stan:k=100``); ``all`` for each that there is.
        by: groups to report by, of models of rows: fields of the user, ``activity``, ``persona``.
        limit: at most so many sessions, drawn at random but always the same (merrec).
        coverage: whether to add ``coverage@k`` (sessions).
        folds: of the cross-validation by review, for two towers on data with personas; None: as many as usual.
    """
    run = open_run(run)
    if split not in SPLITS:
        raise UserError(f"split: found {shown(split)}{nearest(str(split), SPLITS)}; choose {', '.join(SPLITS)}")
    judge = part_of(run.config, "judge")
    for name, option, value in (
        ("by", "--groups", by), ("limit", "--sessions", limit), ("coverage", "--no-coverage", None if coverage else 0),
        ("folds", "--folds", folds or None),
    ):  # fmt: skip
        if value is not None and name not in judge.OPTIONS:
            raise UserError(f"{option}: {run.path} is a run of {run.config.model.name}, which has no such thing; leave "
                            "it out")  # fmt: skip
    if baselines and split == "train":
        raise UserError("--split train: baselines have these sessions by heart; choose validation or test")
    ks = run_ks(run) if ks is None else sorted(set(ks))
    report: Report = judge.evaluate(Asked.of(
        run, split, ks, data, baselines=list(baselines) or None, by=by, limit=limit, coverage=coverage, folds=folds,
        cross_validate=cross_validate,
    ))  # fmt: skip
    return report


def evaluate_baselines(
    data: str | Path,
    split: str = "test",
    *,
    ks: Sequence[int] | None = None,
    baselines: Sequence[str] = ("all",),
    validation_fraction: float = 0.0,
    coverage: bool = True,
    protocol: str | None = None,
) -> Report:
    """The metrics of baselines on a data set of sessions or rows, without a run; see ``evaluate``.

    Args:
        validation_fraction: share of the training targets, the most recent, that is the validation split, not fitted
            on.
        protocol: how rows are split (``data.protocol``); None for ``rows``.
    """
    dataset = open_dataset(data)
    kind = row_judge if isinstance(dataset, RowsDataset) else session_judge
    ks = None if ks is None else sorted(set(ks))
    return kind.evaluate_baselines(dataset, split, ks, baselines, validation_fraction, coverage, protocol)


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.evaluate``."""
    options = _parser().parse_args(argv)
    _check(options)
    compared = () if options.baselines is None else options.baselines or ("all",)
    runtime.start()
    out = [] if options.out is None else [options.out]
    if options.run is None:
        report, files = evaluate_baselines(
            options.data, options.split, ks=options.k, baselines=compared, protocol=options.protocol,
            validation_fraction=options.validation_fraction or 0.0, coverage=not options.no_coverage,
        ), out  # fmt: skip
    else:
        report = evaluate(
            options.run, options.split, ks=options.k, data=options.data, baselines=compared, by=options.groups,
            limit=options.sessions, coverage=not options.no_coverage, folds=options.folds,
        )  # fmt: skip
        run, result = Path(options.run), report.result
        kept = [(file_of(run, result["split"]), lambda: keep_result(run, result)), *report.pages]
        written = [file for file, write in kept if kept_or_said(file, write)]
        files = [*written[:1], *out, *written[1:]]
    text = json.dumps(report.result, indent=2)
    for file in out:
        write_text(file, text + "\n")
    print(text if options.json else "\n".join([report.table(), *(f"written to {file}" for file in files)]))


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
        + of_sessions.describe()
        + "\n\nbaselines of rows: "
        + ", ".join(row_judge.BASELINES)
        + " (als and bias tuned on a tenth of MovieLens 1M's training rows; logistic reads all fields)"
        + "\n\nbaselines beside two towers: "
        + ", ".join(RETRIEVAL_BASELINES)
        + " (tuned on a positive of each user of MovieLens 1M)\n\nbaselines beside merrec: "
        + ", ".join(EVENT_BASELINES),
    )
    parser.add_argument("--run", metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which sessions (default: test)")
    parser.add_argument(
        "--k", type=ranged(int, 1), nargs="+", metavar="K", help="cut-offs (default: the configuration's)"
    )
    parser.add_argument("--data", metavar="DIR", help="dataset directory, where it has moved since training; without "
                        "--run the one to measure baselines on")  # fmt: skip
    parser.add_argument("--baselines", nargs="*", metavar="NAME", help="baselines to measure: names, with parameters "
                        "where they shall differ from the defaults (stan:k=100,lambda1=2), or 'all'")  # fmt: skip
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="rows: report by these, activity or fields of the "
                        "user (default: activity and fields of few values)")  # fmt: skip
    parser.add_argument("--folds", type=ranged(int, 0), metavar="N", help="two_tower on data with personas: of the "
                        f"cross-validation by review (default: {DEFAULT_FOLDS}; 0: none)")  # fmt: skip
    parser.add_argument("--sessions", type=ranged(int, 1), metavar="N", help="merrec: evaluate so many "
                        "sessions, drawn at random but always the same (default: the configuration's)")  # fmt: skip
    parser.add_argument("--protocol", choices=choices("data.protocol"), help="rows, without --run: how they are split "
                        "(default: rows; paper holds out a tenth, the others a fifth)")  # fmt: skip
    parser.add_argument("--validation-fraction", type=ranged(float, 0, 0.99), metavar="F", help="without --run: "
                        "share of the training targets, the most recent, that validates")  # fmt: skip
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
    for name, of_run in (("groups", True), ("folds", True), ("sessions", True), ("protocol", False),
                         ("validation_fraction", False)):  # fmt: skip
        if getattr(options, name) is not None and of_run == (options.run is None):
            why = "belongs to runs; name one with --run" if of_run else "a run brings its own"
            raise UserError(f"--{name.replace('_', '-')}: {why}, or leave it out")
    if options.baselines is not None and options.split == "train":
        raise UserError("--split train: baselines have these sessions by heart; choose validation or test")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise UserError(f"--out {options.out}: no directory {options.out.parent}; make it or choose another place")
    if options.out is not None and options.out.is_dir():
        raise UserError(f"--out {options.out}: a directory; name a file in it")


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))
