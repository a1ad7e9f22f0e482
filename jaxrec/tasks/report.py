"""What an evaluation asks and what it answers: metrics by group, beside baselines, chance, optimum and intervals."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.baselines import Choice, Known, parse
from jaxrec.cli.command import progress
from jaxrec.config import Config
from jaxrec.data.splits import PAIRS, RowSplits, counted, in_words
from jaxrec.errors import UserError
from jaxrec.run import Run
from jaxrec.tasks.answers import aligned
from jaxrec.tasks.base import Judged, Loaded, load
from jaxrec.training.checkpoint import Checkpoints

Result = dict[str, Any]
Page = tuple[Path, Callable[[], object]]
"""A further file of a run, and what writes it."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a run, or of baselines without one; see ``jaxrec.evaluate``."""

    run: Run | None
    data: Any  # the data set, verified
    config: Config
    split: str
    ks: Sequence[int]  # ascending
    baselines: Sequence[str] | None = None
    by: Sequence[str] | None = None
    limit: int | None = None
    folds: int | None = 0
    cross_validate: Callable[..., Result] | None = None  # of ``jaxrec.personas.folds``, which stands above the tasks

    @cached_property
    def loaded(self) -> Loaded:
        """The run's model and weights."""
        assert self.run is not None
        return load(self.run)

    def compared(self, known: Known) -> list[Choice]:
        """The baselines that are asked for."""
        return [] if self.baselines is None else parse(self.baselines, known)

    def check_ks(self, n_items: int) -> None:
        if max(self.ks) > n_items:
            raise UserError(f"--k {max(self.ks)}: larger than the catalogue of {n_items} items; choose a smaller one")

    def measure(self, judge: Any, top: int = 0, **limits: Any) -> tuple[Judged, Result]:
        """What a judge says of the run's weights, and the part of the result that every kind has; see ``question``."""
        begin, which = time.perf_counter(), self.loaded.which
        with progress(f"evaluate: {self.split}", judge.blocks) as update:
            judged: Judged = judge(self.loaded.weights, self.ks, top, update)
        seconds = round(time.perf_counter() - begin, 3)
        return judged, {"split": self.split, "checkpoint": which, "seconds": seconds, **judged.metrics,
                        "question": self.question(which, **limits)}  # fmt: skip

    def question(self, checkpoint: str, **limits: Any) -> Result:
        """What is asked apart from cut-offs, baselines and groups: answers to one question are merged.

        Args:
            limits: of which part of the split, or by what: ``sessions``, ``folds``.
        """
        run, config = self.run, self.config
        assert run is not None
        question = {
            "split": self.split,
            "data": run.manifest["content_hash"],
            "checkpoint": checkpoint,
            "step": Checkpoints(run.path).last(checkpoint),
            "validation_fraction": config.data.validation_fraction,
            "ties": getattr(config.evaluation, "ties", "conservative"),
            **limits,
        }
        if run.kind == "rows":
            names = ("protocol", "split_seed", "test_fraction", "repeats")
            question |= {name: getattr(config.data, name) for name in names}
            rules = config.recommendation.model_dump(mode="json").get("rules", [])
            question |= {"category": getattr(config.evaluation, "category", None), "rules": rules}
        return question


Groups = dict[str, dict[str, np.ndarray]]
"""Kind of group to title to bool[n], which queries or rows are in the group."""


def repeated(asked: Asked, splits: RowSplits, held: np.ndarray, groups: Groups) -> tuple[Result, list[str]]:
    """How many of bool[n] rows of a split are of a pair that training holds, in numbers and words; where no groups are
    asked for, they are one.
    """
    numbers = counted(splits, held)
    if asked.by is None and held.any():
        groups["pair"] = dict(zip(PAIRS, (~held, held), strict=True))
    return numbers, in_words(numbers, len(held), asked.split)


def by_group(groups: Groups, metrics: Callable[[np.ndarray], Result]) -> Result:
    """The metrics of each group that has any, by kind and title."""
    return {kind: {title: metrics(chosen) for title, chosen in parts.items() if chosen.any()}
            for kind, parts in groups.items()}  # fmt: skip


