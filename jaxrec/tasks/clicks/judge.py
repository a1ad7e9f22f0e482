"""Metrics of labels: of all rows, of the ranking of each user's rows, by group, and beside baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.nn import sigmoid

from jaxrec import config as configuration
from jaxrec.baselines.logistic import fit_logistic
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, held_out_calibration
from jaxrec.cli.command import progress
from jaxrec.cli.options import parse_baselines
from jaxrec.config import Config
from jaxrec.data.retrieval import known
from jaxrec.data.rows import Rows, RowsDataset, Schema
from jaxrec.data.splits import PAIRS, RowData, RowSplits, configured_splits, counted, held_by, in_words
from jaxrec.errors import UserError, nearest
from jaxrec.feeds.base import Plan
from jaxrec.feeds.rows import row_feed
from jaxrec.metrics.chance import random_user_ranking
from jaxrec.metrics.clicks import by_group, calibration, click_metrics
from jaxrec.models.base import ClickModel
from jaxrec.plots.clicks import reliability
from jaxrec.tasks.base import Judged, load
from jaxrec.tasks.report import Asked, Report

OPTIONS = ("by",)
COLUMNS = ("auc", "log_loss", "ece", "ndcg", "hit_rate", "ndcg_published", "hit_rate_published")
LOGISTIC = "logistic"
BASELINES = (*RATING_BASELINES, LOGISTIC)
"""Names of the baselines of rows: those of user and item, and the one that reads all fields."""
ROWS_PER_STEP = 4096
STEPS_PER_BLOCK = 32
ACTIVITY = "activity"
MOST_VALUES = 12  # of a field that is reported by value unless asked for


class Judge:
    """Scores the rows of a split; what is compiled and laid out is kept from call to call."""

    def __init__(self, model: ClickModel, rows: Rows) -> None:
        self.rows = rows
        batch = min(ROWS_PER_STEP, max(1, len(rows)))
        self._feed = row_feed(rows, Plan(batch, STEPS_PER_BLOCK, order="time", seed=0, device_bytes=2**30))
        self.blocks = self._feed.shape.blocks

        def block_logits(params: Any, tables: dict[str, Array], columns: Array, numbers: Array) -> Array:
            return jax.lax.map(lambda step: model.logits(params, tables, *step), (columns, numbers))

        self._logits = jax.jit(block_logits)

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None
    ) -> Judged:
        """AUC, log loss, calibration error, and the rankings of each user's rows at ``ks``; ``logit`` float32[n].

        Args:
            top: of no use here.
            update: called after each block, for a progress bar.
        """
        found = []
        for block in self._feed.epoch(0):
            found.append(self._logits(weights["params"], weights["tables"], block.columns, block.numbers).reshape(-1))
            if update is not None:
                update()
        logits = np.concatenate([np.asarray(part) for part in found])[: len(self.rows)]
        users = known_users(self.rows.users)
        return Judged(click_metrics(logits, self.rows.labels, users, ks), {"logit": logits})


def known_users(users: np.ndarray) -> np.ndarray | None:
    """int32[n] to rank by: unknown users, who are not one, as -1, in no ranking; None where all are unknown."""
    return np.where(users > 0, users, -1) if np.any(users) else None


def selected_rows(config: Config, dataset: RowsDataset) -> tuple[Rows, RowSplits]:
    """All rows with the columns of the configured fields, and how they are split."""
    rows, data = dataset.rows(), RowData.of(config.data)
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


# ---- a run -----------------------------------------------------------------------------------------------------------


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines; a page is the picture of its calibration."""
    run, split, ks, dataset = asked.run, asked.split, asked.ks, asked.data
    compared = [] if asked.baselines is None else parse_baselines(asked.baselines, BASELINES, "of rows")
    assert isinstance(dataset, RowsDataset)
    rows, splits = selected_rows(run.config, dataset)
    chosen = _chosen(splits, split, dataset.path)
    _, model, weights, which = load(run)
    begin = time.perf_counter()
    known = known_rows(run.schema, rows.take(chosen), run.value_counts())
    judge = Judge(model, known)
    with progress(f"evaluate: {split}", judge.blocks) as update:
        judged = judge(weights, ks, update=update)
    logits, users = judged.arrays["logit"], known_users(known.users)
    result: dict[str, Any] = {
        "split": split,
        "rows": len(known),
        "positive": round(float(known.labels.mean()), 6),
        "checkpoint": which,
        **judged.metrics,
        "seconds": round(time.perf_counter() - begin, 3),
        "question": asked.question(which),
    }
    if users is not None:
        result["chance"] = random_user_ranking(known.labels, users, ks)
    held = held_by(RowData.of(run.config.data), dataset.rows(), dataset.schema, splits.train, chosen, impressions=True)
    if split != "train":
        result["repeats"] = counted(splits, held)
    result["groups"] = {
        name: _defined(by_group(logits, known.labels, users, group, titles, ks))
        for name, (group, titles) in groups_of(dataset, rows, splits.train, chosen, asked.by).items()
    }
    if asked.by is None and split != "train" and held.any():
        result["groups"]["pair"] = _defined(by_group(logits, known.labels, users, held, PAIRS, ks))
    if compared:
        result["baselines"] = measure(compared, dataset, run.schema, rows, splits.train, chosen, ks)
    picture, reliable = run.path / f"eval-{split}-reliability.png", calibration(sigmoid(logits), known.labels)
    page = (picture, lambda: reliability(reliable, picture, f"{run.path.name}, {split}"))
    notes = in_words(result["repeats"], len(known), split) if "repeats" in result else []
    return Report(result, ks, COLUMNS, notes, [page])


