"""Items for users: positive rows, each against the items that its user does not have."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
from jax import Array

from jaxrec.baselines.base import Choice
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES as BASELINES
from jaxrec.baselines.retrieval import matrix
from jaxrec.cli.command import progress
from jaxrec.config import Config, EvaluationConfig
from jaxrec.data.codes import FieldCodes
from jaxrec.data.dataset import RowsDataset, Schema
from jaxrec.data.given import Ids
from jaxrec.data.retrieval import Queries, Retrieval, read_fields
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.ranking import bootstrap, expected_category_hits, expected_hits, oracle_hits
from jaxrec.models.base import TowerModel, make_model
from jaxrec.models.two_tower import Interactions
from jaxrec.ops.rows import deal, mesh_of
from jaxrec.ops.topk import Candidates, rank_scores
from jaxrec.run import Run, write_text
from jaxrec.tasks.base import QUERIES, Judged, Loaded, MakePlan, Part, Task, collect, in_parts, rank_vectors
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.history import history
from jaxrec.tasks.moves import Moves, check_fields, field_moves
from jaxrec.tasks.report import Asked, Groups, Page, Report, Result, by_group, repeated
from jaxrec.tasks.rules import RuleBook
from jaxrec.training.block import training_plan

OPTIONS = ("by", "folds")
COLUMNS = ("hit_rate", "category_hit", "mrr", "ndcg")
DEFAULT_FOLDS = 10
CELLS = 2**23  # scores that are held at once
PERSONA = "persona"
Hits = dict[str, np.ndarray]
"""Metric to float64[n], the part that each query has in it."""
Lists = dict[str, np.ndarray]
"""Of targets: ``rank`` float32[n], and ``top`` int32[n, K] items."""


def make(config: Config, dataset: RowsDataset, plan: MakePlan = training_plan) -> Task:
    """Items for users."""
    data = Retrieval.open(config, dataset)
    training, model = data.training_rows(), make_model(config, dataset.schema)
    judge = Judge(model, data, data.splits.validation, config.evaluation)
    # Refused before an epoch is trained, not when it is evaluated.
    item_categories(dataset, config.evaluation.category)
    RuleBook(config.recommendation.rules, dataset.schema, lambda name: Ids(dataset.values(name), first=1))
    if config.loss.mask == "positives":
        data.check_mask(config.data.device_memory)
    return Task(
        model,
        model.feed(training, plan(config, passes=RowTraining.of(config.training).passes)),
        model.constants(interactions(config, data)),
        judge if judge.targets else None,
        f"{len(training):,} positives of {data.n_users - 1:,} users and {data.n_items - 1:,} items",
        {"value_counts": data.value_counts, **history(dataset)},
    )


def interactions(config: Config, data: Retrieval) -> Interactions:
    """What a two-tower model's training knows beside its rows."""
    positives = data.positives(data.splits.train) if config.loss.mask == "positives" else None
    return Interactions(data.catalogue.columns, data.catalogue.numbers, data.item_counts(), positives)


def build(run: Run) -> TowerModel:
    """A run's model."""
    return make_model(run.config, Schema.from_manifest(run.manifest))


def moved_rows(loaded: Loaded, config: Config, dataset: RowsDataset) -> dict[str, Moves]:
    """Where the rows of both tables come from, each of the coded fields of its side."""
    schema = read_fields(config, dataset)
    check_fields(loaded.run, schema)
    return {side: field_moves(loaded, dataset, config.start, schema.side(side).coded, side)
            for side in loaded.model.tables}  # fmt: skip


# ---- evaluation ------------------------------------------------------------------------------------------------------


