"""Progress without a terminal: what a line says, and that long work says something and short work nothing."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from jaxrec.cli import progress as progress_lines
from jaxrec.cli.progress import Lines, progress


@pytest.mark.parametrize(
    ("options", "done", "note", "seconds", "line"),
    [
        ({"total": 100, "amount": 50_000, "unit": "events", "after": 800}, 43, "loss 5.4300", 20.0,
         "x, 43 %, 1,075 events/s, loss 5.4300, 7 min left"),
        ({"total": 100, "amount": 50_000, "unit": "events"}, 0, "", 5.0, "x, 5 s so far"),
        ({"total": 2}, 1, "", 3 * 3600.0, "x, 50 %, 3.0 h left"),
        ({"total": 4}, 4, "", 30.0, "x, 100 %, 0 s left"),
        ({"total": 1.3, "even": False}, 0.3, "note", 40.0, "x, 23 %, note, 40 s so far"),
        ({}, 0, "", 200.0, "x, 3 min so far"),
    ],
)  # fmt: skip
def test_what_a_line_says(options: dict[str, Any], done: float, note: str, seconds: float, line: str) -> None:
    lines = Lines("x", **options)
    lines.update(done, note)
    assert lines.line(seconds) == line


def test_short_work_says_nothing_and_long_work_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
