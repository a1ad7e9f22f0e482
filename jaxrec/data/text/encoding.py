"""Sentence embeddings of texts: encoded once by a sentence-transformers model, and kept.

``embed`` encodes what the cache (jaxrec/data/text/cache.py) lacks in another process (jaxrec/data/text/worker.py): the
process that calls it never imports torch. The command is jaxrec/text.py.

The vectors of a text depend on the text and the model alone: the cache knows a model of the hub by its name and
revision, and one in a folder by what its files hold. A model of the hub that was fetched once is used as it is; nobody
asks the hub again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxrec
from jaxrec.data.store import checksum
from jaxrec.data.text.cache import Vectors, open_cache, text_keys
from jaxrec.data.text.worker import INSTALL
from jaxrec.errors import UserError

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
CONFIGURATION = (".json", ".txt", ".model", ".py")  # with vocabularies
OTHER_ENGINES = ("onnx", "openvino")  # folders with weights that are not used
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
ORGANISATION = "sentence-transformers"  # of a hub name without one
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"


class Encoded(NamedTuple):
    """Texts and where their vectors are.

    Attributes:
        vectors: float16[any, dim], of length 1, read by ``vectors[rows]``.
        rows: int64[n], the vector of each text.
        unique: distinct texts.
        new: those of them that had to be encoded, which took ``seconds`` without loading the model.
        identity: of the model: the name of its folder in the cache.
    """

    vectors: Vectors | np.ndarray
    rows: np.ndarray
    unique: int
    new: int
    seconds: float
    identity: str


def embed(
    texts: Sequence[str], model: str, cache: Path | None = None, update: Callable[..., None] | None = None
) -> np.ndarray:
    """The sentence embeddings of texts; those that the cache lacks are encoded, each once.

    Args:
        texts: any number; the same one may come several times.
        model: a name on the hub, with or without ``sentence-transformers/``, or a local folder.
        cache: the folder under which vectors are kept. Default: ``text`` in the directory that the environment
            variable ``JAXREC_CACHE`` names, ``~/.cache/jaxrec`` where it is not set; nothing is kept where it is empty.
        update: of ``jaxrec.cli.command.progress``; in all it is moved on by the number of texts.

    Returns:
        float16[n, dim], of length 1 up to rounding, in the order of ``texts``. It does not depend on the other texts
        by more than the last bit of a float16, and not at all once it is in the cache.
    """
    with encoded(texts, model, cache, update) as result:
        return np.asarray(result.vectors[result.rows])


@contextmanager
def encoded(
    texts: Sequence[str], model: str, cache: Path | None = None, update: Callable[..., None] | None = None
) -> Iterator[Encoded]:
    """As ``embed``, with the vectors where they lie: mapped, and gone after the block if none are kept."""
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    keys = _check(texts, place)
    update = update or (lambda advance=1, note="": None)
    with ExitStack() as stack:
        folder, identity = find_model(model, update)
        root = cache or _default_cache() or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrec-")))
        there = open_cache(root / identity)
        rows = there.find(keys)
        missing = [text for text, row in zip(place, rows, strict=True) if row < 0]
        update(len(texts) - len(missing), note="")
        worked = {"encoded": 0, "seconds": 0.0}
        if missing:
            worked |= _run(["encode", str(folder), model, str(root / identity)], missing, update)
            there = open_cache(root / identity)
            rows = there.find(keys)
        if (rows < 0).any():
            raise AssertionError(f"{root / identity}: vectors are missing after encoding")
        by_text = np.fromiter((place[text] for text in texts), np.int64, len(texts))
        yield Encoded(there.vectors, rows[by_text], len(place), int(worked["encoded"]), worked["seconds"], identity)


def _check(texts: Sequence[str], unique: dict[str, int]) -> np.ndarray:
    """The keys of ``unique``, if all can be encoded."""
    if not len(texts):
        raise UserError("texts: there are none; give at least one")
    for text in unique:
        if not isinstance(text, str) or not text.strip() or (not text.isprintable() and _halved(text)):
            what = "is empty" if isinstance(text, str) and not text.strip() else f"is {text!a}, no valid text"
            raise UserError(f"texts: number {list(texts).index(text) + 1} of {len(texts)} {what}; mend or leave it out")
    return text_keys(unique)


def _halved(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _default_cache() -> Path | None:
    place = os.environ.get("JAXREC_CACHE", str(Path.home() / ".cache" / "jaxrec"))
    return Path(place) / "text" if place else None


# --- models -----------------------------------------------------------------------------------------------------------


def find_model(model: str, update: Callable[..., None]) -> tuple[Path, str]:
    """The folder of a model, fetched from the hub where need be, and the name of its vectors' folder in the cache."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not _is_model(folder):
            raise UserError(f"{model}: no sentence-transformers model (modules.json and weights, *.safetensors or "
                            "*.bin); give a folder that SentenceTransformer.save made, or a hub name")  # fmt: skip
        return folder, _hub_identity(folder) or f"folder-{_fingerprint(folder)[:32]}"
    if folder.exists() or not re.fullmatch(HUB_NAME, model):
        raise UserError(f"{model}: no folder of a sentence-transformers model; give one, or a name on the hub, as "
                        f"'{DEFAULT}'")  # fmt: skip
    name = model if "/" in model else f"{ORGANISATION}/{model}"
    hub = _hub_cache()
    found = _snapshot(hub, name)
    if found is None:
        update(0, note=f"fetch {name}")
        _run(["fetch", name, str(hub)], [], update)
        found = _snapshot(hub, name)
        if found is None:
            raise UserError(f"{name}: no sentence-transformers model (it has no modules.json); give another")
    return found, f"{name.replace('/', '--')}-{found.name}"


