"""The lines of a text file, counted apart from how its fields are parsed, so that no row can be lost between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

CHUNK = 1 << 20  # bytes
NEWLINE = ord("\n")
BOM = b"\xef\xbb\xbf"  # is no part of the first line


class Lines(NamedTuple):
    """What the lines of a file are.

    Attributes:
        full, blank: how many hold something, and how many nothing.
        nul: the number, from 1, of the first line with a NUL byte; 0 where there is none.
        longest: bytes of the longest line, with its end as one byte.
        ends: of the kinds CRLF, CR and LF those that occur.
    """

    full: int
    blank: int
    nul: int
    longest: int
    ends: tuple[str, ...]


def count_lines(stream: BinaryIO) -> Lines:
    """Count all lines; the last one need not end."""
    total = blank = nul = longest = 0
    rest = 0  # bytes of the line that the last piece left open
    ends = {"CRLF": 0, "CR": 0, "LF": 0}
    for data in _alike(stream, ends):
        if not nul and b"\0" in data:
            nul = total + data.count(b"\n", 0, data.index(b"\0")) + 1
        places = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
        lengths = np.diff(places, prepend=-1 - rest)
        total += len(lengths)
        blank += int(np.count_nonzero(lengths == 1))
        rest = len(data) - 1 - int(places[-1]) if len(places) else rest + len(data)
        longest = max(longest, int(lengths.max(initial=0)), rest)
    return Lines(total - blank + bool(rest), blank, nul, longest, tuple(name for name, count in ends.items() if count))


def _alike(stream: BinaryIO, ends: dict[str, int]) -> Iterator[bytes]:
    """The bytes without BOM, with every line end as one newline; counts the kinds of ends into ``ends``."""
    start = stream.read(len(BOM))
    held = b"" if start == BOM else start  # and later a CR at the end of a chunk, which may be half of a CRLF
    while True:
        chunk = stream.read(CHUNK)
        data = held + chunk
        held = b"\r" if chunk and data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        pairs = data.count(b"\r\n")
        ends["CRLF"] += pairs
        ends["CR"] += data.count(b"\r") - pairs
        ends["LF"] += data.count(b"\n") - pairs
        if data:
            yield data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
        if not chunk:
            return
