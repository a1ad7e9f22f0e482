"""Leave-one-out: of each user's events the last is the test target, the one before it the validation target."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet
import pytest
from helpers import call, ranked, write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import histories

from jaxrec.baselines import parse
from jaxrec.data.dataset import Dataset, Sessions, open_sessions
from jaxrec.evaluate import evaluate, evaluate_baselines
from jaxrec.feeds.base import Plan
from jaxrec.feeds.lanes import lane_feed
from jaxrec.feeds.packed import packed_feed
from jaxrec.recommend import Recommender
from jaxrec.run import open_run
from jaxrec.tasks.sessions.judge import scored_rows

Event = tuple[int, int, int]  # user, item, time
N_ITEMS = 12


def make_events(seed: int, users: int = 60) -> list[Event]:
    """Users of 1 to 9 events in mixed order, many at the same time. Two users end with item 50, which is nowhere else,
    and item 60 is the last but one of two, so that only validation knows it."""
    random = np.random.default_rng(seed)
    owner = random.permutation(np.repeat(np.arange(users), random.integers(1, 10, users))).tolist()
    items = 1 + np.minimum(random.geometric(0.2, len(owner)), N_ITEMS)
    events = [(user, int(item), row // 3) for row, (user, item) in enumerate(zip(owner, items, strict=True))]
    for user, tail in enumerate(([50], [50], [60, 2], [60, 3]), start=1000):
        events += [(user, item, 900 + place) for place, item in enumerate([1, 4, 5, *tail])]
    return events


def prepare(out: Path, events: list[Event], *options: object) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    raw = out.with_suffix(".csv")
    raw.write_text("user,item,order\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events), encoding="utf-8")
    return call("prepare", "events", "--raw", raw, "--session", "user", "--item", "item", "--time", "order",
                "--time-unit", "order", "--out", out, *options)  # fmt: skip


def prepared(out: Path, events: list[Event], support: int = 2) -> Dataset:
    assert prepare(out, events, "--split", "leave_one_out", "--min-item-support", support) == 0
    return open_sessions(out)


def raw_sequences(dataset: Dataset, split: str) -> list[list[int]]:
    """The sequences of a split by raw ids."""
    ids = pyarrow.parquet.read_table(dataset.path / "items.parquet")["item"].to_numpy()
    sessions = dataset.split(split)
    return [part.tolist() for part in np.split(ids[np.asarray(sessions.items)], sessions.offsets[1:-1])]


def users_of(events: list[Event], support: int) -> dict[int, list[tuple[int, int, int]]]:
    """(time, row, item) of each user in order, after the filters of the other splits."""
    users: dict[int, list[tuple[int, int, int]]] = {}
    for row, (user, item, time) in enumerate(events):
        users.setdefault(user, []).append((time, row, item))
    users = {user: sorted(clicks) for user, clicks in users.items() if len(clicks) >= 2}
    counts = Counter(item for clicks in users.values() for _, _, item in clicks)
    users = {user: [click for click in clicks if counts[click[2]] >= support] for user, clicks in users.items()}
    return {user: clicks for user, clicks in users.items() if len(clicks) >= 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("leave_one_out") / "data", make_events(0))


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_and_vocabulary_are_those_of_the_protocol(seed: int, tmp_path: Path) -> None:
    events = make_events(seed)
    dataset = prepared(tmp_path / "data", events)
    first = {user: min(row for row, event in enumerate(events) if event[0] == user) for user, *_ in events}
    users = users_of(events, support=2)
    held_out = {user: clicks for user, clicks in users.items() if len(clicks) >= 3}
    parts = {
        "train": {user: clicks[:-2] if user in held_out else clicks for user, clicks in users.items()},
        "validation": {user: clicks[:-1] for user, clicks in held_out.items()},
        "test": held_out,
    }
    counts = Counter(item for clicks in parts["train"].values() for *_, item in clicks)
    known = {item for name in ("train", "validation") for clicks in parts[name].values() for *_, item in clicks}
    parts["test"] = {user: clicks for user, clicks in held_out.items() if clicks[-1][2] in known}
    assert len(held_out) - len(parts["test"]) == 2 and len(users) > len(held_out) and 60 in known - counts.keys()

    for name, part in parts.items():
        wanted = sorted(part, key=lambda user: (part[user][-1][0], first[user]))
        assert raw_sequences(dataset, name) == [[item for *_, item in part[user]] for user in wanted]
        targets = sum(len(clicks) - 1 for clicks in part.values()) if name == "train" else len(part)
        events_of = sum(map(len, part.values()))
        assert dataset.manifest["counts"][name] == {"sessions": len(part), "events": events_of, "targets": targets}
    table = pyarrow.parquet.read_table(dataset.path / "items.parquet").to_pydict()
    wanted = sorted(known, key=lambda item: (-counts[item], item))
    assert table == {"item": wanted, "count": [counts[item] for item in wanted]}
    assert table["count"][-1] == 0, "an item of the validation targets alone"
    assert dataset.manifest["dropped"]["test targets unseen before"] == {"targets": 2}


@pytest.mark.parametrize("seed", [2, 3])
def test_no_training_sequence_holds_the_last_two_events_of_its_user(seed: int, tmp_path: Path) -> None:
    """By position, not by item: every event has a time of its own, by which it is found again."""
    random = np.random.default_rng(seed)
    events = [(int(user), int(random.integers(5)), time) for time, user in enumerate(random.integers(0, 40, 160))]
    train = prepared(tmp_path / "data", events, support=1).split("train")
    times: dict[int, list[int]] = {}
    for user, _, time in events:
        times.setdefault(user, []).append(time)
    owner = {time: user for user, _, time in events}
    sequences = [part.tolist() for part in np.split(np.asarray(train.times), train.offsets[1:-1])]
    assert {owner[sequence[0]] for sequence in sequences} == {user for user, all_of in times.items() if len(all_of) > 1}
    for sequence in sequences:
        all_of = times[owner[sequence[0]]]
        assert sequence == (all_of[:-2] if len(all_of) > 2 else all_of)
    assert any(len(sequence) == 1 for sequence in sequences) and any(len(sequence) == 2 for sequence in sequences)


def test_a_data_set_says_what_is_scored_only_where_not_everything_is(dataset: Dataset, tmp_path: Path) -> None:
    manifest = dataset.manifest
    assert manifest["scored"] == {"validation": "last", "test": "last"}
    assert manifest["options"]["split"] == "leave_one_out" and manifest["options"]["test_days"] == 0
    assert dataset.split("test").last_only and dataset.split("validation").last_only
    assert not dataset.split("train").last_only
    assert prepare(tmp_path / "time", make_events(0), "--test-days", 0) == 0
    other = open_sessions(tmp_path / "time")
    assert "scored" not in other.manifest and "split" not in other.manifest["options"]
    assert not other.split("test").last_only


@pytest.mark.parametrize(("options", "message"), [
    (["--test-days", 0], "--test-days 0: belongs to --split time; leave it out with --split leave_one_out"),
    (["--validation-days", 2], "--validation-days 2: belongs to --split time"),
    (["--fraction", "1/4"], "--fraction 1/4: belongs to --split time"),
    (["--min-item-support", 40], "no sessions of at least 3 events left: "),
])  # fmt: skip
def test_what_does_not_belong_is_refused(
    options: list[Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [(user, item, item) for user in range(50) for item in (1, 2, 3 + user)]
    assert prepare(tmp_path / "data", events, "--split", "leave_one_out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


# ---- feeds -----------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 14), min_size=1, max_size=40)


def last_only(lengths: list[int]) -> Sessions:
    """Event ``e`` is item ``e``."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = np.arange(offsets[-1])
    return Sessions(events.astype(np.int32), events, offsets, last_only=True)


