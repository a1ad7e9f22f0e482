"""Ranks of the items that users like among all items that they do not have, and what stands beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jax import Array

from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES, Positives
from jaxrec.cli.command import parse_baselines, progress, say
from jaxrec.config import EvaluationConfig
from jaxrec.data.codes import FieldCodes
from jaxrec.data.retrieval import Queries, Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.data.splits import PAIRS, counted, in_words
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.base import TowerModel
from jaxrec.ops.topk import Candidates, block_size, rank, rank_scores
from jaxrec.tasks.base import Judged, load
from jaxrec.tasks.report import Asked, Report
from jaxrec.tasks.retrieval.hits import Hits, answered, expected, intervals, item_categories, means, oracle, take
from jaxrec.tasks.retrieval.pages import PERSONA, Answers, results_files
from jaxrec.tasks.rules import RuleBook

OPTIONS = ("by", "folds")
COLUMNS = ("hit_rate", "category_hit", "mrr", "ndcg")
MOST_QUERIES = 4096  # of a call
DEFAULT_FOLDS = 10


class Judge:
    """Ranks each positive of a split, row numbers ``part``, among the items that its user does not have yet.

    What does not count as a candidate: the user's other positives, of training and of the split; the unknown item.

    Attributes:
        queries: the split's positives.
        had: uint32[users, words], ``positive_bits`` of what does not count.
    """

    def __init__(self, model: TowerModel, data: Retrieval, part: np.ndarray, config: EvaluationConfig) -> None:
        self.queries, self._catalogue, self._memory = data.queries(part), data.catalogue, config.memory
        self.had = data.positives(data.splits.train, part)
        self._encode = jax.jit(model.encode, static_argnums=0)
        self.targets = len(self.queries.users)
        self.blocks = -(-self.targets // MOST_QUERIES)

    def vectors(self, weights: dict[str, Any]) -> tuple[Array, Array]:
        """float32[n, D] of the queries, and float32[V, D] of the items."""
        user, item = (self._encode(side, weights, jnp.asarray(one.columns), jnp.asarray(one.numbers))
                      for side, one in (("user", self.queries), ("item", self._catalogue)))  # fmt: skip
        return user, item

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None,
        wider: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Judged:  # fmt: skip
        """Recall, MRR, NDCG and hit rate at ``ks``; ``rank`` float32[n] and ``top`` int32[n, top] items, best first.

        Args:
            top: at most the number of items; where a user has nearly all, the last places may hold what does not count.
            update: called after each block, for a progress bar.
            wider: further columns of the vectors, float32[n, R] and float32[V, R], as those of ``RuleBook``.
        """
        users, items = self.vectors(weights)
        if wider is not None:
            users, items = (jnp.concatenate([one, jnp.asarray(more)], axis=1)
                            for one, more in zip((users, items), wider, strict=True))  # fmt: skip
        ranks, best = rank_queries(self.queries, users, items, self.had, self._memory, top, update)
        return Judged(ranking_metrics(ranks, ks), {"rank": ranks, "top": best})


def rank_queries(
    asked: Queries, queries: Array, items: Array, had: np.ndarray, memory: int, k: int = 0,
    update: Callable[..., None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """float32[n] ranks and int32[n, k] best items by the products of float32[n, D] and float32[V, D].

    Args:
        had: uint32[users, words], ``positive_bits`` of what does not count.
        memory: MiB of scores that are held at once.
    """
    ranks, best, n = [np.zeros(0, np.float32)], [np.zeros((0, k), np.int32)], len(asked.users)
    size, rows = block_size(len(items), memory), min(n, MOST_QUERIES)
    for start in range(0, n, max(1, rows)):
        part = slice(start, min(start + rows, n))
        more = (0, rows - (part.stop - start))
        users, targets = (np.pad(one[part], more) for one in (asked.users, asked.items))
        own = jnp.pad(queries[part], (more, (0, 0)))
        found = rank(own, jnp.asarray(targets), items, size, k=k, among=_among(had, users))
        ranks.append(np.asarray(found[0])[: part.stop - start])
        best.append(np.asarray(found[1])[: part.stop - start])
        if update is not None:
            update()
    return np.concatenate(ranks), np.concatenate(best)


def _among(had: np.ndarray, users: np.ndarray) -> Candidates:
    """Without what each user has, and the unknown item."""
    bits: np.ndarray = had[users]
    bits[:, 0] |= np.uint32(1)
    return Candidates(without=jnp.asarray(bits))


# ---- a run -----------------------------------------------------------------------------------------------------------


def answer_split(asked: Asked) -> Answers:
    """Rank the positives of a split."""
    run, dataset, split, ks = asked.run, asked.data, asked.split, asked.ks
    assert isinstance(dataset, RowsDataset)
    data = Retrieval.open(run.config, dataset)
    part = getattr(data.splits, split)
    _, model, weights, which = load(run)
    judge = Judge(model, data, part, run.config.evaluation)
    if not judge.targets:
        raise UserError(f"{dataset.path}: the {split} split has no positive row; choose another --split")
    if max(ks) >= data.n_items:
        raise UserError(f"--k {max(ks)}: larger than the catalogue of {data.n_items - 1} items; choose a smaller one")
    categories = item_categories(dataset, run.config.evaluation.category)
    with progress(f"evaluate: {split}", judge.blocks) as update:
        arrays = judge(weights, ks, max(ks), update).arrays
    hits = answered(arrays["rank"], arrays["top"], judge.queries.items, categories, ks)
    return Answers(dataset, data, part, which, weights, judge, arrays["rank"], arrays["top"], hits, categories)


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines; pages are a line for each positive, and the personas."""
    run, split, ks, names = asked.run, asked.split, asked.ks, asked.baselines
    compared = [] if names is None else parse_baselines(names, RETRIEVAL_BASELINES, "that ranks items for users")
    folds, begin = _folds(asked), time.perf_counter()
    found = answer_split(asked)
    data, queries = found.data, found.judge.queries
    had, counts = found.judge.had[queries.users], data.item_counts().astype(np.float64)
    chance = expected(0 * counts, queries.items, had, found.categories, ks)
    result: dict[str, Any] = {
        "split": split,
        "protocol": run.config.data.protocol,
        "targets": found.judge.targets,
        "items": data.n_items - 1,
        "checkpoint": found.checkpoint,
        **ranking_metrics(found.ranks, ks),
        **means(found.hits),
        "intervals": intervals(found.hits),
        "chance": means(chance),
        "popularity": means(expected(counts, queries.items, had, found.categories, ks)),
    }
    if run.config.data.protocol == "in_sample":
        numbers = [field.name for field in data.fields.side("user").numerical]
        result["oracle"] = oracle(queries, numbers, found.categories, ks)
    best = run.manifest.get("optimum")
    if best is not None and np.bitwise_count(had).sum(axis=1).max() <= 1:  # of rankings of all products
        result["optimum"] = {f"hit_rate@{k}": best[f"hit_rate@{k}"] for k in ks if f"hit_rate@{k}" in best}
    titles, notes = _titles(found, asked.by), list[str]()
    if split != "train":
        held = data.held_by_training(found.part)
        result["repeats"] = counted(data.splits, held)
        notes = in_words(result["repeats"], result["targets"], split)
        if asked.by is None and held.any():
            titles["pair"] = np.array(PAIRS, object)[held.astype(int)]
    result["groups"] = {name: _by_title(found, own, chance) for name, own in titles.items()}
    if run.config.recommendation.rules:
        result["with_rules"] = _with_rules(asked, found)
    if compared:
        result["baselines"] = measure(compared, found, ks)
    if folds and asked.cross_validate is not None:
        with progress("evaluate: by review", folds) as update:
            result["by_review"] = asked.cross_validate(run.config, found.dataset, ks, folds, update=update)
    result["question"] = asked.question(found.checkpoint, folds=folds)
    result["seconds"] = round(time.perf_counter() - begin, 3)
    return Report(result, ks, COLUMNS, notes, results_files(asked, found, ks[0]) if split == "test" else [])