def _defined(groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {title: metrics for title, metrics in groups.items() if metrics["rows"]}


def _chosen(splits: RowSplits, split: str, path: Path) -> np.ndarray:
    chosen: np.ndarray = getattr(splits, split)
    if not len(chosen):
        raise UserError(f"{path}: the {split} split is empty; choose another --split")
    return chosen


def groups_of(
    dataset: RowsDataset, rows: Rows, train: np.ndarray, chosen: np.ndarray, wanted: Sequence[str] | None
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """int[n] group of each chosen row and the groups' titles, by ``activity``, the quartile of the user's number of
    training rows, and by fields of the user."""
    schema = dataset.schema
    if schema.user is None:
        if wanted:
            raise UserError(f"--groups: {dataset.path} has no user field; leave the option out")
        return {}
    fields = [f for f in schema.coded if f.side == "user" and f.kind == "categorical" and f.name != schema.user]
    names = [ACTIVITY, *(field.name for field in fields)]
    for name in wanted or ():
        if name not in names:
            raise UserError(f"--groups {name}: no such group{nearest(name, names)}; there are {', '.join(names)}")
    if wanted is None:
        wanted = [ACTIVITY, *(field.name for field in fields if field.size <= MOST_VALUES)]
    found = {}
    for name in wanted:
        if name == ACTIVITY:
            found[name] = _by_activity(rows.users, train, rows.users[chosen])
        else:
            column = np.asarray(dataset.array("rows/columns.npy"))[chosen, schema.columns((name,))[0]]
            found[name] = column, ["unknown", *map(str, dataset.values(name))]
    return found


def _by_activity(users: np.ndarray, train: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The quartile of each asked row's user among users, by training rows; and what each quartile is."""
    counts = np.bincount(users[train], minlength=int(users.max()) + 1)
    edges = np.quantile(counts[np.unique(asked)], [0.25, 0.5, 0.75]).astype(int)
    between = [f"{low + 1} to {high}" for low, high in pairwise(edges)]
    titles = [f"up to {edges[0]} training rows", *between, f"more than {edges[2]}"]
    return np.searchsorted(edges, counts[asked], side="left"), titles


# ---- baselines -------------------------------------------------------------------------------------------------------


def evaluate_baselines(
    data: RowsDataset, split: str, ks: Sequence[int] | None, names: Sequence[str], fraction: float = 0.0,
    coverage: bool = True, protocol: str | None = None,
) -> Report:  # fmt: skip
    """Metrics of baselines without a run.

    Args:
        fraction, protocol: ``data.validation_fraction`` and ``data.protocol``; None for ``rows``.
        coverage: of sessions; rows have none.
    """
    if not coverage:
        raise UserError(f"--no-coverage: belongs to sessions, and {data.path} has none; leave it out")
    compared = parse_baselines(names, BASELINES, "of rows")
    if data.all_positive:
        rows = data.manifest["counts"]["rows"]
        raise UserError(f"--baselines: those of rows predict labels, and all {rows:,} rows of {data.path} are "
                        "positive; train two_tower on them and measure als and others beside it with --run DIR "
                        "--baselines all")  # fmt: skip
    section = {"path": str(data.path), "protocol": protocol or "rows", "validation_fraction": fraction}
    section |= {"test_fraction": 0.1} if protocol == "paper" else {}
    config = configuration.parse({"data": section, "model": {"name": "autoint"}, "training": {"metric": "auc"}})
    data.verify()
    rows, splits = selected_rows(config, data)
    chosen, ks = _chosen(splits, split, data.path), ks or [10]
    result: dict[str, Any] = {"split": split, "rows": len(chosen), "fitted_on": len(splits.train)}
    if (users := known_users(rows.users[chosen])) is not None:
        result["chance"] = random_user_ranking(rows.labels[chosen], users, ks)
    result["baselines"] = measure(compared, data, data.schema, rows, splits.train, chosen, ks)
    return Report(result, ks, COLUMNS)


def measure(
    names: Sequence[str], dataset: RowsDataset, schema: Schema, rows: Rows, train: np.ndarray, chosen: np.ndarray,
    ks: Sequence[int],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Metrics of baselines fitted on the training rows.

    Args:
        names: of ``BASELINES``; where the data has no user and item fields, ``logistic`` is the only one.
        schema: the fields that ``rows`` has.
    """
    users, names = known_users(rows.users[chosen]), _possible(names, dataset)
    every, *sizes = _rating_rows(dataset, rows) if set(names) != {LOGISTIC} else (None, 0, 0)
    found = {}
    for name in names:
        begin = time.perf_counter()
        if name == LOGISTIC:
            logits = fit_logistic(schema, rows.take(train)).logits(schema, rows.take(chosen))
        else:
            assert every is not None
            fitted = held_out_calibration(RATING_BASELINES[name], every.take(train), *sizes)
            logits = fitted.logits(every.user[chosen], every.item[chosen])
        found[name] = click_metrics(logits, rows.labels[chosen], users, ks)
        found[name]["seconds"] = round(time.perf_counter() - begin, 3)
    return found


def _possible(names: Sequence[str], dataset: RowsDataset) -> Sequence[str]:
    """The names, without those of user and item where all were asked for and the data has no such fields."""
    if dataset.schema.user is not None and dataset.schema.item is not None:
        return names
    if set(names) <= {LOGISTIC} or set(names) == set(BASELINES):
        return [LOGISTIC]
    wrong = next(name for name in names if name != LOGISTIC)
    raise UserError(f"--baselines {wrong}: {dataset.path} has no user and item fields, which it needs; there is "
                    f"{LOGISTIC}")  # fmt: skip


def _rating_rows(dataset: RowsDataset, rows: Rows) -> tuple[RatingRows, int, int]:
    """Users, items, ratings and labels of all rows, and how many users and items there are, the unknown ones too."""
    schema = dataset.schema
    columns = np.asarray(dataset.array("rows/columns.npy"))
    user, item = (columns[:, schema.columns((str(side),))[0]] for side in (schema.user, schema.item))
    sizes = {field.name: field.size for field in schema.fields}
    return RatingRows(user, item, rows.ratings, rows.labels), sizes[str(schema.user)], sizes[str(schema.item)]
