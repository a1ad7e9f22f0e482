"""The metrics of a MERRec run on a split: in all, for items that training has seen and not, by event, by category."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from jaxrec.cli.command import progress
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.data.items import Catalogue, Spans, attribute_names, read_attributes
from jaxrec.data.splits import open_split
from jaxrec.errors import UserError
from jaxrec.metrics.chance import random_ranking
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.run import Run, open_run_data
from jaxrec.sources.market.optimum import optimum_lines
from jaxrec.tasks.base import load
from jaxrec.tasks.events.judge import EventEvaluator, rank_by, sample
from jaxrec.tasks.results import question

EVENT_BASELINES = ("popularity", "name-neighbours")
"""How often training holds an item; the cosine of names with that of the last item."""
MOST_CATEGORIES = 12


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


def evaluate_events(
    run: Run, split: str, ks: Sequence[int], data: str | Path | None = None, compared: Sequence[str] = (),
    most: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Metrics of a run on a split, as they are written to ``eval-<split>.json``.

    Args:
        ks: cut-offs.
        data: the dataset directory where it is no longer at the configuration's ``data.path``.
        compared: of ``EVENT_BASELINES``, to measure beside it.
        most: evaluate so many sessions, drawn at random; None: as the configuration says.
    """
    if max(ks) > run.n_items:
        raise UserError(f"--k {max(ks)}: larger than the catalogue of {run.n_items} items; choose a smaller one")
    dataset = open_run_data(run, data or run.config.data.path)
    assert isinstance(dataset, Dataset)
    sessions = open_split(dataset, split, run.config.data.validation_fraction).validation
    chosen = sample(sessions, most or run.config.evaluation.sessions)
    _, model, weights, which = load(run)
    catalogue: Catalogue = model.catalogue
    counts, spans = np.asarray(run.kept("item_counts")), catalogue.spans
    begin = time.perf_counter()
    evaluator = EventEvaluator(model, chosen, run.config.evaluation, counts > 0)
    with progress(f"evaluate: {split}", evaluator.blocks) as update:
        ranks = evaluator.ranks(weights, update)
    seconds = time.perf_counter() - begin
    targets = _targets(chosen, evaluator.positions)
    groups = _groups(dataset, targets, counts > 0)
    result = {
        "split": split,
        "targets": len(ranks),
        "sessions": len(chosen),
        "of_sessions": len(sessions),
        "items": run.n_items,
        "trained_items": int((counts > 0).sum()),
        "candidates": "all" if spans is None else "live",
        "checkpoint": which,
        "ties": run.config.evaluation.ties,
        "seconds": round(seconds, 3),
        **_metrics(ranks, groups, ks),
        "chance": random_ranking(_candidates(targets, spans, run.n_items), ks),
        "question": question(run, split, which, sessions=len(chosen)),
    }
    if split == "test" and "optimum" in run.manifest:
        result["optimum"] = _optimum(run.manifest, counts)
    if compared:
        result["baselines"] = {
            name: _metrics(_baseline(name, targets, catalogue, counts, run, spans), groups, ks) for name in compared
        }
    return result


def _targets(sessions: Sessions, positions: np.ndarray) -> Targets:
    items, times = np.asarray(sessions.items), np.asarray(sessions.times)
    assert sessions.events is not None
    return Targets(items[positions], items[positions - 1], np.asarray(sessions.events)[positions], times[positions - 1])


def _candidates(targets: Targets, spans: Spans | None, n_items: int) -> np.ndarray:
    """int64[n]: among how many items each target is ranked: those that are live, and itself."""
    if spans is None:
        return np.full(len(targets.item), n_items)
    now = spans.seconds(targets.asked)
    live = np.searchsorted(np.sort(spans.listed), now, "right") - np.searchsorted(np.sort(spans.sold), now, "right")
    own = (spans.listed[targets.item] <= now) & (now < spans.sold[targets.item])
    return live + ~own


def _groups(dataset: Dataset, targets: Targets, trained: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
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


def _metrics(ranks: np.ndarray, groups: dict[str, dict[str, np.ndarray]], ks: Iterable[int]) -> dict[str, Any]:
    ks = list(ks)
    by = {
        kind: {
            name: {"targets": int(chosen.sum()), **ranking_metrics(ranks[chosen], ks)}
            for name, chosen in parts.items()
            if chosen.any()
        }
        for kind, parts in groups.items()
    }
    return {**ranking_metrics(ranks, ks), "groups": by}


def _optimum(manifest: dict[str, Any], counts: np.ndarray) -> dict[str, Any]:
    """What the best ranker reaches; by group only where the run has seen what the whole training split holds."""
    optimum: dict[str, Any] = manifest["optimum"]
    if np.count_nonzero(counts) == manifest["counts"]["trained"]:
        return optimum
    return {"queries": optimum["queries"]} | {part: {"all": optimum[part]["all"]} for part in ("recall", "moves")}


def _baseline(
    name: str, targets: Targets, catalogue: Catalogue, counts: np.ndarray, run: Run, spans: Spans | None
) -> np.ndarray:
    """float32[n]: the ranks of a baseline."""
    if name == "popularity":
        items, queries = counts[:, None].astype(np.float32), np.ones((len(targets.item), 1), np.float32)
    else:
        rows = catalogue.name_of
        items = np.where((rows >= 0)[:, None], catalogue.vectors[rows], np.float16(0)).astype(np.float32)
        queries = items[targets.last]
    return rank_by(queries, targets.item, targets.asked, items, run.config.evaluation, spans)


def event_table(result: dict[str, Any], ks: Sequence[int], files: Sequence[Any]) -> str:
    """The result for the reader of a terminal."""
    of = f" of {result['of_sessions']:,} sessions" if result["sessions"] < result["of_sessions"] else ""
    lines = [
        f"{result['split']}: {result['targets']:,} targets of {result['sessions']:,}{of or ' sessions'}, ranked among "
        f"{'all' if result['candidates'] == 'all' else 'the live ones of'} {result['items']:,} items "
        f"({result['trained_items']:,} trained), checkpoint {result['checkpoint']}"
    ]
    names = [f"{metric}@{k}" for k in ks for metric in ("recall", "mrr")]
    lines.append(f"{'':<44}{'targets':>9}" + "".join(f"{name:>12}" for name in names))

    def row(title: str, values: dict[str, Any], targets: int) -> None:
        lines.append(f"{title:<44}{targets:>9,}" + "".join(f"{values[name]:12.4f}" for name in names))

    row("this run", result, result["targets"])
    for kind, groups in result["groups"].items():
        for name, values in groups.items():
            row(f"  {kind}: {name}"[:43], values, values["targets"])
    row("chance", result["chance"], result["targets"])
    for baseline, values in result.get("baselines", {}).items():
        row(baseline, values, result["targets"])
        for kind in ("items", "another item than the last"):
            for name, part in values["groups"].get(kind, {}).items():
                row(f"  {kind}: {name}"[:43], part, part["targets"])
    lines += optimum_lines(result.get("optimum"), ks)
    return "\n".join([*lines, *(f"written to {file}" for file in files)])
