"""Leave-one-out: feeds, judges and baselines read whole histories and score the last event."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, fails, open_sessions, ranked, sessions, write_config
from worlds import Worlds

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


def rank(scores: Mapping[int, float], target: int, masked: Sequence[int] = ()) -> int:
    """Conservative: as if all equal ones stood before it; among the items that are not masked, and itself."""
    return sum(score >= scores[target] for item, score in scores.items() if item not in masked or item == target)


def metrics_of(ranks: list[int], k: int) -> tuple[float, float]:
    """Recall and MRR over one target a user."""
    hits = [rank for rank in ranks if rank <= k]
    return len(hits) / len(ranks), sum(1 / rank for rank in hits) / len(ranks)


MODELS: dict[str, dict[str, Any]] = {
    "gru4rec": {"name": "gru4rec"},
    "sasrec": {"name": "sasrec", "layers": None, "window": 4, "heads": 2},  # masked are also items before its window
}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_evaluated_by_the_last_event_after_the_whole_history(
    model: str, dataset: Dataset, tmp_path: Path
) -> None:
    """Among all items, and without those that the history holds."""
    config = write_config(
        tmp_path / "c.yaml", dataset.path, data={"validation_fraction": 0}, model=MODELS[model],
        loss={"n_sample": 8}, evaluation={"k": [3]}, training={"epochs": 1, "metric": "mrr@3", "early_stopping": 1},
    )  # fmt: skip
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    run, recommender = open_run(tmp_path / "run"), Recommender.load(tmp_path / "run")
    for split in ("validation", "test"):
        sequences = sessions(dataset.path, split)
        ids, scores = ranked(recommender, [one[:-1] for one in sequences], dataset.n_items, seen=True)
        for history in ("masked", "ranked"):
            ranks = [rank(dict(zip(items, values.tolist(), strict=True)), one[-1], one[:-1] * (history == "masked"))
                     for one, items, values in zip(sequences, ids, scores, strict=True)]  # fmt: skip
            found = evaluate(run, split, ks=[3], history=history)
            assert found["targets"] == len(sequences) == dataset.manifest["counts"][split]["sessions"]
            # two programs for the same products: one target may differ
            assert (found["recall@3"], found["mrr@3"]) == pytest.approx(metrics_of(ranks, 3), abs=1.01 / len(ranks))
            assert 0 < found["recall@3"] < 1
            assert found.get("history", "ranked") == found["question"].get("history", "ranked") == history
        if split == "validation":  # as it was logged
            assert json.dumps(found["mrr@3"])[:8] in (run.path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("history", ["ranked", "masked"])
def test_baselines_see_the_whole_history_and_are_scored_once_a_user(history: str, dataset: Dataset) -> None:
    """By hand: ``pop`` by training clicks, and ``spop`` by how often items stand in the history, then by those; and the
    chance of the first two places."""
    found, chances = evaluate(data=dataset.path, ks=[2, 5], baselines=["pop", "spop"], history=history), list[float]()
    clicks, test = Counter(dataset.split("train").items.tolist()), dataset.split("test")
    ranks: dict[str, list[int]] = {"pop": [], "spop": []}
    for low, high in zip(test.offsets[:-1], test.offsets[1:], strict=True):
        *before, target = test.items[low:high].tolist()
        masked = before if history == "masked" else []
        chances.append(2 / (dataset.n_items - len({*masked} - {target})))
        for name, seen in (("pop", Counter[int]()), ("spop", Counter(before))):
            scores = {one: seen[one] + clicks[one] / 1e6 for one in range(dataset.n_items)}
            ranks[name].append(rank(scores, target, masked))
    assert found["chance"]["recall@2"] == pytest.approx(np.mean(chances), abs=1e-12)
    for name, own in ranks.items():
        result = [found["baselines"][name][f"{metric}@{k}"] for k in (2, 5) for metric in ("recall", "mrr")]
        assert result == pytest.approx([*metrics_of(own, 2), *metrics_of(own, 5)], abs=1e-6)


def test_answers_to_both_protocols_stand_beside_each_other(dataset: Dataset, tmp_path: Path) -> None:
    """The configuration says which one is meant where nothing else is asked for."""
    config = write_config(
        tmp_path / "c.yaml", dataset.path, data={"validation_fraction": 0}, loss={"n_sample": 8},
        evaluation={"k": [3], "history": "masked"}, training={"epochs": 1, "metric": "mrr@3"},
    )  # fmt: skip
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    for words in ([], ["--history", "ranked"], ["--k", "2"]):
        assert call("evaluate", "--run", tmp_path / "run", *words) == 0
    kept = json.loads((tmp_path / "run" / "eval-test.json").read_text())
    assert kept["history"] == "masked" and {"recall@2", "recall@3"} <= kept.keys()
    (other,) = kept["others"]
    assert "history" not in other and "recall@3" in other and "recall@2" not in other
    assert kept["recall@3"] >= other["recall@3"] and kept["chance"]["recall@3"] > other["chance"]["recall@3"]


def test_history_is_that_of_sessions(worlds: Worlds, capsys: pytest.CaptureFixture[str]) -> None:
    named = "--history: does not go with a run of autoint; leave it out"
    fails(capsys, "evaluate", "--run", worlds.run("autoint"), "--history", "masked", names=named)
