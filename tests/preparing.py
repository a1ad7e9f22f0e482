"""Data sets that tests prepare from texts, and their sessions in raw ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from helpers import open_sessions

from jaxrec.prepare import main

ALL = ("--test-days=0", "--min-item-support=1")  # every event stays


def prepared(out: Path, source: str, raw: Any, *argv: str) -> dict[str, Any]:
    """The manifest of a data set prepared anew, of a text or of a file."""
    if isinstance(raw, str):
        (file := out.with_suffix(".csv")).write_text(raw)
        raw = file
    main([source, "--raw", str(raw), *argv, "--out", str(out), "--overwrite", "--threads=1"])
    return dict(open_sessions(out).manifest)


def sessions(path: Path, split: str = "train") -> list[list[Any]]:
    """The sessions of a split in raw ids."""
    part = open_sessions(path).split(split)
    ids = pq.read_table(path / "items.parquet")["item"].to_pylist()
    return [[ids[i] for i in part.items[a:b]] for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
