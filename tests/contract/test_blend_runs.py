"""Runs that are blends: made, evaluated, recommended, moved, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import call, fails, open_sessions
from worlds import Worlds

from jaxrec import Query, Recommender, UserError, blend, evaluate
from jaxrec.tasks.base import load
from jaxrec.tasks.blend.task import Judge, methods_of
from jaxrec.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def made(worlds: Worlds) -> Path:
    return worlds.blend()


def test_it_is_no_worse_than_its_parts(worlds: Worlds, made: Path) -> None:
    whole = evaluate(made, "validation", baselines=("stan:k=50",))
    for name in ("gru4rec", "narm"):
        assert whole["mrr@5"] > evaluate(worlds.run(name), "validation")["mrr@5"] - 0.005
    assert whole["mrr@5"] > whole["baselines"]["stan:k=50"]["mrr@5"]
    model = yaml.safe_load((made / "config.yaml").read_text())["model"]
    assert model["neighbours"] == ["stan:k=50", "spop"] and len(model["networks"]) == 2


def test_a_session_s_own_items_can_be_masked(made: Path) -> None:
    found = evaluate(made, "validation", history="masked", baselines=("spop",))
    assert found["history"] == "masked" and found["mrr@5"] > 5 * found["chance"]["mrr@5"]
    assert found["baselines"]["spop"]["recall@1"] < 0.2 < found["recall@1"]


def test_it_serves_what_it_evaluated_wherever_it_is(worlds: Worlds, made: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(made, tmp_path / "moved")
    recommender, data = Recommender.load(moved), open_sessions(worlds.data("sessions"))
    test = data.split("test").slice(0, 60)
    ids = recommender.run.vocabulary().ids.values()
    sessions = [[ids[item] for item in test.items[start:end]]
                for start, end in zip(test.offsets[:-1], test.offsets[1:], strict=True)]  # fmt: skip
    queries = [Query(items=one[:-1], at=int(test.times[end - 2]) / 1000)
               for one, end in zip(sessions, test.offsets[1:], strict=True)]  # fmt: skip
    answers = recommender.recommend(queries, 40, seen=True)
    ranks = np.array([answer.ids.index(one[-1]) + 1 for answer, one in zip(answers, sessions, strict=True)])

    loaded = load(moved)
    judge = Judge(loaded.model, methods_of(loaded.run), test, 40, loaded.run.config.evaluation)
    judged = judge(loaded.weights, [5], 5)
    last = np.cumsum(np.diff(test.offsets) - 1) - 1
    np.testing.assert_array_equal(judged.arrays["rank"][last], ranks)
    alone = recommender.recommend(queries[7], 40, seen=True)
    assert alone.ids == answers[7].ids
    np.testing.assert_allclose(alone.scores, answers[7].scores, rtol=1e-4, atol=1e-5)
    assert alone.scores.sum() == pytest.approx(1.0, abs=1e-4)
    few = recommender.recommend(queries[7], 3, only=alone.ids[5:20], exclude=alone.ids[5:6], seen=True)
    assert few.ids == alone.ids[6:9]
    assert recommender.recommend({"items": ["unknown"]}, 3).popular
    assert len(recommender.similar(ids[3], 5).items) == 5


def test_weights_hold_for_runs_trained_on_all(
    worlds: Worlds, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"data": {"validation_fraction": 0.0}}
    runs = worlds.run("gru4rec", **whole), worlds.run("narm", **whole)
    blend(runs, tmp_path / "all", ["stan:k=50", "spop"], weights_of=made)
    weights = [
        yaml.safe_load((one / "config.yaml").read_text())["model"]["weights"] for one in (made, tmp_path / "all")
    ]
    assert weights[0] == weights[1]
    kept = [np.load(one / "dataset" / "index_items.npy") for one in (made, tmp_path / "all")]
    assert len(kept[1]) == open_sessions(worlds.data("sessions")).split("train").counts["events"] > len(kept[0])
    assert call("evaluate", "--run", tmp_path / "all", "--k", 5) == 0
    assert json.loads((tmp_path / "all" / "eval-test.json").read_text())["mrr@5"] > 0.5
    fails(capsys, "blend", "--runs", *runs, "--run", tmp_path / "x", names="held no validation sessions out")
    fails(capsys, "blend", "--runs", *runs[::-1], "--weights-of", made, "--run", tmp_path / "x", "--neighbours",
          "stan:k=50", "spop", names="same kinds in the same order")  # fmt: skip


@pytest.mark.parametrize(("words", "message"), [
    (["gru4rec"], "needs two parts"),
    (["gru4rec", "gru4rec"], "names a run twice"),
    (["gru4rec", "autoint"], "no model of sessions"),
    (["gru4rec", "noise"], "differ in their data set"),
    (["gru4rec", "--neighbours", "pop"], "--neighbours pop: no baseline 'pop'.*; there are all, spop, "),
    (["gru4rec", "--neighbours", "stan:lambda1=0.0001,k=1,lambda2=0.0000001"], "finds no neighbours for any of"),
    (["gru4rec", "--neighbours", "stan:k=0"], "^jaxrec: error: --neighbours stan:k=0: k: found '0'"),
    (["gru4rec", "blend", "--neighbours", "stan"], "no model of sessions"),
])  # fmt: skip
def test_refusals(
    worlds: Worlds, made: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def place(word: str) -> Any:
        if word == "noise":
            return worlds.run("narm", noise=True)
        return made if word == "blend" else worlds.run(word) if word in ("gru4rec", "autoint") else word

    fails(capsys, "blend", "--runs", *map(place, words), "--run", tmp_path / "no", names=message)
    assert not (tmp_path / "no").exists()


def test_training_a_blend_is_refused(
    worlds: Worlds, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, "train", "--config", made / "config.yaml", "--run", tmp_path / "no", names="python -m jaxrec.blend")
    words = ("--config", worlds.config("gru4rec"), "--run", tmp_path / "no", "--start-from", made)
    fails(capsys, "train", *words, names="a blend of runs, which is not trained; go on from its parts, then make it")
    fails(capsys, "plots", "curves", made, "--out", tmp_path / "x.png", names="not trained and has no curves")
    run = worlds.run("gru4rec")
    with pytest.raises(UserError, match="a run is here already; --overwrite deletes it first"):
        blend([run], made, ["stan"])
    with pytest.raises(UserError, match="neighbours: found 'stan'"):
        blend([run], tmp_path / "no", "stan")
    with pytest.raises(UserError, match="runs: found '"):
        blend(str(run), tmp_path / "no", ["stan"])


def test_a_part_is_not_overwritten_and_what_is_begun_is_no_run(
    worlds: Worlds, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(worlds.run("gru4rec"), part := tmp_path / "part")
    with pytest.raises(UserError, match="part is named by --runs as well, and would be lost; choose another --run"):
        blend([part], part, ["stan:k=50"], overwrite=True)
    with pytest.raises(UserError, match="is named by --weights-of as well"):
        blend([worlds.run("gru4rec"), worlds.run("narm")], made, ["stan:k=50", "spop"], weights_of=made, overwrite=True)
    monkeypatch.setattr(Checkpoints, "save_best", interrupted)
    with pytest.raises(KeyboardInterrupt):
        blend([worlds.run("gru4rec"), worlds.run("narm")], tmp_path / "new", ["stan:k=50", "spop"], weights_of=made)
    assert not (tmp_path / "new").exists() and [*tmp_path.glob(".new.*")] == []
    assert part.is_dir() and (part / "metrics.jsonl").exists()


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
