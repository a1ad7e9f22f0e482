"""Metrics of baselines on a split, and the table of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.baselines import Baseline, Choice, make_baseline
from jaxrec.baselines.prefixes import Queries
from jaxrec.cli.command import progress
from jaxrec.config import EvaluationConfig
from jaxrec.data.splits import Split
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.ops.topk import rank_scores
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions.judge import Seen

# Queries and float32 scores of a batch: 8 MiB, if the configuration's bound allows them. The system takes the pages of
# larger arrays back after every batch, and to hand them out anew takes longer than all the arithmetic.
ROWS, CELLS = 512, 2**21


def measure(
    choices: Sequence[Choice], split: Split, n_items: int, ks: Sequence[int], config: EvaluationConfig, coverage: bool
) -> dict[str, dict[str, Any]]:
    """Metrics of baselines, by the text that names each.

    Args:
        split: the sessions to fit on, and those whose clicks are the queries.
        ks: cut-offs, each at most ``n_items``.
        config: tie rule, and the bound of a batch's float32 scores.
        coverage: whether to add ``coverage@k``.
    """
    queries, results = Queries(split.validation), {}
    for choice in choices:
        with progress(f"baseline {choice.text}", len(queries)) as update:
            begin = time.perf_counter()
            baseline = make_baseline(choice, split.train, n_items)
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
    baseline: Baseline,
    queries: Queries,
    n_items: int,
    ks: Sequence[int],
    config: EvaluationConfig,
    coverage: bool = False,
    update: Callable[..., None] | None = None,
) -> dict[str, float]:
    """Recall, MRR, NDCG, hit rate and on demand coverage at ``ks``, as ``Evaluator.metrics`` gives them for models."""
    rows = max(1, min(ROWS, max(16, CELLS // n_items), config.memory * 2**18 // n_items, len(queries)))
    found = [np.zeros(0, np.float32)]
    seen = Seen(n_items, ks) if coverage else None
    for low, high in queries.batches(rows, baseline.work):
        scores = jnp.asarray(baseline.scores(queries.prefixes(low, high, rows)))  # always `rows`: one compiled program
        targets = jnp.asarray(np.pad(queries.targets[low:high], (0, rows - (high - low))))
        rank, top = rank_scores(scores, targets, seen.depth if seen is not None else 0, Evaluation.of(config).ties)
        found.append(np.asarray(rank)[: high - low])
        if seen is not None:
            seen.add(np.asarray(top)[: high - low])
        if update is not None:
            update(high - low)
    return ranking_metrics(np.concatenate(found), ks) | (seen.shares() if seen is not None else {})


def table(results: dict[str, dict[str, Any]], ks: Sequence[int]) -> str:
    """Recall and MRR at every cut-off, and coverage at the largest, one line for each."""
    columns = [f"{name}@{k}" for name in ("recall", "mrr") for k in ks]
    columns += [name for name in (f"coverage@{max(ks)}",) if all(name in result for result in results.values())]
    wide = max(8, *map(len, results)) + 1
    lines = [f"{'':{wide}}" + "".join(f"{name:>{len(name) + 2}}" for name in columns) + "   seconds"]
    for text, result in results.items():
        cells = "".join(f"{result[name]:{len(name) + 2}.4f}" for name in columns)
        lines.append(f"{text:{wide}}{cells}{result.get('seconds_fit', 0) + result['seconds']:10.1f}")
    return "\n".join(lines)
