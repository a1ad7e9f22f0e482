"""Cross-validation by review: what a model of personas says about a customer whose review nobody has read.

A fold's reviews take no part in clustering, naming or training, and their customers' attributes come from a profile
given without reading them: the one that the customer stated, where the data has such, or else drawn like those of the
customers that are known. Two things come from all reviews: how many personas there are, and the mean and deviation that
a number such as the age is standardised with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config import Config, MeshConfig
from jaxrec.data.retrieval import Queries, Retrieval
from jaxrec.data.rows import Rows, RowsDataset
from jaxrec.data.splits import RowSplits
from jaxrec.errors import UserError
from jaxrec.models.base import TowerModel, make_tower_model
from jaxrec.personas.clusters import draw_attributes, find_personas, unread_profiles
from jaxrec.personas.files import Reviews, read_reviews
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.retrieval.hits import Hits, answered, expected, intervals, item_categories, means
from jaxrec.tasks.retrieval.item_vectors import item_vectors
from jaxrec.tasks.retrieval.judge import rank_queries
from jaxrec.tasks.retrieval.task import interactions
from jaxrec.training.block import Training, training_plan

DRAWS = 100  # profiles for each review that is left out


class Fold(NamedTuple):
    """A fold.

    Attributes:
        data: its training rows, with the attributes that the other reviews give; ``splits.test`` are the fold's rows.
        profiles: of each test row, in turn, ``draws`` queries.
    """

    data: Retrieval
    profiles: Queries
    draws: int


def cross_validate(
    config: Config, dataset: RowsDataset, ks: Sequence[int], folds: int, seed: int = 0, update: Any = lambda: None
) -> dict[str, Any]:
    """Hit rates over all reviews, each answered by a model that has not seen it.

    Args:
        folds: at most the number of customers; customers are dealt to them at random.
    """
    training = _Training(config, make_tower_model(config, dataset.schema))
    categories = item_categories(dataset, config.evaluation.category)
    hits: list[Hits] = []
    chance: list[Hits] = []
    popular: list[Hits] = []
    stated = dataset.manifest["personas"]["attributes"] == "stated"
    for fold in _folds(config, dataset, folds, seed, stated):
        hits.append(_answers(training, fold, categories, ks))
        asked = fold.data.queries(fold.data.splits.test)
        had = fold.data.positives(fold.data.splits.test)[asked.users]
        counts = fold.data.item_counts().astype(np.float64)
        chance.append(expected(np.zeros(len(counts)), asked.items, had, categories, ks))
        popular.append(expected(counts, asked.items, had, categories, ks))
        update()
    whole = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
             for parts in (hits, chance, popular)]  # fmt: skip
    draws = 1 if stated else DRAWS
    how = "profiles as stated" if stated else f"{draws} profiles a review, drawn like those of the other customers"
    return {
        "folds": folds,
        "targets": len(next(iter(whole[0].values()))),
        "profiles": how,
        **means(whole[0]),
        "intervals": intervals(whole[0]),
        "chance": means(whole[1]),
        "popularity": means(whole[2]),
    }


def _folds(config: Config, dataset: RowsDataset, folds: int, seed: int, stated: bool) -> Iterator[Fold]:
    rows = dataset.rows()
    users = np.unique(rows.users)
    if folds < 2 or folds > len(users):
        raise UserError(f"--folds {folds}: expected 2 to {len(users)}, the number of customers, or 0 for none")
    reviews = None if stated else read_reviews(dataset.path, dataset.manifest)
    if reviews is not None and reviews.embeddings is None:
        raise UserError(f"{dataset.path}: has no embeddings, so personas cannot be found anew without a fold's "
                        "reviews; prepare it again with --model, or give --folds 0")  # fmt: skip
    number = np.empty(int(users.max()) + 1, np.int64)
    number[users] = np.random.RandomState(seed).permutation(len(users)) % folds
    for fold in range(folds):
        left_out = number[rows.users] == fold
        splits = RowSplits(np.flatnonzero(~left_out), np.zeros(0, np.int64), np.flatnonzero(left_out))
        if reviews is None:
            data = Retrieval.of(config, dataset, rows, splits)
            yield Fold(data, data.queries(splits.test), 1)
        else:
            yield _derived(config, dataset, rows, splits, reviews, seed)


def _derived(config: Config, dataset: RowsDataset, rows: Rows, splits: RowSplits, reviews: Reviews, seed: int) -> Fold:
    """Attributes drawn anew: those of training customers from personas without the fold's reviews."""
    train, test = splits.train, splits.test
    assert reviews.embeddings is not None
    texts = [reviews.texts[row] for row in train]
    embeddings = np.asarray(reviews.embeddings[train], np.float32)
    labels, personas = find_personas(embeddings, texts, reviews.rules, len(reviews.personas), reviews.seed)
    drawn = draw_attributes(labels, personas, reviews.rules, seed)
    profiles = unread_profiles(len(test), labels, personas, reviews.rules, seed, DRAWS)  # [draws, n]
    columns, numbers = np.array(rows.columns), np.array(rows.numbers)
    _put(dataset, columns, numbers, train, drawn)
    data = Retrieval.of(config, dataset, replace(rows, columns=columns, numbers=numbers), splits)
    # Each test row once for every profile, in rows of its own: [n * draws].
    many = np.repeat(test, DRAWS)
    asked = replace(rows.take(many), columns=np.array(rows.columns[many]), numbers=np.array(rows.numbers[many]))
    _put(dataset, asked.columns, asked.numbers, np.arange(len(many)),
         {name: values.T.reshape(-1) for name, values in profiles.items()})  # fmt: skip
    return Fold(data, replace(data, rows=asked).queries(np.arange(len(many))), DRAWS)


