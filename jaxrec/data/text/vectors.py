"""Sentence embeddings of a data set's item names: what ``python -m jaxrec.text --data`` leaves beside the data.

    <data>/text/<identity>/vectors.npy   float16[U, dim], row by row those of names.parquet, of length 1
                           meta.json     format, model (as it was given), identity, dim, names (U), key, sha256 of
                                         vectors.npy, and a checksum of its own; older ones have neither

``identity`` is the model's, of encoding.py; ``key`` is the checksum of names.parquet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.store import check_seal, is_right, sealed, staging, write_file, write_json
from jaxrec.errors import UserError

FORMAT = 1
TEXT, NAMES, META, VECTORS = "text", "names.parquet", "meta.json", "vectors.npy"
MAKE = "make them with python -m jaxrec.text --data"


def names_key(data: Path, manifest: dict[str, Any]) -> str:
    """What tells the names of a data set from all others: the sha256 of names.parquet."""
    if NAMES not in manifest["files"]:
        raise UserError(f"{data}: its items have no names (no {NAMES}); prepare it with merrec or merrec-synthetic")
    return str(manifest["files"][NAMES]["sha256"])


def write_name_vectors(data: Path, manifest: dict[str, Any], model: str, identity: str, vectors: np.ndarray) -> Path:
    """Put embeddings of names.parquet, float16[U, dim], beside a data set, whole or not at all, in place of those of
    the same model, which the user named ``model``.
    """
    meta = {"format": FORMAT, "model": model, "identity": identity, "dim": vectors.shape[1], "names": len(vectors),
            "key": names_key(data, manifest)}  # fmt: skip
    folder = data / TEXT / identity
    with staging(folder, overwrite=True, of_ours=None) as stage:
        sha256 = write_file(stage.dataset, VECTORS, vectors.astype("<f2"))[VECTORS]["sha256"]
        write_json(stage.dataset / META, sealed(meta | {"sha256": sha256}))
    return folder


def open_name_vectors(
    folder: Path, manifest: dict[str, Any], identity: str | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """The embeddings of the distinct names of a data set, or of what a run keeps of one, float16[U, dim], mapped, and
    what meta.json says: those of ``identity``, which may be the name of the model too, or the only ones that are there.
    """
    key, places = names_key(folder, manifest), sorted((folder / TEXT).glob("[!.]*"))
    file = folder / TEXT
    try:
        metas = {}
        for place in places:
            file = place / META
            metas[place] = json.loads(file.read_text(encoding="utf-8"))
            check_seal(metas[place])
        chosen = [place for place, meta in metas.items() if identity in (None, place.name, meta["model"])]
        if len(chosen) != 1:
            there = ", ".join(f"{place.name} (model {meta['model']})" for place, meta in metas.items()) or "none"
            what = f"several embeddings of its names; set data.embeddings to one of {there}" if chosen else (
                f"no embeddings of its names{f' by {identity}' if identity else ''} (there are {there}); {MAKE} "
                f"{folder}{f' --model {identity}' if identity else ''}")  # fmt: skip
            raise UserError(f"{folder}: {what}")
        (place,) = chosen
        file, meta = place / VECTORS, metas[place]
        if meta["key"] != key:
            raise UserError(f"{place}: embeddings of another catalogue, {NAMES} has changed; {MAKE} {folder} --model "
                            f"{meta['model']}")  # fmt: skip
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or vectors.shape != (meta["names"], meta["dim"]):
            raise ValueError(f"{vectors.dtype}{list(vectors.shape)}")
        if "sha256" in meta and not is_right(file, meta["sha256"]):
            raise ValueError("checksum differs")
    except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise UserError(f"{file}: damaged or missing ({error!r}); remove {file.parent} and {MAKE} {folder}") from None
    return vectors, meta
