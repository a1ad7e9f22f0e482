"""Sentence embeddings of texts: encoded once by a sentence-transformers model, and kept.

What the cache lacks is encoded in another process (worker.py): the process that calls never imports torch. The cache
knows a model of the hub by its name and revision, and one in a folder by what its files hold. A model of the hub that
was fetched once is used as it is; nobody asks the hub again.
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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxrec
from jaxrec.data.store import checksum
from jaxrec.data.text.cache import read_cache, text_keys
from jaxrec.data.text.worker import INSTALL
from jaxrec.errors import UserError

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
CONFIGURATION = (".json", ".txt", ".model", ".py")  # with vocabularies
OTHER_ENGINES = ("onnx", "openvino")  # folders with weights that are not used
HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"


class Encoded(NamedTuple):
    """Texts and where their vectors are."""

    vectors: np.ndarray  # float16[unique, dim], of length 1
    rows: np.ndarray  # int64[n], the vector of each text
    unique: int  # distinct texts
    new: int  # those of them that had to be encoded,
    seconds: float  # which took so long without loading the model
    identity: str  # of the model: the name of its folder in the cache


def embed(
    texts: Sequence[str], model: str, cache: Path | None = None, update: Callable[..., None] | None = None
) -> np.ndarray:
    """The sentence embeddings of texts; those that the cache lacks are encoded, each once.

    Args:
        model: a name on the hub, with or without ``sentence-transformers/``, or a local folder.
        cache: the folder under which vectors are kept. Default: ``text`` in the directory that the environment
            variable ``JAXREC_CACHE`` names, ``~/.cache/jaxrec`` where it is not set; nothing is kept where it is empty.
        update: of ``jaxrec.cli.command.progress``; in all it is moved on by the number of texts.

    Returns:
        float16[n, dim], of length 1 up to rounding, in the order of ``texts``. It does not depend on the other texts
        by more than the last bit of a float16, and not at all once it is in the cache.
    """
    result = encoded(texts, model, cache, update)
    return result.vectors[result.rows]


def encoded(
    texts: Sequence[str], model: str, cache: Path | None = None, update: Callable[..., None] | None = None
) -> Encoded:
    """As ``embed``, with a vector for each distinct text."""
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    odd = [
        text for text in place if not isinstance(text, str) or not text.strip() or re.search("[\ud800-\udfff]", text)
    ]
    if odd or not place:
        which = f"number {list(texts).index(odd[0]) + 1} of {len(texts)} is {odd[0]!a}" if odd else "there are none"
        raise UserError(f"texts: {which}, expected text that is not empty; mend or leave it out")
    keys = text_keys(place)
    update = update or (lambda advance=1, note="": None)
    with ExitStack() as stack:
        folder, identity = find_model(model, update)
        default = os.environ.get("JAXREC_CACHE", str(Path.home() / ".cache" / "jaxrec"))
        root = cache or (Path(default) / "text" if default else
                         Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrec-"))))  # fmt: skip
        vectors, known = read_cache(root / identity, keys)
        missing = [text for text, there in zip(place, known, strict=True) if not there]
        update(len(texts) - len(missing), note="")
        figures = {"encoded": 0, "seconds": 0.0}
        if missing:
            figures |= _run(["encode", str(folder), model, str(root / identity)], missing, update)
            vectors, known = read_cache(root / identity, keys)
        if not known.all():
            raise AssertionError(f"{root / identity}: vectors are missing after encoding")
        by_text = np.fromiter((place[text] for text in texts), np.int64, len(texts))
        return Encoded(vectors, by_text, len(place), int(figures["encoded"]), figures["seconds"], identity)


# --- models -----------------------------------------------------------------------------------------------------------


def find_model(model: str, update: Callable[..., None]) -> tuple[Path, str]:
    """The folder of a model, fetched from the hub where need be, and the name of its vectors' folder in the cache."""
    folder = Path(model).expanduser()
    if folder.is_dir() and _is_model(folder):
        around = folder.absolute().parent  # of a model of the hub whose snapshot was copied with the folders around it
        if around.name == "snapshots" and around.parent.name.startswith("models--"):
            return folder, f"{around.parent.name.removeprefix('models--')}-{folder.name}"
        return folder, f"folder-{_fingerprint(folder)[:32]}"
    if folder.exists() or not re.fullmatch(HUB_NAME, model):
        raise UserError(f"{model}: no sentence-transformers model (modules.json and weights, *.safetensors or *.bin); "
                        f"give a folder that SentenceTransformer.save made, or a hub name, as '{DEFAULT}'"
                        )  # fmt: skip
    name = model if "/" in model else f"sentence-transformers/{model}"
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{caches}/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    found = _snapshot(hub, name)
    if found is None:
        update(0, note=f"fetch {name}")
        _run(["fetch", name, str(hub)], [], update)
        found = _snapshot(hub, name)
    if found is None:
        raise UserError(f"{name}: no sentence-transformers model (it has no modules.json); give another")
    return found, f"{name.replace('/', '--')}-{found.name}"


def _snapshot(hub: Path, name: str) -> Path | None:
    """The folder of a hub model in the hub's cache, named after its revision; None where it is not there as a whole."""
    place = hub / f"models--{name.replace('/', '--')}"
    try:
        folder = place / "snapshots" / (place / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
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
    paths = [str(Path(jaxrec.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if words[0] == "encode" else {}  # the folder is complete, or no good
    line = [sys.executable, "-W", "ignore", "-m", "jaxrec.data.text.worker", *words]
    with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as complaints:
        names.writelines(json.dumps(text).encode() + b"\n" for text in texts)
        names.seek(0)
        with subprocess.Popen(line, stdin=names, stdout=subprocess.PIPE, stderr=complaints, env=environment) as process:
            try:
                for answer in process.stdout or ():
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
            said = (complaints.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:200]
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status} ({said})"
            raise UserError(f"texts: the process that should {words[0]} {how}; run it again, perhaps with more memory: "
                            "it goes on where it stopped")  # fmt: skip
    return last
