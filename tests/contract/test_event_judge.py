"""Runs of events: ranks among what is live, groups and baselines against brute force; new items; whose embeddings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import call, fails, open_sessions
from numpy_models import item_scores, last_query
from worlds import Market, Worlds, write_vectors

from jaxrec import evaluate
from jaxrec import run as runs
from jaxrec.data.dataset import Dataset, Sessions
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models import merrec
from jaxrec.ops.topk import BlockSize
from jaxrec.tasks.base import Loaded, load
from jaxrec.tasks.events.task import event_judge, sample, targets_of

KS = (1, 5, 20)
HAIR = 2e-5  # scores that are no farther apart are equal


def plain_rank(scores: np.ndarray, target: int, live: np.ndarray, hair: float) -> int:
    """Last among the live items whose scores are no more than a hair below; behind all where it is not live itself."""
    return int((live & (scores >= scores[target] - hair)).sum()) if live[target] else len(scores)


def test_sessions_are_drawn_always_the_same() -> None:
    lengths = np.arange(2, 42)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    sessions = Sessions(np.arange(n, dtype=np.int32), 7 * np.arange(n), offsets, np.arange(n).astype(np.uint8))
    assert sample(sessions, None) is sessions and sample(sessions, 40) is sessions
    found = sample(sessions, 9)
    first = found.items[found.offsets[:-1]]
    assert len(found) == 9 and (np.diff(first) > 0).all() and np.isin(first, offsets).all(), "whole, in their order"
    np.testing.assert_array_equal(found.items, sample(sessions, 9).items)


class Evaluated(NamedTuple):
    """A run, what it was evaluated on, and what came out."""

    loaded: Loaded
    data: Dataset
    sessions: Sessions
    trained: np.ndarray
    targets: np.ndarray  # where the targets stand in the split; the events before them are those before
    allowed: np.ndarray  # bool[n, V]: what can be recommended when each target is asked for
    ranks: np.ndarray  # float32[n]
    result: dict[str, Any]  # of evaluate with all baselines


@pytest.fixture(scope="module", params=["live", "everything"])
def one(request: pytest.FixtureRequest, worlds: Worlds) -> Evaluated:
    """Of a market that says when listings are live, and of one that does not."""
    live = request.param == "live"
    data = worlds.live() if live else worlds.data("events")
    run = worlds.run("merrec", data={"path": str(data)}, training={"epochs": 1}) if live else worlds.run("merrec")
    opened, dataset, loaded = runs.open_run(run), open_sessions(data), load(run)
    loaded = loaded._replace(weights=jax.tree.map(np.asarray, loaded.weights))
    sessions, trained = dataset.split("test"), np.asarray(opened.kept("item_counts")) > 0
    targets = np.setdiff1d(np.arange(sessions.offsets[-1]), np.asarray(sessions.offsets))
    allowed = np.ones((len(targets), dataset.n_items), bool)
    if live:
        table = pq.read_table(data / "attributes.parquet")
        at = np.asarray(sessions.times)[targets - 1][:, None]
        allowed = (table["listed"].to_numpy() <= at) & (at < table["sold"].to_numpy())
    judge = event_judge(loaded.model, sessions, opened.config.evaluation, trained)
    ranks, asked = judge(loaded.weights, KS).arrays["rank"], targets_of(judge, sessions)
    order = np.lexsort((asked.item, asked.last, asked.asked))  # of the judge, in which it deals
    ours = np.lexsort((sessions.items[targets], sessions.items[targets - 1], sessions.times[targets - 1]))
    np.testing.assert_array_equal(asked.item[order], np.asarray(sessions.items)[targets][ours])
    in_split = np.empty(len(ranks), np.float32)
    in_split[ours] = ranks[order]
    result = evaluate(run, ks=KS, baselines=["all"])
    return Evaluated(loaded, dataset, sessions, trained, targets, allowed, in_split, result)


def test_ranks_of_a_run_are_the_plain_ones(one: Evaluated) -> None:
    """A prefix at a time, and each item; equal but for scores that are closer than rounding."""
    items, events, offsets = map(np.asarray, (one.sessions.items, one.sessions.events, one.sessions.offsets))
    (run, model, weights, _), first, last = one.loaded, list[float](), list[float]()
    for number, at in enumerate(one.targets):
        begin = max(offsets[np.searchsorted(offsets, at, "right") - 1], at - run.config.model.window)
        query = last_query(weights, model.catalogue, items[begin:at], events[begin:at])
        scores = item_scores(query, weights, model.catalogue, np.arange(len(one.trained)), ~one.trained)
        last.append(plain_rank(scores, items[at], one.allowed[number], HAIR))
        first.append(min(last[-1], 1 + plain_rank(scores, items[at], one.allowed[number], -HAIR)))
    found = one.ranks
    assert len(found) == one.result["targets"] > 200
    assert (first <= found).all() and (found <= last).all() and (found == last).mean() > 0.98
    assert one.result["candidates"] == ("live" if one.data.manifest["live"] else "all")
    metrics = ranking_metrics(found, KS)
    assert {name: one.result[name] for name in metrics} == pytest.approx(metrics)
    few = evaluate(run, ks=[3], limit=25)
    assert few["targets"] == sample(one.sessions, 25).counts["targets"] and few["of_sessions"] == len(one.sessions)


def test_ranks_of_a_large_catalogue(one: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose vectors are put side by side a part at a time; the last part is not full."""
    config = one.loaded.run.config.evaluation.model_copy(update={"memory": 1})
    judge = event_judge(one.loaded.model, one.sessions, config, one.trained)
    whole = judge(one.loaded.weights, KS, top=20)
    monkeypatch.setattr(merrec, "SIDE_BY_SIDE", 0)
    monkeypatch.setattr(judge, "_size", BlockSize(512, 1 + len(one.trained) // 3))
    parts = judge(one.loaded.weights, KS, top=20)
    assert (whole.arrays["rank"] == parts.arrays["rank"]).mean() > 0.99
    assert (whole.arrays["top"] == parts.arrays["top"]).mean() > 0.99
    for name, value in whole.metrics.items():
        assert parts.metrics[name] == pytest.approx(value, abs=0.01)


def test_groups_of_targets(one: Evaluated) -> None:
    items, events = np.asarray(one.sessions.items), np.asarray(one.sessions.events)
    table = pq.read_table(one.data.path / "attributes.parquet").to_pylist()
    expected: dict[tuple[str, str], list[float]] = {}
    for rank, at in zip(one.ranks, one.targets, strict=True):
        seen = "seen" if one.trained[items[at]] else "unseen"
        names = [("items", seen), ("event", one.data.manifest["event_types"][events[at]])]
        names.append(("category", table[items[at]]["c0_name"] or "none"))
        if items[at] != items[at - 1]:
            names += [("another item than the last", "all"), ("another item than the last", seen)]
        for name in names:
            expected.setdefault(name, []).append(rank)
    groups = {(kind, name): values for kind, parts in one.result["groups"].items() for name, values in parts.items()}
    assert groups.keys() == expected.keys() and {("items", "unseen"), ("items", "seen")} < groups.keys()
    for name, of_group in expected.items():
        assert groups[name]["targets"] == len(of_group)
        wanted = ranking_metrics(np.array(of_group), KS)
        assert {metric: groups[name][metric] for metric in wanted} == pytest.approx(wanted)


def test_baselines_of_events(one: Evaluated) -> None:
    """How often training holds an item; the cosine of its name and the last item's."""
    items, catalogue, n = np.asarray(one.sessions.items), one.loaded.model.catalogue, len(one.targets)
    counts, vectors = one.loaded.run.kept("item_counts"), np.asarray(catalogue.vectors, np.float64)[catalogue.name_of]
    scores = {"popularity": np.tile(counts, (n, 1)), "name-neighbours": vectors[items[one.targets - 1]] @ vectors.T}
    assert one.result["baselines"].keys() == scores.keys()
    for name, by in scores.items():
        expected = np.array([plain_rank(by[i], items[at], one.allowed[i], 1e-6) for i, at in enumerate(one.targets)])
        found, unseen = one.result["baselines"][name], ~one.trained[items[one.targets]]
        for values, part in ((found, expected), (found["groups"]["items"]["unseen"], expected[unseen])):
            for metric, value in ranking_metrics(part, KS).items():
                assert values[metric] == pytest.approx(value, abs=2 / len(part)), (name, metric)


# ---- new items, and embeddings ---------------------------------------------------------------------------------------


def test_items_that_training_has_not_seen_are_found_by_their_names(worlds: Worlds) -> None:
    """Of the right kind are five listings, two of them new."""
    result = worlds.evaluated(worlds.run("merrec"))
    seen, unseen = (result["groups"]["items"][part] for part in ("seen", "unseen"))
    assert result["items"] == Market.n_items and result["trained_items"] == Market.kinds * Market.trained
    assert unseen["targets"] > 60 and seen["targets"] + unseen["targets"] == result["targets"]
    assert seen["recall@5"] > 0.85 and unseen["recall@5"] > 0.6


def test_a_model_of_sessions_trains_on_events(worlds: Worlds, tmp_path: Path) -> None:
    data = worlds.data("events")
    words = ["--data.path", data, "--training.epochs", 2, "--training.metric", "recall@5"]
    assert call("train", "--config", worlds.config("gru4rec"), "--run", tmp_path / "run", *words) == 0
    assert call("evaluate", "--run", tmp_path / "run", "--baselines", "pop") == 0
    result = json.loads((tmp_path / "run" / "eval-test.json").read_text())
    assert result["items"] == Market.n_items
    assert result["targets"] == open_sessions(data).manifest["counts"]["test"]["targets"]


def without(source: Path, place: Path, *names: str) -> Path:
    return Path(shutil.copytree(source, place, ignore=shutil.ignore_patterns(*names)))


def test_data_without_events_or_embeddings_are_refused(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with embeddings beside the data is tested in test_text.py."""
    bare = without(worlds.data("events"), tmp_path / "bare", "text")
    cases = {worlds.data("sessions"): "holds no events with item names", bare: "bare: no embeddings of its names"}
    for data, names in cases.items():
        words = ["train", "--config", worlds.config("merrec"), "--run", tmp_path / "none", "--data.path", data]
        fails(capsys, *words, names=names)
        assert not (tmp_path / "none").exists()


def test_a_run_goes_on_with_its_own_embeddings_alone(
    worlds: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of another model beside the data, even of the same width, are not the run's; what it keeps is enough."""
    learned = worlds.run("merrec")
    data, run = without(worlds.data("events"), tmp_path / "data", "text"), without(learned, tmp_path / "run")
    write_vectors(data, model="other")
    words = ("train", "--config", run / "config.yaml", "--run", run, "--resume", "--data.path", data)
    fails(capsys, *words, names=r"text/other/vectors\.npy: not what .*run was trained with")
    assert call("evaluate", "--run", run, "--data", data) == 0
    found: dict[str, Any] = json.loads((run / "eval-test.json").read_text())
    assert {**found, "seconds": 0} == {**worlds.evaluated(learned), "seconds": 0}
    shutil.rmtree(run / "dataset" / "text")
    fails(capsys, "evaluate", "--run", run, names="no embeddings of its names")
