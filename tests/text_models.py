"""Sentence embeddings without a model: a folder that looks like one, and a cache with made-up vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.data.text.worker import Writer, locked, text_keys

DIM = 3


def make_folder(place: Path, weights: bytes = b"weights") -> Path:
    """A folder that looks like a model, as long as nobody loads it."""
    (place / "1_Pooling").mkdir(parents=True)
    for name in ("modules.json", "config.json", "1_Pooling/config.json"):
        (place / name).write_text("{}")
    (place / "model.safetensors").write_bytes(weights)
    return place


def vector_of(texts: Sequence[str]) -> np.ndarray:
    """float16[n, DIM], some vector that depends on the text alone."""
    seeds = [int.from_bytes(key.ljust(16, b"\0")[:4], "little") for key in text_keys(texts).tolist()]
    return np.array([np.random.default_rng(seed).normal(size=DIM) for seed in seeds], np.float16).reshape(-1, DIM)


def append(folder: Path, texts: Sequence[str], dim: int = DIM) -> None:
    """Put the vectors of texts into the store in ``folder``."""
    with locked(folder), Writer(folder, "some model", dim) as writer:
        writer.append(vector_of(texts)[:, :dim], text_keys(texts))
