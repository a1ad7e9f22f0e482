"""Evaluations that a run keeps: merged or side by side; and runs that cannot be written to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import call

from jaxrec import run as rundir
from jaxrec.tasks.report import Asked, keep_result

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval-*")))


def kept(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "eval-test.json").read_text())
    return found


def moved_on(run: Path) -> None:
    """The same checkpoint under a later step: a run that was trained on."""
    (place,) = (run / "state" / "best").glob("[0-9]*")
    place.rename(place.with_name("9" + place.name))


def test_an_evaluation_adds_to_the_one_before(copy: Path) -> None:
    """Other cut-offs and baselines stay; a checkpoint of later is another result, and the first is not lost."""
    assert call("evaluate", "--run", copy, "--k", 20, "--baselines", "pop") == 0
    first = kept(copy)
    assert call("evaluate", "--run", copy, "--k", 5, "--baselines", "spop") == 0
    both = kept(copy)
    changing = {"seconds": 0, "baselines": 0, "optimum": 0}
    assert {**first, **both, **changing} == {**both, **changing}
    assert "recall@5" in both and "coverage@20" in both and both["optimum"].keys() > first["optimum"].keys()
    assert both["baselines"].keys() == {"pop", "spop"} and "others" not in both
    assert both["baselines"]["pop"] == first["baselines"]["pop"]
    moved_on(copy)
    assert call("evaluate", "--run", copy, "--k", 5) == 0
    now = kept(copy)
    assert now["others"] == [both] and "baselines" not in now and "recall@20" not in now
    assert now["recall@5"] == both["recall@5"] and now["question"]["step"] != both["question"]["step"]


def answer(run: Path, limits: Any = (), **changed: Any) -> dict[str, Any]:
    data: Any = None
    opened = rundir.open_run(run)
    asked = Asked(opened, data, opened.config, "test", [5]).question("best", **dict(limits))
    return {"split": "test", "targets": 10, "checkpoint": "best", "question": asked, **changed}


def test_questions_are_kept_apart_and_a_damaged_file_is_written_anew(copy: Path, capsys: Capsys) -> None:
    """So is an answer without a question, as earlier versions wrote them."""
    before = {"split": "test", "targets": 10, "checkpoint": "best", "recall@20": 0.5}
    (copy / "eval-test.json").write_text(json.dumps(before))
    keep_result(copy, answer(copy, {"folds": 2}, a=1.0))
    keep_result(copy, answer(copy, {"folds": 5}, a=2.0))
    whole = keep_result(copy, answer(copy, {"folds": 2}, b=3.0))
    assert (whole["a"], whole["b"], [one.get("a") for one in whole["others"]]) == (1.0, 3.0, [2.0, None])
    assert whole == kept(copy) and whole["others"][1] == before and "recall@20" not in whole
    (copy / "eval-test.json").write_text('{"split": "te')
    assert keep_result(copy, answer(copy, a=1.0)) == kept(copy)
    assert "eval-test.json: damaged" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_to(copy: Path, capsys: Capsys) -> None:
    """A directory in the file's place, for root may write anywhere else."""
    (copy / "eval-test.json").mkdir()
    before = sorted(copy.iterdir())
    assert call("evaluate", "--run", copy, "--k", 5, "--json") == 0
    out, err = capsys.readouterr()
    assert "recall@5" in json.loads(out)
    assert f"{copy / 'eval-test.json'}: could not be kept (Is a directory)" in err and len(err.splitlines()) == 1
    assert sorted(copy.iterdir()) == before