class Judge:
    """Ranks each positive of a split, row numbers ``part``, among the items that its user does not have yet: without
    the user's other positives, of training and of the split (``had``, ``positive_bits``), and the unknown item."""

    def __init__(self, model: TowerModel, data: Retrieval, part: np.ndarray, config: EvaluationConfig) -> None:
        self.data, self.part, self._memory = data, part, config.memory
        self.queries, self.had = data.queries(part), data.positives(data.splits.train, part)
        self._encode = jax.jit(model.encode, static_argnums=0)
        self.targets = len(self.queries.users)
        self.blocks = -(-self.targets // QUERIES)

    def vectors(self, weights: dict[str, Any]) -> tuple[Array, Array]:
        """float32[n, D] of the queries, and float32[V, D] of the items."""
        user, item = (self._encode(side, weights, jnp.asarray(one.columns), jnp.asarray(one.numbers))
                      for side, one in (("user", self.queries), ("item", self.data.catalogue)))  # fmt: skip
        return user, item

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None,
        wider: tuple[Any, Any] | None = None,
    ) -> Judged:  # fmt: skip
        """See ``collect``; where a user has nearly all items, the last of ``top`` may hold what does not count.
        ``wider`` are further columns of the vectors, float32[n, R] and float32[V, R], as those of ``RuleBook``."""
        users, items = self.vectors(weights)
        if wider is not None:
            users, items = (jnp.hstack(pair) for pair in zip((users, items), wider, strict=True))
        if (mesh := mesh_of(weights)) is not None:
            items = deal(np.asarray(items), mesh)
        return rank_queries(self.queries, users, items, self.had, self._memory, ks, top, update)


def rank_queries(
    asked: Queries, queries: Array, items: Array, had: np.ndarray, memory: int, ks: Sequence[int], k: int = 0,
    update: Callable[..., None] | None = None,
) -> Judged:  # fmt: skip
    """By the products of float32[n, D] and float32[V, D]; see ``Judge``."""
    parts = rank_vectors(queries, asked.items, items, memory, lambda rows: _among(had, asked.users[rows]), k=k)
    return collect(parts, ks, update=update)


def _among(had: np.ndarray, users: np.ndarray) -> Candidates:
    """Without what each user has, and the unknown item."""
    bits: np.ndarray = had[users]
    bits[:, 0] |= np.uint32(1)
    return Candidates(without=jnp.asarray(bits))


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines; of the test split also a page with a line for each positive."""
    run, split, ks, config = asked.run, asked.split, asked.ks, asked.config
    compared, folds, data = asked.compared(BASELINES), _folds(asked), Retrieval.open(config, asked.data)
    judge = Judge(asked.loaded.model, data, getattr(data.splits, split), config.evaluation)
    if not judge.targets:
        raise UserError(f"{asked.data.path}: the {split} split has no positive row; choose another --split")
    queries, categories = judge.queries, item_categories(asked.data, config.evaluation.category)
    judged, found = asked.measure(judge, max(ks), folds=folds)
    hits = answered(judged.arrays, queries.items, categories, ks)
    had, counts = judge.had[queries.users], data.item_counts().astype(np.float64)
    chance, popular = (expected(one, queries.items, had, categories, ks) for one in (0 * counts, counts))
    result = {
        **found,
        "protocol": config.data.protocol,
        "targets": judge.targets,
        "items": data.n_items - 1,
        **measured(hits),
        "chance": means(chance),
        "popularity": means(popular),
    }
    if config.data.protocol == "in_sample":
        numbers = [field.name for field in data.fields.side("user").numerical]
        result["oracle"] = oracle(queries, numbers, categories, ks)
    best = run.manifest.get("optimum")
    if best is not None and np.bitwise_count(had).sum(axis=1).max() <= 1:  # of rankings of all products
        result["optimum"] = {f"hit_rate@{k}": best[f"hit_rate@{k}"] for k in ks if f"hit_rate@{k}" in best}
    groups, notes = _groups(asked, judge), list[str]()
    if split != "train":
        result["repeats"], notes = repeated(asked, data.splits, data.held_by_training(judge.part), groups)

    def part(chosen: np.ndarray) -> Result:
        own, lucky = ({name: values[chosen] for name, values in one.items()} for one in (hits, chance))
        return {"targets": int(chosen.sum()), **measured(own), "chance": means(lucky)}

    result["groups"] = by_group(groups, part)
    if config.recommendation.rules:
        result["with_rules"] = _with_rules(run, judge, asked, categories)
    if compared:
        result["baselines"] = measure(compared, judge, ks)
    if folds and asked.cross_validate is not None:
        with progress("evaluate: by review", folds) as update:
            result["by_review"] = asked.cross_validate(config, asked.data, ks, folds, update=update)
    file = run.path / "results.csv"
    page: Page = (file, lambda: write_text(file, results_csv(asked, judge, judged.arrays, hits, categories)))
    return Report(result, ks, COLUMNS, notes, [page] if split == "test" else [])


def _folds(asked: Asked) -> int:
    """How many the cross-validation by review has; 0 where there is none."""
    manifest, protocol = asked.data.manifest, asked.config.data.protocol
    personas = "personas" in manifest and protocol == "in_sample"
    if asked.folds and not personas:
        raise UserError("--folds: cross-validates runs of protocol in_sample on data with personas; leave it out")
    if not personas or asked.folds is not None:
        return asked.folds or 0
    derived = manifest["personas"].get("attributes") == "derived"
    return 0 if derived and "embeddings.npy" not in manifest["files"] else DEFAULT_FOLDS


def _groups(asked: Asked, judge: Judge) -> Groups:
    """The queries by what is known of their users."""
    shown = pq.read_table(asked.data.path / "users.parquet").drop_columns([str(judge.data.schema.user)])
    groups = {}
    for name in asked.groups(shown.column_names, [PERSONA] if PERSONA in shown.column_names else []):
        titles = np.array([str(value) for value in shown[name].to_pylist()], object)[judge.queries.users]
        groups[name] = {title: titles == title for title in sorted(set(titles))}
    return groups


def _with_rules(run: Run, judge: Judge, asked: Asked, categories: np.ndarray | None) -> Result:
    """The same with the configured rules applied."""
    data = judge.data
    book = RuleBook(run.config.recommendation.rules, data.schema, FieldCodes(run).vocabulary)
    place, part = data.schema.slices(), data.positive_rows(judge.part)
    users = {name: data.rows.columns[part][:, place[name]] for name in data.schema.side("user").slices()}
    items = np.asarray(asked.data.array("items.npy"))
    by_field = {name: items[:, where] for name, where in data.schema.side("item").slices().items()}
    wider = book.of_users(users), book.of_items(by_field)
    metrics, lists = judge(asked.loaded.weights, asked.ks, max(asked.ks), wider=wider)
    return {**metrics, **measured(answered(lists, judge.queries.items, categories, asked.ks))}


def measure(choices: Sequence[Choice], judge: Judge, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Conservative ranks of the same positives among the same candidates, of baselines fitted on training."""
    has = owned_items(judge.data)
    return {choice.text: judge_baseline(choice.fit(has), judge, ks).metrics for choice in choices}


