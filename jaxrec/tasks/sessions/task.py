"""Next items of sessions: each is read once, and every click but its first is a query's target.

Where the data set says so, only the last click of each session is (``Sessions.last_only``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.baselines.base import Choice, Queries, Scores
from jaxrec.baselines.sessions import BASELINES
from jaxrec.cli.command import progress
from jaxrec.config import Config, EvaluationConfig
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.data.splits import Split, cut_validation, last_days, open_split
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed, lane_targets
from jaxrec.feeds.packed import Log, target_positions
from jaxrec.models.base import SessionModel, make_model
from jaxrec.ops.topk import EVERYTHING, Candidates, rank_scores
from jaxrec.run import Run
from jaxrec.sources.synthetic import optimum_metrics
from jaxrec.tasks import base
from jaxrec.tasks.base import Judge, Judged, Loaded, MakePlan, Part, Task, collect, evaluation_plan, in_parts
from jaxrec.tasks.moves import Moves, item_moves
from jaxrec.tasks.report import Asked, Report
from jaxrec.tasks.sessions.masks import History, chance, is_masked, item_bits
from jaxrec.training.block import training_plan

OPTIONS = ("history",)  # of evaluate, beside those of every kind
COLUMNS = ("recall", "mrr", "ndcg", "coverage")
# Queries and float32 scores of a baseline's batch: 8 MiB, if the configuration's bound allows them. The system takes
# the pages of larger arrays back after every batch, and to hand them out anew takes longer than all the arithmetic.
ROWS, CELLS = 128, 2**21


def make(config: Config, dataset: Dataset, plan: MakePlan = training_plan) -> Task:
    """Next items of sessions."""
    training, validation = session_splits(config, dataset)
    model, recent = make_model(config, dataset.n_items), last_days(training, config.data.last_days)
    feed = model.feed(recent, plan(config, config.data.order))
    judge = session_judge(model, validation, dataset.n_items, config.evaluation) if len(validation) else None
    return Task(
        model, feed, model.constants(np.bincount(training.items, minlength=dataset.n_items)), judge,
        f"{feed.pairs:,} targets, {dataset.n_items:,} items",
    )  # fmt: skip


def session_splits(config: Config, dataset: Dataset) -> Split:
    """Training and validation sessions, as the configuration cuts them."""
    fraction = config.data.validation_fraction
    brought = dataset.split("validation")
    if fraction and len(brought):
        raise UserError(f"data.validation_fraction: {dataset.path} brings a validation split; set the field to 0")
    split = cut_validation(dataset.split("train"), brought, fraction)
    if not split.train.counts["targets"]:
        raise UserError(f"{dataset.path}: no training pairs are left; lower data.validation_fraction ({fraction})")
    return split


def build(run: Run) -> SessionModel:
    """A run's model."""
    return make_model(run.config, run.n_items)


def moved_rows(loaded: Loaded, config: Config, dataset: Dataset) -> dict[str, Moves]:
    """Where the rows of all tables come from, which are by item: any item of the other run's catalogue had a part in
    its losses, as a negative if nothing else."""
    return dict.fromkeys(loaded.model.tables, item_moves(loaded, dataset, config.start))


# ---- evaluation ------------------------------------------------------------------------------------------------------


def session_judge(
    model: SessionModel, sessions: Sessions, n_items: int, config: EvaluationConfig, barred: np.ndarray | None = None
) -> Judge:
    """The judge of a model of sessions; int64[m] ``barred`` items are candidates of no query but as its target."""
    batch = min(config.batch_size, len(sessions) if model.window is None else base.QUERIES)
    batch = max(1, batch, model.window or 1)
    encoded = jax.jit(model.encode)

    def encode(weights: dict[str, Any], carry: Any, block: Any) -> tuple[Any, Array, Candidates]:
        return *encoded(weights["params"], weights["tables"], carry, block), EVERYTHING

    sparse = sessions.last_only and model.window is None  # lanes walk over much that is not scored
    feed, excluded = model.feed(sessions, evaluation_plan(batch)), None
    barred_bits = None if barred is None else item_bits(np.zeros_like(barred), barred, 1, n_items)
    if is_masked(config):
        history, by_block = History(sessions, n_items), places_of(feed).reshape(feed.shape.blocks, -1)

        def excluded(block: int, rows: np.ndarray) -> np.ndarray:
            bits = history.bits(by_block[block, rows])
            return bits if barred_bits is None else bits | barred_bits
    elif barred_bits is not None:

        def excluded(block: int, rows: np.ndarray) -> np.ndarray:
            return np.repeat(barred_bits, len(rows), axis=0)

    return Judge(feed, n_items, config, lambda weights: model.items(weights["tables"]), encode, model.carry(batch),
                 sparse, excluded)  # fmt: skip


