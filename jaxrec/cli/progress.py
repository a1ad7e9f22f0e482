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
    """A bar or lines on stderr; the arguments are those of ``Lines``. Yields ``update(advance=1, note="")``."""
    if sys.stderr is None or not sys.stderr.isatty():
        lines, over = Lines(title, total, amount, unit, after, even), threading.Event()
        thread = threading.Thread(target=lines.tell, args=(over,), name="progress", daemon=True)
        thread.start()
        try:
            yield lines.update
        finally:
            over.set()
            thread.join()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda advance=1, note="": bar.update(task, advance=advance, note=note)


@dataclass
class Lines:
    """Says how far a piece of work is: ``update`` only notes numbers, ``tell`` prints them from a thread of its own.

    Attributes:
        title: what is done: ``train: epoch 2 of 10``.
        total: its units; None: unknown.
        amount, unit: what all units together hold, and its name, for the speed; 0: no speed is told.
        after: units of more such work that follows, for the time left.
        even: whether units take about the same time, so that the time left can be told.
    """

    title: str
    total: float | None = None
    amount: float = 0.0
    unit: str = ""
    after: float = 0.0
    even: bool = True
    done: float = 0.0
    note: str = ""
    begin: float = field(default_factory=time.monotonic)

    def update(self, advance: float = 1, note: str = "") -> None:
        self.done, self.note = self.done + advance, note

    def line(self, seconds: float) -> str:
        """How far it is after so many seconds."""
        share, parts = self.done / self.total if self.total else 0.0, [self.title]
        if share:
            parts.append(f"{min(share, 1.0):.0%}".replace("%", " %"))
        if share and self.amount and seconds:
            parts.append(f"{share * self.amount / seconds:,.0f} {self.unit}/s")
        parts += [self.note] if self.note else []
        if share and self.even:
            parts.append(f"{_span(max((self.total or 0.0) - self.done + self.after, 0.0) * seconds / self.done)} left")
        else:
            parts.append(f"{_span(seconds)} so far")
        return one_line(", ".join(parts))

    def tell(self, over: threading.Event) -> None:
        while not over.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(self.line(time.monotonic() - self.begin), file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