def _put(
    dataset: RowsDataset, columns: np.ndarray, numbers: np.ndarray, rows: np.ndarray, attributes: dict[str, np.ndarray]
) -> None:
    """Write raw attributes into the columns of some rows; a value that the data set does not have is unknown."""
    schema = dataset.schema
    numerical = [field.name for field in schema.numerical]
    for field in schema.side("user").fields:
        if field.name not in attributes:
            continue
        values = attributes[field.name]
        if field.kind == "numerical":
            numbers[rows, numerical.index(field.name)] = field.standardised(values.astype(np.float64))
        else:
            codes = {str(value): code for code, value in enumerate(dataset.values(field.name), 1)}
            columns[rows, schema.slices()[field.name].start] = [codes.get(str(value), 0) for value in values]


class _Training:
    """The configuration's training without a run: no checkpoints, no log. Folds of one shape share a program."""

    def __init__(self, config: Config, model: TowerModel) -> None:
        # On one device, also where the run had more: whoever evaluates it may not have them.
        self.config, self.model = config.model_copy(update={"mesh": MeshConfig(data=1)}), model
        self._training: Training | None = None

    def weights(self, data: Retrieval) -> dict[str, Any]:
        config = self.config
        feed = self.model.feed(
            data.training_rows(), training_plan(config, passes=RowTraining.of(config.training).passes)
        )
        if self._training is None:  # the schedule of the first fold serves all: they differ by a row
            self._training = Training(config, self.model, feed)
        return self._training.fit(self.model.constants(interactions(config, data)), feed)


def _answers(training: _Training, fold: Fold, categories: np.ndarray | None, ks: Sequence[int]) -> Hits:
    """Of each test row the hits, on average over its profiles."""
    weights, model = training.weights(fold.data), training.model
    items = jnp.asarray(item_vectors(model, weights, fold.data.catalogue))
    encode = jax.jit(model.encode, static_argnums=0)
    queries = encode("user", weights, jnp.asarray(fold.profiles.columns), jnp.asarray(fold.profiles.numbers))
    had = fold.data.positives(fold.data.splits.test)
    ranks, top = rank_queries(fold.profiles, queries, items, had, training.config.evaluation.memory, max(ks))
    hits = answered(ranks, top, fold.profiles.items, categories, ks)
    return {name: values.reshape(-1, fold.draws).mean(axis=1) for name, values in hits.items()}