def places_of(feed: Feed) -> np.ndarray:
    """int64[steps of all blocks, lanes or targets]: where in the split each target of a feed of sessions stands; -1
    where there is none."""
    return (target_positions if isinstance(feed.split[0], Log) else lane_targets)(feed)


def in_order(ranks: np.ndarray, judge: Judge, sessions: Sessions) -> np.ndarray:
    """float32[targets]: ranks as a judge of sessions gives them, in the order of the targets' events, which is that of
    ``Queries``: feeds deal sessions into lanes and rows."""
    places = places_of(judge.feed).reshape(-1)
    number = np.full(len(sessions.items) + 1, -1)  # of each event's target; the last of no event
    number[sessions.target_positions] = np.arange(len(ranks))
    ordered = np.full(len(ranks), np.nan, np.float32)
    ordered[number[places][number[places] >= 0]] = ranks
    return ordered


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines beside it or alone."""
    return report(asked, lambda split: session_judge(
        asked.loaded.model, split, asked.data.n_items, asked.config.evaluation
    ))  # fmt: skip


def report(asked: Asked, judge_of: Callable[[Sessions], Judge]) -> Report:
    """What ``evaluate`` says, with the judge of the run on some sessions, if there is a run."""
    data, ks, config = asked.data, asked.ks, asked.config
    compared, n_items = asked.compared(BASELINES), data.n_items
    parts = open_split(data, asked.split, config.data.validation_fraction)
    history = {"history": "masked"} if is_masked(config.evaluation) else {}
    result = {
        "split": asked.split,
        "targets": parts.validation.counts["targets"],
        "items": n_items,
        **history,
        "ties": "conservative",
        "chance": chance(parts.validation, n_items, ks, config.evaluation),
    }
    best = optimum_metrics(data.manifest, ks) if asked.split == "test" and not history else None
    if best:  # known of synthetic data
        result["optimum"] = best
    if asked.run:
        result |= asked.measure(judge_of(parts.validation), max(ks), **history)[1]
    if compared:
        result["fitted_on"] = parts.train.counts
        result["baselines"] = measure(compared, parts, n_items, ks, config.evaluation)
    return Report(result, ks, COLUMNS)


def measure(
    choices: Sequence[Choice], split: Split, n_items: int, ks: Sequence[int], config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Metrics of baselines, by the text that names each, fitted on ``split.train``."""
    queries, results = Queries(split.validation), {}
    for choice in choices:
        with progress(f"baseline {choice.text}") as update:
            begin = time.perf_counter()
            scores = choice.fit(split.train, n_items)
            fitted = time.perf_counter()
            metrics = baseline_metrics(scores, queries, n_items, ks, config, update)
        seconds = {"seconds_fit": round(fitted - begin, 3), "seconds": round(time.perf_counter() - fitted, 3)}
        results[choice.text] = {"name": choice.name, "parameters": choice.parameters, **seconds, **metrics}
    return results


def baseline_metrics(
    scores: Scores, queries: Queries, n_items: int, ks: Sequence[int], config: EvaluationConfig,
    update: Callable[..., None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The metrics that ``Judge`` gives of models."""
    return judge_baseline(scores, queries, n_items, ks, config, update).metrics


def judge_baseline(
    scores: Scores, queries: Queries, n_items: int, ks: Sequence[int], config: EvaluationConfig,
    update: Callable[..., None] | None = None,
) -> Judged:  # fmt: skip
    """What ``Judge`` gives of models, in the order of the queries."""
    size = max(1, min(ROWS, max(16, CELLS // n_items), config.memory * 2**18 // n_items, len(queries)))
    depth, masked = min(max(ks), n_items), is_masked(config)

    def ranked(rows: np.ndarray) -> Part:
        targets, prefixes = jnp.asarray(queries.targets[rows]), queries.prefixes(rows)
        bits = jnp.asarray(item_bits(prefixes.query, prefixes.items, len(rows), n_items)) if masked else None
        return rank_scores(jnp.asarray(scores(prefixes)), targets, depth, Candidates(without=bits))

    return collect(in_parts(len(queries), size, ranked), ks, n_items, update)
