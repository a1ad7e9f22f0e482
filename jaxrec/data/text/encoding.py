"""Sentence embeddings of texts: encoded once by a sentence-transformers model, and kept.

What the cache lacks is encoded in another process: torch and JAX both want the whole device. The cache has a folder for
each model: one of the hub is known by its name and revision (one that was fetched once is used as it is), one in a
folder by what its files hold. In it is a file for each part of some texts, named after what they say: float16[n, dim],
of length 1. What is interrupted goes on with the next part.

Beside a data set ``python -m jaxrec.text --data`` leaves the embeddings of its items' names:

    <data>/text/<identity>/vectors.npy   float16[U, dim], row by row those of names.parquet, of length 1
                           meta.json     format, model (as it was given), identity, dim, names (U), key, sha256 of
                                         vectors.npy, and a checksum of its own; older ones have neither

``identity`` is the model's folder in the cache; ``key`` is the checksum of names.parquet.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.cli.text import HALF
from jaxrec.data.store import check_seal, checksum, is_right, sealed, staging, write_file, write_json, written
from jaxrec.errors import UserError, one_line

CHUNK = 2048  # texts of a part, which is all that is lost where encoding is interrupted
BUDGET = 4096  # characters of a batch, padding included, and of a text: 2,048 to 8,192 take the same time on two cores
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
CONFIGURATION = (".json", ".txt", ".model", ".py")  # with vocabularies
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
UNUSED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.ckpt", "*.md", "*.png", ".gitattributes"]
INSTALL = "pip install 'jaxrec[text]'"
FORMAT = 1
TEXT, NAMES, META, VECTORS = "text", "names.parquet", "meta.json", "vectors.npy"
MAKE = "make them with python -m jaxrec.text --data"
Part = list[list[str]]
"""Batches of texts."""


def embed(texts: Sequence[str], model: str, update: Callable[..., None] = lambda *_, **__: None) -> np.ndarray:
    """The sentence embeddings of texts, float16[n, dim] of length 1; what the cache lacks is encoded, each text once.
    They do not depend on the other texts by more than the last bit of a float16.

    Args:
        model: a name on the hub, with or without ``sentence-transformers/``, or a local folder.
        update: of ``jaxrec.cli.command.progress``; in all it is moved on by the number of texts.

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
    cache = Path(os.environ.get("JAXREC_CACHE") or Path.home() / ".cache" / "jaxrec") / "text" / identity
    parts = {cache / f"{text_key(part)}.npy": part for part in parts_of(dict.fromkeys(texts))}
    missing = {file: part for file, part in parts.items() if read_part(file) is None}
    update(len(texts) - sum(map(len, chain(*missing.values()))), note="")
    if missing:
        _encode(missing, folder, model, update)
    vectors = np.concatenate([np.load(file, allow_pickle=False) for file in parts])
    rows = {text: row for row, text in enumerate(chain(*chain(*parts.values())))}
    return np.asarray(vectors[[rows[text] for text in texts]])


