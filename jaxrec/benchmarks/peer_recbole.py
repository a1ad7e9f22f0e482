"""RecBole 1.2.1: its own classes of models under its own ``Trainer._train_epoch``, on batches that lie on the device.

Its ``Config`` and data sets are left out (the former does not start under NumPy 2): the classes get a dictionary and
the numbers of values. So are packages that no step needs: TensorBoard, and what tunes hyperparameters.

What is measured differs from ours where the libraries differ. A sample is one prefix of a session, padded to the
window, with one target; ours reads a session once. GRU4Rec has a full softmax over prefixes here, ours draws negatives.
AutoInt has further projections and a first-order part.
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

MOST = 200  # batches in memory, gone through again and again


def run(spec: dict[str, Any], paced: Callable[..., Any]) -> None:
    """Train until stdin ends.

    Args:
        spec: of ``peers.describe``; ``data`` holds ``items`` int32[n] and ``offsets`` int64[sessions + 1], or for
            AutoInt ``columns`` int32[n, fields], ``labels`` float32[n] and ``sizes`` int64[fields].
        paced: makes a ``peer_worker.Pace`` that answers, from its other arguments.

    Raises:
        ImportError: RecBole, or something else that it imports, is missing.
    """
    _leave_out()
    recbole = importlib.import_module("recbole")
    trainer_class = importlib.import_module("recbole.trainer.trainer").Trainer
    interaction = importlib.import_module("recbole.data.interaction").Interaction
    place, settings = MODELS[spec["model"]]
    module, _, name = place.rpartition(".")
    model_class = getattr(importlib.import_module(f"recbole.model.{module}"), name)

    cuda = spec["device"] == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda:0" if cuda else "cpu")
    config = collections.defaultdict(lambda: None, settings(spec), device=device, single_spec=True)
    with np.load(spec["data"]) as arrays:
        rows = "columns" in arrays
        dataset = _rows(arrays, config) if rows else _sessions(spec["items"])
        batches = list(itertools.islice((_rows_batches if rows else _session_batches)(spec, arrays), MOST))
    model = model_class(config, dataset).to(device)
    trainer = _trainer(trainer_class, config, model, spec["learning_rate"])
    held = [interaction(batch).to(device) for batch in batches]
    ready = {
        "device": torch.cuda.get_device_name(0) if cuda else "cpu", "torch": torch.__version__,
        "version": recbole.__version__,
    }  # fmt: skip
    pace = paced(ready, torch.cuda.synchronize if cuda else lambda: None, lambda steps: None)
    trainer._train_epoch(pace((batch, spec["batch"]) for batch in itertools.cycle(held)), 0)


def _leave_out() -> None:
    """Stand-ins for ``torch.utils.tensorboard`` and for ``recbole.trainer``'s own __init__."""
    found = importlib.util.find_spec("recbole")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("No module named 'recbole'")
    board: Any = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = None
    trainer = types.ModuleType("recbole.trainer")
    trainer.__path__ = [f"{place}/trainer" for place in found.submodule_search_locations]
    sys.modules |= {module.__name__: module for module in (board, trainer)}
    if not hasattr(np, "long"):  # NumPy 1; RecBole's Config would add it
        np.long = np.int_


def _of_rows(spec: dict[str, Any]) -> dict[str, Any]:
    """Our sizes in RecBole's words: a model of rows."""
    return {
        "LABEL_FIELD": "label", "numerical_features": [], "embedding_size": spec["dim"],
        "attention_size": spec["units"], "n_layers": spec["blocks"], "num_heads": spec["heads"],
        "mlp_hidden_size": spec["deep"], "dropout_probs": [0.0, 0.0, 0.0], "has_residual": True,
    }  # fmt: skip


def _of_prefixes(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
        "ITEM_LIST_LENGTH_FIELD": "item_length", "MAX_ITEM_LIST_LENGTH": spec["window"], "loss_type": "CE",
    }  # fmt: skip


