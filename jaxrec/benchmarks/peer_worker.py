"""The process of a peer: a training loop that is not ours, run so many steps at a time as a line on stdin says.

Torch and JAX both want all threads and the whole device, so a peer has a process of its own, started by ``peers`` with
the peer's interpreter; this file imports nothing of jaxrec. A peer's own loop runs, on batches that ``Pace`` hands it.

    stdin    the number of steps of the next round, a line each; its end ends the process
    stdout   one line of JSON for each: {"device", "torch", "version"} when ready, then {"steps", "targets", "seconds"}.
             What the peer prints goes to stderr
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import itertools
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

STORE = 10_000_000  # most negatives in the store of the authors' code: its default
MOST = 200  # batches in memory, gone through again and again


class Pace:
    """Hands batches to a loop, as many as stdin asks for, and answers (``say``) with how long it took over them.

    The clock runs from the moment at which the loop is given the first batch of a round until it comes for another.
    ``finish`` returns when the device is done; ``before`` is called with the number of steps before the clock starts.
    """

    def __init__(self, say: Callable[..., None], finish: Callable[[], object], ready: dict[str, str]) -> None:
        self.say, self.finish, self.ready = say, finish, ready
        self.before: Callable[[int], object] = lambda steps: None
        self._asked = self._left = self._targets = 0
        self._begin = 0.0

    def __call__(self, batches: Iterable[tuple[Any, int]]) -> Iterator[Any]:
        """From batches, each with the number of its targets; rounds go on where a call follows another."""
        for batch, targets in batches:
            if not self._left:
                self._next_round()
            self._left -= 1
            self._targets += targets
            yield batch

    def _next_round(self) -> None:
        self.finish()
        seconds = time.perf_counter() - self._begin
        done = {"steps": self._asked, "targets": self._targets, "seconds": seconds}
        self.say(**(done if self._asked else self.ready))
        line = sys.stdin.readline()
        if not line:  # the parent has had enough, or is no more
            raise SystemExit(0)
        self._asked = self._left = int(line)
        self._targets = 0
        self.before(self._asked)
        self.finish()
        self._begin = time.perf_counter()


def run_authors(spec: dict[str, Any], data: Any, pace: Pace, device: Any) -> None:
    """The authors' PyTorch code of GRU4Rec: its own ``fit`` on its own iterator, unchanged, from the user's checkout.

    What is not its step is not charged to it: making the model and the iterator, filling its store of negatives (which
    is filled between rounds, where it would not last for the next), and the end of an epoch, at which fewer and fewer
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

            pace.before = fill
            return pace((pair, len(pair[0])) for pair in super().__call__(enable_neg_samples, hook))

    authors.SessionDataIterator = Paced
    model = authors.GRU4Rec(
        layers=[spec["units"]], loss=spec["loss"].replace("_", "-"), batch_size=batch, bpreg=spec["bpreg"],
        learning_rate=spec["learning_rate"], dropout_p_embed=0.0, dropout_p_hidden=0.0, momentum=0.0,
        sample_alpha=spec["sample_alpha"], n_sample=spec["n_sample"], embedding=0, constrained_embedding=True,
        n_epochs=1_000_000_000, elu_param=0.0, logq=0.0, device=device,
    )  # fmt: skip
    # A last session of all items that the others lack, so that the catalogue has as many as ours; an epoch ends before.
    items, offsets = data["items"], data["offsets"]
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


MODELS = {
    "narm": ("sequential_recommender.narm", "NARM"),
    "sasrec": ("sequential_recommender.sasrec", "SASRec"),
    "gru4rec": ("sequential_recommender.gru4rec", "GRU4Rec"),
    "autoint": ("context_aware_recommender.autoint", "AutoInt"),
}


