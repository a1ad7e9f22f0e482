"""Progress without a terminal: what a line says, and that it comes every ten seconds and not before."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import SYNTHETIC, call, write_config

from jaxrec.cli import progress as progress_lines
from jaxrec.cli.command import progress
from jaxrec.cli.progress import EVERY, Lines

Capsys = pytest.CaptureFixture[str]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    clock = FakeClock()
    lines = Lines("train: epoch 2 of 10", 100, 50_000, "events", after=800, clock=clock)
    clock.now += 5
    assert lines.line() == "train: epoch 2 of 10, 5 s so far", "before the first block is done"
    lines.update(20, "loss 5.5000")
    lines.update(23, "loss 5.4300")
    clock.now += 15  # 43 of 100 blocks in 20 s: 21,500 events; 857 blocks are left
    assert lines.line() == "train: epoch 2 of 10, 43 %, 1,075 events/s, loss 5.4300, 7 min left"


@pytest.mark.parametrize(
    ("options", "done", "seconds", "line"),
    [
        ({"total": 4}, 1, 30.0, "x, 25 %, 2 min left"),
        ({"total": 4}, 1, 29.0, "x, 25 %, 87 s left"),
        ({"total": 2}, 1, 3 * 3600.0, "x, 50 %, 3.0 h left"),
        ({"total": 4}, 4, 30.0, "x, 100 %, 0 s left"),
        ({"total": 1.3, "even": False}, 0.3, 40.0, "x, 23 %, note, 40 s so far"),
        ({}, 0, 200.0, "x, 3 min so far"),
    ],
)
def test_lines_of_other_work(options: dict[str, float], done: float, seconds: float, line: str) -> None:
    clock = FakeClock()
    lines = Lines("x", clock=clock, **options)  # type: ignore[arg-type]
    lines.update(done, "note" if "note" in line else "")
    clock.now += seconds
    assert lines.line() == line


def test_lines_come_every_ten_seconds_and_never_before(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    waits: list[float] = []

    class Timer(threading.Event):
        """Time passes at once for three waits; then the work is over."""

        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return len(waits) > 3

    monkeypatch.setattr(progress_lines, "EVERY", EVERY)  # which conftest.py has raised
    monkeypatch.setattr(progress_lines.threading, "Event", Timer)
    lines = Lines("work", 10, clock=FakeClock())
    lines._print()
    assert waits == [EVERY] * 4 == [10.0] * 4
    assert capsys.readouterr().err == "work, 0 s so far\n" * 3


def test_short_work_says_nothing_and_long_work_something(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    threads = threading.active_count()
    with progress("short", 2) as update:
        update()
    assert capsys.readouterr().err == "" and threading.active_count() == threads
    monkeypatch.setattr(progress_lines, "EVERY", 0.01)
    with progress("long", 2) as update:
        update(note="half")
        time.sleep(0.1)
    assert capsys.readouterr().err.startswith("long, 50 %, half, 0 s left\n")
    monkeypatch.setattr(sys, "stderr", None)  # closed: 2>&-
    with progress("unseen", 2) as update:
        update()


def test_training_tells_the_epoch(monkeypatch: pytest.MonkeyPatch, capsys: Capsys, tmp_path: Path) -> None:
    """Of each bar that training opens: the last line that it would have said."""
    said: list[str] = []
    monkeypatch.setattr(Lines, "start", lambda self: None)
    monkeypatch.setattr(Lines, "stop", lambda self: said.append(self.line()))
    assert call("prepare", "synthetic", "--out", tmp_path / "data", *SYNTHETIC) == 0
    assert said[-1].startswith("prepare synthetic, 100 %, ") and said[-1].endswith(" so far")
    said.clear()
    config = write_config(tmp_path / "c.yaml", tmp_path / "data")
    assert call("train", "--config", config, "--run", tmp_path / "run") == 0
    assert [line.split(",")[0] for line in said] == [
        "train: compiling", "train: epoch 1 of 2", "train: validation after epoch 1",
        "train: epoch 2 of 2", "train: validation after epoch 2",
    ]  # fmt: skip
    share, *speed, loss, left = said[1].split(", ")[1:]
    assert share == "100 %" and speed[-1].endswith(" events/s") and loss.startswith("loss ") and left.endswith(" left")
