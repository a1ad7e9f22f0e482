"""What an evaluation asks and what it answers: metrics by group, beside baselines, chance, optimum and intervals; and
what it leaves in a run, ``eval-<split>.json``, to which every further evaluation adds:

    {"split": "test", ..., "recall@20": 0.53,   the newest answer, as it was printed
     "question": {"data": ..., "step": ...},    what it answers
     "others": [...]}                           answers to other questions, the newest first, each as the above

An answer to the same question is merged into the one that is there: metrics at other cut-offs, other baselines and
other groups. Another checkpoint, limit, or number of folds is another question, whose answer stands apart.
"""

from __future__ import annotations

import json
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.baselines.base import Choice, Known, parse
from jaxrec.cli.command import progress, say
from jaxrec.config import Config
from jaxrec.data.splits import PAIRS, RowSplits
from jaxrec.errors import UserError, nearest
from jaxrec.run import write_text
from jaxrec.tasks.base import Judged, Loaded, load
from jaxrec.tasks.query import aligned
from jaxrec.training.checkpoint import Checkpoints

Result = dict[str, Any]
Page = tuple[Path, Callable[[], object]]
"""A further file of a run, and what writes it."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a run, or of baselines without one; see ``jaxrec.evaluate``."""

    run: Any  # the Run; None: baselines alone
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
        return load(self.run)

    def compared(self, known: Known) -> list[Choice]:
        """The baselines that are asked for."""
        return [] if self.baselines is None else parse(self.baselines, known)

    def groups(self, names: Sequence[str], usual: Sequence[str]) -> Sequence[str]:
        """The groups to report by, of those with some ``names``."""
        for name in (name for name in self.by or () if name not in names):
            raise UserError(f"--groups {name}: no such group{nearest(name, names)}; there are "
                            f"{', '.join(names) or 'none'}")  # fmt: skip
        return usual if self.by is None else self.by

    def measure(self, judge: Any, top: int = 0, **limits: Any) -> tuple[Judged, Result]:
        """What a judge says of the run's weights, and the part of the result that every kind has; see ``question``."""
        begin, which = time.perf_counter(), self.loaded.which
        with progress(f"evaluate: {self.split}", judge.blocks) as update:
            judged: Judged = judge(self.loaded.weights, self.ks, top, update)
        seconds = round(time.perf_counter() - begin, 3)
        return judged, {"split": self.split, "checkpoint": which, "seconds": seconds, **judged.metrics,
                        "question": self.question(which, **limits)}  # fmt: skip

    def question(self, checkpoint: str, **limits: Any) -> Result:
        """What is asked apart from cut-offs, baselines and groups, with ``limits`` such as sessions or folds: answers
        to one question are merged."""
        run, config = self.run, self.config
        question = {
            "split": self.split,
            "data": run.manifest["content_hash"],
            "checkpoint": checkpoint,
            "step": Checkpoints(run.path).last(checkpoint),
            "ties": "conservative",
            **limits,
        }
        names = ("validation_fraction", "protocol", "split_seed", "test_fraction", "repeats")
        question |= {name: getattr(config.data, name) for name in names if hasattr(config.data, name)}
        if run.manifest["kind"] == "rows":
            rules = config.recommendation.model_dump(mode="json").get("rules", [])
            question |= {"category": getattr(config.evaluation, "category", None), "rules": rules}
        return question


Groups = dict[str, dict[str, np.ndarray]]
"""Kind of group to title to bool[n], which queries or rows are in the group."""


def repeated(asked: Asked, splits: RowSplits, held: np.ndarray, groups: Groups) -> tuple[Result, list[str]]:
    """How many of bool[n] rows of a split are of a pair that training holds, in numbers and words; where no groups are
    asked for, they are one."""
    if asked.by is None and held.any():
        groups["pair"] = dict(zip(PAIRS, (~held, held), strict=True))
    numbers = {"left_out": len(splits.left_out), "held_by_training": int(held.sum())}
    words = {"left_out": "{:,} rows of repeated (user, item) pairs are left out (data.repeats)",
             "held_by_training": f"{{:,}} of {len(held):,} {asked.split} rows are of a (user, item) pair that training "
                                 "holds too (data.repeats)"}  # fmt: skip
    return numbers, [words[name].format(number) for name, number in numbers.items() if number]


def by_group(groups: Groups, metrics: Callable[[np.ndarray], Result]) -> Result:
    """The metrics of each group that has any, by kind and title."""
    return {kind: {title: metrics(chosen) for title, chosen in parts.items() if chosen.any()}
            for kind, parts in groups.items()}  # fmt: skip


class Report(dict[str, Any]):
    """The answer, ``report["recall@20"]`` and so on: the keys of ``eval-<split>.json``; as a table with metrics of some
    kinds, ``columns``, and ``notes`` below them. ``pages`` are further files that belong to the run.
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
        head = ((name.replace("_", " "), self[name]) for name in HEAD if name in self)
        words = (f"{name} {value if isinstance(value, str) else format(value, ',')}" for name, value in head)
        lines = [f"{self['split']}: {', '.join(words)}", *text_table(_rows(self), whole), *self.notes]
        for kind, groups in self.get("groups", {}).items():
            parts = ChainMap(*(_rows(part, name, f"{name}, ") for name, part in reversed(groups.items())))
            lines += ["", *text_table(dict(parts), few, f"by {kind}")]
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
        "checkpoint", "history", "ties", "seconds")  # fmt: skip
PARTS = {"with_rules": "with the rules", "chance": "chance", "popularity": "popularity",
         "optimum": "best known ranking"}  # fmt: skip


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
    """A line for each row under a head: how many it is of, and the metrics that any row has; "-": not measured."""
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


# ---- what a run keeps ------------------------------------------------------------------------------------------------


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
