"""Imports of earlier versions' modules fail with one line that names the new place: for one version."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

MODULES = """
cli.command: cli.options; cli.text: cli.json_text cli.paths cli.yaml_text; data.clean.pipeline: data.events;
data.filters: where; data.items: data.vocabulary; data.retrieval: data.positives; data.splits: data.protocols;
data.store: data.files data.writing; errors: wording; feeds.lanes: data.feed; feeds.packed: data.packing; feeds.rows:
data.row_feed; losses.ranking: losses.candidates models.sampled negatives; losses.contrastive: contrastive
models.contrast; losses.softmax: softmax; metrics.clicks: click_metrics; models.base: models.work; models.merrec:
models.event_encoder; models.packed: models.sequence; models.two_tower: models.tower; ops.parallel: ops.precision
precision sharding; ops.tables: tables; ops.topk: ranking; personas.clusters: data.personas; run: rundir; sources:
data.sources; sources.market.world: data.market; sources.synthetic: data.markov; tasks.clicks.task: tasks.clicks.judge
evaluate_rows row_evaluation; tasks.clicks.recommend: recommend_rows; tasks.events.task: tasks.events.judge
evaluate_events event_evaluation; tasks.events.recommend: event_sequences recommend_events; tasks.results: results;
tasks.retrieval.task: tasks.retrieval.judge evaluate_retrieval retrieval_evaluation; tasks.retrieval.recommend:
recommend_towers; tasks.rules: rules; tasks.sessions.task: tasks.sessions.judge evaluation; tasks.vectors: serving;
training.checkpoint: checkpoint; training.optimizers: optimizers; training.telemetry: telemetry
"""
"""``new: old old``, without ``jaxrec.``."""
MOVED = {
    f"jaxrec.{old}": f"jaxrec.{new.strip()}"
    for new, olds in (entry.split(":") for entry in MODULES.split(";"))
    for old in olds.split()
}


class Finder(MetaPathFinder):
    """Refuses the modules of ``MOVED``."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname in MOVED:
            raise ImportError(
                f"{fullname} is gone; its place is {MOVED[fullname]} (see jaxrec/README.md)", name=fullname
            )


def install() -> None:
    """Look out for old imports from now on."""
    sys.meta_path.insert(0, Finder())
