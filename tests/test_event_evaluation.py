"""How runs of events are evaluated: ranks among what is live, groups of targets, baselines, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from event_data import make_event_data, train_small
from helpers import call, fails
from numpy_merrec import item_scores, last_query
from test_ranking import plain_rank

from jaxrec import run as runs
from jaxrec.config import EvaluationConfig
from jaxrec.data.catalogue import Catalogue
from jaxrec.data.dataset import Dataset, Sessions, open_sessions
from jaxrec.data.items import Spans
from jaxrec.feeds.packed import target_positions
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.models.merrec import MERRec
from jaxrec.tasks.base import load
from jaxrec.tasks.events import judge as event_evaluation
from jaxrec.tasks.events.judge import Targets, event_judge, rank_by, sample, targets_of
from jaxrec.tasks.sessions import Evaluation

KS = (1, 5, 20)
HAIR = 2e-5  # scores that are no farther apart are equal


@pytest.mark.parametrize(("ties", "market"), [("conservative", True), ("median", True), ("standard", False)])
def test_vectors_that_are_given_rank_in_blocks(ties: str, market: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more queries than a block has, and of more items than ``memory`` allows at once."""
    monkeypatch.setattr(event_evaluation, "QUERIES_PER_BLOCK", 20)
    random, n, v = np.random.default_rng(0), 45, 6000
    config = Evaluation.model_validate({"memory": 1, "ties": ties})
    assert event_evaluation.block_size(v, config.memory).items < v
    queries, items = (random.integers(-3, 4, (rows, 2)).astype(np.float32) for rows in (n, v))
    targets, times = random.integers(0, v, n).astype(np.int32), 10**12 + 1000 * random.integers(0, 50, n)
    listed = random.integers(0, 30, v).astype(np.int32)
    where = Spans(listed, listed + random.integers(1, 40, v).astype(np.int32), 10**12) if market else None
    asked = Targets(targets, targets, targets.astype(np.uint8), times)
    found, scores = rank_by(queries, items, asked, config, where), queries @ items.T
    live = np.ones((n, v), bool)
    if where is not None:
        at = (times - 10**12)[:, None] // 1000
        live = (where.listed <= at) & (at < where.sold)
    expected = [plain_rank(scores[q], targets[q], live[q], ties) for q in range(n)]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32 and len(rank_by(queries[:0], items, asked, config, where)) == 0


def test_sessions_are_drawn_always_the_same() -> None:
    random, lengths = np.random.default_rng(0), np.arange(2, 42)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    sessions = Sessions(np.arange(n, dtype=np.int32), 7 * np.arange(n), offsets, random.integers(0, 6, n, np.uint8))
    assert sample(sessions, None) is sessions and sample(sessions, 40) is sessions
    found = [sample(sessions, most) for most in (9, 9, 10)]
    for one in found:
        assert one.events is not None and sessions.events is not None
        np.testing.assert_array_equal(one.times, 7 * one.items.astype(int))
        np.testing.assert_array_equal(one.events, sessions.events[one.items])
        first = one.items[one.offsets[:-1]]
        assert (np.diff(first) > 0).all() and np.isin(first, offsets).all(), "whole sessions, in their order"
        np.testing.assert_array_equal(np.diff(one.offsets), lengths[np.searchsorted(offsets, first)])
    assert len(found[0]) == 9 and len(found[2]) == 10
    np.testing.assert_array_equal(found[0].items, found[1].items)


# ---- a run -----------------------------------------------------------------------------------------------------------


class Evaluated(NamedTuple):
    """A run, what it was evaluated on, and what came out.

    Attributes:
        targets: by where they stand in the split; the events before them are those before.
        result: of evaluate with all baselines.
    """

    run: Path
    data: Dataset
    sessions: Sessions
    model: MERRec
    catalogue: Catalogue
    weights: dict[str, Any]
    trained: np.ndarray
    targets: np.ndarray
    result: dict[str, Any]

    def allowed(self) -> np.ndarray:
        """bool[n, V]: what can be recommended when each target is asked for."""
        if not self.data.manifest["live"]:
            return np.ones((len(self.targets), self.data.n_items), bool)
        table = pq.read_table(self.data.path / "attributes.parquet")
        at = np.asarray(self.sessions.times)[self.targets - 1][:, None]
        return (table["listed"].to_numpy() <= at) & (at < table["sold"].to_numpy())

    def ranks(self, config: EvaluationConfig | None = None) -> np.ndarray:
        """float32[n], of ``targets``."""
        config = config or runs.open_run(self.run).config.evaluation
        judge = event_judge(self.model, self.sessions, config, self.trained)
        found = judge(self.weights, KS).arrays["rank"]
        where = target_positions(judge.feed)
        at = where[where >= 0]
        order = np.argsort(at)
        np.testing.assert_array_equal(at[order], self.targets)
        np.testing.assert_array_equal(targets_of(judge, self.sessions).item, np.asarray(self.sessions.items)[at])
        ranks: np.ndarray = found[order]
        return ranks


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Of a market that says when listings are live."""
    return make("live", tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Of one that does not, with listings that have no name."""
    return make("all", tmp_path_factory.mktemp("all"))


@pytest.fixture(params=["live", "everything"])
def one(request: pytest.FixtureRequest) -> Evaluated:
    found: Evaluated = request.getfixturevalue(request.param)
    return found


