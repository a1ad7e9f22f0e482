"""What the training loop works on: a model with its feed, its constants and its validation, for every kind of data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config import Config, find_task, models
from jaxrec.data.dataset import Dataset, RowsDataset, Schema
from jaxrec.data.reading.columns import ORDER
from jaxrec.errors import UserError, listed
from jaxrec.feeds.base import Feed
from jaxrec.models.base import Model
from jaxrec.run import Run, open_run
from jaxrec.training.block import weights_like
from jaxrec.training.checkpoint import Checkpoints


class Judged(NamedTuple):
    """Metrics of a split by name, and arrays with an entry for each query or row, such as its rank."""

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What the loop asks of a data set under a configuration."""

    model: Model
    feed: Feed  # the training split
    constants: Any  # what that says once and for all
    judge: Any  # of the validation split: weights and cut-offs to ``Judged``; None where nothing is held out
    size: str  # of training, in words
    kept: dict[str, np.ndarray] = field(default_factory=dict)  # arrays that a run keeps, beside those of any data set
    copied: tuple[str, ...] = ()  # further files of the data set that a run keeps


class Loaded(NamedTuple):
    """A run's model with its weights, ``{params, tables}``, with ``statistics`` where the model has any, and the name
    of their checkpoint: ``best`` by validation, or the ``latest`` where none was chosen."""

    run: Run
    model: Any
    weights: dict[str, Any]
    which: str


def load(run: str | Path | Run) -> Loaded:
    """A run's model with its weights."""
    run = open_run(run)
    model = part_of(run.config, "task").build(run)
    weights, _, which = Checkpoints(run.path).restore_model(weights_like(model))
    return Loaded(run, model, weights, which)


def part_of(config: Config, part: str) -> ModuleType:
    """A module of a model's kind of problem: ``task`` or ``recommend``."""
    return importlib.import_module(f"{find_task(config.model).__name__}.{part}")


def make_task(config: Config, dataset: Dataset | RowsDataset) -> Task:
    """The task of a configuration, found by name: the module ``task`` of a folder beside this file."""
    manifest, kind = dataset.manifest, dataset.manifest["kind"]
    if kind != find_task(config.model).READS:
        typed = manifest.get("event_types")
        fitting = [name for name, model in models().items()
                   if kind == find_task(model).READS and (typed or model.task != "events")]  # fmt: skip
        fits = listed(fitting, "or")
        raise UserError(f"model.name: {config.model.name} does not read the {kind} of {dataset.path}; choose {fits}")
    half_life = getattr(config.data, "half_life", None)
    if half_life is not None and manifest.get("options", {}).get("time_unit") == ORDER:
        raise UserError(f"data.half_life: {half_life} days, and the times of {dataset.path} are counters (--time-unit "
                        "order); leave it out")  # fmt: skip
    dataset.verify()
    made: Task = part_of(config, "task").make(config, dataset)
    if config.training.early_stopping and made.judge is None:
        raise UserError("training.early_stopping: needs validation data; set data.validation_fraction, such as 0.05")
    return made


def cutoffs(config: Config) -> list[int]:
    """The cut-offs to report in validation, that of the chosen metric included."""
    return sorted({*config.evaluation.k, *(int(k) for k in config.training.metric.split("@")[1:])})


def check_cutoffs(config: Config, dataset: Dataset | RowsDataset, ks: Sequence[int]) -> None:
    """Refuse cut-offs beyond the catalogue, at which any ranking is right."""
    manifest, task = dataset.manifest, find_task(config.model)
    if hasattr(task, "OWN_ROWS") or manifest["kind"] != task.READS:
        return  # the latter does not fit, as is told elsewhere
    schema = Schema.from_manifest(manifest) if task.READS == "rows" else None
    items = schema.size(schema.item) - 1 if schema else int(manifest["counts"]["items"])  # one is the unknown one
    if 0 < items < max(ks):
        raise UserError(f"--k, evaluation.k or training.metric: {max(ks)} is more than the {items} items of "
                        f"{dataset.path}; choose a smaller one")  # fmt: skip
