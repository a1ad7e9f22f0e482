"""Metrics of labels: of all rows, of the ranking of each user's rows, by group, and beside baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.nn import sigmoid

from jaxrec import config as configuration
from jaxrec.baselines.logistic import fit_logistic
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, held_out_calibration
from jaxrec.cli.command import parse_baselines, progress
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
        """AUC, log loss, calibration error, and the rankings of each user's rows at ``ks``; ``logit`` float32[n]. See
        ``jaxrec.tasks.base.Judge``.
        """
        found = []
        for block in self._feed.epoch(0):
            found.append(self._logits(weights["params"], weights["tables"], block.columns, block.numbers).reshape(-1))
            if update is not None:
                update()
        logits = np.concatenate([np.asarray(part) for part in found])[: len(self.rows)]
        return Judged(click_metrics(logits, self.rows.labels, known_users(self.rows), ks), {"logit": logits})


def known_users(rows: Rows) -> np.ndarray | None:
    """int32[n] to rank by: unknown users, who are not one, as -1, in no ranking; None where all are unknown."""
    return np.where(rows.users > 0, rows.users, -1) if np.any(rows.users) else None


def selected_rows(config: Config, dataset: RowsDataset) -> tuple[Rows, RowSplits]:
    """All rows with the columns of the configured fields, and how they are split."""
    rows, data = dataset.rows(), RowData.of(config.data)
    splits = configured_splits(data, rows, dataset.schema, impressions=True)
    if data.fields is None:
        return rows, splits
    numbers = [field.name for field in dataset.schema.numerical]
    picked = [numbers.index(name) for name in data.fields if name in numbers]
    columns = rows.columns[:, dataset.schema.columns(data.fields)]
    return replace(rows, columns=columns, numbers=rows.numbers[:, picked]), splits


def known_rows(schema: Schema, rows: Rows, counts: np.ndarray) -> Rows:
    """The rows with values that training does not hold replaced by the unknown one."""
    return replace(rows, columns=known(schema, rows.columns, counts))


# ---- a run -----------------------------------------------------------------------------------------------------------


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines; a page is the picture of its calibration."""
    run, split, ks, dataset = asked.run, asked.split, asked.ks, asked.data
    compared = [] if asked.baselines is None else parse_baselines(asked.baselines, BASELINES, "of rows")
    assert isinstance(dataset, RowsDataset)
    rows, splits = selected_rows(run.config, dataset)
    chosen = _chosen(splits, split, dataset)
    _, model, weights, which = load(run)
    begin = time.perf_counter()
    known = known_rows(run.schema, rows.take(chosen), run.value_counts())
    judge = Judge(model, known)
    with progress(f"evaluate: {split}", judge.blocks) as update:
        judged = judge(weights, ks, update=update)
    logits, users = judged.arrays["logit"], known_users(known)
    result: dict[str, Any] = {
        "split": split,
        "rows": len(known),
        "positive": round(float(known.labels.mean()), 6),
        "checkpoint": which,
        **judged.metrics,
        "seconds": round(time.perf_counter() - begin, 3),
        "question": asked.question(which),
        **_chance(known, ks),
    }
    groups, notes = groups_of(dataset, rows, splits.train, chosen, asked.by), []
    if split != "train":
        data = RowData.of(run.config.data)
        held = held_by(data, dataset.rows(), dataset.schema, splits.train, chosen, impressions=True)
        result["repeats"] = counted(splits, held)
        notes = in_words(result["repeats"], len(known), split)
        if asked.by is None and held.any():
            groups["pair"] = held, list(PAIRS)
    result["groups"] = {}
    for name, (group, titles) in groups.items():
        parts = by_group(logits, known.labels, users, group, titles, ks)
        result["groups"][name] = {title: metrics for title, metrics in parts.items() if metrics["rows"]}
    if compared:
        result["baselines"] = measure(compared, dataset, run.schema, rows, splits.train, chosen, ks)
    picture, reliable = run.path / f"eval-{split}-reliability.png", calibration(sigmoid(logits), known.labels)
    page = (picture, lambda: reliability(reliable, picture, f"{run.path.name}, {split}"))
    return Report(result, ks, COLUMNS, notes, [page])


