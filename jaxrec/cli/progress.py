"""How far a piece of work is: a bar on a terminal; elsewhere a line on stderr every ten seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from jaxrec.errors import one_line

EVERY = 10.0  # seconds between two lines


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Callable[..., None]]:
    """A bar or lines on stderr, of work in ``total`` parts (None: unknown). Yields ``update(advance=1, note="")``."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    terminal, over = sys.stderr is not None and sys.stderr.isatty(), threading.Event()

    def say() -> None:
        while not over.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(line(bar.tasks[0]), file=sys.stderr, flush=True)

    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        number = bar.add_task(title, total=total, note="")
        lines = threading.Thread(target=say, name="progress", daemon=True)
        if not terminal:
            lines.start()
        try:
            yield lambda advance=1, note="": bar.update(number, advance=advance, note=note)
        finally:
            over.set()
            if not terminal:
                lines.join()


def line(task: Any) -> str:
    """What a line says of a task of rich's."""
    share = f"{task.percentage:.0f} %" if task.total and task.completed else ""
    left = task.time_remaining
    time = timedelta(seconds=round(task.elapsed if left is None else left))
    parts = (task.description, share, task.fields["note"], f"{time} {'so far' if left is None else 'left'}")
    return one_line(", ".join(part for part in parts if part))
