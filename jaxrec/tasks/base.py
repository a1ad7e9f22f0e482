"""What the training loop works on: a model with its feed, its constants and its validation, for every kind of data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any, Protocol

import jax
import numpy as np

from jaxrec.cli.wording import listed
from jaxrec.config import Config
from jaxrec.config.finding import find_task, models
from jaxrec.data.dataset import Dataset
from jaxrec.data.reading.times import ORDER
from jaxrec.data.rows import RowsDataset
from jaxrec.data.splits import RowSplits, counted, in_words
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed
from jaxrec.models.base import Model
from jaxrec.models.packed import HalfLife
from jaxrec.run import Run
from jaxrec.training.block import init_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule


class Validation(Protocol):
    """Metrics of parameters on the validation split."""

    @property
    def metrics(self) -> Callable[..., dict[str, float]]:
        """By name, of the train state's ``weights()`` and cut-offs ``ks``."""


@dataclass(frozen=True)
class Task:
    """What the loop asks of a data set under a configuration.

    Attributes:
        model: with its training split as ``feed`` and what that says once and for all as ``constants``.
        validation: None where nothing is held out.
        size: of the training split and the data, in words.
        validated: of the validation split, in words.
        kept: arrays by name that a run keeps, beside what it keeps of any data set.
        finish: adds to a trained run what serving it needs; None: nothing.
        copied: further files of the data set that a run keeps.
    """

    model: Model
    feed: Feed
    constants: Any
    validation: Validation | None
    size: str
    validated: str
    kept: dict[str, np.ndarray] = attribute(default_factory=dict)
    finish: Callable[[Run], None] | None = None
    copied: tuple[str, ...] = ()


def make_task(config: Config, dataset: Dataset | RowsDataset) -> Task:
    """The task of a configuration, found by name: the module ``task`` of a folder beside this file."""
    task, kind = find_task(config.model), dataset.manifest["kind"]
    if kind != task.READS:
        typed = dataset.manifest.get("event_types")
        fitting = [name for name, model in models().items()
                   if kind == find_task(model).READS and (typed or model.task != "events")]  # fmt: skip
        fits = listed(fitting, "or")
        raise UserError(f"model.name: {config.model.name} does not read the {kind} of {dataset.path}; choose {fits}")
    if (
        isinstance(config.data, HalfLife)
        and config.data.half_life is not None
        and dataset.manifest.get("options", {}).get("time_unit") == ORDER
    ):
        raise UserError(f"data.half_life: counts days, and the times of {dataset.path} are counters (--time-unit "
                        "order); leave it out")  # fmt: skip
    dataset.verify()
    made: Task = importlib.import_module(f"{task.__name__}.task").make(config, dataset)
    return made


def check_early_stopping(config: Config, validated: int) -> None:
    if config.training.early_stopping and not validated:
        raise UserError("training.early_stopping: needs validation data; set data.validation_fraction, such as 0.05")


def load_parameters(run: Run, model: Model) -> tuple[dict[str, Any], str]:
    """A run's parameters and tables: the best by validation, or the latest where none was chosen.

    Returns:
        ``{params, tables}``, with ``statistics`` where the model has any, and ``best`` or ``latest``.
    """
    optimizer = make_optimizer(run.config.optimizer, make_schedule(run.config.optimizer, 1))
    like = jax.eval_shape(lambda: init_state(model, optimizer, 0, 1))  # an average has the shapes of what it averages
    parameters, _, which = Checkpoints(run.path).restore_model(like)
    return parameters, which


def validated_rows(words: str, splits: RowSplits, held: np.ndarray) -> str:
    """The words, and behind them what is to be said of repeated pairs; ``held``: bool[n] of the test's rows."""
    return "; ".join([words, *in_words(counted(splits, held), len(held), "test")])