def _attentive(spec: dict[str, Any]) -> dict[str, Any]:
    hidden = spec["dropout"][1]
    return _of_prefixes(spec) | {
        "hidden_size": spec["dim"], "inner_size": spec["dim"], "n_layers": spec["blocks"],
        "n_heads": spec["heads"], "hidden_dropout_prob": hidden, "attn_dropout_prob": hidden, "hidden_act": "relu",
        "layer_norm_eps": 1e-12, "initializer_range": 0.02,
    }  # fmt: skip


def _recurrent(spec: dict[str, Any]) -> dict[str, Any]:
    return _of_prefixes(spec) | {
        "embedding_size": spec["dim"], "hidden_size": spec["units"], "n_layers": 1, "num_layers": 1,
        "dropout_probs": spec["dropout"], "dropout_prob": spec["dropout"][0],
    }  # fmt: skip


MODELS = {
    "narm": ("sequential_recommender.narm.NARM", _recurrent),
    "sasrec": ("sequential_recommender.sasrec.SASRec", _attentive),
    "gru4rec": ("sequential_recommender.gru4rec.GRU4Rec", _recurrent),
    "autoint": ("context_aware_recommender.autoint.AutoInt", _of_rows),
}
"""Our models: RecBole's classes, and what makes their settings."""


def _sessions(n_items: int) -> Any:
    """What a model asks of a data set: how many items, of which 0 is padding."""
    return types.SimpleNamespace(num=lambda field: n_items + 1)


def _rows(arrays: Any, config: dict[str, Any]) -> Any:
    """The same for rows: their fields, all categorical, with the number of their values."""
    kind = importlib.import_module("recbole.utils").FeatureType.TOKEN
    sizes = {f"field_{i}": int(size) for i, size in enumerate(arrays["sizes"])}
    return types.SimpleNamespace(
        fields=lambda source=None: list(sizes), num=sizes.__getitem__, field2type=dict.fromkeys(sizes, kind)
    )


def _session_batches(spec: dict[str, Any], arrays: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Prefixes with the click that follows, shuffled; of long ones the last ``window`` clicks."""
    items, offsets, window = arrays["items"].astype(np.int64) + 1, arrays["offsets"], spec["window"]
    position = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets))
    targets = np.random.default_rng(0).permutation(np.flatnonzero(position))
    for begin in range(0, len(targets) - spec["batch"] + 1, spec["batch"]):
        target = targets[begin : begin + spec["batch"], None]
        length = np.minimum(position[target], window)
        column = np.arange(window)
        place = np.minimum(target - length + column, len(items) - 1)
        batch = {"item_id_list": np.where(column < length, items[place], 0), "item_length": length[:, 0]}
        yield {name: torch.from_numpy(a) for name, a in (batch | {"item_id": items[target[:, 0]]}).items()}


def _rows_batches(spec: dict[str, Any], arrays: Any) -> Iterator[dict[str, torch.Tensor]]:
    columns, labels, size = torch.from_numpy(arrays["columns"]), torch.from_numpy(arrays["labels"]), spec["batch"]
    for begin in range(0, len(labels) - size + 1, size):
        part = slice(begin, begin + size)
        yield {f"field_{i}": columns[part, i].long() for i in range(columns.shape[1])} | {"label": labels[part]}


def _trainer(trainer_class: Any, config: dict[str, Any], model: Any, learning_rate: float) -> Any:
    """A trainer with what its training step reads, RecBole's defaults; its __init__ would open logs and folders."""
    trainer = trainer_class.__new__(trainer_class)
    vars(trainer).update(
        config=config, model=model, device=config["device"], learner="adam", learning_rate=learning_rate,
        weight_decay=0.0, clip_grad_norm=None, enable_amp=False, enable_scaler=False, gpu_available=False,
    )  # fmt: skip
    trainer.optimizer = trainer._build_optimizer()
    return trainer
