"""Items for users: positive rows, each against the items that its user does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jax import Array

from jaxrec.baselines import Choice
from jaxrec.baselines.retrieval import RETRIEVAL_BASELINES, Positives
from jaxrec.cli.command import progress
from jaxrec.config import Config, EvaluationConfig
from jaxrec.data.codes import FieldCodes
from jaxrec.data.ids import Ids
from jaxrec.data.retrieval import Queries, Retrieval
from jaxrec.data.rows import RowsDataset, Schema
from jaxrec.errors import UserError, nearest
from jaxrec.models.base import TowerModel, make_model
from jaxrec.models.two_tower import Interactions
from jaxrec.ops.topk import Candidates, rank_scores
from jaxrec.run import Run, write_text
from jaxrec.tasks.base import Judged, Task, check_early_stopping, validated_rows
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.history import history
from jaxrec.tasks.ranks import QUERIES, Part, collect, in_parts, rank_vectors
from jaxrec.tasks.report import Asked, Groups, Page, Report, Result, by_group, repeated
from jaxrec.tasks.retrieval import hits as counting
from jaxrec.tasks.retrieval.hits import PERSONA, Answers, answered, expected, item_categories, means, measured, take
from jaxrec.tasks.rules import RuleBook
from jaxrec.training.block import training_plan

OPTIONS = ("by", "folds")
COLUMNS = ("hit_rate", "category_hit", "mrr", "ndcg")
DEFAULT_FOLDS = 10


def make(config: Config, dataset: RowsDataset) -> Task:
    """Items for users."""
    data = Retrieval.open(config, dataset)
    training, model = data.training_rows(), make_model(config, dataset.schema)
    judge = Judge(model, data, data.splits.validation, config.evaluation)
    check_early_stopping(config, judge.targets)
    # Refused before an epoch is trained, not when it is evaluated.
    item_categories(dataset, config.evaluation.category)
    RuleBook(config.recommendation.rules, dataset.schema, lambda name: Ids(dataset.values(name), first=1))
    if config.loss.mask == "positives":
        data.check_mask(config.data.device_memory)
    words = f"{judge.targets:,} validation positives" if judge.targets else "no validation"
    return Task(
        model,
        model.feed(training, training_plan(config, passes=RowTraining.of(config.training).passes)),
        model.constants(interactions(config, data)),
        judge if judge.targets else None,
        f"{len(training):,} positives of {data.n_users - 1:,} users and {data.n_items - 1:,} items",
        validated_rows(words, data.splits, data.held_by_training(data.splits.test)),
        {"value_counts": data.value_counts, **history(dataset)},
    )


def interactions(config: Config, data: Retrieval) -> Interactions:
    """What a two-tower model's training knows beside its rows."""
    positives = data.positives(data.splits.train) if config.loss.mask == "positives" else None
    return Interactions(data.catalogue.columns, data.catalogue.numbers, data.item_counts(), positives)


def build(run: Run) -> TowerModel:
    """A run's model."""
    return make_model(run.config, Schema.from_manifest(run.manifest))


# ---- evaluation ------------------------------------------------------------------------------------------------------


