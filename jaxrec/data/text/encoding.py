"""Sentence embeddings of texts: encoded once by a sentence-transformers model, and kept.

What is not kept is encoded in another process: torch and JAX both want the whole device. The cache has a folder for
each model: one of the hub is known by its name and revision (one that was fetched once is used as it is), one in a
folder by what its files hold. In it is a folder for each set of texts, named after what they say, with a file for each
part of them: float16[n, dim], of length 1. What is interrupted goes on with the next part.

Beside a data set ``python -m jaxrec.text --data`` leaves the embeddings of its items' names:

    <data>/text/<identity>/vectors.npy   float16[U, dim], row by row those of names.parquet, of length 1
                           meta.json     format, model (as it was given), identity, dim, names (U), key, sha256 of
                                         vectors.npy, and a checksum of its own; older ones have neither

``identity`` is the model's folder in the cache; ``key`` is the checksum of names.parquet.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from jaxrec.cli.text import HALF
from jaxrec.data.cluster import Cluster
from jaxrec.data.store import checksum, is_right, read_sealed, staging, write_file, write_sealed, written
from jaxrec.errors import UserError, one_line

PART = 2048  # texts, which are all that is lost where encoding is interrupted
# Of files that belong to a model: weights, configuration, vocabularies.
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model", ".py")
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
UNUSED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.ckpt", "*.md", "*.png", ".gitattributes"]
INSTALL = "pip install 'jaxrec[text]'"
FORMAT = 1
TEXT, NAMES, META, VECTORS = "text", "names.parquet", "meta.json", "vectors.npy"
MAKE = "make them with python -m jaxrec.text --data"


def embed(
    texts: Sequence[str], model: str, update: Callable[..., None] = lambda *_, **__: None, ray: Cluster | None = None,
    into: Path | None = None,
) -> np.ndarray:  # fmt: skip
    """The sentence embeddings of texts, float16[n, dim] of length 1; what the cache lacks is encoded, each text once.
    They do not depend on the other texts by more than the last bit of a float16.

    Args:
        model: a name on the hub, with or without ``sentence-transformers/``, or a local folder.
        update: of ``jaxrec.cli.command.progress``; in all it is moved on by the number of different texts.
        ray: what encodes parts, each process with a model of its own (None: one process).
        into: a new ``.npy`` file to put them into and map, as they may not fit into memory.

    The cache is the folder ``text`` in the directory that the environment variable ``JAXREC_CACHE`` names, or in
    ``~/.cache/jaxrec``.
    """
    if not texts:
        raise UserError("texts: there are none; give some")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip() or HALF.search(text):
            raise UserError(f"texts: number {number} of {len(texts)} is {text!a}, expected text that is not empty; "
                            "mend or leave it out")  # fmt: skip
    folder, identity = find_model(model)
    distinct = sorted(dict.fromkeys(texts), key=len, reverse=True)  # memory that does not suffice shows at once
    cache = Path(os.environ.get("JAXREC_CACHE") or Path.home() / ".cache" / "jaxrec") / "text" / identity
    place = cache / hashlib.sha256(json.dumps(distinct).encode()).hexdigest()[:32]
    missing = dict[int, list[str]]()
    for start in range(0, len(distinct), PART):
        part = distinct[start : start + PART]
        if _kept(place / f"{start}.npy", len(part)) is None:
            missing[start] = part
        else:
            update(len(part))
    encoded = _encode(folder, model, missing) if ray is None else _encode_by_ray(ray, folder, model, missing)
    for start, vectors in encoded:
        place.mkdir(parents=True, exist_ok=True)
        with written(place / f"{start}.npy") as unfinished, open(unfinished, "wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        update(len(vectors))
    return _in_order(texts, distinct, place, into)


def _in_order(texts: Sequence[str], distinct: Sequence[str], place: Path, into: Path | None) -> np.ndarray:
    """The vectors of texts from the parts of the ``distinct`` ones, of which one at a time is in memory."""
    rows = {text: row for row, text in enumerate(distinct)}
    row_of = np.array([rows[text] for text in texts])
    order, starts = np.argsort(row_of, kind="stable"), range(0, len(distinct), PART)
    ends = np.searchsorted(row_of[order], [*starts, len(distinct)])
    found = np.empty((0, 0), "<f2")
    for start, low, high in zip(starts, ends[:-1], ends[1:], strict=True):
        vectors, places = np.load(place / f"{start}.npy", allow_pickle=False), order[low:high]
        if not start:
            shape = (len(texts), vectors.shape[1])
            found = open_memmap(into, "w+", vectors.dtype, shape) if into else np.empty(shape, vectors.dtype)
        found[places] = vectors[row_of[places] - start]
    return found


def _encode(folder: Path, model: str, parts: dict[int, list[str]]) -> Iterator[tuple[int, np.ndarray]]:
    """float16[n, dim] of each part, one after the other, from a process that starts where there are any."""
    with ProcessPoolExecutor(1, get_context("spawn"), _start) as pool:
        for start, part in parts.items():
            try:
                yield start, pool.submit(_vectors, folder, model, part).result()
            except BrokenProcessPool:
                raise UserError("texts: the process that should encode was killed; run it again, perhaps with more "
                                "memory: it goes on where it stopped") from None  # fmt: skip


def _encode_by_ray(
    ray: Cluster, folder: Path, model: str, parts: dict[int, list[str]]
) -> Iterator[tuple[int, np.ndarray]]:
    """float16[n, dim] of each part, in the order in which they come."""
    starts = {f"texts {start + 1:,} to {start + len(part):,}": start for start, part in parts.items()}
    calls = {name: (folder, model, parts[start]) for name, start in starts.items()}
    for name, vectors in ray.each(_vectors_offline, calls, gpu=True):
        yield starts[name], vectors


def _kept(file: Path, n: int) -> np.ndarray | None:
    """float16[n, dim] of a part; None where the file is missing or damaged."""
    with suppress(OSError, ValueError, EOFError):
        vectors = np.load(file, allow_pickle=False)
        return vectors if len(vectors) == n else None
    return None


def _start() -> None:
    """Ctrl-C ends the process without a word, libraries print nothing, and no model is asked for on the hub."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ["HF_HUB_OFFLINE"] = "1"
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@lru_cache
def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder))


