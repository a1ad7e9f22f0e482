"""The authors' PyTorch code of GRU4Rec, from the user's checkout: its own ``fit`` on its own iterator, both unchanged.

What is not its step is not charged to it: making the model and the iterator, filling its store of negatives (which is
filled between rounds, where it would not last for the next), and the end of an epoch, at which fewer and fewer lanes
are in use. The next epoch starts as soon as a lane has no session left.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

STORE = 10_000_000  # most negatives in the store: the code's default
LOSSES = {"cross_entropy": "cross-entropy", "bpr_max": "bpr-max"}
FOREVER = 1_000_000_000


def run(spec: dict[str, Any], paced: Callable[..., Any]) -> None:
    """Train until stdin ends.

    Args:
        spec: of ``peers.describe``; ``data`` holds ``items`` int32[n] and ``offsets`` int64[sessions + 1].
        paced: makes a ``peer_worker.Pace`` that answers, from its other arguments.

    Raises:
        ImportError: pandas, or something else that the code imports, is missing.
    """
    sys.path.insert(0, spec["path"])
    authors: Any = importlib.import_module("gru4rec_pytorch")
    cuda = spec["device"] == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda:0" if cuda else "cpu")
    store, batch = _Store(), spec["batch"]
    ready = {
        "device": torch.cuda.get_device_name(0) if cuda else "cpu", "torch": torch.__version__, "version": "",
    }  # fmt: skip
    pace = paced(ready, torch.cuda.synchronize if cuda else lambda: None, store.last_for)

    class Paced(authors.SessionDataIterator):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            store.cache = getattr(self, "sample_cache", None)

        def __call__(self, enable_neg_samples: bool, reset_hook: Callable[..., bool]) -> Iterator[Any]:
            def hook(n_valid: int, *masks: Any) -> bool:
                return reset_hook(n_valid, *masks) or n_valid < batch

            pairs = super().__call__(enable_neg_samples, hook)
            return pace((pair, len(pair[0])) for pair in pairs)

    authors.SessionDataIterator = Paced
    model = authors.GRU4Rec(
        layers=[spec["units"]], loss=LOSSES[spec["loss"]], batch_size=batch, learning_rate=spec["learning_rate"],
        dropout_p_embed=0.0, dropout_p_hidden=0.0, momentum=0.0, sample_alpha=spec["sample_alpha"],
        n_sample=spec["n_sample"], embedding=0, constrained_embedding=True, n_epochs=FOREVER, bpreg=spec["bpreg"],
        elu_param=0.0, logq=0.0, device=device,
    )  # fmt: skip
    # Enough for all rounds, the one that does not count, and the batch ahead; but for one round at least.
    least, most = 1 + spec["steps"], 1 + spec["steps"] * (1 + spec["rounds"])
    size = max(spec["n_sample"] * least, min(STORE, spec["n_sample"] * most))
    with np.load(spec["data"]) as arrays:
        frame = _frame(arrays["items"], arrays["offsets"], spec["items"])
    # Weights as in the Theano code, its default, come out in float64 under NumPy 2.
    model.fit(frame, sample_cache_max_size=size, compatibility_mode=False)
    raise RuntimeError("the authors' code has stopped: the loss is not a number")


class _Store:
    """The code's store of negatives, once there is one."""

    cache: Any = None

    def last_for(self, steps: int) -> None:
        """Fill it anew unless it lasts for so many steps; one batch ahead, the iterator has asked already."""
        if self.cache is not None and self.cache.sample_pointer + steps > self.cache.generate_length:
            self.cache._refresh()


def _frame(items: np.ndarray, offsets: np.ndarray, n_items: int) -> Any:
    """The sessions as the code wants them, and last a session of all items that they lack, so that the catalogue has as
    many as ours; an epoch ends before it."""
    sessions = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    lacking = np.setdiff1d(np.arange(n_items, dtype=items.dtype), items)
    if len(lacking) == 1:
        lacking = np.repeat(lacking, 2)  # a session has two clicks at least
    last = np.full(len(lacking), len(offsets) - 1)
    every = np.concatenate([sessions, last])
    return importlib.import_module("pandas").DataFrame(
        {"SessionId": every, "ItemId": np.concatenate([items, lacking]), "Time": every}
    )
