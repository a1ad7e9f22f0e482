"""Metrics on event sequences: ranks among the items that are live, in all and by group of targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc

from jaxrec.cli.command import parse_baselines, progress
from jaxrec.config import EvaluationConfig
from jaxrec.data.catalogue import Catalogue
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.data.items import Spans, attribute_names, read_attributes
from jaxrec.data.splits import open_split
from jaxrec.feeds.packed import target_positions
from jaxrec.metrics.chance import random_ranking
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.merrec import MERRec
from jaxrec.ops.topk import EVERYTHING, Candidates, Live, block_size, rank
from jaxrec.sources.market.optimum import optimum_lines
from jaxrec.tasks.base import load
from jaxrec.tasks.report import Asked, Report
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions.judge import QUERIES_PER_BLOCK, Block, Judge, check_ks

OPTIONS = ("limit",)
COLUMNS = ("recall", "mrr")
BASELINES = ("popularity", "name-neighbours")
"""How often training holds an item; the cosine of names with that of the last item."""
SAMPLE_SEED = 0  # of the sessions that are evaluated
MOST_CATEGORIES = 12


def sample(sessions: Sessions, most: int | None) -> Sessions:
    """At most so many sessions, drawn at random but always the same."""
    if most is None or len(sessions) <= most:
        return sessions
    drawn = np.random.default_rng(SAMPLE_SEED).choice(len(sessions), most, replace=False)
    return sessions.pick(np.sort(drawn))


def event_judge(model: MERRec, sessions: Sessions, config: EvaluationConfig, trained: np.ndarray) -> Judge:
    """The judge of a model of events. Candidates are the items that are live at the time of a sequence's last event.

    Args:
        trained: bool[V], whether training holds each item.
    """
    batch = max(model.window, min(config.batch_size, QUERIES_PER_BLOCK))
    known, encoded = model.known, jax.jit(model.encode)

    def encode(weights: dict[str, Any], carry: Any, block: Any) -> Block:
        live = None if known.live is None else Live(*known.live, block.asked.reshape(-1))
        return carry, encoded(weights, known, block), Candidates(live)

    return Judge(batch, lambda plan: model.feed(sessions, plan), len(trained), config,
                 lambda weights: model.catalogue_vectors(weights, trained), encode)  # fmt: skip


class Targets(NamedTuple):
    """The targets of a split, in the order of their ranks.

    Attributes:
        item, last: int32[n], the target and the item before it.
        event: uint8[n], what is done with the target.
        asked: int64[n], ms since 1970, the time of the event before.
    """

    item: np.ndarray
    last: np.ndarray
    event: np.ndarray
    asked: np.ndarray


def targets_of(judge: Judge, sessions: Sessions) -> Targets:
    """What a judge ranks of its split."""
    where = target_positions(judge.feed)
    at = where[where >= 0].astype(np.int64)
    items, times = np.asarray(sessions.items), np.asarray(sessions.times)
    assert sessions.events is not None
    return Targets(items[at], items[at - 1], np.asarray(sessions.events)[at], times[at - 1])


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines."""
    run, split, ks = asked.run, asked.split, asked.ks
    compared = [] if asked.baselines is None else parse_baselines(asked.baselines, BASELINES, "beside merrec")
    check_ks(ks, run.n_items)
    dataset, config = asked.data, run.config.evaluation
    assert isinstance(dataset, Dataset)
    sessions = open_split(dataset, split, run.config.data.validation_fraction).validation
    chosen = sample(sessions, asked.limit or config.sessions)
    _, model, weights, which = load(run)
    catalogue: Catalogue = model.catalogue
    counts, spans = np.asarray(run.kept("item_counts")), catalogue.spans
    begin = time.perf_counter()
    judge = event_judge(model, chosen, config, counts > 0)
    with progress(f"evaluate: {split}", judge.blocks) as update:
        ranks = judge(weights, ks, update=update).arrays["rank"]
    seconds = time.perf_counter() - begin
    targets = targets_of(judge, chosen)
    groups = groups_of(dataset, targets, counts > 0)
    result = {
        "split": split,
        "targets": len(ranks),
        "sessions": len(chosen),
        "of_sessions": len(sessions),
        "items": run.n_items,
        "trained_items": int((counts > 0).sum()),
        "candidates": "all" if spans is None else "live",
        "checkpoint": which,
        "ties": config.ties,
        "seconds": round(seconds, 3),
        **by_group(ranks, groups, ks),
        "chance": random_ranking(candidates(targets, spans, run.n_items), ks),
        "question": asked.question(which, sessions=len(chosen)),
    }
    if split == "test" and "optimum" in run.manifest:
        result["optimum"] = optimum(run.manifest, counts)
    if compared:
        result["baselines"] = {
            name: by_group(rank_by(*vectors(name, targets, catalogue, counts), targets, config, spans), groups, ks)
            for name in compared
        }
    return Report(result, ks, COLUMNS, optimum_lines(result.get("optimum"), ks))


