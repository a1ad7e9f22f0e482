"""Cut-offs of the metrics: defaults that nobody gave are lowered to what a small catalogue can rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jaxrec.cli.command import say
from jaxrec.config import Config
from jaxrec.config.finding import find_task
from jaxrec.config.sections import EvaluationConfig
from jaxrec.data.dataset import Dataset
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.errors import UserError
from jaxrec.run import Run
from jaxrec.tasks.vectors import DEFAULT_K

FIELDS = (("evaluation", "k"), ("training", "metric"))  # those that hold cut-offs
DEFAULT_KS = EvaluationConfig().k


def cutoffs(config: Config) -> list[int]:
    """The cut-offs to report in validation, that of the chosen metric included."""
    return sorted({*config.evaluation.k, *_ks(config.training.metric)})


def ranked_items(manifest: dict[str, Any]) -> int:
    """Among how many items a model of a data set ranks the right one."""
    if manifest["kind"] != "rows":
        return int(manifest["counts"]["items"])
    schema = Schema.from_manifest(manifest)
    return schema.size(schema.item) - 1  # one is the unknown one


def fit_cutoffs(config: Config, dataset: Dataset | RowsDataset, stored: Config | None = None) -> Config:
    """The configuration with the cut-offs that were not given lowered to the catalogue, which is said in a note.

    Args:
        stored: of a run that is resumed, which goes on with its own where none are given.
    """
    items, task, notes = ranked_items(dataset.manifest), find_task(config.model), []
    if hasattr(task, "OWN_ROWS") or dataset.manifest["kind"] != task.READS or not items:
        return config  # the last two do not fit, as is told elsewhere
    for part, name in FIELDS:
        section = getattr(config, part)
        value = getattr(section, name)
        if name in section.model_fields_set:
            if stored is None and (k := max(_ks(value), default=0)) > items:
                raise UserError(f"{part}.{name}: {k} is more than the {items} items of {dataset.path}; lower it, or "
                                "leave it out")  # fmt: skip
            continue
        lowered = lowered_ks(_ks(value), items)
        new: Any = re.sub("[0-9]+$", str(lowered[-1]), value) if isinstance(value, str) else lowered
        new = new if stored is None else getattr(getattr(stored, part), name)
        if new != value:
            notes.append(f"{part}.{name} is {_words(new)} instead of {_words(value)}")
            config = config.model_copy(update={part: section.model_copy(update={name: new})})
    if notes and stored is None:
        say("note", f"{', '.join(notes)}: in {dataset.path} there {_items(items)}")
    return config


def run_ks(run: Run) -> list[int]:
    """The cut-offs of a run, in ascending order, for a command to which none were given."""
    if hasattr(find_task(run.config.model), "OWN_ROWS"):
        return sorted(set(run.config.evaluation.k))
    return default_ks(ranked_items(run.manifest), run.config.evaluation.k)


def default_ks(items: int, ks: Sequence[int] = DEFAULT_KS) -> list[int]:
    """Cut-offs for a command to which none were given, lowered to the catalogue with a note."""
    lowered = lowered_ks(ks, items) if max(ks) > items else ks
    if lowered != ks:
        say("note", f"--k is {_words(lowered)} instead of {_words(ks)}: there {_items(items)}")
    return sorted(set(lowered))


def default_k(items: int | None, k: int = DEFAULT_K) -> int:
    """How many of so many items a command recommends to which no number was given: all of fewer than k, with a note."""
    if items is None or k <= items:
        return k
    say("note", f"--k is {items} instead of {k}: there {_items(items)}")
    return max(1, items)


def lowered_ks(ks: Sequence[int], items: int) -> tuple[int, ...]:
    """Cut-offs below the number of items, as the recall at all of them is always 1; where none is, the highest of the
    default ones.
    """
    below = sorted({k for k in ks if k < items})
    return tuple(below) or (max((k for k in DEFAULT_KS if k < items), default=max(1, items - 1)),)


def _ks(value: Any) -> list[int]:
    """The cut-offs themselves, or that of a metric, if it has one."""
    return [int(k) for k in value.split("@")[1:]] if isinstance(value, str) else list(value)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _items(n: int) -> str:
    return f"{'is' if n == 1 else 'are'} {n:,} item{'' if n == 1 else 's'}"
