"""Checkpoints: bit for bit, read back, two latest and one best; a damaged one gives way to the one before it."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import assert_same_arrays, steps_of

from jaxrec.errors import UserError
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.state import TrainState


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Damage ends in collecting garbage, for which all that earlier tests left would be looked through: a second."""
    gc.freeze()
    yield
    gc.unfreeze()


def state(step: int, averaged: bool = False) -> TrainState:
    """Noise in every part, so that swapped or lost arrays show."""
    random = np.random.default_rng(step)

    def noise(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    weights = [{"params": {"w": noise(3, 4)}, "tables": {"item": noise(9, 2)}} for _ in range(2)]
    moments = ({"mu": {"w": noise(3, 4)}}, jnp.int32(step))
    return TrainState(jnp.int32(step), **weights[0], optimizer=moments, table_optimizer={"item": (noise(9, 2),)},
                      average=weights[1] if averaged else None, carry=(noise(5, 2),),
                      key=jnp.asarray([step, 7], jnp.uint32))  # fmt: skip


@pytest.mark.parametrize("averaged", [False, True])
def test_what_is_saved_is_what_is_restored_bit_for_bit(averaged: bool, tmp_path: Path) -> None:
    """And where weights are averaged, the average is what is used; two latest and one best are kept."""
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(state(0)) is None
    with pytest.raises(UserError, match="no checkpoint here yet"):
        checkpoints.restore_model(state(0).weights())
    saved, position = state(9, averaged), {"epoch": 3, "sums": {"window": [0.1 + 0.2, 7]}, "best": None}
    for one in (state(3, averaged), state(5, averaged), saved):
        checkpoints.save(one, position)
    found = Checkpoints(tmp_path).restore(state(4, averaged))
    assert found is not None and found[1] == position
    assert_same_arrays(found[0], saved)
    for kind in ("latest", "best"):
        used, _, which = Checkpoints(tmp_path).restore_model(state(4).weights())
        assert which == kind, "the latest where validation chose none"
        assert_same_arrays(used, saved.average if averaged else {"params": saved.params, "tables": saved.tables})
        for one in (state(5, averaged), saved) if kind == "latest" else ():
            checkpoints.save_best(one, {})
    assert steps_of(tmp_path) == [5, 9] and steps_of(tmp_path, "best") == [9] == [checkpoints.last("best")]


def rewritten(step: Path, change: Callable[[bytes], bytes], name: str = "*") -> None:
    """Change all files, or those that hold arrays."""
    for file in step.rglob(f"{name}/*"):
        if file.is_file():
            file.write_bytes(change(file.read_bytes()))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": lambda step: rewritten(step, lambda data: data[:-9] + bytes([data[-9] ^ 16]) + data[-8:], "d"),
    "empty": lambda step: rewritten(step, lambda data: b""),
    "half a position": lambda step: (step / "position" / "metadata").write_text('{"epoch": 1, "blo'),
    "no training": lambda step: shutil.rmtree(step / "training"),
}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Latest 1 and 2, and a best that was saved just before 2."""
    for step in (1, 2):
        Checkpoints(tmp_path).save(state(step), {"step": step})
    Checkpoints(tmp_path).save_best(state(2), {})
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_latest_falls_back_to_the_one_before(
    damage: Callable[[Path], object], damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = damaged / "state" / "latest" / "2"
    damage(place)
    found = Checkpoints(damaged).restore(state(0))
    assert found is not None and found[1] == {"step": 1}
    assert_same_arrays(found[0], state(1))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jaxrec: warning: {place}: unreadable, skipped (")
    assert steps_of(damaged) == [1] and steps_of(damaged, "best") == [], "they will be reached again"


def test_a_damaged_best_falls_back_to_the_latest_and_all_damaged_is_an_error(damaged: Path) -> None:
    DAMAGES["a bit"](damaged / "state" / "best" / "2")
    assert Checkpoints(damaged).restore_model(state(0).weights())[2] == "latest"
    for step in ("1", "2"):
        DAMAGES["a bit"](damaged / "state" / "latest" / step)
    with pytest.raises(UserError, match=f"^{damaged}/state/latest: no readable checkpoint"):
        Checkpoints(damaged).restore(state(0))
    assert steps_of(damaged) == [1, 2], "nothing was deleted"


def test_what_a_save_left_half_done_is_passed_over(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unfinished save, and an old checkpoint that was being deleted when the process was killed."""
    latest = damaged / "state" / "latest"
    (latest / "2").rename(latest / "2.orbax-checkpoint-tmp")
    shutil.copytree(latest / "1", latest / "0")
    shutil.rmtree(latest / "0" / "model")
    found = Checkpoints(damaged).restore(state(0))
    assert found is not None and found[1] == {"step": 1} and capsys.readouterr().err == ""
    Checkpoints(damaged).save(state(2), {})
    assert not list(latest.glob("*tmp*"))


def test_a_disk_that_fills_within_a_save_leaves_what_was_there(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was looked for: as TensorStore says it."""

    def full(*_: object, **__: object) -> None:
        raise ValueError("[tensorstore/kvstore='file' os_error_code='28']")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: .*state/latest"):
        Checkpoints(damaged).save(state(3), {})
    found = Checkpoints(damaged).restore(state(0))
    assert found is not None and found[1] == {"step": 2}