def _hub_identity(folder: Path) -> str | None:
    """That of a model of the hub whose snapshot was copied here with the folders around it, else None."""
    around = folder.absolute().parent
    if around.name != "snapshots" or not around.parent.name.startswith("models--"):
        return None
    return f"{around.parent.name.removeprefix('models--')}-{folder.name}"


def _hub_cache() -> Path:
    """Where the hub's client keeps models."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{caches}/huggingface")).expanduser() / "hub"


def _snapshot(hub: Path, name: str) -> Path | None:
    """The folder of a hub model in the hub's cache, named after its revision; None where it is not there as a whole."""
    place = hub / f"models--{name.replace('/', '--')}"
    try:
        revision = (place / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = place / "snapshots" / revision
    return folder if _is_model(folder) else None


def _is_model(folder: Path) -> bool:
    return (folder / "modules.json").is_file() and bool(_files(folder, WEIGHTS))


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files under a folder that belong to the model, by name."""
    inside = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in suffixes)
    return [file for file in inside if file.parts[0] not in OTHER_ENGINES and (folder / file).is_file()]


def _fingerprint(folder: Path) -> str:
    """The sha256 of names, sizes and checksums of all that decides what a model makes of a text."""
    lines = [
        f"{checksum(folder / file)} {(folder / file).stat().st_size} {file.as_posix()}\n"
        for file in _files(folder, (*CONFIGURATION, *WEIGHTS))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- the other process ------------------------------------------------------------------------------------------------


def _run(words: list[str], texts: Sequence[str], update: Callable[..., None]) -> dict[str, Any]:
    """Run the worker to its end; returns the figures that it gave last."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(f"sentence-transformers: not installed, and texts are to be encoded; {INSTALL}")
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as complaints:
        names.writelines(json.dumps(text).encode() + b"\n" for text in texts)
        names.seek(0)
        line = [sys.executable, "-W", "ignore", "-m", "jaxrec.data.text.worker", *words]
        with subprocess.Popen(
            line, stdin=names, stdout=subprocess.PIPE, stderr=complaints, env=_environment(words[0])
        ) as process:
            try:
                assert process.stdout is not None
                for answer in process.stdout:
                    message = json.loads(answer)
                    if "error" in message:
                        raise UserError(message["error"])
                    update(message.get("done", 0), note=message["note"])
                    last |= {name: message[name] for name in ("encoded", "seconds") if name in message}
            except BaseException:
                process.kill()  # what it has written stays, and the next call goes on from there
                raise
        if status := process.returncode:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            how = f"was killed by signal {-status}, perhaps for want of memory" if status < 0 else (
                f"ended with status {status} ({lines[-1][:200]})")  # fmt: skip
            raise UserError(f"texts: the process that should {words[0]} {how}; run it again: it goes on where it "
                            "stopped")  # fmt: skip
    return last


def _environment(task: str) -> dict[str, str]:
    paths = [str(Path(jaxrec.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    offline = {"HF_HUB_OFFLINE": "1"} if task == "encode" else {}  # the folder is complete, or the model is no good
    return os.environ | offline | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
