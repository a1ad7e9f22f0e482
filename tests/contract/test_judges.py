"""Judges against brute force: the same metrics however a split is cut, in blocks, lanes and parts of the catalogue."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import open_sessions
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_models import all_scores
from worlds import Clicks, Shop, Worlds

from jaxrec import evaluate
from jaxrec import run as runs
from jaxrec.config import EvaluationConfig, parse
from jaxrec.data.dataset import Rows, RowsDataset, Sessions, open_dataset
from jaxrec.data.splits import RowData, configured_splits, cut_validation, last_days
from jaxrec.models.base import make_model
from jaxrec.tasks import base as ranking
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks import task as clicks
from jaxrec.tasks.retrieval import task as retrieval
from jaxrec.tasks.sessions.task import session_judge
from jaxrec.training.state import weights_like

MODELS = {"gru4rec": 5, "merrec": 5, "autoint": 3, "two_tower": 3}  # one of each kind, and a cut-off
KS = (1, 5, 20, 100)


@pytest.mark.parametrize("model", MODELS)
def test_metrics_do_not_depend_on_how_the_split_is_cut(
    model: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into many small blocks or one. More cut-offs leave those that were there as they are, and can only find more."""
    run, k = worlds.run(model), MODELS[model]
    whole = evaluate(run)
    for module, name in ((ranking, "QUERIES"), (clicks, "ROWS_PER_STEP")):
        monkeypatch.setattr(module, name, 64)
    parts = evaluate(run, ks=[k, k + 1])
    numbers = {name: value for name, value in whole.items() if isinstance(value, float) and name.endswith(f"@{k}")}
    assert numbers and {name: parts[name] for name in numbers} == pytest.approx(numbers, abs=1e-5)
    assert parts[f"hit_rate@{k + 1}"] >= parts[f"hit_rate@{k}"]


# ---- sessions --------------------------------------------------------------------------------------------------------


def brute_force(weights: dict[str, Any], sessions: Sessions, ks: tuple[int, ...]) -> dict[str, float]:
    """Every prefix of every session, all items, the definitions of the metrics."""
    ranks, tops = [], []
    for begin, end in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        items = np.asarray(sessions.items[begin:end])
        scores = all_scores(weights, items[:-1]).astype(np.float32)
        for row, target in zip(scores, items[1:], strict=True):
            others = np.delete(row, target)
            ranks.append(1 + int((others >= row[target]).sum()))
            tops.append(np.argsort(-row, kind="stable"))
    result = {}
    for k in ks:
        hits = [rank for rank in ranks if rank <= k]
        result[f"recall@{k}"] = result[f"hit_rate@{k}"] = len(hits) / len(ranks)
        result[f"mrr@{k}"] = sum(1 / rank for rank in hits) / len(ranks)
        result[f"ndcg@{k}"] = sum(1 / math.log2(rank + 1) for rank in hits) / len(ranks)
        result[f"coverage@{k}"] = len({item for top in tops for item in top[:k]}) / len(tops[0])
    return result


def made(n_items: int = 100, **fields: Any) -> tuple[Any, dict[str, Any]]:
    """A model and large random weights."""
    sections = {"data": {"path": "x"}, "model": {"layers": [12, 8], "embedding_dim": 12} | fields}
    model, random = make_model(parse(sections), n_items), np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), weights_like(model))


def measured(
    model: Any, weights: Any, sessions: Sessions, n_items: int = 100, ks: Any = KS, **how: Any
) -> dict[str, float]:
    judge = session_judge(model, sessions, n_items, EvaluationConfig(**{"batch_size": 16} | how))
    first, again = (judge(jax.tree.map(jnp.asarray, weights), ks, max(ks)).metrics for _ in range(2))
    assert first == again, "hidden states of one pass do not leak into the next"
    return first


