"""Imports of what earlier versions had fail with one line that names the new place: for one version.

``install`` puts a finder before Python's own. Only the standard library is imported here.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

MODULES = """
benchmarks.exchange: benchmarks.collectives; benchmarks.report: benchmarks.report_picture benchmarks.results;
benchmarks.sizes: benchmarks.click_models benchmarks.event_models benchmarks.session_models
benchmarks.tower_models; cli.help: help_text; cli.json_text: json_text; cli.lock: lock; cli.options: options;
cli.paths: paths; cli.progress: progress_lines; cli.runtime: runtime; cli.startup: startup; cli.wording: wording;
cli.yaml_text: yaml_text; config.help: field_help; config.sections: agreement config.agreement sections;
data.clean.choices: data.cleaning; data.clean.clicks: data.clicks; data.clean.ledger: data.ledger;
data.clean.pipeline: data.events; data.clean.writing: data.sessions_writing; data.codes: data.field_codes;
data.encode: data.rows_writing; data.filters: where; data.given: data.given_events; data.ids: data.raw_ids;
data.items: data.vocabulary; data.reading.bags: data.bags; data.reading.duck: data.duck;
data.reading.fields: data.raw_fields; data.reading.ids: data.id_columns; data.reading.lines: data.lines;
data.reading.logs: data.log_columns; data.reading.numbers: data.number_columns; data.reading.rows: data.raw_rows;
data.reading.table: data.raw_table; data.reading.times: data.times; data.reading.unpacked: data.raw_files;
data.retrieval: data.positives; data.splits: data.protocols; data.store: data.files data.writing;
data.text.vectors: data.name_vectors; data.text.worker: data.text_worker; feeds.lanes: data.feed; feeds.packed:
data.named_feed data.packing feeds.named; feeds.rows: data.row_feed; losses.candidates: models.sampled negatives;
losses.contrastive: contrastive models.contrast; losses.softmax: softmax; metrics.chance: chance; metrics.clicks:
click_metrics; models.base: models.work; models.packed: models.sequence; ops.dropout: models.dropout;
ops.field_attention: models.field_attention; ops.gru: models.gru; ops.parallel: sharding; ops.precision:
precision; ops.tables: tables; ops.topk: ranking; personas.clusters: data.personas; personas.embedding:
embedding_plots; personas.files: data.personas_files; personas.folds: review_folds; personas.groups:
persona_groups; personas.personas_synthetic: personas.synthetic; personas.pictures: persona_plots; personas.rules:
data.personas_rules; personas.words: data.personas_words; plots.clicks: click_plots; plots.pictures: pictures;
run: rundir; sources: data.sources; sources.market.optimum: data.market_optimum; sources.market.words:
data.market_words; sources.market.world: data.market; sources.merrec: sources.merrec_columns sources.merrec_files
sources.merrec_own; sources.merrec_items: sources.merrec_attributes; sources.rows_synthetic:
sources.synthetic_rows; sources.shared: data.event_types sources.event_types; sources.synthetic: data.markov
sources.markov; tasks.answers: answer_events tasks.events.answers; tasks.clicks.judge: evaluate_rows
row_evaluation tasks.clicks.evaluate; tasks.clicks.recommend: recommend_rows; tasks.cutoffs: cutoffs;
tasks.events.judge: evaluate_events event_evaluation tasks.events.evaluate; tasks.events.listings: listings;
tasks.events.recommend: event_sequences recommend_events tasks.events.sequences; tasks.history: history;
tasks.results: results; tasks.results_table: plots.table results_table; tasks.retrieval.hits: hits;
tasks.retrieval.item_vectors: item_vectors; tasks.retrieval.judge: evaluate_retrieval retrieval_evaluation
tasks.retrieval.evaluate; tasks.retrieval.recommend: recommend_towers; tasks.rules: rules; tasks.sessions.judge:
baselines.measuring evaluation tasks.sessions.baselines; tasks.vectors: serving tasks.serving;
training.checkpoint: checkpoint; training.optimizers: optimizers; training.telemetry: telemetry; tune.report:
tune_report; tune.search_space: search_space
"""
"""``new: old old``, without ``jaxrec.``."""

NAMES = """
tasks.sessions.judge.Judge: tasks.sessions.judge.Evaluator; tasks.events.judge.Judge: tasks.events.judge.EventEvaluator;
tasks.clicks.judge.Judge: tasks.clicks.judge.RowEvaluator; baselines.base.Baseline: baselines.Baseline;
tasks.retrieval.judge.Judge: tasks.retrieval.judge.RetrievalEvaluator;
tasks.base.load: tasks.sessions.task.load_session_model tasks.events.task.load_event_model
tasks.clicks.task.load_click_model tasks.retrieval.task.load_tower_model;
ops.topk.rank: ops.topk.ranks ops.topk.ranks_and_top;
data.text.cache.open_cache: data.text.worker.open_store data.text.worker.Store;
data.text.cache.write_part: data.text.worker.Writer;
data.dataset.Dataset: data.store.verify;
tasks.query.Item: tasks.events.recommend.Suggestion tasks.events.recommend.Happening;
data.catalogue.Catalogue: data.items.Catalogue; data.catalogue.open_catalogue: data.items.open_catalogue;
data.entities.Entities: data.codes.Entities; data.ids.Ids: data.ids.Places; data.items.Items: data.items.Vocabulary;
tasks.query.Answer: data.codes.UnknownValues tasks.clicks.recommend.Recommendation tasks.retrieval.recommend.Suggestion
tasks.retrieval.recommend.Neighbour;
losses.ranking.Sampled: losses.candidates.SampledRanking;
losses.ranking.Popularity: losses.candidates.SamplingConstants;
losses.ranking.Negatives: losses.candidates.Negatives; losses.ranking.Step:
models.packed.packed_steps; losses.contrastive.Rows: losses.contrastive.Asked; losses.contrastive.Shared:
losses.contrastive.Offered; ops.parallel.Placement: ops.parallel.over ops.parallel.whole ops.parallel.dealt
ops.parallel.taken ops.precision.low; training.block.Training:
training.block.configured_block; tasks.query.Query: data.given.read_sequences
"""
"""The same of names in modules that are still there: ``new.module.Name: old.module.Name``."""


def _table(text: str) -> dict[str, str]:
    pairs = (entry.split(":") for entry in text.split(";") if entry.strip())
    return {f"jaxrec.{old}": f"jaxrec.{new.strip()}" for new, olds in pairs for old in olds.split()}


MOVED, RENAMED = _table(MODULES), _table(NAMES)


def _gone(old: str, new: str) -> ImportError:
    return ImportError(f"{old} is gone; its place is {new} (see jaxrec/README.md)", name=old)


class Finder(MetaPathFinder):
    """Refuses the modules of ``MOVED``, and gives those that ``RENAMED`` names are missing from a ``__getattr__``."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if fullname in MOVED:
            raise _gone(fullname, MOVED[fullname])
        if not any(old.rpartition(".")[0] == fullname for old in RENAMED):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            own = vars(module).get("__getattr__")

            def missing(name: str) -> Any:
                if new := RENAMED.get(f"{fullname}.{name}"):
                    raise _gone(f"{fullname}.{name}", new)
                if own is not None:
                    return own(name)
                raise AttributeError(f"module {fullname!r} has no attribute {name!r}")

            vars(module)["__getattr__"] = missing

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Look out for old imports from now on."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