def candidates(targets: Targets, spans: Spans | None, n_items: int) -> np.ndarray:
    """int64[n]: among how many items each target is ranked: those that are live, and itself."""
    if spans is None:
        return np.full(len(targets.item), n_items)
    now = spans.seconds(targets.asked)
    live = np.searchsorted(np.sort(spans.listed), now, "right") - np.searchsorted(np.sort(spans.sold), now, "right")
    own = (spans.listed[targets.item] <= now) & (now < spans.sold[targets.item])
    return live + ~own


def groups_of(dataset: Dataset, targets: Targets, trained: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """bool[n] of each group of targets, by kind of group."""
    seen, moved = trained[targets.item], targets.item != targets.last
    found = {
        "items": {"seen": seen, "unseen": ~seen},
        "another item than the last": {"all": moved, "seen": moved & seen, "unseen": moved & ~seen},
        "event": {
            name: targets.event == code for code, name in enumerate(dataset.manifest["event_types"])
        },
    }  # fmt: skip
    if "c0_name" not in attribute_names(dataset.path, dataset.manifest):
        return found
    column = pc.fill_null(read_attributes(dataset.path, dataset.manifest, ["c0_name"])["c0_name"], "none")
    coded = column.combine_chunks().dictionary_encode()
    names, category = coded.dictionary.to_pylist(), coded.indices.to_numpy()[targets.item]
    often = np.argsort(-np.bincount(category, minlength=len(names)), kind="stable")[:MOST_CATEGORIES]
    return found | {"category": {names[code]: category == code for code in often}}


def by_group(ranks: np.ndarray, groups: dict[str, dict[str, np.ndarray]], ks: Sequence[int]) -> dict[str, Any]:
    """Metrics of all targets, and of those of each group that has any."""
    by = {
        kind: {
            name: {"targets": int(chosen.sum()), **ranking_metrics(ranks[chosen], ks)}
            for name, chosen in parts.items()
            if chosen.any()
        }
        for kind, parts in groups.items()
    }
    return {**ranking_metrics(ranks, ks), "groups": by}


def optimum(manifest: dict[str, Any], counts: np.ndarray) -> dict[str, Any]:
    """What the best ranker reaches; by group only where the run has seen what the whole training split holds."""
    best: dict[str, Any] = manifest["optimum"]
    if np.count_nonzero(counts) == manifest["counts"]["trained"]:
        return best
    return {"queries": best["queries"]} | {part: {"all": best[part]["all"]} for part in ("recall", "moves")}


# ---- baselines -------------------------------------------------------------------------------------------------------


def vectors(name: str, targets: Targets, catalogue: Catalogue, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32[n, D] queries and float32[V, D] items of a baseline, whose products rank."""
    if name == "popularity":
        return np.ones((len(targets.item), 1), np.float32), counts[:, None].astype(np.float32)
    rows = catalogue.name_of
    items = np.where((rows >= 0)[:, None], catalogue.vectors[rows], np.float16(0)).astype(np.float32)
    return items[targets.last], items


def rank_by(
    queries: np.ndarray, items: np.ndarray, targets: Targets, config: EvaluationConfig, spans: Spans | None
) -> np.ndarray:
    """float32[n]: ranks by the products of float32[n, D] and float32[V, D], among what is live."""
    size, table, found = block_size(len(items), config.memory), jnp.asarray(items), [np.zeros(0, np.float32)]
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        part, among = slice(start, start + QUERIES_PER_BLOCK), EVERYTHING
        if spans is not None:
            at = spans.seconds(targets.asked[part])
            among = Candidates(Live(*map(jnp.asarray, (spans.listed, spans.sold, at))))
        query, target = jnp.asarray(queries[part]), jnp.asarray(targets.item[part])
        ranks, _ = rank(query, target, table, size, Evaluation.of(config).ties, among=among)
        found.append(np.asarray(ranks))
    return np.concatenate(found)
