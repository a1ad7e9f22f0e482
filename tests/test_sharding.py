"""Training on eight virtual devices is training on one; what they exchange is rows; a run may change its devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from device_models import MADE
from helpers import ROOT, call

from jaxrec.errors import UserError
from jaxrec.ops import parallel


def program(*words: str | Path) -> list[dict[str, Any]]:
    """What ``device_program.py`` prints, in a process of its own: JAX fixes the number of devices when it starts."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "device_program.py"), *map(str, words)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def differences() -> dict[str, dict[str, float]]:
    return {line.pop("model"): line for line in program("compare")}


@pytest.mark.parametrize("name", MADE)
def test_eight_devices_train_as_one(differences: dict[str, dict[str, float]], name: str) -> None:
    """Losses, parameters, tables and carry, with dropout, sampled, in-batch and hard negatives, batch statistics and
    clipping. In float64 sums in another order differ by 1e-13 at most; anything else would show."""
    found = differences[name]
    assert found["float64 20"] < 1e-9
    assert found["float32 20"] < 1e-5
    assert found["float32 200"] < 1e-3
    assert max(found.values()) > 0  # bit for bit the same would mean that one device did it all


def test_row_tables_are_never_exchanged() -> None:
    """A step's bytes do not grow with the catalogue, and are those of its rows."""
    few, many = program("exchange")
    assert few["items"] < many["items"]
    assert sum(few["bytes"].values()) == sum(many["bytes"].values())
    table = many["items"] * many["width"] * 4
    assert sum(many["bytes"].values()) < table / 20


def test_a_run_moves_from_eight_devices_to_two(config_file: Path, tmp_path: Path) -> None:
    """Stopped after an epoch on eight, continued on two: as on one all along, to rounding; and used on one."""
    (found,) = program("move", config_file, tmp_path)
    assert found["stopped"] == 143 and found["devices"] == [8, 2]
    assert found["difference"] < 1e-3
    assert call("evaluate", "--run", tmp_path / "moved") == 0


def test_all_local_devices_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.make_mesh(None, 32) is None  # here there is one
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices() * 8)
    assert parallel.make_mesh(1, 31) is None
    with pytest.raises(UserError, match=r"training.batch_size: 30 .* by 8 devices .* the next that can is 32"):
        parallel.make_mesh(None, 30)


def test_bad_meshes(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "--config", config_file, "--run", tmp_path / "run")
    assert call(*words, "--mesh.data", 3) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mesh.data: found 3; of local devices (cpu) there are 1" in error
    assert call(*words, "--mesh.data", 0) == 2
    assert "mesh.data: found 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
