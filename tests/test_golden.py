"""What this tree computes is what the golden record says, integers and data sets bit by bit and floats within 1e-5; and
directories of that version open, go on, evaluate and recommend as they did. Quickly a case of each model and table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import pytest
from golden import EVALUATE, FEEDS, PREPARE, RESUMED, TRAINING

from jaxrec import config as configuration
from jaxrec.run import open_run

RECORD: dict[str, Any] = json.loads(golden.RECORD.read_text(encoding="utf-8"))
NEAR = 1e-5
QUICK = {"gru4rec cross_entropy, constrained", "narm softmax", "merrec both", "autoint+ with ratings",
         "two_tower triplet, hard negatives", "gru4rec"}  # fmt: skip


def quickly(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def numbers(line: str) -> list[float]:
    return [float(one) for one in line.split()]


def assert_leaves(found: dict[str, Any], recorded: dict[str, str]) -> None:
    """Arrays as lines: type, shape and hash, and of floats norm and projections.

    These are near relative to the norm, or to 0.1 if it is less: moments of gradients that vanish are rounding.
    """
    assert found.keys() == recorded.keys()
    for path, line in recorded.items():
        (kind, sha, *values), (old_kind, old_sha, *old) = found[path].split(), line.split()
        assert kind == old_kind and (values or sha == old_sha), f"{path}: {found[path]} was {line}"
        near = NEAR * (float((old or ["0"])[0]) + 0.1)
        assert numbers(" ".join(values)) == pytest.approx(numbers(" ".join(old)), rel=0, abs=near), path


def assert_like(found: Any, recorded: Any, place: str = "") -> None:
    """What commands printed as JSON. Scores are near place by place; recommendations that changed places tie."""
    if not isinstance(recorded, (dict, list, float)):
        assert found == recorded, place
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=NEAR, abs=1e-6), place
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), place
        for number, (ours, theirs) in enumerate(zip(found, recorded, strict=True)):
            assert_like(ours, theirs, f"{place}[{number}]")
    else:
        assert found.keys() == recorded.keys(), place
        score = next((name for name in ("score", "probability") if name in recorded), "")
        thing = next((name for name in recorded if name != score), "")
        tied = score and found[thing] != recorded[thing]
        for name in [score] if tied else recorded:
            assert_like(found[name], recorded[name], f"{place}.{name}")


@pytest.mark.parametrize("name", quickly(TRAINING))
def test_training(name: str) -> None:
    """Losses of the first steps, then parameters, tables, optimizer and random key."""
    found, recorded = golden.record_training(name), RECORD["training"][name]
    assert numbers(found["losses"]) == pytest.approx(numbers(recorded["losses"]), rel=NEAR)
    assert_leaves(found["leaves"], recorded["leaves"])


@pytest.mark.parametrize("device_memory", [0, pytest.param(2048, marks=pytest.mark.slow)], ids=["streamed", "resident"])
@pytest.mark.parametrize("name", FEEDS)
def test_order_of_feeds(name: str, device_memory: int) -> None:
    """Every array of the blocks of two epochs: integers are the same everywhere."""
    found, recorded = golden.record_feed(name, device_memory), dict(RECORD["feeds"][name])
    for field in ("pairs", "shape"):
        assert found.pop(field) == recorded.pop(field)
    assert_leaves(found, recorded)


@pytest.mark.parametrize("name", PREPARE)
def test_prepared_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert golden.record_prepare(name) == RECORD["prepare"][name]


# ---- old directories: resuming stands last, since it changes the run -------------------------------------------------


@pytest.fixture(scope="module")
def old() -> Iterator[None]:
    with golden.old_copy():
        yield


@pytest.mark.parametrize("name", EVALUATE)
def test_old_run_evaluates(name: str, old: None) -> None:
    """Without folds, which train again and again."""
    recorded = {key: value for key, value in RECORD["evaluate"][name].items() if key not in ("by_review", "question")}
    found = golden.record_evaluate(name, folds=False)
    assert_like({key: found[key] for key in recorded}, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, words in EVALUATE.items() if "--folds" in words])
def test_old_run_evaluates_by_folds(name: str, old: None) -> None:
    assert_like(golden.record_evaluate(name), RECORD["evaluate"][name])


@pytest.mark.parametrize("name", EVALUATE)
def test_old_run_recommends(name: str, old: None) -> None:
    assert_like(golden.record_recommend(name), RECORD["recommend"][name])


@pytest.mark.parametrize("name", quickly(RESUMED))
def test_old_run_resumes(name: str, old: None) -> None:
    """A third epoch, with the losses and metrics that it had."""
    config = open_run(f"runs/{name}").config
    assert configuration.load(f"runs/{name}/config.yaml") == config, "a file that names every field"
    assert_like(golden.record_resume(name), RECORD["resume"][name])
