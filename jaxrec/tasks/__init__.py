"""What the training loop works on: a model with its feed, its constants and its validation, for either kind of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as attribute
from functools import partial
from typing import Any, Protocol

import numpy as np

from jaxrec.baselines.logistic import fit_logistic
from jaxrec.cli.command import progress
from jaxrec.config import Config
from jaxrec.config.agreement import ROWS
from jaxrec.data.codes import strict_code
from jaxrec.data.dataset import Dataset
from jaxrec.data.ids import Places
from jaxrec.data.items import open_catalogue
from jaxrec.data.reading.times import ORDER
from jaxrec.data.retrieval import Retrieval, known, value_counts
from jaxrec.data.rows import Field, Rows, RowsDataset, Schema
from jaxrec.data.splits import RowSplits, configured_splits, counted, held_by, in_words
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed
from jaxrec.losses.candidates import popularity
from jaxrec.models.base import Model, make_click_model, make_model, make_tower_model
from jaxrec.models.merrec import MERRec
from jaxrec.models.two_tower import Interactions
from jaxrec.run import Run
from jaxrec.tasks.clicks.judge import RowEvaluator
from jaxrec.tasks.events.judge import EventEvaluator, sample
from jaxrec.tasks.history import history
from jaxrec.tasks.retrieval.hits import item_categories
from jaxrec.tasks.retrieval.item_vectors import save_item_vectors
from jaxrec.tasks.retrieval.judge import RetrievalEvaluator
from jaxrec.tasks.rules import RuleBook
from jaxrec.tasks.sessions.judge import Evaluator, Split, cut_validation
from jaxrec.training.block import training_plan


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
    """The task of a configuration.

    Raises:
        UserError: model and data are of different kinds, or the splits leave nothing.
    """
    rows = isinstance(dataset, RowsDataset)
    if rows != (config.model.name in ROWS):
        kind, fits = ("rows", "autoint or two_tower") if rows else ("sessions", "gru4rec, narm or sasrec")
        if not isinstance(dataset, RowsDataset) and dataset.event_types:
            fits = "merrec, " + fits
        raise UserError(f"model.name: {config.model.name} does not read the {kind} of {dataset.path}; choose {fits}")
    if config.data.half_life is not None and dataset.manifest.get("options", {}).get("time_unit") == ORDER:
        raise UserError(f"data.half_life: counts days, and the times of {dataset.path} are counters (--time-unit "
                        "order); leave it out")  # fmt: skip
    dataset.verify()
    if not isinstance(dataset, RowsDataset):
        return event_task(config, dataset) if config.model.name == "merrec" else session_task(config, dataset)
    return row_task(config, dataset) if config.model.name == "autoint" else retrieval_task(config, dataset)


# ---- sessions --------------------------------------------------------------------------------------------------------


def session_task(config: Config, dataset: Dataset) -> Task:
    """Next items of sessions."""
    training, validation = session_splits(config, dataset)
    model = make_model(config, dataset.n_items)
    feed = model.feed(training, training_plan(config))
    return Task(
        model,
        feed,
        model.constants(popularity(training.items, dataset.n_items)),
        Evaluator(model, validation, dataset.n_items, config.evaluation) if len(validation) else None,
        f"{feed.pairs:,} targets, {dataset.n_items:,} items",
        f"{validation.counts['targets']:,} validation targets" if len(validation) else "no validation",
    )


EXAMPLES = 100  # sequences of the newest split that a run keeps, to show what is recommended


def event_task(config: Config, dataset: Dataset) -> Task:
    """Next items of sequences of events, by what items are called."""
    catalogue = open_catalogue(dataset.path, dataset.manifest, config.model.item_fields, config.data.embeddings)
    if config.model.head != "items" and not dataset.manifest["counts"].get("names", 1):
        raise UserError(f"model.head: {config.model.head} ranks items by their names, and {dataset.path} has none; set "
                        "it to items, or prepare the data again with --name")  # fmt: skip
    training, validation = session_splits(config, dataset)
    model = MERRec(config, catalogue, len(dataset.manifest["event_types"]))
    model.check()
    feed = model.feed(training, training_plan(config))
    counts = popularity(training.items, dataset.n_items)
    validator = None
    if len(validation):
        validated = sample(validation, config.evaluation.sessions)
        validator = EventEvaluator(model, validated, config.evaluation, counts > 0)
    return Task(
        model,
        feed,
        model.constants(counts),
        validator,
        f"{feed.pairs:,} targets, {dataset.n_items:,} items, {np.count_nonzero(counts):,} of them in training",
        f"{len(validator.positions):,} validation targets" if validator else "no validation",
        {"item_counts": counts, **_examples(dataset)},
        copied=catalogue.vector_files,
    )


def _examples(dataset: Dataset) -> dict[str, np.ndarray]:
    """Sequences of the test split, or where there is none of the training split, drawn at random."""
    sessions = dataset.split("test")
    if not len(sessions):
        sessions = dataset.split("train")
    picked = sample(sessions, EXAMPLES)
    assert picked.events is not None
    return {"example_items": np.asarray(picked.items), "example_events": np.asarray(picked.events),
            "example_offsets": np.asarray(picked.offsets), "example_times": np.asarray(picked.times)}  # fmt: skip


def session_splits(config: Config, dataset: Dataset) -> Split:
    """Training and validation sessions, as the configuration cuts them."""
    fraction = config.data.validation_fraction
    brought = dataset.split("validation")
    if fraction and len(brought):
        raise UserError(f"data.validation_fraction: {dataset.path} brings a validation split; set the field to 0")
    training, validation = cut_validation(dataset.split("train"), brought, fraction)
    if not training.counts["targets"]:
        raise UserError(f"{dataset.path}: no training pairs are left; lower data.validation_fraction ({fraction})")
    _check_early_stopping(config, len(validation))
    return Split(training, validation)


def _check_early_stopping(config: Config, validated: int) -> None:
    if config.training.early_stopping and not validated:
        raise UserError("training.early_stopping: needs validation data; set data.validation_fraction, such as 0.05")


# ---- rows ------------------------------------------------------------------------------------------------------------


def row_task(config: Config, dataset: RowsDataset) -> Task:
    """Labels of rows."""
    schema = dataset.schema.select(config.data.fields)
    _check_labels(dataset)
    rows, splits = selected_rows(config, dataset)
    _check_early_stopping(config, len(splits.validation))
    _check_classes(dataset, rows, splits)
    if dataset.schema.user is None and "@" in config.training.metric:
        raise UserError(f"training.metric: {config.training.metric} ranks each user's rows, and {dataset.path} has no "
                        "user field; choose auc or log_loss")  # fmt: skip
    counts = value_counts(schema, rows.columns[splits.train])
    training, validation = (known_rows(schema, rows.take(part), counts) for part in (splits.train, splits.validation))
    start = None
    if config.model.first_order == "logistic":
        with progress("fitting a logistic regression"):
            start = fit_logistic(schema, training)
    model = make_click_model(config, schema, start)
    return Task(
        model,
        model.feed(training, training_plan(config)),
        model.constants(counts),
        RowEvaluator(model, validation, config.evaluation) if len(validation) else None,
        f"{len(training):,} rows ({training.labels.mean():.1%} positive), {len(schema.fields)} fields",
        _validated(
            f"{len(validation):,} validation rows" if len(validation) else "no validation",
            splits,
            held_by(config.data, rows, dataset.schema, splits.train, splits.test, impressions=True),
        ),
        {"value_counts": counts, **history(dataset)},
    )


def _validated(words: str, splits: RowSplits, held: np.ndarray) -> str:
    """The words, and behind them what is to be said of repeated pairs; ``held``: bool[n] of the test's rows."""
    return "; ".join([words, *in_words(counted(splits, held), len(held), "test")])


