"""Metrics on sessions: each is read once, and every click but its first is a query's target.

Where the data set says so, only the last click of each session is (``Sessions.last_only``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.baselines import Choice, parse_all
from jaxrec.baselines.base import Baseline
from jaxrec.baselines.prefixes import Queries
from jaxrec.cli.command import progress
from jaxrec.config import EvaluationConfig
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.data.splits import Split, open_split
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed, Plan
from jaxrec.metrics.chance import random_ranking
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.base import SessionModel
from jaxrec.ops.topk import EVERYTHING, Candidates, block_size, rank, rank_scores
from jaxrec.sources.synthetic import optimum_metrics
from jaxrec.tasks.base import Judged, load
from jaxrec.tasks.cutoffs import default_ks
from jaxrec.tasks.report import Asked, Report
from jaxrec.tasks.sessions import Evaluation

OPTIONS = ("coverage",)
COLUMNS = ("recall", "mrr", "ndcg", "coverage")
QUERIES_PER_BLOCK = 8192  # queries encoded in one call
# Queries and float32 scores of a baseline's batch: 8 MiB, if the configuration's bound allows them. The system takes
# the pages of larger arrays back after every batch, and to hand them out anew takes longer than all the arithmetic.
ROWS, CELLS = 512, 2**21
Block = tuple[Any, Array, Candidates]
"""What is carried on, float32[..., Q] queries, and what each is ranked among."""


class Judge:
    """Ranks the targets of a split among the catalogue; what is compiled and laid out is kept from call to call.

    Args:
        batch: lanes or targets a step.
        feed: makes the split's feed of a plan.
        items: of weights float32[V, Q], what queries are multiplied with.
        encode: of weights, what is carried, and a block of the feed.
        carry: what the first block gets.
        sparse: whether most of a block is not scored.
    """

    def __init__(
        self, batch: int, feed: Callable[[Plan], Feed], n_items: int, config: EvaluationConfig,
        items: Callable[[dict[str, Any]], Array], encode: Callable[[dict[str, Any], Any, Any], Block],
        carry: Any = None, sparse: bool = False,
    ) -> None:  # fmt: skip
        self.feed = feed(Plan(batch, max(1, QUERIES_PER_BLOCK // batch), order="time", seed=0, device_bytes=2**30))
        self._items, self._encode, self._carry, self._sparse = items, encode, carry, sparse
        self._n_items, self._ties = n_items, Evaluation.of(config).ties
        self._size = block_size(n_items, config.memory)
        self.targets = self.feed.pairs
        self.blocks = self.feed.shape.blocks

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None
    ) -> Judged:
        """Recall, MRR, NDCG and hit rate at ``ks``; ``rank`` float32[n] of each target.

        Args:
            top: at least max(ks) to add ``coverage@k``, the share of the catalogue in the top k of some query.
            update: called after each block, for a progress bar.
        """
        found, seen = [np.zeros(0, np.float32)], Seen(self._n_items, ks)
        carry, items = self._carry, self._items(weights)
        for block in self.feed.epoch(0):
            carry, queries, among = self._encode(weights, carry, block)
            flat, targets = queries.reshape(-1, queries.shape[-1]), block.target.reshape(-1)
            valid = np.asarray(block.weight).reshape(-1) > 0
            if self._sparse:
                rows, valid = scored_rows(valid)
                flat, targets = flat[rows], targets[rows]
            ranks, best = rank(flat, targets, items, self._size, self._ties, min(top, self._n_items), among)
            found.append(np.asarray(ranks)[valid])
            if top:
                seen.add(np.asarray(best)[valid])
            if update is not None:
                update()
        ranks = np.concatenate(found)
        return Judged(ranking_metrics(ranks, ks) | (seen.shares() if top else {}), {"rank": ranks})


def session_judge(model: SessionModel, sessions: Sessions, n_items: int, config: EvaluationConfig) -> Judge:
    """The judge of a model of sessions."""
    batch = min(config.batch_size, len(sessions) if model.window is None else QUERIES_PER_BLOCK)
    batch = max(1, batch, model.window or 1)
    encoded = jax.jit(model.encode)

    def encode(weights: dict[str, Any], carry: Any, block: Any) -> Block:
        return *encoded(weights["params"], weights["tables"], carry, block), EVERYTHING

    sparse = sessions.last_only and model.window is None  # lanes walk over much that is not scored
    return Judge(batch, lambda plan: model.feed(sessions, plan), n_items, config,
                 lambda weights: model.items(weights["tables"]), encode, model.carry(batch), sparse)  # fmt: skip


def scored_rows(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[m], the rows that are ranked, and bool[m], which of them count: the valid ones, filled up with row 0.

    m is a power of two, so that few programs are compiled whatever a block holds.
    """
    rows = np.flatnonzero(valid)
    room = 1 << max(0, len(rows) - 1).bit_length()
    return np.pad(rows, (0, room - len(rows))), np.arange(room) < len(rows)


class Seen:
    """Which items stood in the top k of some query, for each k."""

    def __init__(self, n_items: int, ks: Iterable[int]) -> None:
        self._marks = {k: np.zeros(n_items, bool) for k in ks}

    def add(self, top: np.ndarray) -> None:
        for k, mark in self._marks.items():
            mark[top[:, :k].reshape(-1)] = True

    def shares(self) -> dict[str, float]:
        return {f"coverage@{k}": float(mark.mean()) for k, mark in self._marks.items()}


