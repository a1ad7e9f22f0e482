"""The files of a dataset directory: written so that they appear whole or not at all, mapped, and checked.

What is read is compared with its checksum once a process. Small JSON files carry that of what else they say.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.cli.lock import owned
from jaxrec.errors import UserError

FORMAT = 1  # version of dataset directories
MANIFEST = "manifest.json"
CHECKSUM = "checksum"  # key of a JSON file's own checksum
GROUP = 1 << 16  # rows of a row group of a Parquet file that is written piece by piece

_CHECKED: set[tuple[str, int, int, int, str]] = set()  # files as they were when they were found to be right


@dataclass(frozen=True)
class Stored:
    """An opened dataset directory of either kind: the manifest is read, the arrays are mapped."""

    path: Path
    manifest: dict[str, Any]

    def array(self, name: str) -> np.ndarray:
        """One of the arrays, mapped."""
        return map_array(self.path, name, self.manifest)

    def verify(self) -> None:
        """Compare every file with its checksum (reads everything)."""
        for name in self.manifest["files"]:
            checked(self.path, name, self.manifest)


def checksum(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_right(file: Path, sha256: str) -> bool:
    """Whether a file is there and has this checksum; read once a process, unless it changes."""
    if not file.is_file():
        return False
    state = file.stat()
    key = (str(file.resolve()), state.st_ino, state.st_size, state.st_mtime_ns, sha256)
    if key not in _CHECKED and checksum(file) == sha256:
        _CHECKED.add(key)
    return key in _CHECKED


def checked(path: Path, name: str, manifest: dict[str, Any]) -> Path:
    """A file of a directory, which is as the manifest says."""
    file, reason = path / name, "checksum differs"
    try:
        if is_right(file, manifest["files"][name]["sha256"]):
            return file
    except (OSError, KeyError) as error:
        reason = str(error)
    raise UserError(f"{file}: damaged or missing ({reason}); prepare the data set again")


def map_array(path: Path, name: str, manifest: dict[str, Any]) -> np.ndarray:
    """Map an array of a directory."""
    return np.load(checked(path, name, manifest), mmap_mode="r", allow_pickle=False)


def sealed(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of a JSON file with the checksum of all the others under ``checksum``."""
    rest = {name: value for name, value in entries.items() if name != CHECKSUM}
    return {**entries, CHECKSUM: hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def read_sealed(file: Path) -> dict[str, Any]:
    """The entries of a JSON file; a ValueError where they differ from their checksum; those of before have none."""
    entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if CHECKSUM in entries and entries != sealed(entries):
        raise ValueError("checksum differs")
    return entries


@contextmanager
def staging(
    out: Path, overwrite: bool = False, of_ours: str | None = MANIFEST, what: str = "data set"
) -> Iterator[Path]:
    """A directory that is renamed to ``out`` when the block ends without an error; on any, Ctrl-C included, all is as
    it was. Beside it is scratch space. ``overwrite`` replaces what is there, if it holds the file ``of_ours`` (None:
    whatever it is), as ``what`` is made here has.
    """
    out = Path(os.path.realpath(out))  # an existing link is followed, so that what it points to is replaced
    root = out.with_name(f".{out.name}.tmp")
    with owned(out, f"prepares a {what} here", "choose another --out"):
        if (root / "old").is_dir() and not out.exists():  # of a process that was killed
            os.rename(root / "old", out)
        shutil.rmtree(root, ignore_errors=True)
        if out.exists() and not overwrite:
            raise UserError(f"{out}: exists already; choose another --out or give --overwrite")
        if out.exists() and of_ours and not (out / of_ours).is_file():
            raise UserError(f"{out}: exists and is no {what}, so --overwrite leaves it alone; choose another --out")
        stage = root / "dataset"
        try:
            stage.mkdir(parents=True)
            yield stage
            for directory in (*(inner for inner in stage.iterdir() if inner.is_dir()), stage):
                sync_directory(directory)
            if out.exists():
                os.rename(out, root / "old")  # whoever is killed here leaves it to the next one
            os.rename(stage, out)
            sync_directory(out.parent)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    """Bring to the disk which files a directory holds."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """A place to write to, which becomes ``file`` at the end; where anything fails it is removed."""
    part = file.with_name(f"{file.name}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a small file so that it is there whole, and on the disk, or not at all."""
    with written(file) as part:
        part.write_text(text, encoding="utf-8")
        file_entry(part)


@contextmanager
def array_file(file: Path, dtype: str, shape: int | tuple[int, ...]) -> Iterator[Callable[[np.ndarray], int]]:
    """Write a ``.npy`` file of known length or shape along its first axis, by calls of what this yields."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    file.parent.mkdir(exist_ok=True)
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        yield lambda values: stream.write(np.ascontiguousarray(values, dtype).data)


def file_entry(path: Path) -> dict[str, Any]:
    """The manifest's line about a file that has just been written; flushes it to the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def write_file(path: Path, name: str, content: np.ndarray | pa.Table) -> dict[str, dict[str, Any]]:
    """Write an array of any shape (``.npy``) or a table (``.parquet``) under the directory ``path``; the file's name
    and its line of the manifest.
    """
    (path / name).parent.mkdir(exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path / name)
    else:
        np.save(path / name, np.asarray(content, order="C"), allow_pickle=False)
    return {name: file_entry(path / name)}


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, file: Path) -> dict[str, Any]:
    """Write a stream of rows, in row groups of one size so that equal rows make equal bytes; the manifest's line."""
    rest = schema.empty_table()
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
            while rest.num_rows >= GROUP:
                writer.write_table(rest.slice(0, GROUP).combine_chunks())
                rest = rest.slice(GROUP)
        if rest.num_rows:
            writer.write_table(rest.combine_chunks())
    return file_entry(file)


def write_sealed(file: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Write a JSON file with its checksum, which is on the disk when this returns; the entries with the checksum."""
    write_text(file, json.dumps(entries := sealed(entries), indent=2, ensure_ascii=False) + "\n")
    return entries


def write_manifest(
    path: Path, files: dict[str, dict[str, Any]], /, hashed: Sequence[str] = (), **entries: Any
) -> dict[str, Any]:
    """Write ``manifest.json`` into the directory ``path``; returns it. ``content_hash`` is the sha256 of the sorted
    lines ``<sha256>  <name>`` of all files, and behind them of the entries named in ``hashed``.
    """
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files))
    lines += "".join(json.dumps(entries[name], sort_keys=True) + "\n" for name in hashed)
    manifest = {"format": FORMAT, "kind": "sessions", **entries}
    manifest |= {"files": files, "content_hash": hashlib.sha256(lines.encode()).hexdigest()}
    return write_sealed(path / MANIFEST, manifest)