def run_recbole(spec: dict[str, Any], data: Any, pace: Pace, device: Any) -> None:
    """RecBole 1.2.1's classes of models under its own ``Trainer._train_epoch``, on batches that lie on the device.

    Its ``Config`` and data sets are left out (the former does not start under NumPy 2): the classes get a dictionary
    and the numbers of values. So are TensorBoard, and what tunes hyperparameters. Where the libraries differ, so does
    what is measured: a sample is one prefix of a session, padded to the window, with one target, where ours reads a
    session once; GRU4Rec has a full softmax, where ours draws negatives; AutoInt has further projections.
    """
    found = importlib.util.find_spec("recbole")
    assert found is not None and found.submodule_search_locations is not None, "No module named 'recbole'"
    board: Any = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = None
    package = types.ModuleType("recbole.trainer")
    package.__path__ = [f"{place}/trainer" for place in found.submodule_search_locations]
    sys.modules |= {module.__name__: module for module in (board, package)}
    np.long = getattr(np, "long", np.int_)  # of NumPy 2; RecBole's Config would add it to 1
    pace.ready["version"] = importlib.import_module("recbole").__version__
    module, name = MODELS[spec["model"]]
    settings = collections.defaultdict(lambda: None, _settings(spec), device=device, single_spec=True)
    sizes = {f"field_{i}": int(size) for i, size in enumerate(data["sizes"])} if "sizes" in data else {}
    kind = importlib.import_module("recbole.utils").FeatureType.TOKEN if sizes else None
    dataset = types.SimpleNamespace(  # what a model asks of one; of items, 0 is padding
        fields=lambda source=None: list(sizes), num=lambda field: sizes.get(field, spec["items"] + 1),
        field2type=dict.fromkeys(sizes, kind),
    )  # fmt: skip
    model = getattr(importlib.import_module(f"recbole.model.{module}"), name)(settings, dataset).to(device)
    kinds = importlib.import_module("recbole.trainer.trainer")
    trainer = kinds.Trainer.__new__(kinds.Trainer)  # its __init__ would open logs and folders
    vars(trainer).update(
        config=settings, model=model, device=device, learner="adam", learning_rate=spec["learning_rate"],
        weight_decay=0.0, clip_grad_norm=None, enable_amp=False, enable_scaler=False, gpu_available=False,
    )  # fmt: skip
    trainer.optimizer = trainer._build_optimizer()
    interaction = importlib.import_module("recbole.data.interaction").Interaction
    batches = itertools.islice((_row_batches if sizes else _session_batches)(spec, data), MOST)
    held = [interaction(batch).to(device) for batch in batches]
    trainer._train_epoch(pace((batch, spec["batch"]) for batch in itertools.cycle(held)), 0)


def _settings(spec: dict[str, Any]) -> dict[str, Any]:
    """Our sizes in RecBole's words; a model reads its own."""
    (embedding, hidden), rows, blocks = spec["dropout"], spec["model"] == "autoint", spec.get("blocks", 1)
    return {
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
        "ITEM_LIST_LENGTH_FIELD": "item_length", "MAX_ITEM_LIST_LENGTH": spec["window"], "loss_type": "CE",
        "LABEL_FIELD": "label", "numerical_features": [], "embedding_size": spec["dim"], "inner_size": spec["dim"],
        "hidden_size": spec["dim" if spec["model"] == "sasrec" else "units"], "attention_size": spec["units"],
        "n_layers": blocks, "num_layers": 1, "n_heads": spec.get("heads"), "num_heads": spec.get("heads"),
        "mlp_hidden_size": spec.get("deep"), "dropout_probs": [0.0, 0.0, 0.0] if rows else spec["dropout"],
        "dropout_prob": embedding, "hidden_dropout_prob": hidden, "attn_dropout_prob": hidden, "hidden_act": "relu",
        "layer_norm_eps": 1e-12, "initializer_range": 0.02, "has_residual": True,
    }  # fmt: skip


def _session_batches(spec: dict[str, Any], data: Any) -> Iterator[dict[str, Any]]:
    """Prefixes with the click that follows, shuffled; of long ones the last ``window`` clicks."""
    import torch

    items, offsets, window = data["items"].astype(np.int64) + 1, data["offsets"], spec["window"]
    position = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets))
    targets = np.random.default_rng(0).permutation(np.flatnonzero(position))
    for begin in range(0, len(targets) - spec["batch"] + 1, spec["batch"]):
        target, column = targets[begin : begin + spec["batch"], None], np.arange(window)
        length = np.minimum(position[target], window)
        place = np.minimum(target - length + column, len(items) - 1)
        batch = {"item_id_list": np.where(column < length, items[place], 0), "item_length": length[:, 0]}
        yield {name: torch.from_numpy(a) for name, a in (batch | {"item_id": items[target[:, 0]]}).items()}


def _row_batches(spec: dict[str, Any], data: Any) -> Iterator[dict[str, Any]]:
    import torch

    columns, labels = torch.from_numpy(data["columns"]), torch.from_numpy(data["labels"])
    for begin in range(0, len(labels) - spec["batch"] + 1, spec["batch"]):
        part = slice(begin, begin + spec["batch"])
        yield {f"field_{i}": columns[part, i].long() for i in range(columns.shape[1])} | {"label": labels[part]}


def main(spec_file: str) -> None:
    """Run the peer that a JSON file describes (see ``peers.describe``) until stdin ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches this process too: end without a word
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: object) -> None:
        print(json.dumps(message), file=answers, flush=True)

    with open(spec_file, encoding="utf-8") as stream, np.load("data.npz") as arrays:
        spec, data = json.load(stream), dict(arrays)
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    cuda = spec["device"] == "gpu" and torch.cuda.is_available()
    ready = {"device": torch.cuda.get_device_name(0) if cuda else "cpu", "torch": torch.__version__, "version": ""}
    pace = Pace(say, torch.cuda.synchronize if cuda else lambda: None, ready)
    run = run_recbole if spec["peer"] == "recbole" else run_authors
    run(spec, data, pace, torch.device("cuda:0" if cuda else "cpu"))


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, which is none of the peer's
    main(sys.argv[1])
