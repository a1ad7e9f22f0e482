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
from jaxrec.tasks.vectors import DEFAULT_K


def cutoffs(config: Config) -> list[int]:
    """The cut-offs to report in validation, that of the chosen metric included."""
    return sorted({*config.evaluation.k, *_ks(config.training.metric)})


def ranked_items(manifest: dict[str, Any]) -> int:
    """Among how many items a model of a data set ranks the right one."""
    if manifest["kind"] != "rows":
        return int(manifest["counts"]["items"])
    schema = Schema.from_manifest(manifest)
    return schema.size(schema.item) - 1  # one is the unknown one


def fit_cutoffs(config: Config, dataset: Dataset | RowsDataset) -> Config:
    """The configuration with the cut-offs that were not given lowered to the catalogue, which is said in a note."""
    items, task, notes = ranked_items(dataset.manifest), find_task(config.model), []
    if hasattr(task, "OWN_ROWS") or dataset.manifest["kind"] != task.READS or not items:
        return config  # the last two do not fit, as is told elsewhere
    for part, name in (("evaluation", "k"), ("training", "metric")):  # those that hold cut-offs
        section = getattr(config, part)
        value = getattr(section, name)
        ks = _ks(value)
        if max(ks, default=0) > items and name in section.model_fields_set:
            raise UserError(f"{part}.{name}: {max(ks)} is more than the {items} items of {dataset.path}; lower it, or "
                            "leave it out")  # fmt: skip
        lowered = lowered_ks(ks, items)
        new = re.sub("[0-9]+$", str(lowered[-1]), value) if isinstance(value, str) else lowered
        if new != value and name not in section.model_fields_set:
            notes.append(f"{part}.{name} is {_words(new)} instead of {_words(value)}")
            config = config.model_copy(update={part: section.model_copy(update={name: new})})
    if notes:
        say("note", f"{', '.join(notes)}: {dataset.path} has {items:,} items")
    return config


def default_k(items: int | None, k: int = DEFAULT_K) -> int:
    """How many of so many items a command recommends to which no number was given: all of fewer than k, with a note."""
    if items is None or k <= items:
        return k
    say("note", f"--k is {items} instead of {k}: there are {items:,} items")
    return max(1, items)


def lowered_ks(ks: Sequence[int], items: int) -> tuple[int, ...]:
    """Cut-offs below the number of items, as the recall at all of them is always 1; where none is, the highest of the
    default ones.
    """
    below = sorted({k for k in ks if k < items})
    return tuple(below) or (max((k for k in EvaluationConfig().k if k < items), default=max(1, items - 1)),)


def _ks(value: Any) -> list[int]:
    """The cut-offs themselves, or that of a metric, if it has one."""
    return [int(k) for k in value.split("@")[1:]] if isinstance(value, str) else list(value)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
