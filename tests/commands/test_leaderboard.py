"""The leaderboard: what it keeps of each query is what ``evaluate`` says, the budget holds, a killed one goes on.

Where planning alone is tested, a clock of the test's own passes, and a stand-in trains.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, fails, open_sessions, spawn
from worlds import KINDS, Worlds

from jaxrec import evaluate
from jaxrec.config import Config, EvaluationConfig, parse
from jaxrec.data.dataset import open_dataset
from jaxrec.leaderboard import search, settings, work
from jaxrec.leaderboard.__main__ import seconds_of
from jaxrec.leaderboard.kinds import Kind, SessionKind, kind_of
from jaxrec.leaderboard.search import OUT_OF_TIME
from jaxrec.models.base import make_model
from jaxrec.tasks.sessions.task import in_order, session_judge

Capsys = pytest.CaptureFixture[str]
BASELINES = {"sessions": "itemknn:alpha=0.5,decay=0", "clicks": "bias:reg_user=3", "retrieval": "item-knn:k=20"}
COMPILE, EPOCH, JUDGE = 5.0, 4.0, 1.0  # seconds of the stand-in


def kind_in(worlds: Worlds, task: str) -> Kind:
    """The kind of a world's data, split as its runs are."""
    words = [word for name, value in KINDS[task][1]["data"].items() for word in (f"--data.{name}", str(value))]
    return kind_of(open_dataset(worlds.data(task)), task, words)


# ---- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gru4rec", "narm", "autoint", "two_tower"])
def test_what_is_kept_of_each_query_is_what_evaluate_says(model: str, worlds: Worlds) -> None:
    task = {"autoint": "clicks", "two_tower": "retrieval"}.get(model, "sessions")
    kind, run, text = kind_in(worlds, task), worlds.run(model), BASELINES[task]
    ks = [kind.k] if isinstance(kind, SessionKind) or task == "retrieval" else None  # type: ignore[attr-defined]
    kept, seconds = kind.run(run)
    whole = evaluate(run, ks=ks)
    assert len(kept) == kind.queries("test") == len(kind.groups()) and seconds > 0
    for name in kind.columns:
        told = whole.get(name, whole.get(name.replace("recall", "hit_rate")))
        assert kind.metrics(kept[None])[name] == pytest.approx(told, abs=1e-6)
    if model != "narm":
        held, _, _ = kind.baseline(text, "validation")
        told = evaluate(run, "validation", ks=ks, baselines=[text])["baselines"][text]
        assert kind.metrics(held[None], "validation")[kind.metric] == pytest.approx(told[kind.metric], abs=1e-6)
    samples = kind.samples({"one": kept[None], "two": np.stack([kept, kept])})
    for name, of_one in samples["one"].items():
        np.testing.assert_allclose(of_one, samples["two"][name])  # the same draws; seeds are averaged
        assert abs(np.mean(of_one) - kind.metrics(kept[None])[name]) < 3 * np.std(of_one) / np.sqrt(len(of_one)) + 0.01
        assert kind.metrics(kept[None])[name] > kind.chance()[name] or name == "log_loss"


@pytest.mark.parametrize("model", ["gru4rec", "narm", "bert4rec", "hstu"])
def test_ranks_stand_in_the_order_of_the_events(model: str, dataset: Path) -> None:
    """Lanes and rows deal sessions anew: where each target of the feed went, itself in place of its rank."""
    held = open_sessions(dataset).split("test")
    made = make_model(parse({"data": {"path": "x"}, "model": {"name": model}}), 100)
    judge = session_judge(made, held, 100, EvaluationConfig(batch_size=64))
    found = [np.asarray(block.target)[np.asarray(block.weight) > 0] for block in judge.feed.epoch(0)]
    targets = in_order(np.concatenate(found).astype(np.float32), judge, held)
    np.testing.assert_array_equal(targets, np.asarray(held.items)[held.target_positions])


# ---- planning --------------------------------------------------------------------------------------------------------