class Judge:
    """Ranks each positive of a split, row numbers ``part``, among the items that its user does not have yet: without
    the user's other positives, of training and of the split (``had``, ``positive_bits``), and the unknown item.
    """

    def __init__(self, model: TowerModel, data: Retrieval, part: np.ndarray, config: EvaluationConfig) -> None:
        self.queries, self.had = data.queries(part), data.positives(data.splits.train, part)
        self._catalogue, self._memory = data.catalogue, config.memory
        self._encode = jax.jit(model.encode, static_argnums=0)
        self.targets = len(self.queries.users)
        self.blocks = -(-self.targets // QUERIES)

    def vectors(self, weights: dict[str, Any]) -> tuple[Array, Array]:
        """float32[n, D] of the queries, and float32[V, D] of the items."""
        user, item = (self._encode(side, weights, jnp.asarray(one.columns), jnp.asarray(one.numbers))
                      for side, one in (("user", self.queries), ("item", self._catalogue)))  # fmt: skip
        return user, item

    def __call__(
        self, weights: dict[str, Any], ks: Sequence[int], top: int = 0, update: Callable[..., None] | None = None,
        wider: tuple[Any, Any] | None = None,
    ) -> Judged:  # fmt: skip
        """See ``collect``; where a user has nearly all items, the last of ``top`` may hold what does not count.

        Args:
            wider: further columns of the vectors, float32[n, R] and float32[V, R], as those of ``RuleBook``.
        """
        users, items = self.vectors(weights)
        if wider is not None:
            users, items = (jnp.hstack(pair) for pair in zip((users, items), wider, strict=True))
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


def answer_split(asked: Asked, **limits: Any) -> Answers:
    """Rank the positives of a split."""
    dataset, ks, config = asked.data, asked.ks, asked.config
    data = Retrieval.open(config, dataset)
    part = getattr(data.splits, asked.split)
    judge = Judge(asked.loaded.model, data, part, config.evaluation)
    if not judge.targets:
        raise UserError(f"{dataset.path}: the {asked.split} split has no positive row; choose another --split")
    asked.check_ks(data.n_items - 1)
    categories = item_categories(dataset, config.evaluation.category)
    judged, result = asked.measure(judge, max(ks), **limits)
    hits = answered(judged.arrays, judge.queries.items, categories, ks)
    return Answers(dataset, data, part, asked.loaded.weights, judge, categories, judged.arrays, hits, result)


def evaluate(asked: Asked) -> Report:
    """Metrics of a run, and of baselines; of the test split also a page with a line for each positive."""
    run, split, ks, config = asked.run, asked.split, asked.ks, asked.config
    assert run is not None
    compared, folds = asked.compared(RETRIEVAL_BASELINES), _folds(asked)
    found = answer_split(asked, folds=folds)
    data, queries = found.data, found.judge.queries
    had, counts = found.judge.had[queries.users], data.item_counts().astype(np.float64)
    chance, popular = (expected(one, queries.items, had, found.categories, ks) for one in (0 * counts, counts))
    result = {
        **found.result,
        "protocol": config.data.protocol,
        "targets": found.judge.targets,
        "items": data.n_items - 1,
        **measured(found.hits),
        "chance": means(chance),
        "popularity": means(popular),
    }
    if config.data.protocol == "in_sample":
        numbers = [field.name for field in data.fields.side("user").numerical]
        result["oracle"] = counting.oracle(queries, numbers, found.categories, ks)
    best = run.manifest.get("optimum")
    if best is not None and np.bitwise_count(had).sum(axis=1).max() <= 1:  # of rankings of all products
        result["optimum"] = {f"hit_rate@{k}": best[f"hit_rate@{k}"] for k in ks if f"hit_rate@{k}" in best}
    groups, notes = _groups(found, asked.by), list[str]()
    if split != "train":
        result["repeats"], notes = repeated(asked, data.splits, data.held_by_training(found.part), groups)

    def part(chosen: np.ndarray) -> Result:
        own = measured(take(found.hits, chosen))
        return {"targets": int(chosen.sum()), **own, "chance": means(take(chance, chosen))}

    result["groups"] = by_group(groups, part)
    if config.recommendation.rules:
        result["with_rules"] = _with_rules(run, found, ks)
    if compared:
        result["baselines"] = measure(compared, found, ks)
    if folds and asked.cross_validate is not None:
        with progress("evaluate: by review", folds) as update:
            result["by_review"] = asked.cross_validate(config, found.dataset, ks, folds, update=update)
    file = run.path / "results.csv"
    page: Page = (file, lambda: write_text(file, counting.results_csv(run, found, ks[0])))
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


def _groups(found: Answers, wanted: Sequence[str] | None) -> Groups:
    """The queries by what is known of their users."""
    shown = pq.read_table(found.dataset.path / "users.parquet").drop_columns([str(found.data.schema.user)])
    names, groups = shown.column_names, {}
    for name in [one for one in names if one == PERSONA] if wanted is None else wanted:
        if name not in names:
            raise UserError(f"--groups {name}: not known of the users{nearest(name, names)}; there are "
                            f"{', '.join(names) or 'none'}")  # fmt: skip
        titles = np.array([str(value) for value in shown[name].to_pylist()], object)[found.judge.queries.users]
        groups[name] = {title: titles == title for title in sorted(set(titles))}
    return groups


def _with_rules(run: Run, found: Answers, ks: Sequence[int]) -> Result:
    """The same with the configured rules applied."""
    data, book = found.data, RuleBook(run.config.recommendation.rules, found.data.schema, FieldCodes(run).vocabulary)
    place, part = data.schema.slices(), data.positive_rows(found.part)
    users = {name: data.rows.columns[part][:, place[name]] for name in data.schema.side("user").slices()}
    items = np.asarray(found.dataset.array("items.npy"))
    by_field = {name: items[:, where] for name, where in data.schema.side("item").slices().items()}
    wider = book.of_users(users), book.of_items(by_field)
    metrics, arrays = found.judge(found.weights, ks, max(ks), wider=wider)
    return {**metrics, **measured(answered(arrays, found.judge.queries.items, found.categories, ks))}


def measure(choices: Sequence[Choice], found: Answers, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Conservative ranks of the same positives among the same candidates, of baselines fitted on training."""
    data, asked = found.data, found.judge.queries
    train = data.queries(data.splits.train)

    def of(choice: Choice) -> dict[str, float]:
        score = choice.fit(Positives(train.users, train.items), data.n_users, data.n_items)

        def ranked(rows: np.ndarray) -> Part:
            users, targets = asked.users[rows], jnp.asarray(asked.items[rows])
            return rank_scores(jnp.asarray(score(users)), targets, among=_among(found.judge.had, users))

        return collect(in_parts(len(asked.users), 1024, ranked), ks).metrics

    return {choice.text: of(choice) for choice in choices}
