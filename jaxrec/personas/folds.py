"""Cross-validation by review: what a model of personas says about a customer whose review nobody has read. A fold's
reviews take no part in clustering, naming or training, and their customers' attributes are those that they stated,
where the data has such, or drawn like those of the others; the number of personas and what numbers are standardised
with come from all reviews."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config import Config, MeshConfig
from jaxrec.data.dataset import Rows, RowsDataset
from jaxrec.data.retrieval import Queries, Retrieval
from jaxrec.data.splits import RowSplits
from jaxrec.errors import UserError
from jaxrec.models.base import make_model
from jaxrec.personas.amore import Reviews, read_reviews
from jaxrec.personas.clusters import draw_attributes, find_personas, unread_profiles
from jaxrec.tasks.clicks import RowTraining
from jaxrec.tasks.retrieval import task
from jaxrec.training.block import Training, training_plan

DRAWS = 100  # profiles for each review that is left out


# Rows with the attributes that the other reviews give, of which splits.test is the fold, and its queries, in turn one
# of each row or ``DRAWS``.
Fold = tuple[Retrieval, Queries]


def cross_validate(
    config: Config, dataset: RowsDataset, ks: Sequence[int], folds: int, seed: int = 0, update: Any = lambda: None
) -> dict[str, Any]:
    """Hit rates over all reviews, each answered by a model that has not seen it; customers are dealt at random."""
    # On one device, also where the run had more: whoever evaluates it may not have them.
    config = config.model_copy(update={"mesh": MeshConfig(data=1)})
    categories, model = task.item_categories(dataset, config.evaluation.category), make_model(config, dataset.schema)
    encode = jax.jit(model.encode, static_argnums=0)
    parts, training = list[tuple[task.Hits, task.Hits, task.Hits]](), None
    stated = dataset.manifest["personas"]["attributes"] == "stated"
    for data, profiles in make_folds(config, dataset, folds, seed, stated):
        feed = model.feed(data.training_rows(), training_plan(config, passes=RowTraining.of(config.training).passes))
        if training is None:  # folds differ by a row, and share the schedule and the compiled program of the first
            training = Training(config, model, feed)
        weights = training.fit(model.constants(task.interactions(config, data)), feed)
        had, asked = data.positives(data.splits.test), data.queries(data.splits.test)
        users = encode("user", weights, jnp.asarray(profiles.columns), jnp.asarray(profiles.numbers))
        items = encode("item", weights, jnp.asarray(data.catalogue.columns), jnp.asarray(data.catalogue.numbers))
        lists = task.rank_queries(profiles, users, items, had, config.evaluation.memory, (), max(ks)).arrays
        hits = task.answered(lists, profiles.items, categories, ks)
        hits = {name: values.reshape(len(asked.items), -1).mean(axis=1) for name, values in hits.items()}
        counts, targets = data.item_counts().astype(np.float64), (asked.items, had[asked.users], categories, ks)
        parts.append((hits, task.expected(0 * counts, *targets), task.expected(counts, *targets)))
        update()
    own, chance, popularity = ({name: np.concatenate([one[name] for one in part]) for name in part[0]}
                               for part in zip(*parts, strict=True))  # fmt: skip
    how = "profiles as stated" if stated else f"{DRAWS} profiles a review, drawn like those of the other customers"
    return {"folds": folds, "targets": len(next(iter(own.values()))), "profiles": how,
            **task.measured(own), "chance": task.means(chance), "popularity": task.means(popularity)}  # fmt: skip


def make_folds(config: Config, dataset: RowsDataset, folds: int, seed: int, stated: bool) -> Iterator[Fold]:
    """Each fold in turn; ``stated``: its customers ask with their own attributes."""
    rows = dataset.rows()
    users = np.unique(rows.users)
    if folds < 2 or folds > len(users):
        raise UserError(f"--folds {folds}: expected 2 to {len(users)}, the number of customers, or 0 for none")
    reviews = None if stated else read_reviews(dataset.path, dataset.manifest)
    number = np.empty(int(users.max()) + 1, np.int64)
    number[users] = np.random.RandomState(seed).permutation(len(users)) % folds
    for fold in range(folds):
        left_out = number[rows.users] == fold
        splits = RowSplits(np.flatnonzero(~left_out), np.zeros(0, np.int64), np.flatnonzero(left_out))
        if reviews is None:
            data = Retrieval.open(config, dataset, rows, splits)
            yield data, data.queries(splits.test)
        else:
            yield _derived(config, dataset, rows, splits, reviews, seed)


def _derived(config: Config, dataset: RowsDataset, rows: Rows, splits: RowSplits, reviews: Reviews, seed: int) -> Fold:
    """Attributes drawn anew: those of training customers from personas without the fold's reviews."""
    train, test = splits.train, splits.test
    texts = [reviews.texts[row] for row in train]
    embeddings = np.asarray(reviews.embeddings[train], np.float32)
    labels, personas = find_personas(embeddings, texts, reviews.rules, reviews.clusters, reviews.seed)
    drawn = draw_attributes(labels, personas, reviews.rules, seed)
    profiles = unread_profiles(len(test), labels, personas, reviews.rules, seed, DRAWS)  # [draws, n]
    data = Retrieval.open(config, dataset, _with(dataset, rows, train, drawn), splits)
    # Each test row once for every profile, in rows of its own: [n * draws].
    every = np.arange(len(test) * DRAWS)
    many = {name: values.T.reshape(-1) for name, values in profiles.items()}
    asked = _with(dataset, rows.take(np.repeat(test, DRAWS)), every, many)
    return data, replace(data, rows=asked).queries(every)


def _with(dataset: RowsDataset, rows: Rows, places: np.ndarray, attributes: dict[str, np.ndarray]) -> Rows:
    """Rows with raw attributes at some places; a value that the data set does not have is unknown."""
    schema, columns, numbers = dataset.schema, np.array(rows.columns), np.array(rows.numbers)
    numerical = [field.name for field in schema.numerical]
    for field in (one for one in schema.side("user").fields if one.name in attributes):
        values = attributes[field.name]
        if field.kind == "numerical":
            numbers[places, numerical.index(field.name)] = field.standardised(values.astype(np.float64))
        else:
            codes = {str(value): code for code, value in enumerate(dataset.values(field.name), 1)}
            columns[places, schema.slices()[field.name].start] = [codes.get(str(value), 0) for value in values]
    return replace(rows, columns=columns, numbers=numbers)
