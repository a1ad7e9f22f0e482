"""Cross-validation by review: what a fold is trained on and asked with says nothing of the fold's own reviews."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import call
from reviews import fake_embed, made_customers, made_products, made_texts, write_json
from tower_data import SYNTHETIC

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.personas import folds as review_folds
from jaxrec.personas.files import Reviews, read_reviews
from jaxrec.personas.folds import Fold, cross_validate
from jaxrec.run import create_run

TEXTS, TRUTH = made_texts(10)
PRODUCTS = made_products(TEXTS, 8)
DRAWS = 7
ATTRIBUTES = ("age", "gender", "skin_type", "skin_concern")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 reviews of 8 products: ``derived`` customers, and ``given`` ones without embeddings."""
    root = tmp_path_factory.mktemp("amore")
    raw = write_json(root / "reviews.json", PRODUCTS)
    people = write_json(root / "customers.json", made_customers(PRODUCTS, TRUTH))
    with pytest.MonkeyPatch.context() as patch:
        text = ModuleType("jaxrec.data.text.encoding")
        text.embed = fake_embed  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "jaxrec.data.text.encoding", text)
        assert call("prepare", "amore", "--raw", raw, "--out", root / "derived") == 0
        words = ["--customers", people, "--model=none"]
        assert call("prepare", "amore", "--raw", raw, "--out", root / "given", *words) == 0
    return root


@pytest.fixture(scope="module")
def dataset(place: Path) -> RowsDataset:
    found = open_dataset(place / "derived")
    assert isinstance(found, RowsDataset)
    return found


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_folds, "DRAWS", DRAWS)


def config_of(dataset: RowsDataset) -> Config:
    values = {name: dict(part) for name, part in SYNTHETIC.items() if name != "recommendation"}
    values["data"]["path"] = str(dataset.path)
    values["model"] = {"name": "two_tower", "embedding_dim": 4, "hidden": [8], "output_dim": 4, "dropout_hidden": 0}
    values["training"] = {"epochs": 1, "passes": 2, "batch_size": 32}
    return configuration.parse(values)


def folds_of(dataset: RowsDataset, folds: int, stated: bool, seed: int = 0) -> list[Fold]:
    return list(review_folds._folds(config_of(dataset), dataset, folds, seed, stated))


@pytest.mark.parametrize("stated", [True, False])
def test_each_review_is_left_out_once(dataset: RowsDataset, stated: bool) -> None:
    """And its customer with it; a fold is trained on all the others."""
    found, users = folds_of(dataset, 4, stated), dataset.rows().users
    left_out = np.concatenate([fold.data.splits.test for fold in found])
    np.testing.assert_array_equal(np.sort(left_out), np.arange(60))
    draws = 1 if stated else DRAWS
    for fold in found:
        train, _, test, _ = fold.data.splits
        np.testing.assert_array_equal(np.sort(np.append(train, test)), np.arange(60))
        assert not set(users[train]) & set(users[test]) and len(test) == 15
        rows = fold.data.training_rows()
        assert set(rows.users.tolist()) == set(users[train].tolist()) and fold.data.item_counts().sum() == 45
        asked = fold.data.queries(test)
        assert fold.draws == draws and len(fold.profiles.users) == 15 * draws
        for name in ("users", "items"):
            np.testing.assert_array_equal(getattr(fold.profiles, name), np.repeat(getattr(asked, name), draws))
    others = np.concatenate([fold.data.splits.test for fold in folds_of(dataset, 4, True, seed=1)])
    assert left_out.tolist() != others.tolist()


def test_stated_profiles_are_the_customers_own(dataset: RowsDataset) -> None:
    rows = dataset.rows()
    for fold in folds_of(dataset, 3, True):
        test = fold.data.splits.test
        age = [field.name for field in dataset.schema.numerical].index("age")
        np.testing.assert_array_equal(fold.profiles.numbers[:, 0], rows.numbers[test, age])