def _encode(parts: dict[Path, Part], folder: Path, name: str, update: Callable[..., None]) -> None:
    """Encode parts into files."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(f"sentence-transformers: not installed, and texts are to be encoded; {INSTALL}")
    started, done = time.monotonic(), 0
    with ProcessPoolExecutor(1, get_context("spawn"), _start) as pool:
        try:
            found = pool.map(partial(_vectors, folder, name), parts.values())
            for file, vectors in zip(parts, found, strict=True):
                write_part(file, vectors)
                done += len(vectors)
                update(len(vectors), note=f"{done / (time.monotonic() - started):,.0f} texts/s")
        except BrokenProcessPool:
            raise UserError("texts: the process that should encode was killed; run it again, perhaps with more memory: "
                            "it goes on where it stopped") from None  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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


def _vectors(folder: Path, name: str, part: Part) -> np.ndarray:
    """float32[n, dim], of length 1, by the model in a folder, which is loaded once."""
    try:
        transformer = _load(folder)
        on_cpu = transformer.device.type == "cpu"  # a batch of few characters does not fill an accelerator
        found = [transformer.encode(batch, batch_size=len(batch) if on_cpu else 1024, show_progress_bar=False,
                 normalize_embeddings=True) for batch in (part if on_cpu else [list(chain(*part))])]  # fmt: skip
        vectors = np.asarray(np.concatenate(found), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError("its vectors are not finite")
    except Exception as error:
        raise UserError(f"{name}: cannot be loaded, or fails to encode ({one_line(str(error), 200)}); mend {folder}, "
                        f"give another model, free memory, or {INSTALL}") from None  # fmt: skip
    return vectors


def parts_of(texts: Iterable[str]) -> Iterator[Part]:
    """Batches of texts of similar length, at most to be padded to twice theirs and to ``BUDGET`` characters in all; the
    longest first, so that memory that does not suffice shows at once; a part holds ``CHUNK`` texts or a few more.
    """
    order, start, part = sorted(texts, key=lambda text: -min(len(text), BUDGET)), 0, Part()
    while start < len(order):
        longest = min(len(order[start]), BUDGET)
        part.append([text for text in order[start : start + BUDGET // longest] if 2 * len(text) >= longest])
        start += len(part[-1])
        if start == len(order) or sum(map(len, part)) >= CHUNK:
            yield part
            part = []


def find_model(model: str) -> tuple[Path, str]:
    """The folder of a model, fetched from the hub where need be, and the name of its vectors' folder in the cache."""
    folder = Path(model).expanduser()
    if not folder.exists() and re.fullmatch(HUB_NAME, model):
        model = model if "/" in model else f"sentence-transformers/{model}"
        folder = _snapshot(model)
    if not (folder / "modules.json").is_file() or not _files(folder, WEIGHTS):
        raise UserError(f"{model}: no sentence-transformers model (modules.json and weights, *.safetensors or *.bin); "
                        f"give a folder that SentenceTransformer.save made, or a hub name, as '{DEFAULT}'"
                        )  # fmt: skip
    around = folder.absolute().parent  # of a model of the hub, or a copy of its snapshot with the folders around it
    if around.name == "snapshots" and around.parent.name.startswith("models--"):
        return folder, f"{around.parent.name.removeprefix('models--')}-{folder.name}"
    files = [(folder / file, file.as_posix()) for file in _files(folder, (*CONFIGURATION, *WEIGHTS))]
    lines = "".join(f"{checksum(file)} {file.stat().st_size} {name}\n" for file, name in files)
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


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files under a folder that belong to the model, by name; not those of other engines."""
    inside = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in suffixes)
    return [file for file in inside if file.parts[0] not in ("onnx", "openvino") and (folder / file).is_file()]


def text_key(part: Part) -> str:
    """What tells the texts of a part from all others."""
    return hashlib.sha256(json.dumps(part).encode()).hexdigest()[:32]


def read_part(file: Path) -> np.ndarray | None:
    """float16[n, dim], mapped; None where the file is missing or damaged."""
    try:
        vectors: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors


def write_part(file: Path, vectors: np.ndarray) -> None:
    """Keep float[n, dim] vectors of a part's texts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written(file) as part, open(part, "wb") as stream:
        np.save(stream, vectors.astype("<f2"), allow_pickle=False)


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
        entry = write_file(stage / identity, VECTORS, vectors.astype("<f2"))[VECTORS]
        write_json(stage / identity / META, sealed(meta | {"sha256": entry["sha256"]}))
    return data / TEXT / identity


def open_name_vectors(folder: Path, manifest: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The embeddings of the distinct names of a data set, or of what a run keeps of one, float16[U, dim], mapped, and
    what meta.json says.
    """
    key, places = names_key(folder, manifest), sorted((folder / TEXT).glob("[!.]*"))
    if len(places) != 1:
        there = f"{len(places)} embeddings of its names, of which one is read; remove the others" if places else (
            f"no embeddings of its names; {MAKE} {folder}")  # fmt: skip
        raise UserError(f"{folder}: {there}")
    (place,) = places
    try:
        meta = json.loads((place / META).read_text(encoding="utf-8"))
        check_seal(meta)
        vectors = np.load(place / VECTORS, mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float16 or vectors.shape != (meta["names"], meta["dim"]):
            raise ValueError(f"{vectors.dtype}{list(vectors.shape)}")
        if "sha256" in meta and not is_right(place / VECTORS, meta["sha256"]):
            raise ValueError("checksum differs")
        if meta["key"] != key:
            raise ValueError(f"{NAMES} has changed since")
    except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise UserError(f"{place}: damaged, or of other names ({error!r}); {MAKE} {folder}") from None
    return vectors, meta
