"""What this tree computes is what the golden record says, and directories of that version open, go on, evaluate and
recommend as they did. Compiling takes most of the time: quickly a case of each model and table, ``slow`` the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden.cases import EVALUATE, FEEDS, PREPARE, RESUMED, TRAINING
from golden.compare import EXACT, RECORD, assert_leaf, assert_like, assert_losses
from golden.record import (
    old_copy,
    record_evaluate,
    record_feed,
    record_prepare,
    record_recommend,
    record_resume,
    record_training,
)

from jaxrec import config as configuration
from jaxrec.run import open_run

QUICK = {"gru4rec cross_entropy, constrained", "narm softmax", "sasrec sampled", "merrec both", "autoint+ with ratings",
         "two_tower triplet, hard negatives", "gru4rec", "two_tower"}  # fmt: skip


def quickly(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quickly(TRAINING))
def test_training(name: str) -> None:
    """Losses of the first steps, then parameters, tables, optimizer and random key."""
    found, recorded = record_training(name), RECORD["training"][name]
    assert_losses(found["losses"], recorded["losses"])
    assert found["leaves"].keys() == recorded["leaves"].keys()
    for path, leaf in recorded["leaves"].items():
        assert_leaf(found["leaves"][path], leaf, path)


@pytest.mark.parametrize("device_memory", [0, pytest.param(2048, marks=pytest.mark.slow)], ids=["streamed", "resident"])
@pytest.mark.parametrize("name", FEEDS)
def test_order_of_feeds(name: str, device_memory: int) -> None:
    """Every array of the blocks of two epochs: integers are the same everywhere."""
    found, recorded = record_feed(name, device_memory), RECORD["feeds"][name]
    assert found.keys() == recorded.keys()
    for path, leaf in recorded.items():
        if path.startswith("epoch"):
            assert_leaf(found[path], leaf, path)
        else:
            assert found[path] == leaf


@pytest.mark.parametrize("name", PREPARE)
def test_prepared_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = record_prepare(name)
    assert not EXACT or found == RECORD["prepare"][name]


# ---- old directories: resuming stands last, since it changes the run -------------------------------------------------


@pytest.fixture(scope="module")
def old() -> Iterator[None]:
    with old_copy():
        yield


@pytest.mark.parametrize("name", EVALUATE)
def test_old_run_evaluates(name: str, old: None) -> None:
    """Without folds, which train again and again."""
    recorded = {key: value for key, value in RECORD["evaluate"][name].items() if key not in ("by_review", "question")}
    found = record_evaluate(name, folds=False)
    assert_like({key: found[key] for key in recorded}, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, words in EVALUATE.items() if "--folds" in words])
def test_old_run_evaluates_by_folds(name: str, old: None) -> None:
    assert_like(record_evaluate(name), RECORD["evaluate"][name])


@pytest.mark.parametrize("name", EVALUATE)
def test_old_run_recommends(name: str, old: None) -> None:
    assert_like(record_recommend(name), RECORD["recommend"][name])


@pytest.mark.parametrize("name", quickly(RESUMED))
def test_old_run_resumes(name: str, old: None) -> None:
    """A third epoch, with the losses and metrics that it had."""
    config = open_run(f"runs/{name}").config
    assert configuration.load(f"runs/{name}/config.yaml") == config, "a file that names every field"
    assert_like(record_resume(name), RECORD["resume"][name])
