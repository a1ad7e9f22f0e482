"""What the training loop works on: a model with its feed, its constants and its validation, for every kind of data."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxrec.cli.command import say
from jaxrec.config import Config
from jaxrec.config.finding import find_task, models
from jaxrec.config.sections import EvaluationConfig
from jaxrec.data.dataset import Dataset
from jaxrec.data.reading.times import ORDER
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.data.splits import RowSplits, counted, in_words
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


class Judge(Protocol):
    """Measures weights on a split; the same in training and in ``evaluate``."""

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None
    ) -> Judged:
        """Metrics at the cut-offs ``ks``, and lists of ``top`` best items; ``update`` is called after each block."""


@dataclass(frozen=True)
class Task:
    """What the loop asks of a data set under a configuration."""

    model: Model
    feed: Feed  # the training split
    constants: Any  # what that says once and for all
    judge: Judge | None  # of the validation split; None where nothing is held out
    size: str  # of training, in words
    validated: str  # of validation, in words
    kept: dict[str, np.ndarray] = field(default_factory=dict)  # arrays that a run keeps, beside those of any data set
    copied: tuple[str, ...] = ()  # further files of the data set that a run keeps


class Loaded(NamedTuple):
    """A run's model with its weights, ``{params, tables}``, with ``statistics`` where the model has any, and the name
    of their checkpoint: ``best`` by validation, or the ``latest`` where none was chosen.
    """

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
    return made


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


def check_early_stopping(config: Config, validated: int) -> None:
    if config.training.early_stopping and not validated:
        raise UserError("training.early_stopping: needs validation data; set data.validation_fraction, such as 0.05")


def validated_rows(words: str, splits: RowSplits, held: np.ndarray) -> str:
    """The words, and behind them what is to be said of repeated pairs; ``held``: bool[n] of the test's rows."""
    return "; ".join([words, *in_words(counted(splits, held), len(held), "test")])
