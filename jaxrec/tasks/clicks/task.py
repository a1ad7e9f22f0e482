"""Labels of rows: trained on, and measured over all rows, in the ranking of each user's rows, and by group."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax import Array
from scipy.special import expit

from jaxrec.baselines.base import Choice
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, fit_logistic, held_out_calibration
from jaxrec.cli.command import progress
from jaxrec.config import Config
from jaxrec.data.dataset import Rows, RowsDataset, Schema, known, value_counts
from jaxrec.data.splits import RowData, RowSplits, configured_splits, held_by
from jaxrec.errors import UserError
from jaxrec.feeds.base import row_feed
from jaxrec.metrics.clicks import calibration, click_metrics, part_metrics
from jaxrec.metrics.ranking import random_user_ranking
from jaxrec.models.base import ClickModel, make_model
from jaxrec.ops.parallel import replicate
from jaxrec.ops.rows import mesh_of
from jaxrec.plots.pictures import reliability
from jaxrec.run import Run
from jaxrec.tasks.base import Judged, Loaded, MakePlan, Task, evaluation_plan
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.history import history
from jaxrec.tasks.moves import Moves, check_fields, field_moves
from jaxrec.tasks.report import Asked, Groups, Page, Report, by_group, repeated
from jaxrec.training.block import training_plan

OPTIONS = ("by",)
COLUMNS = ("auc", "log_loss", "ece", "ndcg", "hit_rate", "ndcg_published", "hit_rate_published")
LOGISTIC = "logistic"  # the baseline that reads all fields; the others read user and item
BASELINES: dict[str, Callable[..., Any]] = {**RATING_BASELINES, LOGISTIC: fit_logistic}
ROWS_PER_STEP = 4096
ACTIVITY = "activity"
MOST_VALUES = 12  # of a field that is reported by value unless asked for


def make(config: Config, dataset: RowsDataset, plan: MakePlan = training_plan) -> Task:
    """Labels of rows; a split of one class has nothing to teach, and no AUC."""
    schema, (rows, splits) = dataset.schema.select(config.data.fields), selected_rows(config, dataset)
    for name in ("train", "validation"):
        labels = rows.labels[getattr(splits, name)]
        if len(labels) and labels.min() == labels.max():
            raise UserError(f"{dataset.path}: the {len(labels):,} labels of the {name} split are all {labels[0]:g}, "
                            f"and {config.model.name} tells positive rows from others; change data.protocol or the "
                            "fractions, or choose two_tower, which learns from positives alone")  # fmt: skip
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
        model.feed(training, plan(config, passes=RowTraining.of(config.training).passes)),
        model.constants(counts),
        Judge(model, validation) if len(validation) else None,
        f"{len(training):,} rows ({training.labels.mean():.1%} positive), {len(schema.fields)} fields",
        {"value_counts": counts, **history(dataset)},
    )


def build(run: Run) -> ClickModel:
    """A run's model."""
    return make_model(run.config, run.schema)


def moved_rows(loaded: Loaded, config: Config, dataset: RowsDataset) -> dict[str, Moves]:
    """Where the rows of the one table come from, in which the values of all fields lie."""
    schema = dataset.schema.select(config.data.fields)
    check_fields(loaded.run, schema)
    fields = (*schema.coded, *schema.numerical)
    return {name: field_moves(loaded, dataset, config.start, fields, name) for name in loaded.model.tables}


def known_users(rows: Rows) -> np.ndarray | None:
    """int32[n] to rank by: unknown users, who are not one, as -1, in no ranking; None where all are unknown."""
    return np.where(rows.users > 0, rows.users, -1) if np.any(rows.users) else None


def selected_rows(config: Config, dataset: RowsDataset) -> tuple[Rows, RowSplits]:
    """All rows with the columns of the configured fields, and how they are split."""
    rows, data = dataset.rows(), RowData.of(config.data)
    splits = configured_splits(data, rows, dataset.schema, impressions=True)
    if data.fields is None:
        return rows, splits
    columns, numbers = dataset.schema.places(dataset.schema.select(data.fields))
    return replace(rows, columns=rows.columns[:, columns], numbers=rows.numbers[:, numbers]), splits


def known_rows(schema: Schema, rows: Rows, counts: np.ndarray) -> Rows:
    """The rows with values that training does not hold replaced by the unknown one."""
    return replace(rows, columns=known(schema, rows.columns, schema.apart(counts)))


# ---- evaluation ------------------------------------------------------------------------------------------------------


