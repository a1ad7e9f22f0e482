"""Sentence embeddings of texts: encoded once by a sentence-transformers model, and kept.

What the cache lacks is encoded in another process: torch and JAX both want the whole device. The cache has a folder for
each model: one of the hub is known by its name and revision (one that was fetched once is used as it is), one in a
folder by what its files hold. In it are parts that never change, ``part-<time>-<random>.npy``: rows of ``key`` (16
bytes, the blake2b hash of a text's UTF-8) and ``vector`` (float16[dim], of length 1); the first one of a text counts.
"""

from __future__ import annotations

import hashlib
import importlib.util
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
from typing import Any, NamedTuple

import numpy as np

from jaxrec.cli.text import HALF
from jaxrec.data.store import checksum, sync_directory
from jaxrec.errors import UserError, one_line

CHUNK = 2048  # texts of a part, which is all that is lost where encoding is interrupted
BUDGET = 4096  # characters of a batch, padding included, and of a text: 2,048 to 8,192 take the same time on two cores
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
CONFIGURATION = (".json", ".txt", ".model", ".py")  # with vocabularies
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
UNUSED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.ckpt", "*.md", "*.png", ".gitattributes"]
INSTALL = "pip install 'jaxrec[text]'"
KEY = np.dtype("S16")


class Encoded(NamedTuple):
    """Vectors of texts."""

    vectors: np.ndarray  # float16[n, dim], of length 1
    new: int  # distinct texts that had to be encoded
    identity: str  # of the model: the name of its folder in the cache


def encoded(texts: Sequence[str], model: str, update: Callable[..., None] = lambda advance=1, note="": None) -> Encoded:
    """The sentence embeddings of texts; those that the cache lacks are encoded, each once. They do not depend on the
    other texts by more than the last bit of a float16, and not at all once in the cache.

    Args:
        model: a name on the hub, with or without ``sentence-transformers/``, or a local folder.
        update: of ``jaxrec.cli.command.progress``; in all it is moved on by the number of texts.

    The cache is the folder ``text`` in the directory that the environment variable ``JAXREC_CACHE`` names, or in
    ``~/.cache/jaxrec``.
    """
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip() or HALF.search(text):
            raise UserError(f"texts: number {number} of {len(texts)} is {text!a}, expected text that is not empty; "
                            "mend or leave it out")  # fmt: skip
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    keys, (folder, identity) = text_keys(place), find_model(model)
    cache = Path(os.environ.get("JAXREC_CACHE") or Path.home() / ".cache" / "jaxrec") / "text" / identity
    vectors, known = read_cache(cache, keys)
    missing = [text for text, there in zip(place, known, strict=True) if not there]
    update(len(texts) - len(missing), note="")
    if missing:
        _encode(missing, folder, model, cache, update)
        vectors, known = read_cache(cache, keys)
    if not known.all():
        raise AssertionError(f"{cache}: vectors are missing after encoding")
    return Encoded(vectors[[place[text] for text in texts]], len(missing), identity)


def _encode(texts: list[str], folder: Path, name: str, cache: Path, update: Callable[..., None]) -> None:
    """Encode ``texts`` into ``cache``."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(f"sentence-transformers: not installed, and texts are to be encoded; {INSTALL}")
    started, done, parts = time.monotonic(), 0, [list[list[str]]()]
    for batch in batches(texts):
        if sum(map(len, parts[-1])) >= CHUNK:
            parts.append([])
        parts[-1].append(batch)
    with ProcessPoolExecutor(1, get_context("spawn"), _start) as pool:
        try:
            for part, vectors in zip(parts, pool.map(partial(_vectors, folder, name), parts), strict=True):
                write_part(cache, text_keys(chain(*part)), vectors)
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


def _vectors(folder: Path, name: str, parts: list[list[str]]) -> np.ndarray:
    """float32[n, dim], of length 1, by the model in a folder, which is loaded once."""
    try:
        transformer = _load(folder)
        on_cpu = transformer.device.type == "cpu"  # a batch of few characters does not fill an accelerator
        found = [transformer.encode(part, batch_size=len(part) if on_cpu else 1024, show_progress_bar=False,
                 normalize_embeddings=True) for part in (parts if on_cpu else [list(chain(*parts))])]  # fmt: skip
        vectors = np.asarray(np.concatenate(found), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError("its vectors are not finite")
    except Exception as error:
        raise UserError(f"{name}: cannot be loaded, or fails to encode ({one_line(str(error), 200)}); mend {folder}, "
                        f"give another model, free memory, or {INSTALL}") from None  # fmt: skip
    return vectors


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts of similar length, at most to be padded to twice theirs and to ``BUDGET`` characters in all; the longest
    first, so that memory that does not suffice shows at once.
    """
    order, start = sorted(texts, key=lambda text: -min(len(text), BUDGET)), 0
    while start < len(order):
        longest = min(len(order[start]), BUDGET)
        batch = [text for text in order[start : start + BUDGET // longest] if 2 * len(text) >= longest]
        yield batch
        start += len(batch)


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


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """S16[n]: the hashes of texts."""
    return np.frombuffer(b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts), KEY)


def read_cache(folder: Path, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float16[n, dim] vectors of S16[n] keys, each once, and bool[n]: which are there; a damaged part is not there."""
    vectors, known = np.zeros((len(keys), 0), np.float16), np.zeros(len(keys), bool)
    order = np.argsort(keys)
    for file in sorted(folder.glob("part-*.npy")):
        try:
            part = np.load(file, mmap_mode="r", allow_pickle=False)
            place = order[np.minimum(np.searchsorted(keys, part["key"], sorter=order), len(keys) - 1)]
            wanted = np.flatnonzero((keys[place] == part["key"]) & ~known[place])
            rows = part["vector"][wanted]
        except (OSError, ValueError, EOFError, LookupError, TypeError):
            continue
        if not vectors.shape[1]:
            vectors = np.zeros((len(keys), rows.shape[1]), np.float16)
        if rows.shape[1] == vectors.shape[1]:
            vectors[place[wanted]], known[place[wanted]] = rows, True
    return vectors, known


def write_part(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Add ``vectors`` (float[n, dim]) of ``keys`` (S16[n]); they are on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    part = np.empty(len(keys), [("key", KEY), ("vector", "<f2", (vectors.shape[1],))])
    part["key"], part["vector"] = keys, vectors
    name = f"part-{time.time_ns()}-{os.urandom(4).hex()}.npy"
    with open(folder / f".{name}", "wb") as stream:
        np.save(stream, part, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(folder / f".{name}", folder / name)
    sync_directory(folder)
