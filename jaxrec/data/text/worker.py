"""The vectors of texts on the disk, and the process that encodes those that are missing.

Torch and JAX both want the whole device, so that encoding has a process of its own, started by encoding.py.
It writes to the store itself and says on stdout, in lines of JSON, how far it is.

A store is a folder for each model:

    meta.json    format, model, dim; written before anything else
    vectors.f16  float16[n, dim], raw and little-endian, of length 1
    keys         n times 16 bytes: the blake2b hash of a text's UTF-8
    lock         held by the one process that writes

Both files only ever grow, vectors first, and keys once those are on the disk: a text whose key is there has its vector
there, whenever the machine stops. What lies beyond the common length is cut off before more is appended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.store import sync_directory
from jaxrec.errors import UserError

FORMAT = 1
KEY = np.dtype("S16")
HALF = np.dtype("<f2")
META, VECTORS, KEYS, LOCK = "meta.json", "vectors.f16", "keys", "lock"
FLUSH = 1.0  # seconds of encoding that a killed process may lose
# Characters of a batch, padding included. On a CPU more than the caches hold is slower, but not by much: 2,000 names of
# 7 words with all-MiniLM-L6-v2 on two cores took 9.2, 8.0, 8.1, 8.1 and 8.3 s of CPU time at 1024, 2048, 3072, 4096 and
# 8192, the best of several goes each (494 names/s at 4096).
BUDGET = {"cpu": 4096}
LARGE_BUDGET = 131_072  # and on an accelerator less does not fill it
MOST = 4096  # characters after which the length of a text makes no difference to the batches
INSTALL = "pip install 'jaxrec[text]'"
UNUSED = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.ckpt", "*.md", "*.png", ".gitattributes")


# --- the store --------------------------------------------------------------------------------------------------------


class Store(NamedTuple):
    """What is there: ``keys`` S16[n] and ``vectors`` float16[n, dim], both mapped from the disk."""

    keys: np.ndarray
    vectors: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64[m]: the row of each of ``keys`` (S16[m]), -1 where there is none."""
        rows = np.full(len(keys), -1, np.int64)
        if not len(keys) or not len(self.keys):
            return rows
        known = np.argsort(self.keys, kind="stable")  # stable: of a key that is there twice the first row counts
        ascending = self.keys[known]
        wanted = np.argsort(keys)  # searching in order is several times as fast as at random
        place = np.searchsorted(ascending, keys[wanted])
        place[place == len(ascending)] = 0
        rows[wanted] = np.where(ascending[place] == keys[wanted], known[place], -1)
        return rows


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """S16[n]: the hashes of texts.

    Raises:
        UnicodeEncodeError: a text holds half a surrogate pair.
    """
    return np.frombuffer(b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts), KEY)


def open_store(folder: Path) -> Store:
    """Map what a folder holds; nothing where it is missing or damaged. Changes nothing, and needs no lock."""
    dim = _dimension(folder)
    n = _length(folder, dim) if dim else 0
    if not n:
        return Store(np.zeros(0, KEY), np.zeros((0, dim), HALF))
    keys = np.memmap(folder / KEYS, KEY, "r", shape=(n,))
    return Store(keys, np.memmap(folder / VECTORS, HALF, "r", shape=(n, dim)))