def _folds(asked: Asked) -> int:
    """How many the cross-validation by review has; 0 where there is none."""
    manifest, protocol = asked.run.manifest, asked.run.config.data.protocol
    personas = "personas" in manifest and protocol == "in_sample"
    if asked.folds and not personas:
        raise UserError("--folds: cross-validates runs of protocol in_sample on data with personas; leave it out")
    if not personas or asked.folds is not None:
        return asked.folds or 0
    if manifest["personas"].get("attributes") == "derived" and "embeddings.npy" not in manifest["files"]:
        say("note", "the data has no embeddings, so nothing is cross-validated by review")
        return 0
    return DEFAULT_FOLDS


def _titles(found: Answers, wanted: Sequence[str] | None) -> dict[str, np.ndarray]:
    """By what is known of the users str[n], the group of each query."""
    shown = pq.read_table(found.dataset.path / "users.parquet").drop_columns([str(found.data.schema.user)])
    names, titles = shown.column_names, {}
    for name in [one for one in names if one == PERSONA] if wanted is None else wanted:
        if name not in names:
            raise UserError(f"--groups {name}: not known of the users{nearest(name, names)}; there are "
                            f"{', '.join(names) or 'none'}")  # fmt: skip
        titles[name] = np.array([str(value) for value in shown[name].to_pylist()], object)[found.judge.queries.users]
    return titles


