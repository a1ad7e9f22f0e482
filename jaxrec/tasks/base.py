"""What the training loop works on: a model with its feed, its constants and its validation, for every kind of data;
and ranks of targets, a part at a time, with the metrics of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.cli.command import say
from jaxrec.config import Config, EvaluationConfig, find_task, models
from jaxrec.data.dataset import Dataset, RowsDataset, Schema
from jaxrec.data.reading.columns import ORDER
from jaxrec.errors import UserError, listed
from jaxrec.feeds.base import Feed, Plan
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.base import Model
from jaxrec.ops.parallel import mesh_over, replicate
from jaxrec.ops.rows import mesh_of
from jaxrec.ops.topk import TOGETHER, Candidates, Items, block_size, rank
from jaxrec.run import Run, open_run
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.state import as_dealt, rows_of, weights_like

QUERIES = 8192  # that are encoded and ranked in one call
Part = tuple[Any, Any]
"""float32[m] ranks, and int32[m, top] best items."""
Among = Callable[[np.ndarray], Candidates]
"""What queries of these numbers, int64[m], are ranked among."""
MakePlan = Callable[..., Plan]
"""As ``training.block.training_plan``."""
Excluded = Callable[[int, np.ndarray], np.ndarray]
"""Bit mask of excluded items, uint32[n, ceil(V / 32)], of the entries int64[n] of a block, by its number."""
Encode = Callable[[dict[str, Any], Any, Any], tuple[Any, Array, Candidates]]
"""Of weights, what is carried, and a block: what is carried on, float32[..., Q] queries, and what they rank among."""


class Judged(NamedTuple):
    """Metrics of a split by name, and arrays with an entry for each query or row, such as its rank."""

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What the loop asks of a data set under a configuration."""

    model: Model
    feed: Feed  # the training split
    constants: Any  # what that says once and for all
    judge: Any  # of the validation split: weights and cut-offs to ``Judged``; None where nothing is held out
    size: str  # of training, in words
    kept: dict[str, np.ndarray] = field(default_factory=dict)  # arrays that a run keeps, beside those of any data set
    copied: tuple[str, ...] = ()  # further files of the data set that a run keeps


class Loaded(NamedTuple):
    """A run's model with its weights, ``{params, tables}``, with ``statistics`` where the model has any, and the name
    of their checkpoint: ``best`` by validation, or the ``latest`` where none was chosen."""

    run: Run
    model: Any
    weights: dict[str, Any]
    which: str


def load(run: str | Path | Run, whole: bool = False) -> Loaded:
    """A run's model with its weights, tables as ``ops.rows.DealtRows`` where they were dealt over no more devices than
    there are here; ``whole``: on one."""
    run = open_run(run)
    model, shards = part_of(run.config, "task").build(run), run.config.mesh.model
    dealt = not whole and 1 < shards <= jax.local_device_count()
    mesh = mesh_over(jax.local_devices(), (1, shards)) if dealt else None
    weights, _, which = Checkpoints(run.path, rows_of(model)).restore_model(weights_like(model, mesh))
    return Loaded(run, model, as_dealt(model, weights, mesh), which)


def part_of(config: Config, part: str) -> ModuleType:
    """A module of a model's kind of problem: ``task`` or ``recommend``."""
    return importlib.import_module(f"{find_task(config.model).__name__}.{part}")


def make_task(config: Config, dataset: Dataset | RowsDataset, plan: MakePlan | None = None) -> Task:
    """The task of a configuration, found by name: the module ``task`` of a folder beside this file. ``plan`` says how
    its training is fed, where that is not on the devices that are here."""
    manifest, kind = dataset.manifest, dataset.manifest["kind"]
    if kind != find_task(config.model).READS:
        typed = manifest.get("event_types")
        fitting = [name for name, model in models().items()
                   if kind == find_task(model).READS and (typed or model.task != "events")]  # fmt: skip
        fits = listed(fitting, "or")
        raise UserError(f"model.name: {config.model.name} does not read the {kind} of {dataset.path}; choose {fits}")
    if manifest.get("options", {}).get("time_unit") == ORDER:
        for section, name in (("data", "half_life"), ("data", "last_days"), ("model", "time_bias")):
            if value := getattr(getattr(config, section), name, None):
                raise UserError(f"{section}.{name}: found {value}, and the times of {dataset.path} are counters, which "
                                "tell no more than the order; leave it out")  # fmt: skip
    dataset.verify()
    made: Task = part_of(config, "task").make(config, dataset, *([] if plan is None else [plan]))
    if config.training.early_stopping and made.judge is None:
        raise UserError("training.early_stopping: needs validation data; set data.validation_fraction, such as 0.05")
    return made


