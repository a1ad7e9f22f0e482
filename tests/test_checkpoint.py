"""Damaged checkpoints: the one before is used, with a warning; none left is an error; best and latest keep apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_run, call, load_state, steps_of, write_config

from jaxrec import run as runs
from jaxrec.config import load
from jaxrec.errors import UserError
from jaxrec.models.base import make_model
from jaxrec.tasks.base import load as load_run
from jaxrec.training.block import TrainState, init_state
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.optimizers import make_optimizer, make_schedule


@pytest.fixture(scope="module")
def config(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves within the epoch as well, so that the two latest checkpoints are a block apart."""
    return write_config(tmp_path_factory.mktemp("config") / "often.yaml", dataset, training={"save_every": 0})


@pytest.fixture(scope="module")
def reference(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "run"
    assert call("train", "--config", config, "--run", path) == 0
    return path


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(reference, tmp_path / "run"))


def data_files(step: Path) -> list[Path]:
    """The files that hold arrays."""
    return [file for file in sorted(step.rglob("*")) if file.is_file() and file.parent.name == "d"]


def truncate(step: Path) -> None:
    for file in data_files(step):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(step: Path) -> None:
    for file in data_files(step):
        file.write_bytes(b"")


def flip(step: Path) -> None:
    """Flip a bit in the middle of each file of arrays."""
    for file in data_files(step):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x10
        file.write_bytes(bytes(data))


def delete(step: Path) -> None:
    for file in data_files(step):
        file.unlink()


def lose_position(step: Path) -> None:
    shutil.rmtree(step / "position")


def garble_position(step: Path) -> None:
    (step / "position" / "metadata").write_text('{"epoch": 1, "blo', encoding="utf-8")


def lose_training(step: Path) -> None:
    shutil.rmtree(step / "training")


def empty_everything(step: Path) -> None:
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


