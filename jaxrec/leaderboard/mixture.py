"""The row of a blend: of the best models and the best neighbours, by validation. Its weights are fitted on validation
with the runs that the search left, and hold for those that were trained again on all of training."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

from jaxrec.blend import blend
from jaxrec.cli.command import tell
from jaxrec.errors import UserError
from jaxrec.leaderboard.rows import ALL, MARGIN, PART, Finals
from jaxrec.leaderboard.work import Row, peak_memory

NAME = "blend"
MOST = 3  # models
NEIGHBOURS = ("itemknn", "vsknn", "stan")
FITTING = 3.0, 0.0004  # seconds that weights may take beside what the parts say of validation, and more an item
CLOSE = 0.15  # how far behind the best model, as a share of its value, one may be to take part


def parts(finals: Finals) -> tuple[list[str], list[str]]:
    """The models and the neighbours that are blended; of models none where there are no two parts."""
    search, work = finals.search, finals.work
    ranked = search.ranked() if finals.kind.task == "sessions" else []
    values = {name: search.value(best) or 0.0 for name in ranked if (best := search.best(name)) is not None}
    models = [name for name in ranked if values[name] > (1 - CLOSE) * values[ranked[0]]][:MOST]
    known = {name: row for name, row in work.rows.items() if name in NEIGHBOURS and row.validation is not None}
    nearest = max(known, key=lambda name: known[name].validation or 0.0, default=None)
    neighbours = [] if nearest is None else [known[nearest].settings]
    back, popular = (work.rows[name].validation if name in work.rows else None for name in ("returns", "pop"))
    if (back or 0.0) > (popular or 0.0):  # sessions do come back to their items
        neighbours.append("returns")
    return (models if len(models) + len(neighbours) > 1 else []), neighbours


def cost(finals: Finals) -> float:
    """Seconds that it may take: what the parts say of validation and of the test."""
    models, neighbours = parts(finals)
    if not models or NAME in finals.work.rows:
        return 0.0
    votes = sum(row.seconds_evaluate for row in finals.work.rows.values() if row.settings in neighbours)
    trials = (finals.search.best(name) for name in models)
    tests = sum(finals.search.test_cost(best) for best in trials if best is not None)
    return FITTING[0] + FITTING[1] * finals.kind.size().items + 1.5 * tests + 2 * votes


def add(finals: Finals) -> str:
    """Make the row; returns why there is none, or nothing."""
    work, search = finals.work, finals.search
    models, neighbours = parts(finals)
    if NAME in work.rows or not models:
        return ""
    if work.used() + cost(finals) > work.budget - finals.page_cost() / MARGIN:
        return "blend: not made, the rest of the budget was too short"
    begin, first = work.used(), work.path / "blend_weights"
    best = [work.path / trial.name for name in models if (trial := search.best(name)) is not None]
    last = [work.path / work.rows[name].run for name in models]
    whole = all(work.rows[name].trained_on == ALL for name in models) and last != best
    run = work.path / NAME if whole else first
    with peak_memory() as memory:
        try:
            _quietly(best, first, neighbours)
            if whole:
                _quietly(last, run, neighbours, first)
        except UserError as error:
            return f"blend: {error}"
        fit = work.used() - begin
        kept, evaluate = finals.kind.run(run)
    settings = " + ".join([*models, *neighbours])
    work.finish(Row(NAME, settings, ALL if whole else PART, None, fit, evaluate, memory[0], [search.seed],
                    run=run.name, parts=[*models, *neighbours]), kept[None])  # fmt: skip
    tell(f"{work.used():.0f} s: blend of {settings}: made in {fit:.0f} s, trained {work.rows[NAME].trained_on}")
    return ""


def _quietly(runs: list[Path], run: Path, neighbours: list[str], weights_of: Path | None = None) -> None:
    """A blend anew: what a killed process left of it goes."""
    if run.exists():
        shutil.rmtree(run)
    with contextlib.redirect_stdout(io.StringIO()):
        blend(runs, run, neighbours, weights_of=weights_of)