def make(kind: str, place: Path) -> Evaluated:
    data = make_event_data(place / "data", live=kind == "live", events=2500, items=250)
    head = {"live": "both", "all": "text"}[kind]
    run = train_small(data, place / "run", model={"head": head}, evaluation={"k": list(KS)})
    assert call("evaluate", "--run", run, "--baselines") == 0
    opened, dataset = runs.open_run(run), open_sessions(data)
    _, model, weights, _ = load(opened)
    catalogue = model.catalogue
    sessions = dataset.split("test")
    offsets = np.asarray(sessions.offsets)
    targets = np.setdiff1d(np.arange(offsets[-1]), offsets)
    weights, trained = jax.tree.map(np.asarray, weights), np.asarray(opened.kept("item_counts")) > 0
    result = json.loads((run / "eval-test.json").read_text())
    return Evaluated(run, dataset, sessions, model, catalogue, weights, trained, targets, result)


def test_ranks_of_a_run_are_the_plain_ones(one: Evaluated) -> None:
    """A prefix at a time, and each item; equal but for scores that are closer than rounding."""
    items, events, offsets = (
        np.asarray(part) for part in (one.sessions.items, one.sessions.events, one.sessions.offsets)
    )
    config, live, first, last = runs.open_run(one.run).config.model, one.allowed(), list[float](), list[float]()
    for number, at in enumerate(one.targets):
        begin = max(offsets[np.searchsorted(offsets, at, "right") - 1], at - config.window)
        query = last_query(one.weights, one.catalogue, items[begin:at], events[begin:at])
        scores = item_scores(query, one.weights, one.catalogue, np.arange(len(one.trained)), ~one.trained)
        first.append(plain_rank(scores, items[at], live[number], "standard", HAIR))
        last.append(plain_rank(scores, items[at], live[number], "conservative", HAIR))
    found = one.ranks()
    assert len(found) == one.result["targets"] > 300
    assert (first <= found).all() and (found <= last).all() and (found == last).mean() > 0.98
    assert one.result["candidates"] == ("live" if one.data.manifest["live"] else "all")
    metrics = ranking_metrics(found, KS)
    assert {name: one.result[name] for name in metrics} == pytest.approx(metrics)


def test_groups_of_targets(one: Evaluated) -> None:
    found = one.ranks()
    items, events = np.asarray(one.sessions.items), np.asarray(one.sessions.events)
    table = pq.read_table(one.data.path / "attributes.parquet").to_pylist()
    expected: dict[tuple[str, str], list[float]] = {}
    for rank, at in zip(found, one.targets, strict=True):
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


def test_baselines(one: Evaluated) -> None:
    """How often training holds an item; the cosine of its name and the last item's, 0 without a name."""
    items, live = np.asarray(one.sessions.items), one.allowed()
    counts = np.bincount(np.asarray(one.data.split("train").items), minlength=one.data.n_items)
    named = (one.catalogue.name_of >= 0)[:, None]
    vectors = np.where(named, np.asarray(one.catalogue.vectors, np.float64)[one.catalogue.name_of], 0.0)
    assert named.all() == bool(one.data.manifest["live"]), "where all are, one in sixteen has no name"
    n = len(one.targets)
    scores = {"popularity": np.tile(counts, (n, 1)), "name-neighbours": vectors[items[one.targets - 1]] @ vectors.T}
    assert one.result["baselines"].keys() == scores.keys()
    for name, by in scores.items():
        expected = np.array([plain_rank(by[i], items[at], live[i], hair=1e-6) for i, at in enumerate(one.targets)])
        found, unseen = one.result["baselines"][name], ~one.trained[items[one.targets]]
        parts = ((found, expected), (found["groups"]["items"]["unseen"], expected[unseen]))
        for values, part in parts:
            for metric, value in ranking_metrics(part, KS).items():
                assert values[metric] == pytest.approx(value, abs=2 / len(part)), (name, metric)


def test_the_command(live: Evaluated, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few sessions, with baselines; the same again; as a table."""
    words = ("evaluate", "--run", live.run, "--sessions", 25, "--k", 3, 9, "--baselines", "popularity")
    results = []
    for _ in range(2):
        capsys.readouterr()
        assert call(*map(str, (*words, "--json", "--out", tmp_path / "out.json"))) == 0
        results.append(json.loads(capsys.readouterr().out))
        assert results[-1] == json.loads((tmp_path / "out.json").read_text())
        kept = json.loads((live.run / "eval-test.json").read_text())
        (before,) = kept.pop("others")  # of all sessions
        assert results[-1] == kept and before["sessions"] == len(live.sessions)
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    picked = sample(live.sessions, 25)
    found, all_sessions = results[0], len(live.sessions)
    assert (found["sessions"], found["of_sessions"], found["targets"]) == (25, all_sessions, picked.counts["targets"])
    assert "recall@9" in found and "recall@5" not in found and found["baselines"].keys() == {"popularity"}
    assert call(*map(str, words)) == 0
    printed = capsys.readouterr().out
    assert (
        f"sessions 25, of sessions {all_sessions}, items {len(live.trained)}, trained items {live.trained.sum()}"
        in printed
    )
    assert "candidates live, checkpoint latest" in printed and "\npopularity " in printed
    assert "by another item than the last" in printed


REFUSED: list[tuple[list[object], str]] = [
    (["--no-coverage"], "--no-coverage: .* a run of merrec"),
    (["--groups", "c0"], "--groups: .* a run of merrec"),
    (["--baselines", "name-neighbour"], "--baselines name-neighbour: .*'name-neighbours'"),
    (["--k", 100_000], r"--k 100000: larger than the catalogue of \d+ items"),
    (["--sessions", 0], "--sessions: '0': expected a whole number from 1"),
    (["--split", "validation"], "the validation split is empty"),
]


@pytest.mark.parametrize(("words", "names"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused_options(live: Evaluated, words: list[object], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, "evaluate", "--run", live.run, *words, names=names)