class Report(dict[str, Any]):
    """The answer; ``report["recall@20"]`` and so on are the keys of ``eval-<split>.json``.

    Args:
        columns: metrics of the table, by kind.
        notes: lines below it.
        pages: further files that belong to the run.
    """

    def __init__(
        self, result: Result, ks: Sequence[int], columns: Sequence[str], notes: Iterable[str] = (),
        pages: Sequence[Page] = (),
    ) -> None:  # fmt: skip
        super().__init__(result)
        self.ks, self.columns, self.notes, self.pages = list(ks), columns, notes, pages

    def table(self) -> str:
        """The result for the reader of a terminal: all metrics, then the first cut-off by group."""
        whole, few = self._names(self.ks), self._names(self.ks[:1])
        lines = [_head(self), *text_table(_rows(self), whole), *self.notes]
        for prefix, row in {"": self, **{f"{name} ": row for name, row in self.get("baselines", {}).items()}}.items():
            for kind, groups in row.get("groups", {}).items():
                parts = ChainMap(*(_rows(part, name, f"{name}, ") for name, part in reversed(groups.items())))
                lines += ["", *text_table(dict(parts), few, f"{prefix}by {kind}")]
        if (review := self.get("by_review")) is not None:
            title = f"by review: {review['folds']} folds, {review['targets']:,} reviews; {review['profiles']}"
            lines += ["", title, *text_table(_rows(review), whole)]
        return "\n".join(lines)

    def _names(self, ks: Sequence[int]) -> list[str]:
        """The first two kinds at every cut-off, the others at the largest."""
        cut = [kind for kind in self.columns if kind not in PLAIN]
        names = [f"{kind}@{k}" for place, kind in enumerate(cut) for k in (ks if place < 2 else [max(ks)])]
        return [kind for kind in self.columns if kind in PLAIN] + names


PLAIN = ("auc", "log_loss", "ece")  # metrics without a cut-off
HEAD = ("protocol", "targets", "rows", "sessions", "of_sessions", "items", "trained_items", "candidates", "positive",
        "checkpoint", "ties", "fitted_on", "seconds")  # fmt: skip
PARTS = {"with_rules": "with the rules", "chance": "chance", "popularity": "popularity",
         "optimum": "best known ranking"}  # fmt: skip


def _head(result: Result) -> str:
    """What was evaluated, in one line."""
    words = []
    for name in (name for name in HEAD if name in result):
        value, shape = result[name], {"positive": ".1%", "seconds": ".1f"}.get(name, ",")
        value = value["sessions"] if isinstance(value, dict) else value
        words.append(f"{name.replace('_', ' ')} {value if isinstance(value, str) else format(value, shape)}")
    return f"{result['split']}: {', '.join(words)}"


def _rows(result: Result, title: str = "this run", prefix: str = "") -> dict[str, Result]:
    """A result with its interval, and all that stands beside it, by title."""
    rows = {title: result} if figures(result) else {}
    for end, word in enumerate(("from", "to")) if "intervals" in result else ():
        rows[f"{title}, {word}"] = {metric: ends[end] for metric, ends in result["intervals"].items()}
    rows |= {prefix + words: result[part] for part, words in PARTS.items() if figures(result.get(part, {}))}
    if best := {name: value for name, value in figures(result.get("optimum", {})).items() if name in result and value}:
        rows["of optimum"] = {name: result[name] / value for name, value in best.items()}
    rows |= {f"oracle, {name}": row for name, row in result.get("oracle", {}).items()}
    for name, row in result.get("baselines", {}).items():
        rows[f"{name} (baseline)" if name in rows else name] = row
    return rows


def text_table(rows: dict[str, Result], names: Sequence[str], title: str = "") -> list[str]:
    """A line for each row under a head: how many it is of, and its metrics; "-" for what was not measured.

    Args:
        names: of metrics; those that no row has are left out.
    """
    if not rows:
        return []
    names = [name for name in names if any(row.get(name) is not None for row in rows.values())]
    number = next((name for name in ("targets", "rows") if any(name in row for row in rows.values())), "")
    cells = [[title, number, *(name.replace("_published", " publ").replace("_", " ") for name in names)]]
    for name, row in rows.items():
        values = (row.get(metric) for metric in names)
        numbers = ["-" if value is None else f"{value:.4f}" for value in values]
        cells.append([name, f"{row[number]:,}" if number in row else "", *numbers])
    return aligned(cells, slice(1, None))


def figures(result: Result) -> dict[str, float]:
    """The metrics of a result, or of a baseline in it, by name."""
    return {name: value for name, value in result.items()
            if (name in PLAIN or "@" in name) and isinstance(value, (int, float))}  # fmt: skip
