"""The files of a directory that has a manifest: mapped, and compared with their checksums.

Whatever is read is compared once a process, when it is opened: a bit that flipped on a disk or on the way is a line
that names the file, not another answer. Small JSON files carry the checksum of what else they say (``sealed``).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.errors import UserError

FORMAT = 1  # version of dataset directories


def checksum(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_CHECKED: set[tuple[str, int, int, int, str]] = set()  # files as they were when they were found to be right


def is_right(file: Path, sha256: str) -> bool:
    """Whether a file is there and has this checksum; read once a process, unless it changes.

    Raises:
        OSError: it cannot be read.
    """
    if not file.is_file():
        return False
    state = file.stat()
    key = (str(file.resolve()), state.st_ino, state.st_size, state.st_mtime_ns, sha256)
    if key not in _CHECKED:
        if checksum(file) != sha256:
            return False
        _CHECKED.add(key)
    return True


def checked(path: Path, name: str, manifest: dict[str, Any], advice: str = "prepare the data set again") -> Path:
    """A file of a directory, which is as the manifest says.

    Raises:
        UserError: missing or damaged.
    """
    file = path / name
    try:
        right = is_right(file, manifest["files"][name]["sha256"])
    except (OSError, KeyError) as error:
        raise UserError(f"{file}: damaged or missing ({error}); {advice}") from None
    if not right:
        raise UserError(f"{file}: damaged or missing (checksum differs); {advice}")
    return file


CHECKSUM = "checksum"  # key of a JSON file's own checksum


def sealed(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of a JSON file with the checksum of all the others under ``checksum``."""
    return {**entries, CHECKSUM: _digest(entries)}


def check_seal(entries: dict[str, Any]) -> None:
    """Compare the entries of a JSON file with their checksum; those of before have none.

    Raises:
        ValueError: they differ.
    """
    if CHECKSUM in entries and entries[CHECKSUM] != _digest(entries):
        raise ValueError("checksum differs")


def _digest(entries: dict[str, Any]) -> str:
    rest = {name: value for name, value in entries.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


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
        checked(path, name, manifest)
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: damaged or missing ({error}); prepare the data set again") from None


def verify(path: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with its checksum (reads everything).

    Raises:
        UserError: naming the file that differs.
    """
    for name in manifest["files"]:
        checked(path, name, manifest)
