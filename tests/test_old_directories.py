"""Data sets and runs that an earlier version wrote (``tests/old``) open, go on, evaluate and recommend as they did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from golden.cases import EVALUATE, OLD, RESUMED
from golden.compare import RECORD, assert_like
from golden.record import record_evaluate, record_recommend, record_resume, unpack_old

from jaxrec import config as configuration
from jaxrec.run import open_run

LATER = [name for name in RESUMED if name not in ("gru4rec", "two_tower")]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy."""
    place = tmp_path_factory.mktemp("old") / "old"
    unpack_old(place)
    return place


@pytest.fixture(autouse=True)
def there(old: Path) -> Iterator[None]:
    """The paths of the runs' configurations are relative to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(old)
        yield


@pytest.mark.parametrize("name", OLD)
def test_evaluate(name: str) -> None:
    """Folds train again and again: they are slow, what is beside them is not."""
    recorded = {key: value for key, value in RECORD["evaluate"][name].items() if key not in ("by_review", "question")}
    found = record_evaluate(name, folds=False)
    assert_like({key: found[key] for key in recorded}, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, words in EVALUATE.items() if "--folds" in words])
def test_evaluate_by_folds(name: str) -> None:
    assert_like(record_evaluate(name), RECORD["evaluate"][name])


@pytest.mark.parametrize("name", OLD)
def test_recommend(name: str) -> None:
    assert_like(record_recommend(name), RECORD["recommend"][name])


@pytest.mark.parametrize("name", ["gru4rec", "two_tower", *(pytest.param(n, marks=pytest.mark.slow) for n in LATER)])
def test_resume(name: str) -> None:
    """Last, since it changes the run: a third epoch, with the losses and metrics that it had."""
    config = open_run(f"runs/{name}").config
    assert config.model.name == OLD[name].sections["model"]["name"]
    assert configuration.load(f"runs/{name}/config.yaml") == config, "a file that names every field"
    assert_like(record_resume(name), RECORD["resume"][name])
