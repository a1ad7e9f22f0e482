"""Cross-validation by review: what a fold is trained on and asked with says nothing of the fold's own reviews."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import call
from reviews import fake_encoding, made_products, made_texts, write_json

from jaxrec import config as configuration
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.personas import folds as review_folds
from jaxrec.personas.files import Reviews, read_reviews
from jaxrec.personas.folds import Fold, cross_validate

DRAWS = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RowsDataset:
    """60 reviews of 8 products."""
    root = tmp_path_factory.mktemp("amore")
    raw = write_json(root / "reviews.json", made_products(made_texts(10)[0], 8))
    with pytest.MonkeyPatch.context() as patch:
        fake_encoding(patch)
        assert call("prepare", "amore", "--raw", raw, "--out", root / "derived") == 0
    found = open_dataset(root / "derived")
    assert isinstance(found, RowsDataset)
    return found


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_folds, "DRAWS", DRAWS)


def config_of(dataset: RowsDataset) -> Config:
    return configuration.parse({
        "data": {"path": str(dataset.path), "protocol": "in_sample", "validation_fraction": 0.0, "test_fraction": 0.0,
                 "fields": ["age", "gender", "skin_type", "skin_concern", "category", "brand", "price"]},
        "model": {"name": "two_tower", "embedding_dim": 4, "hidden": [8], "output_dim": 4, "dropout_hidden": 0.0},
        "loss": {"name": "triplet"},
        "training": {"epochs": 1, "passes": 2, "batch_size": 32, "metric": "recall@3"},
        "evaluation": {"k": [3], "category": "category"},
    })  # fmt: skip


def folds_of(dataset: RowsDataset, folds: int, stated: bool = False, seed: int = 0) -> list[Fold]:
    return list(review_folds.make_folds(config_of(dataset), dataset, folds, seed, stated))


@pytest.mark.parametrize("stated", [True, False])
def test_each_review_is_left_out_once(dataset: RowsDataset, stated: bool) -> None:
    """And its customer with it; a fold is trained on all the others."""
    found, rows = folds_of(dataset, 4, stated), dataset.rows()
    left_out = np.concatenate([fold.data.splits.test for fold in found])
    np.testing.assert_array_equal(np.sort(left_out), np.arange(60))
    draws = 1 if stated else DRAWS
    for fold in found:
        train, _, test, _ = fold.data.splits
        np.testing.assert_array_equal(np.sort(np.append(train, test)), np.arange(60))
        assert not set(rows.users[train]) & set(rows.users[test]) and len(test) == 15
        assert set(fold.data.training_rows().users.tolist()) == set(rows.users[train].tolist())
        asked = fold.data.queries(test)
        for name in ("users", "items"):
            np.testing.assert_array_equal(getattr(fold.profiles, name), np.repeat(getattr(asked, name), draws))
        if stated:
            age = [field.name for field in dataset.schema.numerical].index("age")
            np.testing.assert_array_equal(fold.profiles.numbers[:, 0], rows.numbers[test, age])
    others = np.concatenate([fold.data.splits.test for fold in folds_of(dataset, 4, True, seed=1)])
    assert left_out.tolist() != others.tolist()


def changed(reviews: Reviews, rows: np.ndarray) -> Reviews:
    """With other things said in some of the reviews."""
    assert reviews.embeddings is not None
    embeddings, texts, labels = np.array(reviews.embeddings), list(reviews.texts), reviews.labels.copy()
    embeddings[rows] = embeddings[rows[::-1]] * np.float16(-3)
    for row in rows:
        texts[row] = "선물로 gift present packaging"
    labels[rows] = (labels[rows] + 1) % len(reviews.personas)
    return replace(reviews, embeddings=embeddings, texts=texts, labels=labels)


def test_what_a_left_out_review_says_does_not_matter(dataset: RowsDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the attributes of the others, nor to the profiles that its customer is asked for with."""
    plain, reviews = folds_of(dataset, 3), read_reviews(dataset.path, dataset.manifest)
    for number, fold in enumerate(plain):
        train, _, test, _ = fold.data.splits
        with monkeypatch.context() as patch:
            patch.setattr(review_folds, "read_reviews", lambda *_, rows=test: changed(reviews, rows))
            other = folds_of(dataset, 3)[number]
            for ours, theirs in zip(fold.profiles, other.profiles, strict=True):
                np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(fold.data.rows.columns[train], other.data.rows.columns[train])
            np.testing.assert_array_equal(fold.data.rows.numbers[train], other.data.rows.numbers[train])
            patch.setattr(review_folds, "read_reviews", lambda *_, rows=train: changed(reviews, rows))
            other = folds_of(dataset, 3)[number]
            assert np.any(fold.data.rows.columns[train] != other.data.rows.columns[train]), "those of others do"


def test_the_figures_of_all_folds(dataset: RowsDataset) -> None:
    moved: list[int] = []
    result = cross_validate(config_of(dataset), dataset, [2, 3], 3, update=lambda: moved.append(1))
    assert (result["folds"], result["targets"], len(moved)) == (3, 60, 3)
    assert result["profiles"] == f"{DRAWS} profiles a review, drawn like those of the other customers"
    assert result["chance"]["hit_rate@3"] == pytest.approx(3 / 8)
    for name in ("hit_rate@2", "hit_rate@3", "category_hit@2", "category_hit@3"):
        low, high = result["intervals"][name]
        assert 0 <= low <= result[name] <= high <= 1 and name in result["popularity"]
    with pytest.raises(UserError, match=r"^--folds 61: expected 2 to 60, the number of customers, or 0 for none"):
        folds_of(dataset, 61)


def test_the_page_of_personas_stands_in_the_run(dataset: RowsDataset, tmp_path: Path) -> None:
    """With the results of the customers, whose products are in Korean."""
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(configuration.dump(config_of(dataset)), encoding="utf-8")
    assert call("train", "--config", config, "--run", run) == 0
    assert call("evaluate", "--run", run, "--folds", 0) == 0
    assert (run / "PERSONAS.md").read_bytes() == (dataset.path / "PERSONAS.md").read_bytes()
    lines = (run / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 61 and any("가" in line for line in lines)
