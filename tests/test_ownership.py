"""One process owns a run, a data set or a search; what killed processes leave; runs in any folder; more epochs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_run, call, fails, load_state, ranked, write_config

from jaxrec.cli.lock import lock_file, owned
from jaxrec.data import store as writing
from jaxrec.data.dataset import open_dataset
from jaxrec.errors import UserError
from jaxrec.recommend import Recommender
from jaxrec.training.block import TrainState
from jaxrec.training.checkpoint import Checkpoints, plain_name

HOLD = """
import sys, time
from pathlib import Path
from jaxrec.cli.lock import owned
with owned(Path(sys.argv[1]), "works", "go"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    alias = tmp_path / "alias"
    alias.symlink_to(place.parent)
    for name in (place, alias / "place"):
        with pytest.raises(UserError, match=rf"another process \(pid {other.pid}\) works; wait for it, or go"):
            owned(name, "works", "go").__enter__()
    other.kill()
    other.wait()
    other.stdout.close()
    assert lock_file(place).exists()  # of the dead
    with owned(place, "works", "go"):
        pass
    assert not lock_file(place).exists()


def test_one_of_many_has_the_lock(tmp_path: Path) -> None:
    """Whoever gets the file of an owner that is just leaving has to notice."""
    inside, most, got = [0], [0], [0]

    def work() -> None:
        for _ in range(50):
            try:
                with owned(tmp_path / "a" / "place", "works", "go"):
                    inside[0] += 1
                    most[0], got[0] = max(most[0], inside[0]), got[0] + 1
                    inside[0] -= 1
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], got[0] >= 50) == (1, True)
    assert not list((tmp_path).rglob(".*.lock"))


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("jaxrec.cli.lock.fcntl.flock", refuse)
    with owned(tmp_path / "place", "works", "go"):
        assert "place: cannot be locked here (Function not implemented)" in capsys.readouterr().err


def test_what_is_owned_is_left_alone(
    tmp_path: Path, dataset: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "data"
    with owned(run, "trains this run", "x"):
        for more in ([], ["--resume"], ["--overwrite"]):
            fails(capsys, "train", "--config", config, "--run", run, *more, names="another process .* trains this run")
    with owned(out, "prepares", "x"):
        fails(capsys, "prepare", "synthetic", "--out", out, names="another process .* prepares a data set here")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "config.yaml"] == []


@pytest.fixture
def config(tmp_path: Path, dataset: Path) -> Path:
    return write_config(
        tmp_path / "config.yaml", dataset, training={"epochs": 1, "steps_per_block": 40}, optimizer={"momentum": 0.3}
    )


