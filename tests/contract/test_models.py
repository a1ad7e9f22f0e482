"""What every model in ``jaxrec/models`` must do, whatever it is: a new one joins by being there.

Its tiny configuration is derived from its ``Config`` (``worlds.sections_of``). By kind of problem this file says what a
model has to reach where the future can be foreseen, and what chance is on noise.
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
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, assert_same_run, call, load_state, open_sessions, same_metrics, steps_of
from worlds import Market, Ring, Sections, Shop, Worlds, kind_of

from jaxrec import Query, Recommender
from jaxrec.config import models
from jaxrec.errors import UserError
from jaxrec.ops import parallel
from jaxrec.run import open_run

SLOW = pytest.mark.slow
VARIANTS: dict[str, tuple[str, Sections]] = {
    "sasrec-averaged": ("sasrec", {"loss": {"name": "softmax"}, "training": {"average": 0.9}}),
    "gru4rec-averaged": ("gru4rec", {"training": {"average_epochs": 2}}),
    "hstu-times": ("hstu", {"model": {"time_bias": True, "dropout_times": 0.3}}),
    "merrec-text": ("merrec", {"model": {"head": "text", "temperature": 8.0}, "loss": {"n_sample": 0}}),
    "autoint-logistic": ("autoint", {"model": {"blocks": 0, "first_order": "logistic"}}),
    "two_tower-infonce": ("two_tower", {"model": {"table": "rows", "norm": "none"},
                                        "loss": {"name": "infonce", "temperature": 0.2, "hard_negatives": 0,
                                                 "n_sample": 8, "logq": 1.0}}),
}  # fmt: skip
"""Other ways of the same models: slow."""
ALL: list[Any] = [*models(), *(pytest.param(name, marks=SLOW) for name in VARIANTS)]
SESSIONS: list[Any] = [name for name in models() if kind_of(name) == "sessions"]


def chance(targets: int, share: float) -> float:
    """The most that guessing reaches, at a chance of ``share`` each, in all but one of 10,000 worlds."""
    return share + 4 * math.sqrt(share * (1 - share) / targets)


LEARNED: dict[str, Callable[[dict[str, Any]], bool]] = {
    # From the last click alone half of the targets could be foreseen; from two, all but the first of a session.
    "sessions": lambda found: 0.58 < found["recall@1"] < 0.93 and found["recall@5"] > 0.97,
    "events": lambda found: all(found["groups"]["items"][which]["recall@5"] > least
                                for which, least in {"seen": 0.85, "unseen": 0.95}.items()),
    "clicks": lambda found: found["auc"] > 0.95,
    "retrieval": lambda found: found["hit_rate@3"] > 0.9 and 0.25 < found["mrr@3"] < 0.75,
}  # fmt: skip
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


def test_what_can_be_foreseen_is_learned_and_what_was_best_is_evaluated(
    way: tuple[str, Sections], worlds: Worlds
) -> None:
    """The validation split, evaluated from the run alone, gives the metric that the log has of the best epoch."""
    run = worlds.run(way[0], **way[1])
    found, lines = worlds.evaluated(run), [line for line in same_metrics(run) if line["kind"] == "validation"]
    assert found["checkpoint"] == "best" and LEARNED[kind_of(way[0])](found), found
    metric = open_run(run).config.training.metric
    best = max(line[metric] for line in lines)
    assert worlds.evaluated(run, "validation")[metric] == pytest.approx(best, abs=1e-6)


def test_noise_stays_at_chance(way: tuple[str, Sections], worlds: Worlds) -> None:
    found = worlds.evaluated(worlds.run(way[0], noise=True, **way[1]))
    assert AT_CHANCE[kind_of(way[0])](found), found


def test_resumed_and_not_streamed_it_ends_bit_for_bit_as_if_it_was_not(
    way: tuple[str, Sections], worlds: Worlds, tmp_path: Path
) -> None:
    """From within the last epoch, in blocks that are cut on the device instead of coming from the host; with dropout,
    a schedule, drawn negatives and whatever else is random or carried."""
    noisy, resumed = worlds.run(way[0], noise=True, **way[1]), tmp_path / "resumed"
    inner, final = steps_of(noisy)
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


@pytest.mark.parametrize("model", [*SESSIONS, "hstu-times"])
def test_what_is_served_is_what_was_evaluated_whatever_is_asked_beside_it(model: str, worlds: Worlds) -> None:
    """Hits after each click, from the clicks until then; scores of the whole catalogue, whatever padding neighbours of
    other lengths bring; and text ids that go in and come out: two clicks say what is next."""
    name, sections = VARIANTS.get(model, (model, {}))
    run, data = worlds.run(name, **sections), open_sessions(worlds.data("sessions"))
    recommender, split, ids = (
        Recommender.load(run),
        data.split("test"),
        pq.read_table(data.path / "items.parquet")["item"].to_pylist(),
    )
    sessions = [[ids[i] for i in session] for session in np.split(np.asarray(split.items), split.offsets[1:-1])]
    moments = np.split(np.asarray(split.times), split.offsets[1:-1])
    asked = [(Query(session[:t], times=list(times[:t]) if "times" in recommender.reads else ()), session[t])
             for session, times in zip(sessions, moments, strict=True) for t in range(1, len(session))]  # fmt: skip
    queries = [query for query, _ in asked]
    answers = recommender.recommend(queries, 5, seen=True)
    hits = [target in [item.id for item in answer.items] for answer, (_, target) in zip(answers, asked, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(worlds.evaluated(run)["recall@5"], abs=1e-6)
    right = [answer.items[0].id == Ring.follows(*query.items[-2:])
             for answer, query in zip(answers, queries, strict=True) if len(query.items) > 1]  # fmt: skip
    assert sum(right) > 0.9 * len(right)

    together = recommender.recommend(queries[:9], recommender.n_items, seen=True)
    for query, beside in zip(queries[:9], together, strict=True):
        scores = {item.id: item.score for item in recommender.recommend(query, recommender.n_items, seen=True).items}
        assert len(scores) == recommender.n_items
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert {item.id: item.score for item in beside.items} == pytest.approx(scores, rel=1e-4, abs=2e-5)


# ---- eight devices ---------------------------------------------------------------------------------------------------


def devices(*words: object) -> Any:
    """What ``devices.py`` prints, in a process that has eight."""
    # On a busy machine threads of virtual devices wait for each other for longer than XLA lets them.
    patient = f"--xla_cpu_collective_call_terminate_timeout_seconds=600 {os.environ.get('XLA_FLAGS', '')}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "XLA_FLAGS": patient}
    line = [sys.executable, str(ROOT / "tests" / "devices.py"), *map(str, words)]
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


SOFTMAX: Sections = {"loss": {"name": "softmax", "label_smoothing": 0.1, "prior": 0.5}}
ON_EIGHT: dict[str, tuple[str, Sections]] = {
    **{name: (name, {}) for name in models()},
    "narm-softmax": ("narm", SOFTMAX),
    "sasrec-softmax": ("sasrec", SOFTMAX),
    "two_tower-rows": ("two_tower", {"model": {"table": "rows"}}),
    "narm-adagrad": ("narm", {"optimizer": {"tables": "rowwise_adagrad"}}),
}


@pytest.mark.parametrize("way", [pytest.param(name, marks=[SLOW] * (name != "gru4rec")) for name in ON_EIGHT])
def test_eight_devices_train_as_one(way: str, worlds: Worlds) -> None:
    """Losses, parameters, carry, and tables with what the optimizer keeps of them, in float64: other orders of sums
    differ by 1e-13, more would be a fault. Rows of tables lie whole on each device, are dealt over eight, over four."""
    (name, sections), steps = ON_EIGHT[way], 5 if way == "gru4rec" else 20
    if name == "two_tower":
        sections = sections | {"loss": {"hard_negatives": 0}}
    meshes = ["8x1", "2x4"] if way == "gru4rec" else ["8x1", "1x8", "2x4"]
    found = devices("compare", worlds.config(name, noise=True, **sections), steps, *meshes)
    assert all(0 < difference < 1e-9 for difference in found), f"{found}; 0: one device did it all"


@SLOW
def test_rows_and_ranks_of_dealt_tables_are_those_of_whole_ones() -> None:
    assert all((found := devices("dealt")).values()), found


@SLOW
@pytest.mark.parametrize(("model", "sections"), [
    ("gru4rec", {}), ("autoint", {}), ("merrec", {}), ("merrec", {"data": {"path": "live"}}),
    ("merrec", {"model": {"head": "text"}}), ("merrec", {"model": {"head": "items"}}),
    ("two_tower", {"loss": {"hard_negatives": 0}}),
], ids=str)  # fmt: skip
def test_dealt_tables_are_used_as_whole_ones(
    model: str, sections: Sections, worlds: Worlds, tmp_path: Path
) -> None:  # fmt: skip
    """In evaluating, recommending, similar items and what is added."""
    sections = {"data": {"path": str(worlds.live())}} if "data" in sections else sections
    found = devices("used", worlds.config(model, **sections), tmp_path, "2x4")
    assert all(found.values()), found


@SLOW
@pytest.mark.parametrize(("first", "second", "counts"), [("8x1", "2x1", [8, 2]), ("1x8", "2x4", [8, 8])])
def test_a_run_moves_from_devices_to_others(
    first: str, second: str, counts: list[int], worlds: Worlds, tmp_path: Path
) -> None:
    """Stopped after an epoch, continued on another mesh: as on one device all along, to rounding; and used on one."""
    stopped, meshes, difference = devices("move", worlds.config("gru4rec"), tmp_path, first, second)
    assert stopped == 143 and meshes == counts and difference < 1e-3
    assert call("evaluate", "--run", tmp_path / "moved") == 0


def test_all_devices_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.make_mesh(None, 32) is None  # here there is one
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * 8)
    assert parallel.make_mesh(1, 31) is None
    with pytest.raises(UserError, match=r"training.batch_size: 30 .* by 8 devices .* is 32"):
        parallel.make_mesh(None, 30)
    with pytest.raises(UserError, match=r"mesh.data: found 9; .* there are 8"):
        parallel.make_mesh(9, 18)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"mesh.data: 4 of the 8 devices of 2 processes would train, and all"):
        parallel.make_mesh(4, 32)
