"""The vectors of texts on the disk: a folder for each model, in which every part is a file that never changes.

    part-<time>-<random>.npy   rows of ``key`` (16 bytes, the blake2b hash of a text's UTF-8) and ``vector``
                               (float16[dim], of length 1)

A part is there as a whole or not at all. Where a text is in several parts, as when two processes encode at once, the
first one counts.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxrec.data.store import sync_directory

KEY = np.dtype("S16")


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """S16[n]: the hashes of texts."""
    return np.frombuffer(b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts), KEY)


def read_cache(folder: Path, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float16[n, dim] vectors of S16[n] keys, each once, and bool[n]: which are there; a damaged part is not there."""
    vectors, known = np.zeros((len(keys), 0), np.float16), np.zeros(len(keys), bool)
    order = np.argsort(keys)
    for file in sorted(folder.glob("part-*.npy")):
        try:
            part = np.load(file, mmap_mode="r", allow_pickle=False)
            place = order[np.minimum(np.searchsorted(keys, part["key"], sorter=order), len(keys) - 1)]
            wanted = np.flatnonzero((keys[place] == part["key"]) & ~known[place])
            rows = part["vector"][wanted]
        except (OSError, ValueError, EOFError, LookupError, TypeError):
            continue
        if not vectors.shape[1]:
            vectors = np.zeros((len(keys), rows.shape[1]), np.float16)
        if rows.shape[1] == vectors.shape[1]:
            vectors[place[wanted]], known[place[wanted]] = rows, True
    return vectors, known


def write_part(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Add ``vectors`` (float[n, dim]) of ``keys`` (S16[n]); they are on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    part = np.empty(len(keys), [("key", KEY), ("vector", "<f2", (vectors.shape[1],))])
    part["key"], part["vector"] = keys, vectors
    name = f"part-{time.time_ns()}-{os.urandom(4).hex()}.npy"
    with open(folder / f".{name}", "wb") as stream:
        np.save(stream, part, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(folder / f".{name}", folder / name)
    sync_directory(folder)
