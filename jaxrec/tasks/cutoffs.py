"""Cut-offs of the metrics: defaults that nobody gave are lowered to what a small catalogue can rank."""

from __future__ import annotations

import re
from typing import Any

from jaxrec.cli.command import say
from jaxrec.config import Config
from jaxrec.config.finding import find_task
from jaxrec.config.sections import EvaluationConfig
from jaxrec.data.dataset import Dataset
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.errors import UserError


def cutoffs(config: Config) -> list[int]:
    """The cut-offs to report in validation, that of the chosen metric included."""
    return sorted({*config.evaluation.k, *_ks(config.training.metric)})


def fit_cutoffs(config: Config, dataset: Dataset | RowsDataset) -> Config:
    """The configuration with the cut-offs that were not given lowered to less than the catalogue, as the recall at all
    items is always 1; which is said in a note.
    """
    manifest, task, notes = dataset.manifest, find_task(config.model), []
    if hasattr(task, "OWN_ROWS") or manifest["kind"] != task.READS:
        return config  # the latter does not fit, as is told elsewhere
    schema = Schema.from_manifest(manifest) if task.READS == "rows" else None
    items = schema.size(schema.item) - 1 if schema else int(manifest["counts"]["items"])  # one is the unknown one
    usual = max((k for k in EvaluationConfig().k if k < items), default=max(1, items - 1))
    for part, name in (("evaluation", "k"), ("training", "metric")):  # those that hold cut-offs
        section = getattr(config, part)
        value = getattr(section, name)
        ks, given = _ks(value), name in section.model_fields_set
        if given and max(ks, default=0) > items > 0:
            raise UserError(f"{part}.{name}: {max(ks)} is more than the {items} items of {dataset.path}; lower it, or "
                            "leave it out")  # fmt: skip
        if given or not items or max(ks, default=0) < items:
            continue
        lowered = tuple(k for k in ks if k < items) or (usual,)
        new = re.sub("[0-9]+$", str(lowered[-1]), value) if isinstance(value, str) else lowered
        if new != value:
            notes.append(f"{part}.{name} is {_words(new)} instead of {_words(value)}")
            config = config.model_copy(update={part: section.model_copy(update={name: new})})
    if notes:
        say("note", f"{', '.join(notes)}: {dataset.path} has {items:,} items")
    return config


def _ks(value: Any) -> list[int]:
    """The cut-offs themselves, or that of a metric, if it has one."""
    return [int(k) for k in value.split("@")[1:]] if isinstance(value, str) else list(value)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
