"""Where the search begins and which way it goes: settings of each model (from ``configs/``), of each baseline, and the
changes that are tried one at a time. A model that is not named here begins as its kind does."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

from jaxrec.config import find_model, losses_of

Sections = dict[str, dict[str, Any]]


class Size(NamedTuple):
    """What settings depend on."""

    targets: int  # of training, or rows
    items: int


# ---- baselines: a few settings each, the first the default -----------------------------------------------------------

SESSION_BASELINES = {
    "pop": ["pop"],
    "spop": ["spop"],
    "returns": ["returns"],
    "itemknn": ["itemknn", "itemknn:alpha=0.5,decay=0.8", "itemknn:decay=0.1", "itemknn:alpha=0.5,decay=0"],
    "vsknn": ["vsknn", "vsknn:k=500", "vsknn:decay=harmonic,vote_decay=none", "vsknn:idf=0"],
    "stan": ["stan", "stan:lambda2=0", "stan:lambda2=20", "stan:lambda1=2.5,lambda3=6", "stan:k=100"],
}
CLICK_BASELINES = {
    "popularity": ["popularity"],
    "item_mean": ["item_mean", "item_mean:shrink=20"],
    "bias": ["bias", "bias:reg_user=3", "bias:reg_user=30,reg_item=10"],
    "als": ["als", "als:factors=8,reg=2.5", "als:factors=4,reg=5"],
    "logistic": ["logistic"],
}
RETRIEVAL_BASELINES = {
    "popularity": ["popularity"],
    "item-knn": ["item-knn", "item-knn:k=400", "item-knn:k=20", "item-knn:shrink=10"],
    "als": ["als:factors=64", "als:factors=64,alpha=20", "als:factors=32,alpha=3", "als"],
}

# ---- models: where the search begins ---------------------------------------------------------------------------------

KINDS: dict[str, Sections] = {
    "sessions": {
        "data": {"order": "time"},
        "model": {"embedding_dim": 128, "layers": [128], "blocks": 2, "heads": 2, "temperature": 16.0,
                  "dropout_embedding": 0.25, "dropout_hidden": 0.25},
        "loss": {"name": "cross_entropy", "n_sample": 2048, "sample_alpha": 0.5, "logq": 1.0},
        "optimizer": {"name": "adam", "learning_rate": 0.002, "schedule": "linear"},
        "training": {"epochs": 8, "batch_size": 512, "early_stopping": 2},
    },
    "clicks": {
        "model": {"embedding_dim": 16, "blocks": 2, "heads": 2, "attention_dim": 32},
        "loss": {"name": "binary", "embedding_l2": 100, "embedding_l2_power": 1},
        "optimizer": {"name": "adam", "learning_rate": 0.002},
        "training": {"epochs": 40, "batch_size": 2048, "early_stopping": 3},
    },
    "retrieval": {
        "model": {"embedding_dim": 128, "output_dim": 128, "hidden": [], "norm": "none"},
        "loss": {"name": "infonce", "temperature": 0.1, "logq": 1.0},
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "training": {"epochs": 40, "batch_size": 512, "average": 0.999, "early_stopping": 3},
    },
}  # fmt: skip
MODELS: dict[str, Sections] = {
    "gru4rec": {
        "model": {"layers": [192], "embedding": "constrained", "dropout_embedding": 0.2, "dropout_hidden": 0.2},
        "optimizer": {"name": "adagrad", "learning_rate": 0.1, "schedule": "linear"},
        "training": {"epochs": 10, "batch_size": 128},
    },
    "narm": {"model": {"attention": "softmax", "dropout_hidden": 0.5}},
    "bert4rec": {"model": {"heads": 4, "stride": 10}, "training": {"epochs": 12}},
    "autoint": {"model": {"first_order": "logistic", "init_std": 0.01}},
}
ORDER = ("gru4rec", "narm", "sasrec", "esasrec", "hstu")  # in which models begin, what is quick first
STEPS = 2000  # that a short training at least takes, where sessions are few
SMALL = 256  # targets a step, at most, where that gives fewer

# ---- the changes that are tried, one at a time -----------------------------------------------------------------------


class Move(NamedTuple):
    """Fields that change together: values times ``factor``, or ``value`` in their place; ``model``: of it alone."""

    fields: tuple[str, ...]
    factor: float | None = None
    value: Any = None
    model: str | None = None

    def apply(self, sections: Sections) -> dict[str, Any] | None:
        """The new values by ``section.field``; None where a field is not there, or nothing changes."""
        changes = {}
        for field in self.fields:
            section, _, name = field.partition(".")
            if name not in sections.get(section, {}):
                return None
            old = sections[section][name]
            new = self.value if self.factor is None else _times(field, old, self.factor)
            if new == old or new is None:
                return None
            changes[field] = new
        return changes


def _times(field: str, old: Any, factor: float) -> Any:
    if isinstance(old, (list, tuple)):
        return [max(8, round(one * factor)) for one in old]
    if isinstance(old, int) and not isinstance(old, bool):
        return max(4, round(old * factor))
    if not isinstance(old, float) or not old:
        return None
    new = float(f"{old * factor:.3g}")
    return min(new, 0.7) if "dropout" in field else new


RATE, WIDTH, DROP = "optimizer.learning_rate", "model.embedding_dim", "model.dropout_hidden"
MOVES: dict[str, list[Move]] = {
    "sessions": [
        Move((RATE,), 2.0), Move((RATE,), 0.5),
        Move(("model.embedding",), value="onehot", model="gru4rec"),
        Move(("model.layers",), 1.5, model="gru4rec"), Move(("model.layers",), 0.5, model="gru4rec"),
        Move((WIDTH, "model.layers"), 2.0, model="narm"), Move((WIDTH, "model.layers"), 0.5, model="narm"),
        *(Move((WIDTH,), 2.0, model=name) for name in ("sasrec", "esasrec", "hstu", "bert4rec")),
        Move(("model.dropout_embedding",), 0.5), Move((DROP,), 0.5), Move((DROP,), 1.6),
        Move(("model.dropout_embedding",), 1.6), Move(("model.temperature",), 0.7), Move(("model.temperature",), 1.4),
        Move(("training.batch_size",), 0.5), Move(("loss.sample_alpha",), value=0.25), Move(("loss.logq",), value=0.5),
        Move(("data.half_life",), value=30.0), Move(("data.order",), value="random"),
        Move(("model.time_bias",), value=True), Move(("model.blocks",), value=1), Move(("training.batch_size",), 2.0),
    ],
    "clicks": [
        Move((RATE,), 0.5), Move((RATE,), 2.0), Move(("loss.embedding_l2",), 0.3), Move(("loss.embedding_l2",), 3.0),
        Move((WIDTH,), 2.0), Move(("model.deep",), value=[128, 64]), Move(("training.batch_size",), 0.5),
        Move(("model.blocks",), value=3), Move((WIDTH,), 0.5), Move(("model.blocks",), value=1),
        Move(("model.first_order",), value="none", model="autoint"),
    ],
    "retrieval": [
        Move((RATE,), 2.0), Move(("loss.temperature",), 0.7), Move(("loss.temperature",), 1.5),
        Move((WIDTH, "model.output_dim"), 2.0), Move(("loss.logq",), value=0.5), Move((RATE,), 0.5),
        Move(("training.batch_size",), 2.0), Move((WIDTH, "model.output_dim"), 0.5), Move(("loss.logq",), value=0.0),
    ],
}  # fmt: skip


def start(name: str, task: str, size: Size) -> Sections:
    """The sections with which a model's search begins."""
    values = deepcopy(KINDS[task])
    for section, fields in MODELS.get(name, {}).items():
        values[section] = values.get(section, {}) | deepcopy(fields)
    values["model"]["name"] = name
    if task == "sessions":
        values["loss"]["n_sample"] = min(values["loss"]["n_sample"], max(32, size.items // 2))
        training = values["training"]
        if size.targets * training["epochs"] < STEPS * training["batch_size"] and training["batch_size"] > SMALL:
            training["batch_size"] = SMALL
    return values


def fitting(values: Sections) -> Sections:
    """The sections without fields that the model or its loss has not."""
    kind = find_model(values["model"]["name"]).Config
    losses = losses_of(kind)
    name = values["loss"]["name"] if values["loss"]["name"] in losses else next(iter(losses))
    loss = {"name": name} | {field: one for field, one in values["loss"].items() if field in losses[name].model_fields
                             and field != "name"}  # fmt: skip
    model = {field: one for field, one in values["model"].items() if field in kind.model_fields}
    data = values.get("data", {})
    return values | {"model": model, "loss": loss, "data": data}


def neighbours(name: str, task: str, sections: Sections) -> Iterator[dict[str, Any]]:
    """The changes of one thing, of a model's whole configuration."""
    for move in MOVES[task]:
        if move.model in (None, name) and (changes := move.apply(sections)):
            yield changes