def cutoffs(config: Config) -> list[int]:
    """The cut-offs to report in validation, that of the chosen metric included."""
    return sorted({*config.evaluation.k, *(int(k) for k in config.training.metric.split("@")[1:])})


def ranked_items(config: Config, dataset: Dataset | RowsDataset) -> int:
    """Among how many items the right one is ranked; 0: among a user's own rows, or the data do not fit."""
    manifest, task = dataset.manifest, find_task(config.model)
    if hasattr(task, "OWN_ROWS") or manifest["kind"] != task.READS:
        return 0
    schema = Schema.from_manifest(manifest) if task.READS == "rows" else None
    return schema.size(schema.item) - 1 if schema else int(manifest["counts"]["items"])  # one is the unknown one


def check_cutoffs(config: Config, dataset: Dataset | RowsDataset, ks: Sequence[int]) -> None:
    """Refuse cut-offs beyond the catalogue, at which any ranking is right."""
    if 0 < (items := ranked_items(config, dataset)) < max(ks):
        raise UserError(f"--k, evaluation.k or training.metric: {max(ks)} is more than the {items} items of "
                        f"{dataset.path}; choose a smaller one")  # fmt: skip


def fit_cutoffs(config: Config, dataset: Dataset | RowsDataset) -> Config:
    """The configuration whose default cut-offs are below the number of items, which a note says; given ones are not
    to be beyond it."""
    items, notes = ranked_items(config, dataset), list[str]()
    for section, name in (("evaluation", "k"), ("training", "metric")):
        part = getattr(config, section)
        value = getattr(part, name)
        kind, *ks = value.split("@") if isinstance(value, str) else ("", *value)
        if name not in part.model_fields_set and 0 < items <= max(map(int, ks), default=0):
            below = [int(k) for k in ks if int(k) < items] or [max(1, items - 1)]
            new = f"{kind}@{below[-1]}" if kind else tuple(below)
            notes.append(f"{section}.{name} is {new} instead of {value}: {dataset.path} has {items} items")
            config = config.model_copy(update={section: part.model_copy(update={name: new})})
    check_cutoffs(config, dataset, cutoffs(config))
    for note in notes:
        say("note", note)
    return config


# ---- ranks of targets ------------------------------------------------------------------------------------------------


def in_parts(n: int, size: int, ranked: Callable[[np.ndarray], Part]) -> Iterator[Part]:
    """``ranked`` of the numbers 0 to n - 1, so many at a time; what fills the last part up is cut."""
    for start in range(0, n, size):
        ranks, best = ranked(np.minimum(np.arange(start, start + size), n - 1))
        yield np.asarray(ranks)[: n - start], np.asarray(best)[: n - start]


def collect(
    parts: Iterable[Part], ks: Sequence[int], n_items: int = 0, update: Callable[..., None] | None = None
) -> Judged:
    """Recall, MRR, NDCG and hit rate; ``rank`` float32[n] and ``top`` int32[n, top] items. With ``n_items`` also
    ``coverage@k``, the share of them in the top k of some query. ``update`` is called after each part."""
    found: list[Part] = []
    for part in parts:
        found.append(part)
        if update is not None:
            update()
    ranks, top = (np.concatenate(one) for one in zip(*found or [(np.zeros(0), np.zeros((0, 0), int))], strict=True))
    metrics = ranking_metrics(ranks, ks)
    if n_items:
        metrics |= {f"coverage@{k}": len(np.unique(top[:, :k])) / n_items for k in ks}
    return Judged(metrics, {"rank": ranks, "top": top})


