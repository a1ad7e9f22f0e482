"""The files of a directory that has a manifest: mapped, and compared with their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.errors import UserError


def checksum(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(directory: Path) -> None:
    """Bring to the disk which files a directory holds."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def map_array(path: Path, name: str, manifest: dict[str, Any]) -> np.ndarray:
    """Map an array of a directory.

    Raises:
        UserError: missing or damaged.
    """
    file = path / name
    try:
        size, expected = file.stat().st_size, manifest["files"][name]["bytes"]
        if size != expected:
            raise ValueError(f"{size} bytes instead of {expected}")
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: damaged or missing ({error}); prepare the data set again") from None


def verify(path: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with its checksum (reads everything).

    Raises:
        UserError: naming the file that differs.
    """
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file() or checksum(file) != entry["sha256"]:
            raise UserError(f"{file}: damaged or missing (checksum differs); prepare the data set again")