class Clock:
    """Stands still unless told to pass."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(work, "time", clock)
    return clock


@pytest.fixture
def quick(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Trainings in seconds of the clock: the best rate is 0.4, epochs add less and less; the paths trained in."""
    paths = []

    def train(
        config: Config, path: Path, resume: bool, report: Callable[..., bool] | None, over: Callable[[], bool]
    ) -> None:
        (path / "state").mkdir(parents=True, exist_ok=True)
        paths.append(path)
        log, clock.now = path / "metrics.jsonl", clock.now + COMPILE
        lines = log.read_text().splitlines() if resume and log.exists() else []
        for epoch in range(1 + len(lines), 1 + config.training.epochs):
            for _ in range(4):
                clock.now += EPOCH / 4
                if over():
                    raise SystemExit(OUT_OF_TIME)
            step = {"kind": "epoch", "epoch": epoch, "step": 100 * epoch, "steps_per_s": 100 / EPOCH}
            log.write_text("\n".join([*lines, json.dumps(step)]) + "\n")
            lines = log.read_text().splitlines()
            clock.now += JUDGE if report else 0
            narm = config.model.name == "narm"
            away = abs(np.log2(config.optimizer.learning_rate / (0.008 if narm else 0.4))) + narm
            value = 0.5 - 0.05 * away - 0.2 / epoch
            if report and report(epoch, {config.training.metric: value}):
                break

    def run(kind: SessionKind, path: Path) -> tuple[np.ndarray, float]:
        clock.now += JUDGE
        ranks = np.random.default_rng(0).integers(1, 30, kind.queries("test"))
        return ranks.astype(np.float32) + ("narm" in path.name), JUDGE

    monkeypatch.setattr(search, "train", train)
    monkeypatch.setattr(SessionKind, "run", run)
    monkeypatch.setattr(settings, "SESSION_BASELINES", {"pop": ["pop"], "itemknn": ["itemknn", "itemknn:decay=0"]})
    return paths


def board(data: Path, out: Path, budget: str, *more: object) -> list[Any]:
    return ["leaderboard", "--data", data, "--budget", budget, "--out", out, *more]


