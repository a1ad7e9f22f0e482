"""Next items of sequences of typed events, by what items are called, among the items that are live."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
from jax import Array

from jaxrec.config import Config, EvaluationConfig, find_model
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.data.given import Ids
from jaxrec.data.items import Catalogue, Spans, attribute_names, open_catalogue, read_attributes
from jaxrec.data.splits import open_split
from jaxrec.errors import UserError
from jaxrec.feeds.packed import target_positions
from jaxrec.metrics.ranking import random_ranking, ranking_metrics
from jaxrec.models.merrec import MERRec
from jaxrec.ops.heads import Heads
from jaxrec.ops.rows import deal, mesh_of
from jaxrec.ops.topk import EVERYTHING, TOGETHER, Candidates, Live
from jaxrec.run import Run
from jaxrec.sources.market.world import optimum_lines
from jaxrec.tasks import base
from jaxrec.tasks.base import Judge, Loaded, MakePlan, Task, collect, evaluation_plan, rank_vectors
from jaxrec.tasks.moves import Moves, item_moves, old_rows, stacked
from jaxrec.tasks.report import Asked, Groups, Report, Result, by_group
from jaxrec.tasks.sessions.task import session_splits
from jaxrec.training.block import training_plan

OPTIONS = ("limit",)
COLUMNS = ("recall", "mrr")
SAMPLE_SEED = 0  # of the sessions that are evaluated
EXAMPLES = 100  # sequences of the newest split that a run keeps, to show what is recommended
MOST_CATEGORIES = 12


def make(config: Config, dataset: Dataset, plan: MakePlan = training_plan) -> Task:
    """Next items of sequences of events, by what items are called."""
    if config.model.head != "items" and not dataset.manifest["counts"].get("names", 1):
        raise UserError(f"model.head: {config.model.head} ranks items by their names, and {dataset.path} has none; set "
                        "it to items, or prepare the data again with --name")  # fmt: skip
    model = _model(config, dataset.path, dataset.manifest)
    training, validation = session_splits(config, dataset)
    feed = model.feed(training, plan(config, config.data.order))
    counts, judge = np.bincount(training.items, minlength=dataset.n_items), None
    if len(validation):
        judge = event_judge(model, sample(validation, config.evaluation.sessions), config.evaluation, counts > 0)
    shown = sample(next(part for part in map(dataset.split, ("test", "train")) if len(part)), EXAMPLES)
    examples = {"items": shown.items, "events": shown.events, "offsets": shown.offsets, "times": shown.times}
    return Task(
        model, feed, model.constants(counts), judge,
        f"{feed.pairs:,} targets, {dataset.n_items:,} items, {np.count_nonzero(counts):,} of them in training",
        {"item_counts": counts, **{f"example_{name}": np.asarray(array) for name, array in examples.items()}},
        copied=model.catalogue.vector_files,
    )  # fmt: skip


def build(run: Run) -> MERRec:
    """A run's model, with the run's catalogue."""
    return _model(run.config, run.path / "dataset", run.manifest)


def _model(config: Config, path: Path, manifest: dict[str, Any]) -> MERRec:
    catalogue = open_catalogue(path, manifest, config.model.item_fields)
    model: MERRec = find_model(config.model.name).Model(config, catalogue, len(manifest["event_types"]))
    return model


def moved_rows(loaded: Loaded, config: Config, dataset: Dataset) -> dict[str, Moves]:
    """Where the rows of items come from, of those that the other run was trained on or had taken over itself, and the
    rows of the values of their fields."""
    run, old, tables = loaded.run, loaded.model.catalogue, loaded.model.tables
    new = open_catalogue(dataset.path, dataset.manifest, config.model.item_fields)
    for what, theirs, ours in (
        ("model.item_fields", list(old.fields), list(new.fields)),
        ("types of events", run.manifest["event_types"], dataset.manifest["event_types"]),
        ("the model of name vectors", old.meta.get("identity"), new.meta.get("identity")),
    ):
        if theirs != ours:
            raise UserError(f"--start-from {run.path}: {what}: found {theirs} there and {ours} here; parameters are of "
                            "the former, so set it to that, or prepare such data")  # fmt: skip
    trained = np.asarray(run.kept("item_counts")) > 0
    if (former := old_rows(run, tables)) and "item" in former:
        trained |= former["item"]
    pairs = [(Ids(theirs.to_pylist(), first=1), ours.to_pylist())
             for theirs, ours in zip(old.values, new.values, strict=True)]  # fmt: skip
    codes = [None if name == "price" else theirs.encode(ours).astype(np.int64)
             for name, (theirs, ours) in zip(old.fields, pairs, strict=True)]  # fmt: skip
    fields = stacked(list(zip(old.sizes, codes, strict=True)), sum(len(ids) for ids, _ in pairs))
    moves = {"item": item_moves(loaded, dataset, config.start, trained), "fields": fields}
    return {name: moves[name] for name in tables}


# ---- evaluation ------------------------------------------------------------------------------------------------------


def sample(sessions: Sessions, most: int | None) -> Sessions:
    """At most so many sessions, drawn at random but always the same."""
    if most is None or len(sessions) <= most:
        return sessions
    drawn = np.random.default_rng(SAMPLE_SEED).choice(len(sessions), most, replace=False)
    return sessions.pick(np.sort(drawn))


def event_judge(model: MERRec, sessions: Sessions, config: EvaluationConfig, trained: np.ndarray) -> Judge:
    """The judge of a model of events, among the items that are live at the time of a sequence's last event;
    ``trained`` is bool[V], whether training holds each item."""
    batch = max(model.window, min(config.batch_size, base.QUERIES))
    encoded, places = jax.jit(model.encode), dict[Any, Any]()

    def encode(weights: dict[str, Any], carry: Any, block: Any) -> tuple[Any, Array, Candidates]:
        if (mesh := mesh_of(weights)) not in places:
            places[mesh] = jax.tree.map(jnp.asarray if mesh is None else partial(deal, mesh=mesh), model.known)
        known = places[mesh]
        live = None if known.live is None else Live(known.live[0], known.live[1], block.asked.reshape(-1))
        return carry, encoded(weights, known, block), Candidates(live)

    return Judge(model.feed(sessions, evaluation_plan(batch)), len(trained), config,
                 lambda weights: model.catalogue_vectors(weights, trained), encode, together=TOGETHER)  # fmt: skip


class Targets(NamedTuple):
    """The targets of a split, in the order of their ranks."""

    item: np.ndarray  # int32[n]
    last: np.ndarray  # int32[n], the item before it
    event: np.ndarray  # uint8[n], what is done with the target
    asked: np.ndarray  # int64[n], ms since 1970, the time of the event before


def targets_of(judge: Judge, sessions: Sessions) -> Targets:
    """What a judge ranks of its split."""
    where = target_positions(judge.feed)
    at = where[where >= 0].astype(np.int64)
    items, times = np.asarray(sessions.items), np.asarray(sessions.times)
    return Targets(items[at], items[at - 1], np.asarray(sessions.events)[at], times[at - 1])


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines."""
    run, ks, data, config = asked.run, asked.ks, asked.data, asked.config
    compared = asked.compared(BASELINES)
    sessions = open_split(data, asked.split, config.data.validation_fraction).validation
    chosen = sample(sessions, asked.limit or config.evaluation.sessions)
    model, counts = asked.loaded.model, np.asarray(run.kept("item_counts"))
    spans, judge = model.catalogue.spans, event_judge(model, chosen, config.evaluation, counts > 0)
    judged, found = asked.measure(judge, sessions=len(chosen))
    targets = targets_of(judge, chosen)
    groups = groups_of(data, targets, counts > 0)

    def measured(ranks: np.ndarray) -> Result:
        return {**ranking_metrics(ranks, ks), "groups": by_group(groups, lambda chosen: {
            "targets": int(chosen.sum()), **ranking_metrics(ranks[chosen], ks)})}  # fmt: skip

    result = {
        **found,
        "targets": judge.targets,
        "sessions": len(chosen),
        "of_sessions": len(sessions),
        "items": run.n_items,
        "trained_items": int((counts > 0).sum()),
        "candidates": "all" if spans is None else "live",
        "ties": "conservative",
        **measured(judged.arrays["rank"]),
        "chance": random_ranking(candidates(targets, spans, run.n_items), ks),
    }
    if asked.split == "test" and (best := run.manifest.get("optimum")):
        if np.count_nonzero(counts) != run.manifest["counts"]["trained"]:  # by group it is of what the run has seen
            best = {"queries": best["queries"]} | {part: {"all": best[part]["all"]} for part in ("recall", "moves")}
        result["optimum"] = best
    if compared:
        vectors: dict[str, Vectors] = {one.text: one.fit(targets, model.catalogue, counts) for one in compared}
        result["baselines"] = {name: measured(rank_by(both, targets, config.evaluation, spans))
                               for name, both in vectors.items()}  # fmt: skip
    return Report(result, ks, COLUMNS, optimum_lines(result.get("optimum"), ks))


