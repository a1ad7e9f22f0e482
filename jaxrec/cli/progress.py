"""Progress where nobody sees a bar: a line on stderr every ten seconds, and none for what is over before."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from jaxrec.errors import one_line

EVERY = 10.0  # seconds between two lines


class Lines:
    """Says how far a piece of work is, from a thread of its own: ``update`` only notes numbers.

    Args:
        title: of the work: ``train: epoch 2 of 10``.
        total: its units; None: unknown.
        amount: what all units together hold, of ``unit``, for the speed; 0: no speed is told.
        after: units of more such work that follows, for the time left.
        even: whether units take about the same time, so that the time left can be told.
        clock: seconds.
    """

    def __init__(
        self, title: str, total: float | None = None, amount: float = 0.0, unit: str = "", after: float = 0.0,
        even: bool = True, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._title, self._total, self._amount, self._unit = title, total, amount, unit
        self._after, self._even, self._clock = after, even, clock
        self._done, self._note, self._begin = 0.0, "", clock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._print, name="progress", daemon=True)

    def update(self, advance: float = 1, note: str = "") -> None:
        self._done, self._note = self._done + advance, note

    def line(self) -> str:
        """How far it is now."""
        done, seconds, total = self._done, self._clock() - self._begin, self._total
        parts = [f"{min(done / total, 1.0):.0%}".replace("%", " %")] if total and done else []
        if total and self._amount and done and seconds:
            parts.append(f"{done / total * self._amount / seconds:,.0f} {self._unit}/s")
        parts += [self._note] if self._note else []
        if total and done and self._even:
            parts.append(f"{_span(max(total - done + self._after, 0.0) * seconds / done)} left")
        else:
            parts.append(f"{_span(seconds)} so far")
        return one_line(", ".join([self._title, *parts]))

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
