"""Next items of sessions, as the training loop sees them."""

from __future__ import annotations

import numpy as np

from jaxrec.config import Config
from jaxrec.data.dataset import Dataset
from jaxrec.data.splits import Split, cut_validation
from jaxrec.errors import UserError
from jaxrec.models.base import SessionModel, make_model
from jaxrec.run import Run
from jaxrec.tasks.base import Task, check_early_stopping
from jaxrec.tasks.sessions.judge import session_judge
from jaxrec.training.block import training_plan


def make(config: Config, dataset: Dataset) -> Task:
    """Next items of sessions."""
    training, validation = session_splits(config, dataset)
    model = make_model(config, dataset.n_items)
    feed = model.feed(training, training_plan(config, config.data.order))
    return Task(
        model,
        feed,
        model.constants(np.bincount(training.items, minlength=dataset.n_items)),
        session_judge(model, validation, dataset.n_items, config.evaluation) if len(validation) else None,
        f"{feed.pairs:,} targets, {dataset.n_items:,} items",
        f"{validation.counts['targets']:,} validation targets" if len(validation) else "no validation",
    )


def session_splits(config: Config, dataset: Dataset) -> Split:
    """Training and validation sessions, as the configuration cuts them."""
    fraction = config.data.validation_fraction
    brought = dataset.split("validation")
    if fraction and len(brought):
        raise UserError(f"data.validation_fraction: {dataset.path} brings a validation split; set the field to 0")
    training, validation = cut_validation(dataset.split("train"), brought, fraction)
    if not training.counts["targets"]:
        raise UserError(f"{dataset.path}: no training pairs are left; lower data.validation_fraction ({fraction})")
    check_early_stopping(config, len(validation))
    return Split(training, validation)


def build(run: Run) -> SessionModel:
    """A run's model."""
    return make_model(run.config, run.n_items)