class Judge:
    """Scores the rows of a split; what is compiled and laid out is kept from call to call."""

    def __init__(self, model: ClickModel, rows: Rows) -> None:
        self.rows, self.targets = rows, len(rows)
        batch = min(ROWS_PER_STEP, max(1, len(rows)))
        self._feed = row_feed(rows, evaluation_plan(batch))
        self.blocks = self._feed.shape.blocks

        def block_logits(params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> Array:
            return jax.lax.map(lambda step: model.logits(params, tables, *step), (columns, numbers))

        self._logits = jax.jit(block_logits)

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None
    ) -> Judged:
        """AUC, log loss, calibration error, and the rankings of each user's rows at ``ks``; ``logit`` float32[n]."""
        found, mesh = [], mesh_of(weights)
        for block in self._feed.epoch(0):
            block = block if mesh is None else replicate(block, mesh)
            found.append(self._logits(weights["params"], weights["tables"], block.columns, block.numbers).reshape(-1))
            if update is not None:
                update()
        logits = np.concatenate([np.asarray(part) for part in found])[: len(self.rows)]
        return Judged(click_metrics(logits, self.rows.labels, known_users(self.rows), ks), {"logit": logits})


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines beside it; a page is the picture of the run's calibration."""
    run, split, ks, data = asked.run, asked.split, asked.ks, asked.data
    pairs = data.schema.user is not None and data.schema.item is not None
    compared = asked.compared(BASELINES if pairs else {LOGISTIC: fit_logistic})
    rows, splits = selected_rows(asked.config, data)
    chosen, schema = getattr(splits, split), data.schema.select(asked.config.data.fields)
    if not len(chosen):
        raise UserError(f"{data.path}: the {split} split is empty; choose another --split")
    part, notes = rows.take(chosen), list[str]()
    users = known_users(part)
    judged, found = asked.measure(Judge(asked.loaded.model, known_rows(schema, part, run.kept("value_counts"))))
    logits, groups = judged.arrays["logit"], groups_of(asked, rows, splits.train, chosen)
    result = {**found, "rows": len(chosen), "positive": round(float(part.labels.mean()), 6)}
    if users is not None:
        result["chance"] = random_user_ranking(part.labels, users, ks)
    if split != "train":
        section = RowData.of(asked.config.data)
        held = held_by(section, data.rows(), data.schema, splits.train, chosen, impressions=True)
        result["repeats"], notes = repeated(asked, splits, held, groups)
    result["groups"] = by_group(groups, lambda chosen: part_metrics(logits, part.labels, users, chosen, ks))
    if compared:
        result["baselines"] = measure(compared, data, schema, rows, splits.train, chosen, ks)
    picture, reliable = run.path / f"eval-{split}-reliability.png", calibration(expit(logits), part.labels)
    page: Page = (picture, lambda: reliability(reliable, picture, f"{run.path.name}, {split}"))
    return Report(result, ks, COLUMNS, notes, [page])


def groups_of(asked: Asked, rows: Rows, train: np.ndarray, chosen: np.ndarray) -> Groups:
    """The chosen rows by ``activity``, quartiles of the user's number of training rows, and by fields of the user."""
    dataset: RowsDataset = asked.data
    schema, names, usual = dataset.schema, list[str](), list[str]()
    if schema.user is not None:
        fields = [f for f in schema.side("user").coded if f.kind == "categorical" and f.name != schema.user]
        names, usual = ([ACTIVITY, *(f.name for f in fields if f.size <= most)] for most in (np.inf, MOST_VALUES))
    found: Groups = {}
    for name in asked.groups(names, usual):
        if name == ACTIVITY:
            counts = np.bincount(rows.users[train], minlength=int(rows.users.max()) + 1)
            users = rows.users[chosen]
            edges = np.quantile(counts[np.unique(users)], [0.25, 0.5, 0.75]).astype(int)
            between = [f"{low + 1} to {high}" for low, high in pairwise(edges)]
            titles = [f"up to {edges[0]} training rows", *between, f"more than {edges[2]}"]
            codes = np.searchsorted(edges, counts[users], side="left")
        else:
            titles = ["unknown", *map(str, dataset.values(name))]
            codes = np.asarray(dataset.array("rows/columns.npy"))[chosen, schema.columns((name,))[0]]
        found[name] = {title: codes == code for code, title in enumerate(titles)}
    return found


def measure(
    choices: Sequence[Choice], dataset: RowsDataset, schema: Schema, rows: Rows, train: np.ndarray, chosen: np.ndarray,
    ks: Sequence[int],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Metrics of baselines fitted on the training rows; ``schema``: the fields that ``rows`` has."""
    asked, found = rows.take(chosen), {}
    for choice in choices:
        begin = time.perf_counter()
        logits = fit_baseline(choice, dataset, schema, rows, train)(chosen)
        found[choice.text] = click_metrics(logits, asked.labels, known_users(asked), ks)
        found[choice.text]["seconds"] = round(time.perf_counter() - begin, 3)
    return found


def fit_baseline(
    choice: Choice, dataset: RowsDataset, schema: Schema, rows: Rows, train: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
    """A baseline fitted on the training rows: row numbers to float32[n] log odds; see ``measure``."""
    if choice.name == LOGISTIC:
        logistic = choice.fit(schema, rows.take(train))
        return lambda chosen: np.asarray(logistic.logits(schema, rows.take(chosen)))
    every = dataset.schema
    names = str(every.user), str(every.item)
    user, item = dataset.rows().columns[:, every.columns(names)].T
    pairs = RatingRows(user, item, rows.ratings, rows.labels)
    fitted = held_out_calibration(choice.fit, pairs.take(train), *map(every.size, names))
    return lambda chosen: fitted(user[chosen], item[chosen])
