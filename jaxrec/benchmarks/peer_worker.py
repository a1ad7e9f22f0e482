"""The process of the authors' PyTorch code of GRU4Rec: its own ``fit`` on its own iterator, unchanged, started by
``peers`` with the user's interpreter; this file imports nothing of jaxrec.

    stdin    the number of steps of the next round, a line each; its end ends the process
    stdout   one line of JSON for each: {"device", "torch"} at first, then {"steps", "targets", "seconds"}
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

STORE = 10_000_000  # most negatives in the store of the authors' code: its default


def run(
    spec: dict[str, Any], items: np.ndarray, offsets: np.ndarray, say: Callable[..., None],
    finish: Callable[[], object], device: Any,
) -> None:  # fmt: skip
    """Train without end, so many batches at a time as stdin asks for, and ``say`` how long they took: from the first
    batch of a round until the loop comes for another and ``finish`` says that the device is done. Making the model,
    filling the store of negatives and the end of an epoch, where lanes run out, are not charged."""
    sys.path.insert(0, spec["path"])
    authors: Any = importlib.import_module("gru4rec_pytorch")
    batch, asked, left, targets, begin = spec["batch"], 0, 0, 0, 0.0

    class Paced(authors.SessionDataIterator):
        def __call__(self, enable_neg_samples: bool, reset_hook: Callable[..., bool]) -> Iterator[Any]:
            nonlocal asked, left, targets, begin

            def hook(n_valid: int, *masks: Any) -> bool:
                return reset_hook(n_valid, *masks) or n_valid < batch

            for pair in super().__call__(enable_neg_samples, hook):
                if not left:
                    finish()
                    seconds = time.perf_counter() - begin
                    if asked:
                        say(steps=asked, targets=targets, seconds=seconds)
                    if not (line := sys.stdin.readline()):  # the parent has had enough, or is no more
                        raise SystemExit(0)
                    asked = left = int(line)
                    store, targets = getattr(self, "sample_cache", None), 0
                    if store is not None and store.sample_pointer + asked > store.generate_length:
                        store._refresh()  # one batch ahead, the iterator has asked already
                    finish()
                    begin = time.perf_counter()
                left, targets = left - 1, targets + len(pair[0])
                yield pair

    authors.SessionDataIterator = Paced
    model = authors.GRU4Rec(
        layers=[spec["units"]], loss=spec["loss"].replace("_", "-"), batch_size=batch, bpreg=spec["bpreg"],
        learning_rate=spec["learning_rate"], dropout_p_embed=0.0, dropout_p_hidden=0.0, momentum=0.0,
        sample_alpha=spec["sample_alpha"], n_sample=spec["n_sample"], embedding=0, constrained_embedding=True,
        n_epochs=1_000_000_000, elu_param=0.0, logq=0.0, device=device,
    )  # fmt: skip
    # A last session of all items that the others lack, so that the catalogue has as many as ours; an epoch ends before.
    lacking = np.setdiff1d(np.arange(spec["items"], dtype=items.dtype), items)
    lacking = np.repeat(lacking, 2) if len(lacking) == 1 else lacking  # a session has two clicks at least
    sessions = np.repeat(np.arange(len(offsets)), [*np.diff(offsets), len(lacking)])
    columns = {"SessionId": sessions, "ItemId": np.concatenate([items, lacking]), "Time": sessions}
    # Enough for all rounds, the one that does not count, and the batch ahead; but for one round at least.
    least, most = 1 + spec["steps"], 1 + spec["steps"] * (1 + spec["rounds"])
    size = max(spec["n_sample"] * least, min(STORE, spec["n_sample"] * most))
    # Weights as in the Theano code, its default (compatibility_mode), come out in float64 under NumPy 2.
    frame = importlib.import_module("pandas").DataFrame(columns)
    model.fit(frame, sample_cache_max_size=size, compatibility_mode=False)
    raise RuntimeError("the authors' code has stopped: the loss is not a number")


def main(spec_file: str) -> None:
    """Train as a JSON file says (see ``peers.describe``) until stdin ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches this process too: end without a word
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: object) -> None:
        print(json.dumps(message), file=answers, flush=True)

    with open(spec_file, encoding="utf-8") as stream, np.load("data.npz") as arrays:
        spec, items, offsets = json.load(stream), arrays["items"], arrays["offsets"]
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    cuda = spec["device"] == "gpu" and torch.cuda.is_available()
    say(device=torch.cuda.get_device_name(0) if cuda else "cpu", torch=torch.__version__)
    finish = torch.cuda.synchronize if cuda else lambda: None
    run(spec, items, offsets, say, finish, torch.device("cuda:0" if cuda else "cpu"))


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, which is none of the peer's
    main(sys.argv[1])