def whole_histories(sessions: Sessions) -> list[list[int]]:
    ends = zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist(), strict=True)
    return [list(range(low, high)) for low, high in ends if high - low > 1]


@given(LENGTHS, st.integers(1, 8), st.integers(1, 60), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_packed_feed_scores_the_last_event_after_its_window(
    lengths: list[int], window: int, batch: int, steps: int
) -> None:
    sessions = last_only(lengths)
    feed = packed_feed(sessions, window, Plan(max(batch, window), steps, "time", 0, 0))
    blocks = [jax.tree.map(np.asarray, block) for block in feed.epoch(0)]
    found = [history for block in blocks for history in histories(block)]
    wanted = [tuple(events[-window - 1 :]) for events in whole_histories(sessions)]
    assert sorted(found) == sorted(wanted) and feed.pairs == len(wanted)
    _, rows, _ = feed.like().input.shape
    assert rows * window <= max(batch, window) + 2 * window or rows == 1


def test_lanes_read_whole_sessions_and_score_the_last_event() -> None:
    sessions = last_only([5, 1, 2, 9, 3, 3, 1, 6])
    feed = lane_feed(sessions, Plan(3, 4, "time", 0, 0))
    blocks = list(feed.epoch(0))
    source, target, _, weight = jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)
    assert sorted(target[weight > 0].tolist()) == [events[-1] for events in whole_histories(sessions)]
    assert feed.pairs == int(weight.sum()) == 6
    every = lane_feed(replace(sessions, last_only=False), Plan(3, 4, "time", 0, 0))
    assert every.pairs == 30 - 8
    np.testing.assert_array_equal(source, np.concatenate([np.asarray(block.input) for block in every.epoch(0)]))


