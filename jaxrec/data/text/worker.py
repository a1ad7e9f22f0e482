"""The process that encodes texts, started by encoding.py, or fetches a model from the hub.

Torch and JAX both want the whole device, so that encoding has a process of its own. It writes parts of the cache
itself (cache.py) and says on stdout, in lines of JSON, how far it is. A process that is killed loses what it has
encoded since its last part: a tenth of its time, a minute at most.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.text.cache import text_keys, write_part
from jaxrec.errors import UserError, one_line

FLUSH = 1.0, 60.0  # seconds between two parts: a tenth of those that have passed, at least and at most these
BUDGET = {"cpu": 4096}  # characters of a batch, padding included; 2,048 to 8,192 take the same time on two cores
LARGE_BUDGET = 131_072  # and on an accelerator less does not fill it
MOST = 4096  # characters after which the length of a text makes no difference to the batches
INSTALL = "pip install 'jaxrec[text]'"
UNUSED = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.ckpt", "*.md", "*.png", ".gitattributes")


def batches(lengths: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Parts of similar length, the longest texts first, so that memory that does not suffice shows at once.

    Args:
        lengths: characters of each text.
        budget: most characters of a batch when all are padded to its longest; a longer text is a batch of its own.
            Nor is any padded to more than twice its length.

    Yields:
        int64[b]: which texts; every text is in one batch.
    """
    length = np.clip(np.asarray(lengths, np.int64), 1, MOST)
    order = np.argsort(-length, kind="stable")
    start = 0
    while start < len(order):
        longest = int(length[order[start]])
        alike = int(np.searchsorted(-2 * length[order], -longest, side="right"))
        end = min(alike, start + max(1, budget // longest))
        yield order[start:end]
        start = end


def encode(model: Path, name: str, cache: Path, texts: list[str], say: Callable[..., None]) -> None:
    """Encode ``texts`` into ``cache``, and tell how many are done since the last time, and how fast."""
    say(note="load the model")
    try:
        from sentence_transformers import SentenceTransformer

        transformer = SentenceTransformer(str(model))
    except Exception as error:
        raise UserError(f"{name}: cannot be loaded ({one_line(str(error), 200)}); mend or remove {model}, give "
                        f"another, or {INSTALL}") from None  # fmt: skip
    keys, budget = text_keys(texts), BUDGET.get(transformer.device.type, LARGE_BUDGET)
    started, flushed, done = time.monotonic(), -np.inf, 0
    vectors: list[np.ndarray] = []
    pending: list[np.ndarray] = []
    for part in batches([len(text) for text in texts], budget):
        pending.append(part)
        vectors.append(_encoded(transformer, name, [texts[i] for i in part]))
        done += len(part)
        seconds = time.monotonic() - started
        if done < len(texts) and time.monotonic() - flushed < np.clip(0.1 * seconds, *FLUSH):
            continue
        write_part(cache, keys[np.concatenate(pending)], np.concatenate(vectors))
        say(done=sum(map(len, pending)), note=f"{done / seconds:,.0f} texts/s", encoded=done, seconds=seconds)
        vectors, pending, flushed = [], [], time.monotonic()


def _encoded(transformer: Any, name: str, texts: list[str]) -> np.ndarray:
    """float32[n, dim], of length 1."""
    try:
        vectors = transformer.encode(
            texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
        )
    except Exception as error:
        raise UserError(f"{name}: fails to encode ({one_line(str(error), 200)}); give another model or, where memory "
                        "does not suffice, use python -m jaxrec.text while nothing else uses it") from None  # fmt: skip
    if not np.isfinite(vectors).all():
        raise UserError(f"{name}: gives vectors that are not finite; give another model")
    return np.asarray(vectors, np.float32)


def fetch(name: str, place: Path) -> None:
    """Bring a model of the hub to the hub's cache ``place``."""
    try:
        from huggingface_hub import HfApi, snapshot_download

        # Asked once before anything is fetched: fetching tries again and again for minutes where there is no network.
        files = [file.rfilename for file in HfApi().model_info(name, timeout=10).siblings or []]
        double = ["*.bin"] if any(file.endswith(".safetensors") for file in files) else []
        snapshot_download(name, cache_dir=place, ignore_patterns=[*UNUSED, *double])
    except Exception as error:  # of whichever network library the hub's client is built on
        raise UserError(f"{name}: not here, and the hub does not give it ({one_line(str(error), 200)}); check the "
                        "name, go online, log in if it asks for that, or give a local folder (--model FOLDER)"
                        ) from None  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """``encode MODEL NAME CACHE`` (texts on stdin, one JSON string a line) or ``fetch NAME PLACE``."""
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
        say(error=f"{error.filename}: {error.strerror or error}; free or choose another place (JAXREC_CACHE)")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