@pytest.mark.parametrize(("embedding", "tied"), [("constrained", False), ("separate", True), ("onehot", True)])
def test_metrics_are_those_of_brute_force(
    embedding: str, tied: bool, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions go on from block to block; where items stand twice in the table, each target has an equal."""
    monkeypatch.setattr(ranking, "QUERIES", 50)
    model, weights = made(embedding=embedding)
    sessions = open_sessions(dataset).split("test").slice(0, 60)
    if tied:
        weights["tables"]["item"][50:] = weights["tables"]["item"][:50]
    found, wanted = measured(model, weights, sessions), brute_force(weights, sessions, KS)
    assert found == pytest.approx(wanted, abs=1e-9) and 0 < found["recall@5"] < found["recall@20"]
    if not tied:
        for batch in (1, 7, 512):
            assert measured(model, weights, sessions, batch_size=batch) == pytest.approx(found, abs=1e-9)


def test_the_splits_of_a_run(run: Path, dataset: Path) -> None:
    """Its validation sessions are the last of training, and the best checkpoint has the metric that was logged."""
    opened, data = runs.open_run(run), open_sessions(dataset)
    train, validation = cut_validation(data.split("train"), data.split("validation"), 0.1)
    for split, sessions in (("train", train), ("validation", validation), ("test", data.split("test"))):
        found = evaluate(opened, split, ks=[20])
        assert found["targets"] == sessions.counts["targets"]
        if split == "validation":
            logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            best = max(line["recall@20"] for line in logged if line["kind"] == "validation")
            assert found["recall@20"] == pytest.approx(best, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.floats(0.001, 0.999))
def test_validation_takes_the_last_whole_sessions_and_no_more(lengths: list[int], fraction: float) -> None:
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
    whole = Sessions(np.arange(offsets[-1], dtype=np.int32), np.arange(offsets[-1]), offsets)
    own = whole.slice(0, 1)
    assert cut_validation(whole, own, 0.0) == (whole, own), "that of the data set"
    train, validation = cut_validation(whole, own, fraction)
    np.testing.assert_array_equal([*train.items, *validation.items], whole.items)
    assert [*np.diff(train.offsets), *np.diff(validation.offsets)] == lengths
    wanted, taken = fraction * whole.counts["targets"], validation.counts["targets"]
    assert taken >= wanted
    assert wanted == 0 if not len(validation) else taken - (validation.offsets[1] - 1) < wanted


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9 * 24)), min_size=1, max_size=20), st.integers(1, 10))
def test_the_last_days_are_days_in_utc_by_the_last_event(drawn: list[tuple[int, int]], days: int) -> None:
    """Of sessions of some length that begin at an hour, an event each hour."""
    lengths = [length for length, _ in drawn]
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    times = np.array([begin + step for length, begin in drawn for step in range(length)], np.int64) * 3_600_000
    whole = Sessions(np.arange(len(times), dtype=np.int32), times, offsets)
    last = [(begin + length - 1) // 24 for length, begin in drawn]
    expected = [number for number, day in enumerate(last) if day > max(last) - days]
    found = last_days(whole, days)
    np.testing.assert_array_equal(found.items, np.concatenate([whole.slice(at, at + 1).items for at in expected]))
    np.testing.assert_array_equal(np.diff(found.offsets), np.array(lengths)[expected])
    assert last_days(whole, None) is whole


# ---- rows ------------------------------------------------------------------------------------------------------------


def opened_rows(source: Any) -> tuple[RowsDataset, Rows, np.ndarray]:
    """A data set of ``Clicks``, its rows, and those of the test split."""
    dataset = open_dataset(source)
    assert isinstance(dataset, RowsDataset)
    data = RowData(path="x", validation_fraction=0.25)
    return dataset, dataset.rows(), configured_splits(data, dataset.rows(), dataset.schema, True).test


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ours, theirs = scores[labels == 1, None], scores[None, labels == 0]
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


def test_labels_by_hand(worlds: Worlds) -> None:
    """From the logits: groups and baselines stand beside a run. What training has not seen is unknown: its row in the
    table is as it was drawn, so that to read it would add noise."""
    run = runs.open_run(worlds.run("autoint"))
    dataset, every, test = opened_rows(worlds.data("clicks"))
    rows, splits = clicks.selected_rows(run.config, dataset)
    known = clicks.known_rows(run.schema, rows.take(splits.test), run.kept("value_counts"))
    user, device, group = dataset.schema.columns(("user", "device", "group"))
    assert every.columns[test[0], user] == Clicks.users + 1 and known.columns[0, user] == 0
    assert every.columns[test[1], device] == 3 and known.columns[1, device] == 0
    assert np.sum(known.columns != every.columns[test]) == 2
    assert known.users[0] == Clicks.users + 1, "whose rows they are does not change"
    loaded = load(run)
    logits = clicks.Judge(loaded.model, known)(loaded.weights, [3]).arrays["logit"]
    result: Any = evaluate(run, by=["group", "activity"], baselines=["bias", "als:factors=4", "logistic"], ks=[2, 3])
    assert result["auc"] == pytest.approx(auc(logits, known.labels), abs=1e-6)
    assert result["log_loss"] == pytest.approx(np.logaddexp(0, np.where(known.labels, -logits, logits)).mean())
    assert result["groups"].keys() == {"group", "activity"} and result["groups"]["group"].keys() == {"g0", "g1"}
    for code, name in enumerate(("g0", "g1"), 1):
        part, inside = result["groups"]["group"][name], every.columns[test, group] == code
        assert part["rows"] == inside.sum()
        assert part["auc"] == pytest.approx(auc(logits[inside], known.labels[inside]), abs=1e-6)
    assert sum(part["rows"] for part in result["groups"]["activity"].values()) == len(test)
    assert result["baselines"].keys() == {"bias", "als:factors=4", "logistic"}
    for metrics in result["baselines"].values():
        assert 0.3 < metrics["auc"] <= 1 and metrics["log_loss"] > 0 and "ndcg@2" in metrics


def test_ranks_by_sets(worlds: Worlds) -> None:
    """From the judge's own vectors: what a customer has besides is no candidate."""
    run = runs.open_run(worlds.run("two_tower"))
    data, loaded = retrieval.Retrieval.open(run.config, opened_rows(run.config.data.path)[0]), load(run)
    judge = retrieval.Judge(loaded.model, data, data.splits.test, run.config.evaluation)
    queries, items = (np.asarray(one) for one in judge.vectors(loaded.weights))
    ranks, top = judge(loaded.weights, [5], 5).arrays.values()
    for query in range(0, len(ranks), 29):
        user, own = int(judge.queries.users[query]) - 1, int(judge.queries.items[query])
        others = {int(code) + 1 for code in Shop.bought()[user]} - {own}
        scores, rest = items @ queries[query], set(range(1, Shop.items + 1)) - others - {own}
        assert ranks[query] == 1 + sum(scores[i] >= scores[own] for i in rest)
        assert not others & set(top[query].tolist())