def changed(reviews: Reviews, rows: np.ndarray) -> Reviews:
    """With other things said in some of the reviews."""
    assert reviews.embeddings is not None
    embeddings, texts = np.array(reviews.embeddings), list(reviews.texts)
    embeddings[rows] = embeddings[rows[::-1]] * np.float16(-3)
    for row in rows:
        texts[row] = "선물로 gift present packaging"
    labels = reviews.labels.copy()
    labels[rows] = (labels[rows] + 1) % len(reviews.personas)
    return replace(reviews, embeddings=embeddings, texts=texts, labels=labels)


def test_what_a_left_out_review_says_does_not_matter(dataset: RowsDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the attributes of the others, nor to the profiles that its customer is asked for with."""
    plain, reviews = folds_of(dataset, 3, False), read_reviews(dataset.path, dataset.manifest)
    for number, fold in enumerate(plain):
        train, _, test, _ = fold.data.splits
        with monkeypatch.context() as patch:
            patch.setattr(review_folds, "read_reviews", lambda *_, rows=test: changed(reviews, rows))
            other = folds_of(dataset, 3, False)[number]
            for ours, theirs in zip(fold.profiles, other.profiles, strict=True):
                np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(fold.data.rows.columns[train], other.data.rows.columns[train])
            np.testing.assert_array_equal(fold.data.rows.numbers[train], other.data.rows.numbers[train])
            patch.setattr(review_folds, "read_reviews", lambda *_, rows=train: changed(reviews, rows))
            other = folds_of(dataset, 3, False)[number]
            assert np.any(fold.data.rows.columns[train] != other.data.rows.columns[train]), "those of others do"


def test_models_never_see_what_they_are_asked(dataset: RowsDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold is answered with weights that were trained on its own training rows."""
    trained: list[Any] = []
    answered: list[Any] = []
    weights_of, answers = review_folds._Training.weights, review_folds._answers

    def weights(training: Any, data: Any) -> Any:
        trained.append(data)
        return weights_of(training, data)

    def answer(training: Any, fold: Fold, *rest: Any) -> Any:
        answered.append(fold)
        return answers(training, fold, *rest)

    monkeypatch.setattr(review_folds._Training, "weights", weights)
    monkeypatch.setattr(review_folds, "_answers", answer)
    moved: list[int] = []
    result = cross_validate(config_of(dataset), dataset, [2, 3], 3, update=lambda: moved.append(1))
    assert [id(data) for data in trained] == [id(fold.data) for fold in answered] and len(trained) == len(moved) == 3
    assert (result["folds"], result["targets"]) == (3, 60)
    assert result["profiles"] == f"{DRAWS} profiles a review, drawn like those of the other customers"
    assert result["chance"]["hit_rate@3"] == pytest.approx(3 / 8)
    for name in ("hit_rate@2", "hit_rate@3", "category_hit@2", "category_hit@3"):
        low, high = result["intervals"][name]
        assert 0 <= low <= result[name] <= high <= 1 and name in result["popularity"]


@pytest.mark.parametrize("folds", [1, 61, -2])
def test_folds_that_there_are_not(dataset: RowsDataset, folds: int) -> None:
    with pytest.raises(UserError, match=rf"^--folds {folds}: expected 2 to 60, the number of customers, or 0 for none"):
        folds_of(dataset, folds, False)


def test_the_page_of_personas_stands_in_the_run(place: Path, dataset: RowsDataset, tmp_path: Path) -> None:
    """With the results of the customers, whose products are in Korean."""
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(configuration.dump(config_of(dataset)), encoding="utf-8")
    cutoffs = ["--evaluation.k", 3, "--training.metric", "recall@3"]  # the dumped defaults are more than the products
    assert call("train", "--config", config, "--run", run, *cutoffs) == 0
    assert call("evaluate", "--run", run, "--folds", 0) == 0
    assert (run / "PERSONAS.md").read_bytes() == (dataset.path / "PERSONAS.md").read_bytes()
    lines = (run / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 61 and any("가" in line for line in lines)
    create_run(run, config_of(dataset), dataset, overwrite=True)  # all of it is of a run
    assert not (run / "results.csv").exists()
