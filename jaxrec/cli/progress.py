"""How far a piece of work is: a bar on a terminal; elsewhere a line on stderr every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from jaxrec.errors import one_line

EVERY = 10.0  # seconds between two lines


@contextmanager
def progress(
    title: str, total: float | None = None, amount: float = 0.0, unit: str = "", after: float = 0.0, even: bool = True
) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; where that is no terminal, a line every ten seconds.

    Args: those of ``Lines``.

    Yields:
        ``update(advance=1, note="")``: move on by ``advance`` units of ``total`` and show ``note``.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        lines = Lines(title, total, amount, unit, after, even)
        lines.start()
        try:
            yield lines.update
        finally:
            lines.stop()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(advance: float = 1, note: str = "") -> None:
            bar.update(task, advance=advance, note=note)

        yield update


@dataclass
class Lines:
    """Says how far a piece of work is, from a thread of its own: ``update`` only notes numbers.

    Attributes:
        title: what is done: ``train: epoch 2 of 10``.
        total: its units; None: unknown.
        amount, unit: what all units together hold, and its name, for the speed; 0: no speed is told.
        after: units of more such work that follows, for the time left.
        even: whether units take about the same time, so that the time left can be told.
        clock: seconds.
    """

    title: str
    total: float | None = None
    amount: float = 0.0
    unit: str = ""
    after: float = 0.0
    even: bool = True
    clock: Callable[[], float] = time.monotonic
    done: float = field(default=0.0, init=False)
    note: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._begin, self._over = self.clock(), threading.Event()
        self._thread = threading.Thread(target=self._print, name="progress", daemon=True)

    def update(self, advance: float = 1, note: str = "") -> None:
        self.done, self.note = self.done + advance, note

    def line(self) -> str:
        """How far it is now."""
        done, seconds, total = self.done, self.clock() - self._begin, self.total or 0.0
        parts = [f"{min(done / total, 1.0):.0%}".replace("%", " %")] if total and done else []
        if total and self.amount and done and seconds:
            parts.append(f"{done / total * self.amount / seconds:,.0f} {self.unit}/s")
        parts += [self.note] if self.note else []
        if total and done and self.even:
            parts.append(f"{_span(max(total - done + self.after, 0.0) * seconds / done)} left")
        else:
            parts.append(f"{_span(seconds)} so far")
        return one_line(", ".join([self.title, *parts]))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _print(self) -> None:
        while not self._over.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(self.line(), file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