def _by_title(found: Answers, titles: np.ndarray, chance: Hits) -> dict[str, Any]:
    """Hits of the queries by str[n] title."""
    result: dict[str, Any] = {}
    for title in sorted(set(titles)):
        rows = np.flatnonzero(titles == title)
        own = take(found.hits, rows)
        result[title] = {"targets": len(rows), **means(own), "intervals": intervals(own),
                         "chance": means(take(chance, rows))}  # fmt: skip
    return result


def _with_rules(asked: Asked, found: Answers) -> dict[str, Any]:
    """The same with the configured rules applied."""
    run, ks, data = asked.run, asked.ks, found.data
    book = RuleBook(run.config.recommendation.rules, data.schema, FieldCodes(run).vocabulary)
    place, part = data.schema.slices(), data.positive_rows(found.part)
    users = {name: data.rows.columns[part][:, place[name]] for name in data.schema.of_side("user")}
    of_items, items = data.schema.side("item"), np.asarray(found.dataset.array("items.npy"))
    by_field = {name: items[:, where] for name, where in of_items.slices().items()}
    judged = found.judge(found.weights, ks, max(ks), wider=(book.of_users(users), book.of_items(by_field)))
    hits = answered(judged.arrays["rank"], judged.arrays["top"], found.judge.queries.items, found.categories, ks)
    return {**judged.metrics, **means(hits), "intervals": intervals(hits)}


def measure(names: Sequence[str], found: Answers, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Conservative ranks of the same positives among the same candidates, of baselines fitted on training."""
    data, asked, result = found.data, found.judge.queries, {}
    train = data.queries(data.splits.train)
    for name in names:
        score = RETRIEVAL_BASELINES[name](Positives(train.users, train.items), data.n_users, data.n_items)
        ranks = []
        for start in range(0, len(asked.users), 1024):
            users, targets = asked.users[start : start + 1024], jnp.asarray(asked.items[start : start + 1024])
            among = _among(found.judge.had, users)
            ranks.append(np.asarray(rank_scores(jnp.asarray(score(users)), targets, among=among)[0]))
        result[name] = ranking_metrics(np.concatenate(ranks), ks)
    return result