def _check_labels(dataset: RowsDataset) -> None:
    """Refuse data of positives alone where labels are to be predicted."""
    if dataset.all_positive:
        rows = dataset.manifest["counts"]["rows"]
        raise UserError(f"model.name: autoint tells positive rows from others, and all {rows:,} rows of {dataset.path} "
                        f"are positive; choose two_tower, which learns from positives alone, or prepare "
                        "the data again with rows of both classes")  # fmt: skip


def _check_classes(dataset: RowsDataset, rows: Rows, splits: RowSplits) -> None:
    """Before an epoch is trained: a split of one class has nothing to teach, and no AUC."""
    for name, chosen in (("training", splits.train), ("validation", splits.validation)):
        labels = rows.labels[chosen]
        if len(labels) and labels.min() == labels.max():
            raise UserError(f"{dataset.path}: the {len(labels):,} labels of the {name} split are all {labels[0]:g}; "
                            "change data.protocol, or the fractions")  # fmt: skip


def selected_rows(config: Config, dataset: RowsDataset) -> tuple[Rows, RowSplits]:
    """All rows with the columns of the configured fields, and how they are split."""
    rows, data = dataset.rows(), config.data
    splits = configured_splits(data, rows, dataset.schema, impressions=True)
    if data.fields is None:
        return rows, splits
    numbers = [field.name for field in dataset.schema.numerical]
    picked = [numbers.index(name) for name in data.fields if name in numbers]
    columns = rows.columns[:, dataset.schema.columns(data.fields)]
    chosen = Rows(columns, rows.numbers[:, picked], rows.labels, rows.ratings, rows.times, rows.users)
    return chosen, splits


