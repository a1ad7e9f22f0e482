"""Labels of rows, as the training loop sees them."""

from __future__ import annotations

from jaxrec.baselines.logistic import fit_logistic
from jaxrec.cli.command import progress
from jaxrec.config import Config
from jaxrec.data.retrieval import value_counts
from jaxrec.data.rows import RowsDataset
from jaxrec.data.splits import RowData, held_by
from jaxrec.errors import UserError
from jaxrec.models.base import ClickModel, make_model
from jaxrec.run import Run
from jaxrec.tasks.base import Task, check_early_stopping, validated_rows
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.clicks.judge import Judge, known_rows, selected_rows
from jaxrec.tasks.history import history
from jaxrec.training.block import training_plan


def make(config: Config, dataset: RowsDataset) -> Task:
    """Labels of rows. Before an epoch is trained: a split of one class has nothing to teach, and no AUC."""
    schema = dataset.schema.select(config.data.fields)
    if dataset.all_positive:
        rows = dataset.manifest["counts"]["rows"]
        raise UserError(f"model.name: autoint tells positive rows from others, and all {rows:,} rows of {dataset.path} "
                        f"are positive; choose two_tower, which learns from positives alone, or prepare "
                        "the data again with rows of both classes")  # fmt: skip
    rows, splits = selected_rows(config, dataset)
    check_early_stopping(config, len(splits.validation))
    for name in ("train", "validation"):
        labels = rows.labels[getattr(splits, name)]
        if len(labels) and labels.min() == labels.max():
            raise UserError(f"{dataset.path}: the {len(labels):,} labels of the {name} split are all {labels[0]:g}; "
                            "change data.protocol, or the fractions")  # fmt: skip
    if dataset.schema.user is None and "@" in config.training.metric:
        raise UserError(f"training.metric: {config.training.metric} ranks each user's rows, and {dataset.path} has no "
                        "user field; choose auc or log_loss")  # fmt: skip
    counts = value_counts(schema, rows.columns[splits.train])
    training, validation = (known_rows(schema, rows.take(part), counts) for part in (splits.train, splits.validation))
    start = None
    if config.model.first_order == "logistic":
        with progress("fitting a logistic regression"):
            start = fit_logistic(schema, training)
    model = make_model(config, schema, start)
    return Task(
        model,
        model.feed(training, training_plan(config, passes=RowTraining.of(config.training).passes)),
        model.constants(counts),
        Judge(model, validation) if len(validation) else None,
        f"{len(training):,} rows ({training.labels.mean():.1%} positive), {len(schema.fields)} fields",
        validated_rows(
            f"{len(validation):,} validation rows" if len(validation) else "no validation",
            splits,
            held_by(RowData.of(config.data), rows, dataset.schema, splits.train, splits.test, impressions=True),
        ),
        {"value_counts": counts, **history(dataset)},
    )


def build(run: Run) -> ClickModel:
    """A run's model."""
    return make_model(run.config, run.schema)
