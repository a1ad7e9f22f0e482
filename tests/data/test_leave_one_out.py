"""Leave-one-out: feeds, judges and baselines read whole histories and score the last event."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers import call, open_sessions, ranked, sessions, write_config

from jaxrec.data.dataset import Dataset
from jaxrec.evaluate import evaluate
from jaxrec.recommend import Recommender
from jaxrec.run import open_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users of 1 to 9 events in mixed order, many at the same time."""
    random = np.random.default_rng(0)
    owner = random.permutation(np.repeat(np.arange(60), random.integers(1, 10, 60))).tolist()
    items = 1 + np.minimum(random.geometric(0.2, len(owner)), 12)
    lines = [f"{user},{item},{row // 3}" for row, (user, item) in enumerate(zip(owner, items, strict=True))]
    out = tmp_path_factory.mktemp("leave_one_out") / "data"
    (raw := out.with_suffix(".csv")).write_text("\n".join(["u,i,t", *lines]))
    words = ["--session", "u", "--item", "i", "--time", "t", "--time-unit", "order", "--min-item-support", 2]
    assert call("prepare", "events", "--raw", raw, *words, "--split", "leave_one_out", "--out", out) == 0
    return open_sessions(out)


def rank(scores: Mapping[int, float], target: int) -> int:
    """Conservative: as if all equal ones stood before it."""
    return sum(score >= scores[target] for score in scores.values())


def metrics_of(ranks: list[int], k: int) -> tuple[float, float]:
    """Recall and MRR over one target a user."""
    hits = [rank for rank in ranks if rank <= k]
    return len(hits) / len(ranks), sum(1 / rank for rank in hits) / len(ranks)


def test_a_run_is_evaluated_by_the_last_event_after_the_whole_history(dataset: Dataset, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "c.yaml", dataset.path, data={"validation_fraction": 0}, model={"name": "gru4rec"},
        loss={"n_sample": 8}, evaluation={"k": [3]}, training={"epochs": 1, "metric": "mrr@3", "early_stopping": 1},
    )  # fmt: skip
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    run, recommender = open_run(tmp_path / "run"), Recommender.load(tmp_path / "run")
    for split in ("validation", "test"):
        sequences, ranks = sessions(dataset.path, split), list[int]()
        ids, scores = ranked(recommender, [one[:-1] for one in sequences], dataset.n_items, seen=True)
        for one, items, values in zip(sequences, ids, scores, strict=True):
            ranks.append(rank(dict(zip(items, values.tolist(), strict=True)), one[-1]))
        found = evaluate(run, split, ks=[3])
        assert found["targets"] == len(sequences) == dataset.manifest["counts"][split]["sessions"]
        # two programs for the same products: one target may differ
        assert (found["recall@3"], found["mrr@3"]) == pytest.approx(metrics_of(ranks, 3), abs=1.01 / len(ranks))
        assert 0 < found["recall@3"] < 1
        if split == "validation":  # as it was logged
            assert json.dumps(found["mrr@3"])[:8] in (run.path / "metrics.jsonl").read_text()


def test_baselines_see_the_whole_history_and_are_scored_once_a_user(dataset: Dataset) -> None:
    """By hand: ``pop`` by training clicks, and ``spop`` by how often items stand in the history, then by those."""
    found = evaluate(data=dataset.path, ks=[2, 5], baselines=["pop", "spop"])
    clicks, test = Counter(dataset.split("train").items.tolist()), dataset.split("test")
    ranks: dict[str, list[int]] = {"pop": [], "spop": []}
    for low, high in zip(test.offsets[:-1], test.offsets[1:], strict=True):
        *history, target = test.items[low:high].tolist()
        for name, seen in (("pop", Counter[int]()), ("spop", Counter(history))):
            ranks[name].append(rank({one: seen[one] + clicks[one] / 1e6 for one in range(dataset.n_items)}, target))
    for name, own in ranks.items():
        result = [found["baselines"][name][f"{metric}@{k}"] for k in (2, 5) for metric in ("recall", "mrr")]
        assert result == pytest.approx([*metrics_of(own, 2), *metrics_of(own, 5)], abs=1e-6)
