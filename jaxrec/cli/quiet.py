"""What a command that trains many runs lets through of what each would print: progress, and errors."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, nothing comes to stdout, and no notes to stderr."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(_Notes(sys.stderr)):
        yield


class _Notes(io.TextIOBase):
    """A stream without the notes of a training, one for each of dozens."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left_out = stream, False

    def write(self, text: str) -> int:
        if text.startswith("jaxrec: note:"):
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
