"""A real training process, killed at random moments and resumed, ends bit for bit as if it had never been stopped.

More kills, at other moments: JAXREC_KILLS=20 JAXREC_KILL_SEED=1 python -m pytest tests/contract/test_resume.py -s
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_same_run, call, load_state, spawn, steps_of, without_progress
from worlds import Sections, Worlds

from jaxrec.training.block import Training

KILLS = int(os.environ.get("JAXREC_KILLS", "2"))
SEED = int(os.environ.get("JAXREC_KILL_SEED", "0"))


def wait_for(process: subprocess.Popen[str], happened: Callable[[], object]) -> bool:
    """Wait until something has happened; False where the process ended before."""
    end = time.monotonic() + 60
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the process hangs"
        time.sleep(0.002)  # a save takes a few hundredths of a second
    return True


def half_saved(run: Path) -> set[str]:
    """Names of the checkpoints that are being written, or were when the process died."""
    return {place.name for place in (run / "state").glob("*/*tmp*")}


def grown(of: Callable[[Path], set[Any]], run: Path, before: set[Any]) -> bool:
    return bool(of(run) - before)


@pytest.fixture(scope="module")
def reference(worlds: Worlds) -> tuple[Path, Path]:
    """A run of some 20 blocks, saved after each epoch, with all that has state, and its configuration."""
    sections: Sections = {
        "model": {"dropout_embedding": 0.1, "dropout_hidden": 0.2},
        "optimizer": {"name": "adagrad", "momentum": 0.3, "clip_norm": 1.0, "schedule": "cosine", "warmup_steps": 20},
        "training": {"steps_per_block": 10, "save_every": 3600},
    }
    return worlds.run("gru4rec", **sections), worlds.config("gru4rec", **sections)


def test_sigkill_at_random_moments_changes_nothing(
    reference: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within a save, of which each block has one, or at any time from the start of the loop on."""
    (uninterrupted, config), rng = reference, random.Random(SEED)
    words = ["--config", config, "--resume", "--training.save_every", 0]
    seconds = sum(load_state(uninterrupted)[1]["seconds"].values())
    run, kills, within_save = tmp_path / "killed0", 0, 0
    while kills < KILLS or (not within_save and kills < KILLS + 12):
        saving = not kills % 2 or kills >= KILLS
        begun = half_saved if saving else lambda run: set(run.glob("tensorboard/*"))
        known, before = half_saved(run), begun(run)
        process = spawn("train", *words, "--run", run)
        if wait_for(process, partial(grown, begun, run, before)):
            time.sleep(rng.uniform(0, 0.02 if saving else seconds / 2))
            process.kill()
        _, err = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            # A third complete step means that the save had not come to deleting the oldest yet.
            within_save += bool(half_saved(run) - known) or len(steps_of(run)) > 2
        else:  # it came to its end: start another run for the kills that are left
            assert process.returncode == 0, err
            assert_same_run(run, uninterrupted)
            run = tmp_path / f"{run.name}0"
    capsys.readouterr()
    assert call("train", *words, "--run", run) == 0
    assert "unreadable" not in capsys.readouterr().err, "a kill leaves unfinished checkpoints, no damaged ones"
    assert_same_run(run, uninterrupted)
    assert within_save, "no kill fell into a save"
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_signal_saves_and_exits(number: signal.Signals, reference: tuple[Path, Path], tmp_path: Path) -> None:
    (uninterrupted, config), run = reference, tmp_path / "stopped"
    process = spawn("train", "--config", config, "--run", run)
    log = run / "metrics.jsonl"
    assert wait_for(process, lambda: log.exists() and log.stat().st_size)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and without_progress(err) == "", err
    state, position = load_state(run)
    assert not position["finished"] and position["block"] > 0, "it went on to the end of the epoch"
    assert steps_of(run) == [int(state.step)]
    assert f"saved at step {int(state.step)}, --resume goes on" in out
    assert call("train", "--config", config, "--run", run, "--resume") == 0
    assert_same_run(run, uninterrupted)


def log_beyond(path: Path) -> None:
    """Killed a block after the last save, within a line of the log."""
    shutil.rmtree(path / "state" / "latest" / str(steps_of(path)[-1]))
    with open(path / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"kind": "train", "st')


def only_a_best(path: Path) -> None:
    """The best of the first epoch is saved just before the first latest: killed in between."""
    first, best = steps_of(path)[0], path / "state" / "best"
    (best / str(steps_of(path, "best")[0])).rename(best / str(first))
    shutil.rmtree(path / "state" / "latest")


def half_made(path: Path) -> None:
    """Killed while the run directory was made."""
    shutil.rmtree(path)
    (path / "dataset").mkdir(parents=True)
    (path / "config.yaml.part").write_text("data:\n  pa")


def no_picture(path: Path) -> None:
    """Killed at its end."""
    (path / "learning_curve.png").unlink()


@pytest.mark.parametrize("left", [log_beyond, only_a_best, half_made, no_picture])
def test_what_a_kill_left_is_gone_on_from(
    left: Callable[[Path], None], worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worlds.run("gru4rec")
    path = Path(shutil.copytree(run, tmp_path / run.name))  # the title of the picture
    left(path)
    if (path / "state" / "latest").exists():  # of a large catalogue there is no room for another state
        monkeypatch.delattr(Training, "make")
    assert call("train", "--config", worlds.config("gru4rec"), "--run", path, "--resume") == 0
    assert_same_run(path, run)
    assert (path / "learning_curve.png").exists()