def candidates(targets: Targets, spans: Spans | None, n_items: int) -> np.ndarray:
    """int64[n]: among how many items each target is ranked: those that are live, and itself."""
    if spans is None:
        return np.full(len(targets.item), n_items)
    now = spans.seconds(targets.asked)
    live = np.searchsorted(np.sort(spans.listed), now, "right") - np.searchsorted(np.sort(spans.sold), now, "right")
    own = (spans.listed[targets.item] <= now) & (now < spans.sold[targets.item])
    return live + ~own


def groups_of(dataset: Dataset, targets: Targets, trained: np.ndarray) -> Groups:
    """By whether training holds the target, by the type of its event, and by its category."""
    seen, moved = trained[targets.item], targets.item != targets.last
    found = {
        "items": {"seen": seen, "unseen": ~seen},
        "another item than the last": {"all": moved, "seen": moved & seen, "unseen": moved & ~seen},
        "event": {name: targets.event == code for code, name in enumerate(dataset.manifest["event_types"])},
    }
    if "c0_name" not in attribute_names(dataset.path, dataset.manifest):
        return found
    column = pc.fill_null(read_attributes(dataset.path, dataset.manifest, ["c0_name"])["c0_name"], "none")
    coded = column.combine_chunks().dictionary_encode()
    names, category = coded.dictionary.to_pylist(), coded.indices.to_numpy()[targets.item]
    often = np.argsort(-np.bincount(category, minlength=len(names)), kind="stable")[:MOST_CATEGORIES]
    return found | {"category": {names[code]: category == code for code in often}}


