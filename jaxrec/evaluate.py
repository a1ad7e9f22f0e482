"""python -m jaxrec.evaluate: the metrics of a run, and of baselines, on a split, over the full catalogue."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jaxrec import config as configuration
from jaxrec.baselines import base as known
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, make_callable, ranged, say
from jaxrec.config import models
from jaxrec.data.dataset import SPLITS, open_dataset
from jaxrec.errors import UserError, nearest, shown
from jaxrec.personas.folds import cross_validate
from jaxrec.run import Run, open_run, open_run_data
from jaxrec.tasks.base import check_cutoffs, fit_cutoffs, part_of
from jaxrec.tasks.report import Asked, Report, file_of, keep_result
from jaxrec.tasks.retrieval.task import DEFAULT_FOLDS
from jaxrec.tasks.sessions import Evaluation


def evaluate(
    run: str | Path | Run | None = None,
    split: str = "test",
    *,
    ks: Sequence[int] | None = None,
    data: str | Path | None = None,
    baselines: Sequence[str] = (),
    by: Sequence[str] | None = None,
    limit: int | None = None,
    folds: int | None = 0,
    history: str | None = None,
) -> Report:
    """The metrics of a run of any kind on a split: ``report["recall@20"]``, ``report.table()``.

    Args:
        run: the run directory; None: baselines of sessions are measured alone, on ``data``.
        split: ``train``, ``validation`` or ``test``.
        ks: cut-offs, each at most the number of items; None: those of the run's configuration.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
        baselines: names of baselines to fit on what the run was trained on and to measure beside it, with parameters
            that shall differ from the defaults (``stan:k=100``); ``all`` for each that there is.
        by: groups to report by, of models of rows: fields of the user, ``activity``, ``persona``.
        limit: at most so many sessions, drawn at random but always the same (merrec).
        folds: of the cross-validation by review, for two towers on data with personas; None: as many as usual.
        history: of sessions, whether the items that a session holds already are ``ranked`` or ``masked``; None: as
            configured.
    """
    if split not in SPLITS:
        raise UserError(f"split: found {shown(split)}{nearest(str(split), SPLITS)}; choose {', '.join(SPLITS)}")
    if baselines and split == "train":
        raise UserError("--split train: baselines have these sessions by heart; choose validation or test")
    opened = None if run is None else open_run(run)
    if opened is not None:
        config, dataset = opened.config, open_run_data(opened, data or opened.config.data.path)
    elif data is None or not baselines:
        raise UserError("--run: missing; name a run directory, or measure --baselines of sessions on --data")
    else:
        dataset = open_dataset(data)
        if dataset.manifest["kind"] != "sessions":
            raise UserError(f"--data {data}: holds {dataset.manifest['kind']}, whose baselines are measured beside a "
                            "run; name one with --run")  # fmt: skip
        config = configuration.parse({"data": {"path": str(data)}})
    task = part_of(config, "task")
    for name, option, value in (("by", "--groups", by), ("limit", "--sessions", limit), ("folds", "--folds", folds),
                                ("history", "--history", history)):  # fmt: skip
        if value and name not in task.OPTIONS:
            raise UserError(f"{option}: does not go with a run of {config.model.name}; leave it out")
    if history:
        values = config.model_dump()
        values["evaluation"]["history"] = history
        config = configuration.parse(values, "--history")
    dataset.verify()
    ks = sorted(set(fit_cutoffs(config, dataset).evaluation.k if ks is None else ks))
    check_cutoffs(config, dataset, ks)
    report: Report = task.evaluate(Asked(
        opened, dataset, config, split, ks, list(baselines) or None, by, limit, folds, cross_validate
    ))  # fmt: skip
    return report


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.evaluate``."""
    options = _parser().parse_args(argv)
    runtime.start()
    baselines = () if options.baselines is None else options.baselines or ("all",)
    report = evaluate(options.run, options.split, ks=options.k, data=options.data, by=options.groups,
                      limit=options.sessions, baselines=baselines, folds=options.folds,
                      history=options.history)  # fmt: skip
    files = list[Path]()
    if options.run is not None:
        run = Path(options.run)
        for file, write in [(file_of(run, options.split), lambda: keep_result(run, report)), *report.pages]:
            try:
                write()
                files.append(file)
            except OSError as error:  # of a run that is read-only
                say("note", f"{file}: could not be kept ({error.strerror or error})")
    text = "\n".join([report.table(), *(f"written to {file}" for file in files)])
    print(json.dumps(report, indent=2) if options.json else text)


ABOUT = """\
Rank the next item of every click of a split among all items, and write eval-<split>.json into the run. The checkpoint
is the best by validation, or the latest where there was no validation. What was measured before of the same checkpoint
stays: other cut-offs and baselines are added to it. Of a click model: AUC, log loss, calibration (ece, with a picture),
and the ranking of each user's own rows of the split: ndcg with the ideal cut at k, hit rate as any positive in the top
k; publ: the ideal over all of the user's positives, and the share of them in the top k.
"""


def _parser() -> Parser:
    kinds = {kind: importlib.import_module(f"jaxrec.tasks.{kind}.task") for kind in {m.task for m in models().values()}}
    epilog = "\n\n".join(f"baselines of {kind}: {known.describe(kinds[kind].BASELINES)}" for kind in sorted(kinds))
    parser = Parser(prog="python -m jaxrec.evaluate", description=ABOUT, epilog=epilog)
    add = parser.add_argument
    add("--run", metavar="DIR", help="run directory, such as checkpoints/gru4rec")
    add("--split", choices=SPLITS, default="test", help="which sessions (default: test)")
    add("--k", type=ranged(int, 1), nargs="+", metavar="K", help="cut-offs (default: as configured)")
    add("--data", metavar="DIR", help="dataset directory, where it has moved since training; without --run the one to "
        "measure baselines of sessions on")  # fmt: skip
    add("--baselines", nargs="*", metavar="NAME", help="baselines to measure: names, with parameters where they shall "
        "differ from the defaults (stan:k=100,lambda1=2), or 'all'")  # fmt: skip
    add("--groups", nargs="+", metavar="NAME", help="rows: report by these, activity or fields of the user (default: "
        "activity and fields of few values)")  # fmt: skip
    add("--folds", type=ranged(int, 0), metavar="N", help="two_tower on data with personas: of the cross-validation "
        f"by review (default: {DEFAULT_FOLDS}; 0: none)")  # fmt: skip
    add("--sessions", type=ranged(int, 1), metavar="N", help="merrec: evaluate so many sessions, drawn at random but "
        "always the same (default: the configuration's)")  # fmt: skip
    histories = get_args(Evaluation.model_fields["history"].annotation)
    add("--history", choices=histories, help="sessions: whether the items that a session holds already are ranked like "
        "the others, or masked (default: as configured)")  # fmt: skip
    add("--json", action="store_true", help="print the JSON instead of a table")
    return parser


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))