def rank_vectors(
    queries: Any, targets: np.ndarray, items: Any, memory: int, among: Among, k: int = 0
) -> Iterator[Part]:
    """Ranks by the products of float32[n, D] and float32[V, D], also in parts, of int32[n] targets; ``memory`` MiB at
    once."""
    whole = isinstance(items, np.ndarray | Array)
    queries, table = jnp.asarray(queries), jnp.asarray(items) if whole else items
    size = block_size(len(items), memory, 64 if whole else TOGETHER)

    def ranked(rows: np.ndarray) -> Part:
        return rank(queries[rows], jnp.asarray(targets[rows]), table, size, k, among(rows))

    return in_parts(len(targets), max(1, min(QUERIES, len(targets))), ranked)


def evaluation_plan(batch: int) -> Plan:
    """How a split is fed to be evaluated: in its order, so many lanes or targets a step."""
    return Plan(batch, max(1, QUERIES // batch), order="time", seed=0, device_bytes=2**30)


class Judge:
    """Ranks the targets of a split by their products with ``items``, of weights float32[V, Q]; what is compiled is
    kept from call to call. ``sparse``: most of a block is not scored; with ``excluded`` items ``encode`` names no
    candidates of its own; ``together``: at least so many queries meet a part of the items at once."""

    def __init__(
        self, feed: Feed, n_items: int, config: EvaluationConfig, items: Callable[[dict[str, Any]], Items],
        encode: Encode, carry: Any = None, sparse: bool = False, excluded: Excluded | None = None, together: int = 64,
    ) -> None:  # fmt: skip
        self.feed, self.targets, self.blocks = feed, feed.pairs, feed.shape.blocks
        self._items, self._encode, self._carry, self._sparse = items, encode, carry, sparse
        self._n_items, self._size = n_items, block_size(n_items, config.memory, together)
        self._excluded, self._masks = excluded, max(1, config.memory * 2**18 // -(-n_items // 32))

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None
    ) -> Judged:
        """See ``collect``; with ``top``, at least max(ks), also the coverage."""
        parts = self._parts(weights, min(top, self._n_items))
        return collect(parts, ks, self._n_items if top else 0, update)

    def _parts(self, weights: dict[str, Any], top: int) -> Iterator[Part]:
        carry, items = self._carry, self._items(weights)
        mesh = mesh_of(weights)
        for number, block in enumerate(self.feed.epoch(0)):
            block = block if mesh is None else replicate(block, mesh)
            carry, queries, among = self._encode(weights, carry, block)
            flat, targets = queries.reshape(-1, queries.shape[-1]), block.target.reshape(-1)
            valid, rows = np.flatnonzero(np.asarray(block.weight).reshape(-1) > 0), np.arange(len(flat))
            if self._sparse:  # filled up with row 0 to a power of two: few programs are compiled
                rows = np.pad(valid, (0, (1 << max(0, len(valid) - 1).bit_length()) - len(valid)))
                flat, targets, valid = flat[rows], targets[rows], np.arange(len(valid))
            if self._excluded is None:
                ranks, best = rank(flat, targets, items, self._size, top, among)
            else:
                ranks, best = self._rank_masked(flat, targets, items, top, partial(self._excluded, number), rows)
            yield np.asarray(ranks)[valid], np.asarray(best)[valid]

    def _rank_masked(
        self, queries: Array, targets: Array, items: Items, top: int,
        excluded: Callable[[np.ndarray], np.ndarray], rows: np.ndarray,
    ) -> Part:  # fmt: skip
        """``rank`` without the excluded items of int64[n] rows, of as many at a time as there is memory for masks."""

        def ranked(part: np.ndarray) -> Part:
            among = Candidates(without=jnp.asarray(excluded(rows[part])))
            return rank(queries[part], targets[part], items, self._size, top, among)

        ranks, best = zip(*in_parts(len(rows), min(self._masks, len(rows)), ranked), strict=True)
        return np.concatenate(ranks), np.concatenate(best)
