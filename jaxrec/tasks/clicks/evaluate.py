"""The metrics of a click model's run on a split of rows, by group, and beside baselines; see jaxrec/evaluate.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jax.nn import sigmoid

from jaxrec.baselines.logistic import fit_logistic
from jaxrec.baselines.ratings import RATING_BASELINES, RatingRows, held_out_calibration
from jaxrec.cli.command import progress
from jaxrec.config import Config
from jaxrec.data.rows import Rows, RowsDataset, Schema
from jaxrec.data.splits import PAIRS, RowData, RowSplits, counted, held_by, in_words
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.chance import random_user_ranking
from jaxrec.metrics.clicks import Calibration, by_group, calibration, click_metrics
from jaxrec.run import Run, open_run_data
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks.judge import RowEvaluator, known_users
from jaxrec.tasks.clicks.task import known_rows, selected_rows
from jaxrec.tasks.results import question

ACTIVITY = "activity"
MOST_VALUES = 12  # of a field that is reported by value unless asked for


def evaluate_rows(
    run: Run,
    split: str,
    ks: Sequence[int],
    data: str | Path | None = None,
    compared: Sequence[str] = (),
    groups: Sequence[str] | None = None,
) -> tuple[dict[str, Any], Calibration]:
    """Metrics of a run on a split, as they are written to ``eval-<split>.json``, and its reliability by bin.

    Args:
        ks: cut-offs of the rankings of each user's rows.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
        compared: names of baselines to fit on the run's training rows and measure beside it.
        groups: ``activity`` and fields of the user to report by; None for activity and those with few values.
    """
    dataset = open_run_data(run, data or run.config.data.path)
    assert isinstance(dataset, RowsDataset)
    dataset.verify()
    rows, splits = selected_rows(run.config, dataset)
    chosen = _chosen(splits, split, dataset.path)
    _, model, parameters, which = load(run)
    begin = time.perf_counter()
    known = known_rows(run.schema, rows.take(chosen), run.value_counts())
    evaluator = RowEvaluator(model, known, run.config.evaluation)
    with progress(f"evaluate: {split}", evaluator.blocks) as update:
        logits = evaluator.logits(parameters["params"], parameters["tables"], update)
    users = known_users(known.users)
    result: dict[str, Any] = {
        "split": split,
        "rows": len(known),
        "positive": round(float(known.labels.mean()), 6),
        "checkpoint": which,
        **click_metrics(logits, known.labels, users, ks),
        "seconds": round(time.perf_counter() - begin, 3),
        "question": question(run, split, which),
    }
    if users is not None:
        result["chance"] = random_user_ranking(known.labels, users, ks)
    held = held_by(RowData.of(run.config.data), dataset.rows(), dataset.schema, splits.train, chosen, impressions=True)
    if split != "train":
        result["repeats"] = counted(splits, held)
    result["groups"] = _groups(dataset, rows, splits.train, chosen, logits, ks, groups)
    if groups is None and split != "train" and held.any():
        parted = by_group(logits, known.labels, users, held, PAIRS, ks)
        result["groups"]["pair"] = {title: metrics for title, metrics in parted.items() if metrics["rows"]}
    if compared:
        result["baselines"] = measure_baselines(compared, dataset, run.schema, rows, splits.train, chosen, ks)
    return result, calibration(sigmoid(logits), known.labels)


def evaluate_row_baselines(
    dataset: RowsDataset, config: Config, split: str, ks: Sequence[int], compared: Sequence[str]
) -> dict[str, Any]:
    """Metrics of baselines without a run, on the split that ``config.data`` makes."""
    if dataset.all_positive:
        rows = dataset.manifest["counts"]["rows"]
        raise UserError(f"--baselines: those of rows predict labels, and all {rows:,} rows of {dataset.path} are "
                        "positive; train two_tower on them and measure als and others beside it with --run DIR "
                        "--baselines all")  # fmt: skip
    dataset.verify()
    rows, splits = selected_rows(config, dataset)
    chosen = _chosen(splits, split, dataset.path)
    schema = dataset.schema.select(config.data.fields)
    found = measure_baselines(compared, dataset, schema, rows, splits.train, chosen, ks)
    result: dict[str, Any] = {"split": split, "rows": len(chosen), "fitted_on": len(splits.train)}
    if (users := known_users(rows.users[chosen])) is not None:
        result["chance"] = random_user_ranking(rows.labels[chosen], users, ks)
    return {**result, "baselines": found}


LOGISTIC = "logistic"
ROW_BASELINES = (*RATING_BASELINES, LOGISTIC)
"""Names of the baselines of rows: those of user and item, and the one that reads all fields."""


def measure_baselines(
    names: Sequence[str], dataset: RowsDataset, schema: Schema, rows: Rows, train: np.ndarray, chosen: np.ndarray,
    ks: Sequence[int],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Metrics of baselines fitted on the training rows.

    Args:
        names: of ``ROW_BASELINES``; where the data has no user and item fields, ``logistic`` is the only one.
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
            scores = fitted.score(every.user[chosen], every.item[chosen])
            # A held-out tenth turns scores into probabilities.
            logits = (fitted.calibration.slope * scores + fitted.calibration.intercept).astype(np.float32)
        found[name] = click_metrics(logits, rows.labels[chosen], users, ks)
        found[name]["seconds"] = round(time.perf_counter() - begin, 3)
    return found


def _possible(names: Sequence[str], dataset: RowsDataset) -> Sequence[str]:
    """The names, without those of user and item where all were asked for and the data has no such fields."""
    if dataset.schema.user is not None and dataset.schema.item is not None:
        return names
    if set(names) <= {LOGISTIC} or set(names) == set(ROW_BASELINES):
        return [LOGISTIC]
    wrong = next(name for name in names if name != LOGISTIC)
    raise UserError(f"--baselines {wrong}: {dataset.path} has no user and item fields, which it needs; there is "
                    f"{LOGISTIC}")  # fmt: skip


def _rating_rows(dataset: RowsDataset, rows: Rows) -> tuple[RatingRows, int, int]:
    """Users, items, ratings and labels of all rows, and how many users and items there are, the unknown ones too."""
    schema = dataset.schema
    assert schema.user is not None
    assert schema.item is not None
    columns = np.asarray(dataset.array("rows/columns.npy"))
    user, item = (columns[:, schema.columns((side,))[0]] for side in (schema.user, schema.item))
    sizes = {field.name: field.size for field in schema.fields}
    return RatingRows(user, item, rows.ratings, rows.labels), sizes[schema.user], sizes[schema.item]


def _chosen(splits: RowSplits, split: str, path: Path) -> np.ndarray:
    chosen: np.ndarray = getattr(splits, split)
    if not len(chosen):
        raise UserError(f"{path}: the {split} split is empty; choose another --split")
    return chosen


def _groups(
    dataset: RowsDataset,
    rows: Rows,
    train: np.ndarray,
    chosen: np.ndarray,
    logits: np.ndarray,
    ks: Sequence[int],
    wanted: Sequence[str] | None,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Metrics by quartile of the user's number of training rows, and by value of fields of the user."""
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
    users, labels = rows.users[chosen], rows.labels[chosen]
    ranked = known_users(users)
    result = {}
    for name in wanted:
        if name == ACTIVITY:
            group, titles = _by_activity(rows.users, train, users)
        else:
            column = schema.columns((name,))[0]
            group = np.asarray(dataset.array("rows/columns.npy"))[chosen, column]
            titles = ["unknown", *map(str, dataset.values(name))]
        found = by_group(logits, labels, ranked, group, titles, ks)
        result[name] = {title: metrics for title, metrics in found.items() if metrics["rows"]}
    return result


