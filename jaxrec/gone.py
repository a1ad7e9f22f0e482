"""Imports of modules that earlier versions had fail with one line that names the new place: for one version.

Only the standard library is imported here.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

MODULES = """
baselines.items: baselines.itemknn baselines.popularity; baselines.neighbours: baselines.stan baselines.vsknn;
data.codes: data.entities;
config.sections: agreement sections; data.clean.choices: data.clicks; data.clean.pipeline: data.events;
data.filters: where; data.given: data.given_events; data.ids: data.raw_ids; data.items: data.vocabulary;
data.store: data.files data.writing; errors: wording cli.wording; feeds.lanes: data.feed; feeds.packed: data.packing
data.named_feed; feeds.rows: data.row_feed; losses.candidates: models.sampled negatives; losses.contrastive:
contrastive models.contrast; losses.softmax: softmax; metrics.chance: chance; metrics.clicks: click_metrics;
models.merrec: models.event_encoder; models.packed: models.sequence; models.two_tower: models.tower;
ops.field_attention: models.field_attention; ops.gru: models.gru; ops.parallel:
sharding precision ops.precision; ops.tables: tables; ops.topk: ranking; personas.clusters: data.personas;
personas.folds: review_folds; personas.pictures: embedding_plots persona_groups persona_plots personas.embedding
personas.groups; plots.clicks: click_plots; plots.pictures: pictures; run: rundir;
sources: data.sources; sources.movielens: sources.movielens_files;
tasks.clicks.judge: evaluate_rows row_evaluation; tasks.clicks.recommend: recommend_rows;
tasks.cutoffs: cutoffs; tasks.events.judge: evaluate_events event_evaluation; tasks.events.listings: listings;
tasks.events.recommend: event_sequences recommend_events; tasks.history: history; tasks.results: results;
tasks.retrieval.hits: hits; tasks.retrieval.judge: evaluate_retrieval retrieval_evaluation;
tasks.retrieval.recommend: recommend_towers; tasks.rules: rules; tasks.sessions.judge: evaluation;
tasks.vectors: serving; training.checkpoint: checkpoint; training.optimizers: optimizers; training.telemetry: telemetry
"""
"""``new: old old``, without ``jaxrec.``."""
PAIRS = (entry.split(":") for entry in MODULES.split(";"))
MOVED = {f"jaxrec.{old}": f"jaxrec.{new.strip()}" for new, olds in PAIRS for old in olds.split()}


class Finder(MetaPathFinder):
    """Refuses the modules of ``MOVED``; all others are left to Python's own finders."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if new := MOVED.get(fullname):
            raise ImportError(f"{fullname} is gone; its place is {new} (see jaxrec/README.md)", name=fullname)


def install() -> None:
    """Look out for old imports from now on."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
