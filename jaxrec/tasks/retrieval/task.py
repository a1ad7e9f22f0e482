"""Items for users, as the training loop sees them."""

from __future__ import annotations

from functools import partial

from jaxrec.config import Config
from jaxrec.data.ids import Ids
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.models.base import TowerModel, make_model
from jaxrec.models.two_tower import Interactions
from jaxrec.run import Run
from jaxrec.tasks.base import Task, check_early_stopping, validated_rows
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.history import history
from jaxrec.tasks.retrieval.hits import item_categories
from jaxrec.tasks.retrieval.judge import Judge
from jaxrec.tasks.retrieval.recommend import save_item_vectors
from jaxrec.tasks.rules import RuleBook
from jaxrec.training.block import training_plan


def make(config: Config, dataset: RowsDataset) -> Task:
    """Items for users: positive rows, each against other items."""
    data = Retrieval.open(config, dataset)
    training, validation = data.training_rows(), data.queries(data.splits.validation)
    check_early_stopping(config, len(validation.users))
    # Refused before an epoch is trained, not when it is evaluated.
    item_categories(dataset, config.evaluation.category)
    RuleBook(config.recommendation.rules, dataset.schema, lambda name: Ids(dataset.values(name), first=1))
    if config.loss.mask == "positives":
        data.check_mask(config.data.device_memory)
    model = make_model(config, dataset.schema)
    return Task(
        model,
        model.feed(training, training_plan(config, passes=RowTraining.of(config.training).passes)),
        model.constants(interactions(config, data)),
        Judge(model, data, data.splits.validation, config.evaluation) if len(validation.users) else None,
        f"{len(training):,} positives of {data.n_users - 1:,} users and {data.n_items - 1:,} items",
        validated_rows(
            f"{len(validation.users):,} validation positives" if len(validation.users) else "no validation",
            data.splits,
            data.held_by_training(data.splits.test),
        ),
        {"value_counts": data.value_counts, **history(dataset)},
        partial(save_item_vectors, model=model, catalogue=data.catalogue),
    )


def interactions(config: Config, data: Retrieval) -> Interactions:
    """What a two-tower model's training knows beside its rows."""
    positives = data.positives(data.splits.train) if config.loss.mask == "positives" else None
    return Interactions(data.catalogue.columns, data.catalogue.numbers, data.item_counts(), positives)


def build(run: Run) -> TowerModel:
    """A run's model."""
    return make_model(run.config, Schema.from_manifest(run.manifest))