# ---- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "room"), [(0, 1), (1, 1), (2, 2), (3, 4), (8, 8), (9, 16)])
def test_only_scored_rows_are_ranked(count: int, room: int) -> None:
    valid = np.zeros(40, bool)
    valid[3 : 3 + 2 * count : 2] = True
    rows, live = scored_rows(valid)
    assert len(rows) == len(live) == room and live.sum() == count
    assert rows[live].tolist() == np.flatnonzero(valid).tolist()


def rank(scores: Mapping[int, float], target: int) -> int:
    """Conservative: as if all equal ones stood before it."""
    return sum(score >= scores[target] for score in scores.values())


def metrics_of(ranks: list[int], k: int) -> tuple[float, float]:
    """Recall and MRR over one target a user."""
    hits = [rank for rank in ranks if rank <= k]
    return len(hits) / len(ranks), sum(1 / rank for rank in hits) / len(ranks)


@pytest.mark.parametrize("model", [
    {"name": "gru4rec"},
    {"name": "narm", "window": 4},
    {"name": "sasrec", "window": 4, "layers": None, "embedding_dim": 12, "heads": 2},
], ids=lambda model: model["name"])  # fmt: skip
def test_a_run_is_evaluated_by_the_last_event_after_the_whole_history(
    model: dict[str, Any], dataset: Dataset, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "c.yaml", dataset.path, data={"validation_fraction": 0}, model=model,
        loss={"n_sample": 8}, evaluation={"k": [3]}, training={"epochs": 1, "metric": "mrr@3", "early_stopping": 1},
    )  # fmt: skip
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    run, recommender = open_run(tmp_path / "run"), Recommender.load(tmp_path / "run")
    for split in ("validation", "test"):
        sequences, ranks = raw_sequences(dataset, split), []
        ids, scores = ranked(recommender, [one[:-1] for one in sequences], dataset.n_items, seen=True)
        for one, items, values in zip(sequences, ids, scores, strict=True):
            ranks.append(rank(dict(zip(items, values.tolist(), strict=True)), one[-1]))
        found = evaluate(run, split, [3], compared=[parse("pop")] if split == "test" else ())
        assert found["targets"] == len(sequences) == dataset.manifest["counts"][split]["sessions"]
        # two programs for the same products: one target may differ
        assert (found["recall@3"], found["mrr@3"]) == pytest.approx(metrics_of(ranks, 3), abs=1.01 / len(ranks))
        assert 0 < found["recall@3"] < 1
        if split == "validation":
            lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
            (logged,) = (line["mrr@3"] for line in lines if line["kind"] == "validation")
            assert found["mrr@3"] == pytest.approx(logged, abs=1e-9)
    counts = dict.fromkeys(range(dataset.n_items), 0) | Counter(dataset.split("train").items.tolist())
    test = dataset.split("test")
    popular = [rank(counts, int(test.items[end - 1])) for end in test.offsets[1:]]
    pop = found["baselines"]["pop"]
    assert (pop["recall@3"], pop["mrr@3"]) == pytest.approx(metrics_of(popular, 3), abs=1e-6)
    assert found["fitted_on"] == dataset.manifest["counts"]["train"]
    assert found["chance"]["recall@3"] == pytest.approx(3 / dataset.n_items)


def test_baselines_see_the_whole_history_and_are_scored_once_a_user(dataset: Dataset) -> None:
    """``spop`` by hand: items by how often they stand in the history, then by training clicks."""
    found = evaluate_baselines(dataset, "test", [2, 5], [parse(name) for name in ("spop", "itemknn", "vsknn", "stan")])
    counts, test, ranks = Counter(dataset.split("train").items.tolist()), dataset.split("test"), []
    for low, high in zip(test.offsets[:-1], test.offsets[1:], strict=True):
        *history, target = test.items[low:high].tolist()
        seen = Counter(history)
        ranks.append(rank({item: seen[item] + counts[item] / 1e6 for item in range(dataset.n_items)}, target))
    assert found["targets"] == len(test)
    for k in (2, 5):
        spop = found["baselines"]["spop"]
        assert (spop[f"recall@{k}"], spop[f"mrr@{k}"]) == pytest.approx(metrics_of(ranks, k), abs=1e-6)
    for name, result in found["baselines"].items():
        assert result["recall@5"] * len(test) == pytest.approx(round(result["recall@5"] * len(test)), abs=1e-4), name


def test_a_second_validation_split_is_refused(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "c.yaml", dataset.path, evaluation={"k": [3]}, training={"metric": "mrr@3"})
    assert call("train", "--config", config, "--run", tmp_path / "run") == 2
    assert "brings a validation split; set the field to 0" in capsys.readouterr().err
    words = ["--data", dataset.path, "--baselines", "pop", "--k", 5, "--validation-fraction", 0.1]
    assert call("evaluate", *words) == 2
    assert f"--validation-fraction: {dataset.path} brings a validation split; leave it out" in capsys.readouterr().err