def owned_items(data: Retrieval) -> Any:
    """CSR float64[users, items]: who has what in training."""
    train = data.queries(data.splits.train)
    return matrix(train.users, train.items, data.n_users, data.n_items)


def judge_baseline(score: Callable[[np.ndarray], np.ndarray], judge: Judge, ks: Sequence[int]) -> Judged:
    """What a judge gives of models, of the scores of a fitted baseline."""
    asked = judge.queries

    def ranked(rows: np.ndarray) -> Part:
        users, targets = asked.users[rows], jnp.asarray(asked.items[rows])
        return rank_scores(jnp.asarray(score(users)), targets, among=_among(judge.had, users))

    return collect(in_parts(len(asked.users), 1024, ranked), ks)


# ---- hits ------------------------------------------------------------------------------------------------------------


def item_categories(dataset: RowsDataset, name: str | None) -> np.ndarray | None:
    """int32[V]: the category of each item, a categorical field of the items; None for no name."""
    if name is None:
        return None
    items = dataset.schema.side("item")
    names = [field.name for field in items.coded if field.kind == "categorical"]
    if name not in names:
        raise UserError(f"evaluation.category: no categorical field '{name}' of the item{nearest(name, names)}; there "
                        f"are {', '.join(names)}")  # fmt: skip
    return np.asarray(dataset.array("items.npy")[:, items.columns((name,))[0]])