def known_rows(schema: Schema, rows: Rows, counts: np.ndarray) -> Rows:
    """The rows with values that training does not hold replaced by the unknown one."""
    columns = known(schema, rows.columns, counts)
    return Rows(columns, rows.numbers, rows.labels, rows.ratings, rows.times, rows.users)


# ---- users and the items they like -----------------------------------------------------------------------------------


def retrieval_task(config: Config, dataset: RowsDataset) -> Task:
    """Items for users: positive rows, each against other items."""
    data = Retrieval.open(config, dataset)
    training, validation = data.training_rows(), data.queries(data.splits.validation)
    _check_early_stopping(config, len(validation.users))
    # Refused before an epoch is trained, not when it is evaluated.
    item_categories(dataset, config.evaluation.category)
    RuleBook(config.recommendation.rules, dataset.schema, partial(_code, dataset))
    if config.loss.mask == "positives":
        data.check_mask(config.data.device_memory)
    model = make_tower_model(config, dataset.schema)
    feed = model.feed(training, training_plan(config))
    return Task(
        model,
        feed,
        model.constants(interactions(config, data)),
        RetrievalEvaluator(model, data, data.splits.validation, config.evaluation) if len(validation.users) else None,
        f"{len(training):,} positives of {data.n_users - 1:,} users and {data.n_items - 1:,} items",
        _validated(
            f"{len(validation.users):,} validation positives" if len(validation.users) else "no validation",
            data.splits,
            data.held_by_training(data.splits.test),
        ),
        {"value_counts": data.value_counts, **history(dataset)},
        partial(save_item_vectors, model=model, catalogue=data.catalogue),
    )


def _code(dataset: RowsDataset, field: Field, value: Any) -> int:
    return strict_code(field, value, Places(dataset.values(field.name), first=1))


def interactions(config: Config, data: Retrieval) -> Interactions:
    """What a two-tower model's training knows beside its rows."""
    positives = data.positives(data.splits.train) if config.loss.mask == "positives" else None
    return Interactions(data.catalogue.columns, data.catalogue.numbers, data.item_counts(), positives)
