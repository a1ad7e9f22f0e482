"""What may be overwritten, what a resumed run's TensorBoard shows, and which checkpoint is used when one is damaged."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from helpers import call, event_types, fails

from jaxrec.tasks.base import load
from jaxrec.training.telemetry import Log

Capture = pytest.CaptureFixture[str]


def test_overwriting_deletes_a_run_and_nothing_else(
    capsys: Capture, config_file: Path, run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "thesis.tex").write_text("three years")
    fails(capsys, "train", "--config", config_file, "--run", copy, "--overwrite", names=r"thesis\.tex is not of a run")
    assert (copy / "thesis.tex").read_text() == "three years"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("mine")
    fails(capsys, "train", "--config", config_file, "--run", foreign, "--overwrite", names="will not be overwritten")
    assert (foreign / "config.yaml").read_text() == "mine"


def test_a_run_half_deleted_by_a_kill_is_out_of_the_way(config_file: Path, run: Path, tmp_path: Path) -> None:
    doomed = tmp_path / ".again.deleted"
    shutil.copytree(run / "state", doomed / "state")
    again = shutil.copytree(run, tmp_path / "again")
    assert call("train", "--config", config_file, "--run", again, "--overwrite", "--training.epochs", 1) == 0
    assert not doomed.exists()


def test_tensorboard_keeps_what_was_logged_at_the_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, step=376)
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    event_pb2 = event_types()
    data, starts = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
            starts.append(event.step)
        data = data[16 + size :]
    assert starts == [377], "TensorBoard hides events from this step on"


def test_a_damaged_best_checkpoint_leaves_the_latest(capsys: Capture, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    assert load(copy).which == "best"
    for file in (copy / "state" / "best").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    capsys.readouterr()
    assert load(copy).which == "latest"
    assert "unreadable, skipped" in capsys.readouterr().err
