"""What every model in ``jaxrec/models`` must do, whatever it is: a new one joins by being there.

Its tiny configuration is derived from its ``Config`` (``worlds.sections_of``). By kind of problem this file says what a
model has to reach where the future can be foreseen, what chance is on noise, and how a recommender is asked about the
test split.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, assert_same_run, call, load_state, same_metrics, steps_of, write_dataset
from worlds import Market, Ring, Sections, Shop, Worlds, kind_of

from jaxrec import Query, Recommender
from jaxrec.config.finding import models
from jaxrec.data.dataset import open_sessions
from jaxrec.errors import UserError
from jaxrec.ops import parallel
from jaxrec.run import open_run

VARIANTS: dict[str, tuple[str, Sections]] = {
    "gru4rec-onehot": ("gru4rec", {"model": {"embedding": "onehot"},
                                   "optimizer": {"name": "adagrad", "learning_rate": 0.1, "momentum": 0.2}}),
    "sasrec-averaged": ("sasrec", {"loss": {"name": "softmax"}, "training": {"average": 0.9}}),
    "merrec-items": ("merrec", {"model": {"head": "items", "item_fields": []}, "loss": {"name": "softmax"},
                                "optimizer": {"tables": "same", "table_learning_rate": None}}),
    "merrec-text": ("merrec", {"model": {"head": "text", "temperature": 8.0}, "data": {"name_memory": 0},
                               "loss": {"n_sample": 0}}),
    "autoint-rows": ("autoint", {"model": {"table": "rows", "first_order": "weights"}}),
    "autoint-logistic": ("autoint", {"model": {"blocks": 0, "first_order": "logistic"}}),
    "two_tower-infonce": ("two_tower", {"model": {"table": "rows", "norm": "none"},
                                        "loss": {"name": "infonce", "temperature": 0.2, "hard_negatives": 0,
                                                 "n_sample": 8, "logq": 1.0}}),
}  # fmt: skip
"""Other ways of the same models: slow."""
ALL: list[Any] = [*models(), *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)]


def chance(targets: int, share: float) -> float:
    """The most that guessing reaches, at a chance of ``share`` each, in all but one of 10,000 worlds."""
    return share + 4 * math.sqrt(share * (1 - share) / targets)


LEARNED: dict[str, Callable[[dict[str, Any]], bool]] = {
    # From the last click alone half of the targets could be foreseen; from two, all but the first of a session.
    "sessions": lambda found: 0.58 < found["recall@1"] < 0.93 and found["recall@5"] > 0.97,
    "events": lambda found: found["groups"]["items"]["seen"]["recall@5"] > 0.85,
    "clicks": lambda found: found["auc"] > 0.95,
    "retrieval": lambda found: found["hit_rate@3"] > 0.9 and 0.25 < found["mrr@3"] < 0.75,
}
AT_CHANCE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "sessions": lambda found: all(
        sum(sorted(Ring.popularity)[:k]) < found[f"recall@{k}"]
        < chance(found["targets"], sum(sorted(Ring.popularity)[-k:])) for k in (1, 5)
    ),
    "events": lambda found: 0 < found["recall@5"] < chance(found["targets"], 5 / Market.n_items),
    "clicks": lambda found: abs(found["auc"] - 0.5) < 4 / math.sqrt(3 * found["rows"]) and found["log_loss"] > 0.68,
    "retrieval": lambda found: found["hit_rate@3"] < chance(found["targets"], 3 / (Shop.items - Shop.bought_each + 1)),
}  # fmt: skip


@pytest.fixture(scope="module", params=ALL)
def way(request: pytest.FixtureRequest) -> tuple[str, Sections]:
    """A model, and what differs from its tiny configuration."""
    name: str = request.param
    return VARIANTS.get(name, (name, {}))


@pytest.fixture(scope="module")
def learned(way: tuple[str, Sections], worlds: Worlds) -> Path:
    return worlds.run(way[0], **way[1])


@pytest.fixture(scope="module")
def noisy(way: tuple[str, Sections], worlds: Worlds) -> Path:
    return worlds.run(way[0], noise=True, **way[1])


def test_a_source_that_can_be_foreseen_is_learned(way: tuple[str, Sections], learned: Path, worlds: Worlds) -> None:
    found = worlds.evaluated(learned)
    assert LEARNED[kind_of(way[0])](found), found
    assert found["checkpoint"] == "best"


@pytest.mark.parametrize("head", ["both", pytest.param("text", marks=pytest.mark.slow)])
def test_listings_that_training_never_saw_are_found_by_their_names(head: str, worlds: Worlds) -> None:
    run = worlds.run("merrec", **({} if head == "both" else VARIANTS["merrec-text"][1]))
    assert worlds.evaluated(run)["groups"]["items"]["unseen"]["recall@5"] > 0.95


def test_a_data_sets_own_validation_split_is_what_is_evaluated(worlds: Worlds, tmp_path: Path) -> None:
    """In training, and by ``evaluate --split validation``: the days that ``prepare`` set apart, end to end."""
    data = write_dataset(tmp_path / "data", Ring.sessions(1400), test_days=8, validation_days=4)
    own = open_sessions(data).split("validation")
    run = worlds.run("gru4rec", data={"path": str(data), "validation_fraction": None})
    found, lines = worlds.evaluated(run, "validation"), [x for x in same_metrics(run) if x["kind"] == "validation"]
    assert found["targets"] == len(own.items) - len(own.offsets) + 1 > 0
    assert found["recall@1"] == pytest.approx(max(line["recall@1"] for line in lines), abs=1e-6)
    assert LEARNED["sessions"](found)


def test_noise_stays_at_chance(way: tuple[str, Sections], noisy: Path, worlds: Worlds) -> None:
    found = worlds.evaluated(noisy)
    assert AT_CHANCE[kind_of(way[0])](found), found


def test_what_is_loaded_is_what_was_best_in_training(learned: Path, worlds: Worlds) -> None:
    """Evaluation of the validation split, from the run alone, gives the metric that the log has of the best epoch."""
    lines = [line for line in same_metrics(learned) if line["kind"] == "validation"]
    metric = next(name for name in lines[0] if name not in ("kind", "step", "epoch"))
    state, position = load_state(learned)
    assert position["finished"] and int(state.step) == lines[-1]["step"]
    metric = json.loads((learned / "metrics.jsonl").read_text().splitlines()[-1]).get("metric", metric)
    found = worlds.evaluated(learned, "validation")
    assert found[metric] == pytest.approx(max(line[metric] for line in lines), abs=1e-6)


def test_resumed_and_not_streamed_it_ends_bit_for_bit_as_if_it_was_not(noisy: Path, tmp_path: Path) -> None:
    """From within the last epoch, in blocks that are cut on the device instead of coming from the host; with dropout,
    a schedule, drawn negatives and whatever else is random or carried."""
    resumed, (inner, final) = tmp_path / "resumed", steps_of(noisy)
    shutil.copytree(noisy, resumed)
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    config = resumed / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert text.count("device_memory: 0") == 1
    config.write_text(text.replace("device_memory: 0", "device_memory: 2048"), encoding="utf-8")
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert call("train", "--config", config, "--run", resumed, "--resume") == 0
    assert_same_run(resumed, noisy)


# ---- what is served is what was evaluated ----------------------------------------------------------------------------


class Asked(NamedTuple):
    """A test split as a recommender is asked about it: queries, what may not be recommended, and the right item."""

    queries: list[Query]
    targets: list[Any]
    excluded: list[list[Any]]


def _sessions(run: Path) -> Asked:
    """What comes after each click, from the clicks until then."""
    data = open_sessions(open_run(run).config.data.path)
    split, ids = data.split("test"), pq.read_table(data.path / "items.parquet")["item"].to_pylist()
    sessions = [[ids[i] for i in session] for session in np.split(np.asarray(split.items), split.offsets[1:-1])]
    asked = [(Query(session[:t]), session[t]) for session in sessions for t in range(1, len(session))]
    return Asked([query for query, _ in asked], [target for _, target in asked], [[]] * len(asked))


ASKED: dict[str, tuple[str, Callable[[Path], Asked]]] = {"sessions": ("recall@5", _sessions)}
"""By kind: a metric of ``eval-test.json``, and what it is the mean of."""


@pytest.fixture(scope="module")
def served(way: tuple[str, Sections], learned: Path) -> tuple[Recommender, str, Asked]:
    if kind_of(way[0]) not in ASKED:
        pytest.skip("its recommender is held to its judge elsewhere")
    metric, ask = ASKED[kind_of(way[0])]
    return Recommender.load(learned), metric, ask(learned)


def test_what_is_served_is_what_was_evaluated(
    served: tuple[Recommender, str, Asked], learned: Path, worlds: Worlds
) -> None:
    recommender, metric, asked = served
    k = int(metric.partition("@")[2])
    if any(asked.excluded):
        answers = [recommender.recommend(query, k, seen=True, exclude=without)
                   for query, without in zip(asked.queries, asked.excluded, strict=True)]  # fmt: skip
    else:
        answers = recommender.recommend(asked.queries, k, seen=True)
    hits = [target in [item.id for item in answer.items]
            for answer, target in zip(answers, asked.targets, strict=True)]  # fmt: skip
    assert sum(hits) / len(hits) == pytest.approx(worlds.evaluated(learned)[metric], abs=1e-6)


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(served: tuple[Recommender, str, Asked]) -> None:
    """Nor on the padding that neighbours of other lengths bring: scores of the whole catalogue, best first."""
    recommender, _, asked = served
    queries = asked.queries[:9]
    together = recommender.recommend(queries, recommender.n_items, seen=True)
    backwards = recommender.recommend(queries[::-1], recommender.n_items, seen=True)[::-1]
    for query, *answers in zip(queries, together, backwards, strict=True):
        alone = recommender.recommend(query, recommender.n_items, seen=True)
        scores = {item.id: item.score for item in alone.items}
        assert len(scores) == recommender.n_items
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        for answer in answers:
            found = {item.id: item.score for item in answer.items}
            assert found == pytest.approx(scores, rel=1e-4, abs=2e-5)


def test_what_is_recommended_follows_the_ring(worlds: Worlds) -> None:
    """Text ids go in, and come out: two clicks say what is next."""
    recommender = Recommender.load(worlds.run("gru4rec"))
    sessions = [session[:3] for session in Ring.sessions(60, seed=8)]
    answers = recommender.recommend([Query(session) for session in sessions], k=1)
    right = [
        answer.items[0].id == Ring.follows(*session[1:]) for session, answer in zip(sessions, answers, strict=True)
    ]
    assert sum(right) > 0.9 * len(right)


# ---- eight devices ---------------------------------------------------------------------------------------------------


def devices(*words: object) -> list[dict[str, Any]]:
    """What ``devices.py`` prints, in a process that has eight."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    line = [sys.executable, str(ROOT / "tests" / "devices.py"), *map(str, words)]
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def differences(worlds: Worlds) -> dict[str, float]:
    """By model, how far training on eight devices is from training on one."""
    lines = devices("compare", *(worlds.config(name, noise=True) for name in models()))
    return {line["model"]: line["difference"] for line in lines}