def _vectors(folder: Path, name: str, part: Sequence[str]) -> np.ndarray:
    """float16[n, dim], of length 1, by the model in a folder, which is loaded once."""
    try:
        transformer = _load(folder)
        size = 64 if transformer.device.type == "cpu" else 1024
        found = transformer.encode(part, batch_size=size, show_progress_bar=False, normalize_embeddings=True)
        if not np.isfinite(found).all():
            raise ValueError("its vectors are not finite")
    except Exception as error:
        raise UserError(f"{name}: cannot be loaded, or fails to encode ({one_line(str(error), 200)}); mend {folder}, "
                        f"give another model, free memory, or {INSTALL}") from None  # fmt: skip
    return np.asarray(found, "<f2")


def _vectors_offline(folder: Path, name: str, part: Sequence[str]) -> np.ndarray:
    """A task: ``_vectors``; a process of Ray's keeps its model for the next one."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return _vectors(folder, name, part)


def find_model(model: str) -> tuple[Path, str]:
    """The folder of a model, fetched from the hub where need be, and the name of its vectors' folder in the cache."""
    folder = Path(model).expanduser()
    if not folder.exists() and re.fullmatch(HUB_NAME, model):
        model = model if "/" in model else f"sentence-transformers/{model}"
        folder = _snapshot(model)
    if not (folder / "modules.json").is_file():
        raise UserError(f"{model}: no sentence-transformers model (no modules.json); give a folder that "
                        f"SentenceTransformer.save made, or a hub name, as '{DEFAULT}'")  # fmt: skip
    around = folder.absolute().parent  # of a model of the hub, or a copy of its snapshot with the folders around it
    if around.name == "snapshots" and around.parent.name.startswith("models--"):
        return folder, f"{around.parent.name.removeprefix('models--')}-{folder.name}"
    lines, others = "", ("onnx", "openvino")  # of other engines
    for name in sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SUFFIXES):
        if name.parts[0] not in others and (file := folder / name).is_file():
            lines += f"{checksum(file)} {file.stat().st_size} {name.as_posix()}\n"
    return folder, f"folder-{hashlib.sha256(lines.encode()).hexdigest()[:32]}"


def _snapshot(name: str) -> Path:
    """The folder of a hub model in the hub's cache, named after its revision; fetched where it is not there."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        place = os.environ.get("HF_HUB_CACHE")
        try:
            return Path(snapshot_download(name, cache_dir=place, local_files_only=True))
        except LocalEntryNotFoundError:  # asked once: fetching tries again and again for minutes without a network
            HfApi().model_info(name, timeout=10)
        return Path(snapshot_download(name, cache_dir=place, ignore_patterns=UNUSED))
    except Exception as error:  # of whichever network library the hub's client is built on
        raise UserError(f"{name}: not here, and the hub does not give it ({one_line(str(error), 200)}); check the "
                        f"name, go online, log in if it asks for that, give a local folder, or {INSTALL}"
                        ) from None  # fmt: skip


# ---- beside a data set -----------------------------------------------------------------------------------------------


def names_key(data: Path, manifest: dict[str, Any]) -> str:
    """What tells the names of a data set from all others: the sha256 of names.parquet."""
    if NAMES not in manifest["files"]:
        raise UserError(f"{data}: its items have no names (no {NAMES}); prepare it with merrec or merrec-synthetic")
    return str(manifest["files"][NAMES]["sha256"])


def write_name_vectors(data: Path, manifest: dict[str, Any], model: str, identity: str, vectors: np.ndarray) -> Path:
    """Put embeddings of names.parquet, float16[U, dim], by a model that the user named ``model``, beside a data set,
    whole or not at all, in place of those that were there.
    """
    meta = {"format": FORMAT, "model": model, "identity": identity, "dim": vectors.shape[1], "names": len(vectors),
            "key": names_key(data, manifest)}  # fmt: skip
    with staging(data / TEXT, overwrite=True, of_ours=None) as stage:
        entry = write_file(stage / identity, VECTORS, vectors.astype("<f2", copy=False))[VECTORS]
        write_sealed(stage / identity / META, meta | {"sha256": entry["sha256"]})
    return data / TEXT / identity


def open_name_vectors(folder: Path, manifest: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The embeddings of the distinct names of a data set, or of what a run keeps of one, float16[U, dim], mapped, and
    what meta.json says.
    """
    key, places = names_key(folder, manifest), sorted((folder / TEXT).glob("[!.]*"))
    if len(places) != 1:
        raise UserError(f"{folder}: {len(places) or 'no'} embeddings of its names, expected one; {MAKE} {folder}")
    (place,) = places
    try:
        meta = read_sealed(place / META)
        if "sha256" in meta and not is_right(place / VECTORS, meta["sha256"]):
            raise ValueError("checksum differs")
        if meta["key"] != key:
            raise ValueError(f"{NAMES} has changed since")
        return np.load(place / VECTORS, mmap_mode="r", allow_pickle=False), meta
    except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise UserError(f"{place}: damaged, or of other names ({error!r}); {MAKE} {folder}") from None
