"""Sentence embeddings of a data set's item names: what ``python -m jaxrec.text --data`` leaves beside the data.

    <data>/text/<identity>/vectors.npy   float16[U, dim], row by row those of names.parquet, of length 1
                           meta.json     format, model (as it was given), identity, dim, names (U), key, sha256 of
                                         vectors.npy, and a checksum of its own; older ones have neither

``identity`` is the model's, of encoding.py; ``key`` is the checksum of names.parquet, so that the vectors of one
catalogue are not taken for those of another. Nothing here needs the model, or any library to run it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.store import check_seal, file_entry, is_right, sealed, staging, write_json
from jaxrec.data.text.cache import Vectors
from jaxrec.errors import UserError

FORMAT = 1
TEXT, NAMES, META, VECTORS = "text", "names.parquet", "meta.json", "vectors.npy"
FIELDS = {"format": int, "model": str, "identity": str, "dim": int, "names": int, "key": str}  # of meta.json
BLOCK = 65_536  # vectors that are copied at a time
MAKE = "python -m jaxrec.text --data"


@dataclass(frozen=True)
class NameVectors:
    """The embeddings of a catalogue's distinct names.

    Attributes:
        vectors: float16[U, dim], mapped; row ``u`` is that of name ``u`` of names.parquet, of length 1.
        meta: what meta.json holds.
        folder: where they lie.
    """

    vectors: np.ndarray
    meta: dict[str, Any]
    folder: Path


def names_key(data: Path, manifest: dict[str, Any]) -> str:
    """What tells the names of a data set from all others: the sha256 of names.parquet."""
    if NAMES not in manifest["files"]:
        raise UserError(f"{data}: its items have no names (no {NAMES}); prepare it with the source merrec or "
                        "merrec-synthetic")  # fmt: skip
    return str(manifest["files"][NAMES]["sha256"])


def write_name_vectors(
    data: Path, manifest: dict[str, Any], model: str, identity: str, vectors: Vectors | np.ndarray, rows: np.ndarray
) -> Path:
    """Put the embeddings beside a data set, whole or not at all; what is there of the same model is replaced.

    Args:
        data: the dataset directory.
        manifest: its manifest.
        model: as the user named it.
        identity: of the model.
        vectors: float16[any, dim], of length 1.
        rows: int64[U], the vector of each row of names.parquet.

    Returns:
        The folder that was written.
    """
    meta = {"format": FORMAT, "model": model, "identity": identity, "dim": vectors.shape[1], "names": len(rows),
            "key": names_key(data, manifest)}  # fmt: skip
    folder = data / TEXT / identity
    with staging(folder, overwrite=True, of_ours=None) as stage:
        with open(stage.dataset / VECTORS, "wb") as stream:
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(rows), vectors.shape[1])}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(rows), BLOCK):
                stream.write(np.ascontiguousarray(vectors[rows[start : start + BLOCK]], "<f2").data)
        sha256 = file_entry(stage.dataset / VECTORS)["sha256"]
        write_json(stage.dataset / META, sealed(meta | {"sha256": sha256}))
    return folder


def open_name_vectors(folder: Path, manifest: dict[str, Any], identity: str | None = None) -> NameVectors:
    """Open the embeddings of a data set's names.

    Args:
        folder: a dataset directory, or what a run keeps of one.
        manifest: of the data set.
        identity: which of them, by the identity or the name of the model; None: the only ones that are there.
    """
    key = names_key(folder, manifest)
    places = {place.name: place for place in sorted((folder / TEXT).glob("[!.]*")) if place.is_dir()}
    if not places:
        raise UserError(f"{folder}: no embeddings of its names (no {TEXT}/); make them with {MAKE} {folder}")
    place = _choose(folder, places, identity)
    meta = _read_meta(place, folder)
    if meta["key"] != key:
        raise UserError(f"{place}: embeddings of another catalogue, {NAMES} has changed; make them again with {MAKE} "
                        f"{folder} --model {meta['model']}")  # fmt: skip
    return NameVectors(_map_vectors(place, folder, meta), meta, place)


def _choose(folder: Path, places: dict[str, Path], asked: str | None) -> Path:
    """The place of the asked identity or model; of all the only one."""
    if asked in places:
        return places[asked]
    models = {name: _read_meta(place, folder)["model"] for name, place in places.items()}
    found = [name for name, model in models.items() if asked in (None, model)]
    if len(found) != 1:
        listed = ", ".join(f"{name} (model {model})" for name, model in models.items())
        what = f"no embeddings '{asked}'" if not found else "several embeddings of its names"
        make = "" if found else f", or make them with {MAKE} {folder} --model {asked}"
        raise UserError(f"{folder}: {what}; set data.embeddings to one of {listed}, by model or by the name in front "
                        f"of it{make}")  # fmt: skip
    return places[found[0]]


def _read_meta(place: Path, folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((place / META).read_text(encoding="utf-8"))
        check_seal(meta)
        wrong = [name for name, kind in FIELDS.items() if type(meta[name]) is not kind]
        if wrong or meta["format"] != FORMAT:
            raise ValueError(f"{wrong[0]} is {meta[wrong[0]]!r}" if wrong else f"of format version {meta['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(place / META, folder, error) from None
    return dict(meta)


def _map_vectors(place: Path, folder: Path, meta: dict[str, Any]) -> np.ndarray:
    try:
        vectors = np.load(place / VECTORS, mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or vectors.shape != (meta["names"], meta["dim"]):
            raise ValueError(f"{vectors.dtype}{list(vectors.shape)}, expected float16[{meta['names']}, {meta['dim']}]")
        if "sha256" in meta and not is_right(place / VECTORS, meta["sha256"]):
            raise ValueError("checksum differs")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(place / VECTORS, folder, error) from None
    return vectors


def _damaged(file: Path, folder: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return UserError(f"{file}: damaged or missing ({reason}); remove {file.parent} and make them again with {MAKE} "
                     f"{folder}")  # fmt: skip
