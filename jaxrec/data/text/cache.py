"""The vectors of texts on the disk: a folder for each model, in which every part is a file that never changes.

    part-<time>-<random>.npy   rows of ``key`` (16 bytes, the blake2b hash of a text's UTF-8) and ``vector``
                               (float16[dim], of length 1)

A part is written under another name and renamed, so it is there as a whole or not at all. Where a text is in several
parts, as when two processes encode at once, the first one counts. Folders of earlier versions hold ``keys`` and
``vectors.f16`` instead, which are read as a part too.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.store import sync_directory

KEY = np.dtype("S16")
HALF = np.dtype("<f2")


class Vectors:
    """float16[n, dim] of several parts, mapped from the disk; ``vectors[rows]`` reads int64[m] of them."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), parts[0].shape[1] if parts else 0)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.shape[1]), HALF)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part_of):
            chosen = part_of == number
            found[chosen] = self._parts[number][rows[chosen] - self._starts[number]]
        return found


class Cache(NamedTuple):
    """What is there: ``keys`` S16[n] and the vector of each."""

    keys: np.ndarray
    vectors: Vectors

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64[m]: the row of each of ``keys`` (S16[m]), -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        known = np.argsort(self.keys, kind="stable")  # stable: of a key that is there twice the first row counts
        ascending = self.keys[known]
        order = np.argsort(keys)  # searching in order is several times as fast as at random
        place = np.empty(len(keys), np.int64)
        place[order] = np.minimum(np.searchsorted(ascending, keys[order]), len(known) - 1)
        return np.where(ascending[place] == keys, known[place], -1)


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """S16[n]: the hashes of texts.

    Raises:
        UnicodeEncodeError: a text holds half a surrogate pair.
    """
    return np.frombuffer(b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts), KEY)


def open_cache(folder: Path) -> Cache:
    """Map what a folder holds; a part that is damaged is not there."""
    keys = [np.zeros(0, KEY)]
    vectors: list[np.ndarray] = []
    for file in (folder / "keys", *sorted(folder.glob("part-*.npy"))):
        try:
            part = _former_part(file) if file.name == "keys" else np.load(file, mmap_mode="r", allow_pickle=False)
            found = part["key"], part["vector"]
        except (OSError, ValueError, EOFError, LookupError, TypeError, ZeroDivisionError):
            continue
        if not vectors or found[1].shape[1:] == vectors[0].shape[1:]:
            keys.append(found[0])
            vectors.append(found[1])
    return Cache(np.concatenate(keys), Vectors(vectors))


def _former_part(keys: Path) -> dict[str, np.ndarray]:
    """What an earlier version wrote: both files only ever grew, and the texts count that are in both."""
    vectors = keys.with_name("vectors.f16")
    dim = int(json.loads(keys.with_name("meta.json").read_bytes())["dim"])
    n = min(keys.stat().st_size // KEY.itemsize, vectors.stat().st_size // (HALF.itemsize * dim))
    return {"key": np.memmap(keys, KEY, "r", shape=(n,)), "vector": np.memmap(vectors, HALF, "r", shape=(n, dim))}


def write_part(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Add ``vectors`` (float[n, dim]) of ``keys`` (S16[n]); they are on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    part = np.empty(len(keys), [("key", KEY), ("vector", HALF, (vectors.shape[1],))])
    part["key"], part["vector"] = keys, vectors
    name = f"part-{time.time_ns()}-{os.urandom(4).hex()}.npy"
    with open(folder / f".{name}", "wb") as stream:
        np.save(stream, part, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(folder / f".{name}", folder / name)
    sync_directory(folder)