def _by_activity(users: np.ndarray, train: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The quartile of each asked row's user among users, by training rows; and what each quartile is."""
    counts = np.bincount(users[train], minlength=int(users.max()) + 1)
    edges = np.quantile(counts[np.unique(asked)], [0.25, 0.5, 0.75]).astype(int)
    between = [f"{low + 1} to {high}" for low, high in pairwise(edges)]
    titles = [f"up to {edges[0]} training rows", *between, f"more than {edges[2]}"]
    return np.searchsorted(edges, counts[asked], side="left"), titles


# ---- tables ----------------------------------------------------------------------------------------------------------


def row_table(result: dict[str, Any], ks: Sequence[int], files: Sequence[Path]) -> str:
    """What the command prints about a run."""
    lines = [
        f"{result['split']}: {result['rows']:,} rows, {result['positive']:.1%} positive, {result['checkpoint']} "
        f"checkpoint, {result['seconds']:.1f} s",
        *metrics_table({"this run": result, **beside(result)}, ks),
    ]
    if "repeats" in result:
        lines += in_words(result["repeats"], result["rows"], result["split"])
    for name, groups in result["groups"].items():
        lines += ["", f"by {name}", *metrics_table(groups, ks[:1])]
    return "\n".join([*lines, *(f"written to {file}" for file in files)])


def beside(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of the table beside the run's own: chance, where users have rows to be ranked, and baselines."""
    chance = {"chance": result["chance"]} if "chance" in result else {}
    return chance | result.get("baselines", {})


def metrics_table(rows: dict[str, dict[str, Any]], ks: Sequence[int]) -> list[str]:
    """A line for each row of metrics, under a head."""
    kinds = [f"{kind}@{k}" for k in ks for kind in ("ndcg", "hit_rate", "ndcg_published", "hit_rate_published")]
    names = ["auc", "log_loss", "ece", *(kind for kind in kinds if any(kind in row for row in rows.values()))]
    short = {name: name.replace("hit_rate", "hit").replace("published", "publ").replace("_", " ") for name in names}
    width = max(len("this run"), *map(len, rows))
    lines = [" " * width + "".join(f"{short[name]:>14}" for name in names)]
    for title, row in rows.items():
        cells = (f"{'-':>14}" if row.get(name) is None else f"{row[name]:14.4f}" for name in names)
        count = f"{row['rows']:>12,} rows" if "rows" in row and title != "this run" else ""
        lines.append(f"{title:{width}}" + "".join(cells) + count)
    return lines