def _chosen(splits: RowSplits, split: str, dataset: RowsDataset) -> np.ndarray:
    chosen: np.ndarray = getattr(splits, split)
    if not len(chosen):
        raise UserError(f"{dataset.path}: the {split} split is empty; choose another --split")
    return chosen


def _chance(rows: Rows, ks: Sequence[int]) -> dict[str, Any]:
    users = known_users(rows)
    return {} if users is None else {"chance": random_user_ranking(rows.labels, users, ks)}


def groups_of(
    dataset: RowsDataset, rows: Rows, train: np.ndarray, chosen: np.ndarray, wanted: Sequence[str] | None
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """int[n] group of each chosen row and the groups' titles, by ``activity``, the quartile of the user's number of
    training rows, and by fields of the user.
    """
    schema, names = dataset.schema, []
    if schema.user is not None:
        fields = [f for f in schema.side("user").coded if f.kind == "categorical" and f.name != schema.user]
        names = [ACTIVITY, *(field.name for field in fields)]
        wanted = [ACTIVITY, *(f.name for f in fields if f.size <= MOST_VALUES)] if wanted is None else wanted
    found = {}
    for name in wanted or ():
        if name not in names:
            known = ", ".join(names) or "none without a user field"
            raise UserError(f"--groups {name}: no such group{nearest(name, names)}; there are {known}")
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
    """Metrics of baselines without a run; ``fraction`` and ``protocol`` are ``data.validation_fraction`` and
    ``data.protocol``; ``coverage`` belongs to sessions.
    """
    compared = parse_baselines(names, BASELINES, "of rows")
    if not coverage:
        raise UserError(f"--no-coverage: belongs to sessions, and {data.path} has none; leave it out")
    if data.all_positive:
        raise UserError(f"--baselines: those of rows predict labels, and all of {data.path} are positive; train "
                        "two_tower on them and measure als and others beside it")  # fmt: skip
    section = {"path": str(data.path), "protocol": protocol or "rows", "validation_fraction": fraction}
    section |= {"test_fraction": 0.1} if protocol == "paper" else {}
    config = configuration.parse({"data": section, "model": {"name": "autoint"}, "training": {"metric": "auc"}})
    data.verify()
    rows, splits = selected_rows(config, data)
    chosen, ks = _chosen(splits, split, data), ks or [10]
    result: dict[str, Any] = {"split": split, "rows": len(chosen), "fitted_on": len(splits.train)}
    result |= _chance(rows.take(chosen), ks)
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
    every, asked, found = dataset.schema, rows.take(chosen), {}
    if every.user is None or every.item is None:
        names = [LOGISTIC] if set(names) == set(BASELINES) else names
    for name in names:
        begin = time.perf_counter()
        if name == LOGISTIC:
            logits = fit_logistic(schema, rows.take(train)).logits(schema, asked)
        elif every.user is None or every.item is None:
            raise UserError(f"--baselines {name}: {dataset.path} has no user and item fields, which it needs; there is "
                            f"{LOGISTIC}")  # fmt: skip
        else:
            user, item = dataset.rows().columns[:, every.columns((every.user, every.item))].T
            pairs = RatingRows(user, item, rows.ratings, rows.labels)
            sizes = every.size(every.user), every.size(every.item)
            fitted = held_out_calibration(RATING_BASELINES[name], pairs.take(train), *sizes)
            logits = fitted.logits(pairs.user[chosen], pairs.item[chosen])
        found[name] = click_metrics(logits, asked.labels, known_users(asked), ks)
        found[name]["seconds"] = round(time.perf_counter() - begin, 3)
    return found
