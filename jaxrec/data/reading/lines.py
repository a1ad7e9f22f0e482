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
        places, lengths = _lines(data, rest)
        total += len(lengths)
        blank += int(np.count_nonzero(lengths == 1))
        rest = len(data) - 1 - places[-1] if len(places) else rest + len(data)
        longest = max(longest, int(lengths.max(initial=0)), rest)
    return Lines(total - blank + bool(rest), blank, nul, longest, tuple(name for name, count in ends.items() if count))


def line_number(stream: BinaryIO, full: int) -> int:
    """The number, from 1 and with the blank ones, of the line that is the ``full``-th, from 1, with something in it."""
    seen = total = rest = 0
    for data in _alike(stream, {"CRLF": 0, "CR": 0, "LF": 0}):
        places, lengths = _lines(data, rest)
        found = np.flatnonzero(lengths > 1)
        if seen + len(found) >= full:
            return total + int(found[full - seen - 1]) + 1
        seen, total = seen + len(found), total + len(lengths)
        rest = len(data) - 1 - places[-1] if len(places) else rest + len(data)
    return total + 1


def _alike(stream: BinaryIO, ends: dict[str, int]) -> Iterator[bytes]:
    """The bytes, with every line end as one newline; counts the kinds of ends into ``ends``."""
    held = b""  # a CR at the end of a chunk, which may be half of a CRLF
    start = stream.read(len(BOM))
    while data := (start if start != BOM else b"") + stream.read(CHUNK):
        data, start = held + data, b""
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        if b"\r" not in data:
            ends["LF"] += data.count(b"\n")
            if data:
                yield data
            continue
        pairs = data.count(b"\r\n")
        ends["CRLF"] += pairs
        ends["CR"] += data.count(b"\r") - pairs
        ends["LF"] += data.count(b"\n") - pairs
        if data:
            yield data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if held:
        ends["CR"] += 1
        yield b"\n"


def _lines(data: bytes, rest: int) -> tuple[np.ndarray, np.ndarray]:
    """int64[n]: where lines end, and their lengths with the end; the first has ``rest`` bytes before the data."""
    places = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
    return places, np.diff(places, prepend=-1 - rest)
