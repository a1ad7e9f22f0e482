"""Sentence embeddings of a data set's item names: what ``python -m jaxrec.text --data`` leaves beside the data.

    <data>/text/<identity>/vectors.npy   float16[U, dim], row by row those of names.parquet, of length 1
                           meta.json     format, model (as it was given), identity, dim, names (U), key, sha256 of
                                         vectors.npy, and a checksum of its own; older ones have neither

``identity`` is the model's, of encoding.py; ``key`` is the checksum of names.parquet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.store import check_seal, is_right, sealed, staging, write_array, write_json
from jaxrec.errors import UserError

FORMAT = 1
TEXT, NAMES, META, VECTORS = "text", "names.parquet", "meta.json", "vectors.npy"
MAKE = "python -m jaxrec.text --data"


class NameVectors(NamedTuple):
    """The embeddings of a catalogue's distinct names: float16[U, dim], mapped, what meta.json says, where they lie."""

    vectors: np.ndarray
    meta: dict[str, Any]
    folder: Path


def names_key(data: Path, manifest: dict[str, Any]) -> str:
    """What tells the names of a data set from all others: the sha256 of names.parquet."""
    if NAMES not in manifest["files"]:
        raise UserError(f"{data}: its items have no names (no {NAMES}); prepare it with merrec or merrec-synthetic")
    return str(manifest["files"][NAMES]["sha256"])


def write_name_vectors(
    data: Path, manifest: dict[str, Any], model: str, identity: str, vectors: np.ndarray, rows: np.ndarray
) -> Path:
    """Put embeddings float16[any, dim], of which ``rows``, int64[U], are those of names.parquet, beside a data set,
    whole or not at all, in place of those of the same model, which the user named ``model``.
    """
    meta = {"format": FORMAT, "model": model, "identity": identity, "dim": vectors.shape[1], "names": len(rows),
            "key": names_key(data, manifest)}  # fmt: skip
    folder = data / TEXT / identity
    with staging(folder, overwrite=True, of_ours=None) as stage:
        sha256 = write_array(stage.dataset, VECTORS, vectors[rows].astype("<f2"))[VECTORS]["sha256"]
        write_json(stage.dataset / META, sealed(meta | {"sha256": sha256}))
    return folder


def open_name_vectors(folder: Path, manifest: dict[str, Any], identity: str | None = None) -> NameVectors:
    """Open the embeddings of the names of a data set, or of what a run keeps of one: those of ``identity``, which may
    be the name of the model too, or the only ones that are there.
    """
    key, places = names_key(folder, manifest), [one for one in (folder / TEXT).glob("[!.]*") if one.is_dir()]
    places = [place for place in places if place.name == identity] or sorted(places)
    metas = {place: _read_meta(folder, place) for place in places}
    chosen = [place for place, meta in metas.items() if identity in (None, place.name, meta["model"])]
    if len(chosen) != 1:
        there = ", ".join(f"{place.name} (model {meta['model']})" for place, meta in metas.items()) or "none"
        by, option = (f" by {identity}", f" --model {identity}") if identity else ("", "")
        what = f"several embeddings of its names; set data.embeddings to one of {there}" if chosen else (
            f"no embeddings of its names{by} (there are {there}); make them with {MAKE} {folder}{option}")  # fmt: skip
        raise UserError(f"{folder}: {what}")
    (place,) = chosen
    meta = metas[place]
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