# --- folders of any name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layers=[16]", "a*b?", "back\\slash", " sp ace'\"", "%41 #ü", "new\nline"])
def test_a_run_may_be_called_anything(
    name: str, tmp_path: Path, dataset: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / name / "run"
    assert call("train", "--config", config, "--run", run) == 0
    assert call("train", "--config", config, "--run", run, "--resume", "--training.epochs", "2") == 0
    expected = ranked(Recommender.load(run), [1, 2], 3)
    moved = tmp_path / "moved"
    shutil.move(run, moved)
    found = ranked(Recommender.load(moved), [1, 2], 3)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    assert load_state(moved)[1]["epoch"] == 2
    capsys.readouterr()


def test_stores_are_folders_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrec.training.checkpoint.STORES", (str(tmp_path),))
    with plain_name(tmp_path) as place:
        (place / "file").write_text("x")
        assert place != tmp_path
    assert (tmp_path / "file").read_text() == "x"
    assert not place.exists()


def test_a_save_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ones, zeros = jnp.ones(3), jnp.zeros(3)
    state = TrainState(jnp.ones((), int), {"w": ones}, {"t": ones}, (), {}, None, (), jnp.zeros(2, jnp.uint32))
    Checkpoints(tmp_path).save(state, {})
    whole, other = Checkpoints._manager, tmp_path / "other"

    def elsewhere(self: Checkpoints, kind: str, keep: int | None = None) -> Any:
        """Saves go where nobody reads."""
        return whole(Checkpoints(other) if keep else self, kind, keep)

    monkeypatch.setattr(Checkpoints, "_manager", elsewhere)
    changed = state._replace(params={"w": zeros})
    with pytest.raises(UserError, match="latest/1: the checkpoint reads back otherwise than it was written"):
        Checkpoints(tmp_path).save(changed, {})
    with pytest.raises(UserError, match="latest/2: the checkpoint that was just written cannot be read back"):
        Checkpoints(tmp_path).save(changed._replace(step=state.step + 1), {})


# --- what killed processes leave --------------------------------------------------------------------------------------


def _manifest(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_leftovers_of_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    out = tmp_path / "d[1]"
    left, others = tmp_path / ".d[1].abcdefgh.tmp", tmp_path / ".d[1].x.abcdefgh.tmp"
    _manifest(left / "dataset", "half")
    _manifest(others, "of d[1].x")
    with writing.staging(out) as stage:
        assert not left.exists()
        _manifest(stage.dataset, "one")
    with writing.staging(out, overwrite=True) as stage:
        _manifest(stage.dataset, "two")
    assert (out / "manifest.json").read_text() == "two"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".d[1].x.abcdefgh.tmp", "d[1]"]


def test_a_kill_between_two_renames_keeps_the_old_data(tmp_path: Path) -> None:
    left = tmp_path / ".d.abcdefgh.tmp"
    _manifest(left / "old", "old")
    _manifest(left / "dataset", "new")
    with pytest.raises(UserError, match="exists already"), writing.staging(tmp_path / "d"):
        pass
    assert (tmp_path / "d" / "manifest.json").read_text() == "old"
    assert not left.exists()


def test_an_exchange_leaves_no_moment_without_data(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _manifest(tmp_path / name, name)
    if not writing._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert (tmp_path / "a" / "manifest.json").read_text() == "b"


# --- more epochs ------------------------------------------------------------------------------------------------------


def test_more_epochs_are_what_they_would_have_been(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    assert call("train", "--config", config, "--run", straight, "--training.epochs", "3") == 0
    assert call("train", "--config", config, "--run", longer) == 0
    fails(capsys, "train", "--config", config, "--run", longer, "--resume", "--training.epochs", "3",
          "--training.batch_size", "7", names="changed configuration .training.batch_size")  # fmt: skip
    assert call("train", "--config", longer / "config.yaml", "--run", longer, "--resume", "--training.epochs", "3") == 0
    assert_same_run(straight, longer)
    assert (longer / "config.yaml").read_text() == (straight / "config.yaml").read_text()
    kinds = [json.loads(line)["kind"] for line in (longer / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("end") == 1
    fails(capsys, "train", "--config", config, "--run", longer, "--resume", names="was 3, now 1.* not for fewer")
    capsys.readouterr()
    assert call("train", "--config", longer / "config.yaml", "--run", longer, "--resume") == 0
    assert "already trained to its end; for more epochs raise training.epochs" in capsys.readouterr().out


def test_a_schedule_that_ends_has_no_more_epochs(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--config", str(config), "--run", str(tmp_path / "run"), "--optimizer.schedule", "linear"]
    assert call(*argv) == 0
    fails(capsys, *argv, "--resume", "--training.epochs", "2", names="was 1, now 2: the linear schedule ends with the")


def test_a_data_set_is_whole_after_overwriting(tmp_path: Path) -> None:
    argv = ["prepare", "synthetic", "--sessions", "300", "--items", "20", "--out", str(tmp_path / "d")]
    assert call(*argv) == 0
    first = open_dataset(tmp_path / "d").manifest["content_hash"]
    assert call(*argv, "--seed", "1", "--overwrite") == 0
    assert open_dataset(tmp_path / "d").manifest["content_hash"] != first
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
