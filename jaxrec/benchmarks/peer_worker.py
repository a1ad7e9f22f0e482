"""The process of the authors' PyTorch code of GRU4Rec: its own ``fit`` on its own iterator, unchanged, from the user's
checkout, run so many steps at a time as a line on stdin says.

Torch and JAX both want all threads and the whole device, so it has a process of its own, started by ``peers`` with an
interpreter of the user's; this file imports nothing of jaxrec.

    stdin    the number of steps of the next round, a line each; its end ends the process
    stdout   one line of JSON for each: {"device", "torch"} when ready, then {"steps", "targets", "seconds"}.
             What the authors' code prints goes to stderr
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

STORE = 10_000_000  # most negatives in the store of the authors' code: its default


class Pace:
    """Hands batches to a loop, as many as stdin asks for, and answers (``say``) with how long it took over them.

    The clock runs from the moment at which the loop is given the first batch of a round until it comes for another.
    ``finish`` returns when the device is done; ``before`` is called with the number of steps before the clock starts.
    """

    def __init__(self, say: Callable[..., None], finish: Callable[[], object], ready: dict[str, str]) -> None:
        self.say, self.finish, self.ready = say, finish, ready
        self._asked = self._left = self._targets = 0
        self._begin = 0.0

    def __call__(self, batches: Iterable[Any], before: Callable[[int], object]) -> Iterator[Any]:
        """From batches of inputs and targets; rounds go on where a call follows another."""
        for batch in batches:
            if not self._left:
                self._next_round(before)
            self._left -= 1
            self._targets += len(batch[0])
            yield batch

    def _next_round(self, before: Callable[[int], object]) -> None:
        self.finish()
        seconds = time.perf_counter() - self._begin
        done = {"steps": self._asked, "targets": self._targets, "seconds": seconds}
        self.say(**(done if self._asked else self.ready))
        line = sys.stdin.readline()
        if not line:  # the parent has had enough, or is no more
            raise SystemExit(0)
        self._asked = self._left = int(line)
        self._targets = 0
        before(self._asked)
        self.finish()
        self._begin = time.perf_counter()


def run(spec: dict[str, Any], items: np.ndarray, offsets: np.ndarray, pace: Pace, device: Any) -> None:
    """Train without end.

    What is not a step is not charged: making the model and the iterator, filling its store of negatives (which is
    filled between rounds, where it would not last for the next), and the end of an epoch, at which fewer and fewer
    lanes are in use. The next epoch starts as soon as a lane has no session left.
    """
    sys.path.insert(0, spec["path"])
    authors: Any = importlib.import_module("gru4rec_pytorch")
    batch = spec["batch"]

    class Paced(authors.SessionDataIterator):
        def __call__(self, enable_neg_samples: bool, reset_hook: Callable[..., bool]) -> Iterator[Any]:
            store = getattr(self, "sample_cache", None)

            def fill(steps: int) -> None:  # one batch ahead, the iterator has asked already
                if store is not None and store.sample_pointer + steps > store.generate_length:
                    store._refresh()

            def hook(n_valid: int, *masks: Any) -> bool:
                return reset_hook(n_valid, *masks) or n_valid < batch

            return pace(super().__call__(enable_neg_samples, hook), fill)

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
    ready = {"device": torch.cuda.get_device_name(0) if cuda else "cpu", "torch": torch.__version__}
    pace = Pace(say, torch.cuda.synchronize if cuda else lambda: None, ready)
    run(spec, items, offsets, pace, torch.device("cuda:0" if cuda else "cpu"))


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, which is none of the peer's
    main(sys.argv[1])