def answered(lists: Lists, targets: np.ndarray, categories: np.ndarray | None, ks: Sequence[int]) -> Hits:
    """Whether the target's rank is at most k, and whether any of the first k is of its category, of int[V]."""
    hits = {f"hit_rate@{k}": (lists["rank"] <= k).astype(np.float64) for k in ks}
    if categories is not None:
        right = categories[lists["top"]] == categories[targets][:, None]
        hits |= {f"category_hit@{k}": right[:, :k].any(axis=1).astype(np.float64) for k in ks}
    return hits


def expected(
    scores: np.ndarray, targets: np.ndarray, had: np.ndarray, categories: np.ndarray | None, ks: Sequence[int]
) -> Hits:
    """Hits that are expected of lists by float[V] ``scores`` whose ties are broken at random: constant ones for chance,
    the number of training rows for popularity. Item 0 is none, nor those of ``had``, uint32[n, words] of bits, but the
    target is one all the same.
    """
    parts, rows = [], max(1, CELLS // len(scores))
    for start in range(0, len(targets), rows):
        wanted, bits = targets[start : start + rows], had[start : start + rows].view(np.uint8)
        banned = np.unpackbits(bits, axis=1, bitorder="little", count=len(scores)).astype(bool)
        banned[:, 0], banned[np.arange(len(wanted)), wanted] = True, False
        asked = np.where(banned, -np.inf, scores)
        parts.append({f"hit_rate@{k}": expected_hits(asked, wanted, k) for k in ks})
        if categories is not None:
            parts[-1] |= {f"category_hit@{k}": expected_category_hits(asked, categories, categories[wanted], k)
                          for k in ks}  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def oracle(
    asked: Queries, numbers: Sequence[str], categories: np.ndarray | None, ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    """The best that any model of the customers' fields can do on the very rows it has seen: with all fields that are
    read, and without each of the ``numbers``, the columns of ``asked.numbers``, which are often drawn at random."""
    right = {"hit_rate": asked.items} | ({} if categories is None else {"category_hit": categories[asked.items]})
    wholes = {"all fields": asked.numbers}
    wholes |= {f"without {name}": np.delete(asked.numbers, place, axis=1) for place, name in enumerate(numbers)}
    result = {}
    for title, chosen in wholes.items():
        groups = np.unique(np.hstack([asked.columns, chosen]), axis=0, return_inverse=True)[1].reshape(-1)
        result[title] = {f"{name}@{k}": oracle_hits(groups, of, k) for name, of in right.items() for k in ks}
    return result


def means(hits: Hits) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in hits.items()}


def measured(hits: Hits) -> Result:
    """Means, and their 95 % bootstrap intervals."""
    return {**means(hits), "intervals": {name: list(bootstrap(values)) for name, values in hits.items()}}


def results_csv(asked: Asked, judge: Judge, lists: Lists, hits: Hits, categories: np.ndarray | None) -> str:
    """A line for each positive: the customer, what it got and what it would have been."""
    users, items = (pq.read_table(asked.data.path / f"{side}s.parquet") for side in ("user", "item"))
    queries, schema, k = judge.queries, judge.data.schema, asked.ks[0]
    people, products = users.take(queries.users), np.array(items[str(schema.item)].to_pylist(), object)
    top, titles, none = lists["top"][:, :k], np.full(len(products), "", object), pa.nulls(judge.targets, pa.string())
    if categories is not None:
        values = asked.data.values(str(asked.config.evaluation.category))
        titles = np.array(["unknown", *map(str, values)], object)[categories]
    whole = {name: none if (part := hits.get(f"{name}@{k}")) is None else part.astype(np.int64)
             for name in ("hit_rate", "category_hit")}  # fmt: skip
    lines = pa.table({
        "user_id": people[str(schema.user)], "persona": people[PERSONA] if PERSONA in people.column_names else none,
        "gt_product": pa.array(products[queries.items]), "gt_category": titles[queries.items],
        "rank": lists["rank"].astype(np.int64), "hit": whole["hit_rate"], "category_hit": whole["category_hit"],
        "top_products": ["|".join(map(str, row)) for row in products[top]],
        "top_categories": ["|".join(row) for row in titles[top]],
    })  # fmt: skip
    text = io.BytesIO()
    pc_csv.write_csv(lines, text, pc_csv.WriteOptions(quoting_style="needed"))
    return text.getvalue().decode()
