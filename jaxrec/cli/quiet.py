"""What is let through of what a training prints: of one of many runs progress and errors, of one of several processes
that train the same run errors alone."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet(progress: bool = True) -> Iterator[None]:
    """Inside, nothing comes to stdout, and no notes to stderr; without ``progress`` no warnings either."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(_Notes(sys.stderr, progress)):
        yield


class _Notes(io.TextIOBase):
    """A stream without the notes of a training, one for each of dozens."""

    def __init__(self, stream: Any, shows_progress: bool) -> None:
        self._stream, self._left_out, self.shows_progress = stream, False, shows_progress
        self._unwanted = ("jaxrec: note:",) if shows_progress else ("jaxrec: note:", "jaxrec: warning:")

    def write(self, text: str) -> int:
        if text.startswith(self._unwanted):
            self._left_out = True
        elif not (self._left_out and text == "\n"):
            self._left_out = False
            self._stream.write(text)
        else:
            self._left_out = False
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())
