"""python -m jaxrec.leaderboard: baselines and every model that fits a data set, tuned within a budget, in one table."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, ranged, tell
from jaxrec.cli.lock import owned
from jaxrec.cli.text import check_path
from jaxrec.data.dataset import open_dataset
from jaxrec.errors import UserError, listed, nearest, shown
from jaxrec.leaderboard import mixture
from jaxrec.leaderboard.kinds import Kind, kind_of
from jaxrec.leaderboard.page import as_json, facts, lines_of, markdown, verdict
from jaxrec.leaderboard.rows import LEAST, Finals
from jaxrec.leaderboard.search import Search
from jaxrec.leaderboard.work import Work
from jaxrec.plots.rankers import draw_rankers
from jaxrec.run import check_out, write_text

DESCRIPTION = """\
Train baselines and every model that fits a data set, tuned within a budget of wall-clock time, and write one table:

  python -m jaxrec.leaderboard --data data/mine --budget 1h --out leaderboard.md

One protocol for all: settings are chosen on validation data (the last 5 % of the training targets, or the split that
the data bring; of rows a tenth), each ranker is then fitted once more on all of training, the test is read once a row.
Figures have 95 % bootstrap intervals, and differences to the best are paired. Beside the table: a picture
(leaderboard.png), the same for machines (leaderboard.json), and the folder leaderboard.runs with all runs. Killed or
stopped, the same command goes on, with what is left of the budget.
"""
SHARED = ("--data.", "--evaluation.")  # sections that are the same for all models
TASKS = ("sessions", "clicks", "retrieval")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """``90s``, ``20m`` or ``1h`` in seconds."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text)
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--budget: found {shown(text)}; give a number and a unit, such as 90s, 20m or 1h")
    return float(match[1]) * UNITS[match[2]]


def leaderboard(
    data: str | Path, out: str | Path, budget: str, *, models: Sequence[str] | None = None,
    seeds: Sequence[int] = (42,), task: str | None = None, overrides: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the table of a data set to ``out``, a Markdown file.

    Args:
        budget: wall-clock time, such as ``20m``; that of calls which were killed counts.
        models: names of models; None: all that fit the data.
        seeds: of the last training of each model; the search has the first.
        task: of rows: ``clicks`` or ``retrieval``; None: clicks, where there are labels of both classes.
        overrides: ``--data.field value`` and ``--evaluation.field value`` words, for all models.
    """
    seconds, out = seconds_of(budget), Path(check_path("--out", str(out)))
    check_out(out, (".md",))
    if bad := [word for word in overrides if word.startswith("--") and not word.startswith(SHARED)]:
        raise UserError(f"{bad[0]}: no such option; beside those of --help fields of the data and evaluation sections "
                        "can be given, which hold for all models (--data.…, --evaluation.…)")  # fmt: skip
    work_path = out.with_suffix(".runs")
    with owned(work_path, "works on this leaderboard", "choose another --out"):
        dataset = open_dataset(data)
        record = {
            "data": dataset.manifest["content_hash"], "budget": seconds,
            "models": None if models is None else [*models],
            "seeds": [*seeds], "task": task, "overrides": [*overrides],
        }  # fmt: skip
        work = Work(work_path, record, seconds)
        dataset.verify()
        kind = kind_of(dataset, task, overrides)
        search = Search(kind, work, _names(kind, models), seeds[0])
        finals = Finals(kind, work, search, list(seeds))
        if work.resumed and not work.finished:
            tell(f"{work_path}: going on after {work.used():.0f} of {seconds:.0f} s")
        if not work.finished:
            _fill(work, search, finals)
        words = ["python -m jaxrec.leaderboard", "--data", str(data), "--budget", budget, "--out", str(out)]
        words += ["--models", *models] if models else []
        words += ["--seeds", *map(str, seeds)] if list(seeds) != [42] else []
        words += ["--task", task] if task else []
        text = " ".join([words[0], *map(shlex.quote, [*words[1:], *overrides])])
        _write(out, kind, work, facts(kind, work, text, budget, list(seeds)))


def _fill(work: Work, search: Search, finals: Finals) -> None:
    """All rows that the budget allows."""
    finals.baselines()
    if work.used() > LEAST * work.budget:
        if not any(search.trials(name) for name in search.names):
            work.notes = ["the budget suffices for baselines alone; give more for the models "
                          f"({', '.join(search.names)})"]  # fmt: skip
            tell(f"{work.used():.0f} s: {work.notes[0]}")
    else:
        search.reserve = lambda begun=False: finals.reserve(begun) + (0.0 if begun else mixture.cost(finals))
        search.run()
    finals.models(mixture.cost(finals))
    missing = mixture.add(finals)
    work.notes = work.notes or [*finals.notes(), *([missing] if missing else [])]
    work.finished = True
    work.save()


def _names(kind: Kind, models: Sequence[str] | None) -> list[str]:
    """The models that take part."""
    fits = kind.models()
    for name in models or ():
        if name not in fits:
            raise UserError(
                f"--models {name}: no model of {kind.task}{nearest(name, fits)}; choose {listed(fits, 'or')}"
            )
    return fits if models is None else list(dict.fromkeys(models))


def _write(out: Path, kind: Kind, work: Work, head: dict[str, Any]) -> None:
    lines = lines_of(kind, work)
    picture = out.with_suffix(".png")
    across = {"chance": kind.chance(), "best known ranking": kind.optimum()}
    figures = {metric: [line.metrics[metric] for line in lines] for metric in kind.columns}
    draw_rankers([line.row.name for line in lines], figures, across, picture)
    write_text(out.with_suffix(".json"), as_json(kind, head, lines, work.notes, work))
    write_text(out, markdown(kind, head, lines, work.notes, picture.name))
    tell(f"{work.used():.0f} s: {verdict(kind, lines)}")
    tell(f"wrote {out}, {picture.name} and {out.with_suffix('.json').name}")


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.leaderboard``."""
    parser = Parser(prog="python -m jaxrec.leaderboard", description=DESCRIPTION)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="dataset directory, as written by python -m jaxrec.prepare")
    add("--budget", required=True, metavar="TIME", help="wall-clock time in all, such as 90s, 20m or 1h")
    add("--out", type=Path, required=True, metavar="FILE", help="the table, a Markdown file: leaderboard.md")
    add("--models", nargs="+", metavar="NAME", help="models to train (default: all that fit the data)")
    add("--seeds", type=ranged(int, 0), nargs="+", default=[42], metavar="N",
        help="of each model's last training; figures are means over them (default: 42)")  # fmt: skip
    add("--task", choices=TASKS, help="of rows that fit both: clicks (default) or retrieval")
    options, overrides = parser.parse_known_args(argv)
    if len(set(options.seeds)) < len(options.seeds):
        raise UserError("--seeds: one stands twice; leave it out")
    runtime.start()
    leaderboard(options.data, options.out, options.budget, models=options.models, seeds=options.seeds,
                task=options.task, overrides=overrides)  # fmt: skip


if __name__ == "__main__":
    sys.exit(command(main))
