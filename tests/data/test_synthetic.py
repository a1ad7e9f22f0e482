"""The Markov process: its sessions, and the optimum against simulations of the best ranker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from helpers import call, open_sessions

from jaxrec.data.dataset import Dataset
from jaxrec.sources.synthetic import Markov, make_markov, optimum_metrics

SMALL = {"items": 60, "sessions": 4000, "successors": 5, "days": 10, "test_days": 4, "seed": 7}


def prepare(out: Path, **more: object) -> Dataset:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | more).items()]
    assert call("prepare", "synthetic", "--out", out, *words) == 0
    return open_sessions(out)


def probabilities(markov: Markov) -> np.ndarray:
    """P(next | item) as a dense matrix [items, items], straight from the description of the process."""
    n = len(markov.popularity)
    dense = np.zeros((n, n))
    for item in range(n):
        others = np.arange(n) != item
        dense[item, others] = markov.epsilon * markov.popularity[others] / markov.popularity[others].sum()
        for successor, weight in zip(markov.successors[item], markov.weights, strict=True):
            dense[item, successor] += (1 - markov.epsilon) * weight
    return dense


@pytest.mark.parametrize(("n", "successors", "epsilon", "skew"), [(2, 9, 0.5, 1), (30, 4, 0.2, 0.8), (300, 9, 1, 2)])
def test_rank_probabilities_are_those_of_the_dense_matrix(n: int, successors: int, epsilon: float, skew: float) -> None:
    markov = make_markov(n, successors, epsilon, skew, np.random.default_rng(1))
    dense = probabilities(markov)
    np.testing.assert_allclose(dense.sum(axis=1), 1.0, rtol=1e-12)
    assert all(len(set(row)) == len(row) and item not in row for item, row in enumerate(markov.successors.tolist()))
    clicks = np.random.default_rng(2).integers(0, n, 500)
    ranked = -np.sort(-dense, axis=1)[clicks].mean(axis=0)
    expected = np.pad(ranked[:100], (0, max(0, 100 - n)))
    np.testing.assert_allclose(markov.rank_probability(clicks), expected, rtol=1e-9, atol=1e-15)


def test_the_ideal_ranker_reaches_the_optimum_on_the_prepared_test_split(tmp_path: Path) -> None:
    dataset = prepare(tmp_path / "out")
    # Which state is which item is found by the ids: 1..n shuffled, so ask the generator again for the permutation.
    random = np.random.default_rng(7)
    markov = make_markov(60, 5, 0.2, 0.8, random)
    state = np.argsort(np.argsort(random.random(60)))
    vocabulary = pyarrow.parquet.read_table(tmp_path / "out" / "items.parquet")["item"].to_numpy()
    test = dataset.split("test")
    places = np.delete(np.arange(len(test.items)), test.offsets[1:] - 1)
    inputs, targets = (state[vocabulary[test.items[part]] - 1] for part in (places, places + 1))
    scores = probabilities(markov)[inputs]
    ranks = 1 + (scores > scores[np.arange(len(targets)), targets][:, None]).sum(axis=1)
    best = optimum_metrics(dataset.manifest, [1, 5, 20])
    assert len(targets) > 5000 and 0.1 < best["recall@1"] < best["recall@5"] < best["recall@20"] < 0.99
    for k in (1, 5, 20):
        for values, name in ((ranks <= k, f"recall@{k}"), (np.where(ranks <= k, 1 / ranks, 0), f"mrr@{k}")):
            assert abs(values.mean() - best[name]) < 4 * values.std() / np.sqrt(len(values)), name


def test_every_item_is_seen_in_training_and_lengths_have_the_mean_asked_for(tmp_path: Path) -> None:
    dataset = prepare(tmp_path / "out", items=1500, skew=2, mean_length=4)
    sessions = dataset.split("train")
    lengths = np.diff(sessions.offsets)
    assert dataset.n_items == 1500 and "optimum" in dataset.manifest
    assert abs(lengths.mean() - 4) < 0.2 and lengths.min() == 2
    assert (np.delete(np.diff(sessions.times), sessions.offsets[1:-1] - 1) > 0).all()
    for number, more in enumerate(({"test_days": 0}, {"min_item_support": 200}, {"items": 9000})):
        assert "optimum" not in prepare(tmp_path / str(number), **more).manifest, "not known"
    manifest = {"optimum": {"rank_probability": [0.5, 0.25, 0.125]}}
    assert optimum_metrics(manifest, [2, 4, 0]) == {"recall@2": 0.75, "mrr@2": 0.625} and not optimum_metrics({}, [2])