DAMAGES = [truncate, empty, flip, delete, lose_position, garble_position, lose_training, empty_everything]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_latest_falls_back_to_the_one_before(
    damage: Callable[[Path], None], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, newest = steps_of(copy)
    place = copy / "state" / "latest" / str(newest)
    damage(place)
    capsys.readouterr()
    state, position = load_state(copy)
    assert int(state.step) == before and not position["finished"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jaxrec: warning: {place}: unreadable, skipped (")


def test_a_run_goes_on_from_the_one_before(config: Path, copy: Path, reference: Path) -> None:
    """And ends as if nothing had been damaged."""
    before, newest = steps_of(copy)
    flip(copy / "state" / "latest" / str(newest))
    assert call("train", "--config", config, "--run", copy, "--resume") == 0
    assert steps_of(copy) == [before, newest]
    assert_same_run(copy, reference)


def test_an_unfinished_save_is_passed_over(config: Path, copy: Path, reference: Path) -> None:
    """The directory that a save was writing when the process was killed; nothing is said about it."""
    before, newest = steps_of(copy)
    latest = copy / "state" / "latest"
    unfinished = latest / f"{newest}.orbax-checkpoint-tmp"
    (latest / str(newest)).rename(unfinished)
    (unfinished / "model").rename(unfinished / "model.orbax-checkpoint-tmp")
    shutil.rmtree(copy / "state" / "best")
    assert Checkpoints(copy).restore_model(_like(copy).weights())[2] == "latest"  # reading leaves it alone
    assert call("train", "--config", config, "--run", copy, "--resume") == 0
    assert steps_of(copy) == [before, newest]
    assert not list(latest.glob("*tmp*"))
    assert_same_run(copy, reference)


def test_an_old_checkpoint_that_was_being_deleted_does_no_harm(config: Path, copy: Path, reference: Path) -> None:
    before, newest = steps_of(copy)
    latest = copy / "state" / "latest"
    (latest / str(newest)).rename(latest / str(1))  # older than both, and half gone
    shutil.rmtree(latest / "1" / "model")
    (latest / "1" / "_CHECKPOINT_METADATA").unlink()
    assert call("train", "--config", config, "--run", copy, "--resume") == 0
    assert steps_of(copy) == [before, newest]
    assert_same_run(copy, reference)


def test_all_damaged_is_an_error(config: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in steps_of(copy):
        truncate(copy / "state" / "latest" / str(step))
    capsys.readouterr()
    assert call("train", "--config", config, "--run", copy, "--resume") == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all(line.startswith("jaxrec: warning: ") for line in warnings)
    assert error.startswith(f"jaxrec: error: {copy / 'state' / 'latest'}: no readable checkpoint")
    assert len(steps_of(copy)) == 2, "nothing was deleted"


def test_a_best_from_after_the_state_is_dropped(copy: Path) -> None:
    before, newest = steps_of(copy)
    best = copy / "state" / "best"
    (best / str(steps_of(copy, "best")[0])).rename(best / str(newest))
    shutil.rmtree(copy / "state" / "latest" / str(newest))
    state, _ = load_state(copy)
    assert int(state.step) == before
    assert steps_of(copy, "best") == []


def test_a_best_from_before_the_state_is_kept(copy: Path) -> None:
    before, newest = steps_of(copy)
    best = copy / "state" / "best"
    (best / str(steps_of(copy, "best")[0])).rename(best / str(before))
    load_state(copy)
    assert steps_of(copy, "best") == [before]


def _like(run: Path) -> TrainState:
    opened = runs.open_run(run)
    optimizer = make_optimizer(opened.config.optimizer, make_schedule(opened.config.optimizer, 1))
    model = make_model(opened.config, opened.n_items)
    return jax.eval_shape(lambda: init_state(model, optimizer, 0, opened.config.training.batch_size))


def _noise(config: Path, averaged: bool) -> tuple[TrainState, TrainState]:
    """A new state, and one like it filled with noise."""
    optimizer = make_optimizer(load(config).optimizer, lambda step: 0.1)
    blank = init_state(make_model(load(config), 100), optimizer, 0, 16, averaged)
    rng = np.random.default_rng(0)

    def noise(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == np.float32:
            return jax.numpy.asarray(rng.normal(size=leaf.shape), np.float32)
        return jax.numpy.asarray(rng.integers(1, 100, leaf.shape), leaf.dtype)

    return blank, jax.tree.map(noise, blank)


@pytest.mark.parametrize("averaged", [False, True])
def test_what_is_saved_is_what_is_restored_bit_for_bit(averaged: bool, config: Path, tmp_path: Path) -> None:
    """Every part of the state, filled with noise so that swapped or lost arrays show."""
    blank, state = _noise(config, averaged)
    position = {"epoch": 3, "sums": {"window": [0.1 + 0.2, 7]}, "best": None}
    (tmp_path / "run").mkdir()
    Checkpoints(tmp_path / "run").save(state, position)
    found = Checkpoints(tmp_path / "run").restore(blank)
    assert found is not None
    assert_same_arrays(found[0], state)
    assert found[1] == position


@pytest.mark.parametrize("kind", ["latest", "best"])
def test_where_weights_are_averaged_the_average_is_what_is_used(kind: str, config: Path, tmp_path: Path) -> None:
    blank, state = _noise(config, averaged=True)
    checkpoints = Checkpoints(tmp_path)
    (checkpoints.save if kind == "latest" else checkpoints.save_best)(state, {})
    found, _, which = checkpoints.restore_model(blank.weights())
    assert which == kind
    assert state.average is not None
    assert_same_arrays(found, state.average)
    assert not np.array_equal(found["tables"]["item"], state.tables["item"])


def test_a_missing_run_has_nothing_to_restore(config: Path, tmp_path: Path) -> None:
    model = make_model(load(config), 100)
    like = init_state(model, make_optimizer(load(config).optimizer, lambda step: 0.1), 0, 16)
    assert Checkpoints(tmp_path).restore(like) is None
    with pytest.raises(UserError, match="no checkpoint here yet"):
        Checkpoints(tmp_path).restore_model(like.weights())


def test_the_two_latest_and_one_best_are_kept(config: Path, tmp_path: Path) -> None:
    model = make_model(load(config), 100)
    state = init_state(model, make_optimizer(load(config).optimizer, lambda step: 0.1), 0, 16)
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 5, 9):
        checkpoints.save(state._replace(step=jax.numpy.int32(step)), {"step": step})
        checkpoints.save_best(state._replace(step=jax.numpy.int32(step)), {"step": step})
    assert steps_of(tmp_path) == [5, 9]
    assert steps_of(tmp_path, "best") == [9]


def test_best_is_used_before_latest(dataset: Path, tmp_path: Path) -> None:
    """A learning rate that rises until it destroys what was learned: the best epoch is not the last."""
    config = write_config(
        tmp_path / "config.yaml",
        dataset,
        optimizer={"learning_rate": 2.0, "warmup_steps": 900},
        training={"epochs": 4, "metric": "mrr@5"},
    )
    path = tmp_path / "run"
    assert call("train", "--config", config, "--run", path) == 0
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["mrr@5"] for line in lines if line["kind"] == "validation"}
    best, last = max(values, key=lambda step: values[step]), max(values)
    assert values[best] > values[last]
    assert steps_of(path, "best") == [best]
    _, _, parameters, which = load_run(path)
    assert which == "best"
    state, position = load_state(path)
    assert (position["best"], position["best_epoch"]) == (values[best], [*values].index(best) + 1)
    assert not np.array_equal(parameters["tables"]["item"], state.tables["item"])
    latest, _, which = Checkpoints(path).restore_model(_like(path).weights(), ["latest"])
    assert which == "latest"
    assert_same_arrays(latest["tables"], state.tables)
    # The best is what reaches the best value.
    assert call("evaluate", "--run", path, "--split", "validation", "--k", 5) == 0
    assert json.loads((path / "eval-validation.json").read_text())["mrr@5"] == pytest.approx(values[best], abs=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_within_a_save(
    tmp_path: Path, dataset: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else takes the room after it was looked for: one line, and what was saved before is there."""
    small, code = (
        tmp_path / "small",
        "from jaxrec.training.checkpoint import Checkpoints as C; C._require_room = lambda *_: None",
    )
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        run = small / "run"
        assert call("train", "--config", config_file, "--run", run, "--training.epochs", "1") == 0
        free = shutil.disk_usage(small).free
        (small / "fill").write_bytes(b"\0" * (free - 100_000))
        words = ["--config", str(config_file), "--run", str(run), "--resume", "--training.epochs", "2"]
        main = (f"{code}; import sys; from jaxrec import train; from jaxrec.cli.command import command; "
                f"sys.exit(command(train.main, {words}))")  # fmt: skip
        ended = subprocess.run([sys.executable, "-c", main], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert "No space left on device at" in ended.stderr
        (small / "fill").unlink()
        assert load_state(run)[1]["epoch"] == 1
    finally:
        subprocess.run(["umount", small], check=True)