# ---- a run -----------------------------------------------------------------------------------------------------------


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines."""
    run, split, ks = asked.run, asked.split, asked.ks
    compared = [] if asked.baselines is None else parse_all(asked.baselines)
    assert isinstance(asked.data, Dataset)
    check_ks(ks, run.n_items)
    parts = open_split(asked.data, split, run.config.data.validation_fraction)
    _, model, weights, which = load(run)
    begin = time.perf_counter()
    judge = session_judge(model, parts.validation, run.n_items, run.config.evaluation)
    with progress(f"evaluate: {split}", judge.blocks) as update:
        metrics = judge(weights, ks, max(ks) if asked.coverage else 0, update).metrics
    result = {
        "split": split,
        "targets": judge.targets,
        "items": run.n_items,
        "checkpoint": which,
        "ties": run.config.evaluation.ties,
        "seconds": round(time.perf_counter() - begin, 3),
        **metrics,
        "chance": random_ranking(np.array([run.n_items]), ks),
        **optimum(run.manifest, split, ks),
        "question": asked.question(which),
    }
    if compared:
        result["fitted_on"] = parts.train.counts
        result["baselines"] = measure(compared, parts, run.n_items, ks, run.config.evaluation, asked.coverage)
    return Report(result, ks, COLUMNS)


def check_ks(ks: Sequence[int], n_items: int) -> None:
    if max(ks) > n_items:
        raise UserError(f"--k {max(ks)}: larger than the catalogue of {n_items} items; choose a smaller one")


def optimum(manifest: dict[str, Any], split: str, ks: Sequence[int]) -> dict[str, Any]:
    """What the best ranker reaches, known for the test split of synthetic data."""
    best = optimum_metrics(manifest, ks) if split == "test" else {}
    return {"optimum": best} if best else {}


# ---- baselines -------------------------------------------------------------------------------------------------------


def evaluate_baselines(
    data: Dataset, split: str, ks: Sequence[int] | None, names: Sequence[str], fraction: float = 0.0,
    coverage: bool = True, protocol: str | None = None,
) -> Report:  # fmt: skip
    """Metrics of baselines without a run.

    Args:
        fraction: share of the training targets, the most recent, that is the validation split and not fitted on.
        protocol: of rows; sessions have none.
    """
    if protocol is not None:
        raise UserError(f"--protocol: belongs to rows, and {data.path} has none; leave it out")
    compared = parse_all(names)
    ks = ks or default_ks(data.n_items)
    check_ks(ks, data.n_items)
    if fraction and data.manifest["counts"]["validation"]["sessions"]:
        raise UserError(f"--validation-fraction: {data.path} brings a validation split; leave it out")
    hint = " or give --validation-fraction" if split == "validation" else ""
    parts, config = open_split(data, split, fraction, hint), Evaluation()
    result = {
        "split": split,
        "targets": parts.validation.counts["targets"],
        "items": data.n_items,
        "ties": config.ties,
        "fitted_on": parts.train.counts,
        "chance": random_ranking(np.array([data.n_items]), ks),
        "baselines": measure(compared, parts, data.n_items, ks, config, coverage),
        **optimum(data.manifest, split, ks),
    }
    return Report(result, ks, COLUMNS)


def measure(
    choices: Sequence[Choice], split: Split, n_items: int, ks: Sequence[int], config: EvaluationConfig, coverage: bool
) -> dict[str, dict[str, Any]]:
    """Metrics of baselines, by the text that names each, fitted on ``split.train``."""
    queries, results = Queries(split.validation), {}
    for choice in choices:
        with progress(f"baseline {choice.text}", len(queries)) as update:
            begin = time.perf_counter()
            baseline = choice.parameters.fit(split.train, n_items)
            fitted = time.perf_counter()
            metrics = baseline_metrics(baseline, queries, n_items, ks, config, coverage, update)
        results[choice.text] = {
            "name": choice.name,
            "parameters": choice.parameters.model_dump(mode="json"),
            "seconds_fit": round(fitted - begin, 3),
            "seconds": round(time.perf_counter() - fitted, 3),
            **metrics,
        }
    return results


def baseline_metrics(
    baseline: Baseline, queries: Queries, n_items: int, ks: Sequence[int], config: EvaluationConfig,
    coverage: bool = False, update: Callable[..., None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The metrics that ``Judge`` gives of models."""
    rows = max(1, min(ROWS, max(16, CELLS // n_items), config.memory * 2**18 // n_items, len(queries)))
    found, seen, depth = [np.zeros(0, np.float32)], Seen(n_items, ks), max(ks) if coverage else 0
    for low, high in queries.batches(rows, baseline.work):
        scores = jnp.asarray(baseline.scores(queries.prefixes(low, high, rows)))  # always `rows`: one compiled program
        targets = jnp.asarray(np.pad(queries.targets[low:high], (0, rows - (high - low))))
        ranks, top = rank_scores(scores, targets, min(depth, n_items), Evaluation.of(config).ties)
        found.append(np.asarray(ranks)[: high - low])
        seen.add(np.asarray(top)[: high - low])
        if update is not None:
            update(high - low)
    return ranking_metrics(np.concatenate(found), ks) | (seen.shares() if coverage else {})