def _dimension(folder: Path) -> int:
    """Of the vectors in a folder; 0 where meta.json is missing or damaged."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        dim = meta["dim"] if meta["format"] == FORMAT else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return dim if type(dim) is int and dim > 0 else 0


def _length(folder: Path, dim: int) -> int:
    """How many texts have both key and vector."""
    try:
        sizes = (folder / KEYS).stat().st_size, (folder / VECTORS).stat().st_size
    except OSError:
        return 0
    return min(sizes[0] // KEY.itemsize, sizes[1] // (HALF.itemsize * dim))


@contextmanager
def locked(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make ``folder`` and be the only process that writes there; calls ``waiting`` if another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Writer:
    """Appends to the store in ``folder``, which must be locked; starts it anew unless it holds ``dim`` dimensions.

    Use as a context manager.
    """

    def __init__(self, folder: Path, model: str, dim: int) -> None:
        self._folder = folder
        self._meta: dict[str, Any] = {"format": FORMAT, "model": model, "dim": dim}
        self._sizes = {VECTORS: HALF.itemsize * dim, KEYS: KEY.itemsize}  # bytes a text; vectors come first

    def __enter__(self) -> Writer:
        dim = self._meta["dim"]
        if _dimension(self._folder) != dim:
            for name in (META, *self._sizes):  # removed rather than emptied: a reader may have them mapped
                (self._folder / name).unlink(missing_ok=True)
            _write_meta(self._folder, self._meta)
        n = _length(self._folder, dim)
        with ExitStack() as stack:
            self._streams = [stack.enter_context(open(self._folder / name, "ab")) for name in self._sizes]
            for stream, size in zip(self._streams, self._sizes.values(), strict=True):
                stream.truncate(n * size)
            sync_directory(self._folder)
            self._stack = stack.pop_all()
        return self

    def append(self, vectors: np.ndarray, keys: np.ndarray) -> None:
        """Add ``vectors`` (float[n, dim]) of ``keys`` (S16[n]); they are on the disk when this returns."""
        for stream, values in zip(self._streams, (vectors.astype(HALF), keys.astype(KEY)), strict=True):
            stream.write(values.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    new = folder / f"{META}.new"
    with open(new, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(meta, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, folder / META)


# --- the process ------------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Parts of similar length, the longest texts first, so that memory that does not suffice shows at once.

    Args:
        lengths: characters of each text.
        budget: most characters of a batch when all are padded to its longest; a longer text is a batch of its own.
            Nor is any padded to more than twice its length.

    Yields:
        int64[b]: which texts; every text is in one batch.
    """
    length = np.maximum(np.minimum(np.asarray(lengths, np.int64), MOST), 1)
    order = np.argsort(-length, kind="stable")
    doubled = -2 * length[order]
    start = 0
    while start < len(order):
        longest = int(length[order[start]])
        alike = int(np.searchsorted(doubled, -longest, side="right"))
        end = min(alike, start + max(1, budget // longest))
        yield order[start:end]
        start = end


def encode(model: Path, name: str, store: Path, texts: list[str], say: Callable[..., None]) -> None:
    """Encode those of ``texts`` that ``store`` lacks, and tell how many are done since the last time, and how fast."""
    keys = text_keys(texts)
    with locked(store, lambda: say(note="waits for another encoding")):
        there = open_store(store).find(keys) >= 0  # another process may have written since the caller looked
        say(done=int(there.sum()), note="load the model")
        todo = np.flatnonzero(~there)
        transformer = _load(model, name)
        encoder = _Encoder(transformer, name)
        budget = BUDGET.get(transformer.device.type, LARGE_BUDGET)
        with Writer(store, name, encoder.dim) as writer:
            started, flushed, done = time.monotonic(), -np.inf, 0
            vectors: list[np.ndarray] = []
            pending: list[np.ndarray] = []
            for part in batches([len(texts[i]) for i in todo], budget):
                pending.append(todo[part])
                vectors.append(encoder([texts[i] for i in todo[part]]))
                done += len(part)
                now = time.monotonic()
                if now - flushed < FLUSH and done < len(todo):
                    continue
                writer.append(np.concatenate(vectors), keys[np.concatenate(pending)])
                seconds = now - started
                say(done=sum(map(len, pending)), note=f"{done / seconds:,.0f} texts/s", encoded=done, seconds=seconds)
                vectors, pending, flushed = [], [], time.monotonic()


def _load(model: Path, name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(f"sentence-transformers: cannot be imported ({_line(error)}); {INSTALL}") from None
    try:
        return SentenceTransformer(str(model))
    except Exception as error:
        raise UserError(f"{name}: cannot be loaded ({_line(error)}); mend or remove {model}, or give another") from None


class _Encoder:
    """From texts to float32[n, dim] of length 1; ``dim`` is measured, as not every model says it."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self.dim = self(["dimension"]).shape[1]

    def __call__(self, texts: list[str]) -> np.ndarray:
        try:
            vectors = self._model.encode(
                texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
            )
        except Exception as error:
            if "out of memory" in str(error).lower():
                raise UserError(f"{self._name}: the device's memory does not suffice; encode with 'python -m "
                                "jaxrec.text' while nothing else uses it") from None  # fmt: skip
            raise UserError(f"{self._name}: fails to encode ({_line(error)}); give another model") from None
        vectors = np.asarray(vectors, np.float32)
        if not np.isfinite(vectors).all():
            raise UserError(f"{self._name}: gives vectors that are not finite; give another model")
        return vectors


def fetch(name: str, place: Path) -> None:
    """Bring a model of the hub to the hub's cache ``place``."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        raise UserError(f"sentence-transformers: cannot be imported ({_line(error)}); {INSTALL}") from None
    try:
        # Asked once before anything is fetched: fetching tries again and again for minutes where there is no network.
        files = [file.rfilename for file in HfApi().model_info(name, timeout=10).siblings or []]
        double = ["*.bin"] if any(file.endswith(".safetensors") for file in files) else []
        snapshot_download(name, cache_dir=place, ignore_patterns=[*UNUSED, *double])
    except GatedRepoError:
        raise UserError(f"{name}: the hub wants you to log in for this model; give a local folder instead") from None
    except RepositoryNotFoundError:
        raise UserError(f"{name}: no such model on the hub; check the name, or give a local folder") from None
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError) or not error.filename:
            raise UserError(_unreachable(name, error)) from None
        raise
    except Exception as error:  # of whichever network library the hub's client is built on
        raise UserError(_unreachable(name, error)) from None


def _unreachable(name: str, error: Exception) -> str:
    return (
        f"{name}: not here, and the hub cannot be reached ({_line(error)}); go online, or give a local folder "
        "(--model FOLDER)"
    )


def _line(error: Exception) -> str:
    """An exception of others in one line of moderate length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}…"


def main(argv: Sequence[str]) -> int:
    """``encode MODEL NAME STORE`` (texts on stdin, one JSON string a line) or ``fetch NAME PLACE``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches this process too: end without a word
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not come between the answers

    def say(**message: object) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        if argv[0] == "fetch":
            fetch(argv[1], Path(argv[2]))
        else:
            encode(Path(argv[1]), argv[2], Path(argv[3]), [json.loads(line) for line in sys.stdin], say)
    except UserError as error:
        say(error=str(error))
        return 1
    except BrokenPipeError:  # whoever started this has gone
        os._exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(error=f"{where}{error.strerror or _line(error)}; free or choose another place (JAXREC_CACHE)")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
