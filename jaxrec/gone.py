"""Imports of earlier versions' modules and classes fail with one line that names the new place: for one version.

Only the standard library is imported here.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

MODULES = """
baselines.ratings: baselines.logistic; baselines.sessions: baselines.itemknn baselines.neighbours baselines.popularity
baselines.prefixes baselines.stan baselines.vsknn; benchmarks.peer_worker: benchmarks.peer_gru4rec
benchmarks.peer_recbole; benchmarks.sweep: benchmarks.case benchmarks.machine benchmarks.output_layer benchmarks.report;
cli.command: cli.help cli.options cli.progress; cli.text: cli.json_text cli.paths cli.yaml_text; config: config.finding
config.former config.help; config.sections: agreement sections; data.clean.pipeline: data.clean.choices
data.clean.clicks data.clean.ledger data.clean.splits data.clean.writing data.clicks data.events; data.codes:
data.encode; data.dataset: data.rows; data.filters: where; data.given: data.given_events data.ids data.raw_ids;
data.items: data.catalogue data.vocabulary; data.reading.columns: data.reading.bags data.reading.fields data.reading.ids
data.reading.numbers data.reading.times; data.reading.table: data.reading.files data.reading.lines data.reading.logs
data.reading.rows data.reading.unpacked; data.retrieval: data.positives; data.splits: data.protocols; data.store:
data.files data.writing; data.text.encoding: data.name_vectors data.text.vectors data.text.worker; errors: cli.wording
wording; feeds.base: data.feed data.row_feed feeds.lanes feeds.rows; feeds.packed: data.named_feed data.packing;
losses.contrastive: contrastive models.contrast; losses.sampled: losses.candidates losses.ranking models.sampled
negatives; losses.softmax: softmax; metrics.clicks: click_metrics; metrics.ranking: chance metrics.chance;
models.autoint: losses.binary; models.base: models.work; models.fields: ops.dropout; models.merrec: models.event_encoder
models.merrec_config; models.packed: models.sequence; models.two_tower: models.tower; ops.field_attention:
models.field_attention; ops.gru: models.gru; ops.parallel: ops.precision precision sharding; ops.tables: tables;
ops.topk: ranking; personas.amore: personas.amore_files personas.files; personas.clusters: data.personas personas.rules
personas.words; personas.folds: review_folds; personas.pictures: embedding_plots persona_groups persona_plots
personas.embedding personas.groups; plots.pictures: click_plots pictures plots.clicks plots.curves; run: rundir;
sources: data.sources; sources.market.world: data.market sources.market.optimum; sources.merrec:
sources.merrec_attributes sources.merrec_columns sources.merrec_files sources.merrec_own; sources.merrec_synthetic:
sources.market.words; sources.movielens: sources.movielens_files sources.movielens_tfds; sources.synthetic: data.markov;
tasks.base: cutoffs tasks.cutoffs tasks.ranks; tasks.clicks.recommend: recommend_rows; tasks.clicks.task: evaluate_rows
row_evaluation tasks.clicks.evaluate tasks.clicks.judge; tasks.events.recommend: event_sequences listings
recommend_events tasks.events.listings tasks.events.sequences; tasks.events.task: evaluate_events event_evaluation
tasks.events.evaluate tasks.events.judge; tasks.history: history; tasks.query: tasks.answers tasks.events.answers;
tasks.report: results tasks.results tasks.results_table; tasks.retrieval.recommend: recommend_towers
tasks.retrieval.item_vectors; tasks.retrieval.task: evaluate_retrieval hits retrieval_evaluation
tasks.retrieval.evaluate tasks.retrieval.hits tasks.retrieval.judge; tasks.rules: rules; tasks.sessions.task: evaluation
tasks.sessions.baselines tasks.sessions.judge; tasks.vectors: serving tasks.serving; text: data.text.__main__;
training.checkpoint: checkpoint; training.optimizers: optimizers; training.telemetry: telemetry; tune.__main__:
tune.report tune.search_space
"""
"""``new: old old``, without ``jaxrec.``."""
CLASSES = """
baselines.base.Choice: baselines.Choice baselines.Kind; baselines.base.Scores: baselines.Baseline;
baselines.ratings.factorise: baselines.ratings.Factors; baselines.ratings.held_out_calibration:
baselines.ratings.Calibrated; baselines.retrieval.matrix: baselines.retrieval.Positives; benchmarks.peers.Peer:
benchmarks.peers.Kind benchmarks.peers.Process benchmarks.peers.Theirs; benchmarks.sweep.Case: benchmarks.sweep.Job;
data.clean.protocol.RawField: data.codes.RawField; data.clean.protocol.RawRows: data.codes.RawRows;
data.clean.rows.write_rows: data.codes.write_rows; data.items.Items: data.items.Vocabulary; data.store.array_file:
data.store.ArrayFile; data.store.staging: data.store.Staging; data.text.encoding.embed: data.text.encoding.Encoded;
losses.contrastive.Rows: losses.contrastive.Asked; losses.contrastive.Shared: losses.contrastive.Offered;
losses.softmax.Softmax: losses.softmax.Blocks; metrics.clicks.Calibration: baselines.ratings.Calibration;
ops.gru.gru_sequence: ops.gru.GRUStack; personas.clusters.Persona: personas.personas_synthetic.Persona;
plots.pictures.Curves: plots.__main__.Curves; plots.pictures.write: plots.pictures.Shown; recommend.Recommender:
tasks.clicks.recommend.ClickRecommender tasks.events.recommend.EventRecommender
tasks.retrieval.recommend.TowerRecommender; sources.Source: sources.RowSource; tasks.base.Judge: tasks.base.Validation;
tasks.query.Answer: data.codes.UnknownValues tasks.clicks.recommend.Recommendation; tasks.query.Item:
tasks.clicks.recommend.Rating tasks.events.recommend.Happening tasks.events.recommend.Suggestion
tasks.retrieval.recommend.Neighbour tasks.retrieval.recommend.Suggestion; tasks.rules.RuleBook: tasks.rules.Compiled;
training.optimizers.scale_by_row_rss: training.optimizers.RowRssState; tune.__main__.tune: tune.__main__.Options
tune.__main__.Search
"""
"""The same of classes in modules that are still there."""


def _table(text: str) -> dict[str, str]:
    pairs = (entry.split(":") for entry in text.split(";"))
    return {f"jaxrec.{old}": f"jaxrec.{new.strip()}" for new, olds in pairs for old in olds.split()}


MOVED, RENAMED = _table(MODULES), _table(CLASSES)


def _gone(old: str, table: dict[str, str]) -> ImportError:
    return ImportError(f"{old} is gone; its place is {table[old]} (see jaxrec/README.md)", name=old)


class Finder(MetaPathFinder):
    """Refuses the modules of ``MOVED``; those that ``RENAMED`` names are missing from get a ``__getattr__``."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if fullname in MOVED:
            raise _gone(fullname, MOVED)
        has_gone = any(old.rpartition(".")[0] == fullname for old in RENAMED)
        spec = PathFinder.find_spec(fullname, path, target) if has_gone else None
        if spec is None or spec.loader is None:
            return None  # Python's own finders go on
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            def missing(name: str) -> Any:
                if f"{fullname}.{name}" in RENAMED:
                    raise _gone(f"{fullname}.{name}", RENAMED)
                raise AttributeError(f"module {fullname!r} has no attribute {name!r}")

            execute(module)
            vars(module).setdefault("__getattr__", missing)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Look out for old imports from now on."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