@pytest.mark.parametrize("model", models())
def test_eight_devices_train_as_one(differences: dict[str, float], model: str) -> None:
    """Losses, parameters, tables and carry, in float64: other orders of sums differ by 1e-13, more would be a fault."""
    assert 0 < differences[model] < 1e-9, "0: one device did it all"


@pytest.mark.slow
def test_row_tables_are_never_exchanged(worlds: Worlds) -> None:
    """A step's bytes do not grow with the catalogue, and are those of its rows: from compiled programs."""
    few, many = devices("exchange", worlds.config("gru4rec"))
    assert few["table"] < many["table"]
    assert 0 < few["sent"] == many["sent"] < many["table"] / 20


@pytest.mark.slow
def test_a_run_moves_from_eight_devices_to_two(config_file: Path, tmp_path: Path) -> None:
    """Stopped after an epoch on eight, continued on two: as on one all along, to rounding; and used on one."""
    (found,) = devices("move", config_file, tmp_path)
    assert found["stopped"] == 143 and found["devices"] == [8, 2]
    assert found["difference"] < 1e-3
    assert call("evaluate", "--run", tmp_path / "moved") == 0


def test_all_local_devices_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.make_mesh(None, 32) is None  # here there is one
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices() * 8)
    assert parallel.make_mesh(1, 31) is None
    with pytest.raises(UserError, match=r"training.batch_size: 30 .* by 8 devices .* is 32"):
        parallel.make_mesh(None, 30)
    with pytest.raises(UserError, match=r"mesh.data: found 9; .* there are 8"):
        parallel.make_mesh(9, 18)