def written(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return found


def test_the_budget_is_used_and_kept(quick: list[Path], clock: Clock, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "board.md"
    assert call(*board(dataset, out, "10m", "--models", "gru4rec", "narm", "--seeds", 42, 7)) == 0
    found, text = written(out), out.read_text()
    assert 420 < clock.now < 600 and found["seconds"] == pytest.approx(clock.now, abs=0.1)
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"pop", "itemknn", "gru4rec", "narm"}
    best = max(
        (one for one in found["trials"] if one["model"] == "gru4rec"), key=lambda one: max(one["values"].values())
    )
    assert best["changes"]["optimizer.learning_rate"] == pytest.approx(0.4)  # found by doubling, twice
    assert rows["gru4rec"]["trained_on"] == "all of training" and rows["gru4rec"]["seeds"] == [42, 7]
    spent = {
        name: sum(one["seconds"] for one in found["trials"] if one["model"] == name) for name in ("gru4rec", "narm")
    }
    assert 0.3 < spent["narm"] / spent["gru4rec"] < 1.2  # the one that is behind gets less
    assert [path.name for path in quick[-4:]] == [f"{one}_final_{n}" for one in ("gru4rec", "narm") for n in (42, 7)]
    assert text.count("\n| ") == 8 and "| *chance* |" in text and "best known ranking" in text
    assert found["verdict"].startswith("By mrr@20, itemknn is the best. Its lead is more than noise over ")
    assert rows["narm"]["difference_to_best"]["mrr@20"]["more_than_noise"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert call(*board(dataset, out, "10m", "--models", "gru4rec", "narm", "--seeds", 42, 7)) == 0  # written anew
    assert written(out)["rows"] == found["rows"]


def test_a_small_budget(quick: list[Path], clock: Clock, dataset: Path, tmp_path: Path) -> None:
    """Fewer epochs, so that the rate falls to its end; or the models that fit; or baselines alone, which is said."""
    out = tmp_path / "some.md"
    assert call(*board(dataset, out, "100s", "--models", "gru4rec", "narm")) == 0
    found = written(out)
    first, second = (one for one in found["trials"][:2])
    assert first["epochs"] == 10 and first["state"] == "cut" and len(first["values"]) == 1
    assert second["changes"] == {"training.epochs": second["epochs"]} and second["epochs"] < 10
    assert len(second["values"]) == second["epochs"] and clock.now < 110
    clock.now, out = 0.0, tmp_path / "none.md"
    assert call(*board(dataset, out, "5s")) == 0
    found = written(out)
    assert not found["trials"] and clock.now < 5.5 and len(found["rows"]) == 2
    assert all("not begun" in note for note in found["notes"]) and len(found["notes"]) >= 4


def test_a_killed_leaderboard_goes_on_and_another_one_is_refused(
    quick: list[Path], clock: Clock, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    out, words = tmp_path / "board.md", ("--models", "gru4rec")
    train, measured = search.train, list[str]()

    def killed(config: Config, path: Path, report: Callable[..., bool], **more: Any) -> None:
        def heard(epoch: int, metrics: dict[str, float]) -> bool:
            if path.name == "gru4rec_01" and epoch == 2:
                raise KeyboardInterrupt
            return report(epoch, metrics)

        train(config, path, report=heard, **more)

    with monkeypatch.context() as patch:
        patch.setattr(search, "train", killed)
        assert call(*board(dataset, out, "4m", *words)) == 130
    state = json.loads((tmp_path / "board.runs" / "state.json").read_text())
    assert state["seconds"] > 0 and state["trials"][-1]["state"] == "running" and not out.exists()
    baseline, clock.now = SessionKind.baseline, 0.0

    def counted(kind: SessionKind, text: str, split: str) -> Any:
        measured.append(text)
        return baseline(kind, text, split)

    monkeypatch.setattr(SessionKind, "baseline", counted)
    quick.clear()
    for other, what in ((("5m", *words), "budget: was 240.0, now 300.0"), (("4m",), "models: was "),
                        (("4m", *words, "--seeds", 1), r"seeds: was \[42\], now \[1\]")):  # fmt: skip
        fails(capsys, *board(dataset, out, *other), names=f"board.runs: holds another leaderboard \\({what}")
    assert call(*board(dataset, out, "4m", *words)) == 0
    assert not measured, "finished rows are kept"
    assert quick[0].name == "gru4rec_01" and state["seconds"] + clock.now == pytest.approx(
        written(out)["seconds"], abs=1
    )
    assert len(set(quick)) == len(quick) and 150 < written(out)["seconds"] < 250


def test_real_trainings_by_the_clock(clock: Clock, worlds: Worlds, tmp_path: Path, monkeypatch: Any) -> None:
    """Time passes when it is asked for; the table's figures are those of the run that it names."""
    asked = work.Work.used

    def used(of: work.Work) -> float:
        clock.now += 0.5
        return asked(of)

    monkeypatch.setattr(work.Work, "used", used)
    small = {"model": {"layers": [24]}, "training": {"epochs": 2, "batch_size": 32, "steps_per_block": 80}}
    monkeypatch.setitem(settings.MODELS, "gru4rec", settings.MODELS["gru4rec"] | small)
    monkeypatch.setitem(settings.MOVES, "sessions", [])
    monkeypatch.setattr(settings, "SESSION_BASELINES", {"pop": ["pop"], "itemknn": ["itemknn"]})
    out = tmp_path / "board.md"
    assert call(*board(worlds.data("sessions"), out, "60s", "--models", "gru4rec")) == 0
    found = written(out)
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"pop", "itemknn", "gru4rec", "blend"} and rows["blend"]["parts"] == ["gru4rec", "itemknn"]
    for row in (rows["gru4rec"], rows["blend"]):
        assert row["trained_on"] == "all of training" and row["metrics"]["mrr@20"]["value"] > 0.4
        told = evaluate(tmp_path / "board.runs" / row["run"], ks=[20])
        assert row["metrics"]["mrr@20"]["value"] == pytest.approx(told["mrr@20"], abs=1e-6)
        assert row["metrics"]["mrr@20"]["low"] < told["mrr@20"] < row["metrics"]["mrr@20"]["high"]


def test_refusals(dataset: Path, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "board.md"
    for budget in ("20", "1d", "0s", "x", "5 m"):
        fails(capsys, *board(dataset, out, budget), names="--budget: found .*such as 90s, 20m or 1h")
    assert [seconds_of(text) for text in ("90s", "20m", "1.5h")] == [90.0, 1200.0, 5400.0]
    for words, names in (
        (("--models", "gru5rec"), r"--models gru5rec: no model of sessions \(did you mean 'gru4rec'\?\)"),
        (("--seeds", 1, 1), "--seeds: one stands twice"),
        (("--model.layers", 8), "--model.layers: no such option"),
        (("--task", "clicks"), "--task: found clicks, but .* fits sessions"),
        (("--data.validation_fraction", 0), "leaves nothing to choose settings on"),
    ):
        fails(capsys, *board(dataset, tmp_path / f"{len(names)}.md", "9s", *words), names=names)
    fails(capsys, *board(dataset, tmp_path / "board.txt", "9s"), names="end its name in .md")
    (tmp_path / "other.runs").mkdir()
    (tmp_path / "other.runs" / "mine").touch()
    fails(capsys, *board(dataset, tmp_path / "other.md", "9s"), names="exists and holds no leaderboard")


@pytest.mark.slow
def test_killed_processes(dataset: Path, tmp_path: Path) -> None:
    """By SIGKILL in a training: the same command ends within the budget and a tenth, what was down not counted."""
    out, begin = tmp_path / "board.md", time.monotonic()
    words = board(dataset, out, "60s", "--models", "gru4rec")
    process = spawn(*map(str, words))
    while not list(tmp_path.glob("board.runs/gru4rec_0*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < begin + 60
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = spawn(*map(str, words))
    printed, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and "going on after" in printed, errors
    assert written(out)["seconds"] < 66 and "gru4rec" in {row["name"] for row in written(out)["rows"]}
