"""Progress without a terminal: what a line says, and that it comes every ten seconds and not before."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from jaxrec.cli import progress as progress_lines
from jaxrec.cli.command import progress
from jaxrec.cli.progress import EVERY, Lines

Capsys = pytest.CaptureFixture[str]


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("options", "done", "note", "seconds", "line"),
    [
        ({"total": 100, "amount": 50_000, "unit": "events", "after": 800}, 43, "loss 5.4300", 20.0,
         "x, 43 %, 1,075 events/s, loss 5.4300, 7 min left"),
        ({"total": 100, "amount": 50_000, "unit": "events"}, 0, "", 5.0, "x, 5 s so far"),
        ({"total": 4}, 1, "", 30.0, "x, 25 %, 2 min left"),
        ({"total": 4}, 1, "", 29.0, "x, 25 %, 87 s left"),
        ({"total": 2}, 1, "", 3 * 3600.0, "x, 50 %, 3.0 h left"),
        ({"total": 4}, 4, "", 30.0, "x, 100 %, 0 s left"),
        ({"total": 1.3, "even": False}, 0.3, "note", 40.0, "x, 23 %, note, 40 s so far"),
        ({}, 0, "", 200.0, "x, 3 min so far"),
    ],
)  # fmt: skip
def test_what_a_line_says(options: dict[str, Any], done: float, note: str, seconds: float, line: str) -> None:
    clock = FakeClock()
    lines = Lines("x", clock=clock, **options)
    lines.update(done, note)
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
    Lines("work", 10, clock=FakeClock())._print()
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
