"""How far a piece of work is: a bar on a terminal; elsewhere a line on stderr every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxrec.errors import one_line

EVERY = 10.0  # seconds between two lines


@contextmanager
def progress(title: str, total: float | None = None, *speed: Any, even: bool = True) -> Iterator[Callable[..., None]]:
    """A bar or lines on stderr. Yields ``update(advance=1, note="")``; the arguments are those of ``line``."""
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
        columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda advance=1, note="": bar.update(task, advance=advance, note=note)
        return
    begin, state, over = time.monotonic(), (0.0, ""), threading.Event()

    def update(advance: float = 1, note: str = "") -> None:
        nonlocal state
        state = (state[0] + advance, note)

    def say() -> None:
        while not over.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads it any more
                text = line(
                    title, total, *speed, even=even, done=state[0], note=state[1], seconds=time.monotonic() - begin
                )
                print(text, file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        over.set()
        thread.join()


def line(
    title: str, total: float | None = None, amount: float = 0.0, unit: str = "", after: float = 0.0, *,
    even: bool = True, done: float, note: str = "", seconds: float,
) -> str:  # fmt: skip
    """How far work is after so many seconds: ``done`` of ``total`` units (None: unknown), which hold an ``amount`` of
    ``unit`` in all, for the speed; ``after`` more units follow, and take as long if they are ``even``."""
    share, parts = done / total if total else 0.0, [title]
    if share:
        parts.append(f"{100 * min(share, 1.0):.0f} %")
    if share and amount and seconds:
        parts.append(f"{share * amount / seconds:,.0f} {unit}/s")
    told = max((total or 0.0) - done + after, 0.0) * seconds / done if share and even else seconds
    span = f"{told / 60:.0f} min" if told < 5400 else f"{told / 3600:.1f} h"
    span = f"{told:.0f} s" if told < 90 else span
    return one_line(", ".join([*parts, *([note] if note else []), f"{span} {'left' if share and even else 'so far'}"]))
