"""Metrics of click models: AUC, log loss and calibration over all rows, NDCG and hit rate over each user's own rows;
from scores and logits float32[n], labels float32[n], 0 or 1, and users int[n], in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from jaxrec.errors import UserError


class Calibration(NamedTuple):
    """Predicted and observed click rates in bins of equal width; the means of an empty bin are not a number."""

    edges: np.ndarray  # float64[bins + 1], from 0 to 1; a bin holds its upper edge, the first one also 0
    rows: np.ndarray  # int64[bins], how many fall in
    predicted: np.ndarray  # float64[bins], mean probability
    observed: np.ndarray  # float64[bins], mean label
    error: float  # the expected calibration error


def higher_is_better(metric: str) -> bool:
    """Which way a metric of this module improves."""
    return metric not in ("log_loss", "ece")


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties counted half. A score that is
    not a number is never to its row's advantage. nan where one of the classes is missing."""
    positive, number = labels > 0, ~np.isnan(scores)
    ours, theirs = np.sort(scores[positive & number]), np.sort(scores[~positive & number])
    won_twice = sum(int(np.searchsorted(theirs, ours, side).sum()) for side in ("left", "right"))
    pairs = int(positive.sum()) * int((~positive).sum())
    return won_twice / (2 * pairs) if pairs else math.nan


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross-entropy in nats; nan without rows."""
    signed = np.where(labels > 0, -1.0, 1.0) * logits.astype(np.float64)
    return float(np.logaddexp(0, signed).mean()) if len(signed) else math.nan


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """Predicted and observed rates by bin, and the expected calibration error: the mean over bins, weighted by rows, of
    |mean probability - mean label| (Guo et al. 2017, section 3, but of the probability of a click)."""
    place = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
    rows, predicted, observed = (np.bincount(place, weights, bins) for weights in (None, probabilities, labels > 0))
    error = float(np.abs(predicted - observed).sum() / len(place)) if len(place) else math.nan
    count = np.where(rows > 0, rows, np.nan)
    return Calibration(np.linspace(0, 1, bins + 1), rows, predicted / count, observed / count, error)


def user_ranking(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """NDCG and hit rate of each user's own rows ranked by score, averaged over the users with a positive (nan: none).
    Rows of users below 0 are left out. Among equal scores negatives come first, and so does one that is not a number;
    such a positive comes last. Two definitions:

    * ``ndcg@k`` divides by the DCG of the best order cut at k; ``hit_rate@k`` is 1 if any positive is in the top k.
    * ``ndcg_published@k`` divides by that of all positives, uncut; ``hit_rate_published@k`` is the share of the user's
      positives in the top k. AutoInt+ publishes these on MovieLens: users with over k positives reach 1 in neither.
    """
    positive = labels > 0
    worst = np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
    order = np.lexsort((positive, -worst, users))
    order = order[users[order] >= 0]
    users, positive = users[order], positive[order]
    first = np.searchsorted(users, users)  # where the row's user begins
    rank = np.arange(len(users)) - first  # 0 is first
    before: np.ndarray = np.cumsum(positive) - positive  # positives ahead of this row, of all users
    best: np.ndarray = before - before[first]  # the rank that a positive has in the ideal order
    gain, ideal = (np.where(positive, 1 / np.log2(place + 2.0), 0) for place in (rank, best))
    positives = np.bincount(users, positive)
    some, result = positives > 0, dict[str, float]()
    for k in ks:
        sums = gain * (rank < k), ideal * (best < k), positive & (rank < k), ideal
        dcg, cut, hits, uncut = (np.bincount(users, values)[some] for values in sums)
        values = {"ndcg": dcg / cut, "hit_rate": hits > 0, "ndcg_published": dcg / uncut,
                  "hit_rate_published": hits / positives[some]}  # fmt: skip
        result |= {f"{name}@{k}": float(value.mean()) if len(value) else math.nan for name, value in values.items()}
    return result


def click_metrics(
    logits: np.ndarray, labels: np.ndarray, users: np.ndarray | None, ks: Sequence[int]
) -> dict[str, float]:  # fmt: skip
    """``auc``, ``log_loss``, ``ece``, and those of ``user_ranking`` where users are given."""
    positives, n = int((labels > 0).sum()), len(labels)
    if positives in (0, n):
        same = f"{n:,} labels are all {int(positives > 0)}" if n else "rows are none"
        raise UserError(f"AUC is undefined on a split whose {same}; choose another split")
    return _measure(logits, labels, users, ks)


def part_metrics(
    logits: np.ndarray, labels: np.ndarray, users: np.ndarray | None, chosen: np.ndarray, ks: Sequence[int]
) -> dict[str, float | None]:
    """``click_metrics`` over the rows bool[n] ``chosen``, and their number as ``rows``; None for what they leave
    undefined: the AUC with a single class, the ranking without a positive."""
    found = _measure(logits[chosen], labels[chosen], None if users is None else users[chosen], ks)
    defined = {name: None if math.isnan(value) else value for name, value in found.items()}
    return {"rows": int(chosen.sum()), **defined}


def _measure(
    logits: np.ndarray, labels: np.ndarray, users: np.ndarray | None, ks: Sequence[int]
) -> dict[str, float]:  # fmt: skip
    error = calibration(expit(logits), labels).error
    metrics = {"auc": auc(logits, labels), "log_loss": log_loss(logits, labels), "ece": error}
    return metrics if users is None else metrics | user_ranking(logits, labels, users, ks)