Vectors = tuple[np.ndarray, np.ndarray | Heads]
"""float32[n, D] queries and float32[V, D] items, whose products rank."""


def popularity(targets: Targets, catalogue: Catalogue, counts: np.ndarray) -> Vectors:
    """How often training holds an item."""
    return np.ones((len(targets.item), 1), np.float32), counts[:, None].astype(np.float32)


def name_neighbours(targets: Targets, catalogue: Catalogue, counts: np.ndarray) -> Vectors:
    """The cosine of an item's name with that of the last item."""
    names, name_of = np.asarray(catalogue.vectors, np.float32), catalogue.name_of
    last = name_of[targets.last]
    nothing = jnp.zeros(len(name_of), bool)
    return np.where(last[:, None] < 0, 0, names[last]), Heads(None, nothing, None, jnp.asarray(names),
                                                              jnp.asarray(name_of))  # fmt: skip


BASELINES = {"popularity": popularity, "name-neighbours": name_neighbours}


def rank_by(vectors: Vectors, targets: Targets, config: Any, spans: Spans | None) -> np.ndarray:
    """float32[n]: ranks by the products of vectors, among what is live."""

    def among(rows: np.ndarray) -> Candidates:
        if spans is None:
            return EVERYTHING
        return Candidates(Live(*map(jnp.asarray, (spans.listed, spans.sold, spans.seconds(targets.asked[rows])))))

    return collect(rank_vectors(vectors[0], targets.item, vectors[1], config.memory, among), ()).arrays["rank"]
