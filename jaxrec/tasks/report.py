"""What an evaluation asks and what it answers: metrics by group, beside baselines, chance, optimum and intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrec.data.dataset import Dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.run import Run, open_run_data
from jaxrec.training.checkpoint import Checkpoints

Result = dict[str, Any]
Page = tuple[Path, Callable[[], object]]
"""A further file of a run, and what writes it."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a run.

    Attributes:
        data: the data set that the run was trained on.
        ks: cut-offs, ascending.
        baselines: names, with parameters where a kind has some, or ``all``; None for none.
        by: groups to report by; None for the usual ones.
        limit: at most so many sessions; None: as the configuration says.
        coverage: whether to add ``coverage@k``.
        folds: of the cross-validation by review; None: as many as usual.
        cross_validate: ``jaxrec.personas.folds.cross_validate``, which stands above the tasks.
    """

    run: Run
    data: Dataset | RowsDataset
    split: str
    ks: Sequence[int]
    baselines: Sequence[str] | None = None
    by: Sequence[str] | None = None
    limit: int | None = None
    coverage: bool = True
    folds: int | None = 0
    cross_validate: Callable[..., Result] | None = None

    @classmethod
    def of(cls, run: Run, split: str, ks: Sequence[int], data: str | Path | None = None, **rest: Any) -> Asked:
        """With the data set opened and verified; ``data`` is its place where it has moved."""
        dataset = open_run_data(run, data or run.config.data.path)
        dataset.verify()
        return cls(run, dataset, split, ks, **rest)

    def question(self, checkpoint: str, **limits: Any) -> Result:
        """What is asked apart from cut-offs, baselines and groups: answers to one question are merged.

        Args:
            checkpoint: ``best`` or ``latest``.
            limits: of which part of the split, or by what: ``sessions``, ``folds``.
        """
        config = self.run.config
        question = {
            "split": self.split,
            "data": self.run.manifest["content_hash"],
            "checkpoint": checkpoint,
            "step": Checkpoints(self.run.path).last(checkpoint),
            "validation_fraction": config.data.validation_fraction,
            "ties": getattr(config.evaluation, "ties", "conservative"),
            **limits,
        }
        if self.run.kind == "rows":
            names = ("protocol", "split_seed", "test_fraction", "repeats")
            question |= {name: getattr(config.data, name) for name in names}
            rules = config.recommendation.model_dump(mode="json").get("rules", [])
            question |= {"category": getattr(config.evaluation, "category", None), "rules": rules}
        return question


class Report(Mapping[str, Any]):
    """The answer; ``report["recall@20"]`` and so on are the keys of ``eval-<split>.json``.

    Args:
        result: as it is written to JSON.
        ks: cut-offs.
        columns: metrics of the table, by kind.
        notes: lines below it.
        pages: further files that belong to the run.
    """

    def __init__(
        self, result: Result, ks: Sequence[int], columns: Sequence[str], notes: Iterable[str] = (),
        pages: Sequence[Page] = (),
    ) -> None:  # fmt: skip
        self.result, self.pages = result, pages
        self._ks, self._columns, self._notes = list(ks), columns, list(notes)

    def __getitem__(self, name: str) -> Any:
        return self.result[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.result)

    def __len__(self) -> int:
        return len(self.result)

    def table(self) -> str:
        """The result for the reader of a terminal: all metrics, then the first cut-off by group."""
        whole, few = self._names(self._ks), self._names(self._ks[:1])
        lines = [_head(self.result), *text_table(beside(self.result), whole), *self._notes]
        for kind, groups in self.result.get("groups", {}).items():
            lines += ["", *text_table(_of_groups(groups), few, f"by {kind}")]
        for name, row in self.result.get("baselines", {}).items():
            for kind in ("items", "another item than the last") if "groups" in row else ():
                lines += ["", *text_table(row["groups"].get(kind, {}), few, f"{name} by {kind}")]
        if (review := self.result.get("by_review")) is not None:
            title = f"by review: {review['folds']} folds, {review['targets']:,} reviews; {review['profiles']}"
            lines += ["", title, *text_table(beside(review), self._names(self._ks))]
        return "\n".join(lines)

    def _names(self, ks: Sequence[int]) -> list[str]:
        """The first two kinds at every cut-off, the others at the largest."""
        cut = [kind for kind in self._columns if kind not in PLAIN]
        names = [f"{kind}@{k}" for place, kind in enumerate(cut) for k in (ks if place < 2 else [max(ks)])]
        return [kind for kind in self._columns if kind in PLAIN] + names


PLAIN = ("auc", "log_loss", "ece")  # metrics without a cut-off
HEAD = ("protocol", "targets", "rows", "sessions", "of_sessions", "items", "trained_items", "candidates", "positive",
        "checkpoint", "ties", "fitted_on")  # fmt: skip


def _head(result: Result) -> str:
    """What was evaluated, in one line."""
    words = []
    for name in HEAD:
        value = result.get(name)
        if isinstance(value, dict):
            value = value["sessions"]
        if value is not None:
            number = f"{value:,}" if isinstance(value, int) else f"{value:.1%}" if isinstance(value, float) else value
            words.append(f"{name.replace('_', ' ')} {number}")
    seconds = f", {result['seconds']:.1f} s" if "seconds" in result else ""
    return f"{result['split']}: {', '.join(words)}{seconds}"


def beside(result: Result) -> dict[str, Result]:
    """The run with its interval, and what stands beside it, by title."""
    rows = {"this run": result} if figures(result) else {}
    for end, title in enumerate(("95 % interval, from", "to")) if "intervals" in result else ():
        rows[title] = {name: ends[end] for name, ends in result["intervals"].items()}
    titles = {"with_rules": "with the rules", "chance": "chance", "popularity": "popularity",
              "optimum": "best known ranking"}  # fmt: skip
    rows |= {title: result[name] for name, title in titles.items() if figures(result.get(name, {}))}
    best = figures(result.get("optimum", {}))
    if rows.get("this run") and best:
        rows["of optimum"] = {name: result[name] / value for name, value in best.items() if name in result and value}
    rows |= {f"oracle, {name}": row for name, row in result.get("oracle", {}).items()}
    baselines: dict[str, Result] = result.get("baselines", {})
    return {**rows, **{f"{name} (baseline)" if name in rows else name: row for name, row in baselines.items()}}


def _of_groups(groups: dict[str, Result]) -> dict[str, Result]:
    """Rows of a table by group, with interval and chance where they are known."""
    rows: dict[str, Result] = {}
    for name, row in groups.items():
        rows[name] = row
        for end, title in enumerate(("from", "to")) if "intervals" in row else ():
            rows[f"{name}, {title}"] = {metric: ends[end] for metric, ends in row["intervals"].items()}
        if "chance" in row:
            rows[f"{name}, chance"] = row["chance"]
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
    wide = max(len(title), *map(len, rows)) + 1
    short = {name: name.replace("hit_rate", "hit").replace("_hit", " hit").replace("_published", " publ")
             for name in names}  # fmt: skip
    widths = {name: max(8, len(short[name])) + 2 for name in names}
    lines = [f"{title:{wide}}" + (f"{number:>10}" if number else "")
             + "".join(f"{short[name]:>{widths[name]}}" for name in names)]  # fmt: skip
    for name, row in rows.items():
        count = "" if not number else f"{row[number]:>10,}" if number in row else " " * 10
        cells = (f"{'-':>{width}}" if row.get(one) is None else f"{row[one]:{width}.4f}"
                 for one, width in widths.items())  # fmt: skip
        lines.append((f"{name:{wide}}" + count + "".join(cells)).rstrip())
    return lines


def figures(result: Result) -> dict[str, float]:
    """The metrics of a result, or of a baseline in it, by name."""
    return {name: value for name, value in result.items()
            if (name in PLAIN or "@" in name) and isinstance(value, (int, float))}  # fmt: skip


def in_order(names: Sequence[str]) -> list[str]:
    """Names of metrics, each once: by kind as they come, each by cut-off."""
    kinds = list(dict.fromkeys(name.partition("@")[0] for name in names))
    return sorted(set(names), key=lambda name: (kinds.index(name.partition("@")[0]), int(name.partition("@")[2] or 0)))
