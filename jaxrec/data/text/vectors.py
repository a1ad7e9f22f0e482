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

from jaxrec.data.store import check_seal, is_right, sealed, staging, write_array, write_json
from jaxrec.errors import UserError

FORMAT = 1
TEXT, NAMES, META, VECTORS = "text", "names.parquet", "meta.json", "vectors.npy"
MAKE = "python -m jaxrec.text --data"


@dataclass(frozen=True)
class NameVectors:
    """The embeddings of a catalogue's distinct names."""

    vectors: np.ndarray  # float16[U, dim], mapped; row u is that of name u of names.parquet, of length 1
    meta: dict[str, Any]  # what meta.json holds
    folder: Path  # where they lie


def names_key(data: Path, manifest: dict[str, Any]) -> str:
    """What tells the names of a data set from all others: the sha256 of names.parquet."""
    if NAMES not in manifest["files"]:
        raise UserError(f"{data}: its items have no names (no {NAMES}); prepare it with the source merrec or "
                        "merrec-synthetic")  # fmt: skip
    return str(manifest["files"][NAMES]["sha256"])


def write_name_vectors(
    data: Path, manifest: dict[str, Any], model: str, identity: str, vectors: np.ndarray, rows: np.ndarray
) -> Path:
    """Put the embeddings beside the data set ``data``, whole or not at all, in place of those of the same model.

    Args:
        model: as the user named it.
        vectors: float16[any, dim], of length 1.
        rows: int64[U], the vector of each row of names.parquet.
    """
    meta = {"format": FORMAT, "model": model, "identity": identity, "dim": vectors.shape[1], "names": len(rows),
            "key": names_key(data, manifest)}  # fmt: skip
    folder = data / TEXT / identity
    with staging(folder, overwrite=True, of_ours=None) as stage:
        sha256 = write_array(stage.dataset, VECTORS, vectors[rows].astype("<f2"))[VECTORS]["sha256"]
        write_json(stage.dataset / META, sealed(meta | {"sha256": sha256}))
    return folder


def open_name_vectors(folder: Path, manifest: dict[str, Any], identity: str | None = None) -> NameVectors:
    """Open the embeddings of the names of a data set, or of what a run keeps of one.

    Args:
        identity: which of them, by the identity or the name of the model; None: the only ones that are there.
    """
    key = names_key(folder, manifest)
    places = {place.name: place for place in sorted((folder / TEXT).glob("[!.]*")) if place.is_dir()}
    metas = {} if identity in places else {name: _read_meta(folder, place) for name, place in places.items()}
    chosen = [identity] if identity in places else [
        name for name, meta in metas.items() if identity in (None, meta["model"])]  # fmt: skip
    if len(chosen) != 1:
        there = ", ".join(f"{name} (model {meta['model']})" for name, meta in metas.items())
        what = f"several embeddings of its names; set data.embeddings to one of {there}" if chosen else (
            f"no embeddings of its names{f' by {identity}' * bool(identity)} (there are {there or 'none'}); make them "
            f"with {MAKE} {folder}{f' --model {identity}' * bool(identity)}")  # fmt: skip
        raise UserError(f"{folder}: {what}")
    place = places[str(chosen[0])]
    meta = _read_meta(folder, place)
    if meta["key"] != key:
        raise UserError(f"{place}: embeddings of another catalogue, {NAMES} has changed; make them again with {MAKE} "
                        f"{folder} --model {meta['model']}")  # fmt: skip
    try:
        vectors = np.load(place / VECTORS, mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or vectors.shape != (meta["names"], meta["dim"]):
            raise ValueError(f"{vectors.dtype}{list(vectors.shape)}")
        if "sha256" in meta and not is_right(place / VECTORS, meta["sha256"]):
            raise ValueError("checksum differs")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, place / VECTORS, error) from None
    return NameVectors(vectors, meta, place)


def _read_meta(folder: Path, place: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((place / META).read_text(encoding="utf-8"))
        check_seal(meta)
        kinds = [type(meta[name]) for name in ("format", "model", "identity", "dim", "names", "key")]
        if kinds != [int, str, str, int, int, str] or meta["format"] != FORMAT:
            raise ValueError("not what it should hold")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, place / META, error) from None
    return meta


def _damaged(folder: Path, file: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{file}: damaged or missing ({reason}); remove {file.parent} and make them again with {MAKE} "
                     f"{folder}")  # fmt: skip
